"""Models whose data can be simulated and have no density."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from numpyro_mi import (
    AIS,
    GIWAE,
    IWAE,
    MINE,
    MINEAIS,
    InfoNCE,
    MLPCritic,
    RegressionGuide,
    Training,
    expected_information_gain,
    mi_bounds,
)
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.views.samples import stage_samples

QUICK = Training(num_draws=4096, max_steps=100)
TRUTH = 0.5 * np.log(1 + 4.0 / 0.25)


def simulated():
    z = numpyro.sample("z", dist.Normal(0, 2.0))
    numpyro.deterministic("x", z + 0.5 * jax.random.normal(numpyro.prng_key()))


def explicit(x=None):
    z = numpyro.sample("z", dist.Normal(0, 2.0))
    numpyro.sample("x", dist.Normal(z, 0.5), obs=x)


def dropout(x=None):
    z = numpyro.sample("z", dist.Normal(0, 2.0))
    kept = jax.random.bernoulli(numpyro.prng_key(), 0.5, (3,))
    numpyro.sample("x", dist.Normal(z * kept, 0.5).to_event(1), obs=x)


def test_a_simulator_takes_the_route_without_a_likelihood_and_says_so():
    result = mi_bounds(simulated, "z", "x", num_samples=300)
    assert result.method["class"] == "MINEAIS" and result.upper_i is None
    assert "x can be simulated but has no density" in repr(result)
    assert result.lower == pytest.approx(TRUTH, abs=4 * result.lower_se)
    assert "IBAL at most" in repr(result) and "does not bound I" in repr(result)


def test_hidden_randomness_takes_it_too():
    result = mi_bounds(dropout, "z", "x", method=GIWAE(training=QUICK), num_samples=200)
    r = np.random.default_rng(0)
    z = 2 * r.standard_normal(4000)
    x = z[:, None] * r.integers(0, 2, (4000, 3)) + 0.5 * r.standard_normal((4000, 3))
    grid = np.linspace(-10, 10, 401)
    log_x = logsumexp(dropout_density(x[:, None], grid) + norm.logpdf(grid, 0, 2), axis=1) + np.log(grid[1] - grid[0])
    truth = dropout_density(x, z) - log_x
    error = np.hypot(result.lower_se, truth.std() / np.sqrt(len(truth)))
    assert 0.5 < result.lower < truth.mean() + 4 * error


def dropout_density(x, z):
    """`log p(x | z)`, with what is dropped summed out."""
    kept, dropped = norm.logpdf(x, z[..., None], 0.5), norm.logpdf(x, 0, 0.5)
    return (np.logaddexp(kept, dropped) - np.log(2)).sum(-1)


@pytest.mark.parametrize("method", [AIS(), IWAE()])
@pytest.mark.parametrize("model", [simulated, dropout])
def test_methods_that_need_the_likelihood_refuse(method, model):
    with pytest.raises(ValueError, match="the density of every site, but that of 'x' does not exist.*MINEAIS"):
        mi_bounds(model, "z", "x", method=method)


def test_data_without_noise_are_refused():
    def model():
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("other", dist.Normal(0, 1))
        numpyro.deterministic("x", 2 * z)

    with pytest.raises(ValueError, match="'x' are a function of the latents without any noise.*infinite"):
        mi_bounds(model, "z", "x")


def test_noise_of_a_nuisance_site_is_noise():
    def model():
        z = numpyro.sample("z", dist.Normal(0, 1))
        w = numpyro.sample("w", dist.Normal(0, 1))
        numpyro.deterministic("x", z + w)

    result = mi_bounds(model, "z", "x", method=MINEAIS(training=QUICK), num_samples=500)
    assert result.lower == pytest.approx(0.5 * np.log(2), abs=4 * result.lower_se)


def test_latents_whose_prior_is_an_integral():
    def model():
        h = numpyro.sample("h", dist.Normal(0, 1))
        z = numpyro.sample("z", dist.Normal(h, 1))
        numpyro.deterministic("x", z + jax.random.normal(numpyro.prng_key()))

    with pytest.raises(ValueError, match=r"p\(z\) is an integral over 'h'.*latent=\['z', 'h'\].*InfoNCE"):
        mi_bounds(model, "z", "x")
    result = mi_bounds(model, "z", "x", method=InfoNCE(MLPCritic((16,)), 50, QUICK), num_samples=300)
    assert result.lower < 0.5 * np.log(3) + 4 * result.lower_se


def test_a_deterministic_latent_is_refused():
    def model():
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.deterministic("d", z)
        numpyro.sample("x", dist.Normal(z, 1))

    with pytest.raises(ValueError, match="latent site 'd' is deterministic and has no density"):
        mi_bounds(model, "d", "x")


def test_a_discrete_latent_needs_a_method_without_a_prior():
    def model():
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(6.0 * z, 1))

    with pytest.raises(ValueError, match="'z' is discrete"):
        mi_bounds(model, "z", "x", method=GIWAE(training=QUICK))
    result = mi_bounds(model, "z", "x", method=InfoNCE(MLPCritic((16,)), 50, QUICK), num_samples=300)
    assert 0.55 < result.lower < np.log(2) + 4 * result.lower_se


def test_joint_draws_are_those_of_the_methods_with_a_likelihood():
    exact = mi_bounds(explicit, "z", "x", method=IWAE(num_particles=50), num_samples=100)
    direct = mi_bounds(
        explicit, "z", "x", method=GIWAE(exact.guides[0], num_particles=1, training=QUICK), num_samples=100
    )
    np.testing.assert_allclose(direct.lower_i, exact.parts["variational"], atol=1e-4)


def test_constrained_latents_and_their_prior():
    def model():
        a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
        b = numpyro.sample("b", dist.Uniform(0, a))
        numpyro.deterministic("x", jnp.stack([a, b]) + 0.1 * jax.random.normal(numpyro.prng_key(), (2,)))

    joint = joint_model(model, ("a", "b"), "x")
    samples = stage_samples(joint, prior=True)
    draw = samples.draw(jax.random.key(3))
    a = jnp.exp(draw.u[0])
    share = jax.nn.sigmoid(draw.u[1])
    expected = dist.Gamma(2.0, 1.0).log_prob(a) + draw.u[0] - jnp.log(a) + jnp.log(a) + jnp.log(share * (1 - share))
    np.testing.assert_allclose(samples.log_prior(draw.u), expected, rtol=1e-4)


def test_guides_that_search_the_likelihood_are_refused():
    class Searching:
        needs_likelihood = True

        def fit(self, pairs, rng_key, report):
            raise AssertionError

    with pytest.raises(TypeError, match="MINEAIS needs a guide that is fitted to joint draws alone, and Searching"):
        mi_bounds(simulated, "z", "x", method=MINEAIS(Searching(), training=QUICK))


@pytest.mark.parametrize(
    ("method", "count"),
    [(GIWAE(num_particles=7), 7), (MINEAIS(annealing=AIS(10, 3)), 3), (MINE(num_negatives=5), 6), (InfoNCE(), 1000)],
    ids=lambda value: type(value).__name__,
)
def test_blocks_are_sized_by_chains(method, count, monkeypatch):
    def stop(num_samples, num_particles):
        raise RuntimeError(f"{num_particles} in each of {num_samples}")

    monkeypatch.setattr("numpyro_mi.runs.direct.block_size", stop)
    with pytest.raises(RuntimeError, match=f"^{count} in each of 50"):
        mi_bounds(simulated, "z", "x", method=method, num_samples=50)


def test_an_overconfident_fixed_critic_still_bounds_from_below():
    def critic(x, z):
        return -3.0 * (x[0] - z[0]) ** 2

    for base in (RegressionGuide(), None):
        result = mi_bounds(
            simulated, "z", "x", method=MINEAIS(base, critic, AIS(50, 4), training=QUICK), num_samples=400
        )
        assert result.lower < TRUTH + 4 * result.lower_se


def upstream_and_downstream(upstream=False):
    """mu is seen through y; theta is drawn from mu, or mu from theta."""

    def model():
        theta = numpyro.sample("theta", dist.Normal(0, 1)) if upstream else None
        mu = numpyro.sample("mu", dist.Normal(0.0 if theta is None else theta, 1))
        if theta is None:
            numpyro.sample("theta", dist.Normal(mu, 1))
        numpyro.sample("y", dist.Normal(mu, 1))

    return model


@pytest.mark.parametrize("method", [InfoNCE(num_particles=8, critic=lambda x, z: x[0] * z[0]), MINEAIS()])
def test_values_held_downstream_are_refused_without_a_likelihood_too(method):
    """The model simulated forwards from theta = 0 would give .3466 in the place of .2027."""
    asked = {"latent": "mu", "data": "y", "given": {"theta": 0.0}, "method": method}
    with pytest.raises(ValueError, match="given holds site 'theta' at a value, but its parent 'mu'"):
        mi_bounds(upstream_and_downstream(), **asked)
    designs = {"scale": [1.0, 2.0]}

    def model(scale):
        upstream_and_downstream()()

    with pytest.raises(ValueError, match="given holds site 'theta' at a value, but its parent 'mu'"):
        expected_information_gain(model, designs, **asked)


def test_a_held_parent_of_the_latent_leaves_it_a_prior():
    joint = joint_model(upstream_and_downstream(upstream=True), "mu", "y", given={"theta": 0.3})
    log_prior = stage_samples(joint, True).log_prior
    assert float(log_prior(jnp.array([1.0]))) == pytest.approx(float(dist.Normal(0.3, 1).log_prob(1.0)), rel=1e-6)
