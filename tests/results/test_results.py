"""Results: numbers, text, tables, files, and repeating a saved run."""

import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr
from numpyro.infer import HMC, NUTS

from numpyro_mi import AIS, CR, IM, IR, AnnealedHMC, LinearSchedule, PowerSchedule, SigmoidSchedule, mi_bounds, tasks
from numpyro_mi.results.estimation import mean
from numpyro_mi.results.files.methods import describe, rebuild
from numpyro_mi.results.mutual_information import MIBounds, MIDifference
from numpyro_mi.results.text.report import report, verdict, warnings_of

pytestmark = pytest.mark.compile_fast

METHOD = AIS(20, 4)


def run_of(method, **kwargs):
    task = tasks.correlated_normal()
    settings = {"num_samples": 200, "rng_key": 3, "progress_bar": False, **kwargs}
    return mi_bounds(task.model, task.latent, task.data, method=method, **settings)


@pytest.fixture(scope="module")
def run():
    return run_of(METHOD)


@pytest.fixture(scope="module")
def other():
    """The same joint draws with another scheme."""
    return run_of(AIS(20, 4, scheme=CR()))


def made(lower_i, upper_i, **kwargs):
    """A result by hand."""
    sides = (None if side is None else np.asarray(side, np.float64) for side in (lower_i, upper_i))
    return MIBounds(*sides, **{"latent": ("z",), "data": ("x",), "method": {}, **kwargs})


def terms(centre=1.0, spread=1.0, count=400, seed=0):
    return centre + spread * np.random.default_rng(seed).normal(size=count)


def with_gap(gap, spread=1.0, **kwargs):
    lower = terms(spread=spread)
    return made(lower, lower + gap + 0.001 * terms(0.0, seed=1), **kwargs)


def weights(count, lost=0):
    """Statistics of one integral, `lost` forward weights being zero; and its plan."""
    forward = np.random.default_rng(2).normal(size=(count, 4)).astype(np.float32)
    forward.reshape(-1)[:lost] = -np.inf
    stats = {}
    for direction, values in (("forward", forward), ("reverse", forward[:, :1] + 1)):
        stats |= {
            f"{direction}_log_weight": values,
            f"{direction}_log_evidence": values.mean(1, dtype=np.float64),
            f"{direction}_accept_prob": np.full(2, 0.9),
            f"{direction}_accept_prob_i": np.full(count, 0.9),
            f"{direction}_num_grad": np.full(count, 7, np.int32),
        }
    plan = {
        "betas": np.array([0.0, 0.1, 0.5, 1.0]),
        "step_size": np.array([0.1, 0.2]),
        "inverse_mass_matrix": np.ones((2, 3)),
    }
    return {"stats": (stats,), "plan": (plan,)}


def assert_same(actual, expected):
    """Equal to the last bit, with equal types."""
    assert type(actual) is type(expected)
    if isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape
        np.testing.assert_array_equal(actual, expected)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(actual[name], value)
    elif isinstance(expected, tuple | list):
        assert len(actual) == len(expected)
        for one, two in zip(actual, expected, strict=True):
            assert_same(one, two)
    else:
        assert actual == expected or (actual != actual and expected != expected)


def assert_round_trip(result, folder):
    path = folder / "result.nc"
    result.to_netcdf(path)
    back = MIBounds.from_netcdf(path)
    for field in dataclasses.fields(MIBounds):
        if field.name == "guides":
            continue  # documented as not saved
        assert_same(getattr(back, field.name), getattr(result, field.name))
    assert repr(back) == repr(result)


