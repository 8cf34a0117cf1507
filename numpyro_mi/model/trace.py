"""What a NumPyro model is made of: its random sites, how to simulate them, who depends on whom."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import random
from numpyro import handlers

from numpyro_mi.model import call_checks, checks, elements, integral_checks, leaks
from numpyro_mi.model.sites import Site, mask_of, site, unwrapped
from numpyro_mi.model.staging import depends_on, repeated_outputs
from numpyro_mi.model.support import outside, site_log_probs

Values = dict[str, Any]

_KEY = "<rng_key>"  # no site is named like this


@dataclass(frozen=True, eq=False)
class JointModel:
    """A model bound to its arguments and parameters, with the roles of its sites.

    Attributes
    ----------
    run
        The model without arguments; data sites are not yet simulated in it.
    latent, data, given
        Names of the two groups whose mutual information is asked for, and of those it is conditioned on.
    fixed
        Sites that it is conditioned on at one value, by name.
    sites
        The random sites in model order: everything that is drawn when the joint distribution is
        simulated. Sites observed at a fixed value are not among them.
    traced
        Every site of the model, for checks.
    parents
        For each random site, the random sites that its distribution is computed from.
    simulated
        Asked-for sites that the model is given a value for, which is not used.
    without_density
        Sites that can be simulated but have no density: deterministic data, and sites whose distribution
        depends on random numbers that are no site.
    """

    run: Callable[[], Any]
    latent: tuple[str, ...]
    data: tuple[str, ...]
    sites: tuple[str, ...]
    traced: Mapping[str, Site]
    parents: Mapping[str, frozenset[str]]
    simulated: frozenset[str]
    given: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    without_density: tuple[str, ...] = ()

    def joint(self) -> Callable[[], Any]:
        """The model with every asked-for site drawn, whether or not it is given `obs=`."""
        return handlers.condition(self.run, condition_fn=partial(_draw, self.simulated))

    def simulate(self, rng_key: jax.Array) -> Values:
        """One ancestral draw of all random sites, by name."""
        trace = self.drawing_trace(rng_key)
        return {name: trace[name]["value"] for name in self.sites}

    def drawing_trace(self, rng_key: jax.Array) -> dict[str, dict]:
        """Trace of one ancestral draw."""
        return _trace(self.run, self.simulated, rng_key)

    def observed_values(self) -> Values | None:
        """Values of the data that the model is called with; None if any of them is missing."""
        if not set(self.data) <= self.simulated:
            return None
        trace = handlers.trace(handlers.seed(self.run, 0)).get_trace()
        shapes = {name: self.traced[name].drawn for name in self.data}
        return {name: np.broadcast_to(np.asarray(trace[name]["value"]), shapes[name]) for name in self.data}

    def held_at(self, values: Values, rng_key: jax.Array | int = 0) -> Callable[[], Any]:
        """The model with sites held at given values; what is asked of it never depends on the key."""
        return handlers.seed(handlers.condition(self.run, data=values), rng_key)


def joint_model(
    model: Callable,
    latent: str | Sequence[str],
    data: str | Sequence[str],
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    given: str | Sequence[str] | Mapping[str, Any] = (),
) -> JointModel:
    """Trace `model` and check everything that can be checked without compiling.

    Names such as `theta[2]` of elements of a batch make sites of these elements; see `elements`.

    Raises
    ------
    TypeError, ValueError
        Saying what was passed, what is needed and how to mend it.
    """
    fixed = checks.fixed_values(given) if isinstance(given, Mapping) else {}
    groups = {"latent": checks.group("latent", latent), "data": checks.group("data", data)}
    groups["given"] = tuple(given) if isinstance(given, Mapping) else checks.group("given", given, optional=True)
    checks.disjoint(groups)
    args, kwargs, params = call_checks.arguments(model, model_args, model_kwargs, params)

    def bound(model: Callable) -> Callable[[], Any]:
        run = partial(handlers.substitute(model, data=params), *args, **kwargs)
        return handlers.condition(run, condition_fn=partial(_hold, fixed, {})) if fixed else run

    run = bound(model)
    traced = _abstract_trace(run)
    cells = elements.asked_cells(groups, traced)
    if cells:
        checks.simulable(traced)
        model = elements.SplitSites(model, cells)
        run = bound(model)
        traced = _abstract_trace(run)
        elements.check_split(cells, traced)
    checks.names(traced, groups)
    checks.simulable(traced)
    call_checks.known_parameters(traced, params)
    asked = frozenset(groups["latent"] + groups["data"] + groups["given"])
    checks.value_shapes({name: traced[name] for name in asked})
    draft = JointModel(
        run=run,
        latent=groups["latent"],
        data=groups["data"],
        traced=traced,
        parents={},
        sites=tuple(
            name for name, found in traced.items() if found.kind == "sample" and (name in asked or not found.observed)
        ),
        simulated=frozenset(name for name in asked - set(fixed) if traced[name].observed),
        given=() if fixed else groups["given"],
        fixed=fixed,
    )
    with checks.model_errors():
        used, keyed = _parameter_use(draft)
        by_key = depends_on(lambda inputs: draft.simulate(inputs[_KEY]), {_KEY: random.key(0)})
        own_keys = _own_keys(draft)
        parents, unevaluated = _parents(draft)
        noisy = _noisy(draft)
    call_checks.parameters(traced, params, used, keyed)
    checks.drawn([name for name in draft.sites if not by_key[name] and name not in fixed])
    checks.no_own_keys(own_keys)
    hidden = [name for name, used in parents.items() if _KEY in used]
    checks.no_hidden_randomness([name for name in hidden if name in groups["latent"] or name not in draft.sites])
    checks.noisy([name for name, by_noise in noisy.items() if not by_noise])
    checks.no_silent_evidence({name: used for name, used in parents.items() if name not in draft.sites})
    _check_masks(draft, parents)
    if draft.simulated:
        leaks.check(model, args, kwargs, params, draft.simulated, draft.sites, _trace)
    return replace(
        draft,
        parents={name: parents[name] - {name, _KEY} for name in draft.sites},
        without_density=(*noisy, *(name for name in draft.sites if name in (*hidden, *unevaluated))),
    )


def latents_of(
    model: Callable,
    data: str | Sequence[str],
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Every random site of a model that is neither data nor held at a value, in model order."""
    group = checks.group("data", data)
    traced = traced_sites(model, model_args, model_kwargs, params)
    parts = elements.elements_of("data", elements.bases_of(group, traced), traced)
    free = [name for name, found in traced.items() if found.kind == "sample" and not found.observed]
    return tuple(part for name in free for part in parts.get(name, (name,)) if part not in group)


