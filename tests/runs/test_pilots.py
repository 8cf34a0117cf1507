"""What pilots choose by, what they could not choose, and densities whose loops they must not be caught in."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from example_models import eight_schools
from jax.experimental.ode import odeint
from jax.scipy.special import logsumexp

from numpyro_mi import AIS, AnnealedHMC, LaplaceGuide, mi_bounds
from numpyro_mi.annealing.chains import make_path
from numpyro_mi.annealing.kernels.base import StepSettings
from numpyro_mi.annealing.schedules import PowerSchedule, temperatures
from numpyro_mi.annealing.start import ModelIntegral, outside, within_reach
from numpyro_mi.annealing.tuning import given_size, single_gap, smallest
from numpyro_mi.model.integrals.decomposition import evidence
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model, latents_of
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.results.text.report import verdict
from numpyro_mi.runs.blocks import block_size
from numpyro_mi.runs.planning import _untried
from numpyro_mi.runs.settings import own_settings
from numpyro_mi.targets import AnnealedTarget

pytestmark = pytest.mark.compile_fast
NORMAL = -0.5 * np.log(2 * np.pi)
LOG_EVIDENCE = NORMAL - 0.5 * np.log(2) - 0.25 * 1.5**2  # of 1.5 ~ Normal(u, 1), u ~ Normal(0, 1)


def normal_target(beyond=None):
    """A standard normal prior and the observation 1.5, whose posterior is Normal(0.75, sqrt(0.5))."""

    def log_ratio(u):
        return NORMAL - 0.5 * (1.5 - u[0]) ** 2

    return AnnealedTarget(
        lambda key: jax.random.normal(key, (1,)), lambda u: NORMAL - 0.5 * u[0] ** 2, log_ratio, None, beyond
    )


def posterior_draws(key, count):
    return 0.75 + np.sqrt(0.5) * jax.random.normal(key, (count, 1))


def path_of(num_temperatures, step_size=0.5):
    betas = temperatures(PowerSchedule(), num_temperatures)
    return make_path(betas, np.full(num_temperatures - 1, step_size), np.ones((num_temperatures - 1, 1)))


def single_gaps(beyond=None, count=20_000):
    keys, exact = jax.random.split(jax.random.key(1), count), posterior_draws(jax.random.key(2), count)

    def one(key, u):
        return single_gap(normal_target(beyond), AnnealedHMC(), path_of(4), key, u)[0]

    return np.asarray(jax.jit(jax.vmap(one))(keys, exact), np.float64)


def assert_mean(values, wanted):
    assert abs(values.mean() - wanted) < 5 * values.std(ddof=1) / np.sqrt(len(values))


class TestCriterion:
    def test_gaps_given_their_size(self):
        """The same mean, of chains that are far from equilibrium too, and less spread."""
        gaps = single_gaps()
        assert_mean(np.exp(-gaps), 1.0)  # a gap of -g is exp(-g) times as dense as one of g
        assert_mean(given_size(gaps) - gaps, 0.0)
        assert gaps.mean() > 0.02
        assert given_size(gaps).std() < 0.8 * gaps.std()

    def test_gaps_of_normal_weights(self):
        rng = np.random.default_rng(0)
        for mean, factor in ((0.01, 0.15), (0.5, 0.8), (20.0, 1.01)):
            gaps = mean + np.sqrt(2 * mean) * rng.normal(size=100_000)
            assert_mean(given_size(gaps), mean)
            assert given_size(gaps).std() < factor * gaps.std()
            assert (given_size(gaps) >= 0).all()

    def test_one_gap_does_not_choose(self):
        good, bad = np.full(64, 0.1), np.full(64, 5.0)
        good[7] = 1e5
        assert good.mean() > bad.mean() and smallest(np.stack([bad, good])) == 1

    def test_small_gaps_are_compared_by_their_mean(self):
        assert smallest(np.array([[0.02, 0.02, 0.02], [0.0, 0.0, 0.03], [0.0, 0.0, 0.09]])) == 1

    @pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
    def test_gaps_that_are_not_finite(self, lost):
        """Fewer of them first, however large the others are."""
        rows = np.array([[0.1, lost, 0.1], [50.0, 60.0, 70.0], [lost, lost, 0.0]])
        with np.errstate(invalid="ignore"):
            for shown in (rows, given_size(rows)):
                assert smallest(shown) == 1
                assert smallest(shown[[0, 2]]) == 0


def horseshoe(design, y=None):
    """Three coefficients, most of them small."""
    tau = numpyro.sample("tau", dist.HalfCauchy(0.1))
    with numpyro.plate("coefficients", 3):
        lambdas = numpyro.sample("lambdas", dist.HalfCauchy(1))
        beta = numpyro.sample("beta", dist.Normal(0, tau * lambdas))
    with numpyro.plate("rows", design.shape[0]):
        numpyro.sample("y", dist.Normal(design @ beta, 1), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("key", range(5))
def test_horseshoe(key):
    """The mean of a few failures chose coordinates in which the lower bound is 1.6; the truth is 3.41 +- 0.14."""
    design = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    settings = {"model_args": (design,), "num_samples": 100, "rng_key": key, "progress_bar": False}
    result = mi_bounds(horseshoe, ["tau", "lambdas", "beta"], "y", **settings)
    assert result.stats[0]["start_standardised"].all()
    assert np.median(result.upper_i - result.lower_i) < 0.15
    low, high = result.interval(0.99)
    assert low < 3.41 + 3 * 0.14 and high > 3.41 - 3 * 0.14


def cauchy(y=None):
    z = numpyro.sample("z", dist.Cauchy(0, 1))
    numpyro.sample("y", dist.Normal(z, 1), obs=y)


@pytest.mark.slow
def test_cauchy_prior():
    """From the prior a few far data sets carry the gap; the verdict names what leaves none."""
    settings = {"num_samples": 300, "rng_key": 0, "progress_bar": False}
    prior = mi_bounds(cauchy, "z", "y", **settings)
    assert prior.gap > 0.1 and 'base=LaplaceGuide(), start="chosen"' in verdict(prior)
    result = mi_bounds(cauchy, "z", "y", method=AIS(100, base=LaplaceGuide(), start="chosen"), **settings)
    assert abs(result.gap) < 0.01
    low, high = result.interval(0.99)
    assert low < 1.271 < high


class TestUntriedCoordinates:
    def marks(self, model, data, method, guide=None):
        joint = joint_model(model, latents_of(model, data), data)
        return [_untried(integral, method, guide) for integral in stage_model(joint, evidence(joint)).integrals]

    @pytest.mark.parametrize(
        ("method", "untried"),
        [
            (AIS(50, 8), True),
            (AIS(settings="shared"), True),
            (AIS(), False),
            (AIS(50, 8, settings="own"), False),
            (AIS(50, 8, coordinates="standardised"), False),
            (AIS(50, 8, coordinates="model"), False),
            (AIS(50, 8, kernel=AnnealedHMC(step_size=0.3)), False),
            (AIS(1, 8), False),
        ],
    )
    def test_which_plans_are_marked(self, method, untried):
        assert self.marks(eight_schools, "y", method) == ([{"coordinates_untried": 1}] if untried else [{}])

    def test_where_there_are_no_others(self):
        assert self.marks(cauchy, "y", AIS(50, 8)) == [{}]

    def test_verdict(self):
        """Named where the gap limits the result, and nowhere else."""
        lower = np.random.default_rng(0).normal(size=400)
        method = {"class": "AIS", "base": None, "start": "base"}
        common = {"latent": ("z",), "data": ("x",), "method": method}
        few = np.where(np.arange(400) < 2, 300.0, 0.1)
        for plan, wanted in (({"coordinates_untried": np.ones((), int)}, True), ({}, False)):
            for gap, limits in ((0.001, False), (0.15, True), (2.0, True), (few, True)):
                text = verdict(MIBounds(lower, lower + gap, plan=(plan,), **common))
                assert ('set coordinates="standardised"' in text) == (wanted and limits)
                assert ('base=LaplaceGuide(), start="chosen"' in text) == (gap is few)

    def test_saved_and_read_back(self, tmp_path):
        method = AIS(4, 2, kernel=AnnealedHMC(num_steps=1))
        result = mi_bounds(eight_schools, "theta", "y", method=method, num_samples=20, progress_bar=False)
        result.to_netcdf(tmp_path / "result.nc")
        back = MIBounds.from_netcdf(tmp_path / "result.nc")
        assert [set(plan) for plan in back.plan] == [set(plan) for plan in result.plan]
        assert all(plan["coordinates_untried"] == 1 for plan in back.plan[-1:])
        assert verdict(back) == verdict(result)


def narrow(u):
    """Chains do not move where a third of the posterior's mass is."""
    return outside((jnp.array([-0.5]), jnp.array([1.0])), u)


