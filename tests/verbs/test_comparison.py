"""Several methods on the same joint draws: table, paired differences, the interval that all support, the plot."""

import dataclasses

import matplotlib

matplotlib.use("Agg")

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from matplotlib import pyplot as plt

from numpyro_mi import AIS, IWAE, KSG, InfoNCE, RegressionGuide, StructuredInfoNCE, mi_bounds_from_samples, tasks, verbs
from numpyro_mi.plots import plot_bounds
from numpyro_mi.results.comparison import Comparison
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.results.text.comparison import num_gradients
from numpyro_mi.verbs.compare import compare

pytestmark = pytest.mark.compile_fast

TASK = tasks.TASKS["correlated_normal"]()
METHODS = {"IWAE": IWAE(num_particles=10), "AIS": AIS(8, 4), "InfoNCE": StructuredInfoNCE(20)}
DRAWS, MANY = 300, 12000


def run(num_samples, **kwargs):
    return compare(METHODS, TASK.model, TASK.latent, TASK.data, num_samples=num_samples, rng_key=1, **kwargs)


@pytest.fixture(scope="module")
def small():
    return run(DRAWS)


@pytest.fixture(scope="module")
def large():
    return run(MANY)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def made(lower_i, upper_i, **kwargs):
    """A result by hand."""
    return MIBounds(lower_i, upper_i, **{"latent": ("z",), "data": ("x",), "method": {}, **kwargs})


def part(result, start):
    """What a run of some of its draws would have given: plans do not depend on the number of draws."""
    chosen = slice(start, start + DRAWS)
    return dataclasses.replace(result, lower_i=result.lower_i[chosen], upper_i=result.upper_i[chosen])


def terms(centre=1.0, spread=1.0, count=200, seed=0):
    return centre + spread * np.random.default_rng(seed).normal(size=count)


def around(gap, seed=0, shift=0.0, **kwargs):
    """Both sides, `gap` apart on average, on draws that `made` results with other gaps share."""
    noise = terms(0.0, 0.1, seed=seed + 100)
    return made(terms(1 + shift) - gap / 2 + noise, terms(1 + shift) + gap / 2 + noise, **kwargs)


class TestRun:
    def test_is_of_the_same_joint_draws(self, small):
        """The term that needs no estimate, `log p(x | z)` in single precision, is equal to the last bit."""
        exact = [
            (result.lower_i + result.stats[0]["reverse_log_evidence"]).astype(np.float32)
            for result in small.results.values()
        ]
        assert len(np.unique(exact[0])) == DRAWS
        for other in exact[1:]:
            np.testing.assert_array_equal(other, exact[0])

    def test_is_the_beginning_of_a_larger_one(self, small, large):
        for name, result in small.results.items():
            close = np.abs(result.lower_i - part(large.results[name], 0).lower_i) < 1e-3
            assert close.mean() >= 0.99

    def test_keeps_the_order_and_every_result(self, small):
        assert list(small.results) == list(METHODS) and small.num_samples == DRAWS and small.interrupted == ()
        assert [result.method["class"] for result in small.results.values()] == ["IWAE", "AIS", "StructuredInfoNCE"]

    def test_interval_covers_the_truth(self, small, large):
        for found in (small, large):
            low, high = found.interval()
            assert low < TASK.mutual_information < high
        assert np.ptp(large.interval()) < np.ptp(small.interval())

    def test_paired_errors_are_smaller(self, small):
        table = small.differences("all")
        assert len(table) == 6 and (table["se"] < 0.75 * table["unpaired_se"]).all()

    def test_differences_cover_those_of_many_more_draws(self, large):
        """Forty runs of 300 draws against all of them: all six differences of a run at once."""
        expected, missed = large.differences("all")["difference"], 0
        for start in range(0, MANY, DRAWS):
            found = compare({name: part(result, start) for name, result in large.results.items()}).differences("all")
            missed += ((found["simultaneous_low"] > expected) | (found["simultaneous_high"] < expected)).any()
        assert missed <= 5

    def test_finished_results_give_the_same(self, small):
        again = compare(small.results)
        assert repr(again) == repr(small) and again.interval() == small.interval()


