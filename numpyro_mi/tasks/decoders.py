"""Latent vectors seen through a linear or a neural decoder with normal noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_mi.tasks.task import Task

# Matrix products ask for full precision: accelerators otherwise round the factors to some 10 bits, which
# shifts the mean by more than a small noise forgives and so changes the mutual information.
_PRECISION = "highest"


def linear_vae(num_latents: int = 5, num_data: int = 20, noise: float = 1.0, seed: int = 0, scale: float = 1.0) -> Task:
    """Linear decoder with independent normal noise.

    The model is ``z ~ Normal(0, I)``, ``x | z ~ Normal(W z, noise^2 I)`` with
    ``W = scale * numpy.random.default_rng(seed).standard_normal((num_data, num_latents))``, and
    ``I(z; x) = 1/2 log det(I + W'W / noise^2)`` nats.

    Parameters
    ----------
    num_latents, num_data : int
        Sizes k of ``z`` and n of ``x``.
    noise : float
        Standard deviation of the noise.
    seed : int
        Seed of the weights.
    scale : float
        Standard deviation of the weights.

    Returns
    -------
    Task
        Latent ``z`` of shape (k,), data ``x`` of shape (n,).

    References
    ----------
    The linear normal channel: Cover and Thomas (2006), "Elements of Information Theory", section 9.4.
    """
    if min(num_latents, num_data) < 1 or min(noise, scale) <= 0.0:
        raise ValueError(
            "num_latents and num_data must be at least 1, noise and scale positive, got "
            f"num_latents={num_latents}, num_data={num_data}, noise={noise}, scale={scale}."
        )
    weights = scale * np.random.default_rng(seed).standard_normal((num_data, num_latents))
    # In the basis of the left singular vectors x has independent components; this keeps the quadratic
    # form accurate in single precision even when signal and noise differ by orders of magnitude.
    basis, singular_values, _ = np.linalg.svd(weights, full_matrices=True)
    signal = np.zeros(num_data)
    signal[: singular_values.size] = singular_values
    component_scale = np.hypot(signal, noise)

    def model(x=None):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(num_latents), 1.0).to_event(1))
        loc = jnp.matmul(weights, z, precision=_PRECISION)
        numpyro.sample("x", dist.Normal(loc, noise).to_event(1), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        components = jnp.matmul(values["x"], basis, precision=_PRECISION)
        return dist.Normal(0.0, jnp.asarray(component_scale)).log_prob(components).sum()

    return Task(
        name="linear_vae",
        model=model,
        latent="z",
        data="x",
        mutual_information=float(np.log1p((signal / noise) ** 2).sum() / 2.0),
        log_marginal=log_marginal,
    )


def linear10() -> Task:
    """Linear benchmark: 10 latents, 100 observations, 23.22 nats.

    `linear_vae` with seed 0, unit noise and the scale 1.0766816 which solves
    ``1/2 log det(I + W'W) = 23.22``.

    Returns
    -------
    Task
        Latent ``z`` of shape (10,), data ``x`` of shape (100,).

    References
    ----------
    A benchmark of this package.
    """
    task = linear_vae(num_latents=10, num_data=100, noise=1.0, seed=0, scale=1.0766816)
    return dataclasses.replace(task, name="linear10")


def linear200() -> Task:
    """Linear task with very high mutual information: 40 latents, 100 observations, 200 nats.

    `linear_vae` with seed 0, unit noise and a scale which solves ``1/2 log det(I + W'W) = 200`` (to 1e-6).

    Returns
    -------
    Task
        Latent ``z`` of shape (40,), data ``x`` of shape (100,).

    References
    ----------
    A benchmark of this package.
    """
    task = linear_vae(num_latents=40, num_data=100, noise=1.0, seed=0, scale=16.84418898)
    return dataclasses.replace(task, name="linear200")


def mlp10() -> Task:
    """Neural benchmark: 10 latents decoded to 100 observations, about 29.2 nats.

    With ``r = numpy.random.default_rng(0)``, ``A1 = r.standard_normal((64, 10)) / sqrt(10)`` and then
    ``A2 = r.standard_normal((100, 64)) / sqrt(64)``, the model is ``z ~ Normal(0, I)``,
    ``x | z ~ Normal(A2 tanh(A1 z), 0.1^2 I)``.

    Returns
    -------
    Task
        Latent ``z`` of shape (10,), data ``x`` of shape (100,).

    Notes
    -----
    The mutual information has no closed form. The stated 29.203 nats is a reference with a standard error of
    0.008 (the sampling error of the joint draws), from Laplace importance sampling in double precision on
    100,000 draws, whose lower and upper bounds differ by less than 0.0004. Comparisons finer than that must
    be made pointwise, on the same draws.

    References
    ----------
    A benchmark of this package.
    """
    rng = np.random.default_rng(0)
    first = rng.standard_normal((64, 10)) / np.sqrt(10)
    second = rng.standard_normal((100, 64)) / np.sqrt(64)

    def model(x=None):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(10), 1.0).to_event(1))
        hidden = jnp.tanh(jnp.matmul(first, z, precision=_PRECISION))
        loc = jnp.matmul(second, hidden, precision=_PRECISION)
        numpyro.sample("x", dist.Normal(loc, 0.1).to_event(1), obs=x)

    return Task(
        name="mlp10",
        model=model,
        latent="z",
        data="x",
        mutual_information=29.203,
        mutual_information_se=0.008,
        note="The mutual information is a reference value, 29.203 +- 0.008 nats, not an exact one.",
    )
