"""Who depends on whom: what the values, densities, keys and masks of a model's sites are computed from."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import jax
from jax import random
from numpyro import handlers

from numpyro_mi.model.joint import call, checks, harmless
from numpyro_mi.model.joint.joint_model import JointModel, Values, simulated_trace
from numpyro_mi.model.sites.site import Site, unwrapped
from numpyro_mi.model.sites.support import kept_cells, site_log_probs
from numpyro_mi.model.staging import KEY, depends_on, repeated_outputs


def parameter_use(model: JointModel) -> tuple[frozenset[str], frozenset[str]]:
    """Parameters that a simulation depends on, and those whose value is a random initial one."""
    shapes = {name: found.value for name, found in model.traced.items() if found.kind == "param"}
    if not shapes:
        return frozenset(), frozenset()

    def simulate(values):
        return replace(model, run=handlers.substitute(model.run, data=values)).simulate(random.key(0))

    def initial(inputs):
        found = handlers.trace(handlers.seed(model.run, inputs[KEY])).get_trace()
        return {name: found[name]["value"] for name in shapes}

    used = frozenset().union(*depends_on(simulate, shapes).values())
    return used, frozenset(name for name, by in depends_on(initial, {KEY: random.key(0)}).items() if by)


def free_parameters(model: JointModel, names: Collection[str]) -> tuple[str, ...]:
    """Parameters of `LocScaleReparam(centered=None)`, of which no value changes what is asked for."""

    def drawn(name, value, rng_key):
        run = handlers.substitute(model.run, data={name: value})
        trace = replace(model, run=run).drawing_trace(rng_key)
        return {name: msg["value"] for name, msg in trace.items() if msg["type"] in ("sample", "deterministic")}

    found = []
    for name in sorted(name for name in names if harmless.is_centering(name, model.traced)):
        site, own = harmless.centered_site(name)
        if harmless.changes_nothing(partial(drawn, name), model.traced[name].value, own):
            call.centering(
                name,
                site,
                sources(model.run, model.traced, site),
                own in model.data or own in model.fixed,
                [{*group, *model.given, *model.fixed} for group in (model.latent, model.given) if own in group],
            )
            found.append(name)
    return tuple(found)


def sources(run: Callable, traced: Mapping[str, Site], name: str) -> tuple[str, ...]:
    """Random sites that the value of a deterministic one is computed from."""
    drawn = [other for other, own in traced.items() if own.kind == "sample"]

    def value(inputs):
        trace = handlers.trace(handlers.seed(handlers.condition(run, data=inputs), 0)).get_trace()
        return {name: trace[name]["value"]}

    def values(rng_key):
        trace = simulated_trace(run, frozenset(), rng_key)
        return {other: trace[other]["value"] for other in drawn}

    used = depends_on(value, jax.eval_shape(values, random.key(0)))[name]
    return tuple(other for other in drawn if other in used)


def noisy(model: JointModel) -> dict[str, bool]:
    """For each deterministic data site, whether it varies when the latents are held."""
    names = [name for name in model.data if model.traced[name].kind == "deterministic"]
    if not names:
        return {}
    example = jax.eval_shape(model.simulate, random.key(0))
    latents = {name: example[name] for name in model.latent}

    def values(inputs):
        held = {name: value for name, value in inputs.items() if name != KEY}
        run = handlers.condition(model.joint(), data=held)
        trace = handlers.trace(handlers.seed(run, inputs[KEY])).get_trace()
        return {name: trace[name]["value"] for name in names}

    return {name: KEY in used for name, used in depends_on(values, {**latents, KEY: random.key(0)}).items()}


def own_keys(model: JointModel) -> list[str]:
    """Sites whose key is not the simulation's, or also that of a site before it."""

    def keys(inputs):
        trace = model.drawing_trace(inputs[KEY])
        found = {name: trace[name]["kwargs"].get("rng_key") for name in model.sites if name not in model.simulated}
        return {name: key for name, key in found.items() if key is not None}

    inputs = {KEY: random.key(0)}
    fixed = {name for name, used in depends_on(keys, inputs).items() if not used}
    return [name for name in model.sites if name in fixed | repeated_outputs(keys, inputs)]


def parents(model: JointModel) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """Direct dependencies among all sites, later ones too (feedback inside `scan`), and on the key.

    Also the sites whose distribution has no `log_prob`.
    """
    names = [name for name, found in model.traced.items() if found.kind == "sample"]
    unevaluated = set()
    example = jax.eval_shape(model.simulate, random.key(0))

    def log_probs(inputs):
        values = {name: value for name, value in inputs.items() if name != KEY}
        trace = handlers.trace(model.held_at(values, inputs[KEY])).get_trace()
        found: Values = {}
        for name in names:
            try:
                found[name] = site_log_probs(trace, [name])[name]
            except NotImplementedError:
                unevaluated.add(name)
                found[name] = ()
        # With the parameters: a total of counts, say, may matter to the draws and not to the log-density.
        return {name: (found[name], jax.tree.leaves(unwrapped(trace[name]["fn"]))) for name in names}

    return depends_on(log_probs, {**example, KEY: random.key(0)}), frozenset(unevaluated)


def check_masks(model: JointModel, parents: Mapping[str, frozenset[str]]) -> None:
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
            checks.annealable(name, model.traced[name])
        readers = {child for child, used in parents.items() if name in used and child != name}
        known = {*model.data, *given} if name in model.data else given
        held = name in model.data or name in given
        choosers = {other: roles.get(other, "which is integrated out") for other in by_mask[name] - known if held}
        checks.mask(name, choosers, readers | ({name} & (by_base[name] | by_mask[name])))
