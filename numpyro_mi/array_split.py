"""Rows of arrays for a direct bound: split into disjoint parts, and standardised."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.bounds.base import DirectMethod, is_fitted
from numpyro_mi.critics import RescaledCritic
from numpyro_mi.keys import Role, role_key
from numpyro_mi.model import integral_checks
from numpyro_mi.model.staging import Staged, stage
from numpyro_mi.model.told import blamed_on
from numpyro_mi.pairs import Pairs

_SHARES = (0.5, 0.1)  # training, pilots; the rest is scored
_FEWEST_TERMS = 8
_ROWS = 4096
_FEW_ROWS, _LARGEST_SHARE = 200, 0.01
_LEAST_ESS, _NARROWER, _LARGEST_T, _LARGEST_BIAS = 0.02, 0.7, 6.0, 0.05


class Columns(NamedTuple):
    """Columns in units of the training rows, so that single precision loses no digits to an offset.

    Attributes
    ----------
    values
        Shape `(N, d)`, float64.
    loc, scale
        What was subtracted, and what was divided by, shape `(d,)`.
    """

    values: np.ndarray
    loc: np.ndarray
    scale: np.ndarray


def refuse_fitted(method: DirectMethod) -> None:
    """Refuse guides and critics that may have seen the rows that would be scored."""
    for name in ("guide", "base", "critic"):
        part = getattr(method, name, None)
        if is_fitted(part) or isinstance(part, RescaledCritic):
            raise ValueError(
                f"{type(method).__name__} on arrays got {name}, a {type(part).__name__}, which is fitted already: rows "
                "are split by the key, so that one fitted to these arrays would be scored on rows that it was fitted "
                "to, and the bound be too high. Pass what it was fitted from, such as RegressionGuide() or "
                "MLPCritic(), to fit it anew, or a critic function of your own."
            )


def split_rows(num_rows: int, method: DirectMethod, rng_key: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the rows that train, of the pilots, and of what is scored, shape `(terms, rows of a term)`."""
    order = np.asarray(jax.random.permutation(role_key(rng_key, Role.SPLIT), num_rows))
    ends = [round(num_rows * share) for share in np.cumsum(_SHARES)]
    training, pilots, scored = np.split(order, ends)
    size = method.num_latents
    num_terms = len(scored) // size
    if num_terms < _FEWEST_TERMS:
        raise ValueError(
            f"{type(method).__name__} scores one term a block of {size} rows, and {num_rows} rows leave {len(scored)} "
            f"for scoring ({_SHARES[0]:.0%} train, {_SHARES[1]:.0%} are pilots), {num_terms} blocks where at least "
            f"{_FEWEST_TERMS} are needed: pass more rows, or make the blocks smaller."
        )
    return training, pilots, scored[: num_terms * size].reshape(num_terms, size)


def standardised(array: np.ndarray, training: np.ndarray) -> Columns:
    """The columns, with location and scale of the training rows."""
    loc, scale = array[training].mean(0), array[training].std(0)
    scale = np.where(scale > 0, scale, 1.0)
    return Columns((array - loc) / scale, loc, scale)


def staged_prior(log_prior: Callable, z: Columns) -> Staged:
    """A user's log-density of z, in the coordinates of its standardised columns."""
    log_det = float(np.log(z.scale).sum())

    def density(u: jax.Array) -> jax.Array:
        with blamed_on("log_prior"):
            value = jnp.asarray(log_prior(u * jnp.asarray(z.scale, float) + jnp.asarray(z.loc, float)))
        if value.shape:
            raise ValueError(
                f"log_prior takes one z, a vector of {len(z.loc)} columns, and returns a scalar log-density in nats; "
                f"it returned shape {value.shape}."
            )
        return value + log_det

    jax.eval_shape(density, jnp.zeros(len(z.loc)))  # errors of the function itself keep their own words
    with integral_checks.differentiable(["z"]):
        return stage(density, jnp.zeros(len(z.loc)), differentiable=True)


def check_prior(log_prior: Staged, z: Columns, rows: np.ndarray) -> None:
    """Refuse a prior that the rows were not drawn from; `rows` are those that are not scored.

    With g a normal density narrower than the rows, `g(z) / exp(log_prior(z))` has mean 1 over draws of the prior,
    whatever the prior: less than that if it is not normalised upwards, more if downwards.
    """
    values = z.values[rows]
    for column in range(values.shape[1]):
        share = np.unique(values[:, column], return_counts=True)[1].max() / len(values)
        if len(values) >= _FEW_ROWS and share > _LARGEST_SHARE:
            raise ValueError(
                f"{share:.0%} of the rows have one and the same value of z in column {column}, but log_prior is a "
                "density, which gives single values no mass: for a discrete or constant z use InfoNCE(), which needs "
                "no prior."
            )
    from scipy import stats  # slow to import

    log_density = np.asarray(_log_densities(log_prior, jnp.asarray(values, jnp.result_type(float))), np.float64)
    bad = int((~np.isfinite(log_density)).sum())
    if bad > len(values) / 1000:
        raise ValueError(
            f"log_prior is not finite at {bad:,} of {len(values):,} rows of z, which it should have drawn: it must be "
            "the log-density of z, a function of one row in the units of z."
        )
    finite = np.isfinite(log_density)
    values, log_density = values[finite], log_density[finite]
    half = len(values) // 2  # one half for g, the other for the mean
    loc, covariance = values[:half].mean(0), np.atleast_2d(np.cov(values[:half].T)) * _NARROWER**2
    covariance += 1e-9 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    narrow = stats.multivariate_normal(loc, covariance, allow_singular=True).logpdf(values[half:])
    ratio = np.exp(narrow - log_density[half:])
    if ratio.sum() ** 2 < _LEAST_ESS * len(ratio) * (ratio**2).sum():
        return  # g is too unlike this prior to tell
    error = ratio.std(ddof=1) / np.sqrt(len(ratio))
    if abs(ratio.mean() - 1) > _LARGEST_T * error + _LARGEST_BIAS:
        raise ValueError(
            f"log_prior is not the log-density of these rows of z: it is off by a factor of some {ratio.mean():.3g} "
            f"(± {error:.1g}, where 1 is right) around their centre. It must be normalised, in nats, in the units of z."
        )


@jax.jit
def _log_densities(log_prior, u):
    return jax.vmap(log_prior)(u)


def in_own_units(method: Any, z: Columns, x: Columns) -> DirectMethod:
    """The method, with a user's critic as it is called in the coordinates of standardised columns."""
    if hasattr(method.critic, "initial"):
        return method
    units = (jnp.asarray(array, float) for array in (x.loc, x.scale, z.loc, z.scale))
    return replace(method, critic=RescaledCritic(method.critic, *units))


def row_pairs(z: Columns, x: Columns, rows: np.ndarray) -> Pairs:
    """Some rows as a supply of joint draws; it ends where they end."""

    def supply(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, min(count, len(rows)), _ROWS):
            part = rows[start : min(start + _ROWS, count)]
            yield z.values[part].astype(np.float32), x.values[part].astype(np.float32)

    return Pairs(supply, len(z.loc), len(x.loc))
