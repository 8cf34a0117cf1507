"""Labels of rows: the index of pandas and the coordinates of xarray, by which rows are put in one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_DRAWS = (("chain", "draw"), ("draw",), ("sample",))


def index_of(value: Any, dims: Sequence[str] | None = None) -> pd.Index | None:
    """Labels of the rows of a value; None if it has none.

    Parameters
    ----------
    value
        Anything: only Series, DataFrames and xarray objects have labels.
    dims
        Dimensions that make up the rows of an xarray object; None: its first one.
    """
    library = type(value).__module__.partition(".")[0]
    if library == "pandas":
        return getattr(value, "index", None)
    if library != "xarray" or not getattr(value, "dims", ()):
        return None
    import pandas as pd

    dims = list(value.dims)[:1] if dims is None else list(dims)
    if not any(dim in value.indexes for dim in dims):
        return None
    levels = [value.indexes[dim] if dim in value.indexes else pd.RangeIndex(value.sizes[dim]) for dim in dims]
    return levels[0] if len(levels) == 1 else pd.MultiIndex.from_product(levels, names=dims)


def draw_dims(value: Any) -> tuple[str, ...] | None:
    """Dimensions that number the draws of an xarray object, or None."""
    dims = set(getattr(value, "dims", ()))
    return next((names for names in _DRAWS if set(names) <= dims), None)


def order_like(name: str, index: pd.Index | None, first: str, wanted: pd.Index | None) -> np.ndarray | None:
    """Rows in the order of other labels; None where they are in it already, or either has no labels.

    Parameters
    ----------
    name, index
        What is put in order, and its labels.
    first, wanted
        What it is paired with, and its labels.

    Raises
    ------
    ValueError
        If the labels are not the same ones, or occur more than once in another order.
    """
    import pandas as pd

    if index is None or wanted is None:
        return None
    if index.nlevels != wanted.nlevels and any(_is_count(one) for one in (index, wanted)):
        return None  # rows that are merely counted, against pairs of chain and draw, say
    names = list(wanted.names)
    if isinstance(index, pd.MultiIndex) and index.names != names and None not in names:
        if sorted(map(str, index.names)) == sorted(map(str, names)):
            index = index.reorder_levels(names)
    if index.equals(wanted):
        return None
    mend = "Give both the same labels, or pass arrays (as by .to_numpy()), which are paired by position."
    if len(index) == len(wanted) and not (index.is_unique and wanted.is_unique):
        raise ValueError(
            f"{name} is labelled otherwise than {first}, with labels that occur more than once, so that it is not "
            f"clear which rows belong together. {mend}"
        )
    order = wanted.get_indexer(index) if index.nlevels == wanted.nlevels else np.array([-1])
    if len(index) != len(wanted) or (order < 0).any():
        alone = index[order < 0] if len(order) == len(index) else index
        example = f", such as {_text(alone[0])}" if len(alone) else ""
        raise ValueError(
            f"{name} and {first} have rows with different labels: {name} has {len(alone):,} of {len(index):,} that "
            f"{first} has not{example}. {mend}"
        )
    return np.argsort(order)


def _text(label: Any) -> str:
    if isinstance(label, tuple):
        return f"({', '.join(map(_text, label))})"
    return str(label) if isinstance(label, np.generic) else repr(label)


def _is_count(index: pd.Index) -> bool:
    """Whether it only counts the rows, as pandas does for what has no labels."""
    import pandas as pd

    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def orders(named: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """For values whose rows are paired, the order of those that are labelled otherwise than the first labelled one."""
    found: dict[str, np.ndarray] = {}
    labelled = {name: index for name, value in named.items() if (index := index_of(value)) is not None}
    for name, index in labelled.items():
        first = next(iter(labelled))
        order = order_like(name, index, first, labelled[first])
        if order is not None:
            found[name] = order
    return found


def refuse_reordered(named: Mapping[str, Any]) -> None:
    """Refuse values of a model that have the same labels in another order: their rows are taken by position.

    Values with other labels may be about other things.
    """
    labelled = {name: index for name, value in named.items() if (index := index_of(value)) is not None}
    for i, (name, index) in enumerate(labelled.items()):
        for first, wanted in list(labelled.items())[:i]:
            same = len(index) == len(wanted) and index.nlevels == wanted.nlevels and index.is_unique
            if same and not index.equals(wanted) and wanted.is_unique and (wanted.get_indexer(index) >= 0).all():
                raise ValueError(
                    f"{name} and {first} have the same labels in another order, and a model takes rows by position: "
                    "put one in the order of the other (as by .loc[other.index]), or pass arrays."
                )


def plain(name: str, value: Any) -> Any:
    """A Series, DataFrame or DataArray as an array of numbers, by position; anything else as it is."""
    library = type(value).__module__.partition(".")[0]
    if library not in ("pandas", "xarray"):
        return value
    if not hasattr(value, "to_numpy"):
        raise TypeError(f"{name} is a {type(value).__name__}: pass its variables one by one, as arrays of numbers.")
    array = value.to_numpy()
    if array.dtype == object and library == "pandas":  # nullable numbers
        try:
            array = value.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            pass
        else:
            whole = array.astype(np.int64, copy=True) if np.isfinite(array).all() else array
            array = whole if np.array_equal(whole, array) else array
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} needs numbers or booleans, got dtype {array.dtype}: encode it as numbers.")
    return array
