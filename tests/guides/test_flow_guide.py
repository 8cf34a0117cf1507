"""The flow guide: its density, what it gains, and its use once fitted."""

import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi import AIS, IWAE, BarberAgakov, mi_bounds, tasks
from numpyro_mi.guides import flow
from numpyro_mi.guides.flow import FlowGuide
from numpyro_mi.training.training import Training

pytest.importorskip("flowjax")

GRID = jnp.linspace(-9, 9, 3001)
COUNT = 1000
QUICK = Training(num_draws=20_000, max_steps=500, learning_rate=3e-3)
STILL = Training(num_draws=2000, max_steps=1, learning_rate=1e-30)


def square(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(z**2, 0.3), obs=x)


def bent(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("x", dist.Normal(jnp.stack([jnp.tanh(2 * z[0]), z[1] + 0.5 * z[0] ** 2]), 0.3).to_event(1), obs=x)


def log_marginal_square(values):
    log_joint = dist.Normal(0, 1).log_prob(GRID) + dist.Normal(GRID**2, 0.3).log_prob(values["x"])
    return jax.scipy.special.logsumexp(log_joint) + jnp.log(GRID[1] - GRID[0])


def log_marginal_bent(values):
    """Over the second latent in closed form, over the first by quadrature."""
    x = values["x"]
    log_joint = dist.Normal(0, 1).log_prob(GRID) + dist.Normal(jnp.tanh(2 * GRID), 0.3).log_prob(x[0])
    log_joint += dist.Normal(0.5 * GRID**2, (1 + 0.09) ** 0.5).log_prob(x[1])
    return jax.scipy.special.logsumexp(log_joint) + jnp.log(GRID[1] - GRID[0])


MODELS = {"square": (square, log_marginal_square), "bent": (bent, log_marginal_bent)}
GUIDE = FlowGuide(num_layers=3, width=32, depth=1, training=QUICK)


@cache
def run(model):
    return mi_bounds(MODELS[model][0], "z", "x", method=BarberAgakov(GUIDE), num_samples=COUNT)


@cache
def regression(model):
    return mi_bounds(MODELS[model][0], "z", "x", method=BarberAgakov(), num_samples=COUNT)


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=[pytest.mark.slow] * (name != "square")) for name in MODELS]
)
def test_beats_the_regression_and_stays_on_its_side(model, exact_pointwise):
    result, weak = run(model), regression(model)
    gain = result.lower_i - weak.lower_i
    assert gain.mean() > 4 * gain.std(ddof=1) / COUNT**0.5
    task = tasks.Task(model, MODELS[model][0], "z", "x", 1.0, log_marginal=MODELS[model][1])
    exact = exact_pointwise(task, 0, COUNT)
    for slack in (exact - result.lower_i, result.upper_i - exact):
        assert slack.mean() > -4 * slack.std(ddof=1) / COUNT**0.5
    assert (exact - result.lower_i).mean() < 0.2


def test_starts_at_the_regression():
    result = mi_bounds(bent, "z", "x", method=BarberAgakov(FlowGuide(2, 8, 1, training=STILL)), num_samples=COUNT)
    np.testing.assert_allclose(result.lower_i, regression("bent").lower_i, atol=2e-3)


@pytest.mark.parametrize(("model", "x"), [("square", [1.5]), pytest.param("bent", [0.9, 1.3], marks=pytest.mark.slow)])
def test_density_is_normalised_and_that_of_the_draws(model, x):
    guide = run(model).guides[0]
    conditional = guide.condition(None, jnp.array(x), jax.random.key(0))
    d = conditional.loc.size
    axis = jnp.linspace(-9, 9, 20_001 if d == 1 else 401)
    grid = jnp.stack(jnp.meshgrid(*[axis] * d), -1).reshape(-1, d)
    density = jax.jit(jax.vmap(lambda v: guide.log_prob(conditional, v)))(grid)
    p = np.exp(np.asarray(density, np.float64)) * float(axis[1] - axis[0]) ** d
    assert p.sum() == pytest.approx(1, abs=5e-3)
    draw = jax.jit(jax.vmap(lambda key: guide.sample(conditional, key)))
    draws = np.asarray(draw(jax.random.split(jax.random.key(1), 20_000)))
    for moment in (lambda v: v, lambda v: v**2, np.sin, np.tanh):
        np.testing.assert_allclose(moment(draws).mean(0), p @ moment(np.asarray(grid)), atol=0.04)


def test_once_fitted_it_is_used_as_it_is(monkeypatch):
    fitted = run("square").guides[0]
    monkeypatch.setattr(flow, "train", None)
    again = mi_bounds(square, "z", "x", method=BarberAgakov(fitted), num_samples=COUNT)
    np.testing.assert_array_equal(again.lower_i, run("square").lower_i)
    with pytest.raises(ValueError, match="was fitted to 1 values of data and 1 unconstrained latents, and here"):
        mi_bounds(bent, "z", "x", method=IWAE(fitted), num_samples=64)


@pytest.mark.slow
def test_the_base_of_a_path():
    annealed = mi_bounds(square, "z", "x", method=AIS(20, 2, base=run("square").guides[0]), num_samples=200)
    assert annealed.gap < run("square").gap


@pytest.mark.slow
def test_double_precision():
    guide = FlowGuide(2, 8, 1, training=Training(num_draws=4000, max_steps=100))
    with jax.enable_x64(True):
        result = mi_bounds(bent, "z", "x", method=BarberAgakov(guide), num_samples=200)
        assert all(leaf.dtype == jnp.float64 for leaf in result.guides[0].params)


def test_other_weights_compile_nothing():
    fitted = run("square").guides[0]
    other = fitted.with_params(jax.tree.map(lambda leaf: 0.9 * leaf, fitted.params))
    result = mi_bounds(square, "z", "x", method=BarberAgakov(other), num_samples=COUNT)
    assert result.seconds["compiling"] < 0.05 and result.lower != run("square").lower


def test_without_flowjax_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flowjax", None)
    monkeypatch.setitem(sys.modules, "flowjax.flows", None)
    with pytest.raises(
        ImportError, match="FlowGuide is built with FlowJAX, which is not installed: pip install flowjax"
    ):
        mi_bounds(square, "z", "x", method=BarberAgakov(GUIDE), num_samples=COUNT)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_layers": 0}, ValueError, "FlowGuide needs num_layers, a positive integer, got 0"),
        ({"width": 1.5}, ValueError, "FlowGuide needs width, a positive integer, got 1.5"),
        ({"depth": True}, ValueError, "FlowGuide needs depth, a positive integer, got True"),
        ({"training": None}, TypeError, r"FlowGuide needs training=Training\(...\), got None"),
    ],
)
def test_bad_options(arguments, error, message):
    with pytest.raises(error, match=message):
        FlowGuide(**arguments)
