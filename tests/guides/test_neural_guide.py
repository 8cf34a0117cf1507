"""The neural guide: its density, where it starts, what it gains over the regression, and its use once fitted."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi import AIS, GIWAE, IWAE, BarberAgakov, RegressionGuide, mi_bounds, tasks
from numpyro_mi.direct.critics import MLPCritic
from numpyro_mi.guides import neural
from numpyro_mi.guides.neural import NeuralGuide
from numpyro_mi.model.integrals.densities import features, held_values
from numpyro_mi.training.training import Training

GAIN = np.array([[1.0, 0.5], [0.0, 2.0], [1.0, -1.0]], np.float32)
GRID = jnp.linspace(-9, 9, 3001)
COUNT = 1000
QUICK = Training(num_draws=20_000, max_steps=600, learning_rate=3e-3)
STILL = Training(num_draws=2000, max_steps=1, learning_rate=1e-30)


def linear(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("x", dist.Normal(GAIN @ z, 1.0).to_event(1), obs=x)


def square(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(z**2, 0.3), obs=x)


def bent(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("x", dist.Normal(jnp.stack([jnp.tanh(2 * z[0]), z[1] + 0.5 * z[0] ** 2]), 0.3).to_event(1), obs=x)


def counts(x=None):
    rate = numpyro.sample("z", dist.Gamma(3.0, 2.0))
    numpyro.sample("x", dist.Poisson(rate).expand([3]).to_event(1), obs=x)


def log_marginal_square(values):
    log_joint = dist.Normal(0, 1).log_prob(GRID) + dist.Normal(GRID**2, 0.3).log_prob(values["x"])
    return jax.scipy.special.logsumexp(log_joint) + jnp.log(GRID[1] - GRID[0])


def log_marginal_bent(values):
    """Over the second latent in closed form, over the first by quadrature."""
    x = values["x"]
    log_joint = dist.Normal(0, 1).log_prob(GRID) + dist.Normal(jnp.tanh(2 * GRID), 0.3).log_prob(x[0])
    log_joint += dist.Normal(0.5 * GRID**2, (1 + 0.09) ** 0.5).log_prob(x[1])
    return jax.scipy.special.logsumexp(log_joint) + jnp.log(GRID[1] - GRID[0])


MODELS = {"linear": linear, "square": square, "bent": bent}
MARGINALS = {"square": log_marginal_square, "bent": log_marginal_bent}
GUIDES = {
    "regression": RegressionGuide(),
    "one": NeuralGuide((32, 32), training=QUICK),
    "two": NeuralGuide((32, 32), 2, training=QUICK),
    "symmetric": NeuralGuide((32, 32), 2, "symmetric", training=QUICK),
}


@cache
def run(model, guide):
    return mi_bounds(MODELS[model], "z", "x", method=BarberAgakov(GUIDES[guide]), num_samples=COUNT)


def not_below_zero(terms):
    """Whether a mean is at least zero, to 4 standard errors."""
    return terms.mean() > -4 * terms.std(ddof=1) / len(terms) ** 0.5


def log_density(guide, x):
    """Of v, as a function of rows; and the conditional."""
    conditional = guide.condition(None, x, jax.random.key(0))
    return jax.jit(jax.vmap(lambda v: guide.log_prob(conditional, v))), conditional


@pytest.mark.parametrize(
    ("model", "guide"), [("square", "two"), ("bent", "one"), pytest.param("bent", "symmetric", marks=pytest.mark.slow)]
)
def test_beats_the_regression_and_stays_on_its_side(model, guide, exact_pointwise):
    result, weak = run(model, guide), run(model, "regression")
    gain = result.lower_i - weak.lower_i
    assert gain.mean() > 4 * gain.std(ddof=1) / COUNT**0.5
    assert result.gap < 0.4 * weak.gap
    task = tasks.Task(model, MODELS[model], "z", "x", 1.0, log_marginal=MARGINALS[model])
    exact = exact_pointwise(task, 0, COUNT)
    assert not_below_zero(exact - result.lower_i)
    assert not_below_zero(result.upper_i - exact)


def test_is_not_worse_than_the_regression_where_that_is_best():
    loss = run("linear", "regression").lower_i - run("linear", "one").lower_i
    assert loss.mean() < 0.01 + 4 * loss.std(ddof=1) / COUNT**0.5


def test_symmetric_training_narrows_the_upper_side():
    assert run("bent", "symmetric").gap < run("bent", "one").gap


def test_starts_at_the_regression():
    guide = BarberAgakov(NeuralGuide((8,), training=STILL))
    result = mi_bounds(linear, "z", "x", method=guide, num_samples=COUNT)
    np.testing.assert_allclose(result.lower_i, run("linear", "regression").lower_i, atol=1e-5)
    several = mi_bounds(linear, "z", "x", method=BarberAgakov(NeuralGuide((8,), 3, training=STILL)), num_samples=50)
    means = np.asarray(several.guides[0].components(jnp.zeros(3)).means)
    apart = np.linalg.norm(means[:, None] - means, axis=2)[np.triu_indices(3, 1)]
    assert apart.min() > 0.05 and np.linalg.norm(means, axis=1).max() < 0.71


@pytest.mark.parametrize("x", [-0.5, 0.2, 3.0, 40.0])
def test_density_is_normalised_and_that_of_the_draws(x):
    guide = run("square", "two").guides[0]
    density, conditional = log_density(guide, jnp.array([x]))
    grid = jnp.linspace(-8, 8, 20_001)
    p = np.exp(np.asarray(density(grid[:, None]), np.float64))
    cumulative = np.cumsum(p) * float(grid[1] - grid[0])
    assert cumulative[-1] == pytest.approx(1, abs=1e-3)
    draws = jax.vmap(lambda key: guide.sample(conditional, key))(jax.random.split(jax.random.key(1), 20_000))[:, 0]
    ranks = np.interp(np.sort(draws), grid, cumulative)
    assert np.abs(ranks - (np.arange(20_000) + 0.5) / 20_000).max() < 0.014  # Kolmogorov: 1.95 / sqrt(n), p = 0.001
    assert abs(float(draws.mean())) < 0.05 and float(draws.std()) == pytest.approx(1, abs=0.05)  # whitened


def test_density_of_two_latents_is_normalised():
    guide = run("bent", "symmetric").guides[0]
    density, conditional = log_density(guide, jnp.array([0.9, 1.3]))
    axis = jnp.linspace(-7, 7, 301)
    v = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    p = np.exp(np.asarray(density(v), np.float64)) * float(axis[1] - axis[0]) ** 2
    assert p.sum() == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose(p @ v, 0, atol=0.01)
    np.testing.assert_allclose(np.einsum("i,ij,ik", p, v, v), np.eye(2), atol=0.01)
    np.testing.assert_allclose(conditional.scale, jnp.tril(conditional.scale))


def test_once_fitted_it_is_used_as_it_is(monkeypatch):
    first = mi_bounds(square, "z", "x", method=IWAE(run("square", "two").guides[0], 20), num_samples=64)

    def refuse(*args):
        raise AssertionError("a fitted guide is trained again")

    monkeypatch.setattr(neural, "train", refuse)
    again = mi_bounds(square, "z", "x", method=IWAE(first.guides[0], 20), num_samples=64)
    np.testing.assert_array_equal(again.lower_i, first.lower_i)
    np.testing.assert_array_equal(again.upper_i, first.upper_i)
    same = mi_bounds(square, "z", "x", method=BarberAgakov(first.guides[0]), num_samples=COUNT)
    np.testing.assert_array_equal(same.lower_i, run("square", "two").lower_i)
    annealed = mi_bounds(square, "z", "x", method=AIS(10, 2, base=first.guides[0]), num_samples=200)
    assert annealed.gap < run("square", "two").gap
    assert annealed.method["base"]["fitted"]["num_components"] == 2


def test_other_weights_compile_nothing():
    fitted = run("square", "two").guides[0]
    other = fitted.with_params(jax.tree.map(lambda leaf: 0.9 * leaf, fitted.params))
    mi_bounds(square, "z", "x", method=IWAE(fitted, 20), num_samples=64)
    result = mi_bounds(square, "z", "x", method=IWAE(other, 20), num_samples=64)
    assert result.seconds["compiling"] < 0.05


@pytest.mark.parametrize("guide", ["regression", "two"])
def test_a_guide_of_another_size_is_refused(guide):
    fitted = run("square", guide).guides[0]
    with pytest.raises(
        ValueError, match="was fitted to 1 values of data and 1 unconstrained latents, and here.* 3 and 2"
    ):
        mi_bounds(linear, "z", "x", method=IWAE(fitted), num_samples=64)


@pytest.mark.slow
def test_without_a_likelihood():
    training = Training(num_draws=20_000, max_steps=300)
    methods = [GIWAE(guide, MLPCritic((32,)), 8, training) for guide in (GUIDES["one"], RegressionGuide())]
    neural, weak = (mi_bounds(bent, "z", "x", method=method, num_samples=1000) for method in methods)
    gain = neural.lower_i - weak.lower_i
    assert gain.mean() > 4 * gain.std(ddof=1) / 1000**0.5


def test_without_a_likelihood_only_forward():
    training = Training(num_draws=2000, max_steps=1)
    critic = MLPCritic((8,))
    for objective in ("reverse", "symmetric"):
        guide = NeuralGuide((8,), objective=objective, training=STILL)
        with pytest.raises(
            ValueError, match=f'objective="{objective}".*evaluates the likelihood.*use objective="forward"'
        ):
            mi_bounds(linear, "z", "x", method=GIWAE(guide, critic, 8, training), num_samples=64)


@pytest.mark.slow
def test_integer_data_and_double_precision():
    guide = NeuralGuide((16,), objective="symmetric", training=Training(num_draws=4000, max_steps=300))
    with jax.enable_x64(True):
        result = mi_bounds(counts, "z", "x", method=BarberAgakov(guide), num_samples=400)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(result.guides[0]))
        weak = mi_bounds(counts, "z", "x", method=BarberAgakov(), num_samples=400)
    assert result.gap < weak.gap


def test_held_values_come_back_as_they_were():
    held = {"m": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([True, False]), "a": jnp.array(7), "u": jnp.zeros(0)}
    shapes = tuple((name, jax.ShapeDtypeStruct(held[name].shape, held[name].dtype)) for name in sorted(held))
    back = held_values(features(held), shapes)
    assert set(back) == set(held)
    for name, value in held.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden": ()}, ValueError, "NeuralGuide needs hidden, a sequence of positive layer sizes"),
        ({"num_components": 0}, ValueError, "needs num_components, a positive integer, got 0"),
        ({"num_components": True}, ValueError, "needs num_components, a positive integer"),
        ({"objective": "both"}, ValueError, 'needs objective "forward", "reverse" or "symmetric", got \'both\''),
        ({"training": 100}, TypeError, r"needs training=Training\(...\), got 100"),
    ],
)
def test_bad_options(arguments, error, message):
    with pytest.raises(error, match=message):
        NeuralGuide(**arguments)