class TestGiven:
    """I(z; x | c): averaged over, held at a value, and what methods without densities do with either."""

    @staticmethod
    def model():
        c = numpyro.sample("c", dist.Normal(0, 1))
        z = numpyro.sample("z", dist.Normal(c, 1))
        numpyro.sample("x", dist.Normal(z + c, 1))

    TRUTH = 0.5 * np.log(2)

    @pytest.mark.parametrize("given", ["c", {"c": 1.0}])
    def test_truth(self, given):
        methods = {"IWAE": IWAE(num_particles=20), "few": IWAE(num_particles=2)}
        found = compare(methods, self.model, "z", "x", given, num_samples=500, progress_bar=False)
        low, high = found.interval(0.99)
        assert low < self.TRUTH < high and high - low < 0.4
        assert f"I(z; x | c{' fixed' if isinstance(given, dict) else ''})" in repr(found)
        assert plot_bounds(found.results["few"], backend="none") is not None

    def test_refused_before_anything_runs(self, monkeypatch):
        monkeypatch.setattr(verbs.compare, "mi_bounds", lambda *args, **kwargs: pytest.fail("a method has run"))
        methods = {"IWAE": IWAE(), "critic": InfoNCE(num_particles=5)}
        with pytest.raises(ValueError, match="'critic', InfoNCE, bounds no conditional.*given=.'c'. averaged"):
            compare(methods, self.model, "z", "x", "c")

    def test_finished_results(self):
        results = {"a": made(terms(), None, given=("c",)), "b": made(terms(), None)}
        with pytest.raises(ValueError, match="'a' and 'b' have given: .'c'. and .*"):
            compare(results)
        with pytest.raises(ValueError, match="runs nothing, so leave out given"):
            compare({"a": made(terms(), None), "b": made(terms(), None)}, given="c")


class TestTable:
    def test_of_a_run(self, small):
        table = small.to_frame()
        sides = ["lower", "lower_se", "upper", "upper_se", "gap", "gap_se"]
        assert list(table.columns) == [*sides, "seconds", "gradients"]
        assert list(table.index) == list(METHODS) and table.index.name == "method"
        for name, result in small.results.items():
            assert table.loc[name, sides].tolist() == [getattr(result, side) for side in sides]
            assert table.loc[name, "seconds"] == pytest.approx(sum(result.seconds.values()))
            assert table.loc[name, "gradients"] == num_gradients(result)
        assert table.loc["AIS", "gradients"] > 0 == table.loc["IWAE", "gradients"]

    def test_gradients_are_those_alone(self):
        """Rows and negatives are costs of another kind, in the table and in the text."""
        gradients = {"pilot_forward": 1, "pilot_reverse": 2, "scored_forward": 4, "scored_reverse": 8}
        gradients |= {"scored_guide": 16, "scored_gradients": 32}
        others = {"training_rows": 500, "pilot_rows": 100, "scored_rows": 400, "scored_negatives": 3600}
        found = compare({"a": made(terms(), None, cost=gradients | others), "b": made(terms(), None, cost=others)})
        assert found.to_frame()["gradients"].tolist() == [63, 0]
        assert [line.split()[-1] for line in repr(found).splitlines()[2:4]] == ["63", "0"]

    def test_a_missing_side_is_nan(self):
        table = compare({"both": around(0.1), "lower": made(terms(), None), "upper": made(None, terms())}).to_frame()
        assert table.loc["lower", ["upper", "upper_se", "gap", "gap_se"]].isna().all()
        assert table.loc["upper", ["lower", "lower_se", "gap", "gap_se"]].isna().all()
        assert np.isfinite([table.loc["lower", "lower"], table.loc["upper", "upper_se"]]).all()


