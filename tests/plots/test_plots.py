"""Plots: they draw what the result holds, whatever it holds, on every backend that the package supports."""

import dataclasses
import re
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from arviz_plots import PlotCollection
from matplotlib import pyplot as plt
from scipy.special import logsumexp

from numpyro_mi import AIS, CR, mi_bounds, tasks
from numpyro_mi.plots import plot_bounds, plot_information_gain, plot_log_weights
from numpyro_mi.results.gain import InformationGain
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.results.table import InformationTable

pytestmark = pytest.mark.compile_fast

BACKENDS = pytest.mark.parametrize("backend", ["none", "matplotlib"])
DRAWS, PARTICLES = 60, 4


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def made(scheme="IM", lost=0, gap=1.0, seed=0, latent=("z",), sign=-1):
    """A result by hand whose terms and log-weights agree; the first `lost` draws have no forward weight."""
    rng = np.random.default_rng(seed)
    evidence = rng.normal(-20.0, 4.0, (DRAWS, 1))
    forward = evidence + rng.normal(-gap, 1.0, (DRAWS, PARTICLES))
    forward[:lost] = -np.inf
    reverse = evidence + rng.normal(gap, 1.0, (DRAWS, 1 if scheme == "IM" else PARTICLES))
    lower, upper = evidence_bounds(forward, reverse, scheme)
    exact = evidence[:, 0] + rng.normal(2.0, 1.0, DRAWS)
    stats = {
        "forward_log_weight": forward.astype(np.float32),
        "reverse_log_weight": reverse.astype(np.float32),
        "forward_log_evidence": lower,
        "reverse_log_evidence": upper,
    }
    return MIBounds(
        exact - upper,
        exact - lower,
        latent,
        ("x",),
        {"class": "AIS", "scheme": {"class": scheme}},
        stats=(stats,),
        plan=({},),
        decomposition=(
            {"kind": "exact", "sign": 1, "integrated": [], "factors": {"x": list(latent)}},
            {
                "kind": "integral",
                "sign": sign,
                "integrated": list(latent),
                "factors": {latent[0]: [], "x": list(latent)},
            },
        ),
    )


def evidence_bounds(forward, reverse, scheme):
    def log_mean(values):
        return logsumexp(values, axis=1) - np.log(values.shape[1])

    if scheme == "IM":
        return log_mean(forward), log_mean(np.hstack([reverse, forward[:, 1:]]))
    return -log_mean(-forward), -log_mean(-reverse)


def bare(lower_i, upper_i):
    return MIBounds(lower_i, upper_i, ("z",), ("x",), {})


ODD = {
    "no upper": bare(np.arange(5.0), None),
    "no lower": bare(None, np.arange(5.0)),
    "no side": bare(None, None),
    "infinite": bare(np.full(5, -np.inf), np.full(5, np.inf)),
    "undefined": bare(np.array([1.0, np.nan]), np.array([1.0, 2.0])),
    "one draw": bare(np.array([1.0]), np.array([2.0])),
    "exact": bare(np.ones(5), np.ones(5)),
    "crossing": bare(np.arange(5.0) + 3, np.arange(5.0)),
}


def axes_of(collection):
    return collection.viz["plot"].item()


def texts(collection):
    """All text of a figure."""
    figure = collection.viz["figure"].item()
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def legend_texts(collection):
    return [text.get_text() for text in collection.viz["figure"].item().legends[0].get_texts()]


def overlaps(collection):
    """Pairs of texts that run into each other, and texts that leave the figure."""
    figure = collection.viz["figure"].item()
    figure.canvas.draw()
    boxes = [
        (text, text.get_window_extent())
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_text().strip() and text.get_visible()
    ]
    axes = [axis for plot in figure.axes for axis in (plot.xaxis, plot.yaxis)]
    unseen = {
        tick.label1
        for axis in axes
        for tick in axis.get_major_ticks()
        if not axis.get_view_interval()[0] <= tick.get_loc() <= axis.get_view_interval()[1]
    }
    boxes = [(text.get_text(), box) for text, box in boxes if text not in unseen]
    limits = figure.bbox
    outside = [
        name
        for name, box in boxes
        if box.x0 < limits.x0 - 1 or box.x1 > limits.x1 + 1 or box.y0 < -1 or box.y1 > limits.y1 + 1
    ]
    pairs = [
        (a, b)
        for i, (a, box) in enumerate(boxes)
        for b, other in boxes[:i]
        if box.shrunk(0.98, 0.9).overlaps(other.shrunk(0.98, 0.9))
    ]
    return outside + pairs


