"""Whether an array of a model is the data that it is given, as far as their values tell."""

import numpy as np

_RUN = 3
_ENOUGH_DIGITS = 12
"""Of distinct values in a row. Arrays that have nothing to do with each other do not share as many."""


def is_made_of(array: np.ndarray, data: np.ndarray) -> bool:
    """Whether more than half of an array are values of the data, in runs of the same order.

    So it is for the data themselves, a part of them and a lag. Constant arrays, regular grids and values of few digits,
    as those of labels, are like many others and never count.
    """
    found, wanted = (_flat(value) for value in (array, data))
    if found is None or wanted is None or np.isin(found, wanted).mean() <= 0.5:
        return False
    runs, known = (np.lib.stride_tricks.sliding_window_view(values, _RUN) for values in (found, wanted))
    shared = np.isin(_as_one(runs), _as_one(known))
    inside = np.zeros(len(found), bool)
    for i in range(_RUN):
        inside[i : i + len(shared)] |= shared
    values = found[inside]
    if inside.mean() <= 0.5 or _is_grid(values):
        return False
    return sum(_digits(value) for value in np.unique(values)[:_ENOUGH_DIGITS]) >= _ENOUGH_DIGITS


def _flat(values: np.ndarray) -> np.ndarray | None:
    if np.size(values) < _RUN or np.asarray(values).dtype.kind not in "iuf":
        return None
    return np.ascontiguousarray(values, np.float32).reshape(-1) + np.float32(0)  # no negative zero


def _as_one(rows: np.ndarray) -> np.ndarray:
    """Rows as single items that can be compared."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)


def _is_grid(values: np.ndarray) -> bool:
    steps = np.diff(np.unique(values))
    return bool(len(steps) < 2 or np.ptp(steps) <= 1e-3 * steps.max())


def _digits(value: float) -> int:
    """Significant digits."""
    mantissa = f"{abs(float(value)):.5e}".split("e")[0]
    return len(mantissa.replace(".", "").rstrip("0"))
