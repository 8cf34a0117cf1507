"""Training: options that will do and that will not, and what is fitted for a critic."""

import jax
import numpy as np
import pytest

from numpyro_mi import MINE, FlowGuide, InfoNCE, NeuralGuide, RegressionGuide, Training
from numpyro_mi.direct.base import Supply, fit_parts
from numpyro_mi.options import integer
from numpyro_mi.training.pairs import Pairs


def pairs(count):
    z, noise = np.random.default_rng(0).standard_normal((2, count, 1))
    return Pairs(lambda most: iter([(z[:most], (z + noise)[:most])]), 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_draws": 4, "batch_size": 2}, "num_draws of at least 10 and of two batches of 2, got 4: raise it"),
        ({"num_draws": 200}, "num_draws of at least 10 and of two batches of 128, got 200: raise it, or lower"),
        ({"batch_size": 0}, "Training needs batch_size, a positive integer, got 0"),
        *(
            ({"learning_rate": value}, "Training needs learning_rate, a positive finite number such as 1e-3, got")
            for value in ("a", np.inf, np.nan, 0, -1e-3, True, None)
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Training(**options)


@pytest.mark.parametrize("make", [MINE, InfoNCE, NeuralGuide, FlowGuide])
def test_what_is_no_training(make):
    with pytest.raises(TypeError, match=rf"{make.__name__} needs training=Training\(...\), got 3"):
        make(training=3)


def test_the_smallest_training():
    guide = NeuralGuide((4,), training=Training(10, max_steps=1, batch_size=2))
    assert np.isfinite(guide.fit(pairs(10), jax.random.key(0), lambda stage: None).params["means"]).all()


@pytest.mark.parametrize("count", [9, 100])
def test_too_few_draws(count):
    guide = NeuralGuide((4,), training=Training(batch_size=2 if count == 9 else 128))
    with pytest.raises(ValueError, match="finite values, and .* held out.* needed: lower batch_size, or give it more"):
        guide.fit(pairs(count), jax.random.key(0), lambda stage: None)


def test_nothing_is_fitted_for_a_critic_function():
    def unused(count):
        raise AssertionError

    def critic(x, z):
        return x[0] * z[0]

    nothing = Pairs(unused, 1, 1)
    method = InfoNCE(critic)
    guide, found = fit_parts(method, None, None, None, Supply(nothing, nothing, 1), jax.random.key(0), None)
    assert guide is None and found is method.critic


def test_guide_and_critic_have_keys_of_their_own():
    seen = []

    class Recording:
        def fit(self, pairs, rng_key, report):
            seen.append(rng_key)
            return RegressionGuide().fit(pairs, rng_key, report)

    class Critic:
        def initial(self, base, regression, rng_key):
            seen.append(rng_key)
            return "critic"

    method = InfoNCE(Critic())
    key, supply = jax.random.key(0), Supply(pairs(100), pairs(100), 1)
    assert fit_parts(method, Recording(), None, None, supply, key, lambda stage: None)[1] == "critic"
    data = {tuple(jax.random.key_data(one).tolist()) for one in (key, *seen)}
    assert len(seen) == 2 and len(data) == 3


@pytest.mark.parametrize("value", [0, True, 1.0, "1", None])
def test_integers(value):
    with pytest.raises(ValueError, match="A needs n, a positive integer or None, got"):
        integer("A", "n", value, alternative=" or None")
    assert integer("A", "n", np.int64(3), 3) == 3
