"""Guide functions of a user's: exact where they are the posterior, and refused where they are unfit."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.autoguide import AutoNormal

from numpyro_mi import AIS, GIWAE, BarberAgakov, mi_bounds
from numpyro_mi.direct.critics import MLPCritic
from numpyro_mi.guides.callables import GuideFunction
from numpyro_mi.training.training import Training

pytestmark = pytest.mark.compile_fast

sample = numpyro.sample


def normal(x=None):
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.Normal(z, 0.5), obs=x)


def counts(x=None):
    rate = sample("rate", dist.Gamma(3.0, 2.0))
    with numpyro.plate("cells", 4):
        sample("x", dist.Poisson(rate), obs=x)


def moving(x=None):
    """The support of one latent is another latent."""
    top = sample("top", dist.Gamma(3.0, 2.0))
    z = sample("z", dist.Uniform(0, top))
    sample("x", dist.Normal(jnp.stack([top, z]), 0.5).to_event(1), obs=x)


def normal_guide(data):
    sample("z", dist.Normal(0.8 * data["x"], numpyro.param("sd", 1.0)))


def gamma_guide(data, cells):
    assert data["x"].dtype == jnp.int32
    sample("rate", dist.Gamma(3 + data["x"].sum(), 2.0 + cells))


def bounds(model, latent, guide, count=200, method=BarberAgakov):
    return mi_bounds(model, latent, "x", method=method(guide), num_samples=count)


@pytest.mark.parametrize(
    ("model", "latent", "guide"),
    [
        (normal, "z", GuideFunction(normal_guide, params={"sd": 0.2**0.5})),
        (counts, "rate", GuideFunction(gamma_guide, guide_args=(4,))),
        (counts, "rate", GuideFunction(gamma_guide, guide_kwargs={"cells": 4.0})),
    ],
)
def test_the_exact_posterior_leaves_no_gap(model, latent, guide):
    result = bounds(model, latent, guide)
    np.testing.assert_allclose(result.upper_i, result.lower_i, atol=1e-4)


def test_other_parameters_are_another_guide_and_compile_nothing():
    tight, wide = (bounds(normal, "z", GuideFunction(normal_guide, {"sd": sd})) for sd in (0.2**0.5, 0.6))
    assert wide.gap > 0.05 > tight.gap
    assert wide.seconds["compiling"] < 0.05


def test_the_base_of_a_path_and_once_staged():
    first = bounds(normal, "z", GuideFunction(normal_guide, {"sd": 0.6}), 200)
    again = bounds(normal, "z", first.guides[0], 200)
    np.testing.assert_array_equal(again.lower_i, first.lower_i)
    annealed = mi_bounds(normal, "z", "x", method=AIS(8, 2, base=first.guides[0]), num_samples=100)
    assert annealed.gap < 0.6 * first.gap
    with pytest.raises(ValueError, match="was fitted to 1 values of data and 1 unconstrained latents, and here"):
        bounds(moving, ["top", "z"], first.guides[0])


def test_a_support_that_moves_with_another_latent():
    def guide(data):
        top = sample("top", dist.Gamma(4.0, 2.0))
        sample("z", dist.TransformedDistribution(dist.Beta(2.0, 2.0), dist.transforms.AffineTransform(0.0, top)))

    fitted = bounds(moving, ["top", "z"], GuideFunction(guide), 64).guides[0]
    u, x = jnp.array([0.3, -1.2]), jnp.array([1.0, 0.4])
    conditional = fitted.condition(None, x, jax.random.key(0))
    found = fitted.log_prob(conditional, conditional.whiten(u)) - conditional.log_det()
    top, share = jnp.exp(u[0]), jax.nn.sigmoid(u[1])
    jacobian = jnp.log(top) + jnp.log(top * share * (1 - share))
    expected = dist.Gamma(4.0, 2.0).log_prob(top) + dist.Beta(2.0, 2.0).log_prob(share) - jnp.log(top) + jacobian
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    axis = jnp.linspace(-9, 9, 401)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    p = jnp.exp(jax.vmap(lambda v: fitted.log_prob(conditional, v))(grid)) * (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(p.sum(), 1, atol=0.01)
    draws = jax.vmap(lambda key: fitted.sample(conditional, key))(jax.random.split(jax.random.key(1), 4000))
    np.testing.assert_allclose(draws.mean(0), p @ grid, atol=0.1)


def modules():
    nnx, eqx = pytest.importorskip("flax.nnx"), pytest.importorskip("equinox")
    from numpyro.contrib.module import eqx_module, flax_module, nnx_module

    linear = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    linear.kernel[...], linear.bias[...] = jnp.full((1, 1), 0.8), jnp.zeros(1)
    other = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    other = eqx.tree_at(lambda net: (net.weight, net.bias), other, (jnp.full((1, 1), 0.8), jnp.zeros(1)))
    import flax.linen as nn

    params = {"net$params": {"kernel": jnp.full((1, 1), 0.8), "bias": jnp.zeros(1)}}
    return {
        "nnx": (lambda: nnx_module("net", linear), None),
        "equinox": (lambda: eqx_module("net", other), None),
        "linen": (lambda: flax_module("net", nn.Dense(1), input_shape=(1,)), params),
    }


@pytest.mark.parametrize("kind", ["nnx", "equinox", "linen"])
def test_guides_with_networks(kind):
    make, params = modules()[kind]

    def guide(data):
        sample("z", dist.Normal(make()(data["x"][None])[0], 0.2**0.5))

    result = bounds(normal, "z", GuideFunction(guide, params))
    np.testing.assert_allclose(result.upper_i, result.lower_i, atol=1e-4)
    if params is not None:
        with pytest.raises(ValueError, match=r"parameter\(s\) \['net\$params'\] of the guide have no value"):
            bounds(normal, "z", GuideFunction(guide))


def own_key(data):
    sample("z", dist.Normal(0, 1), rng_key=jax.random.key(3))


def hidden_noise(data):
    sample("z", dist.Normal(jax.random.normal(numpyro.prng_key()), 1))


def scaled(data):
    with handlers.scale(scale=2.0):
        sample("z", dist.Normal(0, 1))


def one(name, *distribution, **options):
    return lambda data: sample(name, *distribution, **options)


WRONG = {
    "missing": (lambda data: None, r"exactly the latents .*\['z'\]; it lacks \['z'\]"),
    "unknown": (lambda data: (one("z", dist.Normal(0, 1))(data), one("w", dist.Normal(0, 1))(data)), r"it has \['w'\]"),
    "misspelt": (one("Z", dist.Normal(0, 1)), r"it lacks \['z'\] and has \['Z'\], which are none of them"),
    "observed": (one("z", dist.Normal(0, 1), obs=0.3), "site 'z' of the guide is observed"),
    "discrete": (one("z", dist.Poisson(3.0)), "site 'z' of the guide is discrete"),
    "delta": (one("z", dist.Delta(0.0)), "site 'z' of the guide has a Delta distribution"),
    "scaled": (scaled, "site 'z' of the guide is scaled"),
    "shape": (
        one("z", dist.Normal(jnp.zeros(2), 1)),
        r"site 'z' of the guide has shape \(2,\).* in the model has shape \(\)",
    ),
    "no value": (normal_guide, r"parameter\(s\) \['sd'\] of the guide have no value.*params=\{'sd': ...\}"),
    "own key": (own_key, r"site\(s\) \['z'\] of the guide have the same value at every call"),
    "hidden noise": (hidden_noise, "the density of the guide depends on random numbers that are no site of it"),
    "raises": (
        lambda data: data["y"],
        "the guide raised KeyError while it was traced: 'y'. It is called as guide.data.",
    ),
    "not a number": (
        lambda data: sample("z", dist.Normal(0, jnp.log(data["x"]))),
        "of the guide's draws are no numbers",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_guide_is_refused(name):
    guide, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        bounds(normal, "z", GuideFunction(guide))


def test_parameters_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"params holds \['sigma'\], and the parameters of the guide are \['sd'\]"):
        bounds(normal, "z", GuideFunction(normal_guide, {"sigma": 1.0}))


def test_draws_outside_the_support_are_refused():
    with pytest.raises(ValueError, match="not inside the support of the model"):
        bounds(counts, "rate", GuideFunction(one("rate", dist.Normal(1, 1))))


def test_joint_draws_without_names_are_refused():
    training = Training(num_draws=2000, max_steps=1)
    with pytest.raises(
        ValueError, match="draws sites of a model by name, and here there are joint draws without names"
    ):
        bounds(
            normal, "z", GuideFunction(normal_guide), method=lambda guide: GIWAE(guide, MLPCritic((8,)), 8, training)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guide": 3}, "needs guide, a function of a dict of data, got 3"),
        ({"guide": AutoNormal(normal)}, "AutoNormal: an AutoGuide is fitted to one data set"),
        ({"guide": normal_guide, "params": [1.0]}, "needs params, a dict by name or None, got list"),
        ({"guide": normal_guide, "guide_kwargs": 1}, "needs guide_kwargs, a dict by name"),
        ({"guide": normal_guide, "guide_args": 1}, "needs guide_args, a tuple, got 1"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(TypeError, match=message):
        GuideFunction(**arguments)
