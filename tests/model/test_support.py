"""Densities are zero outside a support, and nowhere else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from model_check import Case, staged
from numpyro.distributions import transforms

sample = numpyro.sample


def shifted(base, by):
    return dist.TransformedDistribution(base, transforms.AffineTransform(by, 1.0))


MOVING = {
    "uniform": (lambda z: dist.Uniform(z - 1, z + 1), 0.5, 2.5),
    "expanded": (
        lambda z: dist.Uniform(z - 1, z + 1).expand([2]).to_event(1),
        np.array([0.5, 0.5]),
        np.array([0.5, 2.5]),
    ),
    "pareto": (lambda z: dist.Pareto(jnp.exp(z), 2.0), 1.5, 0.5),
    "shifted": (lambda z: shifted(dist.Exponential(1.0), z), 0.5, -0.5),
    "shifted_log": (lambda z: shifted(dist.LogNormal(0, 1), z), 0.5, -0.5),
    "mixture": (
        lambda z: dist.MixtureSameFamily(
            dist.Categorical(jnp.ones(2) / 2), shifted(dist.Exponential(1.0), z + jnp.array([0.0, 2.0]))
        ),
        0.5,
        -0.5,
    ),
    "masked": (
        lambda z: dist.Uniform(z - 1, z + 1).expand([2]).mask(np.array([True, False])),
        np.array([0.5, 2.5]),
        np.array([2.5, 0.5]),
    ),
}


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("name", MOVING)
def test_density_is_zero_outside_a_support_that_moves(name, validate):
    """Without validation, NumPyro keeps a Uniform at its height out there."""
    distribution, inside, outside = MOVING[name]

    def model():
        z = sample("z", dist.Normal(0, 1))
        sample("x", distribution(z))

    with numpyro.validation_enabled(validate):
        integral = staged(Case(model))[2].integrals[0]
    at = functools.partial(integral.integrand.log_ratio, jnp.zeros(1))
    with numpyro.validation_enabled():
        expected = jax.jit(lambda value: distribution(0.0).log_prob(value).sum())(inside)
    np.testing.assert_allclose(at({"x": jnp.asarray(inside)}), expected, rtol=1e-5)
    assert at({"x": jnp.asarray(outside)}) == -jnp.inf


def test_exact_draws_are_never_outside_by_rounding():
    def narrow():
        z = sample("z", dist.Gamma(30.0, 1.0))
        sample("x", dist.Uniform(z, z * (1 + 1e-4)).expand([20]).to_event(1))

    def parts():
        z = sample("z", dist.Dirichlet(jnp.ones(2000)))
        sample("x", dist.Normal(z[0], 1))

    for case in (Case(narrow), Case(parts)):
        model = staged(case)[2]
        integral = model.integrals[0]

        @jax.vmap
        def density(key, model=model, integral=integral):
            draw = model.draw(key)
            u, held = ravel_pytree(draw.points[0])[0], {"x": draw.values["x"]}
            return integral.integrand.log_base(u, held), integral.integrand.log_ratio(u, held)

        base, ratio = density(jax.random.split(jax.random.key(0), 1000))
        assert jnp.isfinite(base).all() and jnp.isfinite(ratio).all()
