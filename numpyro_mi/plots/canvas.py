"""What the plots share: a plot collection to draw into, and a few visuals that `arviz_plots` lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from arviz_plots import PlotCollection

WIDTH = 6.4  # of a figure with letters of 10 points, inches
_LETTERS = 70  # that fit into a line of its legend

Visuals = Mapping[str, Mapping[str, Any] | bool]
"""For a visual by name: more arguments for it, or False to leave it out."""


class Canvas(NamedTuple):
    """A plot collection, with what the user wants otherwise."""

    collection: PlotCollection
    visuals: Visuals

    @property
    def right(self) -> str:
        """Marker that points to the right, where the backend has one."""
        return ">" if self.collection.backend == "matplotlib" else "C0"

    @property
    def left(self) -> str:
        """Marker that points to the left, where the backend has one."""
        return "<" if self.collection.backend == "matplotlib" else "C2"

    @property
    def up(self) -> Any:
        """Marker that points up with its tip at the value, where the backend has one."""
        return 6 if self.collection.backend == "matplotlib" else "C0"

    @property
    def down(self) -> Any:
        """Marker that points down with its tip at the value, where the backend has one."""
        return 7 if self.collection.backend == "matplotlib" else "C2"

    def options(self, name: str, defaults: dict[str, Any]) -> dict[str, Any] | None:
        """Arguments of a visual; None to leave it out."""
        own = self.visuals.get(name, True)
        if isinstance(own, bool):
            return defaults if own else None
        return {**defaults, **own}

    def draw(self, name: str, function: Callable, data: xr.Dataset, **defaults: Any) -> None:
        """Draw one visual into every plot that `data` has a value for."""
        options = self.options(name, defaults)
        if options is not None:
            self.collection.map(function, name, data=data, ignore_aes="all", **options)

    def legend(self, entries: dict[str, dict[str, Any]]) -> None:
        """A legend above the plots, in two columns where they fit."""
        labels = list(entries)
        half = -(-len(labels) // 2)
        letters = sum(max(map(len, column)) for column in (labels[:half], labels[half:]) if column)
        columns = 2 if letters <= _LETTERS else 1
        outside = {"loc": "outside upper center", "ncols": columns, "frameon": False, "fontsize": "medium"}
        options = self.options("legend", outside if self.collection.backend == "matplotlib" else {})
        if options is not None:
            backend = import_module(f"arviz_plots.backend.{self.collection.backend}")
            backend.legend(self.collection, list(entries.values()), labels, **options)


def make_canvas(
    data: xr.Dataset,
    collection: PlotCollection | None,
    backend: str | None,
    figsize: tuple[float, float],
    visuals: Visuals | None,
    known: tuple[str, ...],
    pc_kwargs: dict[str, Any],
) -> Canvas:
    """A canvas on the given collection, or on a new one with a plot for each facet of `data`.

    `figsize` is for letters of 10 points, inches; a style with larger ones gets a larger figure.
    """
    from arviz_base import rcParams
    from arviz_plots import PlotCollection

    unknown = sorted(set(visuals or {}) - set(known))
    if unknown:
        raise ValueError(f"unknown visuals {unknown}: there are {sorted(known)}.")
    if collection is None:
        backend = backend or rcParams["plot.backend"]
        figure: dict[str, Any] = {"figsize": figsize}
        if backend == "matplotlib":
            from matplotlib import rcParams as style

            scale = style["font.size"] / 10
            figure = {"figsize": (scale * figsize[0], scale * figsize[1]), "layout": "constrained"}
        figure |= pc_kwargs.get("figure_kwargs", {})
        collection = PlotCollection.wrap(data, backend=backend, **{**pc_kwargs, "figure_kwargs": figure})
    return Canvas(collection, visuals or {})


def scalar(value: float) -> xr.Dataset:
    """Data without dimensions: drawn once in a plot."""
    import xarray as xr

    return xr.Dataset({"value": value})


def _backend_of(target: Any) -> Any:
    from arviz_plots.plot_collection import backend_from_object

    return backend_from_object(target)


def segments(_, target: Any, *, lines: list[tuple[float, float, float]], **kwargs: Any) -> Any:
    """Horizontal lines, each given by its ends and its height."""
    x = np.array([value for start, end, _ in lines for value in (start, end, np.nan)])
    y = np.array([value for *_, height in lines for value in (height, height, np.nan)])
    return _backend_of(target).line(x, y, target, **kwargs)


def points(_, target: Any, *, x: np.ndarray, y: np.ndarray, **kwargs: Any) -> Any:
    """Markers."""
    return _backend_of(target).scatter(x, y, target, **kwargs)


def infinities(_, target: Any, *, marks: list[tuple[float, float, int]], **kwargs: Any) -> Any:
    """An arrow to infinity for each position and side (0: left, 1: right)."""
    left = {"string": "\N{LEFTWARDS ARROW} \N{MINUS SIGN}\N{INFINITY}", "horizontal_align": "left", "color": "C0"}
    right = {"string": "\N{INFINITY} \N{RIGHTWARDS ARROW}", "horizontal_align": "right", "color": "C1"}
    return _arrows(target, marks, (left, right), kwargs)


def beyond(_, target: Any, *, marks: list[tuple[float, float, int]], **kwargs: Any) -> Any:
    """A vertical arrow to infinity for each position and side (0: down, 1: up)."""
    down = {"string": "\N{MINUS SIGN}\N{INFINITY}\n\N{DOWNWARDS ARROW}", "vertical_align": "bottom", "color": "C0"}
    up = {"string": "\N{UPWARDS ARROW}\n\N{INFINITY}", "vertical_align": "top", "color": "C1"}
    return _arrows(target, marks, (down, up), kwargs)


def set_xticks(_, target: Any, *, values: np.ndarray, labels: list[str], **kwargs: Any) -> None:
    """Labels along the x axis."""
    _backend_of(target).xticks(values, labels, target, **kwargs)


def set_yticks(_, target: Any, *, values: np.ndarray, labels: list[str], **kwargs: Any) -> None:
    """Labels along the y axis."""
    _backend_of(target).yticks(values, labels, target, **kwargs)


def set_limits(_, target: Any, *, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None) -> None:
    """Limits of the axes; None leaves one alone."""
    backend = _backend_of(target)
    if x is not None:
        backend.xlim(x, target)
    if y is not None:
        backend.ylim(y, target)


def _arrows(target: Any, marks: list[tuple[float, float, int]], sides: tuple[dict, dict], kwargs: dict) -> Any:
    """The text of its side at each position."""
    text = _backend_of(target).text
    drawn = [text(x, y, target=target, **{**sides[side], **kwargs}) for x, y, side in marks]
    return drawn[-1] if drawn else None