class TestBounds:
    @BACKENDS
    def test_one_result(self, backend):
        collection = plot_bounds(made(latent=("a", "b")), backend=backend)
        assert isinstance(collection, PlotCollection) and collection.backend == backend
        if backend == "matplotlib":
            assert "I(a, b; x)" in texts(collection) and "mutual information (nats)" in texts(collection)

    @BACKENDS
    @pytest.mark.parametrize("name", ODD)
    def test_odd_results(self, name, backend):
        alone = plot_bounds(ODD[name], backend=backend)
        both = plot_bounds({name: ODD[name], "usual": made()}, backend=backend, true_value=1.0)
        assert alone.backend == both.backend == backend
        if backend == "matplotlib":
            labels = [[label.get_text() for label in axes_of(drawn).get_yticklabels()] for drawn in (alone, both)]
            assert [len(found) for found in labels] == [1, 2] and labels[1][0].startswith(name)
            low, high = axes_of(both).get_xlim()
            assert -np.inf < low < min(1.0, made().lower) and max(1.0, made().upper) < high < np.inf
            drawn = np.concatenate([points.get_offsets()[:, 0] for points in axes_of(both).collections])
            usual, odd = made(), ODD[name]
            sides = [side for side in (odd.lower, odd.upper) if side is not None and np.isfinite(side)]
            np.testing.assert_allclose(np.sort(drawn[np.isfinite(drawn)]), np.sort([usual.lower, usual.upper, *sides]))

    def test_draws_the_numbers(self):
        results = {"first": made(), "second": made(gap=2.0, seed=1)}
        axes = axes_of(plot_bounds(results, backend="matplotlib", prob=0.9, true_value=2.0))
        lower, upper = (np.asarray(points.get_offsets()) for points in axes.collections)
        np.testing.assert_allclose(lower[:, 0], [result.lower for result in results.values()])
        np.testing.assert_allclose(upper[:, 0], [result.upper for result in results.values()])
        assert (upper[:, 1] > lower[:, 1]).all() and lower[0, 1] > upper[1, 1]  # the first is on top
        lines = [np.asarray(line.get_xdata(), float) for line in axes.lines]
        ends = [end for result in results.values() for end in result.interval(0.9)]
        assert any(len(line) == 6 and np.allclose(line[~np.isnan(line)], ends) for line in lines)
        errors = [
            end
            for result in results.values()
            for end in (result.upper - result.upper_se, result.upper + result.upper_se)
        ]
        assert any(len(line) == 6 and np.allclose(line[~np.isnan(line)], errors) for line in lines)
        assert any(np.allclose(line, 2.0) for line in lines)
        low, high = axes.get_xlim()
        assert low < min(*ends, 2.0) and max(*ends, 2.0) < high

    def test_legend(self):
        assert legend_texts(plot_bounds(made(), backend="matplotlib", prob=0.9)) == [
            "lower bound ± 1 standard error",
            "upper bound ± 1 standard error",
            "90% interval",
        ]
        assert "true value 1.234" in legend_texts(plot_bounds(made(), backend="matplotlib", true_value=1.23412))

    def test_an_infinite_side_is_open_and_said(self):
        result = made(lost=7)
        assert result.upper == np.inf
        collection = plot_bounds({"hard": result}, backend="matplotlib")
        assert f"hard\n(upper bound infinite:\n7 of {DRAWS} draws)" in texts(collection)
        assert "∞ →" in texts(collection)
        axes = axes_of(collection)
        dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert np.nanmax(dotted[0].get_xdata()) == pytest.approx(axes.get_xlim()[1])

    def test_a_missing_side_is_said(self):
        assert "none\n(no upper bound)" in texts(plot_bounds({"none": ODD["no upper"]}, backend="matplotlib"))

    @pytest.mark.parametrize("sheet", ["default", "arviz-variat"])
    def test_no_text_overlaps(self, sheet):
        labels = ["short", "annealed importance sampling with 20 temperatures, coupled reverse", "x" * 50]
        results = {label: made(seed=i, lost=i) for i, label in enumerate(labels)} | ODD
        with plt.rc_context():
            plt.style.use(sheet)
            assert overlaps(plot_bounds(results, backend="matplotlib", true_value=2.0)) == []
            assert overlaps(plot_bounds(made(), backend="matplotlib")) == []

    def test_options(self):
        visuals = {"legend": False, "lower": {"color": "red"}, "upper": True}
        collection = plot_bounds(made(), backend="matplotlib", visuals=visuals, figure_kwargs={"figsize": (4, 3)})
        figure = collection.viz["figure"].item()
        assert figure.legends == [] and tuple(figure.get_size_inches()) == (4, 3)
        assert matplotlib.colors.same_color(axes_of(collection).collections[0].get_facecolor(), "red")

    @BACKENDS
    def test_differences(self, backend):
        difference = made() - made(gap=2.0, seed=1)
        collection = plot_bounds(difference, backend=backend, true_value=0.0)
        if backend == "matplotlib":
            assert {"difference", "difference in mutual information (nats)"} <= set(texts(collection))
        plot_bounds({"a": difference, "b": difference}, backend=backend)
        with pytest.raises(TypeError, match="all MIBounds or all MIDifference"):
            plot_bounds({"a": difference, "b": made()}, backend=backend)

    @BACKENDS
    def test_a_table(self, backend):
        """Sorted rows, the joint one last, at the level at which all hold together; shares where they say something."""
        rows = {"none": ODD["exact"], "one nat": made(), "open": made(lost=3, seed=2)}
        table = InformationTable(rows, made(gap=0.5, seed=1), {}, {})
        collection = plot_bounds(table, prob=0.9, backend=backend)
        assert collection.backend == backend
        if backend == "matplotlib":
            labels = [label.get_text().splitlines()[0] for label in axes_of(collection).get_yticklabels()]
            assert labels == [*table.rows, "all latents"]
            entry = legend_texts(collection)[-1]
            assert entry == "97.5% interval of each row (90% for all)"
            lines = [np.asarray(line.get_xdata(), float) for line in axes_of(collection).lines]
            ends = [end for result in table.results.values() for end in result.interval(0.975) if np.isfinite(end)]
            assert any(set(np.round(ends, 6)) <= set(np.round(line[np.isfinite(line)], 6)) for line in lines)
            assert f"one nat\n({table.share_text('one nat')} of the joint)" in texts(collection)
            assert overlaps(collection) == []

    @BACKENDS
    def test_draws_into_a_given_collection(self, backend):
        import xarray as xr

        given = PlotCollection.wrap(xr.Dataset({"anything": 1.0}), backend=backend)
        assert plot_bounds(made(), plot_collection=given) is given
        assert plot_log_weights(made(), plot_collection=given) is given

    def test_refusals(self):
        with pytest.raises(ValueError, match="needs a result"):
            plot_bounds({}, backend="none")
        with pytest.raises(TypeError, match="needs MIBounds or MIDifference, got float for 'a'"):
            plot_bounds({"a": 1.0}, backend="none")
        with pytest.raises(ValueError, match="unknown visuals .'lwoer'.*'lower'"):
            plot_bounds(made(), backend="none", visuals={"lwoer": False})
        with pytest.raises(TypeError):
            plot_bounds(made(), 1.0)


