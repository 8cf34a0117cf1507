"""Models are simulated from their joint distribution and scored by its density, whatever they are made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from model_check import Case, check, staged
from numpyro import handlers
from numpyro.contrib import control_flow
from numpyro.distributions import transforms
from numpyro.infer.reparam import LocScaleReparam

pytestmark = pytest.mark.compile_fast

ONES = np.ones(3, np.float32)
sample, plate = numpyro.sample, numpyro.plate


def normal_pair(x=None):
    z = sample("z", dist.Normal(1, 2))
    sample("x", dist.Normal(z, 1), obs=x)


def nested_plates(x=None):
    a = sample("a", dist.Normal(1, 1))
    with plate("groups", 3, dim=-1):
        z = sample("z", dist.Normal(a, 1))
        with plate("repeats", 2, dim=-2):
            sample("x", dist.Normal(z, 1), obs=x)


def matrices():
    chol = sample("chol", dist.LKJCholesky(3, 2.0))
    scale = sample("scale", dist.HalfNormal(1).expand([3]).to_event(1))
    weights = sample("weights", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    z = sample("z", dist.MultivariateNormal(jnp.zeros(3), scale_tril=scale[:, None] * chol))
    sample("x", dist.MultivariateNormal(z * weights, jnp.eye(3)))


def several(x=None, y=None):
    a = sample("a", dist.Normal(0, 1))
    b = sample("b", dist.Normal(a, 1))
    sample("x", dist.Normal(a, 1).expand([2]).to_event(1), obs=x)
    sample("y", dist.Poisson(jnp.exp(b)), obs=y)


def constrained():
    g = sample("gamma", dist.Gamma(2.0, 1.0))
    b = sample("beta", dist.Beta(2.0, 3.0))
    h = sample("half_cauchy", dist.HalfCauchy(1.0))
    u = sample("u", dist.Uniform(0, g))  # its support depends on another latent
    sample("x", dist.Normal(b + u, h))


def deterministic_between():
    z = sample("z", dist.Normal(1, 2))
    sample("x", dist.Normal(numpyro.deterministic("twice", 2 * z), 1))


def scoped(x=None):
    with handlers.scope(prefix="outer"):
        z = sample("z", dist.Gamma(2.0, 1.0))
        with plate("N", 2):
            w = sample("w", dist.HalfNormal(z))
    sample("x", dist.Normal(w, 1).to_event(1), obs=x)


def reparametrised(x=None):
    scale = sample("scale", dist.HalfNormal(1))
    with handlers.reparam(config={"theta": LocScaleReparam(0)}), plate("N", 3):
        theta = sample("theta", dist.Normal(1, scale))
    sample("x", dist.Normal(theta, 1).to_event(1), obs=x)


def transformed():
    shift = transforms.AffineTransform(1, 2, domain=dist.constraints.positive)
    z = sample("z", dist.TransformedDistribution(dist.Normal(0, 1), [transforms.ExpTransform(), shift]))
    sample("x", dist.TransformedDistribution(dist.Normal(jnp.log(z), 1), transforms.ExpTransform()))


def mixtures():
    unequal, equal = dist.Categorical(jnp.array([0.3, 0.7])), dist.Categorical(jnp.ones(2) / 2)
    z = sample("z", dist.MixtureSameFamily(unequal, dist.Normal(jnp.array([-2.0, 2.0]), 1)))
    sample("x", dist.MixtureSameFamily(equal, dist.Normal(z * jnp.array([-1.0, 1.0]), 1)))
    sample("y", dist.MixtureGeneral(equal, [dist.Normal(z, 1), dist.StudentT(5.0, z, 1)]))


def random_walk(x=None):
    z = sample("z", dist.Normal(0, 1))

    def step(carry, value):
        carry = sample("x", dist.Normal(carry, 1), obs=value)
        return carry, None

    control_flow.scan(step, z, x, length=4)


def state_space(x=None):
    scale = sample("scale", dist.LogNormal(0, 0.5))

    def step(carry, value):
        h = sample("h", dist.Normal(0.5 * carry, scale))
        with plate("D", 2):
            sample("x", dist.Normal(h, 1), obs=value)
        return h, None

    control_flow.scan(step, 0.0, x, length=4)


def positive_states():
    def step(carry, _):
        h = sample("h", dist.Gamma(2.0, 1 / carry))
        sample("x", dist.Normal(h, 1))
        return h, None

    control_flow.scan(step, 1.0, None, length=3)


def lax_control_flow(x=None):
    z = sample("z", dist.Normal(1, 2))
    w = jax.lax.cond(z > 0, lambda v: v, lambda v: -v, z)
    w = jax.lax.fori_loop(0, 3, lambda i, v: v + i, w)
    w, _ = jax.lax.scan(lambda c, t: (c + t, None), w, jnp.arange(2.0))
    sample("x", dist.Normal(w, 1), obs=x)


def branches():
    z = sample("z", dist.Normal(0, 1))
    control_flow.cond(
        z > 0, lambda _: sample("x", dist.Normal(z + 3, 1)), lambda _: sample("x", dist.Normal(z - 3, 2)), None
    )


def with_arguments(size, offset, wide, kind, x=None):
    assert isinstance(size, int) and isinstance(wide, bool) and kind == "probit"
    z = sample("z", dist.Normal(offset, 2.0 if wide else 1.0))
    with plate("N", size):
        sample("x", dist.Normal(z[0] if z.ndim else z, 1), obs=x)


def indexed(group, x):
    with plate("groups", 2):
        z = sample("z", dist.Normal(jnp.array([0.0, 5.0]), 1))
    with plate("N", len(group)):
        sample("x", dist.Normal(z[group], 1), obs=x)


def same_array_twice(a, b):
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.Normal(z + a, b).to_event(1))


def discrete():
    z = sample("z", dist.Normal(0, 1))
    sample("poisson", dist.Poisson(jnp.exp(z)))
    sample("categorical", dist.Categorical(logits=jnp.array([0.0, 1.0, 2.0]) * z))
    sample("binomial", dist.Binomial(5, logits=z))
    sample("counts", dist.Multinomial(4, jax.nn.softmax(jnp.array([0.0, 1.0]) * z)))


def masked(x, mask):
    z = sample("z", dist.Normal(0, 1))
    with plate("N", 3), handlers.mask(mask=mask):
        sample("x", dist.Normal(z, 1), obs=jnp.where(mask, x, 0.0))


def constants(x=None, y=1.0):
    shift = sample("shift", dist.Normal(0, 1), obs=jnp.asarray(2.0))
    z = sample("z", dist.Normal(shift, 1))
    sample("x", dist.Normal(z + y, 1), obs=x)


def with_param(x=None):
    w = numpyro.param("w", lambda key: jax.random.normal(key, (3,)))
    numpyro.param("unused", 1.0)
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.Normal(w * z, 1).to_event(1), obs=x)


class Callable:
    def __init__(self, loc):
        self.loc = loc

    def __call__(self, x=None):
        z = sample("z", dist.Normal(self.loc, 2))
        sample("x", dist.Normal(z, 1), obs=x)


def circular():
    z = sample("z", dist.VonMises(0.5, 2.0))
    sample("x", dist.Normal(jnp.cos(z), 1))


def with_sample_shape(x=None):
    z = sample("z", dist.Gamma(2.0, 1.0), sample_shape=(3,), obs=None if x is None else jnp.ones(3))
    sample("x", dist.Normal(z, 1).to_event(1), obs=x)


PAIR = {"z": (1, 2), "x": (1, 5**0.5)}
WALK = np.array([100.0, 200.0, 300.0, 400.0])
DIRICHLET = np.array([1, 2, 3]) / 6, np.array([5, 8, 9]) ** 0.5 / 252**0.5
CASES = {
    "pair": Case(normal_pair, PAIR),
    "pair_with_values": Case(normal_pair, PAIR, args=(7.0,)),
    "nested_plates": Case(
        nested_plates, {"a": (1, 1), "z": (1, 2**0.5), "x": (1, 3**0.5)}, ["a", "z"], kwargs={"x": np.ones((2, 3))}
    ),
    "nuisance_upstream": Case(nested_plates, {"x": (1, 3**0.5)}),
    "matrices": Case(matrices, {"weights": DIRICHLET}, ["z", "chol", "scale", "weights"]),
    "several": Case(several, {"x": (0, 2**0.5), "y": (np.e, None)}, ["b", "a"], ["y", "x"]),
    "constrained": Case(
        constrained, {"gamma": (2, 2**0.5), "beta": (0.4, 0.2), "u": (1, 1)}, ["u", "beta", "gamma", "half_cauchy"]
    ),
    "deterministic": Case(deterministic_between, {"x": (2, 17**0.5)}),
    "scope": Case(scoped, {"outer/z": (2, 2**0.5)}, ["outer/z", "outer/w"], args=(np.ones(2),)),
    "reparam": Case(reparametrised, {"theta_decentered": (0, 1)}, ["theta_decentered", "scale"], "x", (ONES,)),
    "transformed": Case(transformed, {"z": (1 + 2 * np.exp(0.5), None)}),
    "mixtures": Case(mixtures, {"z": (0.8, 4.36**0.5), "x": (0, None)}, data=["x", "y"]),
    "random_walk": Case(random_walk, {"x": (0, np.arange(2, 6) ** 0.5)}, args=(WALK,)),
    "state_space": Case(state_space, {"x": (0, None)}, ["h", "scale"], args=(np.full((4, 2), 1e3),)),
    "positive_states": Case(positive_states, {"h": (np.array([2, 4, 8]), None)}, "h"),
    "lax_control_flow": Case(lax_control_flow, args=(1.0,)),
    "branches": Case(branches, {"x": (0, None)}),
    "arguments": Case(
        with_arguments,
        {"z": (3, 2), "x": (3, 5**0.5)},
        args=(4, np.float32(3)),
        kwargs={"wide": True, "kind": "probit", "x": np.zeros(4)},
    ),
    "indexed": Case(indexed, {"x": (np.array([0, 0, 5, 5, 0]), 2**0.5)}, args=(np.array([0, 0, 1, 1, 0]), np.zeros(5))),
    "same_array_twice": Case(same_array_twice, {"x": (1, 2**0.5)}, args=(ONES, ONES)),
    "discrete": Case(
        discrete,
        {"poisson": (np.exp(0.5), None), "binomial": (2.5, None)},
        data=["poisson", "categorical", "binomial", "counts"],
    ),
    "masked": Case(masked, {"z": (0, 1)}, args=(np.full(3, 9.0), np.array([True, False, True]))),
    "constants": Case(constants, {"z": (2, 1), "x": (3, 2**0.5)}),
    "param": Case(with_param, {"x": (0, 5**0.5)}, params={"w": 2 * ONES}),
    "circular": Case(circular),
    "sample_shape": Case(with_sample_shape, {"z": (2, 2**0.5)}, args=(ONES,)),
    "partial": Case(functools.partial(normal_pair, x=3.0), PAIR),
    "instance": Case(Callable(1), PAIR),
    "condition": Case(handlers.condition(normal_pair, {"x": 5.0, "z": 6.0}), PAIR),
    "condition_root": Case(handlers.condition(nested_plates, {"a": 3.0}), {"z": (3, 1), "x": (3, 2**0.5)}),
    "block": Case(handlers.block(deterministic_between, hide=["twice"]), {"x": (2, 17**0.5)}),
    "do": Case(handlers.do(nested_plates, {"a": 3.0}), {"z": (3, 1), "x": (3, 2**0.5)}),
}


@pytest.mark.parametrize("name", CASES)
def test_simulation_and_density(name):
    with jax.enable_x64(True):
        check(CASES[name])


@pytest.mark.parametrize("name", ["nested_plates", "constrained", "state_space", "discrete"])
def test_in_single_precision(name):
    values = check(CASES[name], rtol=1e-4, atol=1e-3)
    assert all(value.dtype in (jnp.float32, jnp.int32) for value in values.values())


def test_random_walk_is_simulated_without_the_values_it_is_given():
    """Also the carry of the scan, which reads them."""
    simulate = staged(CASES["random_walk"])[0].simulate
    x = jax.vmap(simulate)(jax.random.split(jax.random.key(1), 20_000))["x"]
    steps = np.arange(2, 6)
    np.testing.assert_allclose(np.cov(x.T), np.minimum.outer(steps, steps), atol=0.2)
    np.testing.assert_allclose(x.mean(0), 0.0, atol=0.1)


def test_state_space_covariance():
    def model(x):
        def step(carry, value):
            h = sample("h", dist.Normal(0.5 * carry, 1))
            sample("x", dist.Normal(h, 1), obs=value)
            return h, None

        control_flow.scan(step, 0.0, x)

    simulate = staged(Case(model, latent="h", args=(WALK,)))[0].simulate
    x = jax.vmap(simulate)(jax.random.split(jax.random.key(1), 20_000))["x"]
    mixing = np.tril(0.5 ** np.subtract.outer(np.arange(4.0), np.arange(4)))
    np.testing.assert_allclose(np.cov(x.T), mixing @ mixing.T + np.eye(4), atol=0.1)
