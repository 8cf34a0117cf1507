"""From a model and the names of its sites to a `JointModel`, with all checks that need no compiling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import random
from numpyro import handlers

from numpyro_mi.model.joint import call, checks, elements, given_values, harmless, leaks, provenance
from numpyro_mi.model.joint.joint_model import JointModel, Values, simulated_trace
from numpyro_mi.model.joint.repetition import ForwardScans, changing
from numpyro_mi.model.sites import draws, parameters
from numpyro_mi.model.sites.site import Site, site
from numpyro_mi.model.sites.support import outside
from numpyro_mi.model.staging import KEY, depends_on


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
    args, kwargs, params = call.arguments(model, model_args, model_kwargs, params)

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
    checks.names(traced, groups, partial(provenance.sources, run, traced))
    checks.simulable(traced)
    call.known_parameters(traced, params)
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
        used, keyed = provenance.parameter_use(draft)
        by_key = depends_on(lambda inputs: draft.simulate(inputs[KEY]), {KEY: random.key(0)})
        own_keys = provenance.own_keys(draft)
        parents, unevaluated = provenance.parents(draft)
        noisy = provenance.noisy(draft)
        changed = changing(draft.simulate, draft.sites)
    checks.repeatable(changed)
    free = provenance.free_parameters(draft, used - set(params))
    call.parameters(traced, params, used - set(free), keyed)
    checks.drawn([name for name in draft.sites if not by_key[name] and name not in fixed])
    checks.no_own_keys(own_keys)
    hidden = [name for name, used in parents.items() if KEY in used]
    checks.no_hidden_randomness([name for name in hidden if name in groups["latent"] or name not in draft.sites])
    checks.noisy([name for name, by_noise in noisy.items() if not by_noise])
    checks.no_silent_evidence({name: used for name, used in parents.items() if name not in draft.sites})
    provenance.check_masks(draft, parents)
    if draft.simulated:
        leaks.check(model, args, kwargs, bound, draft.simulated, draft.sites, simulated_trace)
    return replace(
        draft,
        parents={name: parents[name] - {name, KEY} for name in draft.sites},
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
    args, kwargs, params = call.arguments(model, model_args, model_kwargs, params)
    return _abstract_trace(partial(handlers.substitute(model, data=params), *args, **kwargs))


def _with_draws_that_end(msg: dict) -> None:
    """Let the draws of a site return whatever its parameters are; parameters that are wrong are refused later."""
    msg["fn"] = draws.drawable(msg["fn"])


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


def _abstract_trace(run: Callable) -> dict[str, Site]:
    """Trace without computing."""
    found: dict[str, Site] = {}

    def record(rng_key):
        trace = simulated_trace(ForwardScans(run), frozenset(), rng_key)
        found.update({name: parameters.with_flaw(site(msg), msg) for name, msg in trace.items()})

    with checks.model_errors():
        jax.eval_shape(record, random.key(0))
        drawn = frozenset(name for name, own in found.items() if own.kind == "sample")
        return harmless.settled(found, lambda rng_key: simulated_trace(run, drawn, rng_key))
