"""Log-weights of the two directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numpyro_mi.plots.canvas import WIDTH, Canvas, Visuals, make_canvas, scalar, set_limits
from numpyro_mi.results.mutual_information import MIBounds

if TYPE_CHECKING:
    from arviz_plots import PlotCollection

_PANELS, _COLUMNS = 6, 3
_MOST_BINS = 100
_SHARED = ("forward", "reverse", "xlabel", "axis", "ticks", "limits", "legend")
_POOLED = (*_SHARED, "forward_line", "reverse_line", "center")
_BY_DRAW = (*_SHARED, "lower", "upper", "title")


def plot_log_weights(
    result: MIBounds,
    *,
    integral: int = 0,
    pooled: bool = True,
    draws: Sequence[int] | None = None,
    plot_collection: PlotCollection | None = None,
    backend: str | None = None,
    visuals: Visuals | None = None,
    **pc_kwargs: Any,
) -> PlotCollection:
    """Log-weights behind the two evidence bounds of one annealed integral, forward against reverse.

    The better the two overlap, the narrower the gap. Weights of zero have no place on the axis, and
    histograms leave out what lies beyond the 0.5 % and 99.5 % quantiles of both directions (or far
    beyond their quartiles); they are counted in the legend or title, and take their part of the area.

    Parameters
    ----------
    result
        With at least one annealed integral.
    integral
        Which one.
    pooled
        True: histograms over all joint draws, each centred at the midpoint of its two evidence
        bounds. False: one panel a joint draw.
    draws
        Indices of joint draws. None: all for histograms, the six with the widest gap for panels.
    plot_collection
        Draw into this one, which has a single plot, or one for each `draw`; None makes one.
    backend
        Of `arviz_plots`, such as "matplotlib" or "none"; None is its default.
    visuals
        For a visual, more arguments, or False to leave it out: "forward", "reverse", "xlabel",
        "axis", "ticks", "limits", "legend"; of histograms also "forward_line", "reverse_line",
        "center"; of panels also "lower", "upper", "title".
    **pc_kwargs
        Passed to `PlotCollection.wrap`.

    Returns
    -------
    PlotCollection
    """
    import xarray as xr

    weights = _weights(result, integral, draws, None if pooled else _PANELS)
    if pooled:
        data, figsize = scalar(0.0), (WIDTH, 3.6)
    else:
        data = xr.Dataset({"value": ("draw", weights.gap)}, coords={"draw": weights.draw})
        figsize = (WIDTH, 1.1 + 1.4 * -(-len(weights.draw) // _COLUMNS))
        pc_kwargs = {"cols": ["draw"], "col_wrap": _COLUMNS, **pc_kwargs}
    known = _POOLED if pooled else _BY_DRAW
    canvas = make_canvas(data, plot_collection, backend, figsize, visuals, known, pc_kwargs)
    draw = _draw_pooled if pooled else _draw_panels
    draw(canvas, weights)
    return canvas.collection


class _Weights(NamedTuple):
    """Log-weights of some draws `(n, K)`, and the evidence bounds made of them `(n,)`.

    `sign` is that of the log-evidence in the mutual information; None where it is not known.
    """

    draw: np.ndarray
    forward: np.ndarray
    reverse: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    sign: int | None

    @property
    def gap(self) -> np.ndarray:
        """Width of the evidence bounds; infinite where one is."""
        with np.errstate(invalid="ignore"):
            gap = self.upper - self.lower
        return np.where(np.isnan(gap), np.inf, gap)

    @property
    def centre(self) -> np.ndarray:
        """Midpoint of the evidence bounds; the finite one where the other is not, else NaN."""
        low, high = (np.where(np.isfinite(bound), bound, np.nan) for bound in (self.lower, self.upper))
        middle = 0.5 * (low + high)
        return np.where(np.isfinite(middle), middle, np.where(np.isfinite(high), high, low))


def _weights(result: MIBounds, integral: int, draws: Sequence[int] | None, most: int | None) -> _Weights:
    """Those of the chosen draws; of all, or of the `most` with the widest gap."""
    if not 0 <= integral < len(result.stats):
        raise ValueError(f"integral={integral!r}, but this result has {len(result.stats)} annealed integrals.")
    stats = result.stats[integral]
    forward, reverse = (np.asarray(stats[f"{side}_log_weight"], np.float64) for side in ("forward", "reverse"))
    lower, upper = (np.asarray(stats[f"{side}_log_evidence"], np.float64) for side in ("forward", "reverse"))
    signs = [part["sign"] for part in result.decomposition if part["kind"] == "integral"]
    sign = signs[integral] if integral < len(signs) else None
    weights = _Weights(np.arange(len(forward)), forward, reverse, lower, upper, sign)
    if draws is None:
        chosen = weights.draw if most is None else np.argsort(-weights.gap, kind="stable")[:most]
    else:
        chosen = np.asarray(draws)
        if (
            chosen.ndim != 1
            or not chosen.size
            or not np.isin(chosen, weights.draw).all()
            or (np.unique(chosen).size < chosen.size)
        ):
            raise ValueError(f"draws must be different indices from 0 to {len(forward) - 1}, got {draws!r}.")
    return _Weights(chosen, forward[chosen], reverse[chosen], lower[chosen], upper[chosen], sign)


def _draw_pooled(canvas: Canvas, weights: _Weights) -> None:
    """Histograms of both directions, each weight relative to the centre of its draw."""
    import xarray as xr
    from arviz_plots import visuals

    centred = {
        name: (values - weights.centre[:, None]).ravel()
        for name, values in (("reverse", weights.reverse), ("forward", weights.forward))
    }
    shown = _clipped({name: values[np.isfinite(values)] for name, values in centred.items()})
    edges = _bin_edges(*shown.values())
    tallest, legend = 0.0, {}
    canvas.draw("center", visuals.vline, scalar(0.0), color="B2", width=1, linestyle="C1")
    for (name, values), color in zip(centred.items(), ("C0", "C1"), strict=True):
        density = np.histogram(shown[name], edges)[0] / (values.size * np.diff(edges))
        tallest = max(tallest, density.max())
        data = xr.Dataset(
            {"value": (("plot_axis", "bin"), [density, edges[:-1], edges[1:]])},
            coords={"plot_axis": ["histogram", "left_edges", "right_edges"]},
        )
        canvas.draw(name, visuals.hist, data, color=color, alpha=0.35)
        canvas.draw(f"{name}_line", visuals.step_hist, data, color=color, width=1.2)
        legend[_count(name, values, shown[name].size)] = {"color": color, "width": 6, "alpha": 0.6}
    canvas.draw(
        "xlabel",
        visuals.labelled_x,
        scalar(0.0),
        size="medium",
        text="log-weight minus midpoint of the evidence bounds (nats)",
    )
    canvas.draw("ticks", visuals.ticklabel_props, scalar(0.0), size="medium")
    canvas.draw("axis", visuals.remove_axis, scalar(0.0), axis="y")
    canvas.draw("limits", set_limits, scalar(0.0), x=(edges[0], edges[-1]), y=(0.0, 1.05 * tallest or 1.0))
    canvas.legend(legend)


def _clipped(groups: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without what lies beyond the ends of every group: a few weights can be far out."""
    ends = [_ends(group) for group in groups.values() if group.size]
    if not ends:
        return groups
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return {name: group[(low <= group) & (group <= high)] for name, group in groups.items()}


