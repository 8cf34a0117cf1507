"""Numbers as text."""

from __future__ import annotations

import numpy as np


def plural(count: int, noun: str) -> str:
    """A number of things, with the noun."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def count(number: int) -> str:
    """A number of things in three digits."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:  # else it would round up to 1000 of the unit below
            return f"{number / size:.3g}{unit}"
    return str(number)


def pair(value: float | None, se: float | None) -> str:
    """A value and its standard error, in nats; a dash for a side that does not exist."""
    if value is None or se is None:
        return "-"
    if not np.isfinite(value):
        return f"{value} nats"
    return f"{number(value)} ± {number(se)} nats"


def number(value: float) -> str:
    """Nats in four decimals."""
    return f"{value:.4f}" if np.isfinite(value) else f"{value}"


def bits(value: float) -> str:
    """Nats in bits."""
    return number(value / np.log(2))
