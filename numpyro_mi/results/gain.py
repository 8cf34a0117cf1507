"""Bounds on the expected information gain of several designs: levels, differences, which is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_mi.results.estimation import confidence_limit
from numpyro_mi.results.mutual_information import MIBounds, MIDifference
from numpyro_mi.results.text.decomposition import is_exact
from numpyro_mi.results.text.diagnostics import rare_events_of
from numpyro_mi.results.text.format import number
from numpyro_mi.results.text.report import quantity

if TYPE_CHECKING:
    import pandas as pd


DROPPING_PROB = 0.95
"""At which a design is dropped at a look."""

_LOWER_ALONE = (
    "these are lower bounds alone: how far each gain lies above its bound is not known, and differs from design to "
    "design, so that the design with the highest lower bound need not have the highest gain"
)


@dataclass(frozen=True, eq=False, repr=False)
class InformationGain:
    """Bounds on the expected information gain of several designs, with common random numbers, in nats.

    With a method that has a lower side only, as for simulators without a likelihood, there are lower bounds and
    intervals without an upper end. Nothing about which design is better follows from these.

    Attributes
    ----------
    designs
        The designs that were run, as they were passed: every leaf with a leading axis.
    results
        The result of each design, in their order.
    num_designs
        How many were asked for; more than the results if the run was interrupted. Levels count them all.
    num_requested
        Joint draws of each design that were asked for.
    looks
        Numbers of joint draws at which designs were dropped. Every level below is one for all looks together, the
        last evaluation among them.
    dropped
        Designs that were separated below the best one at a look, and got no further draws. Differences from them
        are over the draws that both designs have.
    num_programs
        How many different programs the designs were compiled to: more than one where they differ in sizes, or in
        Python numbers.
    """

    designs: Any
    results: tuple[MIBounds, ...]
    num_designs: int
    num_requested: int = 0
    looks: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    num_programs: int = 1

    @property
    def num_looks(self) -> int:
        """How often the designs are compared, the last evaluation included."""
        return len(self.looks) + 1

    @property
    def one_sided(self) -> bool:
        """Whether there are lower bounds alone."""
        return any(result.upper_i is None for result in self.results)

    def to_frame(self, prob: float = 0.95) -> pd.DataFrame:
        """Table with one row a design: bounds with standard errors, intervals, and joint draws.

        The intervals hold for all designs together, at all looks, with probability `prob`: each is at level
        `1 - (1 - prob) / (number of designs * number of looks)`, two-sided. NaN where there is no upper bound.
        """
        import pandas as pd

        level = 1 - (1 - prob) / (self.num_designs * self.num_looks)
        names = ("lower", "lower_se", "upper", "upper_se")
        rows = []
        for result in self.results:
            low, high = result.interval(level)
            values = {name: getattr(result, name) for name in names}
            found = {name: np.nan if value is None else value for name, value in values.items()}
            rows.append({**found, "low": low, "high": high, "num_samples": result.num_samples})
        return pd.DataFrame(rows).rename_axis("design")

    def differences(self, prob: float = 0.95) -> pd.DataFrame:
        """Bounds on the differences `gain of design - gain of other`, paired over common random numbers.

        One row for each ordered pair: `lower`, `lower_se`, `upper`, `upper_se` in nats, and `low`, `high`, which
        hold for all pairs together, at all looks, with probability `prob`: each is at level
        `1 - (1 - prob) / (number of pairs * number of looks)`, two-sided, a pair and its reverse being one.

        Raises
        ------
        ValueError
            For lower bounds alone, whose differences do not bound those of the gains.
        """
        import pandas as pd

        self._need_both_sides("differences")

        level = 1 - (1 - prob) / (self.num_designs * (self.num_designs - 1) / 2 * self.num_looks)
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

        It is separated if `lower of the best - upper of the other`, paired, exceeds zero for every other design, each
        one-sided at level `1 - (1 - prob) / ((number of designs - 1) * number of looks)`, so that a design that is
        not the best is called separated with probability at most `1 - prob`. Designs that were dropped, which
        keeps to this at 0.95, are separated already up to that `prob`. Where an upper bound is infinite, the lower one
        takes the place of the midpoint.

        Raises
        ------
        ValueError
            For lower bounds alone, which do not say which design is best.
        """
        self._need_both_sides("best")
        left = [i for i in range(len(self.results)) if i not in self.dropped]
        best = max(left, key=lambda i: self.results[i].middle)
        others = left if prob <= DROPPING_PROB else range(len(self.results))
        level = _one_sided(prob, self.num_designs, self.num_looks)
        separated = len(self.results) == self.num_designs and all(
            _lies_above(self.results[best], self.results[i], level) for i in others if i != best
        )
        return best, separated

    def _need_both_sides(self, asked: str) -> None:
        if self.one_sided:
            raise ValueError(
                f"{asked}() needs both sides, and {_LOWER_ALONE}. to_frame() has the bounds; to compare gains, give "
                "the data a density (numpyro.sample) and use AIS()."
            )

    def axis(self) -> tuple[str, np.ndarray | None]:
        """What the designs differ in: the name and the values of the one number that a design is, or None."""
        named = self.designs.items() if isinstance(self.designs, Mapping) else enumerate(self.designs)
        (name, values), *others = named
        numbers = not isinstance(values, list | tuple) or all(isinstance(value, int | float) for value in values)
        if others or not numbers or np.ndim(values) != 1:
            return "design", None
        return name if isinstance(name, str) else "design", np.asarray(values, np.float64)

    def __repr__(self) -> str:
        best, separated = (None, False) if self.one_sided else self.best(0.95)
        looks = " and looks" if self.looks else ""
        most = max(result.num_samples for result in self.results)
        title = f"Expected information gain {quantity(self.results[0])} of {self.num_designs} designs"
        how = f"{most:,} joint draws {'at most' if self.looks else 'each'}, common random numbers"
        if all(map(is_exact, self.results)):
            how = "exact"
        lines = [
            f"{title}: {how}",
            f"  design  {'lower':>9} {'upper':>9}   95% interval, all designs{looks} together",
        ]
        for i, row in self.to_frame(0.95).iterrows():
            interval = f"[{number(row['low'])}, {number(row['high'])}]"
            mark = "  best" if i == best else ""
            if i in self.dropped and is_exact(self.results[i]):
                mark = "  dropped at a look"
            elif i in self.dropped:
                mark = f"  dropped after {self.results[i].num_samples:,} draws"
            upper = "-" if self.one_sided else number(row["upper"])
            lines.append(f"  {i:>6}  {number(row['lower']):>9} {upper:>9}   {interval}{mark}")
        lines += self._remarks()
        if best is None:
            return "\n".join([*lines, f"  {_LOWER_ALONE}"])
        says = "is separated from all others" if separated else "is not separated from all others"
        lines.append(f"  design {best} has the highest bounds and {says} at 95%")
        return "\n".join(lines)

    def _remarks(self) -> list[str]:
        """What there is to say of the run."""
        lines = [f"  note  {note}" for note in dict.fromkeys(note for result in self.results for note in result.notes)]
        if self.num_programs > 1:
            lines.append(
                f"  {self.num_programs} programs: designs differ in shape, or in Python numbers that are part of a "
                "program (an array of them is not); the random keys are the same"
            )
        unfinished = [
            i
            for i, result in enumerate(self.results)
            if i not in self.dropped and result.num_samples < self.num_requested
        ]
        if len(self.results) < self.num_designs:
            lines.append(f"  interrupted  {self.num_designs - len(self.results)} designs have no result")
        elif unfinished:
            few = min(self.results[i].num_samples for i in unfinished)
            lines.append(f"  interrupted  {len(unfinished)} designs have {few:,} draws or more")
        lines += [f"  warning  {text}" for text in rare_events_of(dict(enumerate(self.results)), "designs")]
        return lines


