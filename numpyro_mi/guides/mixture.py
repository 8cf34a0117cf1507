"""A mixture of components at the modes of a posterior, and of the regression."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from numpyro_mi.guides.base import Conditional
from numpyro_mi.guides.modes import Mode


class Mixture(NamedTuple):
    """Components of equal shape, in the coordinates v of a `Conditional`.

    Attributes
    ----------
    log_weights
        Normalised, shape `(M,)`; minus infinity for a component that is not there.
    means, factors
        Shapes `(M, d)` and `(M, d, d)`: component k is `means[k] + factors[k] e`.
    inverses
        Of `factors`.
    log_dets
        Of `inverses`.
    """

    log_weights: jax.Array
    means: jax.Array
    factors: jax.Array
    inverses: jax.Array
    log_dets: jax.Array


def mixture_of_modes(
    base: Conditional, modes: Mode, log_weights: jax.Array, stats: dict[str, jax.Array]
) -> Conditional:
    """The mixture of modes and regression, in coordinates where its mean is 0 and its mean scale matrix is 1."""
    d, dtype = base.loc.size, base.loc.dtype
    means = jnp.append(modes.v, jnp.zeros((1, d), dtype), axis=0)
    widths = jnp.append(modes.widths, jnp.ones((1, d), dtype), axis=0)
    axes = jnp.append(modes.axes, jnp.eye(d, dtype=dtype)[None], axis=0)
    weights = jnp.exp(log_weights)
    mean = weights @ means
    roots, apart = axes * widths[:, None], means - mean
    spread = jnp.concatenate([roots, apart[:, :, None]], axis=2)
    scale = _root(jnp.einsum("k,kil,kjl->ij", weights, spread, spread))
    mixture = Mixture(
        log_weights,
        solve_triangular(scale, apart.T, lower=True).T,
        jax.vmap(lambda root: solve_triangular(scale, root, lower=True))(roots),
        (axes / widths[:, None]).swapaxes(1, 2) @ scale,
        jnp.log(jnp.diagonal(scale)).sum() - jnp.log(widths).sum(1),
    )
    linear = base.scale if base.scale.ndim == 2 else jnp.diag(base.scale)
    return Conditional(base.unwhiten(mean), linear @ scale, mixture, stats)


def _root(covariance: jax.Array) -> jax.Array:
    """A Cholesky factor; any will do for coordinates, so that rounding is met with a ridge."""
    size = jnp.sqrt(jnp.diagonal(covariance))
    ridge = 16 * jnp.finfo(size.dtype).eps * jnp.eye(size.size, dtype=size.dtype)
    factor = jnp.linalg.cholesky(covariance / size[:, None] / size + ridge) * size[:, None]
    return jnp.where(jnp.isfinite(factor).all(), factor, jnp.diag(size))
