"""Terms of the identities that tie the draws of one site to its log-density, with its parents held at their draws."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.special import ndtr
from jax.scipy.stats import norm
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.distribution import Distribution, Independent
from numpyro.distributions.transforms import ComposeTransform
from numpyro.distributions.util import sum_rightmost

from numpyro_mi.model.sites.identities import STEP, balance, bridge, drift
from numpyro_mi.model.sites.logits import is_beta
from numpyro_mi.model.sites.site import WRAPPERS, ingredients, mask_of
from numpyro_mi.model.sites.support import bounds_of, kept_cells, on_support

MOST_CELLS = 1000
_NUM_FRESH = 16  # draws of a distribution of the user's own that a normal is fitted to
_EDGE = 100  # units in the last place from a bound, where a spike is steep between neighbours
_LEAST_SCALE = 0.5  # of a normal that is rounded to integers
_REAL = tuple(type(support) for support in (constraints.real, constraints.real_vector, constraints.real_matrix))


class Terms(NamedTuple):
    """Of one draw of one site; means over its cells.

    Attributes
    ----------
    balance, drift, bridge
        Terms of `identities`; a bridge of 0 where the normaliser is not checked.
    curvature
        For each cell, up to `MOST_CELLS`, the second difference of the log-density between neighbouring floats; empty
        for integers.
    num_cells
        How many cells there are.
    """

    balance: jax.Array
    drift: jax.Array
    bridge: jax.Array
    curvature: jax.Array
    num_cells: jax.Array


def is_own(fn: Distribution) -> bool:
    """Whether any part of a distribution is not NumPyro's: the user's own."""
    if not isinstance(fn, WRAPPERS) and not type(fn).__module__.startswith("numpyro."):
        return True
    if any(not type(part).__module__.startswith("numpyro.") for part in _transforms(fn)):
        return True
    parts = [part for _, value in ingredients(fn) for part in (value if isinstance(value, list | tuple) else [value])]
    return any(map(is_own, parts))


def checkable(fn: Distribution) -> bool:
    """Whether its values can be moved, and the density outside its support is known to be zero.

    A Beta is drawn and evaluated by its logit, which its value near 1 does not hold.
    """
    return _kind(fn) is not None and not is_beta(fn)


def terms(fn: Distribution, value: jax.Array, rng_key: jax.Array) -> Terms:
    """The terms of a draw of a distribution."""
    own, kind = is_own(fn), _kind(fn)
    while isinstance(fn, Independent):
        fn = fn.base_dist
    lead = value.shape[: value.ndim - len(fn.shape())]
    map_, event_dim = (biject_to(fn.support) if kind == "mapped" else None), fn.event_dim
    safe = on_support(fn, moves=True)

    def log_density(point: jax.Array) -> jax.Array:
        if map_ is None:
            inside = (point == 0) | (point == 1) if kind == "boolean" else jnp.array(True)
            found = safe.log_prob(jnp.where(inside, point, 0) if kind == "boolean" else point)
            return jnp.where(inside, found, -jnp.inf)
        values = map_(point)
        log_det = map_.log_abs_det_jacobian(point, values)
        return safe.log_prob(values) + sum_rightmost(log_det, event_dim - (point.ndim - jnp.ndim(log_det)))

    draw_key, other_key = random.split(rng_key) if own else (rng_key, rng_key)
    count = _NUM_FRESH if own else 2
    fresh = fn.sample(draw_key, (count, *lead))
    point, fresh = (value, fresh) if map_ is None else (map_.inv(value), map_.inv(fresh))
    here = log_density(point)
    size = max(1, int(jnp.size(point) / max(1, jnp.size(here))))
    step = _scaled(fresh[0] - fresh[1], min(1.0, STEP / size**0.5))
    up, down = log_density(point + step) - here, log_density(point - step) - here
    direction = jnp.sign(jnp.sign(step).sum(tuple(range(here.ndim, point.ndim))))
    direction = jnp.where(jnp.isnan(direction), 0, direction)
    normalised = own and kind != "multinomial" and mask_of(fn) is None
    bridged = _bridge(log_density, here, point, fresh, other_key) if normalised else jnp.zeros(())
    kept = _kept(fn, value, here)
    curvature = jnp.zeros(0)
    if map_ is None and jnp.issubdtype(point.dtype, jnp.floating):
        curvature = _curvature(log_density, here, point, fn.support)
    mean = lambda found: jnp.where(kept, found, 0.0).mean()  # noqa: E731
    means = mean(balance(up, down)), mean(drift(up, down) * direction), mean(bridged)
    return Terms(*means, curvature, jnp.asarray(max(1, here.size)))


def _kept(fn: Distribution, value: jax.Array, here: jax.Array) -> jax.Array:
    """Cells that no mask leaves out; the others hold constants, which say nothing of draws."""
    kept = kept_cells(fn)
    if kept is None:
        return jnp.asarray(True)
    return jnp.broadcast_to(kept, value.shape).any(tuple(range(here.ndim, value.ndim)))


def _transforms(fn: Distribution) -> list[Any]:
    found = list(getattr(fn, "transforms", ()))
    return [part for one in found for part in (one.parts if isinstance(one, ComposeTransform) else [one])]


def _kind(fn: Distribution) -> str | None:
    """How values are moved; None if they are not."""
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, type(constraints.boolean)):
        return "boolean"
    if isinstance(support, constraints.multinomial):
        return "multinomial"
    if isinstance(support, _REAL) or any(bound is not None for bound in bounds_of(support)):
        return "plain"
    if support is None or support.is_discrete or not is_own(fn):
        return None
    try:
        biject_to(support)
    except NotImplementedError:
        return None
    return "mapped"


def _scaled(step: jax.Array, factor: float) -> jax.Array:
    if jnp.issubdtype(step.dtype, jnp.floating):
        return factor * step
    return step if factor == 1.0 else jnp.round(factor * step).astype(step.dtype)


def _bridge(log_density: Any, here: jax.Array, point: jax.Array, fresh: jax.Array, rng_key: jax.Array) -> jax.Array:
    """Against a normal that is fitted to fresh draws; of integers, a rounded one."""
    whole = not jnp.issubdtype(point.dtype, jnp.floating)
    samples = jnp.asarray(fresh, float)
    loc, scale = samples.mean(0), samples.std(0, ddof=1)
    scale = jnp.maximum(scale, _LEAST_SCALE if whole else jnp.finfo(samples.dtype).tiny)
    other = loc + scale * random.normal(rng_key, loc.shape, loc.dtype)
    other = jnp.round(other).astype(point.dtype) if whole else other

    def log_normal(at: jax.Array) -> jax.Array:
        if whole:
            cells = jnp.log(ndtr((at + 0.5 - loc) / scale) - ndtr((at - 0.5 - loc) / scale))
        else:
            cells = norm.logpdf(at, loc, scale)
        return sum_rightmost(cells, at.ndim - here.ndim)

    return bridge(log_normal(point) - here, log_normal(other) - log_density(other))


def _curvature(log_density: Any, here: jax.Array, point: jax.Array, support: Any) -> jax.Array:
    # Elements of a vector move to either side, in an order that means nothing.
    side = jnp.asarray(np.random.default_rng(0).choice([-np.inf, np.inf], point.shape), point.dtype)
    found = log_density(jnp.nextafter(point, side)) + log_density(jnp.nextafter(point, -side)) - 2 * here
    at_edge = jnp.zeros(point.shape, bool)
    for bound in bounds_of(support):
        if bound is not None:
            at_edge |= jnp.abs(point - bound) <= _EDGE * jnp.finfo(point.dtype).eps * jnp.abs(bound)
    at_edge = at_edge.any(tuple(range(here.ndim, point.ndim)))
    return jnp.where(jnp.isfinite(found) & ~at_edge, found, 0.0).reshape(-1)[:MOST_CELLS]