def beyond(entry):
    """How many weights a legend entry says are beyond the axis."""
    found = re.search(r"(\d+) of \d+ are beyond the axis", entry)
    return int(found.group(1)) if found else 0


class TestLogWeights:
    @BACKENDS
    @pytest.mark.parametrize("pooled", [True, False])
    @pytest.mark.parametrize("scheme", ["IM", "CR", "IR"])
    @pytest.mark.parametrize("lost", [0, 7, DRAWS])
    def test_runs(self, scheme, lost, pooled, backend):
        collection = plot_log_weights(made(scheme, lost), pooled=pooled, backend=backend)
        assert collection.backend == backend
        assert collection.viz["plot"].size == (1 if pooled else 6)

    def test_area_is_the_share_of_finite_weights(self):
        """The two ends beyond the axis, half a percent each, are left out."""
        result = made(lost=15)
        collection = plot_log_weights(result, backend="matplotlib")
        outlines = [line for line in axes_of(collection).lines if len(line.get_xdata()) > 2]
        areas = [np.sum(np.diff(line.get_xdata()) * line.get_ydata()[:-1]) for line in outlines]
        reverse, forward = legend_texts(collection)
        np.testing.assert_allclose(areas, [1.0 - beyond(reverse) / DRAWS, 0.75 - beyond(forward) / (DRAWS * PARTICLES)])
        assert 0 <= beyond(forward) <= 4 and 0 <= beyond(reverse) <= 2
        assert forward.startswith(f"forward: {15 * PARTICLES} of {DRAWS * PARTICLES} are zero")

    def test_a_weight_far_out_does_not_stretch_the_axis(self):
        result = made()
        weights = result.stats[0]["forward_log_weight"].copy()
        weights[3, 1] = -1e4
        changed = dataclasses.replace(result, stats=({**result.stats[0], "forward_log_weight": weights},))
        collection = plot_log_weights(changed, backend="matplotlib")
        low, high = axes_of(collection).get_xlim()
        assert -30 < low < high < 30
        assert beyond(legend_texts(collection)[1]) >= 1

    def test_pooled_weights_are_centred(self):
        wide = plot_log_weights(made(gap=3.0), backend="matplotlib")
        reverse, forward = (line for line in axes_of(wide).lines if len(line.get_xdata()) > 2)
        modes = [line.get_xdata()[np.argmax(line.get_ydata())] for line in (reverse, forward)]
        assert modes[1] < 0 < modes[0] < 5 and axes_of(wide).get_xlim()[0] > -15  # not the spread of 4 of the evidence

    def test_widest_gaps_by_default(self):
        result = made()
        collection = plot_log_weights(result, pooled=False, backend="none")
        widest = np.argsort(result.lower_i - result.upper_i)[:6]
        assert collection.viz["draw"].values.tolist() == widest.tolist()

    @pytest.mark.parametrize("scheme", ["IM", "CR"])
    def test_panels_show_weights_and_bounds(self, scheme):
        result = made(scheme, lost=1)
        collection = plot_log_weights(result, pooled=False, draws=[8, 0], backend="matplotlib")
        full, empty = collection.viz["plot"].values
        forward, reverse = (np.asarray(points.get_offsets())[:, 0] for points in full.collections)
        np.testing.assert_allclose(forward, result.stats[0]["forward_log_weight"][8])
        np.testing.assert_allclose(reverse, result.stats[0]["reverse_log_weight"][8])
        lower, upper = (line.get_xdata()[0] for line in full.lines)
        assert upper - lower == pytest.approx((result.upper_i - result.lower_i)[8], abs=1e-5)
        assert full.get_title() == f"draw 8: gap {upper - lower:.3g} nats"
        assert empty.get_title() == "draw 0: gap infinite\nforward: 4 of 4 are zero"

    @pytest.mark.parametrize(("sign", "given"), [(-1, ["upper", "lower"]), (1, ["lower", "upper"])])
    def test_legend_says_which_bound_each_evidence_bound_gives(self, sign, given):
        entries = legend_texts(plot_log_weights(made(sign=sign), pooled=False, backend="matplotlib"))
        assert entries[2:] == [
            f"lower evidence bound (for the {given[0]} bound on I)",
            f"upper evidence bound (for the {given[1]} bound on I)",
        ]

    def test_evidence_bounds_are_read_and_not_made_again(self):
        """A scheme of the user's combines the weights in its own way."""
        result = made(scheme="mine.Scheme")
        stats = {**result.stats[0], "forward_log_evidence": np.full(DRAWS, -50.0)}
        collection = plot_log_weights(
            dataclasses.replace(result, stats=(stats,)), pooled=False, draws=[0], backend="matplotlib"
        )
        assert axes_of(collection).lines[0].get_xdata()[0] == -50.0

    @pytest.mark.parametrize("sheet", ["default", "arviz-variat"])
    def test_no_text_overlaps(self, sheet):
        with plt.rc_context():
            plt.style.use(sheet)
            for options in ({}, {"pooled": False}, {"pooled": False, "draws": [1]}, {"pooled": False, "draws": [0, 1]}):
                assert overlaps(plot_log_weights(made(lost=9), backend="matplotlib", **options)) == []

    def test_weights_all_alike(self):
        result = made()
        alike = {name: np.full_like(value, -3.0) for name, value in result.stats[0].items()}
        result = dataclasses.replace(result, stats=(alike,))
        pooled = axes_of(plot_log_weights(result, backend="matplotlib"))
        panels = plot_log_weights(result, pooled=False, backend="matplotlib").viz["plot"].values
        low, high = pooled.get_xlim()
        assert -np.inf < low < 0 < high < np.inf and high - low < 10  # centred
        for axes in panels:
            offsets = np.concatenate([points.get_offsets() for points in axes.collections])
            assert len(offsets) == PARTICLES + 1 and (offsets[:, 0] == -3).all()
            assert axes.get_xlim()[0] < -3 < axes.get_xlim()[1]

    def test_refusals(self):
        with pytest.raises(ValueError, match="integral=1, but this result has 1 annealed"):
            plot_log_weights(made(), integral=1, backend="none")
        with pytest.raises(ValueError, match="has 0 annealed"):
            plot_log_weights(ODD["exact"], backend="none")
        for draws in ([DRAWS], [-1], [], [1, 1], [0.5], 3):
            with pytest.raises(ValueError, match="different indices from 0 to"):
                plot_log_weights(made(), draws=draws, pooled=False, backend="none")
        with pytest.raises(ValueError, match="unknown visuals .'title'"):
            plot_log_weights(made(), backend="none", visuals={"title": False})


