"""Annealed SMC and conditional SMC: exact enumeration on the three-state model, and a linear model.

Ancestors are enumerated by their index; the probability of each choice, which depends on the weights,
is recorded while the run is traced. That needs a run without `scan`, so under `jax.disable_jit`.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import HMC, NUTS
from three_states import EVIDENCE, EXPECTED_LOG_LIKELIHOOD, POSTERIOR, PRIOR, TableKernel, cells, problem, starts

from numpyro_mi.annealing.chains import FORWARD, REVERSE, Randomness, keyed_randomness, make_path
from numpyro_mi.annealing.kernels.hmc import AnnealedHMC
from numpyro_mi.annealing.schedules import LinearSchedule, PowerSchedule
from numpyro_mi.evidence.schemes.independent import IM
from numpyro_mi.evidence.smc import AnnealedSMC, reference_path, run_particles, smc_evidence
from numpyro_mi.targets import AnnealedTarget

pytestmark = pytest.mark.compile_fast

# Exact enumeration, two particles, so that the weights after t = 1, 2 decide and those after 3 do not.

# On this model an effective sample size of 1.96 splits the cases; it is never as small as 2e-9.
ALWAYS, TRIGGER, NEVER = 1.0, 0.98, 1e-9


def grid(variables):
    """All combinations of independent finite variables, name -> [(value, probability)], and their probabilities."""
    index = np.meshgrid(*[np.arange(len(variable)) for variable in variables.values()], indexing="ij")
    values, probability = {}, 1.0
    for axis, (name, variable) in zip(index, variables.items(), strict=True):
        values[name] = np.array([value for value, _ in variable], float)[axis.ravel()]
        probability = probability * np.array([weight for _, weight in variable])[axis.ravel()]
    return values, probability


def variables(x, tables, side):
    """What a run depends on: noise is by direction, particle and transition, ancestors by transition and slot."""
    noise = [cells(tables[t, 0]) for t in (0, 1)]
    either, free = [(0, 1.0), (1, 1.0)], (0, 1) if side == "forward" else (1,)
    found = {f"base {k}": starts(PRIOR) for k in free}
    found |= {f"noise {FORWARD} {k} {t}": noise[t - 1] for k in free for t in (1, 2)}
    found |= {f"ancestor {t} {k}": either for k in free for t in (1, 2)}
    if side == "reverse":
        found |= {f"noise {REVERSE} 0 {t}": cells(tables[t - 1, 1]) for t in (1, 2)}
        found |= {"exact": starts(POSTERIOR[x])}
    return found


def recorded_ancestors(values, record, side):
    """Enumerated ancestors of the free slots, whose probabilities are appended to `record`."""

    def choose(direction, step, log_weight):
        assert direction == (FORWARD if side == "forward" else REVERSE)
        free = (0, 1) if side == "forward" else (1,)
        indices = jnp.stack([values.get(f"ancestor {int(step)} {k}", jnp.zeros(())) for k in (0, 1)]).astype(int)
        record.extend(jax.nn.softmax(log_weight)[indices[k]] for k in free)
        return indices

    return choose


def without_the_reference(values, record, side):
    """The invalid supply: the free slot continues itself, and pays no attention to the reference."""

    def choose(direction, step, log_weight):
        record.append(jnp.where(values[f"ancestor {int(step)} 1"] == 1, 1.0, 0.0))
        return jnp.array([0, 1])

    return choose


@functools.cache
def enumerated(x, kind, threshold, side, supply=recorded_ancestors):
    """Probability, log Zhat and number of resamplings of every outcome of a run."""
    target, path, tables = problem(x, kind)

    def one(values):
        record = []
        randomness = Randomness(
            base=lambda k: jnp.stack([values.get(f"base {i}", jnp.zeros(())) for i in (0, 1)])[k][None],
            target=None,
            noise=lambda direction, k, t: jnp.stack(
                [values.get(f"noise {direction} {i} {int(t)}", jnp.asarray(0.5)) for i in (0, 1)]
            )[k],
            ancestors=supply(values, record, side),
        )
        kernel, reference = TableKernel(), None
        if side == "reverse":
            reference = reference_path(target, kernel, path, values["exact"][None], randomness)
        run = run_particles(target, kernel, path, 2, threshold, randomness, reference)
        log_evidence = jax.nn.logsumexp(run.log_weight) - jnp.log(2)
        return functools.reduce(jnp.multiply, record), log_evidence, run.num_resampled

    values, probability = grid(variables(x, tables, side))
    with jax.disable_jit():
        chosen, log_evidence, resampled = map(np.asarray, jax.vmap(one)(jax.tree.map(jnp.asarray, values)))
    probability = probability * chosen
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-12)
    return probability, log_evidence, resampled


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def mean_ratio(x, kind, threshold, side, supply=recorded_ancestors):
    """E[Zhat] / Z forwards, E[Z / Zhat] for conditional runs."""
    probability, log_evidence, _ = enumerated(x, kind, threshold, side, supply)
    sign = 1 if side == "forward" else -1
    return probability @ np.exp(sign * (log_evidence - np.log(EVIDENCE[x])))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("side", ["forward", "reverse"])
@pytest.mark.parametrize("threshold", [ALWAYS, TRIGGER, NEVER])
@pytest.mark.parametrize("kind", ["reversible", "reversed"])
@pytest.mark.parametrize("x", [0, 1])
def test_enumerated_weights_are_unbiased(x, kind, threshold, side):
    np.testing.assert_allclose(mean_ratio(x, kind, threshold, side), 1, rtol=1e-12)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("side", ["forward", "reverse"])
@pytest.mark.parametrize("x", [0, 1])
def test_the_trigger_decides_by_the_weights(x, side):
    for threshold, expected in ((ALWAYS, {2}), (TRIGGER, {0, 1, 2}), (NEVER, {0})):
        probability, _, resampled = enumerated(x, "reversed", threshold, side)
        assert set(resampled[probability > 0]) == expected


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("kind", "values"), [("reversible", (0.178380, 0.394952)), ("reversed", (0.208239, 0.352638))])
def test_enumerated_values_in_nats(kind, values):
    for side, expected in zip(("reverse", "forward"), values, strict=True):
        found = EXPECTED_LOG_LIKELIHOOD
        for x in (0, 1):
            probability, log_evidence, _ = enumerated(x, kind, ALWAYS, side)
            found -= EVIDENCE[x] * (probability @ log_evidence)
        np.testing.assert_allclose(found, expected, atol=5.1e-7)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("x", "expected"), [(0, 1.000816), (1, 1.001716)])
def test_control_kernel_in_its_own_direction(x, expected):
    np.testing.assert_allclose(mean_ratio(x, "own direction", ALWAYS, "reverse"), expected, atol=5.1e-7)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("x", "expected"), [(0, 1.063486), (1, 1.059923)])
def test_control_resampling_without_the_reference(x, expected):
    found = mean_ratio(x, "reversible", ALWAYS, "reverse", without_the_reference)
    np.testing.assert_allclose(found, expected, atol=5.1e-7)


# A linear model: z ~ N(0, I), x = a z + noise.

LOADINGS = np.array([0.5, 2.0, 6.0])


def linear_target(x):
    return AnnealedTarget(
        lambda key: jax.random.normal(key, (3,)),
        lambda z: dist.Normal(0, 1).log_prob(z).sum(),
        lambda z: dist.Normal(LOADINGS * z, 1).log_prob(x).sum(),
    )


def linear_path(betas, step_size):
    """A step size in standard deviations of the density at each temperature."""
    variance = 1 / (1 + betas[1:-1, None] * LOADINGS**2)
    return make_path(betas, np.full(len(betas) - 2, step_size), variance)


def linear_run(method, count, step_size=0.4, seed=0, only=slice(None)):
    """Evidence of simulated data sets, and their true log-marginals."""
    path = linear_path(method.betas(), step_size)

    @jax.jit
    @jax.vmap
    def one(key):
        draw_key, run_key = jax.random.split(key)
        z, noise = jax.random.normal(draw_key, (2, 3))
        x = LOADINGS * z + noise
        truth = dist.Normal(0, jnp.sqrt(1 + LOADINGS**2)).log_prob(x).sum()
        return method.evidence(linear_target(x), path, z, run_key), truth

    evidence, truth = one(jax.random.split(jax.random.key(seed), count)[only])
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (evidence, truth))


def mean_and_error(values):
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


SHORT = dict(num_temperatures=10, num_particles=8, schedule=PowerSchedule(2.0))


@functools.cache
def short_run(ess_threshold=0.5):
    return linear_run(AnnealedSMC(**SHORT, ess_threshold=ess_threshold), 4000)


def test_linear_model_is_bounded_and_resampling_helps():
    evidence, truth = short_run()
    low, low_error = mean_and_error(evidence.elbo - truth)
    high, high_error = mean_and_error(evidence.eubo - truth)
    assert -1 < low < 4 * low_error and 1 > high > -4 * high_error
    for ratio, error in map(mean_and_error, (np.exp(evidence.elbo - truth), np.exp(truth - evidence.eubo))):
        assert abs(ratio - 1) < 4 * error < 0.1
    never, _ = short_run(0)
    difference, error = mean_and_error((never.eubo - never.elbo) - (evidence.eubo - evidence.elbo))
    assert difference > 2 * error
    for side in ("forward", "reverse"):
        assert 0 < evidence.stats[f"{side}_num_resampled"].mean() < 9
        assert (never.stats[f"{side}_num_resampled"] == 0).all()


def test_stats_have_their_shapes_and_costs():
    (elbo, eubo, stats), _ = short_run()
    for side, bound in (("forward", elbo), ("reverse", eubo)):
        assert stats[f"{side}_log_weight"].shape == (4000, 8)
        np.testing.assert_allclose(np.logaddexp.reduce(stats[f"{side}_log_weight"], 1) - np.log(8), bound, rtol=1e-5)
        assert stats[f"{side}_accept_prob"].shape == (4000, 9)
        assert (stats[f"{side}_num_grad"] == 8 * (1 + 9 * 3)).all()
    # The conditional run shares the forward transitions; without resampling only its reference is new.
    never = short_run(0)[0].stats
    np.testing.assert_allclose(never["forward_log_weight"][:, 1:], never["reverse_log_weight"][:, 1:], rtol=1e-4)


def test_numbers_do_not_depend_on_the_batch():
    part, _ = linear_run(AnnealedSMC(**SHORT), 4000, only=slice(2, 4))
    whole, _ = short_run()
    np.testing.assert_allclose([part.elbo, part.eubo], [whole.elbo[2:4], whole.eubo[2:4]], rtol=1e-4)


@pytest.mark.parametrize(("make", "double"), [(HMC, True), (NUTS, False)])
def test_numpyro_kernels(make, double):
    method = AnnealedSMC(4, 4, kernel=make(lambda: numpyro.sample("z", dist.Normal(0, 1)), step_size=0.3))
    with jax.enable_x64(double):
        evidence, truth = linear_run(method, 20)
    assert np.isfinite(evidence.elbo).all() and np.isfinite(evidence.eubo).all()
    assert evidence.elbo.mean() < truth.mean() < evidence.eubo.mean()


def test_long_sums_lose_nothing_in_single_precision():
    log_ratio, count = 1234.567, 1000
    target = AnnealedTarget(lambda key: jnp.zeros(1), lambda u: 0 * u[0], lambda u: log_ratio + 0 * u[0])
    path = make_path(PowerSchedule(2.0)(count), np.ones(count - 1), np.ones((count - 1, 1)))
    kernel = AnnealedHMC(1, jitter=0.0)
    for threshold in (0.5, 1.0):
        randomness = keyed_randomness(target, kernel, jax.random.key(0), jnp.zeros(1))
        found = jax.jit(lambda u, t=threshold, r=randomness: smc_evidence(target, kernel, path, u, 3, t, r))(
            jnp.zeros(1)
        )
        np.testing.assert_allclose([found.elbo, found.eubo], log_ratio, atol=1e-3)


# Edges.


def test_one_particle_is_the_single_chain():
    method = AnnealedSMC(10, 1, ess_threshold=1)
    path, key, z = linear_path(method.betas(), 0.4), jax.random.key(3), jnp.array([0.3, -1.0, 0.5])
    target = linear_target(LOADINGS * z + 0.1)
    randomness = keyed_randomness(target, method.kernel, key, z)
    found = jax.jit(lambda: method.evidence(target, path, z, key))()
    single = jax.jit(lambda: IM().evidence(target, method.kernel, path, z, 1, randomness))()
    for name, value in single.stats.items():
        np.testing.assert_array_equal(found.stats[name], value)
    np.testing.assert_array_equal([found.elbo, found.eubo], [single.elbo, single.eubo])
    # And so are the runs of several particles, up to the order of their sums.

    @jax.jit
    def runs():
        reference = reference_path(target, method.kernel, path, z, randomness)
        return [
            run_particles(target, method.kernel, path, 1, threshold, randomness, kept)
            for kept in (None, reference)
            for threshold in (0.5, 1.0)
        ]

    found = runs()
    for forward, reverse in zip(found[:2], found[2:], strict=True):
        np.testing.assert_allclose(forward.log_weight, single.stats["forward_log_weight"], rtol=1e-5)
        np.testing.assert_allclose(reverse.log_weight, single.stats["reverse_log_weight"], rtol=1e-5)
        assert reverse.num_grad == single.stats["reverse_num_grad"]


def test_one_temperature_makes_no_transition():
    method = AnnealedSMC(1, 4)
    (elbo, eubo, stats), _ = linear_run(method, 3)
    assert np.isfinite(elbo).all() and np.isfinite(eubo).all()
    assert stats["forward_accept_prob"].shape == (3, 0) and (stats["reverse_num_resampled"] == 0).all()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_weights_that_are_zero_and_not_a_number(threshold):
    method = AnnealedSMC(6, 8, ess_threshold=threshold)
    path = make_path(method.betas(), np.full(5, 0.3), np.ones((5, 1)))

    @jax.jit
    @jax.vmap
    def run(exact, base, scale):
        """Log-ratio `exact` at the exact draw, 1; else `base` where `scale * u` is positive, a parabola where not."""

        def log_ratio(u):
            return jnp.where(u[0] == 1, exact, jnp.where(scale * u[0] > 0, base, -(u[0] ** 2)))

        target = AnnealedTarget(lambda key: jax.random.normal(key, (1,)), lambda u: -0.5 * u @ u, log_ratio)
        return method.evidence(target, path, jnp.ones(1), jax.random.key(1))

    zero, nan = -jnp.inf, jnp.nan
    cases = jnp.array([[0.0, zero, 1.0], [nan, 0.0, 0.0], [0.0, nan, 1.0], [0.0, nan, 0.0]]).T
    elbo, eubo, _ = run(*cases)
    assert jnp.isfinite(elbo[jnp.array([0, 1, 3])]).all() and jnp.isnan(elbo[2])
    assert jnp.isfinite(eubo[jnp.array([0, 3])]).all() and jnp.isnan(eubo[jnp.array([1, 2])]).all()

    empty = AnnealedTarget(
        lambda key: jax.random.normal(key, (1,)),
        lambda u: -0.5 * u @ u,
        lambda u: jnp.where(u[0] == 1, 0.0, -jnp.inf),  # all but the exact draw
    )
    found = jax.jit(lambda: method.evidence(empty, path, jnp.ones(1), jax.random.key(1)))()
    assert found.elbo == -jnp.inf and (found.stats["forward_log_weight"] == -jnp.inf).all()
    assert not jnp.isnan(found.eubo)


def test_randomness_without_ancestors_is_refused():
    path, z = linear_path(LinearSchedule()(4), 0.4), jnp.ones(3)
    target, kernel = linear_target(z), AnnealedHMC()
    randomness = keyed_randomness(target, kernel, jax.random.key(0), z)._replace(ancestors=None)
    with pytest.raises(ValueError, match="this randomness has no ancestors"):
        smc_evidence(target, kernel, path, z, 2, 0.5, randomness)


def test_ancestors_have_keys_of_their_own():
    """Different by direction and transition; none is the key of a transition."""
    kernel = types.SimpleNamespace(sample_noise=lambda key, u: jax.random.categorical(key, jnp.zeros(50), shape=(50,)))
    randomness = keyed_randomness(linear_target(0.0), kernel, jax.random.key(0), jnp.zeros(3))
    drawn = [randomness.ancestors(d, t, jnp.zeros(50)) for d in (FORWARD, REVERSE) for t in (1, 2, 3)]
    drawn += [randomness.noise(d, k, t) for d in (FORWARD, REVERSE) for k in (0, 1, 2) for t in (1, 2, 3)]
    assert len({tuple(indices.tolist()) for indices in drawn}) == len(drawn)
    often = randomness.ancestors(FORWARD, 1, jnp.log(jnp.tile(jnp.array([0.0, 1.0, 3.0, 0.0]), 500))) % 4
    np.testing.assert_allclose(np.bincount(often, minlength=4) / 2000, [0, 0.25, 0.75, 0], atol=0.05)


BAD = {
    **{
        f"{name}_{value}": ({name: value}, ValueError, f"AnnealedSMC needs {name}, a positive integer, got {value}")
        for name in ("num_temperatures", "num_particles")
        for value in (0, -1, 2.5, True)
    },
    "threshold_low": ({"ess_threshold": -0.1}, ValueError, "needs 0 <= ess_threshold <= 1, a part of .*, got -0.1"),
    "threshold_high": ({"ess_threshold": 16}, ValueError, "needs 0 <= ess_threshold <= 1, a part of .*, got 16"),
    "threshold_nan": ({"ess_threshold": float("nan")}, ValueError, "needs 0 <= ess_threshold <= 1"),
    "threshold_text": ({"ess_threshold": "0.5"}, TypeError, "needs a number for ess_threshold, got '0.5'"),
    "threshold_bool": ({"ess_threshold": True}, TypeError, "needs a number for ess_threshold, got True"),
    "schedule": ({"schedule": 4}, ValueError, "an array schedule needs one dimension"),
    "schedule_rising": ({"schedule": [0, 0.5, 0.5, 1]}, ValueError, "must rise strictly"),
    "schedule_length": ({"schedule": [0, 0.5, 1], "num_temperatures": 3}, ValueError, "3"),
    "kernel": ({"kernel": "NUTS"}, TypeError, "kernel must be AnnealedHMC"),
    "base": ({"base": 3}, TypeError, "AnnealedSMC needs base, a guide"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configuration(name):
    options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        AnnealedSMC(**options)


def test_configuration():
    method = AnnealedSMC()
    assert (method.num_temperatures, method.num_particles, method.ess_threshold) == (50, 32, 0.5)
    assert method == AnnealedSMC(50, np.int64(32), AnnealedHMC(), PowerSchedule(4.0), np.float32(0.5))
    assert hash(method) == hash(AnnealedSMC()) and method != AnnealedSMC(ess_threshold=1)
    np.testing.assert_allclose(AnnealedSMC(schedule=[0, 0.25, 1]).betas(), [0, 0.25, 1])
