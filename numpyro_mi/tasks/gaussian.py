"""Jointly normal tasks: the mutual information is a log determinant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_mi.tasks.task import Task


def correlated_normal(rho: float = 0.75) -> Task:
    """Two standard normal variables with correlation `rho`.

    The model is ``z ~ Normal(0, 1)``, ``x | z ~ Normal(rho z, sqrt(1 - rho^2))`` and
    ``I(z; x) = -1/2 log(1 - rho^2)`` nats.

    Parameters
    ----------
    rho : float
        Correlation, with ``|rho| < 1``.

    Returns
    -------
    Task
        Scalar latent ``z``, scalar data ``x``.

    References
    ----------
    Gel'fand and Yaglom (1957), "Calculation of the amount of information about a random function contained
    in another such function".
    """
    if not abs(rho) < 1.0:
        raise ValueError(f"rho must lie strictly between -1 and 1, got {rho}.")

    def model(x=None):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(rho * z, math.sqrt(1.0 - rho**2)), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        return dist.Normal(0.0, 1.0).log_prob(values["x"])

    return Task(
        name="correlated_normal",
        model=model,
        latent="z",
        data="x",
        mutual_information=-0.5 * math.log1p(-(rho**2)),
        log_marginal=log_marginal,
    )


def multivariate_normal(canonical_correlations: Sequence[float] = (0.9, 0.7, 0.3), seed: int = 0) -> Task:
    """Two standard normal vectors with given canonical correlations.

    With ``Q`` a fixed random rotation and ``R = diag(canonical_correlations)``, the model is
    ``z ~ Normal(0, I)``, ``x | z ~ Normal(Q R z, Q (I - R^2) Q')``. Then ``x ~ Normal(0, I)`` and
    ``I(z; x) = -1/2 sum_i log(1 - rho_i^2)`` nats.

    Parameters
    ----------
    canonical_correlations : sequence of float, shape (d,)
        Canonical correlations, each strictly between -1 and 1.
    seed : int
        Seed of the rotation.

    Returns
    -------
    Task
        Latent ``z`` and data ``x``, both of shape (d,).

    References
    ----------
    Gel'fand and Yaglom (1957), as in `correlated_normal`.
    """
    rho = np.asarray(canonical_correlations, dtype=np.float64)
    if rho.ndim != 1 or rho.size == 0 or not np.all(np.abs(rho) < 1.0):
        raise ValueError(f"canonical_correlations must be a vector strictly between -1 and 1, got {rho}.")
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((rho.size, rho.size)))
    scale_tril = np.linalg.cholesky((rotation * (1.0 - rho**2)) @ rotation.T)

    def model(x=None):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(rho.size), 1.0).to_event(1))
        loc = jnp.matmul(rotation, rho * z, precision="highest")
        numpyro.sample("x", dist.MultivariateNormal(loc, scale_tril=jnp.asarray(scale_tril)), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        return dist.Normal(0.0, 1.0).log_prob(values["x"]).sum()

    return Task(
        name="multivariate_normal",
        model=model,
        latent="z",
        data="x",
        mutual_information=float(-0.5 * np.log1p(-(rho**2)).sum()),
        log_marginal=log_marginal,
    )


def hierarchical_normal(
    num_groups: int = 8, noise: float = 1.0, hyper_scale: float = 2.0, group_scale: float = 1.0
) -> Task:
    """Group means under a shared normal hyperparameter, which is a nuisance.

    The model is ``mu ~ Normal(0, hyper_scale)`` and, in a plate, ``z_j | mu ~ Normal(mu, group_scale)`` and
    ``x_j | z_j ~ Normal(z_j, noise)``. The marginal covariance of ``z`` is
    ``S = group_scale^2 I + hyper_scale^2 11'`` and ``I(z; x) = 1/2 log det(I + S / noise^2)`` nats. Given
    ``z`` the data do not depend on ``mu``, so this is also ``I((mu, z); x)``.

    Parameters
    ----------
    num_groups : int
        Number of groups J.
    noise, hyper_scale, group_scale : float
        Standard deviations, all positive.

    Returns
    -------
    Task
        Latent ``z`` and data ``x``, both of shape (J,), in the plate ``groups``; ``mu`` is in neither set.

    References
    ----------
    Textbook identity; the eigenvalues of ``S`` are ``group_scale^2`` (J - 1 times) and
    ``group_scale^2 + J hyper_scale^2``.
    """
    if num_groups < 1 or min(noise, hyper_scale, group_scale) <= 0.0:
        raise ValueError(
            "num_groups must be at least 1 and the scales positive, got "
            f"num_groups={num_groups}, noise={noise}, hyper_scale={hyper_scale}, group_scale={group_scale}."
        )
    mean_variance = group_scale**2 + num_groups * hyper_scale**2
    information = 0.5 * (
        (num_groups - 1) * math.log1p((group_scale / noise) ** 2) + math.log1p(mean_variance / noise**2)
    )

    def model(x=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, hyper_scale))
        with numpyro.plate("groups", num_groups):
            z = numpyro.sample("z", dist.Normal(mu, group_scale))
            numpyro.sample("x", dist.Normal(z, noise), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        x = values["x"]
        within = group_scale**2 + noise**2
        between = mean_variance + noise**2
        log_det = (num_groups - 1) * math.log(within) + math.log(between)
        square = ((x - x.mean()) ** 2).sum() / within + num_groups * x.mean() ** 2 / between
        return -0.5 * (num_groups * math.log(2.0 * math.pi) + log_det + square)

    return Task(
        name="hierarchical_normal",
        model=model,
        latent="z",
        data="x",
        mutual_information=information,
        log_marginal=log_marginal,
        note="The hyperparameter mu belongs neither to the latent nor to the data.",
    )
