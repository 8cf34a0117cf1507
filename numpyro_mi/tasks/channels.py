"""Tasks with jumps: a symbol channel and uniform noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import xlogy

from numpyro_mi.tasks.task import Task


def noisy_channel(num_symbols: int = 8, reroll: float = 0.2) -> Task:
    """Symbol read off a uniform variable and sometimes replaced by a random one.

    The model is ``z ~ Uniform(0, 1)``, the symbol ``floor(A z)`` of ``A = num_symbols``, and ``x`` is this
    symbol or, with probability r, a uniformly drawn one (possibly the same). With
    ``s = 1 - r (1 - 1/A)``, the probability that the symbol survives,
    ``I(z; x) = log A + s log s + (1 - s) log(r / A)`` nats.

    Parameters
    ----------
    num_symbols : int
        Number A of symbols, at least 2.
    reroll : float
        Probability r of a replacement, between 0 and 1.

    Returns
    -------
    Task
        Scalar latent ``z``, scalar integer data ``x`` in 0..A-1.

    References
    ----------
    The symmetric channel: Cover and Thomas (2006), "Elements of Information Theory", section 7.2.
    """
    if num_symbols < 2 or not 0.0 <= reroll <= 1.0:
        raise ValueError(
            "num_symbols must be at least 2 and reroll between 0 and 1, got "
            f"num_symbols={num_symbols}, reroll={reroll}."
        )
    others = reroll * (1.0 - 1.0 / num_symbols)
    # At reroll = 1 the terms cancel up to rounding, which may be negative.
    information = max(
        0.0,
        math.log(num_symbols) + (1.0 - others) * math.log1p(-others) + xlogy(others, reroll / num_symbols),
    )

    def model(x=None):
        z = numpyro.sample("z", dist.Uniform(0.0, 1.0))
        symbol = jnp.clip(jnp.floor(num_symbols * z), 0, num_symbols - 1)
        kept = jnp.where(jnp.arange(num_symbols) == symbol, 1.0 - reroll, 0.0)
        numpyro.sample("x", dist.Categorical(probs=kept + reroll / num_symbols), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        return dist.Categorical(probs=jnp.full(num_symbols, 1.0 / num_symbols)).log_prob(values["x"])

    return Task(
        name="noisy_channel",
        model=model,
        latent="z",
        data="x",
        mutual_information=float(information),
        log_marginal=log_marginal,
        note="log p(x|z) is piecewise constant in z: it jumps, and its gradient is zero.",
    )


def uniform_noise(width: float = 0.1) -> Task:
    """Uniform variable observed with uniform noise.

    The model is ``z ~ Uniform(0, 1)``, ``x | z ~ Uniform(z - e, z + e)`` with ``e = width``, and ``I(z; x)``
    is ``e - log(2e)`` for ``e <= 1/2`` and ``1 / (4e)`` beyond, in nats.

    Parameters
    ----------
    width : float
        Half the length e of the noise interval, positive.

    Returns
    -------
    Task
        Scalar latent ``z``, scalar data ``x``.

    Notes
    -----
    The support is hard: the density of ``z`` given ``x`` is zero beyond ``|x - z| = e``. NumPyro's `Uniform`
    returns the same density inside and outside of its interval unless it validates its arguments, so the
    model sets ``validate_args=True``. Outside of `jax.jit` and `jax.vmap` NumPyro then warns about values
    beyond the interval.

    References
    ----------
    Czyz, Grabowski, Vogt, Beerenwinkel and Marx (2023), "Beyond Normal: On the Evaluation of Mutual
    Information Estimators".
    """
    if not width > 0.0:
        raise ValueError(f"width must be positive, got {width}.")

    def model(x=None):
        z = numpyro.sample("z", dist.Uniform(0.0, 1.0))
        numpyro.sample("x", dist.Uniform(z - width, z + width, validate_args=True), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        x = values["x"]
        overlap = jnp.minimum(1.0, x + width) - jnp.maximum(0.0, x - width)
        inside = overlap > 0.0
        return jnp.where(inside, jnp.log(jnp.where(inside, overlap, 1.0)) - np.log(2.0 * width), -jnp.inf)

    return Task(
        name="uniform_noise",
        model=model,
        latent="z",
        data="x",
        mutual_information=width - math.log(2.0 * width) if width <= 0.5 else 1.0 / (4.0 * width),
        log_marginal=log_marginal,
        note="Hard support: p(x|z) is zero for |x - z| > width.",
    )