class TestNumbers:
    def test_of_a_run(self, run):
        assert run.lower_i.shape == run.upper_i.shape == (200,)
        assert run.lower_i.dtype == run.upper_i.dtype == np.float64
        assert (run.lower, run.lower_se) == mean(run.lower_i)
        assert (run.upper, run.upper_se) == mean(run.upper_i)
        assert (run.gap, run.gap_se) == mean(run.upper_i - run.lower_i)
        assert run.gap == pytest.approx(run.upper - run.lower, abs=1e-12)
        assert run.gap_se < run.lower_se  # paired over draws
        assert run.estimate == (run.lower + run.upper) / 2
        assert run.num_samples == run.num_requested == 200 and not run.partial
        assert run.num_non_finite == {"lower": 0, "upper": 0}
        low, high = run.interval()
        assert low < run.lower and run.upper < high
        assert low < tasks.correlated_normal().mutual_information < high

    def test_interval_widens_with_its_coverage(self, run):
        ends = np.array([run.interval(prob) for prob in (0.5, 0.8, 0.95, 0.999)])
        assert (np.diff(ends[:, 0]) < 0).all() and (np.diff(ends[:, 1]) > 0).all()
        assert run.interval() == run.interval(0.95)
        assert all(isinstance(end, float) for end in run.interval())

    @pytest.mark.parametrize("prob", [0, 1, 1.5, -0.1, 95])
    def test_interval_refuses_what_is_no_coverage(self, run, prob):
        with pytest.raises(ValueError, match="between 0 and 1"):
            run.interval(prob)

    def test_an_infinite_side(self):
        upper = terms()
        upper[7] = np.inf
        result = made(terms(), upper)
        assert result.upper == result.upper_se == result.gap == np.inf
        assert result.estimate is None
        assert result.interval()[1] == np.inf and np.isfinite(result.interval()[0])
        assert result.num_non_finite == {"lower": 0, "upper": 1}
        assert np.isfinite(result.lower)

    @pytest.mark.parametrize("missing", ["lower", "upper"])
    def test_a_missing_side_is_none_and_never_a_number(self, missing):
        sides = {"lower": terms(), "upper": terms(1.5)} | {missing: None}
        result = made(sides["lower"], sides["upper"])
        for name in (missing, f"{missing}_se", "gap", "gap_se", "estimate"):
            assert getattr(result, name) is None
        present = {"lower": "upper", "upper": "lower"}[missing]
        assert isinstance(getattr(result, present), float)
        assert result.num_samples == 400 and list(result.num_non_finite) == [present]
        ends = dict(zip(("lower", "upper"), result.interval(), strict=True))
        assert np.isinf(ends[missing]) and np.isfinite(ends[present])

    def test_arrays_are_read_only(self, run):
        for array in (run.lower_i, run.upper_i, run.stats[0]["forward_log_weight"], (run - run).lower_i):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0

    def test_evidence_bounds_make_the_gap(self, run):
        gaps = run.stats[0]["reverse_log_evidence"] - run.stats[0]["forward_log_evidence"]
        np.testing.assert_allclose(gaps, run.upper_i - run.lower_i)

    def test_partial(self):
        assert made(terms(count=100), terms(count=100), num_requested=300).partial
        assert not made(terms(count=100), terms(count=100), num_requested=100).partial


class TestTables:
    def test_summary(self, run):
        table = run.summary()
        assert list(table.index) == ["lower", "upper", "gap", "estimate"]
        assert list(table.columns) == ["mean", "se", "mean_bits"]
        assert table.loc["upper", "mean"] == run.upper and table.loc["gap", "se"] == run.gap_se
        assert table.loc["estimate", "mean"] == run.estimate
        np.testing.assert_allclose(table["mean_bits"], table["mean"] / np.log(2))
        assert (table.dtypes == np.float64).all()

    def test_summary_of_a_missing_side(self):
        table = made(terms(), None).summary()
        assert np.isfinite(table.loc["lower"]).all()
        assert table.loc[["upper", "gap", "estimate"]].isna().all().all()

    def test_to_frame(self, run):
        frame = run.to_frame()
        assert list(frame.columns) == ["lower_i", "upper_i"] and frame.index.name == "draw"
        np.testing.assert_array_equal(frame["upper_i"], run.upper_i)
        assert list(made(None, terms()).to_frame().columns) == ["upper_i"]


