"""Models with neural networks of Flax and Equinox."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from model_check import Case, check, staged

ONES = np.ones(3, np.float32)
sample = numpyro.sample


def neural(make):
    def model(x=None):
        z = sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        sample("x", dist.Normal(make()(z), 1).to_event(1), obs=x)

    return model


def test_flax_linen_module():
    linen = pytest.importorskip("flax.linen")
    from numpyro.contrib.module import flax_module, random_flax_module

    kernel = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    model = neural(lambda: flax_module("net", linen.Dense(3), input_shape=(2,)))
    params = {"net$params": {"kernel": kernel, "bias": ONES}}
    check(Case(model, {"x": (1, (1 + (kernel**2).sum(0)) ** 0.5)}, params=params), rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match=r"'net\$params' of the model have no value, only an initial"):
        staged(Case(model))

    def bayesian():
        net = random_flax_module("net", linen.Dense(3), prior=dist.Normal(0, 1), input_shape=(2,))
        sample("x", dist.Normal(net(jnp.ones(2)), 1).to_event(1))

    check(Case(bayesian, {"x": (0, 2)}, ["net/kernel", "net/bias"]), rtol=1e-4, atol=1e-3)


def test_flax_nnx_module_carries_its_values():
    nnx = pytest.importorskip("flax.nnx")
    from numpyro.contrib.module import nnx_module

    net = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    sd = (1 + (np.asarray(net.kernel[...]) ** 2).sum(0)) ** 0.5
    check(Case(neural(lambda: nnx_module("net", net)), {"x": (0, sd)}), rtol=1e-4, atol=1e-3)


def test_equinox_module_carries_its_values():
    eqx = pytest.importorskip("equinox")
    from numpyro.contrib.module import eqx_module

    net = eqx.nn.Linear(2, 3, key=jax.random.key(0))
    sd = (1 + (np.asarray(net.weight) ** 2).sum(1)) ** 0.5
    moments = {"x": (np.asarray(net.bias), sd)}
    check(Case(neural(lambda: eqx_module("net", net)), moments), rtol=1e-4, atol=1e-3)