def _ends(values: np.ndarray) -> tuple[float, float]:
    """The 0.5 % and 99.5 % quantiles, but at most ten interquartile ranges beyond the quartiles."""
    least, low, high, most = np.quantile(values, (0.005, 0.25, 0.75, 0.995))
    reach = 10 * (high - low) or np.inf
    return max(least, low - reach), min(most, high + reach)


def _bin_edges(*groups: np.ndarray) -> np.ndarray:
    """Bins for several groups, as narrow as the narrowest group wants; the outermost are empty."""
    together = np.concatenate(groups)
    if not together.size:
        return np.linspace(-1.0, 1.0, 3)
    low, high = together.min(), together.max()
    # The rule of Freedman and Diaconis, where values differ.
    widths = [2 * np.ptp(np.quantile(group, (0.25, 0.75))) / group.size ** (1 / 3) for group in groups if group.size]
    width = min((width for width in widths if width > 0), default=(high - low) / 20)
    count = int(np.clip((high - low) / (width or 1.0), 10, _MOST_BINS))
    step = (high - low) / count or 0.1
    return np.linspace(low - 1.5 * step, high + 1.5 * step, count + 4)


def _draw_panels(canvas: Canvas, weights: _Weights) -> None:
    """A panel a draw: weights as points, reverse above forward, and the evidence bounds as lines."""
    import xarray as xr
    from arviz_plots import visuals

    def by_draw(values, *dims):
        finite = np.where(np.isfinite(values), values, np.nan)
        return xr.Dataset({"value": (("draw", *dims), finite)}, coords={"draw": weights.draw})

    bounds = {"lower": (weights.lower, "C1"), "upper": (weights.upper, "C0")}
    for name, (values, color) in bounds.items():
        canvas.draw(name, visuals.vline, by_draw(values), color=color, width=1.2, linestyle="C1")
    legend: dict[str, dict[str, Any]] = {}
    for name, height, color in (("forward", 0.0, "C1"), ("reverse", 1.0, "C0")):
        values = getattr(weights, name)
        # Spread evenly over a strip, so that equal weights do not hide each other.
        y = height + 0.6 * (np.arange(values.shape[1]) * 0.618034 % 1 - 0.5) * (values.shape[1] > 1)
        data = by_draw(values, "particle")
        canvas.draw(name, visuals.scatter_x, data, y=y, color=color, alpha=0.7, size=22)
        legend[f"{name} log-weight"] = {"color": color, "marker": "C0", "linestyle": "none"}
    legend[_bound("lower", weights.sign)] = {"color": "C1", "width": 1.2, "linestyle": "C1"}
    legend[_bound("upper", weights.sign)] = {"color": "C0", "width": 1.2, "linestyle": "C1"}
    facets = by_draw(np.zeros(len(weights.draw)))
    titles = dict(zip(weights.draw.tolist(), _titles(weights), strict=True))
    canvas.draw("title", _title, facets, texts=titles, size="small", subset_info=True)
    count = len(weights.draw)
    bottom = by_draw(np.where(np.arange(count) + _COLUMNS >= count, 0.0, np.nan))  # NaN: not drawn
    canvas.draw("xlabel", visuals.labelled_x, bottom, text="log-weight (nats)", size="small")
    canvas.draw("ticks", visuals.ticklabel_props, facets, size="small")
    canvas.draw("axis", visuals.remove_axis, facets, axis="y")
    canvas.draw("limits", set_limits, facets, y=(-0.6, 1.6))
    canvas.legend(legend)


