"""Fitted guides and trained critics as files."""

import dataclasses
import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi import (
    GIWAE,
    IWAE,
    LaplaceGuide,
    MLPCritic,
    RegressionGuide,
    SeparableCritic,
    Training,
    load_fitted,
    mi_bounds,
    save_fitted,
)
from numpyro_mi.direct.critics import whitening
from numpyro_mi.guides.regression import marginal
from numpyro_mi.training.pairs import Pairs

pytestmark = pytest.mark.compile_fast


def model(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def pairs():
    r = np.random.default_rng(0)
    z = r.standard_normal((5000, 2))
    x = z + 0.5 * r.standard_normal(z.shape)
    return Pairs(lambda count: iter([(z[:count], x[:count])]), 2, 2)


def fitted(config):
    return config.fit(pairs(), jax.random.key(0), lambda stage: None)


def trained(config):
    regression = fitted(RegressionGuide())
    return config.initial(marginal(regression, pairs()), regression, jax.random.key(1))


@pytest.mark.parametrize(
    "value",
    [
        fitted(RegressionGuide("diagonal")),
        fitted(LaplaceGuide(degrees_of_freedom=None)),
        trained(MLPCritic((8,))),
        trained(SeparableCritic((8, 4), 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trip(value, tmp_path):
    save_fitted(value, tmp_path / "fitted.npz")
    back = load_fitted(tmp_path / "fitted.npz")
    assert jax.tree.structure(back) == jax.tree.structure(value)
    for one, two in zip(jax.tree.leaves(back), jax.tree.leaves(value), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


def test_a_loaded_guide_gives_the_same_bounds_without_fitting(tmp_path):
    first = mi_bounds(model, "z", "x", method=IWAE(num_particles=5), num_samples=50)
    save_fitted(first.guides[0], tmp_path / "guide.npz")
    again = mi_bounds(model, "z", "x", method=IWAE(load_fitted(tmp_path / "guide.npz"), 5), num_samples=50)
    np.testing.assert_array_equal(first.lower_i, again.lower_i)


def test_a_trained_critic_is_used_as_it_is(tmp_path):
    quick = Training(num_draws=4096, max_steps=100)
    first = mi_bounds(model, "z", "x", method=GIWAE(num_particles=5, training=quick), num_samples=50)
    save_fitted(first.trained.critic, tmp_path / "critic.npz")
    critic = load_fitted(tmp_path / "critic.npz")
    again = mi_bounds(model, "z", "x", method=GIWAE(first.trained.guide, critic, 5), num_samples=50)
    np.testing.assert_array_equal(first.lower_i, again.lower_i)
    assert again.method["critic"] == {"fitted": first.method["critic"]}


def test_a_critic_of_another_size_is_refused():
    def small():
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(z, 0.5))

    with pytest.raises(
        ValueError, match="this FittedMLPCritic was fitted to 2 values of data and 2 .* here there are 1"
    ):
        mi_bounds(small, "z", "x", method=GIWAE(critic=trained(MLPCritic((8,)))), num_samples=50)


def test_an_untrained_critic_is_the_regression():
    critic, regression = trained(MLPCritic()), fitted(RegressionGuide())
    x, u = jnp.array([0.3, -1.0]), jnp.array([[0.1, 0.2], [-1.0, 2.0]])
    at = regression.condition(None, x, jax.random.key(0))
    base = critic.base.condition(None, x, jax.random.key(0))
    expected = [0.5 * (base.whiten(one) @ base.whiten(one) - at.whiten(one) @ at.whiten(one)) for one in u]
    found = [critic.score(critic.context(x), one) for one in u]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose((u[0] - at.loc) @ whitening(regression), at.whiten(u[0]), rtol=1e-4)


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="save_fitted needs a fitted guide or a trained critic of the package, got"):
        save_fitted(RegressionGuide(), tmp_path / "no.npz")


def test_another_file(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match=r"fitted guide or critic: pass a file that save_fitted wrote. It holds a\.$"):
        load_fitted(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        load_fitted(tmp_path / "none.npz")


def written(content):
    """The bytes of a file of some kind."""
    file = io.BytesIO()
    if content == "array":
        np.save(file, np.ones(2))
    elif content == "objects":
        np.save(file, np.array([1.0], object))
    elif content == "pickle":
        pickle.dump({"a": 1}, file)
    elif content == "text":
        file.write(b"z,x")
    elif content == "broken":
        np.savez(file, a=np.ones(2))
        return file.getvalue()[:100]
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("array", "It is a single array"),
        ("objects", "NumPy cannot read it: .*allow_pickle"),
        ("pickle", "NumPy cannot read it"),
        ("text", "NumPy cannot read it"),
        ("empty", "NumPy cannot read it: No data left"),
        ("broken", "NumPy cannot read it: File is not a zip file"),
    ],
)
def test_a_file_that_is_no_archive(content, message, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(written(content))
    with pytest.raises(ValueError, match=f"file holds no fitted guide or critic: pass a file .*{message}"):
        load_fitted(path)


def test_a_class_of_the_same_name_is_not_saved(tmp_path):
    """It would come back as the one of the package."""

    @dataclasses.dataclass(frozen=True)
    class FittedRegression:
        config: RegressionGuide

    with pytest.raises(TypeError, match="save_fitted needs a fitted guide or a trained critic of the package, got"):
        save_fitted(FittedRegression(RegressionGuide()), tmp_path / "no.npz")
