"""Independent multi-sample annealed importance sampling; one particle is the single chain."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from numpyro_mi.annealing.chains import FORWARD, REVERSE, Path, Randomness, forward_chain, reverse_chain
from numpyro_mi.annealing.kernels.base import Kernel
from numpyro_mi.evidence.base import Evidence, log_mean_exp
from numpyro_mi.targets import AnnealedTarget


@dataclass(frozen=True)
class IM:
    """Independent multi-sample scheme.

    The weight is the mean over K particles. Lower evidence bound: K forward chains. Upper: one
    reverse chain from the exact draw and K-1 forward chains (they may be the same ones: each
    expectation is unaffected). Both are tight as K or the number of temperatures grows, and
    monotone in K. The lower bound on mutual information gains at most `log K` over a single chain.

    References
    ----------
    Brekelmans et al., ICLR 2022 (independent multi-sample AIS).
    """

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
        forward = jax.vmap(
            lambda k: forward_chain(target, kernel, path, randomness.base(k), lambda t: randomness.noise(FORWARD, k, t))
        )(jnp.arange(num_particles))
        zero = jnp.asarray(0)
        reverse = reverse_chain(target, kernel, path, exact, lambda t: randomness.noise(REVERSE, zero, t))
        mixed = jnp.concatenate([reverse.log_weight[None], forward.log_weight[1:]])
        stats = {
            "forward_log_weight": forward.log_weight,
            "reverse_log_weight": reverse.log_weight[None],
            "forward_accept_prob": forward.accept_prob.mean(0),
            "reverse_accept_prob": reverse.accept_prob,
            "forward_num_grad": forward.num_grad.sum(),
            "reverse_num_grad": reverse.num_grad,
        }
        return Evidence(log_mean_exp(forward.log_weight), log_mean_exp(mixed), stats)
