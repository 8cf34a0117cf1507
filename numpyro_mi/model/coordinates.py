"""Coordinates of a site on the real line: those of its support, or standardised by its own location and scale.

A site whose location or scale depends on other sites has a posterior that bends with them: a funnel. In
standardised coordinates, where the value is `loc + scale * u`, a draw of the prior is plain noise whatever the
others are. Neither form is the better one for all data, so which of them chains run in is a number, 0 or 1,
that goes through one compiled program.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import biject_to
from numpyro.distributions.distribution import Distribution
from numpyro.distributions.util import sum_rightmost
from numpyro.infer.util import _unconstrain_reparam

from numpyro_mi.model.sites import unwrapped

STANDARDISED = "<standardised>"  # no site is named like this

_LOCATION_SCALE = (
    dist.Normal,
    dist.StudentT,
    dist.Cauchy,
    dist.Laplace,
    dist.Logistic,
    dist.Gumbel,
    dist.SoftLaplace,
    dist.AsymmetricLaplace,
)
_SCALE = (dist.HalfNormal, dist.HalfCauchy, dist.Weibull)
_RATE = (dist.Exponential, dist.Gamma)
_MULTIVARIATE = (dist.MultivariateNormal, dist.MultivariateStudentT)


class Frame(NamedTuple):
    """What standardises a site: `value = outer(loc + scale u)`, with `outer` the map of the support.

    Attributes
    ----------
    loc
        Broadcasts with the value.
    scale
        The same; of vectors a lower triangular matrix; of a random walk that of its steps.
    linear
        Whether u is a vector that `scale` is a matrix for ("matrix"), the steps of a walk ("walk"), or neither
        ("elements").
    """

    loc: jax.Array
    scale: jax.Array
    linear: str


def frame(fn: Distribution) -> Frame | None:
    """The frame of a distribution; None if it has no location and scale that its draws follow."""
    fn = unwrapped(fn)
    kind = type(fn)
    if kind in _LOCATION_SCALE or kind is dist.LogNormal:
        return Frame(jnp.asarray(fn.loc), jnp.asarray(fn.scale), "elements")
    if kind in _SCALE:
        return Frame(jnp.log(fn.scale), jnp.ones(()), "elements")
    if kind in _RATE:
        return Frame(-jnp.log(fn.rate), jnp.ones(()), "elements")
    if kind is dist.InverseGamma:
        return Frame(jnp.log(fn.rate), jnp.ones(()), "elements")
    if kind in _MULTIVARIATE:
        return Frame(jnp.asarray(fn.loc), jnp.asarray(fn.scale_tril), "matrix")
    if kind is dist.GaussianRandomWalk:
        return Frame(jnp.zeros(()), jnp.asarray(fn.scale)[..., None], "walk")
    return None


def place(fn: Distribution, u: jax.Array, standardised: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The value of a site with a frame at u, and the log-determinant, an entry for each element of the batch."""
    found, outer = frame(fn), biject_to(fn.support)
    assert found is not None
    moved, log_det = _moved(found, u)
    inner = jnp.where(standardised, moved, u)
    value = outer(inner)
    outer_log_det = outer.log_abs_det_jacobian(inner, value)
    events = fn.event_dim - (jnp.ndim(u) - jnp.ndim(outer_log_det))
    total = jnp.where(standardised, sum_rightmost(log_det, fn.event_dim), 0.0) + sum_rightmost(outer_log_det, events)
    return value, total


def locate(fn: Distribution, value: jax.Array, standardised: jax.Array) -> jax.Array:
    """The inverse of `place`."""
    found, inner = frame(fn), biject_to(fn.support).inv(value)
    assert found is not None
    return jnp.where(standardised, _moved_back(found, inner), inner)


def _moved(found: Frame, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`loc + scale u`, and the log-determinant element by element."""
    loc, scale, linear = found
    if linear == "matrix":
        diagonal = jnp.diagonal(scale, axis1=-2, axis2=-1)
        return loc + (scale @ u[..., None])[..., 0], jnp.broadcast_to(jnp.log(diagonal), u.shape)
    moved = jnp.cumsum(u, -1) if linear == "walk" else u
    return loc + scale * moved, jnp.broadcast_to(jnp.log(scale), u.shape)


def _moved_back(found: Frame, value: jax.Array) -> jax.Array:
    loc, scale, linear = found
    centred = value - loc
    if linear == "matrix":
        scale = jnp.broadcast_to(scale, (*centred.shape, centred.shape[-1]))
        return solve_triangular(scale, centred[..., None], lower=True)[..., 0]
    return jnp.diff(centred, prepend=0.0) / scale if linear == "walk" else centred / scale


def substitute_points(points: Mapping[str, jax.Array], standard: tuple[str, ...], standardised: Any, site: dict) -> Any:
    """The value of a site at its point, and the log-determinant as a factor: a `substitute_fn`.

    Sites in `standard` are placed by their frames, with `standardised` true or false; None leaves all of them in the
    coordinates of their supports.
    """
    name = site["name"]
    if standardised is None or name not in standard or name not in points:
        return _unconstrain_reparam(points, site)
    u, index = points[name], site["infer"].get("_scan_current_index")
    if index is not None and jnp.ndim(u) > len(site["fn"].shape()):
        u = u[index]
    value, log_det = place(site["fn"], u, standardised)
    numpyro.factor(f"_{name}_log_det", log_det)
    return value
