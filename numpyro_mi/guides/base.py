"""What a guide is: a density for one x, in coordinates in which it is nearly standard normal."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jax.scipy.stats import norm

from numpyro_mi.options import shown
from numpyro_mi.targets import AnnealedTarget
from numpyro_mi.training.pairs import Pairs


class Conditional(NamedTuple):
    """A guide at one x: `u = loc + scale v` with a density for v.

    Attributes
    ----------
    loc
        Shape `(d,)`.
    scale
        Shape `(d,)`, or lower triangular `(d, d)`.
    extra
        What else the density of v needs.
    stats
        By name, scalars to be kept with the draw: cost, and what went wrong.
    """

    loc: jax.Array
    scale: jax.Array
    extra: Any = ()
    stats: dict[str, jax.Array] = {}

    def unwhiten(self, v: jax.Array) -> jax.Array:
        """`loc + scale v`."""
        return self.loc + (self.scale * v if self.scale.ndim == 1 else self.scale @ v)

    def whiten(self, u: jax.Array) -> jax.Array:
        """The inverse of `unwhiten`."""
        centred = u - self.loc
        if self.scale.ndim == 1:
            return centred / self.scale
        return jax.scipy.linalg.solve_triangular(self.scale, centred, lower=True)

    def log_det(self) -> jax.Array:
        """Log-determinant of `scale`."""
        diagonal = self.scale if self.scale.ndim == 1 else jnp.diagonal(self.scale)
        return jnp.log(diagonal).sum()


class FittedGuide(Protocol):
    """A guide ready for use: a pytree, so that other weights compile nothing."""

    def condition(self, target: AnnealedTarget | None, x: jax.Array, rng_key: jax.Array) -> Conditional:
        """The guide at one x, a function of x and independent noise alone; `target` is `p(u, x)` where it is known."""

    def sample(self, conditional: Conditional, rng_key: jax.Array) -> jax.Array:
        """A draw of v."""

    def log_prob(self, conditional: Conditional, v: jax.Array) -> jax.Array:
        """Log-density of v, nats."""


class Guide(Protocol):
    """The configuration of a guide."""

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> FittedGuide:
        """Fit to fresh joint draws; a fitted guide returns itself."""


def guide_stats(conditional: Conditional | None) -> dict[str, jax.Array]:
    """What a guide reports of one draw, under the names it is kept by."""
    return {} if conditional is None else {f"guide_{name}": value for name, value in conditional.stats.items()}


def normal_sample(rng_key: jax.Array, loc: jax.Array) -> jax.Array:
    """Standard normals of the shape of `loc`."""
    return jax.random.normal(rng_key, loc.shape, loc.dtype)


def normal_log_prob(v: jax.Array) -> jax.Array:
    """Log-density of independent standard normals."""
    return norm.logpdf(v).sum()


def student_sample(rng_key: jax.Array, loc: jax.Array, dof: float) -> jax.Array:
    """A multivariate Student-t vector of the shape of `loc`, with identity scale."""
    normal_key, gamma_key = jax.random.split(rng_key)
    mixing = jax.random.gamma(gamma_key, 0.5 * dof, dtype=loc.dtype) / (0.5 * dof)
    return normal_sample(normal_key, loc) / jnp.sqrt(mixing)


def student_log_prob(v: jax.Array, dof: float) -> jax.Array:
    """Its log-density."""
    d = v.size
    constant = gammaln(0.5 * (dof + d)) - gammaln(0.5 * dof) - 0.5 * d * jnp.log(dof * jnp.pi)
    return constant - 0.5 * (dof + d) * jnp.log1p(v @ v / dof)


def check_fitted(guide: Any, dimension: int, num_features: int, pairs: Pairs) -> None:
    """Refuse a fitted guide, or a trained critic, where the integral is of another size."""
    if (dimension, num_features) != (pairs.dimension, pairs.num_features):
        raise ValueError(
            f"this {type(guide).__name__} was fitted to {num_features} values of data and {dimension} unconstrained "
            f"latents, and here there are {pairs.num_features} and {pairs.dimension}: what is fitted serves the model "
            "that it was fitted to, with data of the same shape. Pass its configuration to fit another."
        )


def check_guide(method: str, name: str, guide: Any, optional: bool = False) -> None:
    """Refuse what is no guide."""
    if guide is None and optional:
        return
    if type(guide).__module__.startswith("numpyro.infer.autoguide"):
        raise TypeError(
            f"{method} got {name}={type(guide).__name__}: a NumPyro AutoGuide is fitted to one data set, and the "
            "bounds average over simulated data sets, so the guide must be a function of the data (amortised). Use "
            "RegressionGuide(), or LaplaceGuide() for an approximation per data set."
        )
    if isinstance(guide, type) and callable(getattr(guide, "fit", None)):
        raise TypeError(f"{method} needs {name}, a guide, got the class {guide.__name__}: write {guide.__name__}().")
    if isinstance(guide, type) or not callable(getattr(guide, "fit", None)):
        raise TypeError(f"{method} needs {name}, a guide such as RegressionGuide(), got {shown(guide)}.")
