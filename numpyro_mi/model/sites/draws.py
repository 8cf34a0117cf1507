"""Draws that return whatever the parameters of a distribution are, and that are those of its density."""

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.distribution import Distribution

from numpyro_mi.model.sites.site import ingredients
from numpyro_mi.model.sites.slices import Element

COUNTS = dist.MultinomialProbs | dist.MultinomialLogits | dist.DirichletMultinomial
HURDLES = dist.HurdleProbs | dist.HurdleLogits
MOST_ZEROS = 1e-6
"""Of a hurdle's base: it is drawn until one counts."""


def drawable(fn: Distribution) -> Distribution:
    """The same distribution, with draws that return whatever its parameters are; those of allowed ones are the same."""
    if isinstance(fn, Element):
        return fn  # its draw is that of the whole batch
    safe = _safe(fn)
    if safe is fn:
        return fn
    fn = copy.copy(fn)
    fn.sample = safe.sample
    fn.sample_with_intermediates = safe.sample_with_intermediates
    return fn


def _safe(fn: Distribution) -> Distribution:
    """A copy whose sampler ends: of distributions that loop until a draw is accepted, with allowed parameters."""
    parts = {
        name: type(value)(map(_safe, value)) if isinstance(value, list | tuple) else _safe(value)
        for name, value in ingredients(fn)
    }
    changed = any(
        new is not old
        for name, value in parts.items()
        for new, old in zip(listed(value), listed(getattr(fn, name)), strict=True)
    )
    loops = isinstance(fn, dist.BinomialProbs) and traced(fn.probs)
    totals = isinstance(fn, COUNTS) and traced(fn.total_count) and fn.batch_shape == ()
    hurdle = isinstance(fn, HURDLES) and fn._is_discrete and any(map(traced, jax.tree.leaves(fn.base_dist)))
    if not (changed or loops or totals or hurdle):
        return fn
    fn = copy.copy(fn)
    for name, value in parts.items():
        setattr(fn, name, value)
    if loops:
        fn.probs = jnp.clip(jnp.where(jnp.isnan(fn.probs), 0.0, fn.probs), 0.0, 1.0)
    if totals:
        fn.sample = _count_sampler(fn)
    if hurdle:
        fn.base_dist = _never_certain(fn.base_dist)
    return fn


def _count_sampler(fn: Any) -> Callable:
    """Draws of counts with a total that is computed: in a batch of one, since else NumPyro draws `total_count_max`."""

    def sample(key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        kind, rest = type(fn), {"total_count_max": fn.total_count_max}
        which = next(name for name in ("probs", "logits", "concentration") if name in kind.arg_constraints)
        total = jnp.clip(fn.total_count, 0, fn.total_count_max)
        one = kind(**{which: getattr(fn, which)[None]}, total_count=total[None], **rest)
        return one.sample(key, sample_shape)[..., 0, :].astype(int)

    return sample


def _never_certain(base: Distribution) -> Distribution:
    """The base of a hurdle, with draws of 1 where it is zero all but always and none would come."""
    sample, certain = base.sample, stuck(base)
    base = copy.copy(base)
    base.sample = lambda key, sample_shape=(): jnp.where(certain, 1, sample(key, sample_shape))
    return base


def stuck(base: Distribution) -> jax.Array:
    """Whether the base of a hurdle is zero all but always."""
    zero = jnp.zeros(base.shape(), jnp.result_type(int))
    return ~(base.log_prob(zero) < -MOST_ZEROS)


def listed(value: Any) -> list[Distribution]:
    """One distribution or several, as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def traced(value: Any) -> bool:
    """Whether a value is not known while a model is traced."""
    return isinstance(value, jax.core.Tracer)
