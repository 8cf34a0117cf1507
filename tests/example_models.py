"""Ten models of the kind that NumPyro's examples show, as a user writes them; sizes shortened, data made up."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.nn import sigmoid
from numpyro.contrib.control_flow import scan


class Example(NamedTuple):
    """A model, how it is called, and the groups that are asked about."""

    model: Callable
    latent: str | tuple[str, ...]
    data: str
    given: tuple[str, ...] = ()
    model_args: tuple = ()
    model_kwargs: dict[str, Any] = {}


# Eight schools (Rubin, 1981).
EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def eight_schools(y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, ERRORS), obs=y)


def baseball(at_bats, hits=None):
    """Batting averages, partially pooled: each player's chance of success comes from one population."""
    m = numpyro.sample("m", dist.Uniform(0, 1))
    kappa = numpyro.sample("kappa", dist.Pareto(1, 1.5))
    with numpyro.plate("players", len(at_bats)):
        phi = numpyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        numpyro.sample("hits", dist.Binomial(at_bats, probs=phi), obs=hits)


def admissions(department, male, applications, admitted=None):
    """Admissions to university: intercepts and effects of gender that vary together over departments."""
    mean = numpyro.sample("mean", dist.Normal(0, jnp.array([4.0, 1.0])).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(jnp.ones(2)).to_event(1))
    correlation = numpyro.sample("correlation", dist.LKJCholesky(2, concentration=2))
    with numpyro.plate("departments", 6):
        effects = numpyro.sample("effects", dist.MultivariateNormal(mean, scale_tril=sigma[:, None] * correlation))
    logits = effects[department, 0] + effects[department, 1] * male
    with numpyro.plate("rows", len(applications)):
        numpyro.sample("admitted", dist.Binomial(applications, logits=logits), obs=admitted)


def stochastic_volatility(num_days, returns=None):
    """Returns of a stock, whose log-scale is a random walk."""
    sigma = numpyro.sample("sigma", dist.Exponential(50))
    excess = numpyro.sample("excess", dist.Exponential(0.1))
    s = numpyro.sample("s", dist.GaussianRandomWalk(scale=sigma, num_steps=num_days))
    with numpyro.plate("days", num_days):
        numpyro.sample("r", dist.StudentT(1 + excess, 0, jnp.exp(s)), obs=returns)


def horseshoe(design, y=None):
    """Linear regression with few effects: a global scale, and one for each coefficient, with heavy tails."""
    tau = numpyro.sample("tau", dist.HalfCauchy(1))
    with numpyro.plate("coefficients", design.shape[1]):
        lambdas = numpyro.sample("lambdas", dist.HalfCauchy(1))
        unscaled = numpyro.sample("unscaled", dist.Normal(0, 1))
    betas = numpyro.deterministic("betas", tau * lambdas * unscaled)
    precision = numpyro.sample("precision", dist.Gamma(3, 1))
    with numpyro.plate("rows", design.shape[0]):
        numpyro.sample("y", dist.Normal(design @ betas, 1 / jnp.sqrt(precision)), obs=y)


def zero_inflated_poisson(design, counts=None):
    """Fish caught by visitors of a park, some of whom do not fish: a gate and a rate, each with its regression."""
    gate = numpyro.sample("gate", dist.Normal(0, 1).expand([design.shape[1]]).to_event(1))
    rate = numpyro.sample("rate", dist.Normal(0, 1).expand([design.shape[1]]).to_event(1))
    with numpyro.plate("visitors", design.shape[0]):
        numpyro.sample(
            "counts", dist.ZeroInflatedPoisson(sigmoid(design @ gate), rate=jnp.exp(design @ rate)), obs=counts
        )


def holt_winters(num_times, num_seasons, y=None):
    """Exponential smoothing of level, trend and season, which are updated with each observation."""
    level_smoothing = numpyro.sample("level_smoothing", dist.Beta(1, 1))
    trend_smoothing = numpyro.sample("trend_smoothing", dist.Beta(1, 1))
    season_smoothing = numpyro.sample("season_smoothing", dist.Beta(1, 1)) * (1 - level_smoothing)
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    level = numpyro.sample("level", dist.Normal(0, 1))
    trend = numpyro.sample("trend", dist.Normal(0, 1))
    with numpyro.plate("seasons", num_seasons):
        season = numpyro.sample("season", dist.Normal(0, 1))

    def step(state, value):
        level, trend, season = state
        now = numpyro.sample("y", dist.Normal(level + trend + season[0], noise), obs=value)
        new_level = level_smoothing * (now - season[0]) + (1 - level_smoothing) * (level + trend)
        new_trend = trend_smoothing * (new_level - level) + (1 - trend_smoothing) * trend
        new_season = season_smoothing * (now - level - trend) + (1 - season_smoothing) * season[0]
        return (new_level, new_trend, jnp.append(season[1:], new_season)), None

    scan(step, (level, trend, season), y, length=num_times)


