"""Bounds on the expected information gain of several designs: levels, differences, which is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_mi.estimation import confidence_limit
from numpyro_mi.report import number, quantity
from numpyro_mi.results import MIBounds, MIDifference

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class InformationGain:
    """Bounds on the expected information gain of several designs, with common random numbers, in nats.

    Attributes
    ----------
    designs
        The designs that were run, as they were passed: every leaf with a leading axis.
    results
        The result of each design, in their order.
    num_designs
        How many were asked for; more than the results if the run was interrupted. Levels count them all.
    """

    designs: Any
    results: tuple[MIBounds, ...]
    num_designs: int

    def to_frame(self, prob: float = 0.95) -> pd.DataFrame:
        """Table with one row a design: bounds with standard errors, and intervals that hold for all together."""
        import pandas as pd

        level = 1 - (1 - prob) / self.num_designs
        names = ("lower", "lower_se", "upper", "upper_se")
        rows = []
        for result in self.results:
            low, high = result.interval(level)
            rows.append({**{name: getattr(result, name) for name in names}, "low": low, "high": high})
        return pd.DataFrame(rows).rename_axis("design")

    def differences(self, prob: float = 0.95) -> pd.DataFrame:
        """Bounds on the differences `gain of design - gain of other`, paired over common random numbers.

        One row for each ordered pair: `lower`, `lower_se`, `upper`, `upper_se` in nats, and `low`, `high`, which
        hold for all pairs together with probability `prob` (Bonferroni).
        """
        import pandas as pd

        level = 1 - (1 - prob) / (self.num_designs * (self.num_designs - 1))
        rows = {}
        for i, first in enumerate(self.results):
            for j, second in enumerate(self.results):
                if i != j:
                    difference = _paired(first, second)
                    low, high = difference.interval(level)
                    names = ("lower", "lower_se", "upper", "upper_se")
                    rows[i, j] = {**{name: getattr(difference, name) for name in names}, "low": low, "high": high}
        index = pd.MultiIndex.from_tuples(list(rows), names=["design", "other"])
        return pd.DataFrame(list(rows.values()), index=index)

    def best(self, prob: float = 0.95) -> tuple[int, bool]:
        """The design with the highest midpoint of its bounds, and whether it is separated from all others.

        It is if `lower of the best - upper of the other`, paired, exceeds zero for every other design, each
        one-sided at level `1 - (1 - prob) / (number of designs - 1)`, so that a design that is not the best is
        called separated with probability at most `1 - prob`.
        """
        middles = [result.middle for result in self.results]
        best = int(np.argmax(middles))
        level = 1 - (1 - prob) / max(self.num_designs - 1, 1)
        others = [result for i, result in enumerate(self.results) if i != best]
        separated = len(self.results) == self.num_designs and all(
            confidence_limit(_lower_terms(_paired(self.results[best], other)), -1, level) > 0 for other in others
        )
        return best, separated

    def axis(self) -> tuple[str, np.ndarray | None]:
        """What the designs differ in: the name and the values of the one number that a design is, or None."""
        named = self.designs.items() if isinstance(self.designs, Mapping) else enumerate(self.designs)
        (name, values), *others = named
        numbers = not isinstance(values, list | tuple) or all(isinstance(value, int | float) for value in values)
        if others or not numbers or np.ndim(values) != 1:
            return "design", None
        return name if isinstance(name, str) else "design", np.asarray(values, np.float64)

    def __repr__(self) -> str:
        best, separated = self.best(0.95)
        one = self.results[0]
        lines = [
            f"Expected information gain {quantity(one)} of {self.num_designs} designs: {one.num_samples:,} joint draws "
            "each, common random numbers",
            f"  design  {'lower':>9} {'upper':>9}   95% interval, all designs together",
        ]
        for i, row in self.to_frame(0.95).iterrows():
            interval = f"[{number(row['low'])}, {number(row['high'])}]"
            mark = "  best" if i == best else ""
            lines.append(f"  {i:>6}  {number(row['lower']):>9} {number(row['upper']):>9}   {interval}{mark}")
        if len(self.results) < self.num_designs:
            lines.append(f"  interrupted  {self.num_designs - len(self.results)} designs have no result")
        says = "is separated from all others" if separated else "is not separated from all others"
        lines.append(f"  design {best} has the highest bounds and {says} at 95%")
        return "\n".join(lines)


def _paired(first: MIBounds, second: MIBounds) -> MIDifference:
    """Their difference over the joint draws that both have: draws are keyed by their index."""
    count = min(first.num_samples, second.num_samples)
    return _first(first, count) - _first(second, count)


def _first(result: MIBounds, count: int) -> MIBounds:
    if result.num_samples == count:
        return result
    assert result.lower_i is not None and result.upper_i is not None  # a method without both sides is refused
    return replace(result, lower_i=result.lower_i[:count], upper_i=result.upper_i[:count])


def _lower_terms(difference: MIDifference) -> np.ndarray:
    assert difference.lower_i is not None  # a method without both sides is refused
    return difference.lower_i
