"""Bounds on the expected information gain of each design."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numpyro_mi.plots.canvas import WIDTH, Canvas, Visuals, beyond, make_canvas, points, scalar, set_limits, set_xticks
from numpyro_mi.results.gain import InformationGain

if TYPE_CHECKING:
    from arviz_plots import PlotCollection

_HEIGHT = 4.0  # inches
_SHADE = 0.2
_MOST_TICKS = 12
_VISUALS = (
    "best",
    "band",
    "interval",
    "infinity",
    "lower",
    "upper",
    "ticks",
    "ticklabels",
    "xlabel",
    "ylabel",
    "limits",
    "legend",
)


def plot_information_gain(
    gain: InformationGain,
    *,
    prob: float = 0.95,
    plot_collection: PlotCollection | None = None,
    backend: str | None = None,
    visuals: Visuals | None = None,
    **pc_kwargs: Any,
) -> PlotCollection:
    """Bounds on the expected information gain against the design.

    A lower bound is a triangle that points up, with its tip at the bound, and an upper one a triangle
    that points down; what lies between the tips is where the gain is, but for sampling errors. The
    intervals, which hold for all designs together with probability `prob`, are shaded: as one band where
    a design is a single number, which is then the horizontal axis, and as a bar a design where it is not.
    An interval without an end runs to the edge of the plot, and says so. A dashed line marks the design
    with the highest bounds, unless there are lower bounds alone, which do not say which design is best.

    Parameters
    ----------
    gain
        The result of `expected_information_gain`.
    prob
        Coverage of all intervals together.
    plot_collection
        Draw into this one, which has a single plot; None makes one.
    backend
        Of `arviz_plots`, such as "matplotlib" or "none"; None is its default.
    visuals
        For a visual, more arguments, or False to leave it out: "best", "band", "interval", "infinity",
        "lower", "upper", "ticks", "ticklabels", "xlabel", "ylabel", "limits", "legend".
    **pc_kwargs
        Passed to `PlotCollection.wrap`.

    Returns
    -------
    PlotCollection
    """
    if not isinstance(gain, InformationGain):
        raise TypeError(
            f"plot_information_gain needs the result of expected_information_gain, got {type(gain).__name__}: "
            "plot_bounds draws other results."
        )
    curve = _curve(gain, prob)
    canvas = make_canvas(scalar(0.0), plot_collection, backend, (WIDTH, _HEIGHT), visuals, _VISUALS, pc_kwargs)
    _draw(canvas, curve)
    lower = {"color": "C0", "marker": canvas.up, "linestyle": "none"}
    interval = {f"{100 * prob:.4g}% interval, all designs together": {"color": "B2", "width": 8, "alpha": _SHADE}}
    if curve.best is None:
        canvas.legend({"lower bound (no upper one, so no best design)": lower, **interval})
        return canvas.collection
    design, separated = gain.best(prob)
    place = f"{curve.label}{' =' if curve.continuous else ''} {curve.x[design]:.4g}"
    best = {"color": "B1", "width": 1.2, "linestyle": "C1"}
    upper = {"color": "C1", "marker": canvas.down, "linestyle": "none"}
    canvas.legend(
        {
            "upper bound": upper,
            "lower bound": lower,
            **interval,
            f"best: {place}, {'' if separated else 'not '}separated": best,
        }
    )
    return canvas.collection


class _Curve(NamedTuple):
    """A gain as numbers, one a design: where it is drawn, its bounds, its interval."""

    x: np.ndarray
    label: str
    continuous: bool
    bounds: np.ndarray
    interval: np.ndarray
    best: int | None

    def edges(self) -> np.ndarray:
        """Limits of the vertical axis, with room for intervals without an end."""
        values = np.concatenate([self.bounds.ravel(), self.interval.ravel()])
        finite = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([0.0, 1.0])
        low, high = finite.min(), finite.max()
        room = 0.05 * (high - low) if high > low else 0.5
        below, above = np.isneginf(self.interval).any(), np.isposinf(self.interval).any()
        return np.array([low - room * (1 + 3 * below), high + room * (1 + 3 * above)])


def _curve(gain: InformationGain, prob: float) -> _Curve:
    frame = gain.to_frame(prob)
    count = len(frame)
    name, values = gain.axis()
    bounds = frame[["lower", "upper"]].to_numpy(np.float64)
    x = np.arange(count, dtype=float) if values is None else values[:count]
    best = None if gain.one_sided else gain.best(prob)[0]
    return _Curve(x, name, values is not None, bounds, frame[["low", "high"]].to_numpy(np.float64), best)


def _draw(canvas: Canvas, curve: _Curve) -> None:
    from arviz_plots import visuals

    edges = curve.edges()
    low, high = np.clip(curve.interval, *edges).T
    width = np.ptp(curve.x) / max(len(curve.x) - 1, 1) or 1.0
    if curve.best is not None:
        canvas.draw("best", visuals.vline, scalar(curve.x[curve.best]), color="B1", width=1.2, linestyle="C1")
    if curve.continuous:
        order = np.argsort(curve.x)
        shape = {"x": curve.x[order], "y_bottom": low[order], "y_top": high[order]}
        canvas.draw("band", visuals.fill_between_y, scalar(0.0), **shape, color="B2", alpha=_SHADE)
    else:
        half = 0.3 * width
        x = (curve.x[:, None] + np.array([-half, half, half])).ravel()
        gap = np.array([0.0, 0.0, np.nan])
        bars = {"x": x, "y_bottom": (low[:, None] + gap).ravel(), "y_top": (high[:, None] + gap).ravel()}
        canvas.draw("interval", visuals.fill_between_y, scalar(0.0), **bars, color="B2", alpha=_SHADE)
    open_ends = [
        (x, edges[side], side)
        for x, ends in zip(curve.x, curve.interval, strict=True)
        for side in (0, 1)
        if not np.isfinite(ends[side])
    ]
    canvas.draw("infinity", beyond, scalar(0.0), marks=open_ends)
    for side, (name, marker) in enumerate((("lower", canvas.up), ("upper", canvas.down))):
        y = np.where(np.isfinite(curve.bounds[:, side]), curve.bounds[:, side], np.nan)
        canvas.draw(name, points, scalar(0.0), x=curve.x, y=y, color=f"C{side}", marker=marker, size=45)
    if not curve.continuous:
        ticks = curve.x[:: -(-len(curve.x) // _MOST_TICKS)]
        labels = [f"{value:g}" for value in ticks]
        canvas.draw("ticks", set_xticks, scalar(0.0), values=ticks, labels=labels)
    canvas.draw("ticklabels", visuals.ticklabel_props, scalar(0.0), size="medium")
    canvas.draw("xlabel", visuals.labelled_x, scalar(0.0), text=curve.label, size="medium")
    text = "expected information gain (nats)"
    canvas.draw("ylabel", visuals.labelled_y, scalar(0.0), text=text, size="medium")
    sides = (curve.x.min() - 0.6 * width, curve.x.max() + 0.6 * width)
    canvas.draw("limits", set_limits, scalar(0.0), x=sides, y=tuple(edges))
