"""A Gaussian guide in closed form: linear regression of the latents on the data."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.guides.base import Conditional, check_fitted, normal_log_prob, normal_sample
from numpyro_mi.options import integer, shown
from numpyro_mi.targets import AnnealedTarget
from numpyro_mi.training.pairs import Pairs

_FEWEST, _MOST = 4096, 131_072
_MOST_FEATURES = 8192
_EXCESS = 0.01  # nats that the fitting error may cost
_FARTHEST = 8.0  # robust standard deviations; beyond, the regression is flat
_RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)
_FLOOR = 1e-12  # of the largest residual variance


@dataclass(frozen=True)
class RegressionGuide:
    """Gaussian q(z|x) from a ridge regression of the unconstrained latents on the standardised data.

    Closed form, from as many fresh joint draws as the fit needs: the expected loss by fitting error is
    its number of coefficients over twice the number of draws, and is held at 0.01 nats where up to
    131,072 draws suffice. Best possible in a linear-Gaussian model; elsewhere a good start for
    annealing and a weak guide by itself.

    Parameters
    ----------
    covariance
        "full" or "diagonal" residual covariance.
    num_draws
        Joint draws for the fit; None: as many as it needs.
    """

    covariance: Literal["full", "diagonal"] = "full"
    num_draws: int | None = None

    needs_gradient = False

    def __post_init__(self) -> None:
        if self.covariance not in ("full", "diagonal"):
            raise ValueError(f'RegressionGuide needs covariance "full" or "diagonal", got {shown(self.covariance)}.')
        if self.num_draws is not None:
            count = integer("RegressionGuide", "num_draws", self.num_draws, 2, " or None")
            object.__setattr__(self, "num_draws", count)

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> "FittedRegression":
        """Fit to fresh joint draws."""
        d, p = pairs.dimension, pairs.num_features
        if p > _MOST_FEATURES:
            raise ValueError(
                f"RegressionGuide solves for {p} features of the data, and takes at most {_MOST_FEATURES}: reduce the "
                "data to summaries in the model, or start from the prior (base=None)."
            )
        report("fitting the regression")
        coefficients = (p + 1) * d + (d * (d + 1) // 2 if self.covariance == "full" else d)
        needed = max(_FEWEST, 4 * p, round(coefficients / (2 * _EXCESS)))
        count = min(needed, _MOST) if self.num_draws is None else int(self.num_draws)
        moments = _Moments()
        for u, x in pairs.blocks(count):
            moments.add(u, x)
        return moments.solve(self, d)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FittedRegression:
    """A fitted `RegressionGuide`.

    Attributes
    ----------
    x_loc, x_scale
        Location and scale that x is standardised with, shape `(p,)`.
    weights, bias
        Of the mean, shapes `(p, d)`, `(d,)`.
    scale
        Residual standard deviations `(d,)`, or lower Cholesky factor `(d, d)`.
    config
        The guide that was fitted.
    """

    x_loc: jax.Array
    x_scale: jax.Array
    weights: jax.Array
    bias: jax.Array
    scale: jax.Array
    config: RegressionGuide = field(metadata={"static": True})

    needs_gradient = False

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> "FittedRegression":
        """Itself, if it is a guide for such draws."""
        check_fitted(self, len(self.bias), len(self.x_loc), pairs)
        return self

    def features(self, x: jax.Array) -> jax.Array:
        """Standardised x."""
        return jnp.clip((x - self.x_loc) / self.x_scale, -_FARTHEST, _FARTHEST)

    def mean(self, x: jax.Array) -> jax.Array:
        """The regression at x."""
        return self.bias + self.features(x) @ self.weights

    def condition(self, target: AnnealedTarget | None, x: jax.Array, rng_key: jax.Array) -> Conditional:
        """The guide at one x."""
        return Conditional(self.mean(x), self.scale)

    def sample(self, conditional: Conditional, rng_key: jax.Array) -> jax.Array:
        """A standard normal vector."""
        return normal_sample(rng_key, conditional.loc)

    def log_prob(self, conditional: Conditional, v: jax.Array) -> jax.Array:
        """Its log-density."""
        return normal_log_prob(v)


class _Moments:
    """Sums of products over blocks of draws, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.standard: tuple[np.ndarray, np.ndarray] | None = None
        self.products: np.ndarray = np.zeros(())

    def add(self, u: np.ndarray, x: np.ndarray) -> None:
        """One block; the first one says how x is standardised."""
        u, x = u.astype(np.float64), x.astype(np.float64)
        finite = np.isfinite(u).all(1) & np.isfinite(x).all(1)
        u, x = u[finite], x[finite]  # a fit may leave draws out: none of them is scored
        if self.standard is None:
            self.standard = standard(x)
        loc, scale = self.standard
        rows = np.concatenate([np.ones((len(u), 1)), np.clip((x - loc) / scale, -_FARTHEST, _FARTHEST), u], axis=1)
        self.count += len(u)
        self.products = self.products + rows.T @ rows

    def solve(self, config: RegressionGuide, dimension: int) -> FittedRegression:
        """The ridge regression with the smallest expected loss (Akaike's)."""
        assert self.standard is not None
        d, n = dimension, self.count
        if n < d + 2:
            raise ValueError(f"RegressionGuide has {n} finite draws for {d} latents: it needs more num_draws.")
        mean = self.products[0, 1:] / n
        centred = self.products[1:, 1:] / n - np.outer(mean, mean)
        xx, xu, uu = centred[:-d, :-d], centred[:-d, -d:], centred[-d:, -d:]
        values, vectors = np.linalg.eigh(xx)
        values, turned = np.maximum(values, 0.0), vectors.T @ xu
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        for ridge in _RIDGES:
            shrunk = turned / (values + ridge)[:, None]
            residual = uu - turned.T @ shrunk - shrunk.T @ turned + shrunk.T @ (values[:, None] * shrunk)
            used = (values / (values + ridge)).sum() + 1
            if used > 0.9 * n:
                continue
            spread = np.where(np.diag(uu) > 0, np.diag(uu), 1 / _FLOOR)  # a constant keeps a scale to divide by
            variance = np.maximum(np.diag(residual), _FLOOR * spread)
            residual[np.diag_indices(d)] = variance
            root = np.sqrt(variance)[:, None] if config.covariance == "diagonal" else _cholesky(residual)
            size = np.log(root[:, 0] if config.covariance == "diagonal" else np.diag(root)).sum()
            loss = size + d * used / n
            if best is None or loss < best[0]:
                best = loss, vectors @ shrunk, root * np.sqrt(n / (n - used))
        assert best is not None
        _, weights, root = best
        return FittedRegression(
            x_loc=jnp.asarray(self.standard[0], float),
            x_scale=jnp.asarray(self.standard[1], float),
            weights=jnp.asarray(weights, float),
            bias=jnp.asarray(mean[-d:] - mean[:-d] @ weights, float),
            scale=jnp.asarray(root[:, 0] if config.covariance == "diagonal" else root, float),
            config=config,
        )


def standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and half the central 68 % of each column, robust against heavy tails."""
    low, middle, high = np.quantile(x, [0.16, 0.5, 0.84], axis=0)
    scale = (high - low) / 2
    scale = np.where(scale > 0, scale, x.std(0))
    return middle, np.where((scale > 0) & np.isfinite(scale), scale, 1.0)


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    """Lower factor of a covariance that may be singular to rounding."""
    scale = np.sqrt(np.diag(matrix))
    correlation = matrix / scale[:, None] / scale
    values, vectors = np.linalg.eigh(correlation)
    floored = (vectors * np.maximum(values, _FLOOR)) @ vectors.T
    return scale[:, None] * np.linalg.cholesky(floored + _FLOOR * np.eye(len(scale)))


def marginal(regression: FittedRegression, pairs: Pairs) -> FittedRegression:
    """A "regression" that does not look at the data: location and scale of the latents alone."""
    u, _ = next(pairs.blocks(_FEWEST))
    loc, scale = (jnp.asarray(part, float) for part in standard(u[np.isfinite(u).all(1)]))
    return replace(regression, weights=jnp.zeros_like(regression.weights), bias=loc, scale=scale)
