"""Beta sites by their logits: near 0 and 1 the value itself tells neither draws nor densities apart.

With a small concentration percents of a Beta's mass lie nearer to 1 than the last float below it, and a tail beyond
what NumPyro clips values at has another height than the one that its clipped values show. The logit has no such edge.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import random
from jax.scipy.special import betaln
from numpyro.distributions import Beta
from numpyro.distributions.distribution import Distribution

from numpyro_mi.model.sites.site import WRAPPERS, unwrapped

_CLOSE = 1e-5  # between a draw and its logit; what differs more was drawn in another way


def drawn_point(site: Mapping[str, Any], point: jax.Array) -> jax.Array:
    """The unconstrained point of a site's draw, for a Beta with the digits that the draw itself lacks.

    `point` is what the draw's value gives. It stands where the draw's key is not known or does not lead to the draw.
    """
    key = site["kwargs"].get("rng_key")
    if site["is_observed"] or key is None or not is_beta(site["fn"]):
        return point

    def sample(base: Beta) -> Callable:
        concentrations = jnp.stack(jnp.broadcast_arrays(base.concentration1, base.concentration0), axis=-1)

        def drawn(rng_key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
            # As jax.random.dirichlet draws, before it exponentiates.
            gammas = random.loggamma(rng_key, concentrations, (*sample_shape, *concentrations.shape))
            return gammas[..., 0] - gammas[..., 1]

        return drawn

    logit = _with(site["fn"], "sample", sample)(rng_key=key, sample_shape=site["kwargs"].get("sample_shape", ()))
    if jnp.shape(logit) != jnp.shape(point):
        return point
    return jnp.where(jnp.abs(jax.nn.sigmoid(logit) - site["value"]) < _CLOSE, logit, point)


def by_logit(fn: Distribution, logit: jax.Array) -> Distribution:
    """A copy of a distribution whose `log_prob`, if it is a Beta, is that of the value with this logit."""
    if not is_beta(fn):
        return fn

    def log_prob(base: Beta) -> Callable:
        one, zero = base.concentration1, base.concentration0
        ends = (one - 1) * jax.nn.log_sigmoid(logit) + (zero - 1) * jax.nn.log_sigmoid(-logit)
        return lambda value, *args: ends - betaln(one, zero)

    return _with(fn, "log_prob", log_prob)


def is_beta(fn: Distribution) -> bool:
    """Whether a site is drawn and evaluated by its logit."""
    base = unwrapped(fn)
    own = type(base)
    return isinstance(base, Beta) and own.sample is Beta.sample and own.log_prob is Beta.log_prob


def _with(fn: Distribution, name: str, method: Callable[[Beta], Callable]) -> Distribution:
    """A copy with one method of the distribution inside expand, to_event and mask replaced."""
    fn = copy.copy(fn)
    if isinstance(fn, WRAPPERS):
        fn.base_dist = _with(fn.base_dist, name, method)
    else:
        setattr(fn, name, method(fn))
    return fn
