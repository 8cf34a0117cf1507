"""Bounds from arrays of joint samples."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from numpyro_mi import AIS, GIWAE, KSG, MINE, MINEAIS, InfoNCE, MIBounds, Training, mi_bounds_from_samples

pytestmark = pytest.mark.usefixtures("compile_fast")

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
    "method",
    [InfoNCE(num_particles=50, training=QUICK), MINE(training=QUICK), GIWAE(training=QUICK)],
    ids=lambda method: type(method).__name__,
)
def test_lower_bounds_of_a_normal_pair(method):
    result = mi_bounds_from_samples(*samples(), method=method, log_prior=log_prior)
    assert result.upper_i is None
    assert 0.7 * TRUTH < result.lower < TRUTH + 4 * result.lower_se
    assert (result.cost["training_rows"], result.cost["pilot_rows"], result.cost["scored_rows"]) == (6000, 1200, 4800)
    assert "rows: 6,000 training, 1,200 pilot, 4,800 scored" in repr(result)


def test_energy_based_with_a_prior_and_an_offset():
    """An offset of a million standard deviations costs no digits."""
    z, x = samples(1e6, 0.5)
    result = mi_bounds_from_samples(
        z, x, method=MINEAIS(annealing=AIS(20, 2), training=QUICK), log_prior=lambda z: log_prior(z, 1e6, 0.5)
    )
    assert result.lower == pytest.approx(TRUTH, abs=0.1)


def test_blocks_are_disjoint_and_one_term_each():
    result = mi_bounds_from_samples(*samples(), method=InfoNCE(num_particles=100, training=QUICK))
    assert result.num_samples == 48 and "48 disjoint blocks of joint draws" in repr(result)


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