class TestDifferences:
    def test_numbers(self):
        pair = {"a": around(0.1), "b": around(0.4, seed=1)}
        row = compare(pair).differences(prob=0.9).loc[("b", "a", "upper")]
        paired = pair["b"].upper_i - pair["a"].upper_i
        assert row["difference"] == paired.mean()
        assert row["se"] == pytest.approx(paired.std(ddof=1) / np.sqrt(200))
        assert row["unpaired_se"] == pytest.approx(np.hypot(pair["a"].upper_se, pair["b"].upper_se))
        assert row["level"] == pytest.approx(1 - 0.1 / 2)

    def test_reference(self):
        found = compare({name: around(0.1 * i, seed=i) for i, name in enumerate("abcd")})
        pairs = [tuple(index) for index in found.differences().index.droplevel("bound").unique()]
        assert pairs == [("b", "a"), ("c", "a"), ("d", "a")]
        assert {base for _, base, _ in found.differences("c").index} == {"c"}
        every = found.differences("all")
        assert every.index.droplevel("bound").nunique() == 6 and ("a", "b", "lower") not in every.index
        assert (every["level"] == 1 - 0.05 / 12).all()
        with pytest.raises(ValueError, match=r"reference must be one of \['a', 'b', 'c', 'd'\], 'all' or None.*'e'"):
            found.differences("e")

    def test_a_missing_side_is_nan_and_does_not_count(self):
        table = compare({"both": around(0.1), "lower": made(terms(), None)}).differences()
        assert table.loc[("lower", "both", "upper")].isna().all()
        assert table.loc[("lower", "both", "lower"), "level"] == pytest.approx(0.95)

    def test_an_infinite_side_has_no_limits(self):
        lost = terms()
        lost[3] = np.inf
        table = compare({"a": around(0.1), "b": made(terms(), lost), "c": made(terms(), lost)}).differences("all")
        row = table.loc[("b", "a", "upper")]
        assert row["difference"] == np.inf and (row["simultaneous_low"], row["simultaneous_high"]) == (-np.inf, np.inf)
        assert np.isnan(table.loc[("c", "b", "upper"), "difference"])

    def test_limits_hold_together(self):
        """All six pairs of four bounds with one mean; if each were at 90 % by itself, one would fail far more often."""
        rng, misses, alone = np.random.default_rng(0), 0, 0
        for _ in range(300):
            results = {name: made(rng.normal(size=80), None) for name in "abcd"}
            for prob in (0.9, 1 - 0.1 * 6):
                table = compare(results).differences("all", prob=prob).dropna()
                outside = ((table["simultaneous_low"] > 0) | (table["simultaneous_high"] < 0)).any()
                misses, alone = misses + (outside and prob == 0.9), alone + (outside and prob < 0.9)
        assert misses < 45 and alone > 75


