"""Identities that exact draws of a density satisfy, in terms that are bounded.

Whoever draws from one distribution and evaluates the density of another breaks them. No identity here needs a finite
variance, equal supports or a normaliser that is known otherwise: every term lies in an interval of length at most
`SPAN`, so that the bound on a mean holds whatever the distribution of the terms is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

SPAN = 1.2
"""Length of the interval that the terms of every identity lie in."""
STEP = 1.5
"""Length, in standard deviations, of a step of a vector that most densities accept about half of the time."""
WRONG = {
    "balance": "they are spread more or less widely than the density says",
    "drift": "they are shifted against it",
    "bridge": "the density does not integrate to one, or has another shape than that of the draws",
}
"""What it means that an identity fails."""
_CHANCE = 1e-9
_ROUNDING = 2e-3


class Mean(NamedTuple):
    """The mean of an identity's terms, which should be zero, and how far from zero chance can put it."""

    value: float
    allowed: float

    @property
    def fails(self) -> bool:
        """Whether the draws do not follow the density."""
        return not abs(self.value) <= self.allowed


def balance(up: jax.Array, down: jax.Array) -> jax.Array:
    """Terms with mean zero if u is an exact draw of a density f, normalised or not.

    `up` is `log f(u + step) - log f(u)` and `down` the same for `-step`, with a step that does not depend on u. Pairs
    of u and u + step come with density `f(u)` in one order and `f(u + step)` in the other, so that an odd function of
    `log f(u + step) / f(u)`, weighted by `f(u + step) / (f(u) + f(u + step))`, has mean zero over both signs.
    Where either density is zero the weight is zero.
    """
    return 0.5 * (_odd(up) + _odd(down))


def drift(up: jax.Array, down: jax.Array) -> jax.Array:
    """Terms with mean zero if u is an exact draw of a density f; see `balance`.

    The share of the pair that is at `u + step` is as large as the share that is at `u - step`. Draws that are shifted
    along the step against f have a mean that is of the first order in the shift.
    """
    return 0.5 * (_share(up) - _share(down))


def bridge(at_draw: jax.Array, at_other: jax.Array) -> jax.Array:
    """Terms with mean zero if u is an exact draw of a density f, and f is normalised.

    `at_draw` is `log g(u) - log f(u)` for a normalised density g, and `at_other` the same at a draw of g: both
    shares have the mean of `f g / (f + g)`.
    """
    return 0.5 * (_share(at_draw) - _share(-at_other))


def vector_terms(
    log_density: Callable[[jax.Array], jax.Array], point: jax.Array, fresh: jax.Array, rng_key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Terms of `balance`, `drift` and `bridge` of one draw of a vector from a normalised density.

    Parameters
    ----------
    log_density
        The density that is to be checked, nats.
    point
        The draw, shape `(d,)`.
    fresh
        Other draws, shape `(n, d)`: two of them are the step, and a normal is fitted to all.
    rng_key
        Of a draw of that normal.
    """
    here = log_density(point)
    step = min(1.0, STEP / max(1, point.size) ** 0.5) * (fresh[0] - fresh[1])
    up, down = log_density(point + step) - here, log_density(point - step) - here
    direction = jnp.sign(jnp.sign(step).sum())
    loc, scale = fresh.mean(0), fresh.std(0, ddof=1)
    other = loc + scale * jax.random.normal(rng_key, loc.shape, loc.dtype)
    at_draw, at_other = (norm.logpdf(at, loc, scale).sum() - log_density(at) for at in (point, other))
    shifted = drift(up, down) * jnp.where(jnp.isnan(direction), 0.0, direction)
    return balance(up, down), shifted, bridge(at_draw, at_other)


def acceptance(log_ratio: jax.Array) -> jax.Array:
    """Probability that a Metropolis step accepts; 0 where the ratio is not a number."""
    return jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))


def mean_of(terms: Any, num_cells: int = 1) -> Mean:
    """The mean of independent terms, and the bound of Maurer and Pontil (2009) on how far it is from zero.

    Parameters
    ----------
    terms
        Terms in an interval of length `SPAN`, or means of such terms over cells that are independent.
    num_cells
        How many cells each is the mean of.
    """
    terms = np.asarray(terms, np.float64)
    count, log_chance = len(terms), np.log(2 / _CHANCE)
    rare = 7 * SPAN * log_chance / (3 * (count * num_cells - 1))
    allowed = np.sqrt(2 * terms.var(ddof=1) * log_chance / count) + max(rare, _ROUNDING)
    return Mean(float(terms.mean()), float(allowed))


def _share(log_ratio: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(log_ratio), 0.0, jax.nn.sigmoid(log_ratio))


def _odd(log_ratio: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(log_ratio), 0.0, jax.nn.sigmoid(log_ratio) * jnp.tanh(0.5 * log_ratio))
