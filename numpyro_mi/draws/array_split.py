"""Rows of arrays for a direct bound: standardised, and as pairs."""

from collections.abc import Iterator

import numpy as np

from numpyro_mi.draws.array_prior import Columns
from numpyro_mi.training.pairs import Pairs

_ROWS = 4096


def standardised(array: np.ndarray, training: np.ndarray) -> Columns:
    """The columns, with location and scale of the training rows."""
    loc, scale = array[training].mean(0), array[training].std(0)
    scale = np.where(scale > 0, scale, 1.0)
    return Columns((array - loc) / scale, loc, scale)


def row_pairs(z: Columns, x: Columns, rows: np.ndarray) -> Pairs:
    """Some rows as a supply of joint draws; it ends where they end."""

    def supply(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, min(count, len(rows)), _ROWS):
            part = rows[start : min(start + _ROWS, count)]
            yield z.values[part].astype(np.float32), x.values[part].astype(np.float32)

    return Pairs(supply, len(z.loc), len(x.loc))
