"""Nuisances, conditioning and discrete sites: `mi_bounds` against known truths."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi import AIS, IWAE, StructuredInfoNCE, mi_bounds, tasks
from numpyro_mi.draws.keys import Role, role_key
from numpyro_mi.draws.simulation import joint_draws
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model

pytestmark = pytest.mark.compile_fast
# Settings of each data set have tests of their own, and their programs take long to compile.
ANNEALED = AIS(num_temperatures=100, num_particles=8, settings="shared")
NORMAL = IWAE(num_particles=100)  # from a regression guide, which is exact where all is jointly normal
NOT_NORMAL = ("mixture_labels", "mixture_levels", "regression", "regression_with_precision", "mixture")
TRUTHS = {  # nats, stated independently of the tasks' own formulas
    "binary_channel": 0.1258037,
    "one_direction": 1.8253,
    "ab_test": 4.5402,
    "ab_test_random_effects": 3.8758,
    "feedback": 1.0397,
}


def bounds(task, **options):
    method = AIS(200, 8, settings="shared") if task.name in (*NOT_NORMAL, "regression") else NORMAL
    options = {"method": method, "num_samples": 500, "progress_bar": False} | options
    return mi_bounds(task.model, task.latent, task.data, task.given, **options)


def pointwise(task, rng_key, count):
    """The exact pointwise value on the joint draws that a run scores."""
    joint = joint_model(task.model, task.latent, task.data, given=task.given)
    draw = stage_model(joint, decompose(joint)).draw
    draws = joint_draws(draw, role_key(jax.random.key(rng_key), Role.JOINT), count)
    return np.asarray(jax.vmap(task.pointwise)(draws.values), np.float64)


def assert_covers(result, truth):
    low, high = result.interval(0.99)
    assert low <= truth <= high
    assert result.gap < 0.05 and result.gap > -4 * result.gap_se - 1e-6


SLOW = ("regression", "mixture_labels")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in tasks.GROUP_TASKS]
)
def test_truth(name):
    task = tasks.GROUP_TASKS[name]()
    assert task.name == name
    if name in TRUTHS:
        assert abs(task.mutual_information - TRUTHS[name]) < 1e-4
    result = bounds(task)
    assert_covers(result, task.mutual_information)
    if task.pointwise is not None:
        exact = pointwise(task, 0, result.num_samples)
        for above in (exact - result.lower_i, result.upper_i - exact):
            assert above.mean() > -4 * above.std(ddof=1) / math.sqrt(above.size) - 1e-4
        assert abs(exact.mean() - task.mutual_information) < 4 * exact.std(ddof=1) / math.sqrt(exact.size)


@pytest.mark.parametrize(
    "task, truth",
    [
        (tasks.ab_test(0), 1.7640),
        (tasks.ab_test(0, random_effects=True), 1.4319),
        (tasks.one_direction(0.0), 2.3076),
        (tasks.one_direction(math.pi / 9), 2.0567),
        (tasks.linear_graph("linear", {"w": {}, "v": {}, "x": {"w": 1}, "y": {"v": 1}, "z": {"v": 1}},
                            ("w", "v"), ("x", "y", "z"), scales={"v": 1.5}), 1.1989476),
    ],
    ids=["ab_0", "ab_0_random_effects", "direction_0", "direction_9", "linear"],
)  # fmt: skip
def test_stated_truths(task, truth):
    assert abs(task.mutual_information - truth) < 1e-4
    assert_covers(bounds(task), truth)


@pytest.mark.slow
def test_annealed():
    task = tasks.normal_nuisance()
    assert_covers(bounds(task, method=ANNEALED), task.mutual_information)


def test_exact_pieces_are_not_annealed():
    result = bounds(tasks.binary_channel(), num_samples=200)
    assert not result.stats and (result.lower_i == result.upper_i).all()
    assert [part["kind"] for part in result.decomposition] == ["exact", "sum"]
    assert "summed        - log of the sum of p(z) p(x | z) over z" in repr(result)


def test_mutual_information_is_symmetric():
    """Data upstream of the latent come out right by themselves: the same pieces, the same numbers."""
    task = tasks.normal_nuisance()
    forwards = bounds(task, num_samples=100)
    backwards = mi_bounds(task.model, "x", "z", method=NORMAL, num_samples=100, progress_bar=False)
    np.testing.assert_array_equal(forwards.lower_i, backwards.lower_i)
    np.testing.assert_array_equal(forwards.upper_i, backwards.upper_i)


def test_held_at_a_value():
    """I(z; x | c = value) of a scale c: upstream of both, so that holding it is conditioning on it."""

    def model():
        c = numpyro.sample("c", dist.Gamma(2.0, 2.0))
        z = numpyro.sample("z", dist.Normal(0, c))
        numpyro.sample("x", dist.Normal(z, 1))

    for value in (0.5, 2.0):
        result = mi_bounds(model, "z", "x", {"c": value}, method=NORMAL, num_samples=500, progress_bar=False)
        assert_covers(result, 0.5 * math.log1p(value**2))
        assert result.fixed == ("c",) and result.given == ()
        assert "I(z; x | c fixed)" in repr(result)


@pytest.mark.parametrize(
    ("moves", "match"),
    [
        (False, "given holds site 'c' at -1.0, which is outside the support"),
        (True, "log-density of site 'c' is not finite"),
    ],
)
def test_held_at_an_impossible_value(moves, match):
    def model():
        largest = numpyro.sample("largest", dist.Gamma(2.0, 2.0)) if moves else 1.0
        c = numpyro.sample("c", dist.Uniform(0, largest))
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(z, 1 + c**2))

    with pytest.raises(ValueError, match=match):
        mi_bounds(model, "z", "x", {"c": -1.0}, progress_bar=False)


def test_given_by_value_downstream_is_refused():
    """Forward simulation would give .3466 here; the truth is .2027."""

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("theta", dist.Normal(mu, 1))
        numpyro.sample("y", dist.Normal(mu, 1))

    with pytest.raises(ValueError, match="'theta' at a value, but its parent 'mu' depends on.*given='theta'"):
        mi_bounds(model, "mu", "y", {"theta": 0.3})
    result = mi_bounds(model, "mu", "y", "theta", method=NORMAL, num_samples=500, progress_bar=False)
    assert_covers(result, 0.5 * math.log(1.5))


CHAIN_RULES = {
    "graph": (tasks.normal_nuisance().model, "z", "w"),
    "ab_test": (tasks.ab_test(random_effects=True).model, "w", "b"),
    "mixture": (tasks.gaussian_mixture().model, "k", "z"),
    "regression": (tasks.normal_gamma_regression().model, "w", "tau"),
    "hierarchy": (tasks.hierarchical_normal(num_groups=3).model, "mu", "z"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("mixture", "regression"))) for name in CHAIN_RULES]
)
def test_chain_rule(name):
    """I(z, w; x) = I(z; x) + I(w; x | z), each from draws of its own."""
    model, first, second = CHAIN_RULES[name]
    method = ANNEALED if name in (*NOT_NORMAL, "regression") else NORMAL
    asked = [((first, second), ()), (first, ()), (second, first)]
    both, one, rest = (
        mi_bounds(model, latent, "x", given, method=method, num_samples=1000, rng_key=i, progress_bar=False)
        for i, (latent, given) in enumerate(asked)
    )
    error = 4 * math.hypot(both.lower_se, one.lower_se, rest.lower_se)
    assert both.upper - one.lower - rest.lower > -error
    assert both.lower - one.upper - rest.upper < error
    assert both.gap + one.gap + rest.gap < 0.2


def test_difference_of_lower_evidence_bounds_is_no_bound():
    """log p(x|z) and log p(x), both from below: their difference lies on either side, here far above the truth."""
    task = tasks.ab_test(random_effects=True)
    result = bounds(task, method=StructuredInfoNCE(10), num_samples=2000)
    likelihood, evidence = sorted(
        zip([part["sign"] for part in result.decomposition], result.stats, strict=True), key=lambda pair: -pair[0]
    )
    wrong = likelihood[1]["forward_log_evidence"] - evidence[1]["forward_log_evidence"]
    assert likelihood[0] == 1 and evidence[0] == -1
    assert wrong.mean() - 10 * wrong.std() / math.sqrt(wrong.size) > task.mutual_information
    assert result.lower + 4 * result.lower_se < task.mutual_information < result.upper


def test_shares_of_the_gap_add_to_one():
    result = bounds(tasks.one_direction(0.5), method=AIS(20, 2), num_samples=200)
    shares = [
        float(line.rsplit(", ", 1)[1].split("%")[0]) for line in repr(result).splitlines() if "of the gap" in line
    ]
    assert len(shares) == 2 and abs(sum(shares) - 100) <= 1


def test_importance_sampling_takes_no_gradient():
    """A likelihood that JAX cannot differentiate is good enough for methods without gradients."""

    def model():
        z = numpyro.sample("z", dist.Normal(0, 1))
        root = jax.lax.while_loop(lambda x: jnp.abs(x**3 - z) > 1e-3, lambda x: x - 0.3 * (x**3 - z) / (1 + x**2), z)
        numpyro.sample("x", dist.Normal(root, 1))

    result = mi_bounds(model, "z", "x", method=StructuredInfoNCE(100), num_samples=200, progress_bar=False)
    assert 0 < result.lower < result.upper + 1e-3
    with pytest.raises(ValueError, match="has no gradient with respect to 'z'"):
        mi_bounds(model, "z", "x", progress_bar=False)


def test_guides_for_each_integral():
    task = tasks.ab_test(random_effects=True)
    result = bounds(task, method=IWAE(num_particles=20))
    assert len(result.guides) == 2
    assert_covers(result, task.mutual_information)
