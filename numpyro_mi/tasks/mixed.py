"""Models with discrete sites, or with a scale that is not known: finite sums, quadrature, Student's t."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy import special

from numpyro_mi.tasks.task import Task


def binary_channel() -> Task:
    """A Bernoulli latent behind a Bernoulli observation: a sum of four terms.

    The model is ``z ~ Bernoulli(0.4)``, ``x ~ Bernoulli((0.5 + z) / 2)``.

    Returns
    -------
    Task
        Scalar binary latent ``z`` and data ``x``.
    """
    prior, likelihood = np.array([0.6, 0.4]), np.array([0.25, 0.75])

    def model(x=None):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Bernoulli((0.5 + z) / 2), obs=x)

    joint = prior[:, None] * np.stack([1 - likelihood, likelihood], axis=1)
    information = (joint * np.log(joint / (prior[:, None] * joint.sum(0)))).sum()
    return Task(name="binary_channel", model=model, latent="z", data="x", mutual_information=float(information))


def gaussian_mixture(label_is_latent: bool = True, num_observations: int = 4) -> Task:
    """Observations of one of two normal components, each around a level of its own.

    In a plate, ``z ~ Normal(0, 1)``, ``k ~ Categorical(0.3, 0.7)`` and ``x ~ Normal(z + 3 k, 0.5)``.

    Parameters
    ----------
    label_is_latent : bool
        Whether the labels ``k`` are asked about, with the levels ``z`` as nuisances, or the other way round.
    num_observations : int
        Size of the plate.

    Returns
    -------
    Task
        Latent ``k`` or ``z``, data ``x``, all of shape (num_observations,). The truth is by quadrature.
    """
    probs, shift, noise = np.array([0.3, 0.7]), 3.0, 0.5
    spread = math.hypot(1.0, noise)

    def model(x=None):
        with numpyro.plate("observations", num_observations):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            k = numpyro.sample("k", dist.Categorical(jnp.array(probs)))
            numpyro.sample("x", dist.Normal(z + shift * k, noise), obs=x)

    def mixture(x: Any, loc: Any, scale: float) -> Any:
        each = [math.log(p) + dist.Normal(loc + shift * k, scale).log_prob(x) for k, p in enumerate(probs)]
        return jnp.logaddexp(*each)

    def pointwise(values: Any) -> Any:
        x, z, k = values["x"], values["z"], values["k"]
        own = dist.Normal(shift * k, spread).log_prob(x) if label_is_latent else mixture(x, z, noise)
        return (own - mixture(x, 0.0, spread)).sum()

    entropy = _mixture_entropy(probs, shift, spread)
    given = (
        0.5 * math.log(2 * math.pi * math.e * spread**2) if label_is_latent else _mixture_entropy(probs, shift, noise)
    )
    return Task(
        name="mixture_labels" if label_is_latent else "mixture_levels",
        model=model,
        latent="k" if label_is_latent else "z",
        data="x",
        mutual_information=float(num_observations * (entropy - given)),
        pointwise=pointwise,
    )


def _mixture_entropy(probs: np.ndarray, shift: float, scale: float) -> float:
    x = np.linspace(-12 * scale, shift + 12 * scale, 20_001)
    density = sum(p * np.exp(-0.5 * ((x - shift * k) / scale) ** 2) for k, p in enumerate(probs)) / (
        scale * math.sqrt(2 * math.pi)
    )
    return float(np.trapezoid(-special.xlogy(density, density), x))


def normal_gamma_regression(with_precision: bool = False) -> Task:
    """Linear regression with an unknown precision: all marginals are Student's t.

    The model is ``tau ~ Gamma(3, 2)``, ``w ~ Normal(0, 2 / sqrt(tau))`` for two coefficients, and
    ``x_i ~ Normal(a_i w_1 + b_i w_2, 1 / sqrt(tau))`` for six observations.

    Parameters
    ----------
    with_precision : bool
        Whether ``tau`` is asked about together with ``w``; otherwise it is a nuisance.

    Returns
    -------
    Task
        Latent ``w`` of shape (2,), or ``w`` and scalar ``tau``; data ``x`` of shape (6,).

    References
    ----------
    Textbook conjugate analysis; the entropy of a multivariate t as in Kotz and Nadarajah, "Multivariate t
    Distributions and Their Applications", 2004.
    """
    shape, rate, prior_scale = 3.0, 2.0, 2.0
    design = np.stack([np.ones(6), np.linspace(-1.0, 1.0, 6)], axis=1)

    def model(x=None):
        tau = numpyro.sample("tau", dist.Gamma(shape, rate))
        scale = 1 / jnp.sqrt(tau)
        w = numpyro.sample("w", dist.Normal(jnp.zeros(2), prior_scale * scale).to_event(1))
        loc = jnp.matmul(design, w, precision="highest")
        numpyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    half = prior_scale * design
    cross = prior_scale * half
    joint = np.block([[prior_scale**2 * np.eye(2), cross.T], [cross, half @ half.T + np.eye(6)]])

    def entropy(covariance: np.ndarray) -> float:
        """Of a normal vector with this covariance over tau: a t vector."""
        d, dof = len(covariance), 2 * shape
        constant = special.gammaln(dof / 2) - special.gammaln((dof + d) / 2) + 0.5 * d * math.log(dof * math.pi)
        tail = 0.5 * (dof + d) * (special.digamma((dof + d) / 2) - special.digamma(dof / 2))
        log_det = np.linalg.slogdet(covariance)[1] + d * math.log(rate / shape)
        return float(constant + tail + 0.5 * log_det)

    noise = 0.5 * 6 * (math.log(2 * math.pi * math.e) - special.digamma(shape) + math.log(rate))
    alone = entropy(joint[:2, :2]) + entropy(joint[2:, 2:]) - entropy(joint)
    return Task(
        name="regression_with_precision" if with_precision else "regression",
        model=model,
        latent=("w", "tau") if with_precision else "w",
        data="x",
        mutual_information=entropy(joint[2:, 2:]) - noise if with_precision else alone,
    )


def hidden_markov(num_steps: int = 6) -> Task:
    """How likely a hidden state is to change, from a hidden Markov model: a finite sum.

    The model is ``z ~ Bernoulli(0.5)``; in `scan`, a hidden state of two values that changes with
    probability 0.1 or 0.6 by ``z``, and ``x_t`` a binary observation that is wrong with probability 0.2.

    Parameters
    ----------
    num_steps : int
        Length of the sequence.

    Returns
    -------
    Task
        Scalar binary latent ``z``, binary data ``x`` of shape (num_steps,); ``h`` is a nuisance.
    """
    change, wrong = np.array([0.1, 0.6]), 0.2

    def model(x=None):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        stay = 1 - jnp.asarray(change)[z]

        def step(before, value):
            h = numpyro.sample("h", dist.Bernoulli(jnp.where(before == 1, stay, 1 - stay)))
            numpyro.sample("x", dist.Bernoulli(jnp.where(h == 1, 1 - wrong, wrong)), obs=value)
            return h, None

        scan(step, jnp.zeros((), jnp.result_type(int)), x, length=num_steps)

    emission = np.array([[1 - wrong, wrong], [wrong, 1 - wrong]])
    likelihood = np.zeros((2, 2**num_steps))
    for i, observed in enumerate(itertools.product((0, 1), repeat=num_steps)):
        for z, c in enumerate(change):
            transition = np.array([[1 - c, c], [c, 1 - c]])
            state = np.array([1.0, 0.0])
            for value in observed:
                state = (state @ transition) * emission[:, value]
            likelihood[z, i] = state.sum()
    marginal = likelihood.mean(0)
    information = (0.5 * likelihood * np.log(likelihood / marginal)).sum()
    return Task(name="hidden_markov", model=model, latent="z", data="x", mutual_information=float(information))
