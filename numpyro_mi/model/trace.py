"""What a NumPyro model is made of: its random sites, how to simulate them, who depends on whom."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro import handlers
from numpyro.infer.util import compute_log_probs

from numpyro_mi.model import checks
from numpyro_mi.model.staging import depends_on


@dataclass(frozen=True, eq=False)
class JointModel:
    """A model bound to its arguments and parameters, with the roles of its sites.

    Attributes
    ----------
    run
        The model without arguments; data sites are not yet simulated in it.
    latent, data
        Names of the two groups whose mutual information is asked for.
    sites
        The random sites in model order: everything that is drawn when the joint distribution is
        simulated. Sites observed at a fixed value are not among them.
    distributions
        Distribution of each random site, for checks only (its parameters may be abstract).
    parents
        For each random site, the random sites that its distribution is computed from.
    """

    run: Callable[[], Any]
    latent: tuple[str, ...]
    data: tuple[str, ...]
    sites: tuple[str, ...]
    distributions: Mapping[str, dist.Distribution]
    parents: Mapping[str, frozenset[str]]
    simulated: frozenset[str]

    def joint(self) -> Callable[[], Any]:
        """The model with every asked-for site drawn, whether or not it is given `obs=`."""
        return handlers.condition(self.run, condition_fn=partial(_draw, self.simulated))

    def simulate(self, rng_key: jax.Array) -> dict[str, jax.Array]:
        """One ancestral draw of all random sites, by name."""
        trace = handlers.trace(handlers.seed(self.joint(), rng_key)).get_trace()
        return {name: trace[name]["value"] for name in self.sites}


def joint_model(
    model: Callable,
    latent: str | Sequence[str],
    data: str | Sequence[str],
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> JointModel:
    """Trace `model` and check everything that can be checked without compiling.

    Raises
    ------
    TypeError, ValueError
        Saying what was passed, what is needed and how to mend it.
    """
    if not callable(model):
        raise TypeError(f"model must be a NumPyro model (a callable), got {type(model).__name__}.")
    names = {"latent": checks.group("latent", latent), "data": checks.group("data", data)}
    checks.disjoint(names)
    model_args, model_kwargs = tuple(model_args), dict(model_kwargs or {})
    checks.accepts(model, model_args, model_kwargs)
    params = dict(params or {})
    run = partial(handlers.substitute(model, data=params), *model_args, **model_kwargs)

    trace = _abstract_trace(run)
    checks.parameters(trace, params, _keyed_parameters(run, trace))
    checks.names(trace, names)
    checks.simulable(trace)
    asked = frozenset(names["latent"] + names["data"])
    simulated = frozenset(name for name in asked if trace[name]["is_observed"])
    sites = tuple(name for name, site in trace.items()
                  if site["type"] == "sample" and (name in asked or not site["is_observed"]))
    distributions = {name: trace[name]["fn"] for name in sites}
    draft = JointModel(run, names["latent"], names["data"], sites, distributions, {}, simulated)
    constants = tuple(name for name, site in trace.items() if site["type"] == "sample" and name not in sites)
    parents = _parents(draft, constants)
    checks.no_silent_evidence({name: parents[name] for name in constants})
    _check_data_arguments(model, model_args, model_kwargs, params, draft)
    return JointModel(run, names["latent"], names["data"], sites, distributions,
                      {name: parents[name] for name in sites}, simulated)


def _draw(simulated: frozenset[str], msg: dict) -> jax.Array | None:
    if msg["name"] in simulated:
        return msg["fn"](rng_key=numpyro.prng_key(), sample_shape=())
    return None


def _abstract_trace(run: Callable, simulated: frozenset[str] = frozenset()) -> dict[str, dict]:
    """Trace without computing: shapes, distributions and roles; values are abstract."""
    found: dict[str, dict] = {}

    def record(rng_key):
        model = handlers.condition(run, condition_fn=partial(_draw, simulated))
        found.update(handlers.trace(handlers.seed(model, rng_key)).get_trace())

    with checks.model_errors():
        jax.eval_shape(record, random.key(0))
    return found


def _keyed_parameters(run: Callable, trace: Mapping[str, dict]) -> frozenset[str]:
    """Parameters whose value is drawn at random, so that it is an initial value and not a fitted one."""
    names = [name for name, site in trace.items() if site["type"] == "param"]
    if not names:
        return frozenset()

    def values(inputs):
        found = handlers.trace(handlers.seed(run, inputs["key"])).get_trace()
        return {name: found[name]["value"] for name in names}

    used = depends_on(values, {"key": random.key(0)})
    return frozenset(name for name in names if used[name])


def _parents(model: JointModel, constants: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """Direct dependencies among all sites, later ones too (feedback inside `scan`)."""
    example = jax.eval_shape(model.simulate, random.key(0))

    def log_probs(values):
        run = handlers.seed(handlers.condition(model.run, data=values), 0)
        found, _ = compute_log_probs(run, (), {}, {})
        return {name: found[name] for name in (*model.sites, *constants)}

    with checks.model_errors():
        used = depends_on(log_probs, example)
    return {name: names - {name} for name, names in used.items()}


def _check_data_arguments(model: Callable, args: tuple, kwargs: dict, params: dict, joint: JointModel) -> None:
    """Refuse a model that reads its data argument elsewhere than in `obs=`.

    An array argument is data if the observed value of a data site is computed from it. Once the
    data are simulated nothing may depend on it any more, or the simulation would mix simulated
    with real data.
    """
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = {str(i): leaf for i, leaf in enumerate(leaves)
              if hasattr(leaf, "dtype") and hasattr(leaf, "shape") and leaf.ndim > 0}
    if not arrays or not joint.simulated:
        return

    def traced(simulated, values):
        filled = [values.get(str(i), leaf) for i, leaf in enumerate(leaves)]
        new_args, new_kwargs = jax.tree.unflatten(tree, filled)
        run = partial(handlers.substitute(model, data=params), *new_args, **new_kwargs)
        drawn = handlers.condition(run, condition_fn=partial(_draw, simulated))
        return handlers.trace(handlers.seed(drawn, random.key(0))).get_trace()

    def observed(values):
        trace = traced(frozenset(), values)
        return {name: trace[name]["value"] for name in joint.simulated}

    def simulated(values):
        trace = traced(joint.simulated, values)
        return {name: (trace[name]["value"], trace[name]["fn"].log_prob(jax.lax.stop_gradient(trace[name]["value"])))
                for name in joint.sites}

    try:
        data_arrays = frozenset().union(*depends_on(observed, arrays).values())
        read = frozenset().union(*depends_on(simulated, arrays).values())
    except jax.errors.ConcretizationTypeError:
        return  # the model needs concrete values of its arguments, so their use cannot be traced
    except jax.errors.TracerArrayConversionError:
        return
    both = sorted(int(i) for i in data_arrays & read)
    if both:
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path((args, kwargs))[0]]
        checks.refuse_data_reading([_argument_name(model, paths[i]) for i in both], joint.simulated)


def _argument_name(model: Callable, path: tuple) -> str:
    """Name of the model's argument that a pytree path of `(args, kwargs)` points to."""
    where, key = path[0].idx, path[1]
    if where == 1:
        return str(key.key)
    try:
        return list(inspect.signature(model).parameters)[key.idx]
    except (TypeError, ValueError, IndexError):
        return f"positional argument {key.idx}"
