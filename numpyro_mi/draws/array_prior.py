"""A user's log-density of z, held against the rows of z that it should have drawn."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.model.joint import checks
from numpyro_mi.model.joint.told import blamed_on
from numpyro_mi.model.staging import Staged, stage

_FEW_ROWS, _LARGEST_SHARE = 200, 0.01
_NARROWER = 0.3  # by how much the normal density is narrower than the rows, up to four columns
_LARGEST_T, _LARGEST_BIAS = 6.0, 0.05
_TWICE = 0.7  # what either identity is off by if the scale of log_prior is twice that of the rows, at least
_KEPT = 0.9  # of the rows, by the height of the normal density over log_prior
_FEWEST_PER_COLUMN = 5  # rows, of a covariance
_STEP, _LARGEST_JUMP = 0.1, 0.3
NOTE = (
    "log_prior could not be checked against the rows of z: they are too few for their number of columns, or their "
    "density has a shape that the check does not know. The bound holds only if log_prior is the density of z."
)
NOT_NORMALISED = (
    "whether log_prior is normalised could not be checked: there are too few rows of z for their number of columns, or "
    "their density is too unlike a normal one. A constant that is missing shifts the bound by as much."
)


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


class _Box(NamedTuple):
    """Range of the first half of the rows, and a bump that falls to zero at its edges, column by column."""

    low: np.ndarray
    high: np.ndarray

    def holds(self, z: np.ndarray) -> np.ndarray:
        return np.all((z >= self.low) & (z <= self.high), axis=1)

    def bump(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Height of the bump and its slope, shape `(N, d)`."""
        half = np.where(self.high > self.low, (self.high - self.low) / 2, 1.0)
        at = (z - (self.low + self.high) / 2) / half
        inside = np.abs(at) < 1
        return np.where(inside, 1 - at**2, 0.0), np.where(inside, -2 * at / half, 0.0)


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
    with checks.differentiable(["z"]):
        return stage(density, jnp.zeros(len(z.loc)), differentiable=True)


