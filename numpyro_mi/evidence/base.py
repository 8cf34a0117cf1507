"""What an evidence estimate is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp


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


def log_mean_exp(values: jax.Array) -> jax.Array:
    """Log of the mean of exponentials over the first axis; `-inf` terms count, NaN spoils."""
    return logsumexp(values, axis=0) - jnp.log(values.shape[0])
