"""What a NumPyro model is made of: its random sites, how to simulate them, who depends on whom."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import random
from numpyro import handlers

from numpyro_mi.model import (
    call_checks,
    checks,
    draws,
    elements,
    given_values,
    harmless,
    integral_checks,
    leaks,
    parameters,
)
from numpyro_mi.model.repetition import ForwardScans, changing
from numpyro_mi.model.sites import Site, site, unwrapped
from numpyro_mi.model.staging import depends_on, repeated_outputs
from numpyro_mi.model.support import kept_cells, outside, site_log_probs

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
    notes
        What a result has to say of the model.
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
    notes: tuple[str, ...] = ()

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

    def bound(model: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Callable[[], Any]:
        split = elements.SplitSites(model, cells) if cells else model
        ending = handlers.condition(split, condition_fn=_with_draws_that_end)
        run = partial(handlers.substitute(ending, data=params), *args, **kwargs)
        return handlers.condition(run, condition_fn=partial(_hold, fixed, {})) if fixed else run

    cells: dict[str, dict[str, elements.Index]] = {}
    run = bound(model, args, kwargs)
    whole = traced = _abstract_trace(run)
    cells = elements.asked_cells(groups, traced)
    if cells:
        checks.simulable(traced)
        run = bound(model, args, kwargs)
        traced = _abstract_trace(run)
        elements.check_split(cells, traced)
    checks.names(traced, groups, partial(_sources, run, traced))
    checks.simulable(traced)
    call_checks.known_parameters(traced, params)
    as_written = partial(handlers.substitute(model, data=params), *args, **kwargs)
    with checks.model_errors():
        sources = given_values.drawn_sources(as_written, _abstract_trace(as_written) if fixed else whole)
    given_values.check(sources)
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
        changed = changing(draft.simulate, draft.sites)
    checks.repeatable(changed)
    free = _free_parameters(draft, used - set(params))
    call_checks.parameters(traced, params, used - set(free), keyed)
    checks.drawn([name for name in draft.sites if not by_key[name] and name not in fixed])
    checks.no_own_keys(own_keys)
    hidden = [name for name, used in parents.items() if _KEY in used]
    checks.no_hidden_randomness([name for name in hidden if name in groups["latent"] or name not in draft.sites])
    checks.noisy([name for name, by_noise in noisy.items() if not by_noise])
    checks.no_silent_evidence({name: used for name, used in parents.items() if name not in draft.sites})
    _check_masks(draft, parents)
    if draft.simulated:
        leaks.check(model, args, kwargs, bound, draft.simulated, draft.sites, _trace)
    return replace(
        draft,
        parents={name: parents[name] - {name, _KEY} for name in draft.sites},
        without_density=(*noisy, *(name for name in draft.sites if name in (*hidden, *unevaluated))),
        notes=harmless.notes(free),
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


def _with_draws_that_end(msg: dict) -> None:
    """Let the draws of a site return whatever its parameters are; parameters that are wrong are refused later."""
    msg["fn"] = draws.drawable(msg["fn"])


def _draw(simulated: frozenset[str], msg: dict) -> jax.Array | None:
    checks.drawable(msg["name"], msg["fn"])
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
        trace = _trace(ForwardScans(run), frozenset(), rng_key)
        found.update({name: parameters.with_flaw(site(msg), msg) for name, msg in trace.items()})

    with checks.model_errors():
        jax.eval_shape(record, random.key(0))
        drawn = frozenset(name for name, own in found.items() if own.kind == "sample")
        return harmless.settled(found, lambda rng_key: _trace(run, drawn, rng_key))


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


def _free_parameters(model: JointModel, names: Collection[str]) -> tuple[str, ...]:
    """Parameters of `LocScaleReparam(centered=None)`, of which no value changes what is asked for."""

    def drawn(name, value, rng_key):
        run = handlers.substitute(model.run, data={name: value})
        trace = replace(model, run=run).drawing_trace(rng_key)
        return {name: msg["value"] for name, msg in trace.items() if msg["type"] in ("sample", "deterministic")}

    found = []
    for name in sorted(name for name in names if harmless.is_centering(name, model.traced)):
        site, own = harmless.centered_site(name)
        if harmless.changes_nothing(partial(drawn, name), model.traced[name].value, own):
            sources = _sources(model.run, model.traced, site)
            call_checks.centering(
                name,
                site,
                sources,
                own in model.data or own in model.fixed,
                [{*group, *model.given, *model.fixed} for group in (model.latent, model.given) if own in group],
            )
            found.append(name)
    return tuple(found)


def _sources(run: Callable, traced: Mapping[str, Site], name: str) -> tuple[str, ...]:
    """Random sites that the value of a deterministic one is computed from."""
    drawn = [other for other, own in traced.items() if own.kind == "sample"]

    def value(inputs):
        trace = handlers.trace(handlers.seed(handlers.condition(run, data=inputs), 0)).get_trace()
        return {name: trace[name]["value"]}

    def values(rng_key):
        trace = _trace(run, frozenset(), rng_key)
        return {other: trace[other]["value"] for other in drawn}

    used = depends_on(value, jax.eval_shape(values, random.key(0)))[name]
    return tuple(other for other in drawn if other in used)


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
    """Refuse masks under which the cells left out are not simply missing from the data.

    A mask may depend on sites whose values are known wherever the masked site is one of the held sites: those of its
    own group, and those that are conditioned on. A masked site in no group, which nothing is computed from, integrates
    to one whatever its mask.
    """
    masked = [name for name in model.sites if model.traced[name].masked]
    if not masked:
        return
    example = jax.eval_shape(model.simulate, random.key(0))

    def distribution(part, values):
        trace = handlers.trace(model.held_at(values)).get_trace()
        return {name: part(trace[name]["fn"]) for name in masked}

    by_mask = depends_on(partial(distribution, kept_cells), example)
    by_base = depends_on(partial(distribution, lambda fn: jax.tree.leaves(unwrapped(fn))), example)
    given = {*model.given, *model.fixed}
    roles = {name: "which is in latent" for name in model.latent} | {name: "which is in data" for name in model.data}
    for name in masked:
        if name in model.latent:
            integral_checks.annealable(name, model.traced[name])
        readers = {child for child, used in parents.items() if name in used and child != name}
        known = {*model.data, *given} if name in model.data else given
        held = name in model.data or name in given
        choosers = {other: roles.get(other, "which is integrated out") for other in by_mask[name] - known if held}
        checks.mask(name, choosers, readers | ({name} & (by_base[name] | by_mask[name])))