class TestInterval:
    def test_is_what_the_intervals_share(self):
        results = {name: around(gap, seed=i) for i, (name, gap) in enumerate({"a": 0.1, "b": 0.4, "c": 0.2}.items())}
        found = compare(results)
        assert found.level(0.9) == pytest.approx(1 - 0.1 / 3)
        ends = np.array([result.interval(1 - 0.1 / 3) for result in results.values()])
        assert found.interval(0.9) == pytest.approx((ends[:, 0].max(), ends[:, 1].min()))

    def test_covers_although_the_best_limits_are_picked(self):
        """Picking the best of five intervals that are not corrected for it covers far less often."""
        rng, covered, picked = np.random.default_rng(1), 0, 0
        for _ in range(400):
            sides = rng.normal(size=(5, 100))
            results = {str(i): made(side, side) for i, side in enumerate(sides)}
            low, high = compare(results).interval(0.9)
            covered += low <= 0 <= high
            ends = np.array([result.interval(0.9) for result in results.values()])
            picked += ends[:, 0].max() <= 0 <= ends[:, 1].min()
        assert covered >= 345 and picked < 280

    def test_one_sided_results_share_the_work(self):
        found = compare({"lower": made(terms(), None), "upper": made(None, terms(1.5))})
        low, high = found.interval()
        assert low == found.results["lower"].interval(0.975)[0]
        assert high == found.results["upper"].interval(0.975)[1]
        assert compare({"a": made(terms(), None), "b": made(terms(), None)}).interval()[1] == np.inf

    def test_an_estimate_does_not_enter(self):
        """Although it lies far outside of what the other method allows."""
        z, noise = np.random.default_rng(0).standard_normal((2, 200))
        estimate = mi_bounds_from_samples(z, z + 0.01 * noise, method=KSG(), rng_key=0)
        shared = {"key": estimate.key, "environment": estimate.environment}
        found = compare({"estimate": estimate, "bounds": around(0.1, **shared)})
        assert estimate.num_samples == found.num_samples == 200
        assert found.interval() == found.results["bounds"].interval() and found.interval()[1] < estimate.estimate - 1
        assert repr(found).splitlines()[4].endswith("bits (of 1 method)")
        assert found.differences().isna().all(axis=None)
        assert found.to_frame().loc["estimate", "lower":"gap_se"].isna().all()
        assert compare({"a": estimate, "b": estimate}).interval() == (-np.inf, np.inf)

    def test_an_empty_one_is_returned_and_said(self):
        found = compare({"a": around(0.1), "b": around(0.1, shift=2.0)})
        low, high = found.interval()
        assert low > high
        text = repr(found)
        assert f"empty: {low:.4f} > {high:.4f} nats" in text
        assert "warning  the intervals of the methods do not overlap, which has a probability of at most 5%" in text

    @pytest.mark.parametrize("prob", [0, 1, -0.5, 95])
    def test_refuses_what_is_no_coverage(self, prob):
        found = compare({"a": around(0.1), "b": around(0.2)})
        for ask in (found.interval, found.level, lambda prob: found.differences(prob=prob)):
            with pytest.raises(ValueError, match=f"a probability between 0 and 1, got {prob}"):
                ask(prob)


class TestText:
    def test_of_a_run(self, small):
        text = repr(small)
        title, head, *rows = text.splitlines()
        assert title == "Comparison for I(z; x): 3 methods on the same 300 joint draws"
        assert head.split() == "method lower bound upper bound gap (nats) seconds gradients".split()
        for row, (name, result) in zip(rows, small.results.items(), strict=False):
            assert row.startswith(f"  {name} ")
            assert f"{result.lower:.4f} ± {result.lower_se:.4f}  {result.upper:.4f} ± {result.upper_se:.4f}" in row
            assert row.index("±") == rows[0].index("±") and len(row) == len(rows[0])
        low, high = small.interval()
        bits = f"[{low / np.log(2):.4f}, {high / np.log(2):.4f}] bits"
        line = f"  95% interval that all support  [{low:.4f}, {high:.4f}] nats = {bits} (simultaneous over 3 methods)"
        assert rows[3] == line

    def test_names_the_method_of_a_warning(self):
        lost = terms()
        lost[:2] = np.inf
        text = repr(compare({"good": around(0.1), "bad": made(terms(), lost), "half": made(terms(), None)}))
        assert "  warning  bad: 2 of 200 terms of the upper bound are not finite" in text
        assert "warning  good" not in text
        assert text.splitlines()[3].split()[-4:] == ["inf", "inf", "-", "0"]
        assert text.splitlines()[4].split()[-4:] == ["-", "-", "-", "0"]


