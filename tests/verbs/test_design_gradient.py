"""The gradient of a lower bound on the information gain by a design: closed forms, finite differences, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi import (
    AIS,
    IWAE,
    AnnealedSMC,
    BarberAgakov,
    FlowGuide,
    GuideFunction,
    InfoNCE,
    LaplaceGuide,
    NeuralGuide,
    RegressionGuide,
    StructuredInfoNCE,
    Training,
    information_gain_gradient,
    mi_bounds,
)
from numpyro_mi.runs.timing import Stopwatch

pytestmark = pytest.mark.compile_fast
sample = numpyro.sample


def angle(a, deviations, y=None):
    w = sample("w", dist.Normal(jnp.zeros(2), jnp.asarray(deviations)).to_event(1))
    sample("y", dist.Normal(w[0] * jnp.cos(a) + w[1] * jnp.sin(a), 1), obs=y)


def slope(a, deviations):
    """Of the closed form `log(1 + s^2 cos^2 a + t^2 sin^2 a) / 2`."""
    s, t = np.square(deviations)
    return (t - s) * np.sin(a) * np.cos(a) / (1 + s * np.cos(a) ** 2 + t * np.sin(a) ** 2)


@pytest.mark.parametrize(
    ("method", "deviations"),
    [(None, (1.0, 0.3)), (IWAE(num_particles=20), (1.0, 0.3)), (IWAE(num_particles=20), (10.0, 2.0))],
    ids=["StructuredInfoNCE", "IWAE", "IWAE, much information"],
)
def test_of_a_linear_model(method, deviations):
    """Where the bound is tight, its slope is that of the gain."""
    options = {"method": method, "num_samples": 4000, "model_kwargs": {"deviations": deviations}}
    found = information_gain_gradient(angle, {"a": 0.7}, "w", "y", **options)
    assert abs(found.gradient["a"] - slope(0.7, deviations)) < 4 * found.gradient_se["a"] + 0.01
    assert 0 < found.gradient_se["a"] < 0.05


def two(design, offset, x=None):
    """A design of two arrays, one of which the prior depends on; a latent on the half-line, data in two sites."""
    z = sample("z", dist.LogNormal(0, design["spread"]))
    w = sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    sample("x", dist.Normal(z * design["loads"] + w @ jnp.array([1.0, 0.5]) + offset, 1).to_event(1), obs=x)
    sample("side", dist.Bernoulli(logits=w[0]))


def uniform(a):
    z = sample("z", dist.Uniform(0, a))
    with numpyro.plate("N", 2):
        sample("x", dist.Normal(z, 0.3))


def skewed(a):
    z = sample("z", dist.Normal(0, 1))
    x = sample("x", dist.LogNormal(a * z, 0.5))
    sample("y", dist.StudentT(4, x, jnp.exp(a)))


def partly(a):
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.Normal(a * z * jnp.ones(4), 1).mask(jnp.arange(4) < 3).to_event(1))


CASES = {
    "angle": (angle, {"a": 0.7}, "w", "y", {"model_kwargs": {"deviations": (10.0, 2.0)}}),
    "positional": (angle, (np.float64(0.2),), "w", "y", {"model_args": ((1.0, 2.0),)}),
    "several": (
        two,
        {"design": {"loads": np.array([0.5, 1.0, 2.0]), "spread": jnp.array(0.5)}, "offset": 0.1},
        ["z", "w"],
        ["x", "side"],
        {},
    ),
    "support of the latent": (uniform, {"a": 2.0}, "z", "x", {}),
    "masked": (partly, {"a": 0.8}, "z", "x", {}),
    "transformed": (skewed, {"a": 0.4}, "z", ["x", "y"], {}),
}


def lower(case, design, method, options):
    model, _, latent, data, passed = case
    args, kwargs = passed.get("model_args", ()), passed.get("model_kwargs", {})
    named = isinstance(design, dict)
    called = {
        "model_args": args if named else (*design, *args),
        "model_kwargs": {**kwargs, **design} if named else kwargs,
    }
    return mi_bounds(model, latent, data, method=method, progress_bar=False, **called, **options)


@pytest.mark.parametrize("name", CASES)
def test_finite_differences(name):
    """Central, with common random numbers: the derivative of the very number that mi_bounds gives."""
    options = {"num_samples": 40, "rng_key": 3}
    with jax.enable_x64(True):
        case, method = CASES[name], StructuredInfoNCE(10)
        model, design, latent, data, passed = case
        found = information_gain_gradient(model, design, latent, data, method=method, **passed, **options)
        design = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), design)
        assert found.lower == pytest.approx(lower(case, design, method, options).lower, rel=1e-9)
        leaves, tree = jax.tree.flatten(design)
        assert jax.tree.structure(found.gradient) == jax.tree.structure(found.gradient_se) == tree
        for i, leaf in enumerate(leaves):
            for index in np.ndindex(leaf.shape):
                ends = []
                for step in (1e-4, -1e-4):
                    moved = [*leaves[:i], leaf.at[index].add(step), *leaves[i + 1 :]]
                    ends.append(lower(case, jax.tree.unflatten(tree, moved), method, options).lower_i)
                slopes = (ends[0] - ends[1]) / 2e-4
                np.testing.assert_allclose(
                    jax.tree.leaves(found.gradient)[i][index], slopes.mean(), rtol=1e-5, atol=1e-7
                )
                error = slopes.std(ddof=1) / np.sqrt(40)
                np.testing.assert_allclose(jax.tree.leaves(found.gradient_se)[i][index], error, rtol=1e-4, atol=1e-7)


SHORT = Training(num_draws=400, max_steps=20)
GUIDES = {
    "regression": RegressionGuide(),
    "neural": NeuralGuide(training=SHORT),
    "flow": FlowGuide(num_layers=1, width=8, depth=1, training=SHORT),
}


@pytest.mark.parametrize("name", ["regression", "neural", pytest.param("flow", marks=pytest.mark.slow)])
def test_a_guide_is_held_fixed(name):
    """Finite differences with the guide that was fitted at this design; BarberAgakov is that with one weight."""
    if name == "flow":
        pytest.importorskip("flowjax")
    case, options = CASES["angle"], {"num_samples": 60}
    fitted = lower(case, {"a": jnp.array(0.7)}, IWAE(GUIDES[name], 5), options).guides[0]
    for method in (IWAE(fitted, 5), BarberAgakov(fitted)):
        found = information_gain_gradient(angle, {"a": 0.7}, "w", "y", method=method, **case[4], **options)
        ends = [lower(case, {"a": jnp.array(0.7 + step)}, method, options).lower for step in (0.01, -0.01)]
        assert found.gradient["a"] == pytest.approx((ends[0] - ends[1]) / 0.02, rel=5e-3)


def test_a_guide_is_fitted_at_the_design():
    options = {"num_samples": 60, **CASES["angle"][4]}
    found = information_gain_gradient(angle, {"a": 0.7}, "w", "y", method=IWAE(RegressionGuide(), 5), **options)
    result = lower(CASES["angle"], {"a": jnp.array(0.7)}, IWAE(RegressionGuide(), 5), {"num_samples": 60})
    assert found.lower == pytest.approx(result.lower, rel=1e-6)


def test_designs_share_their_programs():
    options = {"num_samples": 50, "model_kwargs": {"deviations": (3.0, 1.0)}}
    seconds = []
    for a in (0.3, 0.6):
        watch = Stopwatch()
        information_gain_gradient(angle, {"a": a}, "w", "y", **options)
        watch.lap()
        seconds.append(watch.compiling)
    assert seconds[1] < 0.05 * seconds[0]


def test_ascent_finds_the_best_angle():
    a = np.array(1.2)
    for step in range(8):
        options = {"num_samples": 300, "rng_key": step, "model_kwargs": {"deviations": (2.0, 0.5)}}
        a = a + 0.5 * information_gain_gradient(angle, {"a": a}, "w", "y", **options).gradient["a"]
    assert abs(a) < 0.2


def test_text_and_note():
    options = {"num_samples": 100, "model_kwargs": {"deviations": (30.0, 30.0)}}
    found = information_gain_gradient(angle, {"a": 0.7}, "w", "y", method=StructuredInfoNCE(5), **options)
    assert "within 1 nat of log 5, which it never exceeds" in repr(found) and "by design['a']" in repr(found)
    calm = information_gain_gradient(
        angle, {"a": np.ones(1)}, "w", "y", num_samples=10, model_kwargs={"deviations": (1, 1)}
    )
    assert calm.notes == () and "by design['a'][0]" in repr(calm)


def poisson(a):
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.Poisson(jnp.exp(a * z)))


def switched(a):
    z = sample("z", dist.Normal(0, 1))
    k = sample("k", dist.Bernoulli(logits=a))
    sample("x", dist.Normal(z + k, 1))


def mixed(a):
    z = sample("z", dist.Normal(0, 1))
    parts = dist.Normal(jnp.stack([a * z, -a * z]), 1)
    sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.array([0.5, 0.5])), parts))


def window(a):
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.Uniform(z, z + a))


def cut(a):
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.TruncatedNormal(z, 1, low=a))


def shifted(a):
    z = sample("z", dist.Normal(0, 1))
    base = dist.Beta(2.0, 2.0)
    sample("x", dist.TransformedDistribution(base, dist.transforms.AffineTransform(z, jnp.exp(a))))


def masked(a):
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.Normal(z * jnp.ones(4), 1).mask(jnp.arange(4) < a).to_event(1))


def nuisance(a):
    z, w = sample("z", dist.Normal(0, 1)), sample("w", dist.Normal(0, 1))
    sample("x", dist.Normal(a * z + w, 1))


def branch(a):
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.Normal(z if a > 0 else -z, 1))


def sizes(a):
    z = sample("z", dist.Normal(0, 1))
    sample("x", dist.Normal(z, 1).expand([int(a)]).to_event(1))


@pytest.mark.parametrize(
    ("model", "latent", "error", "match"),
    [
        (poisson, "z", ValueError, "draws of site 'x' depend on the design and are not reparametrised"),
        (switched, ["z", "k"], ValueError, r"'k'\] are discrete and summed over"),
        (mixed, "z", ValueError, "draws of site 'x' depend on the design and are not reparametrised"),
        (window, "z", ValueError, "support of data 'x' moves with other sites or with the design"),
        (cut, "z", ValueError, "support of data 'x' moves"),
        (shifted, "z", ValueError, "support of data 'x' moves"),
        (masked, "z", ValueError, "cells of data 'x' are masked depends on the design"),
        (nuisance, "z", ValueError, r"here are 2 integrals \(z, w; w\): name every latent"),
        (branch, "z", TypeError, "value of it is a size, or decides something in Python"),
        (sizes, "z", TypeError, "value of it is a size, or decides something in Python"),
    ],
)
def test_models_without_a_gradient(model, latent, error, match):
    with pytest.raises(error, match=match):
        information_gain_gradient(model, {"a": 2.0}, latent, "x")


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (AIS(), "AIS is annealed, and through Metropolis accept steps the pathwise gradient is biased"),
        (AnnealedSMC(), "AnnealedSMC is annealed"),
        (IWAE(LaplaceGuide()), "draws of LaplaceGuide are not reparametrised"),
        (IWAE(NeuralGuide(num_components=2)), "draws of NeuralGuide with several components are not reparametrised"),
        (IWAE(GuideFunction(lambda data: None)), "draws of GuideFunction are not reparametrised"),
        (InfoNCE(lambda x, z: -x @ x, num_particles=5), "method must be one of StructuredInfoNCE"),
        ("IWAE", "method must be one of StructuredInfoNCE.*got 'IWAE'"),
    ],
)
def test_methods_without_a_gradient(method, match):
    with pytest.raises(TypeError, match=match):
        information_gain_gradient(angle, {"a": 0.7}, "w", "y", method=method, model_kwargs={"deviations": (1.0, 1.0)})


@pytest.mark.parametrize(
    ("design", "match"),
    [
        ({"a": 2}, r"design\['a'\] must be a float or an array of floats, which have a gradient, got 2"),
        ((np.arange(3),), r"design\[0\] must be a float or an array of floats"),
        ({"a": "x"}, r"design\['a'\] must be a float"),
        (0.7, "design must be a dict of keyword arguments"),
        ({}, "design must be a dict of keyword arguments"),
    ],
)
def test_designs_without_a_gradient(design, match):
    with pytest.raises(TypeError, match=match):
        information_gain_gradient(angle, design, "w", "y", model_kwargs={"deviations": (1.0, 1.0)})


def test_number_of_draws():
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 2"):
        information_gain_gradient(angle, {"a": 0.7}, "w", "y", num_samples=1)