class TestText:
    def test_block_of_a_run(self, run):
        text = repr(run)
        low, high = run.interval()
        lines = dict(line.strip().split("  ", 1) for line in text.splitlines()[1:])
        assert "I(z; x)" in text and "AIS, IM, 20 temperatures x 4 particles" in text and "200 joint draws" in text
        for name, value, se in (
            ("lower bound", run.lower, run.lower_se),
            ("upper bound", run.upper, run.upper_se),
            ("gap", run.gap, run.gap_se),
        ):
            assert lines[name].strip() == f"{value:.4f} ± {se:.4f} nats"
        bits = f"[{low / np.log(2):.4f}, {high / np.log(2):.4f}] bits"
        assert lines["95% interval"].strip() == f"[{low:.4f}, {high:.4f}] nats = {bits}"
        assert "gradients scored" in lines["cost"] and "in pilots" in lines["cost"]
        seconds = f"{sum(run.seconds.values()):.1f} s, of which {run.seconds['compiling']:.1f} compiling, on cpu"
        assert lines["cost"].endswith(seconds)
        assert lines["exact"].strip() == "+ log p(x | z)"
        assert lines["annealed"].strip() == "- log of the integral of p(z) p(x | z) over z"
        assert lines["verdict"].strip() == verdict(run)

    def test_missing_side_is_a_dash(self):
        lines = report(made(terms(), None)).splitlines()
        assert lines[2].split() == ["upper", "bound", "-"]
        assert lines[3].split() == ["gap", "-"]
        assert "inf]" in lines[4]
        assert "one side only" in verdict(made(None, terms()))

    def test_infinite_side_says_how_many_terms(self):
        upper = terms()
        upper[:3] = np.inf
        text = report(made(terms(), upper))
        assert "upper bound   inf nats" in text
        assert "3 of 400 terms of the upper bound are not finite" in text and "none was dropped" in text

    def test_interrupted_run(self):
        text = report(made(terms(count=100), terms(count=100), num_requested=3000))
        assert "100 joint draws of 3,000 (interrupted)" in text

    @pytest.mark.parametrize(
        ("count", "text"),
        [
            (0, "0"),
            (999, "999"),
            (1000, "1k"),
            (58_000, "58k"),
            (999_400, "999k"),
            (999_999, "1M"),
            (2_340_000, "2.34M"),
            (1_000_000_000, "1G"),
        ],
    )
    def test_cost_has_readable_numbers(self, count, text):
        cost = {"pilot_forward": 0, "pilot_reverse": 0, "scored_forward": count, "scored_reverse": 0}
        assert f"cost          {text} gradients scored" in report(made(terms(), terms(), cost=cost))

    @pytest.mark.parametrize(
        ("device", "text"), [("cpu (cpu)", "on cpu"), ("gpu (NVIDIA H100)", "on gpu (NVIDIA H100)"), ("tpu", "on tpu")]
    )
    def test_device_is_named_once(self, device, text):
        cost, seconds = {"scored_forward": 5}, {"compiling": 31.0, "tuning": 2.0, "scoring": 7.1}
        result = made(terms(), terms(), cost=cost, seconds=seconds, environment={"device": device})
        assert f"; 40.1 s, of which 31.0 compiling, {text}\n" in report(result)

    def test_long_decompositions_are_abbreviated(self):
        sites = [f"z{i}" for i in range(16)]
        exact = [{"kind": "exact", "sign": 1, "integrated": [], "factors": {f"x{i}": sites}} for i in range(5)]
        integral = {"kind": "integral", "sign": -2, "integrated": sites, "factors": {name: [] for name in sites}}
        lines = report(made(terms(), terms(), decomposition=(*exact, integral))).splitlines()
        given = "z0, z1, z2, ... (16 sites)"
        expected = " ".join(f"+ log p(x{i} | {given})" for i in range(3))
        assert f"  exact         {expected} ... (5 terms)" in lines
        over = f"p(z0) p(z1) p(z2) ... (16 factors) over {given}"
        assert f"  annealed      - 2 log of the integral of {over}" in lines

    def test_nothing_left(self):
        text = report(made(np.zeros(20), np.zeros(20)))
        assert "nothing is left of the decomposition: the groups are independent and I = 0 exactly" in text
        assert "few" not in text
        assert "I = 0" not in report(made(terms(), terms()))

    def test_singular_and_plural(self):
        text = report(made(terms(), terms(1.5), method=describe(AIS(1, 1))))
        assert "1 temperature x 1 particle," in text


