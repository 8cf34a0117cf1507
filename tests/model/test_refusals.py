"""Refusals lead to something that works, and what is harmless is not refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints, transforms
from numpyro.infer.reparam import CircularReparam, LocScaleReparam
from scipy import special, stats

from numpyro_mi import (
    AIS,
    IR,
    StructuredInfoNCE,
    expected_information_gain,
    information_table,
    mi_bounds,
    mi_bounds_from_samples,
)
from numpyro_mi.direct.giwae import GIWAE
from numpyro_mi.model.joint.told import plain
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.sites.edges import why_not_finite
from numpyro_mi.options import shown

pytestmark = pytest.mark.compile_fast

sample, Normal = numpyro.sample, dist.Normal
METHOD = StructuredInfoNCE(num_particles=256)


def bounds(model, latent="z", data="x", **options):
    return mi_bounds(model, latent, data, progress_bar=False, **{"method": METHOD, "num_samples": 1000, **options})


def contains(result, truth):
    low, high = result.interval(0.999)
    return low <= truth <= high


def prior(fn):
    def model():
        z = sample("z", fn)
        sample("x", Normal(jnp.sum(z), 1))

    return model


def data(make):
    def model():
        z = sample("z", Normal(0, 1))
        sample("x", make(z))

    return model


def mixed(*parts, support=None):
    weights = dist.Categorical(jnp.ones(len(parts)) / len(parts))
    return dist.MixtureGeneral(weights, list(parts), support=support)


COUNTS, REAL = constraints.nonnegative_integer, constraints.real

# Priors that cannot be drawn


@pytest.mark.parametrize(
    "support, shape, example",
    [
        (constraints.ordered_vector, (3,), r"Normal\(0, 1\).expand\(\[3\]\).to_event\(1\), dist.transforms.Ordered"),
        (constraints.simplex, (4,), r"for example dist.Dirichlet\(jnp.ones\(4\)\)"),
        (constraints.positive, (), "for example dist.LogNormal"),
        (constraints.corr_cholesky, (2, 2), r"for example dist.LKJCholesky\(2\)"),
        (constraints.real, (), "for example a wide Normal"),
        (constraints.real_vector, (2,), r"dist.Normal\(0, 10\).expand\(\[2\]\).to_event\(1\)"),
        (constraints.interval(0, 3), (), r"on the same support\."),
    ],
)
def test_improper_priors(support, shape, example):
    with pytest.raises(ValueError, match=f"'z' is improper.*must be a proper distribution.*{example}"):
        joint_model(prior(dist.ImproperUniform(support, (), shape)), "z", "x")


def test_the_ordered_prior_of_the_message_works():
    ordered = dist.TransformedDistribution(dist.Normal(0, 1).expand([3]).to_event(1), transforms.OrderedTransform())
    result = bounds(prior(ordered), num_samples=200)
    assert 0 < result.lower < result.upper < np.inf


def circular():
    with handlers.reparam(config={"z": CircularReparam()}):
        z = sample("z", dist.VonMises(0.0, 2.0))
    sample("x", Normal(z, 1))


def test_a_reparametrised_circular_site():
    with pytest.raises(
        ValueError, match="'z_unwrapped' is improper.*CircularReparam made it of site 'z', pass the model"
    ):
        joint_model(circular, "z", "x")
    assert joint_model(prior(dist.VonMises(0.0, 2.0)), "z", "x").sites == ("z", "x")


class Undrawable(dist.Distribution):
    support = constraints.real

    def __init__(self, loc):
        self.loc = loc
        super().__init__(jnp.shape(loc), ())

    def log_prob(self, value):
        return Normal(self.loc, 1).log_prob(value)


@pytest.mark.parametrize(
    "make",
    [
        Undrawable,
        lambda z: Undrawable(z).expand([3]).to_event(1),
        lambda z: dist.TransformedDistribution(Undrawable(z), transforms.ExpTransform()),
    ],
)
def test_a_distribution_without_draws(make):
    with pytest.raises(ValueError, match="'x' has a Undrawable distribution, which has no `sample` method.*sample.key"):
        joint_model(data(make), "z", "x")


# Mixtures with points


def truth_of_counts(probabilities):
    """I(z; x) of a discrete x, whose probabilities given z are a function of an array of z."""
    z = np.linspace(-7, 7, 1401)
    weight = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    cells = probabilities(z)
    marginal = cells @ weight
    return weight @ special.xlogy(cells, cells).sum(0) - special.xlogy(marginal, marginal).sum()


def inflated(z):
    counts = np.arange(400)[:, None]
    return 0.5 * (counts == 0) + 0.5 * stats.poisson.pmf(counts, np.exp(z))


def logits(z):
    weights = np.exp(np.array([[0.0], [1.0], [2.0]]) * z)
    return weights / weights.sum(0)


POINTS = {
    "a point and counts": (lambda z: mixed(dist.Delta(0), dist.Poisson(jnp.exp(z)), support=COUNTS), inflated),
    "points": (
        lambda z: dist.MixtureSameFamily(dist.Categorical(logits=jnp.arange(3.0) * z), dist.Delta(jnp.arange(3.0))),
        logits,
    ),
}


@pytest.mark.parametrize("name", POINTS)
def test_points_in_a_mixture_are_fine_as_data(name):
    make, probabilities = POINTS[name]
    assert contains(bounds(data(make)), truth_of_counts(probabilities))


MEASURES = {
    "point": lambda z: mixed(dist.Delta(0.0), Normal(z, 1), support=REAL),
    "counts": lambda z: mixed(dist.Poisson(3.0), Normal(z, 1), support=REAL),
    "mixture of points": lambda z: mixed(mixed(dist.Delta(0.0), dist.Delta(1.0)), Normal(z, 1), support=REAL),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_probability_is_not_added_to_a_density(name):
    """The density of such a mixture is not that of its draws, and once gave a wrong bound without a word."""
    with pytest.raises(ValueError, match="'x' mixes points .*with a density .Normal.*dist.HurdleDist.*handlers.mask"):
        joint_model(data(MEASURES[name]), "z", "x")


MOVING = {
    "by the latent": lambda z: mixed(dist.Delta(jnp.round(z)), dist.Poisson(jnp.exp(z)), support=COUNTS),
    "between counts": lambda z: mixed(dist.Delta(0.5), dist.Poisson(jnp.exp(z)), support=COUNTS),
    "with a density": lambda z: mixed(dist.Delta(0.0, 1.0), dist.Delta(1.0, 1.0)),
}


@pytest.mark.parametrize("name", MOVING)
def test_points_that_are_no_constants(name):
    with pytest.raises(ValueError, match="'x' is a mixture with a Delta that other sites move"):
        joint_model(data(MOVING[name]), "z", "x")


def test_points_are_no_latents():
    with pytest.raises(ValueError, match="'z', which has to be integrated out, has a point mass.*It is fine as data"):
        bounds(prior(mixed(dist.Delta(0.0), dist.Delta(1.0))))


def test_a_transformed_mixture_of_points():
    points = dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Delta(jnp.arange(2.0)))
    fn = dist.TransformedDistribution(points, transforms.AffineTransform(0.0, 2.0))
    with pytest.raises(ValueError, match="'x' has a Delta distribution, which has no density"):
        joint_model(data(lambda z: fn), "z", "x")


def test_the_hurdle_of_the_message_works():
    """A value that is 0 half the time, and z with noise of its own size otherwise: .5 * .5 log 2."""
    result = bounds(data(lambda z: dist.HurdleDistribution(Normal(z, 1), gate=0.5)))
    assert contains(result, 0.25 * np.log(2))


# Scales of exactly one


def in_turn():
    def step(carry, _):
        h = sample("z", Normal(carry, 1))
        sample("x", Normal(h, 1))
        return h, None

    scan(step, 0.0, None, length=3)


def scaled(scale):
    def model():
        z = sample("z", Normal(0, 1))
        with handlers.scale(scale=scale(z)):
            sample("x", Normal(z, 1).expand([3]))

    return model


ONES = {
    "around": handlers.scale(prior(Normal(0, 1)), 1.0),
    "array": handlers.scale(prior(Normal(0, 1)), jnp.ones(())),
    "numpy": scaled(lambda z: np.ones(3)),
    "made inside": scaled(lambda z: jnp.ones(3)),
    "twice": handlers.scale(scaled(lambda z: jnp.ones(3)), 1.0),
    "in scan": handlers.scale(in_turn, 1.0),
}
NOT_ONES = {
    "two": scaled(lambda z: 2.0),
    "some": scaled(lambda z: jnp.array([1.0, 1.0, 2.0])),
    "nearly": scaled(lambda z: 1 + 1e-7),
    "by the latent": scaled(lambda z: jnp.exp(z)),
    "in scan": handlers.scale(in_turn, jnp.full((), 2.0)),
}


@pytest.mark.parametrize("name", ONES)
def test_a_scale_of_one_is_harmless(name):
    assert joint_model(ONES[name], "z", "x").sites == ("z", "x")


@pytest.mark.parametrize("name", NOT_ONES)
def test_other_scales_are_not(name):
    with pytest.raises(ValueError, match="is scaled .handlers.scale or a subsampled plate"):
        joint_model(NOT_ONES[name], "z", "x")


def test_a_scale_of_one_changes_nothing():
    plain, with_scale = (bounds(model, num_samples=100) for model in (prior(Normal(0, 1)), ONES["array"]))
    np.testing.assert_array_equal(plain.lower_i, with_scale.lower_i)


# The parameter of LocScaleReparam


def partly_centred(level=lambda mu: Normal(mu, 2), name="theta"):
    def model():
        mu = sample("mu", Normal(0, 1))
        with handlers.reparam(config={name: LocScaleReparam()}):
            theta = sample(name, level(mu))
        sample("x", Normal(theta, 1))

    return model


NOTE = "theta_centered of LocScaleReparam has its initial value: no value of it changes the law of theta."
FREE = {
    "mu": (["mu"], (), 0.5 * np.log(6 / 5)),
    "both": (["mu", "theta_decentered"], (), 0.5 * np.log(6)),
    "given mu": (["theta_decentered"], "mu", 0.5 * np.log(5)),
}


@pytest.mark.parametrize("name", FREE)
def test_a_parameter_that_changes_no_law(name):
    latent, given, truth = FREE[name]
    result = bounds(partly_centred(), latent, given=given)
    assert contains(result, truth) and result.notes == (NOTE,)
    assert NOTE in repr(result)


def test_no_note_for_a_parameter_with_a_value():
    assert joint_model(partly_centred(), "mu", "x", params={"theta_centered": 0.3}).notes == ()


def test_rows_of_a_table_carry_the_note():
    table = information_table(partly_centred(), "x", method=METHOD, num_samples=100, progress_bar=False)
    assert all(result.notes == (NOTE,) for result in table.results.values())


def test_constants_as_location_and_scale():
    assert joint_model(partly_centred(lambda mu: Normal(3.0, 2.0)), "theta_decentered", "x").notes == (NOTE,)


def of_another_kind():
    """The names of LocScaleReparam, and a parameter that matters."""
    width = numpyro.param("w_centered", 0.5)
    w = numpyro.deterministic("w", sample("w_decentered", Normal(0, width)))
    sample("x", Normal(sample("z", Normal(w, 1)), 1))


MATTERS = {
    "alone": (partly_centred(), "theta_decentered", "x", {}, "'theta_decentered' stands for.*name 'mu', 'theta_decent"),
    "data": (
        partly_centred(),
        "mu",
        "theta_decentered",
        {},
        "'theta_decentered' stands for.*and name 'theta', or pass",
    ),
    "held": (partly_centred(), "mu", "x", {"theta_decentered": 1.0}, "'theta_centered' of the model have no value"),
    "other": (of_another_kind, "z", "x", {}, "'w_centered' of the model have no value, only an initial one"),
    "site": (
        partly_centred(),
        "theta",
        "x",
        {},
        "a function of 'mu', 'theta_decentered'.*name 'mu', 'theta_.*together",
    ),
    "constant": (
        partly_centred(lambda mu: Normal(0, 2)),
        "theta",
        "x",
        {},
        "a function of 'theta_decentered': .*or name 'theta_decentered' instead",
    ),
}


@pytest.mark.parametrize("name", MATTERS)
def test_a_parameter_that_matters(name):
    model, latent, data, given, message = MATTERS[name]
    with pytest.raises(ValueError, match=message):
        joint_model(model, latent, data, given=given)


# Edges


def test_what_is_said_of_ordered_vectors():
    draws = np.cumsum([[0.0, 1.0, 2.0], [0.0, 1e-9, 1.0]], 1, np.float32) + np.float32(1)
    assert "successive entries of an ordered vector" in why_not_finite("z", {"z": draws})
    assert "successive" not in why_not_finite("z", {"z": draws[:1]})
    assert "at the edge of the support" in why_not_finite("z", {"z": draws[:, ::-1].copy()})


def test_ordered_vectors_by_their_steps():
    """What the message says, where steps differ by as much as makes entries meet."""

    def ordered():
        base = dist.Normal(0, 10).expand([3]).to_event(1)
        z = sample("z", dist.TransformedDistribution(base, transforms.OrderedTransform()))
        sample("x", Normal(z, 1).to_event(1))

    with pytest.raises(ValueError, match="'z' is not finite.*first entry and its steps as sites of their own"):
        bounds(ordered, num_samples=50)


def truncated(low, high=None, sign=1):
    def model():
        z = sample("z", dist.TruncatedNormal(0.0, 1.0, low=low, high=high))
        sample("x", Normal(sign * z, 0.1))

    return model


def test_far_out_on_both_sides():
    """NumPyro computes the mass between two bounds from below, where that of the upper tail is lost."""
    with pytest.raises(ValueError, match="'z' is not finite at.*truncated on both sides far above.*draw the negative"):
        bounds(truncated(10.0, 12.0), num_samples=50)
    z, x = np.linspace(10, 12, 2001), np.linspace(9.4, 12.6, 3201)
    weight = np.exp(-(z**2 - 100) / 2)
    weight /= weight.sum()
    marginal = weight @ stats.norm.pdf(x, z[:, None], 0.1)
    truth = -special.xlogy(marginal, marginal).sum() * (x[1] - x[0]) - 0.5 * np.log(2 * np.pi * np.e * 0.01)
    assert contains(bounds(truncated(-12.0, -10.0, sign=-1)), truth)


def test_too_far_out_for_single_precision():
    with pytest.raises(
        ValueError, match="draws of site.s. 'x', 'z' are infinite.*Use jax.enable_x64, or draw the dist"
    ):
        bounds(truncated(14.0), num_samples=50)
    with jax.enable_x64(True):
        result = bounds(truncated(14.0), num_samples=50)
        assert 0 < result.lower < result.upper < 1
        with pytest.raises(ValueError, match="are infinite or NaN.* Draw the distance from the edge") as caught:
            bounds(truncated(40.0), num_samples=50)
    assert "enable_x64" not in str(caught.value)


# Sizes, indices, and what JAX says


def of_size(n, x=None):
    z = sample("z", Normal(0, 1))
    with numpyro.plate("N", n):
        sample("x", Normal(z, 1), obs=x)


def expanded(n, x=None):
    sample("x", Normal(sample("z", Normal(0, 1)), 1).expand([n]), obs=x)


@pytest.mark.parametrize("model", [of_size, expanded])
@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_a_design_that_is_a_size(model, array):
    with pytest.raises(TypeError, match=r"design 'n' is an array of whole numbers.*as a size.*'n': \[3, 5\]"):
        expected_information_gain(model, {"n": array([3, 5])}, "z", "x")


def indexed(index):
    def model():
        with numpyro.plate("N", 3):
            z = sample("z", Normal(0, 1))
        sample("x", Normal(z[index(z)], 1))

    return model


def asserts():
    sample("z", Normal(0, 1))
    raise AssertionError


def raises(*words):
    def model():
        z = sample("z", Normal(0, 1))
        raise ValueError(*(word.format(z) if isinstance(word, str) else word for word in words))

    return model


def branches():
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z if z > 0 else -z, 1))


TOLD = {
    "float index": (indexed(lambda z: 0.5), "Indexer must have integer.*whole number: convert it"),
    "traced index": (indexed(lambda z: z.mean()), "whole number: convert it, as by .astype"),
    "assertion": (asserts, "AssertionError.*raised at `raise AssertionError` .test_refusals.py, line"),
    "branch": (branches, "boolean conversion of traced array.*Pass sizes and choices as Python numbers"),
    "size": (data(lambda z: Normal(jnp.zeros(z), 1)), "concrete values of integer type.*Python numbers"),
    "float": (data(lambda z: Normal(float(z), 1)), "no traced array with shape .* in `float`"),
    "numpy": (data(lambda z: Normal(np.exp(z), 1)), "NumPy was called on a JAX array.*use jax.numpy"),
    "attribute": (data(lambda z: Normal(z.nothing, 1)), "a traced array has no attribute nothing"),
    "tracer": (raises("the value {}"), "the value a traced float"),
    "empty": (raises(), "ValueError.*raised at `raise ValueError.*test_refusals.py"),
}
UNREADABLE = re.compile(r"0x[0-9a-f]{5}|Traced<|\w+Tracer\b|no message|(?<![\w.])/\w+/|site-packages")


@pytest.mark.parametrize("name", TOLD)
def test_what_a_model_raised_is_told_plainly(name):
    model, message = TOLD[name]
    with pytest.raises(ValueError, match=message) as caught:
        joint_model(model, "z", "x")
    assert not UNREADABLE.search(str(caught.value))


@pytest.mark.parametrize(
    "text, told",
    [
        ("in /usr/lib/python3/site-packages/a_b/c.py:31, by me", "in c.py:31, by me"),
        (r"C:\Users\me\model.py", "model.py"),
        ("pkg/model.py and https://host/model.py", "pkg/model.py and https://host/model.py"),
        ("got <function f.<locals>.<lambda> at 0x7f3a12345678>", "got f.<locals>.<lambda>"),
        ("Traced<ShapedArray(float32[3])>with<DynamicJaxprTrace>", "a traced float32[3]"),
        ("JitTracer<float32[]> and JitTracer(int32[2])", "a traced float32[] and a traced int32[2]"),
        ("this value is 0x10, a / b, and/or c", "this value is 0x10, a / b, and/or c"),
    ],
)
def test_plain(text, told):
    assert plain(text) == told


def test_values_are_shown_without_addresses():
    assert shown(lambda: 1).endswith("<lambda>") and "0x" not in shown([object(), len, test_plain])
    assert shown("a <b at c>") == "'a <b at c>'" and shown(1.5) == "1.5"
    with pytest.raises(TypeError, match="method must be one of .* got object") as caught:
        mi_bounds(prior(Normal(0, 1)), "z", "x", method=object())
    assert not UNREADABLE.search(str(caught.value))


def test_functions_of_the_user_are_named():
    def sampler(rng_key, data):
        return {"z": float(data["x"])}

    with pytest.raises(ValueError, match=r"posterior_sampler\(rng_key, data\) raised .*no traced array") as caught:
        bounds(prior(Normal(0, 1)), method=AIS(4, 2, scheme=IR(sampler)))
    assert not UNREADABLE.search(str(caught.value))
    with pytest.raises(ValueError, match="log_prior raised AssertionError: raised at"):
        rows = np.random.default_rng(0).normal(size=(2, 2000))
        mi_bounds_from_samples(*rows, method=GIWAE(), log_prior=refuse_all, progress_bar=False)


def refuse_all(z):
    raise AssertionError


def test_rows_that_are_none():
    with pytest.raises(TypeError, match="latents must be a sequence of names"):
        information_table(prior(Normal(0, 1)), "x", object())


def test_state_of_a_module():
    nn = pytest.importorskip("flax.linen")
    from numpyro.contrib.module import flax_module

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False)(nn.Dense(2)(x))

    def model():
        net = flax_module("net", Net(), input_shape=(4, 2), mutable=["batch_stats"])
        z = sample("z", Normal(0, 1).expand([4, 2]).to_event(2))
        sample("x", Normal(net(z), 1).to_event(2))

    fitted = Net().init(jax.random.key(0), jnp.ones((4, 2)))
    params = {"net$params": fitted["params"]}
    with pytest.raises(ValueError, match="needs the state beside its parameters.*state.mutable_state") as caught:
        joint_model(model, "z", "x", params=params)
    assert not UNREADABLE.search(str(caught.value))
    state = {"net$state": {"batch_stats": fitted["batch_stats"]}}
    assert joint_model(model, "z", "x", params=params | state).sites == ("z", "x")
