"""Warnings that a method's own numbers give away."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi import (
    GIWAE,
    IWAE,
    MINE,
    BarberAgakov,
    InfoNCE,
    RegressionGuide,
    StructuredInfoNCE,
    mi_bounds,
    tasks,
)
from numpyro_mi.bounds.contrastive import cap_and_normaliser
from numpyro_mi.diagnostics import method_warnings
from numpyro_mi.report import warnings_of

pytestmark = pytest.mark.usefixtures("compile_fast")


def linear10(method, num_samples=300):
    task = tasks.linear10()
    return mi_bounds(task.model, task.latent, task.data, method=method, num_samples=num_samples)


def weak(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(z, 2.0), obs=x)


def density_ratio(x, z):
    """Optimal at any number of negatives: the log-likelihood of `linear10`, up to a function of x."""
    r = np.random.default_rng(0)
    gain = 1.0766816 * jnp.asarray(r.standard_normal((100, 10)), jnp.float32)
    return -0.5 * ((x - gain @ z) ** 2).sum()


@pytest.mark.parametrize("method", [StructuredInfoNCE(50), InfoNCE(density_ratio, 50)])
def test_a_contrastive_bound_near_its_cap(method):
    found = method_warnings(linear10(method))
    assert len(found) == 1 and "within 1 nat of log 50 = 3.91, which it never exceeds" in found[0]


def test_giwae_near_its_cap():
    result = linear10(GIWAE(RegressionGuide("diagonal", num_draws=14), density_ratio, 4), 100)
    assert any("the contrastive term is within 1 nat of log 4" in text for text in method_warnings(result))


def test_a_capped_variational_bound():
    result = linear10(MINE(density_ratio), 200)
    assert "the critic is capped in 100% of the pairs" in method_warnings(result)[0]
    assert "no bound of this kind from 4,000 negatives" in method_warnings(result)[0]
    assert "not a bound" in repr(result)


def test_too_few_weights_that_count():
    task = tasks.mlp10()
    result = mi_bounds(task.model, task.latent, task.data, method=IWAE(num_particles=100), num_samples=200)
    found = " ".join(method_warnings(result))
    assert "fewer than 5 of 100 weights count in 100% of the joint draws" in found
    assert "the median Pareto k of the weights" in found


def test_only_the_own_draw_sees_a_mode_that_the_guide_misses():
    """From the prior, k-hat is calm although the gap is over a hundred nats: the weights all look alike."""
    result = linear10(StructuredInfoNCE(100))
    own = result.stats[0]["reverse_log_weight"]
    drawn = result.stats[0]["forward_log_weight"]
    assert result.gap > 100
    assert float(np.mean(own[:, 0] - drawn.max(1) > 10)) > 0.9


def test_light_tails_of_a_guide():
    """The posterior is Cauchy wherever the data say nothing; the regression is normal."""

    def model(x=None):
        z = numpyro.sample("z", dist.Cauchy(0, 1))
        numpyro.sample("x", dist.Normal(jnp.tanh(z), 1.0), obs=x)

    guide = RegressionGuide(num_draws=4096)
    found = method_warnings(mi_bounds(model, "z", "x", method=BarberAgakov(guide), num_samples=1000))
    assert any("tails of the guide are light" in text for text in found), found


QUIET = [IWAE(num_particles=100), BarberAgakov(), StructuredInfoNCE(100), MINE(lambda x, z: x[0] * z[0] / 5, 50)]


@pytest.mark.parametrize("method", QUIET, ids=lambda method: type(method).__name__)
def test_silence_where_all_is_well(method):
    result = mi_bounds(weak, "z", "x", method=method, num_samples=1000)
    assert warnings_of(result) == []


def test_the_cap_solves_its_equation():
    scores = np.random.default_rng(0).normal(0, 4, 20_000)
    cap, log_normaliser = cap_and_normaliser(scores, 10_000)
    assert np.log(np.exp(np.minimum(scores, cap)).mean()) == pytest.approx(log_normaliser)
    assert cap - log_normaliser == pytest.approx(np.log(100), abs=1e-6)
    assert cap_and_normaliser(np.zeros(100), 10_000) == (np.inf, 0.0)