def heavy(wide=2, size=100.0, count=200):
    """Nearly all of the gap is in a few draws."""
    lower = terms(count=count)
    gaps = np.full(count, 0.02)
    gaps[:wide] = size
    return made(lower, lower + gaps)


class TestVerdict:
    def test_sampling_error_dominates(self):
        text = verdict(with_gap(0.02))
        assert "0.4 standard errors of the lower bound: more num_samples, rather than num_temperatures or" in text

    def test_gap_dominates(self):
        text = verdict(with_gap(2.0))
        assert text.endswith("lower bound: more num_temperatures or num_particles, rather than num_samples.")

    def test_both_matter(self):
        assert "num_samples, and num_temperatures or num_particles, both help" in verdict(with_gap(0.2))

    def test_gap_without_sampling_error(self):
        text = verdict(made(np.zeros(200), np.ones(200)))
        assert text == "gap 1 without sampling error: more num_temperatures or num_particles, rather than num_samples."

    def test_few_draws_make_the_gap(self):
        """Their own tail inflates the standard error of the upper bound, which must not hide the gap."""
        result = heavy()
        assert result.gap < 2 * result.upper_se
        advice = "more num_temperatures or num_particles, or another parametrisation."
        assert verdict(result) == f"2 of 200 draws make 98% of the gap (median 0.02): {advice}"
        assert verdict(heavy(1, count=150)).startswith("1 of 150 draws makes 97% of the gap (median 0.02): more num_t")
        assert verdict(heavy(20)).endswith("rather than num_samples.")

    def test_a_heavy_tail_below_the_sampling_error_is_no_matter(self):
        assert "more num_samples, rather than" in verdict(heavy(size=3.0))

    def test_noise_of_a_small_gap_is_no_tail(self):
        """Large terms of both signs cancel in the sum, which makes the largest look like all of it."""
        lower = terms(spread=0.01)
        noise = terms(0.005, seed=3)
        text = verdict(made(lower, lower + noise - noise.mean() + 0.005))
        assert "of the gap" not in text

    def test_crossing(self):
        assert verdict(with_gap(-1.0)) == "none: the bounds cross."

    def test_exact(self):
        assert verdict(made(np.ones(200), np.ones(200), num_configurations=4)) == "exact."

    def test_terms_that_are_alike_are_not_all_there_are(self):
        result = made(np.ones(200), np.ones(200))
        assert verdict(result) == "every term is exact, and all that were drawn are alike."
        assert "the terms of both bounds are all alike" in warnings_of(result)[0]

    def test_exact_terms_with_sampling_error(self):
        assert "sampling error alone" in verdict(made(terms(), terms()))

    def test_hard_support(self):
        upper = terms()
        upper[:5] = np.inf
        text = verdict(made(terms(), upper, **weights(400, lost=400)))
        assert "hard support: 25% of the forward chains" in text and "5 draws lost all" in text
        assert "The lower bound stands" in text

    @pytest.mark.parametrize("side", ["lower", "upper"])
    def test_infinite_side_of_unknown_cause(self, side):
        sides = {"lower": terms(), "upper": terms()}
        sides[side][0] = np.nan
        result = made(**{f"{name}_i": value for name, value in sides.items()})
        other = {"lower": "upper", "upper": "lower"}[side]
        assert verdict(result) == f"only the {other} bound stands."
        assert report(result).count("not finite") == 1

    def test_no_side_is_left(self):
        assert verdict(made(np.full(3, -np.inf), np.full(3, np.inf))) == "no side stands."
        assert verdict(made(np.full(3, -np.inf), None)) == "no side stands."