class TestReach:
    def moments(self, step):
        """Of posterior draws after eight transitions at the posterior; the first and second are 0.75 and 1.0625."""
        draws = posterior_draws(jax.random.key(5), 40_000)
        settings = StepSettings(jnp.asarray(1.0), jnp.asarray(0.7), jnp.ones(1))
        target = normal_target(narrow)
        kernel = AnnealedHMC()

        def chain(key, u):
            state = kernel.init(target, u)
            for i in range(8):
                state = step(kernel, target, state, settings, kernel.sample_noise(jax.random.fold_in(key, i), u))
            return state.u[0]

        return draws[:, 0], np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(6), len(draws)), draws))

    def test_the_target_stays(self):
        before, after = self.moments(lambda kernel, *args: kernel.forward(*args)[0])
        assert_mean(after, 0.75)
        assert_mean(after**2, 0.5 + 0.75**2)
        still = np.asarray(jax.vmap(narrow)(before[:, None]))
        np.testing.assert_array_equal(before[still], after[still])
        assert (before != after)[~still].mean() > 0.5

    def test_negative_control(self):
        """Where a trajectory may begin beyond but not end there, mass leaks in."""

        def leaky(kernel, target, state, settings, noise):
            free = kernel.forward(target._replace(beyond=None), state, settings, noise)[0]
            return jax.tree.map(lambda new, old: jnp.where(narrow(free.u), old, new), free, state)

        after = self.moments(leaky)[1]
        assert abs(after.mean() - 0.75) > 10 * after.std() / np.sqrt(len(after))

    def test_weights_stay_exact(self):
        """E[w] = Z and E[1/w] = 1/Z whatever the reach."""
        gaps = single_gaps(narrow)
        assert_mean(np.exp(-gaps), 1.0)
        keys, exact = jax.random.split(jax.random.key(3), 20_000), posterior_draws(jax.random.key(4), 20_000)
        method = AIS(4, 1)

        def one(key, u):
            found = method.evidence(normal_target(narrow), path_of(4), u, key)
            return found.elbo, found.eubo

        elbo, eubo = (np.asarray(side, np.float64) for side in jax.jit(jax.vmap(one))(keys, exact))
        assert_mean(np.exp(elbo - LOG_EVIDENCE), 1.0)
        assert_mean(np.exp(LOG_EVIDENCE - eubo), 1.0)
        assert elbo.mean() < LOG_EVIDENCE < eubo.mean()

    def test_densities_beyond_are_not_evaluated(self):
        """Every point at which the kernel asks for a gradient is within reach, however large the steps are."""
        seen = []

        def log_ratio(u):
            jax.debug.callback(lambda value: seen.append(float(value)), u[0])
            return -0.5 * (30.0 * (u[0] - 0.4)) ** 2

        target = normal_target(narrow)._replace(log_ratio=log_ratio)
        kernel, settings = AnnealedHMC(), StepSettings(jnp.asarray(1.0), jnp.asarray(0.5), jnp.ones(1))
        state = kernel.init(target, jnp.zeros(1))
        for i in range(20):
            noise = kernel.sample_noise(jax.random.key(i), state.u)
            state = kernel.forward(target, state, settings, noise)[0]
        jax.effects_barrier()
        assert len(seen) > 60 and -0.5 <= min(seen) and max(seen) <= 1.0

    def test_nan_is_outside(self):
        reach = jnp.array([-1.0, -1.0]), jnp.array([1.0, 1.0])
        for point, wanted in (([0.0, 1.0], False), ([0.0, 1.1], True), ([jnp.nan, 0.0], True), ([-jnp.inf, 0.0], True)):
            assert bool(outside(reach, jnp.array(point))) is wanted


