"""Models as they are written in practice, each against a truth by quadrature or enumeration."""

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm
from numpyro.contrib.control_flow import scan
from scipy import stats

from numpyro_mi import AIS, IWAE, mi_bounds

pytestmark = pytest.mark.compile_fast
LIMIT = 0.5
PLACES = np.array([0.0, 1.0, 3.0])
KERNEL = 2 * np.exp(-0.5 * (PLACES - PLACES[:, None]) ** 2) + 1e-3 * np.eye(3)
BINARY = np.array(list(itertools.product([0, 1], repeat=3)))


def information(weights, likelihood):
    """Of a latent on a grid with these weights and data with these probabilities, a row a latent value."""
    weights = weights / weights.sum()
    marginal = weights @ likelihood
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(likelihood > 0, likelihood * np.log(likelihood / marginal), 0.0)
    return weights @ terms.sum(1)


def unit_grid(count=400):
    return (np.arange(count) + 0.5) / count


def normal_grid(count=401, width=7.0):
    z = np.linspace(-width, width, count)
    return z, stats.norm.pdf(z)


def capture_recapture():
    """Survival of three animals, seen or not on two occasions after their first (Cormack, Jolly and Seber)."""
    survival = numpyro.sample("survival", dist.Uniform(0, 1))

    def occasion(alive, _):
        with numpyro.plate("animals", 3):
            alive = numpyro.sample("alive", dist.Bernoulli(survival * alive))
            numpyro.sample("seen", dist.Bernoulli(0.7 * alive))
        return alive, None

    scan(occasion, jnp.ones(3, int), None, length=2)


def of_capture_recapture():
    phi, p = unit_grid(), 0.7
    never = 1 - phi + phi * (1 - p) * (1 - phi + phi * (1 - p))
    histories = [never, phi * p * (1 - phi * p), phi * (1 - p) * phi * p, (phi * p) ** 2]
    return information(
        np.ones_like(phi), np.stack([a * b * c for a, b, c in itertools.product(histories, repeat=3)], 1)
    )


def hidden_markov():
    """How persistent a hidden state is, seen three times."""
    stay = numpyro.sample("stay", dist.Beta(2.0, 2.0))

    def step(before, _):
        state = numpyro.sample("state", dist.Bernoulli(jnp.where(before == 1, stay, 1 - stay)))
        numpyro.sample("x", dist.Bernoulli(jnp.where(state == 1, 0.95, 0.1)))
        return state, None

    scan(step, 1, None, length=3)


def of_hidden_markov():
    stay = unit_grid()
    likelihood = np.zeros((stay.size, len(BINARY)))
    for j, x in enumerate(BINARY):
        for states in BINARY:
            pairs = zip([1, *states], states, strict=False)
            moves = np.prod([stay if state == before else 1 - stay for before, state in pairs], axis=0)
            seen = np.where(states == 1, 0.95, 0.1)
            likelihood[:, j] += moves * np.prod(np.where(x == 1, seen, 1 - seen))
    return information(stay * (1 - stay), likelihood)


def zero_inflated():
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    numpyro.sample("x", dist.ZeroInflatedPoisson(0.3, rate))


def of_zero_inflated():
    rate = np.linspace(0, 60, 6001)[1:]
    x = np.arange(150)
    likelihood = 0.7 * stats.poisson.pmf(x, rate[:, None]) + 0.3 * (x == 0)
    return information(stats.gamma.pdf(rate, 2.0, scale=2.0), likelihood)


class Censored(dist.Distribution):
    """A normal variable, or the limit where it is above: a density, with a probability at the limit."""

    support = dist.constraints.real

    def __init__(self, loc):
        self.loc = loc
        super().__init__(jnp.shape(loc), ())

    def sample(self, key, sample_shape=()):
        return jnp.minimum(dist.Normal(self.loc, 1).sample(key, sample_shape), LIMIT)

    def log_prob(self, value):
        return jnp.where(value >= LIMIT, norm.logsf(LIMIT, self.loc), norm.logpdf(value, self.loc))


def censored():
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", Censored(z))


def censored_by_indicator():
    """The same: where the measurement is censored, what stands in its place says nothing of z."""
    z = numpyro.sample("z", dist.Normal(0, 1))
    above = numpyro.sample("above", dist.Bernoulli(probs=norm.sf(LIMIT, z)))
    numpyro.sample("x", dist.TruncatedNormal(jnp.where(above, 0.0, z), 1.0, high=LIMIT))


def of_censored():
    z, weights = normal_grid()
    x = np.linspace(-10, LIMIT, 2001)
    below = stats.norm.pdf(x, z[:, None]) * (x[1] - x[0]) * np.where(np.isin(x, x[[0, -1]]), 0.5, 1.0)
    return information(weights, np.column_stack([below, stats.norm.sf(LIMIT, z)]))


def funnel():
    """A scale that is itself wide, and one level of it, seen with noise."""
    v = numpyro.sample("v", dist.Normal(0, 1.5))
    z = numpyro.sample("z", dist.Normal(0, jnp.exp(v / 2)))
    numpyro.sample("x", dist.Normal(z, 0.5))


def of_funnel(whole):
    v, weights = normal_grid()
    x = np.sinh(np.linspace(-7, 7, 4001))
    density = stats.norm.pdf(x, scale=np.sqrt(np.exp(1.5 * v) + 0.25)[:, None])
    about_scale = information(weights, density * np.gradient(x))
    marginal = (weights / weights.sum()) @ density
    entropy = -np.trapezoid(np.where(marginal > 0, marginal * np.log(np.maximum(marginal, 1e-300)), 0), x)
    return entropy - 0.5 * np.log(2 * np.pi * np.e * 0.25) if whole else about_scale


def gaussian_process():
    f = numpyro.sample("f", dist.MultivariateNormal(jnp.zeros(3), KERNEL))
    numpyro.sample("x", dist.Bernoulli(logits=f).to_event(1))


def of_gaussian_process():
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    f = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3) @ np.linalg.cholesky(KERNEL).T
    p = 1 / (1 + np.exp(-f[:, None]))
    likelihood = np.prod(np.where(BINARY, p, 1 - p), -1)
    return information(np.prod(np.meshgrid(weights, weights, weights), 0).reshape(-1), likelihood)


SAMPLED = IWAE(num_particles=100)
CASES = {
    "capture_recapture": (capture_recapture, "survival", "seen", of_capture_recapture, SAMPLED),
    "hidden_markov": (hidden_markov, "stay", "x", of_hidden_markov, SAMPLED),
    "zero_inflated": (zero_inflated, "rate", "x", of_zero_inflated, SAMPLED),
    "censored": (censored, "z", "x", of_censored, SAMPLED),
    "censored_by_indicator": (censored_by_indicator, "z", ["above", "x"], of_censored, SAMPLED),
    "funnel": (funnel, ["v", "z"], "x", lambda: of_funnel(True), AIS(60, 8)),
    "funnel_scale": (funnel, "v", "x", lambda: of_funnel(False), AIS(60, 8)),
    "gaussian_process": (gaussian_process, "f", "x", of_gaussian_process, AIS(10, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_truth(name):
    model, latent, data, truth, method = CASES[name]
    result = mi_bounds(model, latent, data, method=method, num_samples=1000, progress_bar=False)
    low, high = result.interval(0.99)
    assert low <= truth() <= high
    assert -4 * result.gap_se - 1e-6 <= result.gap < 0.1
