"""`mi_bounds` against known truths, on the same draws where the truth is known pointwise."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer import HMC, NUTS

from numpyro_mi import AIS, CR, IM, IR, AnnealedHMC, LinearSchedule, SigmoidSchedule, mi_bounds, tasks

UP_TO_30_NATS = [name for name in tasks.TASKS if name not in ("linear200", "uniform_noise")]


def standard_error(terms):
    return terms.std(ddof=1) / np.sqrt(len(terms))


def assert_sandwich(result, exact):
    """Both bounds on their side of the exact pointwise value, within four paired standard errors."""
    below, above = exact - result.lower_i, result.upper_i - exact
    assert below.mean() > -4 * standard_error(below)
    assert above.mean() > -4 * standard_error(above)


def assert_covers(task, result, exact_pointwise):
    low, high = result.interval(0.99)
    assert low - 4 * task.mutual_information_se <= task.mutual_information <= high + 4 * task.mutual_information_se
    assert result.lower - result.upper <= 4 * result.gap_se
    assert result.num_non_finite == {"lower": 0, "upper": 0}
    if task.log_marginal is not None:
        assert_sandwich(result, exact_pointwise(task, 0, result.num_samples))


@pytest.mark.slow
@pytest.mark.parametrize("name", UP_TO_30_NATS)
def test_every_task_with_default_settings(name, exact_pointwise):
    task = tasks.TASKS[name]()
    assert_covers(task, mi_bounds(task.model, task.latent, task.data), exact_pointwise)


FAST = ("linear_vae", "poisson_gamma", "hierarchical_normal", "correlated_normal", "mlp10")


@pytest.mark.compile_fast
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in UP_TO_30_NATS]
)
def test_every_task(name, exact_pointwise):
    task = tasks.TASKS[name]()
    method = AIS(60, 4)
    assert_covers(task, mi_bounds(task.model, task.latent, task.data, method=method, num_samples=300), exact_pointwise)


@pytest.mark.compile_fast
def test_hard_support_has_a_lower_bound_only():
    task = tasks.uniform_noise()
    result = mi_bounds(task.model, "z", "x", num_samples=300, method=AIS(50, 4))
    assert result.lower - 4 * result.lower_se <= task.mutual_information
    assert np.isfinite(result.lower)
    assert result.upper == np.inf and result.num_non_finite["upper"] > 0
    assert result.interval()[1] == np.inf
    assert "hard support" in repr(result)
    assert f"{result.num_non_finite['upper']} of 300 terms of the upper bound are not finite" in repr(result)


def test_linear10_within_a_tenth_of_a_nat(exact_pointwise):
    task = tasks.linear10()
    result = mi_bounds(task.model, "z", "x", method=AIS(500, 16), num_samples=600)
    exact = exact_pointwise(task, 0, 600)
    assert_sandwich(result, exact)
    assert (exact - result.lower_i).mean() < 0.1
    assert (result.upper_i - exact).mean() < 0.1


@pytest.mark.slow
def test_gap_falls_as_one_over_temperatures():
    """Proposition 3.1 of Brekelmans et al.: slope -1 of log gap against log T."""
    task = tasks.linear10()
    counts = np.array([50, 100, 200, 400, 800, 1600])
    results = [mi_bounds(task.model, "z", "x", method=AIS(int(count), 1), num_samples=1500) for count in counts]
    log_gap, error = np.log([r.gap for r in results]), np.array([r.gap_se / r.gap for r in results])
    centred = np.log(counts) - np.log(counts).mean()
    weights = centred / (centred @ centred)
    assert np.sqrt(weights**2 @ error**2) < 0.03
    assert abs(weights @ log_gap + 1) < 0.1


def posterior_sampler(rng_key, data):
    """Exact posterior of `SMALL`."""
    loadings, noise = SMALL.loadings, SMALL.noise
    precision = jnp.eye(loadings.shape[1]) + loadings.T @ loadings / noise**2
    mean = jnp.linalg.solve(precision, loadings.T @ data["x"] / noise**2)
    root = jnp.linalg.inv(jnp.linalg.cholesky(precision)).T
    return {"z": mean + root @ jax.random.normal(rng_key, mean.shape)}


class Small:
    """A linear model with two latents, small enough for every scheme and kernel."""

    def __init__(self):
        self.loadings = np.random.default_rng(1).standard_normal((6, 2)).astype(np.float32)
        self.noise = 0.7

    def model(self, x=None):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(self.loadings @ z, self.noise).to_event(1), obs=x)

    @property
    def information(self):
        return 0.5 * np.linalg.slogdet(np.eye(2) + self.loadings.T @ self.loadings / self.noise**2)[1]


SMALL = Small()
SCHEMES = {"IM": IM(), "CR": CR(), "IR": IR(posterior_sampler)}
SCHEDULES = {"linear": LinearSchedule(), "sigmoid": SigmoidSchedule(5.0), "array": np.linspace(0, 1, 41) ** 3}
SETTINGS = dict(num_samples=400)


def covers(result, truth):
    low, high = result.interval(0.99)
    return low <= truth <= high and result.lower - result.upper <= 4 * result.gap_se


@pytest.mark.compile_fast
@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme(name, particles):
    result = mi_bounds(SMALL.model, "z", "x", method=AIS(40, particles, scheme=SCHEMES[name]), **SETTINGS)
    assert covers(result, SMALL.information)


@pytest.mark.compile_fast
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule(name):
    method = AIS(None if name == "array" else 40, 4, schedule=SCHEDULES[name])
    assert method.num_temperatures == 40
    assert covers(mi_bounds(SMALL.model, "z", "x", method=method, **SETTINGS), SMALL.information)


@pytest.mark.compile_fast
def test_more_particles_and_temperatures_narrow_the_gap():
    gaps = [mi_bounds(SMALL.model, "z", "x", method=AIS(*size), **SETTINGS) for size in ((5, 1), (5, 16), (80, 16))]
    assert gaps[0].gap > gaps[1].gap + 4 * gaps[1].gap_se
    assert gaps[1].gap > gaps[2].gap + 4 * gaps[2].gap_se


@pytest.mark.compile_fast
def test_an_inexact_posterior_sampler_is_refused():
    method = AIS(10, 2, scheme=IR(lambda rng_key, data: {"z": 1.1 * posterior_sampler(rng_key, data)["z"]}))
    with pytest.raises(ValueError, match="posterior_sampler is not an exact sampler .* use IM\\(\\) or CR\\(\\)"):
        mi_bounds(SMALL.model, "z", "x", method=method, **SETTINGS)


KERNELS = {
    "HMC": lambda: HMC(SMALL.model, num_steps=3, trajectory_length=None),
    "HMC, trajectory": lambda: HMC(SMALL.model, trajectory_length=1.2),
    "HMC, frozen": lambda: HMC(
        SMALL.model,
        num_steps=3,
        trajectory_length=None,
        step_size=0.3,
        adapt_step_size=False,
        adapt_mass_matrix=False,
        inverse_mass_matrix=np.full(2, 0.3),
    ),
    "NUTS": lambda: NUTS(SMALL.model, max_tree_depth=4),
    "NUTS, dense": lambda: NUTS(SMALL.model, max_tree_depth=4, dense_mass=True),
    "AnnealedHMC, frozen": lambda: AnnealedHMC(num_steps=4, step_size=0.3, inverse_mass_matrix=(0.2, 0.2)),
}


@pytest.fixture(scope="module")
def reference():
    return mi_bounds(SMALL.model, "z", "x", method=AIS(60, 4), **SETTINGS)


@pytest.mark.compile_fast
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "NUTS")) for name in KERNELS])
def test_kernels_agree(name, reference):
    """On the same joint draws: neither lower bound may lie above the other's upper bound."""
    result = mi_bounds(SMALL.model, "z", "x", method=AIS(40, 4, kernel=KERNELS[name]()), **SETTINGS)
    assert covers(result, SMALL.information)
    difference = result - reference
    assert difference.lower_i.mean() < 4 * standard_error(difference.lower_i)
    assert difference.upper_i.mean() > -4 * standard_error(difference.upper_i)
    assert result.gap < 0.6


