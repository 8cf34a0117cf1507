"""Bounds from arrays of joint samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.special import logsumexp

from numpyro_mi import (
    AIS,
    GIWAE,
    KSG,
    MINE,
    MINEAIS,
    InfoNCE,
    MIBounds,
    MLPCritic,
    RegressionGuide,
    Training,
    mi_bounds_from_samples,
)
from numpyro_mi.direct import arrays
from numpyro_mi.runs import direct
from numpyro_mi.training.pairs import Pairs

QUICK = Training(num_draws=4096, max_steps=100)
N = 12_000
TRUTH = 0.5 * np.log(1 + 4.0)


def samples(offset=0.0, scale=1.0, seed=0):
    """Z is N(offset, scale^2), x = 2 (z - offset) / scale + noise."""
    r = np.random.default_rng(seed)
    z = r.standard_normal(N)
    return offset + scale * z, 2 * z + r.standard_normal(N)


def log_prior(z, offset=0.0, scale=1.0):
    return (-0.5 * ((z - offset) / scale) ** 2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)).sum()


@pytest.mark.parametrize(
    ("method", "scored"),
    [
        (InfoNCE(num_particles=50, training=QUICK), 96 * 50),
        (MINE(training=QUICK), 228 * 21),  # the last 12 rows fill no block
        (GIWAE(training=QUICK), 4800),
    ],
    ids=lambda value: type(value).__name__,
)
def test_lower_bounds_of_a_normal_pair(method, scored):
    result = mi_bounds_from_samples(*samples(), method=method, log_prior=log_prior if method.needs_prior else None)
    assert result.upper_i is None
    assert 0.7 * TRUTH < result.lower < TRUTH + 4 * result.lower_se
    negatives = {"scored_negatives": scored * (method.num_latents - 1)} if method.num_latents > 1 else {}
    assert result.cost == {"training_rows": 6000, "pilot_rows": 1200, "scored_rows": scored, **negatives}
    assert f"rows: 6,000 training, 1,200 pilot, {scored:,} scored" in repr(result)


def test_energy_based_with_a_prior_and_an_offset():
    """An offset of a million standard deviations costs no digits."""
    z, x = samples(1e6, 0.5)
    result = mi_bounds_from_samples(
        z, x, method=MINEAIS(annealing=AIS(20, 2), training=QUICK), log_prior=lambda z: log_prior(z, 1e6, 0.5)
    )
    assert result.lower == pytest.approx(TRUTH, abs=0.1)
    assert result.cost["scored_gradients"] > 0 and result.cost["scored_rows"] == 4800
    assert "gradients scored" in repr(result)


def test_a_critic_function_sees_its_own_units():
    """The best critic in the units of the arrays, and the formula without the package."""
    z, x = samples(3.0, 0.01)

    def critic(x, z):
        return -0.5 * (x[0] - 200 * (z[0] - 3.0)) ** 2

    method = InfoNCE(critic, num_particles=20)
    result = mi_bounds_from_samples(z, x, method=method)
    scored = arrays.split_rows(N, method, jax.random.key(0))[2]
    table = -0.5 * (x[scored][:, :, None] - 200 * (z[scored][:, None, :] - 3.0)) ** 2
    own = np.einsum("bii->bi", table)
    expected = (own - (logsumexp(table, 2) - np.log(20))).mean(1)
    np.testing.assert_allclose(result.lower_i, expected, atol=0.005)
    assert result.lower > 0.6 * TRUTH


def fitted_guide():
    z, x = (column[:, None] for column in samples())
    return RegressionGuide().fit(Pairs(lambda count: iter([(z, x)]), 1, 1), jax.random.key(0), lambda stage: None)


@pytest.mark.parametrize("name", ["guide", "base", "critic", "critic function"])
def test_what_is_fitted_is_refused(name):
    """Another key splits other rows off: it would be scored on rows that it was fitted to, and a critic
    there claims too much, as `test_negative_controls.test_scoring_on_the_training_pairs` shows."""
    if name == "guide":
        method = GIWAE(fitted_guide(), training=QUICK)
    elif name == "base":
        method = MINEAIS(fitted_guide(), training=QUICK)
    else:
        critic = MLPCritic((8,)) if name == "critic" else lambda x, z: x[0] * z[0]
        first = mi_bounds_from_samples(*samples(), method=InfoNCE(critic, num_particles=20, training=QUICK))
        method = InfoNCE(first.trained.critic, num_particles=20)
    prior = log_prior if method.needs_prior else None
    with pytest.raises(ValueError, match="on arrays got .* which is fitted already: rows are split by the key.*Pass"):
        mi_bounds_from_samples(*samples(), method=method, log_prior=prior, rng_key=1)


def test_ctrl_c_returns_the_finished_blocks(monkeypatch):
    method = MINE(lambda x, z: x[0] * z[0] / 5)
    whole = mi_bounds_from_samples(*samples(), method=method)
    score, left = direct._block_terms, iter(range(3))

    def interrupted(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return score(*args)

    monkeypatch.setattr(direct, "_block_terms", interrupted)
    part = mi_bounds_from_samples(*samples(), method=method)
    assert part.partial and 0 < part.num_samples < part.num_requested == whole.num_samples
    np.testing.assert_array_equal(part.lower_i, whole.lower_i[: part.num_samples])
    assert part.cost["scored_rows"] == 21 * part.num_samples
    assert part.cost["scored_negatives"] == 420 * part.num_samples


def test_blocks_are_disjoint_and_one_term_each():
    result = mi_bounds_from_samples(*samples(), method=InfoNCE(num_particles=100, training=QUICK))
    assert result.num_samples == 48 and "48 disjoint blocks of joint draws" in repr(result)


@pytest.mark.slow
def test_the_key_splits_the_rows():
    first, again, other = (
        mi_bounds_from_samples(*samples(), method=MINE(training=QUICK), rng_key=key) for key in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.lower_i, again.lower_i)
    assert not np.array_equal(first.lower_i, other.lower_i)


def test_containers_give_the_same():
    z, x = samples()
    expected = mi_bounds_from_samples(z, x, method=KSG()).estimate
    frame = pd.DataFrame({"z": z, "x": x})
    tree = xr.Dataset({name: (("chain", "draw"), value.reshape(4, -1)) for name, value in (("z", z), ("x", x))})
    for a, b in ((jnp.asarray(z), jnp.asarray(x)), (frame[["z"]], frame["x"]), (tree["z"], tree["x"])):
        assert mi_bounds_from_samples(a, b, method=KSG()).estimate == pytest.approx(expected, abs=1e-4)


def test_nearest_neighbours_bound_nothing(tmp_path):
    result = mi_bounds_from_samples(*samples(), method=KSG())
    assert result.lower is None and result.upper is None
    assert result.estimate == pytest.approx(TRUTH, abs=0.03) and result.num_samples == N
    assert "which bounds nothing" in repr(result) and "no bound" in repr(result)
    result.to_netcdf(tmp_path / "ksg.nc")
    assert repr(MIBounds.from_netcdf(tmp_path / "ksg.nc")) == repr(result)


def test_nearest_neighbours_fail_at_20_nats_and_say_so():
    r = np.random.default_rng(0)
    z = r.standard_normal((4000, 10))
    gain = np.sqrt(np.exp(2 * 20 / 10) - 1)
    result = mi_bounds_from_samples(z, gain * z + r.standard_normal(z.shape), method=KSG())
    assert result.estimate < 8
    assert "still growing with the number of draws" in repr(result)


def test_ties_are_mentioned():
    z, x = samples()
    assert "rows repeat values" in repr(mi_bounds_from_samples(z > 0, x, method=KSG()))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": AIS()}, TypeError, r"method must be one of InfoNCE\(...\).*samples have no likelihood"),
        ({"method": GIWAE()}, ValueError, "GIWAE evaluates the prior density of z: pass log_prior="),
        ({"method": MINEAIS(), "log_prior": 3}, TypeError, "log_prior must be a function of one row of z, got 3"),
        ({"method": MINEAIS(None), "log_prior": log_prior}, ValueError, "samples the prior, and arrays have none"),
        ({"method": GIWAE(), "log_prior": lambda z: z}, ValueError, r"returns a scalar.*it returned shape \(1,\)"),
        (
            {"log_prior": log_prior},
            TypeError,
            "InfoNCE does not evaluate the density of z.*leave it out, or use MINEAIS",
        ),
        ({"method": KSG(), "log_prior": log_prior}, TypeError, "KSG does not evaluate the density of z"),
        ({"method": InfoNCE(num_particles=1000)}, ValueError, "4 blocks where at least 8 are needed: pass more rows"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        mi_bounds_from_samples(*samples(), **arguments)


def test_rows_must_agree():
    z, x = samples()
    with pytest.raises(ValueError, match="rows"):
        mi_bounds_from_samples(z, x[:-1])


class TestPriorOfTheRows:
    """z is a sample of its prior, so that a log_prior that is not its density shows."""

    rng = np.random.default_rng(0)
    z = 0.05 * rng.standard_normal((4000, 1))
    x = z + 0.05 * rng.standard_normal((4000, 1))

    @pytest.mark.parametrize(
        ("log_prior", "match"),
        [
            (lambda z: -0.5 * (z[0] / 0.05) ** 2, r"off by a factor of some 8\..*must be normalised"),
            (lambda z: -0.5 * z[0] ** 2 - 0.5 * jnp.log(2 * jnp.pi), "off by a factor.*in the units of z"),
            (lambda z: jnp.log(z[0]), "log_prior is not finite at"),
        ],
        ids=["not_normalised", "other_units", "other_support"],
    )
    def test_refused(self, log_prior, match):
        with pytest.raises(ValueError, match=match):
            mi_bounds_from_samples(self.z, self.x, method=GIWAE(), log_prior=log_prior, progress_bar=False)

    def test_discrete_latents_are_refused(self):
        z = (self.z > 0).astype(int)
        with pytest.raises(ValueError, match="one and the same value of z in column 0.*use InfoNCE"):
            mi_bounds_from_samples(z, self.x, method=GIWAE(), log_prior=lambda z: jnp.log(0.5), progress_bar=False)


def test_copies_of_rows_are_noted():
    rng = np.random.default_rng(0)
    z, x = rng.standard_normal((2, 200, 2))
    index = rng.integers(0, 200, 4000)
    method = InfoNCE(lambda x, z: x[0] * z[0], num_particles=20)
    result = mi_bounds_from_samples(z[index], x[index], method=method, progress_bar=False)
    assert "3,800 of 4,000 rows repeat another one" in repr(result)


def test_critic_functions_return_scalars():
    rng = np.random.default_rng(0)
    z, x = rng.standard_normal((2, 1000, 2))
    with pytest.raises(ValueError, match=r"returns a scalar score in nats; this one returned shape \(2,\)"):
        mi_bounds_from_samples(z, x, method=InfoNCE(lambda x, z: z * x[0], num_particles=20), progress_bar=False)


@pytest.mark.slow
def test_constant_columns_do_no_harm():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4000, 2))
    z[:, 1] = 3.0
    x = z[:, :1] + rng.standard_normal((4000, 1))
    method = InfoNCE(num_particles=20, training=Training(2000, 200))
    result = mi_bounds_from_samples(z, x, method=method, progress_bar=False)
    assert 0.2 < result.lower < 0.5 * np.log(2) + 4 * result.lower_se
