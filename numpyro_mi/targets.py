"""The pivot type: one unnormalised density between a base that can be sampled and a target."""

from collections.abc import Callable
from typing import NamedTuple

import jax


class AnnealedTarget(NamedTuple):
    """A geometric path `log f_b(u) = log pi_0(u) + b * log_ratio(u)` over a flat unconstrained vector.

    Attributes
    ----------
    sample_base
        `rng_key -> u`, shape `(d,)`: an exact draw of the normalised base.
    log_base
        `u -> log pi_0(u)`, a scalar in nats, normalised.
    log_ratio
        `u -> log f_1(u) - log pi_0(u)`; with the prior as base, the log-likelihood.
    sample_target
        `rng_key -> u`: an exact draw of the normalised target, where the user gave a posterior sampler.
    beyond
        `u -> bool`: where chains do not move, neither in nor out, and densities need not be evaluated; None: nowhere.
    """

    sample_base: Callable[[jax.Array], jax.Array]
    log_base: Callable[[jax.Array], jax.Array]
    log_ratio: Callable[[jax.Array], jax.Array]
    sample_target: Callable[[jax.Array], jax.Array] | None = None
    beyond: Callable[[jax.Array], jax.Array] | None = None
