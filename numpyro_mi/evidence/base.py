"""What an evidence estimate is."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from numpyro_mi.annealing.chains import Path
from numpyro_mi.guides.base import Guide
from numpyro_mi.targets import AnnealedTarget


class Evidence(NamedTuple):
    """Stochastic bounds on one `log Z`, in nats.

    Attributes
    ----------
    elbo
        `E[elbo] <= log Z`.
    eubo
        `E[eubo] >= log Z`, given that the run was handed an exact draw of the target.
    stats
        By name: the log-weights behind both, acceptance and cost.
    """

    elbo: jax.Array
    eubo: jax.Array
    stats: dict[str, Any]


class EvidenceMethod(Protocol):
    """A method that bounds the evidence of one target from both sides.

    Attributes
    ----------
    num_particles
        Weights a bound.
    kernel
        The transitions; None where the method makes none.
    base
        The guide that the path starts from; None: the prior.
    """

    @property
    def num_particles(self) -> int: ...  # noqa: D102
    @property
    def kernel(self) -> Any: ...  # noqa: D102
    @property
    def base(self) -> Guide | None: ...  # noqa: D102

    def betas(self) -> np.ndarray:
        """Temperatures, shape `(T+1,)`, float64."""

    def evidence(self, target: AnnealedTarget, path: Path, exact: jax.Array, rng_key: jax.Array) -> Evidence:
        """Bounds on `log Z` of one target, given `exact`, one exact draw of it."""


def log_mean_exp(values: jax.Array) -> jax.Array:
    """Log of the mean of exponentials over the first axis; `-inf` terms count, NaN spoils."""
    return logsumexp(values, axis=0) - jnp.log(values.shape[0])