class TestWarnings:
    def test_none_for_a_good_run(self):
        assert warnings_of(with_gap(0.1)) == []

    def test_few_draws(self):
        assert any("20 draws are few" in text for text in warnings_of(made(terms(count=20), terms(count=20))))

    def test_heavy_tail(self):
        upper = terms()
        upper[0] = 100.0
        found = warnings_of(made(terms(), upper))
        assert len(found) == 1 and found[0].startswith("1 of 400 terms of the upper bound carries 90% of the spread")

    def test_skewness(self):
        """More than a few terms carry the spread, and yet it is one-sided."""
        upper = terms(spread=0.1)
        upper[:12] = 20.0
        found = warnings_of(made(terms(), upper))
        assert len(found) == 1 and "upper bound are heavily skewed (+" in found[0]

    def test_do_not_contradict_the_verdict(self):
        """A skewed side is no reason for more draws where the verdict advises against them."""
        for result in (heavy(), heavy(20, count=2000), with_gap(2.0)):
            assert "num_samples" not in verdict(result).replace("rather than num_samples", "")
            assert not any("add" in text or "num_samples" in text for text in warnings_of(result))
        assert any("2 of 200 terms of the upper bound carry 90%" in text for text in warnings_of(heavy()))

    def test_crossing_bounds(self):
        assert any("cross by more than 4" in text for text in warnings_of(with_gap(-1.0)))
        assert warnings_of(with_gap(-1e-5)) == []


