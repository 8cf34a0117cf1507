"""Two bounds as numbers: means, standard errors, interval, tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from numpyro_mi.results.estimation import confidence_limit, mean

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Bounds:
    """A lower and an upper bound, each a mean of independent terms, in nats; arrays are read-only.

    Attributes
    ----------
    lower_i, upper_i
        Terms of the two bounds, one a joint draw, shape `(N,)`, float64; None for a side that does
        not exist.
    """

    lower_i: np.ndarray | None
    upper_i: np.ndarray | None

    def __post_init__(self) -> None:
        freeze(self.lower_i, self.upper_i)

    @cached_property
    def _lower(self) -> tuple[float, float] | tuple[None, None]:
        return (None, None) if self.lower_i is None else mean(self.lower_i)

    @cached_property
    def _upper(self) -> tuple[float, float] | tuple[None, None]:
        return (None, None) if self.upper_i is None else mean(self.upper_i)

    @property
    def lower(self) -> float | None:
        """Estimate of the lower bound: on average at or below the truth."""
        return self._lower[0]

    @property
    def lower_se(self) -> float | None:
        """Its standard error."""
        return self._lower[1]

    @property
    def upper(self) -> float | None:
        """Estimate of the upper bound: on average at or above the truth."""
        return self._upper[0]

    @property
    def upper_se(self) -> float | None:
        """Its standard error."""
        return self._upper[1]

    @cached_property
    def _gap(self) -> tuple[float, float] | tuple[None, None]:
        if self.lower_i is None or self.upper_i is None:
            return None, None
        with np.errstate(invalid="ignore"):
            return mean(self.upper_i - self.lower_i)

    @property
    def gap(self) -> float | None:
        """Width `upper - lower`: on average at or above 0."""
        return self._gap[0]

    @property
    def gap_se(self) -> float | None:
        """Standard error of the width, paired over draws."""
        return self._gap[1]

    @property
    def estimate(self) -> float | None:
        """Midpoint of the two bounds: an estimate, not a bound."""
        if self.lower is None or self.upper is None or not np.isfinite(self.lower + self.upper):
            return None
        return 0.5 * (self.lower + self.upper)

    @property
    def middle(self) -> float:
        """What to sort by: the midpoint of the bounds; the lower one where the upper one is missing or infinite."""
        if self.estimate is not None:
            return self.estimate
        return -np.inf if self.lower is None or np.isnan(self.lower) else self.lower

    @property
    def num_samples(self) -> int:
        """Joint draws scored."""
        terms = self.lower_i if self.lower_i is not None else self.upper_i
        return 0 if terms is None else len(terms)

    @property
    def num_non_finite(self) -> dict[str, int]:
        """Terms that made their side infinite, by side."""
        sides = {"lower": self.lower_i, "upper": self.upper_i}
        return {name: int((~np.isfinite(terms)).sum()) for name, terms in sides.items() if terms is not None}

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Confidence interval for what is bounded, nats.

        From the limit below the lower bound to the limit above the upper bound, each at level
        `(1 + prob) / 2`, so that it covers the truth with probability at least `prob` for many draws,
        however wide the gap. Many are more than 30 / p for each event of probability p that matters: what the draws do
        not show, the interval does not know of. A side that does not exist is infinite.

        Parameters
        ----------
        prob
            Coverage, between 0 and 1.
        """
        if not 0 < prob < 1:
            raise ValueError(f"interval needs a probability between 0 and 1, got {prob!r}.")
        level = (1 + prob) / 2
        low = -np.inf if self.lower_i is None else confidence_limit(self.lower_i, -1, level)
        high = np.inf if self.upper_i is None else confidence_limit(self.upper_i, +1, level)
        rounding = getattr(self, "rounding", 0.0)  # of results that are sums
        return float(low - rounding), float(high + rounding)

    def summary(self) -> pd.DataFrame:
        """Table of both bounds, gap and estimate (their midpoint): mean and standard error in nats, mean in bits."""
        import pandas as pd

        rows = {"lower": self._lower, "upper": self._upper, "gap": self._gap, "estimate": (self.estimate, None)}
        table = pd.DataFrame(rows, index=["mean", "se"]).T.astype(float)
        table["mean_bits"] = table["mean"] / np.log(2)
        return table

    def to_frame(self) -> pd.DataFrame:
        """One row a joint draw, columns `lower_i`, `upper_i` (where they exist)."""
        import pandas as pd

        columns = {"lower_i": self.lower_i, "upper_i": self.upper_i}
        return pd.DataFrame({name: value for name, value in columns.items() if value is not None}).rename_axis("draw")


def freeze(*arrays: np.ndarray | None) -> None:
    """Make arrays read-only."""
    for array in arrays:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