def traced_sites(
    model: Callable,
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> dict[str, Site]:
    """Every site of a model as it is called."""
    args, kwargs, params = call_checks.arguments(model, model_args, model_kwargs, params)
    return _abstract_trace(partial(handlers.substitute(model, data=params), *args, **kwargs))


def _draw(simulated: frozenset[str], msg: dict) -> jax.Array | None:
    checks.proper(msg["name"], msg["fn"])
    if msg["name"] in simulated:
        return msg["fn"](rng_key=numpyro.prng_key(), sample_shape=msg["kwargs"]["sample_shape"])
    return None


def _hold(fixed: Mapping[str, Any], seen: Values, msg: dict) -> jax.Array | None:
    """The value that a site is held at, in the type of its draws; refused where the site cannot have it."""
    if msg["type"] != "sample" or msg["name"] not in fixed:
        return None
    name, fn = msg["name"], msg["fn"]
    if name not in seen:
        if jnp.shape(fixed[name]) in ((), (*msg["kwargs"]["sample_shape"], *fn.shape())):  # others are refused later
            checks.inside(name, fixed[name], outside(fn, fixed[name]))
        drawn = jax.eval_shape(lambda rng_key: fn(rng_key=rng_key), random.key(0))
        with jax.ensure_compile_time_eval():
            seen[name] = jnp.asarray(fixed[name], drawn.dtype)
    return seen[name]


def _trace(run: Callable, simulated: frozenset[str], rng_key: jax.Array) -> dict[str, dict]:
    """Trace with the sites in `simulated` drawn whether or not they are given a value."""
    model = handlers.condition(run, condition_fn=partial(_draw, simulated))
    return handlers.trace(handlers.seed(model, rng_key)).get_trace()


def _abstract_trace(run: Callable) -> dict[str, Site]:
    """Trace without computing."""
    found: dict[str, Site] = {}

    def record(rng_key):
        found.update({name: site(msg) for name, msg in _trace(run, frozenset(), rng_key).items()})

    with checks.model_errors():
        jax.eval_shape(record, random.key(0))
    return found


def _parameter_use(model: JointModel) -> tuple[frozenset[str], frozenset[str]]:
    """Parameters that a simulation depends on, and those whose value is a random initial one."""
    shapes = {name: found.value for name, found in model.traced.items() if found.kind == "param"}
    if not shapes:
        return frozenset(), frozenset()

    def simulate(values):
        return replace(model, run=handlers.substitute(model.run, data=values)).simulate(random.key(0))

    def initial(inputs):
        found = handlers.trace(handlers.seed(model.run, inputs[_KEY])).get_trace()
        return {name: found[name]["value"] for name in shapes}

    used = frozenset().union(*depends_on(simulate, shapes).values())
    return used, frozenset(name for name, by in depends_on(initial, {_KEY: random.key(0)}).items() if by)


def _noisy(model: JointModel) -> dict[str, bool]:
    """For each deterministic data site, whether it varies when the latents are held."""
    names = [name for name in model.data if model.traced[name].kind == "deterministic"]
    if not names:
        return {}
    example = jax.eval_shape(model.simulate, random.key(0))
    latents = {name: example[name] for name in model.latent}

    def values(inputs):
        held = {name: value for name, value in inputs.items() if name != _KEY}
        run = handlers.condition(model.joint(), data=held)
        trace = handlers.trace(handlers.seed(run, inputs[_KEY])).get_trace()
        return {name: trace[name]["value"] for name in names}

    return {name: _KEY in used for name, used in depends_on(values, {**latents, _KEY: random.key(0)}).items()}


def _own_keys(model: JointModel) -> list[str]:
    """Sites whose key is not the simulation's, or also that of a site before it."""

    def keys(inputs):
        trace = model.drawing_trace(inputs[_KEY])
        found = {name: trace[name]["kwargs"].get("rng_key") for name in model.sites if name not in model.simulated}
        return {name: key for name, key in found.items() if key is not None}

    inputs = {_KEY: random.key(0)}
    fixed = {name for name, used in depends_on(keys, inputs).items() if not used}
    return [name for name in model.sites if name in fixed | repeated_outputs(keys, inputs)]


def _parents(model: JointModel) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """Direct dependencies among all sites, later ones too (feedback inside `scan`), and on the key.

    Also the sites whose distribution has no `log_prob`.
    """
    names = [name for name, found in model.traced.items() if found.kind == "sample"]
    unevaluated = set()
    example = jax.eval_shape(model.simulate, random.key(0))

    def log_probs(inputs):
        values = {name: value for name, value in inputs.items() if name != _KEY}
        trace = handlers.trace(model.held_at(values, inputs[_KEY])).get_trace()
        found: Values = {}
        for name in names:
            try:
                found[name] = site_log_probs(trace, [name])[name]
            except NotImplementedError:
                unevaluated.add(name)
                found[name] = ()
        # With the parameters: a total of counts, say, may matter to the draws and not to the log-density.
        return {name: (found[name], jax.tree.leaves(unwrapped(trace[name]["fn"]))) for name in names}

    return depends_on(log_probs, {**example, _KEY: random.key(0)}), frozenset(unevaluated)


def _check_masks(model: JointModel, parents: Mapping[str, frozenset[str]]) -> None:
    """Refuse masks under which the cells left out are not simply missing from the data."""
    masked = [name for name in model.sites if model.traced[name].masked]
    if not masked:
        return
    example = jax.eval_shape(model.simulate, random.key(0))

    def distribution(part, values):
        trace = handlers.trace(model.held_at(values)).get_trace()
        return {name: part(trace[name]["fn"]) for name in masked}

    by_mask = depends_on(partial(distribution, mask_of), example)
    by_base = depends_on(partial(distribution, lambda fn: jax.tree.leaves(unwrapped(fn))), example)
    for name in masked:
        if name in model.latent:
            integral_checks.annealable(name, model.traced[name])
        readers = {child for child, used in parents.items() if name in used and child != name}
        checks.mask(name, by_mask[name], readers | ({name} & by_base[name]))