def capture_recapture(released, num_occasions, captures=None):
    """Animals that are released with a mark at some occasion, survive to the next or not, and are seen or not."""
    survival = numpyro.sample("survival", dist.Uniform(0, 1))
    recapture = numpyro.sample("recapture", dist.Beta(2, 2))

    def step(alive, now):
        time, seen = now
        with numpyro.plate("animals", len(released)):
            known = time <= released
            alive = numpyro.sample(
                "alive", dist.Bernoulli(jnp.where(known, 1.0, survival * alive)), infer={"enumerate": "parallel"}
            )
            numpyro.sample("y", dist.Bernoulli(jnp.where(known, 0.0, recapture * alive)), obs=seen)
        return alive, None

    scan(step, jnp.ones(len(released), int), (jnp.arange(1, num_occasions), captures), length=num_occasions - 1)


def hidden_markov(num_times, num_states, num_words, words=None):
    """Words that depend on a hidden state with a memory of one step."""
    with numpyro.plate("states", num_states):
        transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones(num_states)))
        emission = numpyro.sample("emission", dist.Dirichlet(jnp.ones(num_words)))

    def step(state, word):
        state = numpyro.sample("state", dist.Categorical(transition[state]), infer={"enumerate": "parallel"})
        numpyro.sample("word", dist.Categorical(emission[state]), obs=word)
        return state, None

    scan(step, 0, words, length=num_times)


def annotation(annotators, num_items, num_annotators, num_classes, labels=None):
    """Items of unknown class, labelled by annotators who each confuse classes in their own way."""
    with numpyro.plate("annotator", num_annotators, dim=-2), numpyro.plate("class", num_classes):
        confusion = numpyro.sample("confusion", dist.Dirichlet(jnp.ones(num_classes)))
    prevalence = numpyro.sample("prevalence", dist.Dirichlet(jnp.ones(num_classes)))
    with numpyro.plate("item", num_items, dim=-2):
        true = numpyro.sample("true", dist.Categorical(prevalence), infer={"enumerate": "parallel"})
        with numpyro.plate("position", len(annotators)):
            numpyro.sample("labels", dist.Categorical(confusion[annotators, true]), obs=labels)


def gaussian_process(x, y=None):
    """Binary classes along a line: a Gaussian process through a logistic link, with unknown scale and length."""
    variance = numpyro.sample("variance", dist.LogNormal(0, 1))
    length = numpyro.sample("length", dist.LogNormal(0, 0.5))
    kernel = variance * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + 1e-3 * jnp.eye(len(x))
    f = numpyro.sample("f", dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=kernel))
    with numpyro.plate("points", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=f), obs=y)


_RNG = np.random.default_rng(0)
_AT_BATS = np.array([45] * 16 + [44, 46])
_DEPARTMENT = np.repeat(np.arange(6), 2)
_MALE = np.tile([1, 0], 6)
_APPLICATIONS = np.array([820, 110, 560, 25, 330, 590, 420, 370, 190, 390, 370, 340])
_DESIGN = _RNG.standard_normal((20, 8)).astype(np.float32)
_VISITORS = np.column_stack(  # an intercept, whether they camp, people in the party, children among them
    [np.ones(60), _RNG.integers(0, 2, 60), _RNG.integers(1, 5, 60), _RNG.integers(0, 3, 60)]
).astype(np.float32)
_RELEASED = np.repeat(np.arange(6), 5)
_ANNOTATORS = np.array([0, 0, 0, 1, 2, 3, 4])

EXAMPLES = {
    "baseball": Example(baseball, ("m", "kappa", "phi"), "hits", model_args=(_AT_BATS,)),
    "admissions": Example(
        admissions, ("mean", "sigma", "correlation", "effects"), "admitted",
        model_args=(_DEPARTMENT, _MALE, _APPLICATIONS),
    ),
    "stochastic_volatility": Example(stochastic_volatility, ("sigma", "excess", "s"), "r", model_args=(50,)),
    "horseshoe": Example(horseshoe, ("tau", "lambdas", "unscaled"), "y", model_args=(_DESIGN,)),
    "zero_inflated_poisson": Example(zero_inflated_poisson, ("gate", "rate"), "counts", model_args=(_VISITORS,)),
    "holt_winters": Example(
        holt_winters, ("level_smoothing", "trend_smoothing", "season_smoothing", "noise", "level", "trend", "season"),
        "y", model_kwargs={"num_times": 40, "num_seasons": 4},
    ),
    "capture_recapture": Example(
        capture_recapture, ("survival", "recapture"), "y", model_args=(_RELEASED,), model_kwargs={"num_occasions": 7}
    ),
    "hidden_markov": Example(
        hidden_markov, ("transition", "emission"), "word",
        model_kwargs={"num_times": 50, "num_states": 3, "num_words": 10},
    ),
    "annotation": Example(
        annotation, ("confusion", "prevalence"), "labels", model_args=(_ANNOTATORS,),
        model_kwargs={"num_items": 45, "num_annotators": 5, "num_classes": 4},
    ),
    "gaussian_process": Example(gaussian_process, "f", "y", model_args=(np.linspace(-3, 3, 30, dtype=np.float32),)),
}  # fmt: skip
