"""Conjugate tasks: the marginal of the data is a named distribution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from scipy import special

from numpyro_mi.tasks.task import Task


def gamma_exponential(concentration: float = 2.0) -> Task:
    """Exponential waiting time with a gamma distributed rate.

    The model is ``z ~ Gamma(a, 1)``, ``x | z ~ Exponential(z)``; ``x`` is Lomax distributed,
    ``p(x) = a (1 + x)^-(a + 1)``, and ``I(z; x) = psi(a) - log a + 1/a`` nats.

    Parameters
    ----------
    concentration : float
        Shape ``a`` of the gamma distribution, positive.

    Returns
    -------
    Task
        Scalar latent ``z`` (a rate), scalar data ``x`` (a time).

    References
    ----------
    Kraskov, Stoegbauer and Grassberger (2004), "Estimating mutual information".
    """
    if not concentration > 0.0:
        raise ValueError(f"concentration must be positive, got {concentration}.")

    def model(x=None):
        z = numpyro.sample("z", dist.Gamma(concentration, 1.0))
        numpyro.sample("x", dist.Exponential(z), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        return math.log(concentration) - (concentration + 1.0) * jnp.log1p(values["x"])

    return Task(
        name="gamma_exponential",
        model=model,
        latent="z",
        data="x",
        mutual_information=float(special.digamma(concentration) - math.log(concentration) + 1.0 / concentration),
        log_marginal=log_marginal,
    )


def _dirichlet_information(concentration: np.ndarray, counts: np.ndarray) -> float:
    """Sum the mutual information of Dirichlet probabilities and multinomial counts over all `counts`.

    It is ``sum_x P(x) (E[log p(x|z) | x] - log P(x))``, in which the multinomial coefficient cancels.
    """
    posterior = concentration + counts
    log_ratio = (
        special.gammaln(posterior).sum(1)
        - special.gammaln(posterior.sum(1))
        - special.gammaln(concentration).sum()
        + special.gammaln(concentration.sum())
    )
    log_coefficient = special.gammaln(counts.sum(1) + 1.0) - special.gammaln(counts + 1.0).sum(1)
    expected = (counts * (special.digamma(posterior) - special.digamma(posterior.sum(1))[:, None])).sum(1)
    return float(np.sum(np.exp(log_coefficient + log_ratio) * (expected - log_ratio)))


def beta_binomial(alpha: float = 1.5, beta: float = 2.5, total_count: int = 20) -> Task:
    """Binomial successes with a beta distributed probability.

    The model is ``z ~ Beta(alpha, beta)``, ``x | z ~ Binomial(n, z)``. With ``A = alpha + x``,
    ``B = beta + n - x`` and the beta-binomial probabilities ``P(x)``, the mutual information in nats is the
    sum over x = 0..n of
    ``P(x) [x (psi(A) - psi(A + B)) + (n - x) (psi(B) - psi(A + B)) - log(Be(A, B) / Be(alpha, beta))]``,
    where ``Be`` is the beta function.

    Parameters
    ----------
    alpha, beta : float
        Parameters of the beta distribution, positive.
    total_count : int
        Number n of trials.

    Returns
    -------
    Task
        Scalar latent ``z``, scalar integer data ``x``.

    References
    ----------
    Sum over the finite range of ``x``, from the conjugate posterior.
    """
    if min(alpha, beta) <= 0.0 or total_count < 0:
        raise ValueError(
            "alpha and beta must be positive and total_count not negative, got "
            f"alpha={alpha}, beta={beta}, total_count={total_count}."
        )
    successes = np.arange(total_count + 1)

    def model(x=None):
        z = numpyro.sample("z", dist.Beta(alpha, beta))
        numpyro.sample("x", dist.Binomial(total_count, probs=z), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        return dist.BetaBinomial(alpha, beta, total_count).log_prob(values["x"])

    return Task(
        name="beta_binomial",
        model=model,
        latent="z",
        data="x",
        mutual_information=_dirichlet_information(
            np.array([alpha, beta]), np.stack([successes, total_count - successes], axis=1)
        ),
        log_marginal=log_marginal,
    )


def dirichlet_multinomial(concentration: Sequence[float] = (1.0, 2.0, 3.0), total_count: int = 12) -> Task:
    """Category counts with Dirichlet distributed probabilities.

    The model is ``z ~ Dirichlet(a)``, ``x | z ~ Multinomial(n, z)``. With ``A = sum_i a_i`` and the
    Dirichlet-multinomial probabilities ``P(x)``, the mutual information is
    ``sum_x P(x) [sum_i x_i (psi(a_i + x_i) - psi(A + n)) - log Be(a + x)/Be(a)]`` nats, where ``Be`` is the
    multivariate beta function and x runs over the ``C(n + d - 1, d - 1)`` vectors of d counts with sum n.

    Parameters
    ----------
    concentration : sequence of float, shape (d,)
        Parameters ``a`` of the Dirichlet distribution, positive.
    total_count : int
        Number n of trials.

    Returns
    -------
    Task
        Latent ``z`` of shape (d,) on the simplex, integer data ``x`` of shape (d,).

    References
    ----------
    Sum over the finite range of ``x``, from the conjugate posterior.
    """
    a = np.asarray(concentration, dtype=np.float64)
    if a.ndim != 1 or a.size < 2 or not np.all(a > 0.0) or total_count < 0:
        raise ValueError(
            "concentration must be a positive vector of length 2 or more and total_count not negative, got "
            f"concentration={a}, total_count={total_count}."
        )
    # Stars and bars: the positions of d - 1 bars among n + d - 1 places.
    places = total_count + a.size - 1
    bars = np.array(list(itertools.combinations(range(places), a.size - 1)))
    counts = np.diff(bars, axis=1, prepend=-1, append=places) - 1

    def model(x=None):
        z = numpyro.sample("z", dist.Dirichlet(jnp.asarray(a)))
        numpyro.sample("x", dist.Multinomial(total_count, probs=z), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        return dist.DirichletMultinomial(jnp.asarray(a), total_count).log_prob(values["x"])

    return Task(
        name="dirichlet_multinomial",
        model=model,
        latent="z",
        data="x",
        mutual_information=_dirichlet_information(a, counts),
        log_marginal=log_marginal,
    )


def poisson_gamma(concentration: float = 2.0, rate: float = 0.5, num_counts: int = 1) -> Task:
    """Poisson counts with a common gamma distributed mean.

    The model is ``z ~ Gamma(a, b)`` and n counts ``x_j | z ~ Poisson(z)`` in a plate. The sum t of the counts
    is sufficient and negative binomial, ``P(t) = Gamma(a + t)/(Gamma(a) t!) (b/(b + n))^a (n/(b + n))^t``,
    so the mutual information in nats is
    ``sum_t P(t) [t (psi(a + t) - log(b + n) + log n) - n (a + t)/(b + n) - log t! - log P(t)]``.

    Parameters
    ----------
    concentration, rate : float
        Shape ``a`` and rate ``b`` of the gamma distribution, positive.
    num_counts : int
        Number n of counts.

    Returns
    -------
    Task
        Scalar latent ``z``, integer data ``x`` of shape (n,) in the plate ``counts``.

    References
    ----------
    Sum over t, from the conjugate posterior, cut where the remaining probability is below 1e-15.
    """
    a, b, n = float(concentration), float(rate), num_counts
    if min(a, b) <= 0.0 or n < 1:
        raise ValueError(
            "concentration and rate must be positive and num_counts at least 1, got "
            f"concentration={concentration}, rate={rate}, num_counts={num_counts}."
        )
    last = 64
    while special.betainc(last + 1.0, a, n / (b + n)) > 1e-15:
        last *= 2
    t = np.arange(last + 1.0)
    log_prior = a * math.log(b) - special.gammaln(a)
    log_ratio = log_prior + special.gammaln(a + t) - (a + t) * math.log(b + n)
    log_probability = log_ratio + t * math.log(n) - special.gammaln(t + 1.0)
    # n^t and t! cancel between p(t | z) and P(t).
    expected = t * (special.digamma(a + t) - math.log(b + n)) - n * (a + t) / (b + n)
    information = float(np.sum(np.exp(log_probability) * (expected - log_ratio)))

    def model(x=None):
        z = numpyro.sample("z", dist.Gamma(a, b))
        with numpyro.plate("counts", n):
            numpyro.sample("x", dist.Poisson(z), obs=x)

    def log_marginal(values: Mapping[str, Any]):
        x = values["x"]
        total = x.sum()
        return log_prior + gammaln(a + total) - (a + total) * math.log(b + n) - gammaln(x + 1.0).sum()

    return Task(
        name="poisson_gamma",
        model=model,
        latent="z",
        data="x",
        mutual_information=information,
        log_marginal=log_marginal,
    )
