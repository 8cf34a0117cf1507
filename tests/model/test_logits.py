"""Beta sites with mass beyond the last float below 1."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import integrate, special

from numpyro_mi import AIS, mi_bounds
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.sites.logits import drawn_point
from numpyro_mi.model.views.samples import stage_samples

pytestmark = pytest.mark.compile_fast


def staged(model, latent="z", data="x"):
    joint = joint_model(model, latent, data)
    return stage_model(joint, decompose(joint))


def coin(one, zero, count=1):
    def model(x=None):
        z = numpyro.sample("z", dist.Beta(one, zero))
        numpyro.sample("x", dist.Binomial(count, probs=z), obs=x)

    return model


@pytest.mark.parametrize("one, zero", [(0.02, 0.05), (0.5, 0.01), (3.0, 2.0)])
def test_density_and_draws_are_those_of_the_logit(one, zero):
    """In float32 the clipped value's density would integrate to far less than 1."""
    integrand = staged(coin(one, zero)).integrals[0].integrand
    u = np.linspace(-2000, 2000, 400_001)
    log_density = jax.jit(jax.vmap(lambda u: integrand.log_base(u[None], {"x": jnp.array(0)})))(jnp.asarray(u))
    density = np.exp(np.asarray(log_density, np.float64))
    assert abs(integrate.trapezoid(density, u) - 1) < 1e-3

    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: integrand.sample_base(key, {"x": jnp.array(0)})))(keys))[:, 0]
    assert len(np.unique(drawn)) > 0.9 * len(drawn)
    below = np.concatenate([[0], integrate.cumulative_trapezoid(density, u)])
    uniform = np.sort(np.interp(drawn, u, below))
    distance = np.abs(uniform - np.arange(1, len(drawn) + 1) / len(drawn)).max()
    assert distance < 2 / np.sqrt(len(drawn))  # Kolmogorov's, at a level of some 1e-3


def test_simulated_points_go_with_their_values():
    draw = staged(coin(0.1, 0.1)).draw
    found = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 4000))
    z, u = np.asarray(found.values["z"], np.float64), np.asarray(found.points[0]["z"], np.float64)
    np.testing.assert_allclose(special.expit(u), z, atol=1e-6)
    edge = z == z.max()
    assert edge.mean() > 0.05 and len(np.unique(u[edge])) > 0.9 * edge.sum()


def test_key_that_does_not_lead_to_the_draw():
    site = {"fn": dist.Beta(2.0, 2.0), "is_observed": False, "kwargs": {"rng_key": jax.random.key(0)}}
    drawn = site["fn"].sample(site["kwargs"]["rng_key"])
    for value, same in ((drawn, True), ((drawn + 0.5) % 1, False)):
        point = drawn_point({**site, "value": value}, jnp.array(7.0))
        assert (point != 7.0) == same
    assert drawn_point({**site, "fn": dist.Normal(), "value": drawn}, 7.0) == 7.0
    assert drawn_point({**site, "value": drawn, "is_observed": True}, 7.0) == 7.0


def test_wrapped():
    """Inside plates, `to_event`, and a plate that stretches the concentrations."""

    def model():
        a = numpyro.sample("a", dist.Gamma(2, 2).expand([3]).to_event(1))
        with numpyro.plate("rows", 4, dim=-2), numpyro.plate("columns", 3):
            z = numpyro.sample("z", dist.Beta(0.1 * a, 0.2))
        w = numpyro.sample("w", dist.Beta(jnp.full(2, 0.1), 0.1).to_event(1))
        numpyro.sample("x", dist.Binomial(3, probs=jnp.append(z, w)).to_event(1))

    model = staged(model, ("a", "z", "w"))
    found = jax.jit(model.draw)(jax.random.key(0))
    for name in ("z", "w"):
        np.testing.assert_allclose(jax.nn.sigmoid(found.points[0][name]), found.values[name], atol=1e-5)
    held = {"x": found.values["x"]}
    u = jax.flatten_util.ravel_pytree(found.points[0])[0]
    a, w, z = (found.points[0][name] for name in "awz")
    scale = jnp.exp(a)
    terms = dist.Gamma(2, 2).log_prob(scale).sum() + a.sum()
    for logit, one, zero in ((z, 0.1 * scale, 0.2), (w, 0.1, 0.1)):
        tails = one * jax.nn.log_sigmoid(logit) + zero * jax.nn.log_sigmoid(-logit) - special.betaln(one, zero)
        terms += tails.sum()
    np.testing.assert_allclose(model.integrals[0].integrand.target(held).log_base(u), terms, rtol=1e-5)


def test_bounds_of_a_small_concentration():
    one = zero = 0.05
    result = mi_bounds(coin(one, zero), "z", "x", method=AIS(20, 8), num_samples=500, progress_bar=False)
    # H(x) - H(x | z), the latter the mean entropy of a coin with a Beta chance.
    given = special.digamma(one + zero + 1) - special.digamma(one + 1)
    truth = np.log(2) - given
    low, high = result.interval(0.99)
    assert low <= truth <= high and result.gap < 0.05


def test_prior_for_methods_without_a_likelihood():
    joint = joint_model(coin(0.1, 0.1), "z", "x")
    samples = stage_samples(joint, prior=True)
    keys = jax.random.split(jax.random.key(0), 4000)
    u = jax.jit(jax.vmap(samples.draw))(keys).u[:, 0]
    assert len(np.unique(u)) > 0.9 * len(u)
    np.testing.assert_allclose(
        jax.vmap(samples.log_prior)(u[:, None]),
        0.1 * (jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u)) - special.betaln(0.1, 0.1),
        rtol=1e-4,
    )
