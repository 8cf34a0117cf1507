"""Bounds of one or several results as a forest."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numpyro_mi.plots.canvas import (
    WIDTH,
    Canvas,
    Visuals,
    infinities,
    make_canvas,
    points,
    scalar,
    segments,
    set_limits,
    set_yticks,
)
from numpyro_mi.results.comparison import Comparison
from numpyro_mi.results.mutual_information import MIBounds, MIDifference
from numpyro_mi.results.numbers import Bounds
from numpyro_mi.results.table import InformationTable
from numpyro_mi.results.text.report import quantity

if TYPE_CHECKING:
    from arviz_plots import PlotCollection

# Inches, which are the units of the y axis: half the distance of two bounds, a row, a line of text.
_DODGE, _ROW, _LINE = 0.07, 0.42, 0.17
_SHADE = 0.2
_UNKNOWN = "0% to 100%"  # a share that says nothing
_VISUALS = (
    "common_interval",
    "true_value",
    "interval",
    "open",
    "infinity",
    "lower_error",
    "lower",
    "upper_error",
    "upper",
    "axis",
    "labels",
    "ticks",
    "xlabel",
    "limits",
    "legend",
)


def plot_bounds(
    results: MIBounds
    | MIDifference
    | Mapping[str, MIBounds]
    | Mapping[str, MIDifference]
    | Comparison
    | InformationTable,
    *,
    true_value: float | None = None,
    prob: float = 0.95,
    plot_collection: PlotCollection | None = None,
    backend: str | None = None,
    visuals: Visuals | None = None,
    **pc_kwargs: Any,
) -> PlotCollection:
    """Bounds and confidence intervals of one or several results, as a forest.

    A row a result: the confidence interval for the mutual information as a thin line, and each
    bound as a triangle that points to where the mutual information is, with a bar of one standard
    error to each side. The interval is dotted where a side is infinite or missing, and the label
    says why.

    Of a comparison, the interval of each method is at such a level that all hold together with
    probability `prob`, and `Comparison.interval`, which is what they share, is shaded. Of an information
    table too, whose labels say what share of the joint information a row is.

    Parameters
    ----------
    results
        One result, or several by label: all of them bounds on a mutual information, or all on a
        difference of two. Or a comparison of methods, or an information table.
    true_value
        Mutual information (or difference) in nats, where known: a vertical line.
    prob
        Coverage of the interval; of a comparison or a table, of all intervals together.
    plot_collection
        Draw into this one, which has a single plot; None makes one.
    backend
        Of `arviz_plots`, such as "matplotlib" or "none"; None is its default.
    visuals
        For a visual, more arguments, or False to leave it out: "common_interval", "true_value",
        "interval", "open", "infinity", "lower_error", "lower", "upper_error", "upper", "axis",
        "labels", "ticks", "xlabel", "limits", "legend".
    **pc_kwargs
        Passed to `PlotCollection.wrap`.

    Returns
    -------
    PlotCollection
    """
    shown = _shown(results, prob)
    named, common = shown.results, shown.common
    rows = [_row(label, result, shown.level, shown.remarks.get(label, "")) for label, result in named.items()]
    quantity = _quantity(named)
    figsize = (WIDTH, 1.1 + sum(row.height for row in rows))
    canvas = make_canvas(scalar(0.0), plot_collection, backend, figsize, visuals, _VISUALS, pc_kwargs)
    _draw_rows(canvas, rows, true_value, quantity, common)
    legend = {
        "lower bound ± 1 standard error": {"color": "C0", "marker": canvas.right, "width": 2.5},
        "upper bound ± 1 standard error": {"color": "C1", "marker": canvas.left, "width": 2.5},
        f"{100 * shown.level:.4g}% interval{shown.scope}": {"color": "B2", "width": 1},
    }
    if common is not None:
        note = f"{100 * prob:.4g}% interval that all support" + ("" if common[0] <= common[1] else ": empty")
        legend[note] = {"color": "C2", "width": 8, "alpha": _SHADE}
    if true_value is not None:
        legend[f"true value {true_value:.4g}"] = {"color": "B1", "width": 1.2, "linestyle": "C1"}
    canvas.legend(legend)
    return canvas.collection


class _Shown(NamedTuple):
    """What is drawn: results by label, level and scope of their intervals, what they share, a remark on each."""

    results: Mapping[str, Any]
    level: float
    scope: str = ""
    common: tuple[float, float] | None = None
    remarks: Mapping[str, str] = {}


def _shown(results: Any, prob: float) -> _Shown:
    if isinstance(results, Comparison):
        return _Shown(results.results, results.level(prob), " of each method", results.interval(prob))
    if isinstance(results, InformationTable):
        shares = {name: results.share_text(name) for name in results.rows}
        remarks = {name: f"({share} of the joint)" for name, share in shares.items() if share not in ("", _UNKNOWN)}
        scope = f" of each row ({100 * prob:.4g}% for all)"
        return _Shown(results.results, results.level(prob), scope, remarks=remarks)
    named = {_name(results): results} if isinstance(results, Bounds) else dict(results)
    if not named:
        raise ValueError("plot_bounds needs a result, got an empty mapping.")
    return _Shown(named, prob)


class _Row(NamedTuple):
    """One result as numbers: ends of its interval, its bounds, their errors; NaN where missing."""

    label: str
    interval: tuple[float, float]
    bounds: np.ndarray
    errors: np.ndarray

    @property
    def height(self) -> float:
        """Of the row, inches."""
        return _ROW + _LINE * self.label.count("\n")

    def finite(self) -> np.ndarray:
        """All finite numbers that are drawn."""
        errors = np.where(np.isfinite(self.errors), self.errors, 0.0)
        values = np.concatenate([self.interval, self.bounds - errors, self.bounds + errors])
        return values[np.isfinite(values)]


def _name(result: Bounds) -> str:
    if isinstance(result, MIBounds):
        return quantity(result)
    return "difference"


def _quantity(named: Mapping[str, Bounds]) -> str:
    kinds = {isinstance(result, MIDifference) for result in named.values()}
    if len(kinds) > 1:
        raise TypeError(
            "plot_bounds needs results that are all MIBounds or all MIDifference: one axis has one meaning."
        )
    return "difference in mutual information" if kinds.pop() else "mutual information"


def _row(label: str, result: Bounds, prob: float, remark: str) -> _Row:
    if not isinstance(result, Bounds):
        raise TypeError(f"plot_bounds needs MIBounds or MIDifference, got {type(result).__name__} for {label!r}.")
    pairs = {"lower": (result.lower, result.lower_se), "upper": (result.upper, result.upper_se)}
    lines = [fill(str(label), 30), *([remark] if remark else [])]
    for side, (value, error) in pairs.items():
        count = result.num_non_finite.get(side, 0)
        if value is None:
            lines.append(f"(no {side} bound)")
        elif count:
            lines.append(f"({side} bound infinite:\n{count} of {result.num_samples} draws)")
        elif error is not None and not np.isfinite(error):
            lines.append(f"({side} bound: one draw only)")
    bounds, errors = np.array(list(pairs.values()), np.float64).T
    return _Row("\n".join(lines), result.interval(prob), bounds, errors)


def _draw_rows(
    canvas: Canvas,
    rows: list[_Row],
    true_value: float | None,
    quantity: str,
    common: tuple[float, float] | None,
) -> None:
    """All rows, the first on top, before the interval that they share."""
    from arviz_plots import visuals

    finite = np.concatenate([row.finite() for row in rows] + ([] if true_value is None else [[true_value]]))
    edges = _edges(finite if finite.size else np.array([0.0, 1.0]), np.array([row.interval for row in rows]))
    sizes = np.array([row.height for row in rows])
    heights = 0.5 * sizes - np.cumsum(sizes)
    closed, opened, marks = [], [], []
    for row, height in zip(rows, heights, strict=True):
        inner = row.finite() if row.finite().size else np.array([np.mean(edges)])
        ends = np.where(np.isfinite(row.interval), row.interval, (inner.min(), inner.max()))
        closed.append((*ends, height))
        for side in (0, 1):
            if not np.isfinite(row.interval[side]):
                opened.append((edges[side], ends[side], height))
            if np.isinf(row.bounds[side]):
                marks.append((edges[side], height + (2 * side - 1) * _DODGE, side))
    if common is not None and common[0] <= common[1]:
        shade = _ends_of(np.clip(common, *edges))
        canvas.draw("common_interval", visuals.vspan, shade, color="C2", alpha=_SHADE)
    if true_value is not None:
        canvas.draw("true_value", visuals.vline, scalar(true_value), color="B1", width=1.2, linestyle="C1")
    canvas.draw("interval", segments, scalar(0.0), lines=closed, color="B2", width=1)
    canvas.draw("open", segments, scalar(0.0), lines=opened, color="B2", width=1, linestyle="C2")
    canvas.draw("infinity", infinities, scalar(0.0), marks=marks)
    for side, (name, marker) in enumerate((("lower", canvas.right), ("upper", canvas.left))):
        both = np.array([(row.bounds[side], row.errors[side]) for row in rows]).T
        x, error = np.where(np.isfinite(both), both, np.nan)
        y = heights + (2 * side - 1) * _DODGE
        bars = list(zip(x - error, x + error, y, strict=True))
        canvas.draw(f"{name}_error", segments, scalar(0.0), lines=bars, color=f"C{side}", width=2.5)
        canvas.draw(name, points, scalar(0.0), x=x, y=y, color=f"C{side}", marker=marker, size=45)
    canvas.draw("axis", visuals.remove_axis, scalar(0.0), axis="y")
    canvas.draw("labels", set_yticks, scalar(0.0), values=heights, labels=[row.label for row in rows])
    canvas.draw("ticks", visuals.ticklabel_props, scalar(0.0), size="medium")
    canvas.draw("xlabel", visuals.labelled_x, scalar(0.0), text=f"{quantity} (nats)", size="medium")
    canvas.draw("limits", set_limits, scalar(0.0), x=tuple(edges), y=(-sizes.sum(), 0.0))


def _ends_of(values: np.ndarray) -> Any:
    """Data with one dimension, which is no facet."""
    import xarray as xr

    return xr.Dataset({"value": ("end", values)})


def _edges(finite: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Limits of the axis, with room for open ends."""
    low, high = finite.min(), finite.max()
    room = 0.04 * (high - low) if high > low else 0.5
    return np.array(
        [low - room * (1 + 4 * np.isneginf(intervals).any()), high + room * (1 + 4 * np.isposinf(intervals).any())]
    )