class TestInformationGain:
    RESULTS = tuple(made(seed=i, gap=0.2 + 0.1 * i) for i in range(4))

    def gain(self, designs, results=RESULTS, count=None):
        return InformationGain(designs, results, len(results) if count is None else count)

    @BACKENDS
    @pytest.mark.parametrize("passed", [{"dose": [0.5, 2.0, 1.0, 4.0]}, {"design": np.ones((4, 3))}])
    def test_draws_the_numbers(self, passed, backend):
        gain = self.gain(passed)
        collection = plot_information_gain(gain, backend=backend, prob=0.9)
        assert isinstance(collection, PlotCollection) and collection.backend == backend
        if backend == "none":
            return
        axes, frame = axes_of(collection), gain.to_frame(0.9)
        x = passed.get("dose", np.arange(4.0))
        lower, upper = (np.asarray(found.get_offsets()) for found in axes.collections[1:])
        np.testing.assert_allclose(lower, np.stack([x, frame["lower"]], 1))
        np.testing.assert_allclose(upper, np.stack([x, frame["upper"]], 1))
        heights = np.concatenate([path.vertices[:, 1] for path in axes.collections[0].get_paths()])
        assert set(np.round(heights, 6)) == set(np.round(frame[["low", "high"]].to_numpy().ravel(), 6))
        (best,) = axes.lines
        assert best.get_xdata()[0] == x[gain.best()[0]]
        low, high = axes.get_ylim()
        assert low < frame["low"].min() and high > frame["high"].max()
        assert axes.get_ylabel() == "expected information gain (nats)" and axes.get_xlabel() == next(iter(passed))

    def test_legend(self):
        index, separated = self.gain({"dose": [0.5, 2.0, 1.0, 4.0]}).best()
        entries = legend_texts(plot_information_gain(self.gain({"dose": [0.5, 2.0, 1.0, 4.0]}), backend="matplotlib"))
        assert not separated and f"best: dose = {[0.5, 2, 1, 4][index]:g}, not separated" in entries
        assert "95% interval, all designs together" in entries
        clear = (bare(np.arange(5.0), np.arange(5.0) + 0.1), bare(np.arange(5.0) + 9, np.arange(5.0) + 9.1))
        drawn = plot_information_gain(self.gain((np.ones((2, 3)),), clear), backend="matplotlib")
        assert "best: design 1, separated" in legend_texts(drawn)

    @BACKENDS
    @pytest.mark.parametrize("name", [name for name in ODD if not name.startswith("no ")])
    def test_odd_results(self, name, backend):
        usual = bare(np.arange(5.0), np.arange(5.0) + 1)
        for passed in ({"dose": [1.0, 2.0]}, {"design": np.ones((2, 3))}):
            plot_information_gain(self.gain(passed, (ODD[name], ODD[name])), backend=backend)
            collection = plot_information_gain(self.gain(passed, (ODD[name], usual)), backend=backend)
            if backend == "matplotlib":
                axes = axes_of(collection)
                low, high = axes.get_ylim()
                assert -np.inf < low < usual.lower and usual.upper < high < np.inf
                interval = np.array(ODD[name].interval(1 - 0.05 / 2))
                assert ("↑\n∞" in texts(collection)) == (interval[1] == np.inf)
                assert ("−∞\n↓" in texts(collection)) == (interval[0] == -np.inf)

    def test_designs_without_a_result_are_left_out(self):
        collection = plot_information_gain(self.gain({"dose": np.arange(7.0)}, count=7), backend="matplotlib")
        assert len(axes_of(collection).collections[1].get_offsets()) == 4

    def test_what_is_a_number(self):
        two = self.RESULTS[:2]
        for passed in ({"a": [1, 2]}, {"a": np.ones(2)}, {"a": (1.0, 2.0)}):
            assert self.gain(passed, two).axis()[0] == "a" and len(self.gain(passed, two).axis()[1]) == 2
        for passed in ({"a": [1, 2], "b": [3, 4]}, {"a": ["x", "y"]}, {"a": [[1], [1, 2]]}, (np.ones((2, 2)),)):
            assert self.gain(passed, two).axis() == ("design", None)
        assert self.gain((np.ones(2),), two).axis()[0] == "design"

    @pytest.mark.parametrize("sheet", ["default", "arviz-variat"])
    def test_no_text_overlaps(self, sheet):
        results = (*self.RESULTS, ODD["infinite"], *self.RESULTS)
        with plt.rc_context():
            plt.style.use(sheet)
            for passed in ({"dose": np.arange(9.0)}, {"design": np.ones((9, 2))}):
                assert overlaps(plot_information_gain(self.gain(passed, results), backend="matplotlib")) == []

    def test_refusals(self):
        with pytest.raises(TypeError, match="needs the result of expected_information_gain, got MIBounds"):
            plot_information_gain(made(), backend="none")
        with pytest.raises(ValueError, match="unknown visuals .'bnad'"):
            plot_information_gain(self.gain((np.ones(4),)), backend="none", visuals={"bnad": False})


@pytest.mark.parametrize("method", [AIS(4, 3), AIS(4, 3, scheme=CR())], ids=["IM", "CR"])
def test_evidence_bounds_are_those_of_a_run(method):
    task = tasks.correlated_normal()
    result = mi_bounds(task.model, task.latent, task.data, method=method, num_samples=12, progress_bar=False)
    collection = plot_log_weights(result, pooled=False, draws=range(12), backend="matplotlib")
    gaps = [np.subtract(*(line.get_xdata()[0] for line in axes.lines[::-1])) for axes in collection.viz["plot"].values]
    np.testing.assert_allclose(gaps, result.upper_i - result.lower_i, atol=1e-5)


def test_the_package_does_not_import_the_plotting_libraries():
    code = "import sys, numpyro_mi.plots; print({'matplotlib', 'arviz_plots', 'xarray', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