class TestStorage:
    def test_round_trip_of_a_run(self, run, tmp_path):
        assert_round_trip(run, tmp_path)

    def test_of_non_finite_terms(self, tmp_path):
        upper = terms()
        upper[:2], upper[2] = np.inf, np.nan
        assert_round_trip(made(terms(), upper, **weights(400, lost=9)), tmp_path)

    @pytest.mark.parametrize("sides", [(None, terms()), (terms(), None), (None, None)], ids=["lower", "upper", "both"])
    def test_of_absent_sides(self, sides, tmp_path):
        assert_round_trip(made(*sides), tmp_path)

    def test_of_odd_names_and_many_temperatures(self, tmp_path):
        """Names with a slash are no groups of the file, and attributes may exceed 64 kB."""
        method = describe(AIS(schedule=np.linspace(0, 1, 10_001) ** 1.5))
        names = {"latent": ("outer/z", "κ"), "data": ("plate/x/obs",)}
        names["decomposition"] = (
            {"kind": "integral", "sign": -2, "integrated": ["outer/z"], "factors": {"κ": [], "outer/z": ["κ"]}},
        )
        assert_round_trip(made(terms(), terms(), **names, method=method, num_requested=999), tmp_path)

    def test_of_two_integrals_and_one_temperature(self, tmp_path):
        one = weights(5)
        plan = {"betas": np.array([0.0, 1.0]), "step_size": np.zeros(0), "inverse_mass_matrix": np.zeros((0, 2, 2))}
        stats = {name: value[:0] if name.endswith("_accept_prob") else value for name, value in one["stats"][0].items()}
        both = {"stats": (stats, *one["stats"]), "plan": (plan, *one["plan"])}
        assert_round_trip(made(terms(count=5), terms(count=5), **both), tmp_path)

    def test_through_memory(self, run):
        from numpyro_mi.results.files.datatree import from_datatree

        assert_same(from_datatree(run.to_datatree()).stats, run.stats)

    def test_arviz_reads_it(self, run):
        import arviz_stats

        tree = run.to_datatree()
        assert isinstance(tree, xr.DataTree)
        table = arviz_stats.summary(tree, group="bounds", sample_dims=["draw"], kind="stats", round_to="none")
        assert list(table.index) == ["lower_i", "upper_i"]
        assert float(table.loc["upper_i", "mean"]) == pytest.approx(run.upper)
        ess = arviz_stats.ess(tree, group="bounds", sample_dims=["draw"])
        assert 50 < float(ess["lower_i"]) < 600  # independent draws
        log_weight = tree["integral_0/forward"]["log_weight"]
        assert log_weight.dims == ("draw", "particle") and log_weight.shape == (200, 4)
        assert tree["integral_0/plan"]["betas"].shape == (21,)
        assert tree.attrs["upper"] == run.upper and tree.attrs["units"] == "nats"

    def test_a_foreign_file_is_refused(self, tmp_path):
        xr.Dataset({"a": 1.0}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
        with pytest.raises(ValueError, match="holds no result of mi_bounds"):
            MIBounds.from_netcdf(tmp_path / "foreign.nc")
        (tmp_path / "text.nc").write_text("no netCDF")
        with pytest.raises(ValueError, match="text.nc is no netCDF file that MIBounds.to_netcdf wrote"):
            MIBounds.from_netcdf(tmp_path / "text.nc")
        with pytest.raises(FileNotFoundError):
            MIBounds.from_netcdf(tmp_path / "missing.nc")


def model():
    """For the kernels of NumPyro, where a model plays no part."""


def posterior_sampler(rng_key, data):
    return {"z": data["x"]}


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A user's own kernel, schedule or scheme."""

    size: int = 1

    def __call__(self, num_temperatures):
        return np.linspace(0.0, 1.0, num_temperatures + 1)


METHODS = {
    "default": AIS(),
    "linear": AIS(7, 2, schedule=LinearSchedule()),
    "power": AIS(7, 2, schedule=PowerSchedule(2.5)),
    "sigmoid": AIS(7, 2, schedule=SigmoidSchedule(3.0)),
    "array": AIS(schedule=np.array([0.0, 0.1, 0.55, 1.0])),
    "coupled": AIS(7, 2, scheme=CR()),
    "independent": AIS(7, 2, scheme=IM()),
    "hmc": AIS(7, 2, kernel=AnnealedHMC(num_steps=5, step_size=0.3, inverse_mass_matrix=(1.0, 2.0), jitter=0.0)),
    "numpyro_hmc": AIS(7, 2, kernel=HMC(model, num_steps=4, trajectory_length=None)),
    "numpyro_hmc_length": AIS(7, 2, kernel=HMC(model, trajectory_length=1.5, step_size=0.2, adapt_step_size=False)),
    "numpyro_nuts": AIS(7, 2, kernel=NUTS(model, max_tree_depth=4, dense_mass=True, target_accept_prob=0.7)),
    "numpyro_mass": AIS(
        7, 2, kernel=NUTS(model, adapt_mass_matrix=False, inverse_mass_matrix=np.eye(2) + 0.25, dense_mass=True)
    ),
}


class TestConfig:
    @pytest.mark.parametrize("name", METHODS)
    def test_round_trip(self, name, tmp_path):
        method = METHODS[name]
        description = describe(method)
        assert description["class"] == "AIS"
        again = rebuild(description)
        assert type(again) is AIS and again == method and hash(again) == hash(method)
        np.testing.assert_array_equal(again.betas(), method.betas())
        assert_round_trip(made(terms(), terms(), method=description), tmp_path)

    def test_an_array_schedule_becomes_a_tuple_of_floats(self):
        values = rebuild(describe(METHODS["array"])).schedule.values
        assert values == (0.0, 0.1, 0.55, 1.0) and all(type(value) is float for value in values)

    def test_ir_is_described_by_name_and_not_rebuilt(self):
        description = describe(AIS(scheme=IR(posterior_sampler)))
        assert description["scheme"]["class"] == "IR"
        assert description["scheme"]["posterior_sampler"] == {"callable": f"{__name__}.posterior_sampler"}
        with pytest.raises(ValueError, match="posterior_sampler.*saved by name only"):
            rebuild(description)

    def test_a_class_of_the_users_is_described_by_name_and_not_rebuilt(self):
        description = describe(AIS(7, schedule=Foreign(3)))
        assert description["schedule"] == {"class": f"{__name__}.Foreign", "size": 3}
        with pytest.raises(ValueError, match="Foreign.*saved by name only"):
            rebuild(description)

    def test_a_class_of_the_users_cannot_pass_for_ours(self):
        impostor = dataclasses.make_dataclass("LinearSchedule", [], bases=(Foreign,), frozen=True)()
        with pytest.raises(ValueError, match="saved by name only"):
            rebuild(describe(AIS(7, schedule=impostor)))

    def test_a_run_can_be_repeated_from_its_record(self, run, tmp_path):
        run.to_netcdf(tmp_path / "run.nc")
        saved = MIBounds.from_netcdf(tmp_path / "run.nc")
        method = rebuild(saved.method)
        assert method == METHOD
        key = jax.random.wrap_key_data(np.array(saved.key["data"], np.uint32), impl=saved.key["impl"])
        again = run_of(method, rng_key=key, num_samples=saved.num_samples)
        assert_same(again.lower_i, run.lower_i)
        assert_same(again.upper_i, run.upper_i)
        assert_same(again.key, run.key)


class TestDifference:
    def test_of_a_run_and_itself(self, run):
        difference = run - run
        assert isinstance(difference, MIDifference)
        np.testing.assert_array_equal(difference.lower_i, run.lower_i - run.upper_i)
        np.testing.assert_array_equal(difference.upper_i, run.upper_i - run.lower_i)
        assert mean(difference.upper_i) == (run.gap, run.gap_se)
        low, high = difference.interval()
        assert low < 0 < high and low == pytest.approx(-high)

    def test_is_more_precise_than_without_pairs(self, run, other):
        assert run.key == other.key
        difference = run - other
        paired = mean(difference.lower_i).se
        unpaired = np.hypot(run.lower_se, other.upper_se)
        assert paired < unpaired / 2
        low, high = difference.interval()
        assert low < 0 < high  # the same mutual information, by two methods

    def test_other_draws_are_refused(self, run):
        with pytest.raises(ValueError, match="common random numbers .* same rng_key.*got rng_key: "):
            run - dataclasses.replace(run, key={**run.key, "data": [0, 4]})
        with pytest.raises(ValueError, match="got num_samples: 200 and 199"):
            run - dataclasses.replace(run, lower_i=run.lower_i[:-1], upper_i=run.upper_i[:-1])
        with pytest.raises(ValueError, match="got x64: False and True"):
            run - dataclasses.replace(run, environment={**run.environment, "x64": "True"})
        with pytest.raises(TypeError):
            run - 1.0

    def test_has_all_numbers_and_tables(self, run, other):
        difference = run - other
        assert (difference.lower, difference.lower_se) == mean(difference.lower_i)
        assert difference.gap == pytest.approx(run.gap + other.gap)
        assert difference.estimate == pytest.approx(run.estimate - other.estimate)
        assert difference.num_samples == 200 and difference.num_non_finite == {"lower": 0, "upper": 0}
        assert difference.summary().loc["upper", "mean"] == difference.upper
        np.testing.assert_array_equal(difference.to_frame()["lower_i"], difference.lower_i)

    def test_missing_sides(self):
        difference = made(terms(), None) - made(None, terms())
        assert difference.upper_i is None and difference.interval()[1] == np.inf
        assert "upper bound   -" in repr(difference) and "lower bound   0.0000 ± 0.0000" in repr(difference)

    def test_text(self, run, other):
        difference = run - other
        title, *lines = repr(difference).splitlines()
        assert title == "Difference of mutual information: 200 pairs of joint draws"
        assert lines[0] == f"  lower bound   {difference.lower:.4f} ± {difference.lower_se:.4f} nats"
        low, high = difference.interval()
        assert f"[{low:.4f}, {high:.4f}] nats" in lines[-1]
