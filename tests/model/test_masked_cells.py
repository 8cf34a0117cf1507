"""Masked cells are simulated like all others, and no part of the data: no guide, critic or sampler may read them."""

import math

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

from numpyro_mi import AIS, GIWAE, IWAE, BarberAgakov, InfoNCE, RegressionGuide, Training, mi_bounds


class Odd(dist.Normal):
    """A support of which no value is known."""

    support = type("Support", (constraints.Constraint,), {"__call__": lambda self, x: x == x, "event_dim": 0})()


def model_with_a_masked_cell(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    noise, kept = jnp.array([1.0, 0.1]), jnp.array([True, False])
    numpyro.sample("x", dist.Normal(z, noise).mask(kept), obs=x)


@pytest.mark.parametrize(
    "method",
    [
        BarberAgakov(),
        IWAE(num_particles=16),
        AIS(10, 2, base=RegressionGuide()),
        InfoNCE(num_particles=50),
        GIWAE(num_particles=10, training=Training(2000, 200)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_information_is_that_of_the_cells_kept(method):
    result = mi_bounds(model_with_a_masked_cell, "z", "x", method=method, num_samples=500, progress_bar=False)
    truth = 0.5 * math.log(2.0)
    assert result.lower - 4 * result.lower_se < truth
    assert result.upper is None or truth < result.upper + 4 * result.upper_se


@pytest.mark.parametrize("support", [pytest.param("moves", marks=pytest.mark.slow), "unknown"])
def test_where_no_value_of_the_support_is_known(support):
    """Two cells, of which the one that is left out would say all."""

    def model():
        z = numpyro.sample("z", dist.Normal(0, 1))
        if support == "moves":
            fn = dist.Uniform(z - jnp.array([2.0, 1e-3]), z + jnp.array([2.0, 1e-3]))
        else:
            fn = Odd(z, jnp.array([1.0, 1e-3]))
        numpyro.sample("x", fn.mask(jnp.array([True, False])))

    result = mi_bounds(model, "z", "x", method=InfoNCE(num_particles=100), num_samples=300, progress_bar=False)
    assert result.lower < (0.5 if support == "moves" else 0.35) + 4 * result.lower_se