def check_prior(log_prior: Staged, z: Columns, rows: np.ndarray) -> tuple[str, ...]:
    """Refuse a prior that the rows were not drawn from; `rows` are those that are not scored.

    One half of them says where to look, the other is looked at, by two identities that hold for draws of the density
    itself. Both look only inside the range of the first half, so that an edge of the support does no harm.

    Returns
    -------
    tuple
        A note, if neither identity can tell, or only the one that knows nothing of a constant.
    """
    values = z.values[rows]
    _refuse_atoms(values)
    half = len(values) // 2
    values = values[: 2 * half]

    def evaluated(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = _with_gradients(log_prior, jnp.asarray(points, jnp.result_type(float)))
        return np.asarray(value, np.float64), np.asarray(gradient, np.float64)

    (first, _), (density, gradients) = evaluated(values[:half]), evaluated(values[half:])
    _refuse_non_finite(np.concatenate([first, density]))
    fitted, looked_at = values[:half][np.isfinite(first)], values[half:]
    kept, densities = np.isfinite(density), lambda points: evaluated(points)[0]
    height = _check_height(densities, fitted, first[np.isfinite(first)], looked_at[kept], density[kept])
    slopes = _check_slopes(densities, looked_at, density, gradients, _box(fitted))
    return () if height else (NOT_NORMALISED if slopes else NOTE,)


def _box(rows: np.ndarray) -> _Box:
    return _Box(rows.min(0), rows.max(0))


def _check_height(
    evaluated: Callable, fitted: np.ndarray, first: np.ndarray, z: np.ndarray, density: np.ndarray
) -> bool:
    """Refuse a density that is not normalised around the centre of the rows; whether that can be told.

    With g a normal density narrower than the rows, `g(z) / exp(log_prior(z))` has mean 1 over draws of the prior,
    whatever the prior: less than that if it is not normalised upwards, more if downwards. Where g has no rows or
    the ratio is larger than nearly all of them, it is cut off, and the mean is the probability under g of what is left.
    """
    from scipy import stats  # slow to import

    count, width = fitted.shape
    if count < _FEWEST_PER_COLUMN * width:
        return False
    narrow = 1 - _NARROWER / np.sqrt(max(width / 4, 1.0))  # of many columns, else nothing is left of the weights
    covariance = np.atleast_2d(np.cov(fitted.T)) * narrow**2
    covariance += 1e-9 * np.trace(covariance) / width * np.eye(width)
    g = stats.multivariate_normal(fitted.mean(0), covariance, allow_singular=True)
    box = _box(fitted)

    def log_ratio(points: np.ndarray, density: np.ndarray) -> np.ndarray:
        inside = box.holds(points) & np.isfinite(density)
        return np.where(inside, np.atleast_1d(g.logpdf(points)) - np.where(inside, density, 0.0), np.inf)

    drawn = g.rvs(count, random_state=np.random.default_rng(0)).reshape(-1, width)
    most = np.quantile(log_ratio(fitted, first), _KEPT)
    if not np.isfinite(most):
        return False
    of_g, of_rows = (
        np.where(found <= most, np.exp(np.minimum(found - most, 0.0)), 0.0)
        for found in (log_ratio(drawn, evaluated(drawn)), log_ratio(z, density))
    )
    share = float(np.mean(of_g > 0))
    if share == 0 or not of_rows.any():
        return False  # g is too unlike this prior to tell
    scale = np.exp(np.clip(most, -300.0, 300.0)) / share
    factor = float(scale * of_rows.mean())
    # The variance by the rows is too small where they miss the largest ratios; the mean of a ratio under g is that of
    # its square under the prior.
    variance = max(scale**2 * of_rows.var(), scale * of_g.mean() / share - 1.0)
    error = np.sqrt(variance / len(z) + max(factor, 1.0) ** 2 * (1 / share - 1) / count)
    if abs(factor - 1) > _LARGEST_T * error + _LARGEST_BIAS:
        raise ValueError(
            f"log_prior is not the log-density of these rows of z: it is off by a factor of some {factor:.3g} "
            f"(± {error:.1g}, where 1 is right) around their centre. It must be normalised, in nats, in the units of "
            "z, and -inf where z cannot be."
        )
    return bool(_LARGEST_T * error + _LARGEST_BIAS < _TWICE)


def _check_slopes(evaluated: Callable, z: np.ndarray, density: np.ndarray, gradients: np.ndarray, box: _Box) -> bool:
    """Refuse a density whose slopes do not fit location, scale and correlation of the rows; whether that can be told.

    Stein's identity: the mean of `f(z) dlog p(z)/dz_k + df(z)/dz_k` is zero over draws of p for any f that vanishes at
    the edge of the support. Here f is a bump in column k, times 1 or any of the columns. Over the real line, without
    the bump, the columns times themselves give `E z . grad log p(z) = -d`.
    """
    shuffled = np.random.default_rng(0).permuted(z, axis=0)
    shuffled = shuffled[box.holds(shuffled)]
    if not np.isfinite(density).all() or not np.isfinite(gradients).all() or len(shuffled) < 2:
        return False
    if not np.isfinite(evaluated(np.resize(shuffled, z.shape))).all():
        return False  # a support that is no box: the bumps do not vanish at its edge
    height, slope = box.bump(z)
    if not _is_smooth(evaluated, z, (height * z * gradients).sum(1), height * z):
        return False
    change = height * gradients + slope
    factors = np.column_stack([np.ones(len(z)), z])
    own = np.vstack([np.zeros(z.shape[1]), np.diag(height.mean(0))])
    found = factors.T @ change / len(z) + own
    squares = (factors**2).T @ change**2 / len(z)
    # The terms of a column times itself hold the height as well.
    own_terms = z * change + height
    squares[1:][np.diag_indices(z.shape[1])] = (own_terms**2).mean(0)
    error = np.sqrt(np.maximum(squares - found**2, 0) / len(z)) / height.mean(0)
    found = found / height.mean(0)
    allowed = np.sqrt(_LARGEST_T**2 + 2 * np.log(found.size)) * error + _LARGEST_BIAS  # of all of them together
    row, column = np.unravel_index(np.argmax(np.abs(found) - allowed), found.shape)
    if abs(found[row, column]) > allowed[row, column]:
        what = "location" if row == 0 else "scale" if row == column + 1 else f"relation to column {row - 1}"
        raise ValueError(
            f"log_prior is not the log-density of these rows of z: its slope in column {column} does not fit their "
            f"{what} there (Stein's identity is off by {found[row, column]:.2g} ± {error[row, column]:.1g}, where 0 is "
            "right). It must be in the units of z, and -inf where z cannot be."
        )
    total, total_height = own_terms.sum(1), height.mean(0).sum()
    off, error_of_all = total.mean() / total_height, total.std(ddof=1) / np.sqrt(len(z)) / total_height
    if abs(off) > _LARGEST_T * error_of_all + _LARGEST_BIAS:
        raise ValueError(
            "log_prior is not the log-density of these rows of z: its slopes do not fit their scale (Stein's identity "
            f"over all columns is off by {off:.2g} ± {error_of_all:.1g}, where 0 is right). It must be in the units of "
            "z, and -inf where z cannot be."
        )
    return bool(np.diag(allowed[1:]).max() < _TWICE)


def _is_smooth(evaluated: Callable, z: np.ndarray, slopes: np.ndarray, direction: np.ndarray) -> bool:
    """Whether gradients are all there is to the change along a direction: not if the density jumps."""
    step = _STEP / np.sqrt(z.shape[1])
    after, before = (evaluated(z + sign * step * direction) for sign in (+1, -1))
    with np.errstate(invalid="ignore"):
        difference = (after - before) / (2 * step) - slopes
    return bool((np.abs(difference) <= _LARGEST_JUMP + 0.1 * np.abs(slopes)).all())


def _refuse_atoms(values: np.ndarray) -> None:
    for column in range(values.shape[1]):
        share = np.unique(values[:, column], return_counts=True)[1].max() / len(values)
        if len(values) >= _FEW_ROWS and share > _LARGEST_SHARE:
            raise ValueError(
                f"{share:.0%} of the rows have one and the same value of z in column {column}, but log_prior is a "
                "density, which gives single values no mass: for a discrete or constant z use InfoNCE(), which needs "
                "no prior."
            )


def _refuse_non_finite(density: np.ndarray) -> None:
    bad = int((~np.isfinite(density)).sum())
    if bad > len(density) / 1000:
        raise ValueError(
            f"log_prior is not finite at {bad:,} of {len(density):,} rows of z, which it should have drawn: it must be "
            "the log-density of z, a function of one row in the units of z."
        )


@jax.jit
def _with_gradients(log_prior, u):
    return jax.vmap(jax.value_and_grad(log_prior))(u)
