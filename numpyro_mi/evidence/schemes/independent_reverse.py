"""Independent reverse multi-sample annealed importance sampling."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from numpyro_mi.annealing.chains import FORWARD, REVERSE, Path, Randomness, forward_chain, reverse_chain
from numpyro_mi.annealing.kernels.base import Kernel
from numpyro_mi.evidence.base import Evidence, log_mean_exp
from numpyro_mi.targets import AnnealedTarget


@dataclass(frozen=True)
class IR:
    """Independent reverse scheme, for models whose exact posterior can be sampled.

    The weight is the harmonic mean over K chains with independent end points. Upper evidence bound:
    K reverse chains, the first from the simulated draw, the others from the posterior sampler.
    Lower: one forward chain and K-1 reverse chains from the posterior sampler.

    Parameters
    ----------
    posterior_sampler
        `posterior_sampler(rng_key, data) -> dict`: one exact draw of the latents that are integrated out
        given `data`, a dict of the sites held, on the model's own (constrained) space. An inexact
        sampler voids both bounds. Needs a mutual information with one integral.

    References
    ----------
    Brekelmans et al., ICLR 2022 (independent reverse multi-sample AIS).
    """

    # It is staged with the model, afresh at every call, so compiled programs do not depend on it.
    posterior_sampler: Callable = field(compare=False)

    def __post_init__(self) -> None:
        if not callable(self.posterior_sampler):
            raise TypeError(
                "IR needs posterior_sampler, a callable (rng_key, data) -> dict of latents, "
                f"got {type(self.posterior_sampler).__name__}."
            )

    def evidence(
        self,
        target: AnnealedTarget,
        kernel: Kernel,
        path: Path,
        exact: jax.Array,
        num_particles: int,
        randomness: Randomness,
    ) -> Evidence:
        """Bounds on `log Z` of one target, given `exact`, one exact draw of it."""
        zero = jnp.asarray(0)
        forward = forward_chain(
            target, kernel, path, randomness.base(zero), lambda t: randomness.noise(FORWARD, zero, t)
        )
        # The other K-1 chains serve both bounds; each expectation is unaffected.
        others = jax.vmap(randomness.target)(jnp.arange(1, num_particles))
        starts = jnp.concatenate([exact[None], others.reshape(num_particles - 1, *exact.shape)])
        reverse = jax.vmap(
            lambda u, k: reverse_chain(target, kernel, path, u, lambda t: randomness.noise(REVERSE, k, t))
        )(starts, jnp.arange(num_particles))
        mixed = jnp.concatenate([forward.log_weight[None], reverse.log_weight[1:]])
        stats = {
            "forward_log_weight": mixed,
            "reverse_log_weight": reverse.log_weight,
            "forward_accept_prob": forward.accept_prob,
            "reverse_accept_prob": reverse.accept_prob.mean(0),
            "forward_num_grad": forward.num_grad,
            "reverse_num_grad": reverse.num_grad.sum(),
        }
        return Evidence(-log_mean_exp(-mixed), -log_mean_exp(-reverse.log_weight), stats)