class TestInterruption:
    """Ctrl-C raises before a block is done, and gives a partial result after it."""

    @pytest.fixture(params=["raised", "partial"])
    def stopping(self, request, monkeypatch):
        def stop_at(number):
            calls = []

            def mi_bounds(*args, method, num_samples, **kwargs):
                calls.append(method)
                if len(calls) < number:
                    return around(0.1, seed=len(calls), num_requested=200)
                if request.param == "raised":
                    raise KeyboardInterrupt
                return made(terms(count=50), terms(count=50), num_requested=200)

            monkeypatch.setattr(verbs.compare, "mi_bounds", mi_bounds)
            return calls

        return stop_at

    def test_keeps_two_complete_methods(self, stopping):
        calls = stopping(3)
        methods = {name: AIS(5 + i) for i, name in enumerate("abcd")}
        found = compare(methods, TASK.model, "z", "x")
        assert list(found.results) == ["a", "b"] and found.interrupted == ("c", "d") and len(calls) == 3
        assert "  interrupted  no complete result of c, d" in repr(found)

    def test_what_was_left_out_counts(self, stopping):
        stopping(3)
        found = compare({name: AIS(5) for name in "abcd"}, TASK.model, "z", "x")
        assert found.level() == pytest.approx(1 - 0.05 / 4) and "(simultaneous over 4 methods)" in repr(found)
        assert (found.differences()["level"] == 1 - 0.05 / 6).all()
        assert (found.differences("all")["level"] == 1 - 0.05 / 12).all()

    @pytest.mark.parametrize("number", [1, 2])
    def test_is_passed_on_where_nothing_can_be_compared(self, stopping, number):
        stopping(number)
        with pytest.raises(KeyboardInterrupt):
            compare(METHODS, TASK.model, "z", "x")


class TestRefusals:
    @pytest.fixture(autouse=True)
    def nothing_runs(self, monkeypatch):
        monkeypatch.setattr(verbs.compare, "mi_bounds", lambda *args, **kwargs: pytest.fail("something ran"))

    @pytest.mark.parametrize(
        ("entries", "error", "text"),
        [
            ([AIS(5), AIS(6)], TypeError, "needs a dict of methods or results by name, got list"),
            ({}, ValueError, "at least two methods or results, got 0"),
            ({"a": AIS(5)}, ValueError, "at least two methods or results, got 1"),
            ({1: AIS(5), "b": AIS(6)}, TypeError, "names that are strings, got 1"),
            ({"all": AIS(5), "b": AIS(6)}, ValueError, "'all' cannot be a name"),
            ({"a": AIS(5), "b": around(0.1)}, TypeError, "a mixture of the two"),
            ({"a": AIS(5), "b": "AIS"}, TypeError, r"needs methods such as AIS\(...\).*got 'AIS' as 'b'"),
            ({"a": AIS(5), "b": KSG()}, TypeError, r"which mi_bounds runs, or finished results, got KSG\(.*as 'b'"),
            ({"a": AIS(5), "b": RegressionGuide()}, TypeError, r"got RegressionGuide\(.*as 'b'"),
            ({"a": AIS(5), "b": AIS}, TypeError, r"needs methods such as AIS\(...\).*class.*as 'b'"),
            ({"a": AIS(5), "b": None}, TypeError, "got None as 'b'"),
            ({"a": AIS(5), "b": around(0.1) - around(0.2)}, TypeError, "got MIDifference as 'b'"),
        ],
    )
    def test_entries(self, entries, error, text):
        with pytest.raises(error, match=f"compare .*{text}|{text}"):
            compare(entries, TASK.model, "z", "x")

    def test_a_model_beside_results(self):
        pair = {"a": around(0.1), "b": around(0.2)}
        with pytest.raises(ValueError, match="finished results runs nothing, so leave out model, latent, data.$"):
            compare(pair, TASK.model, "z", "x")
        with pytest.raises(ValueError, match="leave out num_samples, rng_key, batch_size.$"):
            compare(pair, num_samples=100, rng_key=0, batch_size=10)

    def test_no_model_for_methods(self):
        with pytest.raises(ValueError, match="so it needs model, latent, data as well"):
            compare(METHODS)
        with pytest.raises(ValueError, match="so it needs data as well"):
            compare(METHODS, TASK.model, "z")

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"key": {"data": [0, 2]}}, "rng_key: {} and {'data'"),
            ({"lower_i": terms(count=50), "upper_i": terms(count=50)}, "num_samples: 200 and 50"),
            ({"environment": {"x64": "True"}}, "x64: None and True"),
            ({"latent": ("w",)}, "groups: "),
        ],
    )
    def test_results_that_are_not_paired(self, change, text):
        results = {"a": around(0.1), "b": around(0.2), "c": dataclasses.replace(around(0.3), **change)}
        with pytest.raises(ValueError, match=f"paired by common joint draws.*'a' and 'c' have {text}"):
            compare(results)

    def test_groups_may_be_swapped(self):
        swapped = dataclasses.replace(around(0.2), latent=("x",), data=("z",))
        assert compare({"a": around(0.1), "b": swapped}).num_samples == 200

    def test_an_error_names_its_method(self, monkeypatch):
        def failing(*args, method, **kwargs):
            if isinstance(method, AIS):
                raise ValueError("no")
            return around(0.1)

        monkeypatch.setattr(verbs.compare, "mi_bounds", failing)
        with pytest.raises(ValueError, match="no") as caught:
            compare(METHODS, TASK.model, "z", "x")
        assert caught.value.__notes__ == ["This was raised by the method 'AIS' of compare."]


