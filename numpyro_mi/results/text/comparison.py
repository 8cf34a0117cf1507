"""A comparison of methods as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from numpyro_mi.results.text.format import bits, count, number
from numpyro_mi.results.text.report import quantity, warnings_of

if TYPE_CHECKING:
    from numpyro_mi.results.mutual_information import MIBounds

_GRADIENTS = (
    *("pilot_forward", "pilot_reverse", "pilot_guide"),
    *("scored_forward", "scored_reverse", "scored_guide", "scored_gradients"),
)


def num_gradients(result: MIBounds) -> int:
    """The gradient evaluations among all that the cost of a result counts."""
    return sum(result.cost.get(name, 0) for name in _GRADIENTS)


def report_comparison(
    results: Mapping[str, MIBounds],
    interrupted: tuple[str, ...],
    num_samples: int,
    interval: tuple[float, float],
    num_intervals: int,
) -> str:
    """One readable block: table, interval, what is missing, warnings.

    Parameters
    ----------
    results
        By name.
    interrupted
        Names of the methods without a complete result.
    num_samples
        Joint draws that all results share.
    interval
        What the intervals of all methods have in common, at 95 %.
    num_intervals
        How many these are.
    """
    one = next(iter(results.values()))
    lines = [
        f"Comparison for {quantity(one)}: {len(results)} methods on the same {num_samples:,} joint draws",
        *_table(results),
        f"  95% interval that all support  {_interval(*interval, num_intervals)}",
    ]
    if interrupted:
        lines.append(f"  interrupted  no complete result of {', '.join(interrupted)}")
    if interval[0] > interval[1]:
        lines.append(
            "  warning  the intervals of the methods do not overlap, which has a probability of at most 5% where every "
            "bound is valid: are all results of the same model?"
        )
    lines += [f"  warning  {name}: {text}" for name, result in results.items() for text in warnings_of(result)]
    return "\n".join(lines)


def _interval(low: float, high: float, count: int) -> str:
    note = "(of 1 method)" if count == 1 else f"(simultaneous over {count} methods)"
    if low > high:
        return f"empty: {number(low)} > {number(high)} nats {note}"
    return f"[{number(low)}, {number(high)}] nats = [{bits(low)}, {bits(high)}] bits {note}"


def _table(results: Mapping[str, MIBounds]) -> list[str]:
    """A line a method, in columns."""
    head = ("method", "lower bound", "upper bound", "gap (nats)", "seconds", "gradients")
    rows = [
        (
            name,
            *(_pair(getattr(result, side), getattr(result, f"{side}_se")) for side in ("lower", "upper", "gap")),
            f"{sum(result.seconds.values()):.1f}" if result.seconds else "-",
            count(num_gradients(result)),
        )
        for name, result in results.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        left, *right = (
            cell.rjust(width) if i > 3 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  " + "  ".join((left, *right)).rstrip())
    return lines


def _pair(value: float | None, se: float | None) -> str:
    if value is None or se is None:
        return "-"
    return f"{number(value)} ± {number(se)}" if np.isfinite(value) else f"{value}"