def decay(times, y=None):
    """A rate that an adaptive solver has to be told."""
    rate = numpyro.sample("rate", dist.LogNormal(0, 0.5))
    level = odeint(lambda level, t, rate: -rate * level, jnp.ones(()), times, rate)
    numpyro.sample("y", dist.Normal(level[1:], 0.1).to_event(1), obs=y)


class TestLoops:
    def staged(self, model, data, *args):
        joint = joint_model(model, latents_of(model, data, args), data, model_args=args)
        return stage_model(joint, evidence(joint)).integrals[0].integrand

    def test_which_densities_loop(self):
        times = jnp.linspace(0.0, 2.0, 4)
        assert self.staged(decay, "y", times).loops
        assert not self.staged(eight_schools, "y").loops

    def test_reach_is_that_of_the_pilots_widened(self):
        integrand = self.staged(eight_schools, "y")
        drawn = jnp.array([[0.0, -2.0], [1.0, 2.0], [jnp.inf, 0.0]])
        start = within_reach(ModelIntegral(integrand, None), drawn)
        np.testing.assert_array_equal(start.reach, [[-0.5, -4.0], [1.5, 4.0]])

    def test_each_start_has_its_own(self):
        """Of several, in whose coordinates a data set's chains run."""
        integrand = self.staged(eight_schools, "y")
        starts = [
            within_reach(ModelIntegral(integrand, None, flag), size * jnp.array([-jnp.ones(10), jnp.ones(10)]))
            for flag, size in ((False, 1.0), (True, 2.0))
        ]
        held = {"y": jnp.zeros(8)}
        for chosen, inside in ((0, False), (1, True)):
            planned = own_settings(starts, AnnealedHMC(), temperatures(PowerSchedule(), 10))
            found = jax.eval_shape(planned.condition, held, jax.random.key(0))._replace(start=jnp.asarray(chosen))
            target = planned.target(held, found)
            assert bool(target.beyond(jnp.full(10, 3.0))) is not inside
            assert not target.beyond(jnp.full(10, 1.5))

    def test_blocks_are_short(self):
        assert block_size(100, 8) == 25 and block_size(100, 8, 128) == 5

    @pytest.mark.slow
    def test_bounds(self):
        """Against the evidence by quadrature over the log-rate."""
        times = jnp.linspace(0.0, 2.0, 4)
        settings = {"model_args": (times,), "num_samples": 100, "progress_bar": False}
        result = mi_bounds(decay, "rate", "y", method=AIS(20, 4), **settings)
        rng = np.random.default_rng(0)
        grid = 0.5 * np.linspace(-8, 8, 4001)
        log_prior = -0.5 * (grid / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi)) + np.log(grid[1] - grid[0])
        means = np.exp(-np.exp(grid)[:, None] * np.asarray(times)[1:])
        log_rate = 0.5 * rng.normal(size=2000)
        noise = rng.normal(size=(2000, 3))
        data = np.exp(-np.exp(log_rate)[:, None] * np.asarray(times)[1:]) + 0.1 * noise
        log_likelihood = -0.5 * ((data[:, None] - means) ** 2).sum(2) / 0.01
        information = -0.5 * (noise**2).sum(1) - logsumexp(log_likelihood + log_prior, axis=1)
        error = information.std() / np.sqrt(2000)
        low, high = result.interval(0.99)
        assert low < information.mean() + 3 * error and high > information.mean() - 3 * error