class TestPlot:
    def drawn(self, found, **kwargs):
        collection = plot_bounds(found, backend="matplotlib", **kwargs)
        figure, axes = collection.viz["figure"].item(), collection.viz["plot"].item()
        figure.canvas.draw()
        return axes, [text.get_text() for text in figure.legends[0].get_texts()]

    def test_draws_the_numbers(self, small):
        axes, legend = self.drawn(small, prob=0.9, true_value=TASK.mutual_information)
        assert [label.get_text() for label in axes.get_yticklabels()] == list(METHODS)
        lower, upper = (np.asarray(points.get_offsets())[:, 0] for points in axes.collections)
        np.testing.assert_allclose(lower, [result.lower for result in small.results.values()])
        np.testing.assert_allclose(upper, [result.upper for result in small.results.values()])
        ends = [end for result in small.results.values() for end in result.interval(small.level(0.9))]
        lines = [np.asarray(line.get_xdata(), float) for line in axes.lines]
        assert any(len(line) == 9 and np.allclose(line[~np.isnan(line)], ends) for line in lines)
        (shade,) = axes.patches
        np.testing.assert_allclose(
            shade.get_extents().transformed(axes.transData.inverted()).intervalx, small.interval(0.9)
        )
        assert legend[2:] == ["96.67% interval of each method", "90% interval that all support", "true value 0.4133"]

    def test_an_empty_interval_is_not_shaded_but_said(self):
        axes, legend = self.drawn(compare({"a": around(0.1), "b": around(0.1, shift=2.0)}))
        assert not axes.patches and "95% interval that all support: empty" in legend

    def test_an_open_interval_reaches_the_edge(self):
        axes, _ = self.drawn(compare({"a": made(terms(), None), "b": made(terms(0.9), None)}))
        extent = axes.patches[0].get_extents().transformed(axes.transData.inverted()).intervalx
        assert extent[1] == pytest.approx(axes.get_xlim()[1])

    def test_can_be_left_out(self, small):
        axes, _ = self.drawn(small, visuals={"common_interval": False})
        assert not axes.patches
        plot_bounds(small, backend="none")

    def test_a_plain_dict_has_no_shade(self, small):
        axes, legend = self.drawn(small.results)
        assert not axes.patches and legend[2:] == ["95% interval"]


def test_is_frozen_and_keeps_its_own_dict():
    given = {"a": around(0.1), "b": around(0.2)}
    found = Comparison(given)
    given["c"] = around(0.3)
    assert list(found.results) == ["a", "b"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.results = {}
