"""How a run behaves: keys, batches, precision, compilation, interruption, progress."""

import subprocess
import sys

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi import AIS, IWAE, mi_bounds
from numpyro_mi.annealing import tuning
from numpyro_mi.draws import consistency, preflight, simulation
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.runs import scoring
from numpyro_mi.runs.evidence import Rows

METHOD = AIS(20, 3)
LOADINGS = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)


def linear(loadings, x=None):
    z = numpyro.sample("z", dist.Normal(0, 1).expand([5]).to_event(1))
    numpyro.sample("x", dist.Normal(loadings @ z, 0.7).to_event(1), obs=x)


def run(loadings=LOADINGS, **kwargs):
    settings = {"method": METHOD, "num_samples": 300, "model_args": (loadings,), **kwargs}
    return mi_bounds(linear, "z", "x", **settings)


@pytest.fixture(scope="module")
def reference():
    return run()


def test_joint_draws_are_bit_equal_for_every_batch_size():
    joint = joint_model(linear, "z", "x", (LOADINGS,))
    draw = stage_model(joint, decompose(joint)).draw
    key = jax.random.key(3)
    whole = simulation.joint_draws(draw, key, 300)
    for size in (1, 7, 128, 300):
        found = [jax.device_get(block) for _, block in simulation.blocks(draw, key, 300, size)]
        stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:300], *found)
        jax.tree.map(np.testing.assert_array_equal, stacked, jax.device_get(whole))


@pytest.mark.parametrize("batch_size", [17, 300])
def test_results_do_not_depend_on_batch_size(reference, batch_size):
    """Rounding flips an accept now and then; all else is equal."""
    result = run(batch_size=batch_size)
    for name in ("lower_i", "upper_i"):
        close = np.abs(getattr(result, name) - getattr(reference, name)) < 1e-3
        assert close.mean() >= 0.999
        assert abs(getattr(result, name).mean() - getattr(reference, name).mean()) < 1e-3 * reference.lower_se


@pytest.mark.compile_fast
@pytest.mark.parametrize(("stop", "rounding"), [(150, 0.0), (131, 1e-5)])
@pytest.mark.parametrize("method", [AIS(4, 2), IWAE(num_particles=5)])
def test_a_run_that_goes_on_is_the_run_in_one(method, stop, rounding):
    """Nothing is scored twice, left out, or tuned again; to the bit where the stop is between two blocks."""
    joint = joint_model(linear, "z", "x", (LOADINGS,))
    rows = Rows(joint, (decompose(joint),), method, jax.random.key(0))
    whole = rows.run(300, 50, False)
    first = rows.run(stop, 50, False)
    after = rows.run(300, 50, False, resume=first)
    np.testing.assert_allclose(after.terms, whole.terms, rtol=rounding)
    np.testing.assert_array_equal([terms[:stop] for terms in after.terms[0]], first.terms[0])
    assert after.cost == whole.cost and after.num_requested == 300 and after.plans == first.plans
    for found, wanted in zip(after.stats, whole.stats, strict=True):
        assert set(found) == set(wanted)
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=max(rounding, 1e-6), err_msg=name)


def test_results_are_bit_equal_at_equal_batch_size(reference):
    again = run()
    np.testing.assert_array_equal(again.lower_i, reference.lower_i)
    np.testing.assert_array_equal(again.upper_i, reference.upper_i)


def test_fewer_draws_are_the_first_of_more(reference):
    fewer = run(num_samples=100, batch_size=50)
    assert (np.abs(fewer.lower_i - reference.lower_i[:100]) < 1e-3).mean() >= 0.99


@pytest.mark.parametrize("key", [0, None, np.int64(0), jax.random.key(0), jax.random.PRNGKey(0)])
def test_every_style_of_key(reference, key):
    np.testing.assert_array_equal(run(rng_key=key).lower_i, reference.lower_i)


def test_another_key_gives_other_draws(reference):
    assert not np.isin(run(rng_key=1).lower_i, reference.lower_i).any()


def test_double_precision_agrees_within_standard_errors(reference):
    with jax.enable_x64(True):
        double = run()
    assert double.environment["x64"] == "True"
    assert double.stats[0]["forward_log_weight"].dtype == np.float64
    for side in ("lower", "upper"):
        error = np.hypot(getattr(double, f"{side}_se"), getattr(reference, f"{side}_se"))
        assert abs(getattr(double, side) - getattr(reference, side)) < 4 * error