def worse(results: Mapping[int, MIBounds], num_designs: int, num_looks: int) -> list[int]:
    """Of some designs by number, those that lie below the best of them, at the level of one look."""
    best = max(results, key=lambda i: results[i].middle)
    level = _one_sided(DROPPING_PROB, num_designs, num_looks)
    return [i for i, result in results.items() if i != best and _lies_above(results[best], result, level)]


def _one_sided(prob: float, num_designs: int, num_looks: int) -> float:
    """Level of one comparison of the best design with another one."""
    return 1 - (1 - prob) / (max(num_designs - 1, 1) * num_looks)


def _lies_above(first: MIBounds, second: MIBounds, level: float) -> bool:
    """Whether the gain of the first design is the larger one, at a one-sided level, and by more than rounding."""
    difference = _paired(first, second)
    assert difference.lower_i is not None  # a method without both sides is refused
    return confidence_limit(difference.lower_i, -1, level) > difference.rounding


def _paired(first: MIBounds, second: MIBounds) -> MIDifference:
    """Their difference over the joint draws that both have: draws are keyed by their index."""
    count = min(first.num_samples, second.num_samples)
    return _first(first, count) - _first(second, count)


def _first(result: MIBounds, count: int) -> MIBounds:
    if result.num_samples == count:
        return result
    assert result.lower_i is not None and result.upper_i is not None  # a method without both sides is refused
    return replace(result, lower_i=result.lower_i[:count], upper_i=result.upper_i[:count])
