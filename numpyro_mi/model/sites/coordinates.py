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
from jax.scipy.special import digamma, polygamma
from numpyro.distributions import biject_to
from numpyro.distributions.distribution import Distribution
from numpyro.distributions.util import sum_rightmost
from numpyro.infer.util import _unconstrain_reparam

from numpyro_mi.model.sites.site import WRAPPERS
from numpyro_mi.model.sites.slices import Element

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
    dist.LogNormal,
)
_SCALE = (dist.HalfNormal, dist.HalfCauchy, dist.Weibull)
_MULTIVARIATE = (dist.MultivariateNormal, dist.MultivariateStudentT)


class Frame(NamedTuple):
    """What standardises a site: `outer^-1(value) = loc + scale u`, with `outer` the map of the support.

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
    if isinstance(fn, Element):
        return _frame_at(fn)
    if isinstance(fn, WRAPPERS):
        return frame(fn.base_dist)
    kind = type(fn)
    if kind in _LOCATION_SCALE:
        return Frame(jnp.asarray(fn.loc), jnp.asarray(fn.scale), "elements")
    if kind in _SCALE:
        return Frame(jnp.log(fn.scale), jnp.ones(()), "elements")
    if kind is dist.Exponential:
        return Frame(-jnp.log(fn.rate), jnp.ones(()), "elements")
    if kind in (dist.Gamma, dist.InverseGamma):
        loc, scale = _log_gamma(fn.concentration)
        return Frame((loc - jnp.log(fn.rate)) * (1 if kind is dist.Gamma else -1), scale, "elements")
    if kind is dist.Beta:
        (one, scale_one), (zero, scale_zero) = map(_log_gamma, (fn.concentration1, fn.concentration0))
        return Frame(one - zero, jnp.hypot(scale_one, scale_zero), "elements")
    if kind in _MULTIVARIATE:
        return Frame(jnp.asarray(fn.loc), jnp.asarray(fn.scale_tril), "matrix")
    if kind is dist.GaussianRandomWalk:
        return Frame(jnp.zeros(()), jnp.asarray(fn.scale)[..., None], "walk")
    return None


def _frame_at(fn: Element) -> Frame | None:
    """The frame of one element of a batch."""
    found, shape = frame(fn.base_dist), fn.base_dist.shape()
    if found is None:
        return None
    scale = jnp.broadcast_to(found.scale, (*shape, shape[-1]) if found.linear == "matrix" else shape)
    return Frame(jnp.broadcast_to(found.loc, shape)[fn.cell], scale[fn.cell], found.linear)


def _log_gamma(concentration: Any) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of the log of a gamma variable."""
    concentration = jnp.asarray(concentration, float)
    return digamma(concentration), jnp.sqrt(polygamma(1, concentration))


def place(fn: Distribution, u: jax.Array, standardised: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The value of a site with a frame at u, and the log-determinant, an entry for each element of the batch."""
    inner, log_det = unstandardised(fn, u, standardised)
    outer = biject_to(fn.support)
    value = outer(inner)
    outer_log_det = outer.log_abs_det_jacobian(inner, value)
    events = fn.event_dim - (jnp.ndim(u) - jnp.ndim(outer_log_det))
    return value, sum_rightmost(log_det, fn.event_dim) + sum_rightmost(outer_log_det, events)


def unstandardised(fn: Distribution, u: jax.Array, standardised: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A point of a site with a frame in the coordinates of its support, and the log-determinant by element."""
    found = frame(fn)
    assert found is not None
    loc, scale, linear = found
    if linear == "matrix":
        moved, widths = (scale @ u[..., None])[..., 0], jnp.diagonal(scale, axis1=-2, axis2=-1)
    else:
        moved, widths = scale * (jnp.cumsum(u, -1) if linear == "walk" else u), scale
    log_det = jnp.broadcast_to(jnp.log(widths), jnp.shape(u))
    return jnp.where(standardised, loc + moved, u), jnp.where(standardised, log_det, 0.0)


def standardise(fn: Distribution, inner: jax.Array, standardised: jax.Array) -> jax.Array:
    """The inverse of `unstandardised`."""
    found = frame(fn)
    assert found is not None
    loc, scale, linear = found
    centred = inner - loc
    if linear == "matrix":
        scale = jnp.broadcast_to(scale, (*centred.shape, centred.shape[-1]))
        moved = solve_triangular(scale, centred[..., None], lower=True)[..., 0]
    else:
        moved = (jnp.diff(centred, prepend=0.0) if linear == "walk" else centred) / scale
    return jnp.where(standardised, moved, inner)


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