@pytest.fixture
def compiled(reference):
    """The reference run again, since the programs of many tests may have been cleared."""
    return run()


def compiled_programs():
    checks = preflight._factors_at_base, consistency._quickly_examined, consistency._examined
    functions = (scoring._evidence, simulation._simulate, *checks, tuning.sweep, tuning._pilot_gaps)
    return sum(function._cache_size() for function in functions)


def test_no_needless_compilation_and_no_stale_program(reference, compiled):
    before = compiled_programs()
    changed = run(0.5 * LOADINGS)
    assert compiled_programs() == before, "a changed array argument must not compile anything"
    assert changed.upper < reference.lower, "and must change the result"
    closed_over = {"loadings": LOADINGS}

    def closure(x=None):
        linear(closed_over["loadings"], x)

    first = mi_bounds(closure, "z", "x", method=METHOD, num_samples=300)
    np.testing.assert_array_equal(first.lower_i, reference.lower_i)
    closed_over["loadings"] = 0.5 * LOADINGS
    second = mi_bounds(closure, "z", "x", method=METHOD, num_samples=300)
    np.testing.assert_array_equal(second.lower_i, changed.lower_i)
    assert compiled_programs() == before, "the same computation under another function is the same program"


def test_data_in_place_compile_nothing_new(reference, compiled):
    before = compiled_programs()
    result = run(model_args=(LOADINGS, np.full(12, 7.0, np.float32)))
    np.testing.assert_array_equal(result.lower_i, reference.lower_i)
    assert compiled_programs() == before


def test_a_changed_python_number_compiles_again():
    def model(scale):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(z, scale))

    small, large = (mi_bounds(model, "z", "x", method=AIS(10, 2), num_samples=50, model_args=(s,)) for s in (0.1, 10.0))
    assert small.lower > large.upper


class InterruptedAfter:
    """Raise KeyboardInterrupt instead of scoring another block, as Ctrl-C does."""

    def __init__(self, blocks, scorer):
        self.left, self.scorer = blocks, scorer

    def __call__(self, *args):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.scorer(*args)


def test_ctrl_c_returns_the_finished_blocks(monkeypatch):
    whole = run(batch_size=50)
    monkeypatch.setattr(scoring, "_evidence", InterruptedAfter(3, scoring._evidence))
    part = run(batch_size=50)
    assert part.partial and part.num_samples == 150 and part.num_requested == 300
    np.testing.assert_array_equal(part.lower_i, whole.lower_i[:150])
    np.testing.assert_allclose(part.lower_se, whole.lower_i[:150].std(ddof=1) / np.sqrt(150))
    assert "150 joint draws of 300 (interrupted)" in repr(part)


def test_ctrl_c_before_the_first_block_is_passed_on(monkeypatch):
    monkeypatch.setattr(scoring, "_evidence", InterruptedAfter(0, scoring._evidence))
    with pytest.raises(KeyboardInterrupt):
        run()


def test_progress_shows_stage_and_running_bounds(monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    result = run(batch_size=50)
    shown = capsys.readouterr().err
    assert "mi_bounds: scoring" in shown and "6/6" in shown
    assert f"I in [{result.lower:.3f}, {result.upper:.3f}] nats" in shown


@pytest.mark.parametrize("silence", ["progress_bar=False", "CI"])
def test_progress_is_silent(monkeypatch, capsys, silence):
    monkeypatch.delenv("CI", raising=False)
    if silence == "CI":
        monkeypatch.setenv("CI", "true")
    run(batch_size=50, progress_bar=silence == "CI")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_independent_groups_have_exactly_no_information():
    def model():
        numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(0, 1))

    result = mi_bounds(model, "z", "x", num_samples=50)
    assert (result.lower, result.upper, result.lower_se) == (0.0, 0.0, 0.0)
    assert result.interval() == (0.0, 0.0)
    assert "I = 0 exactly" in repr(result)


def test_import_leaves_the_plotting_and_table_libraries_out():
    heavy = ["matplotlib", "arviz_base", "arviz_stats", "arviz_plots", "xarray", "pandas", "scipy.stats"]
    code = (
        "import sys, numpyro; before = set(sys.modules); import numpyro_mi; "
        f"print([m for m in {heavy} if m in set(sys.modules) - before])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
