"""Distributions of NumPyro with parameters that they allow, and for each parameter a value that they do not."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

COVARIANCE = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, 0.2], [0.1, 0.2, 1.5]])
FACTOR = np.linalg.cholesky(COVARIANCE)
CORRELATION = np.array([[1.0, 0.3], [0.3, 1.0]])
NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
PROBS, POSITIVE, ZEROS = np.array([0.2, 0.3, 0.5]), np.array([0.5, 1.0, 2.0]), np.zeros(3)
LOC_SCALE = {"loc": 0.1, "scale": 1.2}
GAMMA = {"concentration": 0.7, "rate": 1.3}
BETA = {"concentration1": 0.7, "concentration0": 1.4}
CIRCLES = {"phi_loc": 0.1, "psi_loc": 0.2, "phi_concentration": 1.2, "psi_concentration": 1.4, "correlation": 0.4}

LOCATIONS = frozenset({"loc", "predictor", "transition_matrix", "cov_factor", "phi_loc", "psi_loc"})
"""Parameters that may have any value; NaN alone is wrong."""


def wrong(parameter: str, value: Any, case: str) -> Any:
    """A value of the parameter that is not allowed."""
    value = np.asarray(value)
    if parameter in LOCATIONS or parameter.endswith("logits") or case == "SineBivariateVonMises:correlation":
        return np.full(value.shape, np.nan)
    if parameter.startswith("scale_tril"):
        return value.T + np.eye(len(value))
    if parameter in ("covariance_matrix", "precision_matrix", "scale_matrix", "covariance_row", "cutpoints"):
        return -value
    if parameter == "correlation_matrix":
        return 1.1 * value
    if parameter in ("probs", "gate", "mean", "quantile", "correlation"):
        return 1.3 * value + (0.0 if value.ndim else 1.0)
    if parameter == "high":
        return value - 10
    if case.startswith("Mixture") and parameter == "weights":
        return -value
    if parameter == "low":
        return np.asarray(
            np.nan if "Normal" in case else 10.0 if case in ("DoublyTruncatedPowerLaw", "Uniform") else -1.0
        )
    if parameter == "alpha":
        return np.asarray(0.5 if case.startswith("Lower") else np.nan if case.startswith("Doubly") else -1.0)
    return np.asarray(5.0 * value if parameter == "skewness" else -1.5 - value, value.dtype)


def _mixture(weights, scale):
    return dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Normal(jnp.zeros(3), scale))


def _general_mixture(weights, scale):
    parts = [dist.Normal(0.0, scale), dist.Normal(1.0, 1.0), dist.Laplace(0.0, 1.0)]
    return dist.MixtureGeneral(dist.Categorical(probs=weights), parts)


CASES: dict[str, tuple[Callable, dict[str, Any]]] = {
    "AsymmetricLaplace": (dist.AsymmetricLaplace, {**LOC_SCALE, "asymmetry": 0.8}),
    "AsymmetricLaplaceQuantile": (dist.AsymmetricLaplaceQuantile, {**LOC_SCALE, "quantile": 0.3}),
    "BernoulliLogits": (dist.BernoulliLogits, {"logits": 0.3}),
    "BernoulliProbs": (dist.BernoulliProbs, {"probs": 0.3}),
    "Beta": (dist.Beta, BETA),
    "BetaBinomial": (dist.BetaBinomial, {**BETA, "total_count": 5}),
    "BetaNegativeBinomial": (dist.BetaNegativeBinomial, {**BETA, "n": 3.0}),
    "BetaProportion": (dist.BetaProportion, {"mean": 0.3, "concentration": 4.0}),
    "BinomialLogits": (dist.BinomialLogits, {"logits": 0.3, "total_count": 5}),
    "BinomialProbs": (dist.BinomialProbs, {"probs": 0.3, "total_count": 5}),
    "CAR": (
        lambda **given: dist.CAR(adj_matrix=NEIGHBOURS, **given),
        {"loc": ZEROS, "correlation": 0.4, "conditional_precision": 2.0},
    ),
    "CategoricalLogits": (dist.CategoricalLogits, {"logits": POSITIVE}),
    "CategoricalProbs": (dist.CategoricalProbs, {"probs": PROBS}),
    "Cauchy": (dist.Cauchy, LOC_SCALE),
    "Chi2": (dist.Chi2, {"df": 3.0}),
    "CirculantNormal": (dist.CirculantNormal, {"loc": np.zeros(4), "covariance_row": np.array([2.0, 0.3, 0.1, 0.3])}),
    "Dagum": (dist.Dagum, {"concentration": 1.1, "sharpness": 2.1, "scale": 1.3}),
    "Dirichlet": (dist.Dirichlet, {"concentration": POSITIVE}),
    "DirichletMultinomial": (
        lambda **given: dist.DirichletMultinomial(**given, total_count_max=9),
        {"concentration": POSITIVE, "total_count": 5},
    ),
    "DiscreteUniform": (lambda high: dist.DiscreteUniform(1, high), {"high": 5}),
    "DoublyTruncatedPowerLaw": (dist.DoublyTruncatedPowerLaw, {"alpha": -1.5, "low": 0.5, "high": 4.0}),
    "Exponential": (dist.Exponential, {"rate": 1.3}),
    "FoldedDistribution": (lambda **given: dist.FoldedDistribution(dist.Normal(**given)), LOC_SCALE),
    "Gamma": (dist.Gamma, GAMMA),
    "GammaPoisson": (dist.GammaPoisson, GAMMA),
    "GaussianCopula": (
        lambda **given: dist.GaussianCopula(dist.Beta(jnp.ones(2), 2.0), **given),
        {"correlation_matrix": CORRELATION},
    ),
    "GaussianCopulaBeta": (
        dist.GaussianCopulaBeta,
        {"concentration1": np.ones(2), "concentration0": np.ones(2), "correlation_matrix": CORRELATION},
    ),
    "GaussianRandomWalk": (lambda **given: dist.GaussianRandomWalk(num_steps=3, **given), {"scale": 1.2}),
    "GaussianStateSpace": (
        lambda **given: dist.GaussianStateSpace(num_steps=3, **given),
        {"transition_matrix": 0.5 * np.eye(3), "covariance_matrix": COVARIANCE},
    ),
    "GeometricLogits": (dist.GeometricLogits, {"logits": 0.3}),
    "GeometricProbs": (dist.GeometricProbs, {"probs": 0.3}),
    "Gompertz": (dist.Gompertz, GAMMA),
    "Gumbel": (dist.Gumbel, LOC_SCALE),
    "HalfCauchy": (dist.HalfCauchy, {"scale": 1.2}),
    "HalfNormal": (dist.HalfNormal, {"scale": 1.2}),
    "HurdleGamma": (dist.HurdleGamma, {"gate": 0.3, **GAMMA}),
    "HurdleLogNormal": (dist.HurdleLogNormal, {"gate": 0.3, **LOC_SCALE}),
    "HurdlePoisson": (dist.HurdlePoisson, {"gate": 0.3, "rate": 1.2}),
    "InverseGamma": (dist.InverseGamma, GAMMA),
    "InverseWishart": (dist.InverseWishart, {"concentration": 5.0, "scale_matrix": COVARIANCE}),
    "Kumaraswamy": (dist.Kumaraswamy, BETA),
    "LKJ": (lambda **given: dist.LKJ(3, **given), {"concentration": 1.2}),
    "LKJCholesky": (lambda **given: dist.LKJCholesky(3, **given), {"concentration": 1.2}),
    "Laplace": (dist.Laplace, LOC_SCALE),
    "LeftTruncatedNormal": (
        lambda low, **given: dist.TruncatedNormal(**given, low=low),
        {**LOC_SCALE, "low": 0.5},
    ),
    "LeftTruncatedGamma": (
        lambda low, **given: dist.LeftTruncatedGamma(dist.Gamma(**given), low),
        GAMMA | {"low": 0.5},
    ),
    "Levy": (dist.Levy, LOC_SCALE),
    "LogNormal": (dist.LogNormal, LOC_SCALE),
    "LogUniform": (dist.LogUniform, {"low": 0.5, "high": 2.0}),
    "Logistic": (dist.Logistic, LOC_SCALE),
    "LowRankMultivariateNormal": (
        dist.LowRankMultivariateNormal,
        {"loc": ZEROS, "cov_factor": np.ones((3, 1)), "cov_diag": np.ones(3)},
    ),
    "LowerTruncatedPowerLaw": (dist.LowerTruncatedPowerLaw, {"alpha": -2.5, "low": 0.5}),
    "MatrixNormal": (
        dist.MatrixNormal,
        {"loc": np.zeros((3, 3)), "scale_tril_row": FACTOR, "scale_tril_column": FACTOR},
    ),
    "MixtureGeneral": (_general_mixture, {"weights": PROBS, "scale": 0.4}),
    "MixtureSameFamily": (_mixture, {"weights": PROBS, "scale": POSITIVE}),
    "MultinomialLogits": (
        lambda **given: dist.MultinomialLogits(**given, total_count_max=9),
        {"logits": POSITIVE, "total_count": 5},
    ),
    "MultinomialProbs": (
        lambda **given: dist.MultinomialProbs(**given, total_count_max=9),
        {"probs": PROBS, "total_count": 5},
    ),
    "MultivariateNormal": (dist.MultivariateNormal, {"loc": ZEROS, "covariance_matrix": COVARIANCE}),
    "MultivariateNormal by precision": (dist.MultivariateNormal, {"loc": ZEROS, "precision_matrix": COVARIANCE}),
    "MultivariateNormal by factor": (dist.MultivariateNormal, {"loc": ZEROS, "scale_tril": FACTOR}),
    "MultivariateStudentT": (dist.MultivariateStudentT, {"df": 4.0, "loc": ZEROS, "scale_tril": FACTOR}),
    "NegativeBinomial2": (dist.NegativeBinomial2, {"mean": 2.0, "concentration": 1.2}),
    "NegativeBinomialLogits": (dist.NegativeBinomialLogits, {"total_count": 3.0, "logits": 0.3}),
    "NegativeBinomialProbs": (dist.NegativeBinomialProbs, {"total_count": 3.0, "probs": 0.3}),
    "Normal": (dist.Normal, LOC_SCALE),
    "OrderedLogistic": (dist.OrderedLogistic, {"predictor": 0.2, "cutpoints": np.array([-1.0, 0.3, 1.0])}),
    "Pareto": (dist.Pareto, {"scale": 0.7, "alpha": 2.0}),
    "Poisson": (dist.Poisson, {"rate": 1.3}),
    "RelaxedBernoulliLogits": (dist.RelaxedBernoulliLogits, {"temperature": 0.7, "logits": 0.3}),
    "RightTruncatedGamma": (
        lambda high, **given: dist.RightTruncatedGamma(dist.Gamma(**given), high),
        GAMMA | {"high": 0.5},
    ),
    "SineBivariateVonMises": (dist.SineBivariateVonMises, CIRCLES),
    "SineSkewed": (
        lambda concentration, skewness: dist.SineSkewed(
            dist.VonMises(jnp.zeros(2), concentration).to_event(1), skewness
        ),
        {"concentration": np.ones(2), "skewness": np.array([0.2, 0.3])},
    ),
    "SoftLaplace": (dist.SoftLaplace, LOC_SCALE),
    "StudentT": (dist.StudentT, {"df": 4.0, **LOC_SCALE}),
    "TruncatedNormal": (dist.TruncatedNormal, {**LOC_SCALE, "low": -0.5, "high": 1.0}),
    "TwoSidedTruncatedGamma": (
        lambda high, **given: dist.TwoSidedTruncatedGamma(dist.Gamma(**given), 0.2, high),
        GAMMA | {"high": 0.5},
    ),
    "Uniform": (dist.Uniform, {"low": 0.1, "high": 1.2}),
    "VonMises": (dist.VonMises, {"loc": 0.1, "concentration": 1.2}),
    "Weibull": (dist.Weibull, {"scale": 0.7, "concentration": 1.3}),
    "Wishart": (dist.Wishart, {"concentration": 5.0, "scale_matrix": COVARIANCE}),
    "ZeroInflatedBinomial": (
        lambda gate, probs: dist.ZeroInflatedDistribution(dist.Binomial(5, probs=probs), gate=gate),
        {"gate": 0.3, "probs": 0.4},
    ),
    "ZeroInflatedPoisson": (dist.ZeroInflatedPoisson, {"gate": 0.3, "rate": 1.2}),
    "ZeroSumNormal": (lambda **given: dist.ZeroSumNormal(event_shape=(3,), **given), {"scale": 1.2}),
}