def _titles(weights: _Weights) -> list[str]:
    texts = []
    for i, (draw, gap) in enumerate(zip(weights.draw, weights.gap, strict=True)):
        size = f"{gap:.3g} nats" if np.isfinite(gap) else "infinite"
        counts = [_count(name, getattr(weights, name)[i]) for name in ("forward", "reverse")]
        texts.append("\n".join([f"draw {draw}: gap {size}", *(text for text in counts if ":" in text)]))
    return texts


def _title(_, target, *, texts, sel, var_name, isel, **kwargs):
    from arviz_plots.visuals import labelled_title

    return labelled_title(_, target, text=texts[int(sel["draw"])], **kwargs)


def _bound(side: str, sign: int | None) -> str:
    """Name of an evidence bound, with the bound on the mutual information that it gives."""
    if sign is None:
        return f"{side} evidence bound"
    given = side if sign > 0 else {"lower": "upper", "upper": "lower"}[side]
    return f"{side} evidence bound (for the {given} bound on I)"


def _count(name: str, values: np.ndarray, shown: int | None = None) -> str:
    """Name of a direction, with how many of its weights are not on the axis."""
    finite = np.isfinite(values)
    bad, beyond = int((~finite).sum()), 0 if shown is None else int(finite.sum()) - shown
    notes = []
    if bad:
        notes.append(f"{bad} of {values.size} are {'zero' if np.isneginf(values[~finite]).all() else 'not finite'}")
    if beyond:
        notes.append(f"{beyond} of {values.size} are beyond the axis")
    return f"{name}: {', '.join(notes)}" if notes else name
