"""Bounds by several methods on the same joint draws, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_mi.results.estimation import confidence_limit, mean
from numpyro_mi.results.mutual_information import MIBounds, _pairing
from numpyro_mi.results.text.comparison import num_gradients, report_comparison

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
"""As a reference: every pair of methods."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Bounds on one mutual information by several methods on the same joint draws, in nats.

    Never report the bound that looks best as it stands: it was chosen for its error as well, and its
    own interval no longer covers as often as it says. `interval` allows for that choice.

    Attributes
    ----------
    results
        The result of each method by name, in the order given.
    interrupted
        Names of the methods that Ctrl-C left without a complete result. `interval` and `differences`
        still count them, since what was left out may have been chosen after looking.
    """

    results: dict[str, MIBounds]
    interrupted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", dict(self.results))
        _check_shared(self.results)

    @property
    def num_samples(self) -> int:
        """Joint draws that every method scored."""
        return next(iter(self.results.values())).num_samples

    def to_frame(self) -> pd.DataFrame:
        """Table with one row a method.

        Columns `lower`, `lower_se`, `upper`, `upper_se`, `gap` and `gap_se` in nats (NaN where a side
        does not exist), `seconds` of wall-clock (compiling included, so that a method profits from
        what an earlier one compiled) and `gradients`: the evaluations that the result's `cost` counts, scored
        and in pilots, of which a method without transitions needs none. Those of training, and of the
        pilots of `MINEAIS`, are not counted.
        """
        import pandas as pd

        names = ("lower", "lower_se", "upper", "upper_se", "gap", "gap_se")
        rows = {
            method: {
                **{name: _or_nan(getattr(result, name)) for name in names},
                "seconds": float(sum(result.seconds.values())),
                "gradients": num_gradients(result),
            }
            for method, result in self.results.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def differences(self, reference: str | None = None, *, prob: float = 0.95) -> pd.DataFrame:
        """Differences of the lower bounds, and of the upper bounds, paired over the joint draws.

        A difference of two lower bounds says which of them is tighter, and by how much; it does not
        say that the mutual information differs, which is the same for all methods. A positive one
        means that `method` is tighter than `reference`; for upper bounds, a negative one.

        Parameters
        ----------
        reference
            Name of the method that all others are compared with: one chosen beforehand, never the one
            that looks best. None: the first. "all": every pair, the earlier as the reference.
        prob
            Probability with which all limits of the table hold together.

        Returns
        -------
        pandas.DataFrame
            Two rows a pair, indexed by `method`, `reference` and `bound`: the `difference`, its paired
            standard error `se`, `unpaired_se` as it were on separate draws, and the limits
            `simultaneous_low` and `simultaneous_high`. Each pair of limits is at `level`, which is
            `1 - (1 - prob) / m` for the m differences of the table (Bonferroni). NaN where one of the
            two has no such bound.
        """
        import pandas as pd

        pairs, planned = self._pairs(reference)
        rows = []
        for method, base in pairs:
            for side in ("lower", "upper"):
                one, two = (getattr(self.results[name], f"{side}_i") for name in (method, base))
                rows.append((method, base, side, None if one is None or two is None else (one, two)))
        count = sum(terms is not None for *_, terms in rows) + 2 * (planned - len(pairs))
        level = _simultaneous(prob, count)
        table = pd.DataFrame([_difference(terms, level) for *_, terms in rows])
        index = [row[:3] for row in rows]
        return table.set_index(pd.MultiIndex.from_tuples(index, names=["method", "reference", "bound"]))

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Confidence interval for the mutual information that all methods support, nats.

        The intersection of the methods' own intervals, each at `level(prob)`. It covers the truth with
        probability at least `prob` for many draws, although the tightest limits were picked after
        looking. A method that only estimates, and bounds nothing, does not enter.

        If the intersection is empty, which has a probability of at most `1 - prob` where every bound is
        valid, the pair is returned as it is, with `low > high`, and the printed comparison says so.

        Parameters
        ----------
        prob
            Coverage, between 0 and 1.
        """
        level = self.level(prob)
        ends = [result.interval(level) for result in self._bounding()]
        return max((low for low, _ in ends), default=-np.inf), min((high for _, high in ends), default=np.inf)

    def level(self, prob: float = 0.95) -> float:
        """Level at which each method's own interval holds so that all do together with probability `prob`.

        It is `1 - (1 - prob) / m` for m methods (Bonferroni).
        """
        return _simultaneous(prob, len(self._bounding()) + len(self.interrupted))

    def _bounding(self) -> list[MIBounds]:
        """Results that bound something, rather than only estimate it."""
        return [result for result in self.results.values() if result.lower_i is not None or result.upper_i is not None]

    def _pairs(self, reference: str | None) -> tuple[list[tuple[str, str]], int]:
        """Pairs (method, reference), and how many there were to be before an interruption."""
        names, every = list(self.results), len(self.results) + len(self.interrupted)
        if reference == ALL:
            return [(second, first) for first, second in combinations(names, 2)], every * (every - 1) // 2
        reference = names[0] if reference is None else reference
        if reference not in self.results:
            raise ValueError(f"reference must be one of {names}, {ALL!r} or None for the first, got {reference!r}.")
        return [(name, reference) for name in names if name != reference], every - 1

    def __repr__(self) -> str:
        count = len(self._bounding()) + len(self.interrupted)
        return report_comparison(self.results, self.interrupted, self.num_samples, self.interval(0.95), count)


def _check_shared(results: Mapping[str, MIBounds]) -> None:
    """Refuse results that are not about the same draws of the same groups."""
    shared = {name: _shared(result) for name, result in results.items()}
    first = next(iter(shared))
    for name, theirs in shared.items():
        unlike = [
            f"{what}: {shared[first][what]} and {value}"
            for what, value in theirs.items()
            if value != shared[first][what]
        ]
        if unlike:
            raise ValueError(
                "a comparison is paired by common joint draws, which needs results with the same groups, rng_key, "
                f"num_samples and precision; {first!r} and {name!r} have {'; '.join(unlike)}."
            )


def _shared(result: MIBounds) -> dict[str, Any]:
    """What two results of a comparison have in common."""
    groups = sorted([sorted(result.latent), sorted(result.data)])  # mutual information is symmetric
    return {"groups": groups, "given": sorted(result.given), "fixed": sorted(result.fixed), **_pairing(result)}


def _simultaneous(prob: float, count: int) -> float:
    """Level of each of `count` intervals that hold together with probability `prob`."""
    if not 0 < prob < 1:
        raise ValueError(f"a comparison needs a probability between 0 and 1, got {prob!r}.")
    return 1 - (1 - prob) / max(count, 1)


def _difference(terms: tuple[np.ndarray, np.ndarray] | None, level: float) -> dict[str, float]:
    """One row of the table of differences."""
    names = ("difference", "se", "unpaired_se", "simultaneous_low", "simultaneous_high")
    if terms is None:
        return {**dict.fromkeys(names, np.nan), "level": np.nan}
    with np.errstate(invalid="ignore"):
        paired = terms[0] - terms[1]
    limits = [confidence_limit(paired, side, (1 + level) / 2) for side in (-1, +1)]
    unpaired = float(np.hypot(mean(terms[0]).se, mean(terms[1]).se))
    return {**dict(zip(names, (*mean(paired), unpaired, *limits), strict=True)), "level": level}


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