@pytest.mark.compile_fast
def test_frozen_kernel_settings_are_honoured():
    result = mi_bounds(SMALL.model, "z", "x", method=AIS(10, 2, kernel=KERNELS["HMC, frozen"]()), num_samples=50)
    assert (result.plan[0]["step_size"] == np.float32(0.3)).all() or (result.plan[0]["step_size"] == 0.3).all()
    np.testing.assert_allclose(result.plan[0]["inverse_mass_matrix"], 0.3)
    assert result.cost["pilot_forward"] == result.cost["pilot_reverse"] == 0


@pytest.mark.compile_fast
def test_gradient_count():
    """A chain of T temperatures makes T-1 transitions of num_steps gradients, and one at its first state."""
    result = mi_bounds(SMALL.model, "z", "x", method=AIS(10, 3, kernel=AnnealedHMC(num_steps=2)), num_samples=50)
    assert result.cost["scored_forward"] == 50 * 3 * (1 + 9 * 2)
    assert result.cost["scored_reverse"] == 50 * (1 + 9 * 2)


@pytest.mark.compile_fast
def test_one_temperature_is_importance_sampling():
    result = mi_bounds(SMALL.model, "z", "x", method=AIS(1, 64), **SETTINGS)
    assert covers(result, SMALL.information)
    single = mi_bounds(SMALL.model, "z", "x", method=AIS(1, 1), num_samples=50)
    np.testing.assert_allclose(single.lower_i, 0, atol=1e-5)


def test_interval_covers_in_repeated_runs():
    """100 runs of 200 draws each: at nominal 90 %, at most 10 + 3 sqrt(9) = 19 may miss."""
    result = mi_bounds(SMALL.model, "z", "x", method=AIS(100, 8), num_samples=20_000)
    assert result.gap < 0.05, "the gap must not be what makes the interval cover"
    missed = 0
    for part in range(100):
        piece = slice(200 * part, 200 * (part + 1))
        low, high = type(result)(result.lower_i[piece], result.upper_i[piece], ("z",), ("x",), {}).interval(0.9)
        missed += not low <= SMALL.information <= high
    assert 1 <= missed <= 19


@pytest.mark.compile_fast
def test_random_walk_in_a_scan_called_with_real_data():
    """x_t ~ N(x_{t-1}, 1) from x_0 = c ~ N(0, 1): only x_1 speaks of c, so I = log(2) / 2, whatever the data passed."""

    def walk(x):
        c = numpyro.sample("c", dist.Normal(0, 1))

        def step(carry, value):
            drawn = numpyro.sample("x", dist.Normal(carry, 1), obs=value)
            return drawn, None

        scan(step, c, x)

    passed = np.array([100.0, 200.0, 300.0, 400.0], np.float32)
    result = mi_bounds(walk, "c", "x", model_args=(passed,), method=AIS(40, 4), num_samples=2000)
    assert covers(result, 0.5 * np.log(2))
    assert result.gap < 0.02 + 4 * result.gap_se
    other = mi_bounds(walk, "c", "x", model_args=(0 * passed,), method=AIS(40, 4), num_samples=2000)
    np.testing.assert_array_equal(result.lower_i, other.lower_i)
