"""The likelihood of data at given latents, for draws of these that are not the model's own: posterior samples."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro import handlers

from numpyro_mi.labels import orders
from numpyro_mi.model.integrals.decomposition import ancestors
from numpyro_mi.model.joint.checks import close, listed
from numpyro_mi.model.joint.joint_model import JointModel, Values
from numpyro_mi.model.sites.parameters import Verdict, verdict
from numpyro_mi.model.sites.support import known_value, site_log_probs
from numpyro_mi.model.staging import Staged, stage

_FEWEST_SAMPLES = 200

Invalid = dict[str, Verdict]


class Likelihood(NamedTuple):
    """The data given the latents, staged.

    Attributes
    ----------
    simulate
        `(latents, rng_key) -> (data, drift, invalid)`: one draw, its log-density where it is held minus that where it
        is drawn, nats, and for each data site what is to be said of its parameters.
    log_prob
        `(latents, data) -> nats`.
    inside
        `latents -> bool` by name: whether each value is one of its site's support.
    """

    simulate: Staged
    log_prob: Staged
    inside: Staged


def stage_likelihood(model: JointModel) -> Likelihood:
    """Stage the simulation and the density of the data at held latents."""
    example = jax.eval_shape(model.simulate, random.key(0))
    latents, data = ({name: example[name] for name in names} for names in (model.latent, model.data))
    return Likelihood(
        stage(partial(_simulate, model), latents, random.key(0)),
        stage(partial(_log_prob, model), latents, data),
        stage(partial(_inside, model), latents),
    )


def _simulate(model: JointModel, latents: Values, rng_key: jax.Array) -> tuple[Values, jax.Array, Invalid]:
    run = handlers.seed(handlers.condition(model.joint(), data=latents), rng_key)
    drawing = handlers.trace(run).get_trace()
    data = {name: known_value(drawing[name]) for name in model.data}
    held, drawn = _log_prob(model, latents, data), _total(drawing, model.data)
    invalid = {name: verdict(drawing[name]["fn"], held) for name in model.data}
    return data, held - drawn, invalid


def _log_prob(model: JointModel, latents: Values, data: Values) -> jax.Array:
    return _total(handlers.trace(model.held_at({**latents, **data})).get_trace(), model.data)


def _total(trace: Mapping[str, dict], names: tuple[str, ...]) -> jax.Array:
    found = site_log_probs(trace, names)
    return sum((found[name] for name in names), jnp.zeros(()))


def _inside(model: JointModel, latents: Values) -> Values:
    trace = handlers.trace(model.held_at(latents)).get_trace()
    supports = {name: trace[name]["fn"].support for name in model.latent}
    return {
        name: jnp.asarray(True) if support is None else jnp.all(support(latents[name]))
        for name, support in supports.items()
    }


def check_likelihood(model: JointModel) -> None:
    """Refuse a model whose data have a density given the latents only after an integral, or before them.

    Raises
    ------
    ValueError
        Naming the sites.
    """
    needed = set().union(*(model.parents[name] for name in model.data)) - set(model.data)
    missing = [name for name in model.sites if name in needed and name not in model.latent]
    if missing:
        whole = list(dict.fromkeys(name.partition("[")[0] for name in missing))  # of elements, the site
        named = [*(name for name in model.latent if name.partition("[")[0] not in whole), *whole]
        raise ValueError(
            f"posterior_samples needs p(data | latent) itself, and here it is an integral over {listed(missing)}, "
            f"which the data depend on too: name them in latent, as latent={named!r}, with their "
            "posterior samples."
        )
    for name in model.latent:
        above = ancestors([name], model.parents) & set(model.data)
        if above:
            raise ValueError(
                f"latent {name!r} is drawn from data {listed(sorted(above))}: with posterior_samples the data are "
                "simulated at given latents, so the latents must come first in the model."
            )


def posterior_arrays(model: JointModel, samples: Any) -> dict[str, jax.Array]:
    """Normalise posterior samples of the latents: arrays of shape (M, ...), M the same for all.

    Raises
    ------
    TypeError, ValueError
        Saying what was passed, what is needed and how to mend it.
    """
    if not isinstance(samples, Mapping):
        raise TypeError(
            "posterior_samples must map each latent to an array of posterior draws, such as mcmc.get_samples() "
            f"restricted to the latents, got {type(samples).__name__}."
        )
    restricted = f"{{name: samples[name] for name in {list(model.latent)!r}}}"
    missing = [name for name in model.latent if name not in samples]
    if missing:
        raise ValueError(
            f"posterior_samples holds no draws of latent {listed(missing)}{close(missing[0], list(samples))}: it needs "
            f"those of every latent, {restricted}."
        )
    others = [name for name in samples if name not in model.latent]
    if others:
        raise ValueError(
            f"posterior_samples holds {listed(others)}, and latent is {listed(model.latent)}"
            f"{close(others[0], model.latent)}: pass the draws of the latents alone, {restricted}."
        )
    named = {f"posterior_samples[{name!r}]": samples[name] for name in model.latent}
    order = orders(named)
    arrays = {
        name: _array(model, name, value if what not in order else np.asarray(value)[order[what]])
        for name, (what, value) in zip(model.latent, named.items(), strict=True)
    }
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"posterior_samples needs the same number of draws of every latent, in the same order, got {counts}."
        )
    count = next(iter(counts.values()))
    if count < _FEWEST_SAMPLES:
        raise ValueError(
            f"posterior_samples holds {count} draws, and at least {_FEWEST_SAMPLES} are needed, better 2,000 or more: "
            "run the sampler for longer."
        )
    return arrays


def _array(model: JointModel, name: str, values: Any) -> jax.Array:
    shape, dtype = model.traced[name].drawn, model.traced[name].value.dtype
    expected = f"({', '.join(['M', *map(str, shape)])}{'' if shape else ','})"
    found = np.asarray(values)
    if found.dtype.kind not in "bifu":
        raise TypeError(f"posterior_samples[{name!r}] must be an array of numbers, got one of type {found.dtype}.")
    if found.ndim == len(shape) + 2 and found.shape[2:] == shape:
        raise ValueError(
            f"posterior_samples[{name!r}] has shape {found.shape}, which looks like (chains, draws, ...), and "
            f"{expected} is needed, M draws: pass mcmc.get_samples() without group_by_chain, which puts the chains one "
            "after the other."
        )
    if found.ndim == 0 or found.shape[1:] != shape:
        raise ValueError(
            f"posterior_samples[{name!r}] has shape {found.shape}, and {expected} is needed: M draws of the site, "
            f"each of shape {shape}."
        )
    bad = int((~np.isfinite(found)).sum())
    if bad:
        raise ValueError(
            f"posterior_samples[{name!r}] holds {bad} values that are not finite: the run that drew them has failed."
        )
    array = jnp.asarray(values, dtype)
    if not jnp.issubdtype(dtype, jnp.floating) and not np.array_equal(np.asarray(array), found):
        raise ValueError(f"posterior_samples[{name!r}] holds values that are none of {dtype}, as the site's are.")
    return array
