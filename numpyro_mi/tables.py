"""Bounds on the information about each of several latents, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from numpyro_mi.report import number
from numpyro_mi.results import MIBounds

if TYPE_CHECKING:
    import pandas as pd

JOINT = "all latents"
"""Name of the joint row."""


@dataclass(frozen=True, eq=False, repr=False)
class InformationTable:
    """Bounds on I(latent; data) for each of several latents, and for all of them together, in nats.

    All rows are from the same joint draws. Shares do not add to one: what two latents say together may be
    more than the sum of what they say alone, or less.

    Attributes
    ----------
    rows
        A result a row by name, the most informative first: by the middle of its bounds, or by the lower one where
        the upper one is infinite.
    joint
        The result for all latents together.
    cost, seconds
        Of the whole table.
    """

    rows: dict[str, MIBounds]
    joint: MIBounds
    cost: dict[str, int]
    seconds: dict[str, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", dict(sorted(self.rows.items(), key=lambda row: -_size(row[1]))))

    @property
    def results(self) -> dict[str, MIBounds]:
        """The rows by name, the joint one last."""
        return {**self.rows, JOINT: self.joint}

    def level(self, prob: float = 0.95) -> float:
        """Level of each row's own interval so that those of all rows hold together with probability `prob`.

        It is `1 - (1 - prob) / m` for m rows, the joint one included (Bonferroni).
        """
        if not 0 < prob < 1:
            raise ValueError(f"a table needs a probability between 0 and 1, got {prob!r}.")
        return 1 - (1 - prob) / len(self.results)

    def share(self, name: str) -> tuple[float, float]:
        """What part of the joint information a row is, without sampling errors.

        From `lower / joint upper` to `upper / joint lower`, cut off at 0 and 1; NaN where a bound that it needs is
        not there.
        """
        return _ratio(self.rows[name].lower, self.joint.upper), _ratio(self.rows[name].upper, self.joint.lower)

    def to_frame(self, prob: float = 0.95) -> pd.DataFrame:
        """Table with one row a latent, and the joint row last.

        Columns `lower`, `lower_se`, `upper`, `upper_se` in nats; `low` and `high`,
        intervals that hold for all rows together with probability `prob`, each of them at `level`; `marginal_low`
        and `marginal_high`, which hold for one row at `prob`, if that row was chosen beforehand; `share_low` and
        `share_high`, as `share`.
        """
        import pandas as pd

        level = self.level(prob)
        table = {}
        for name, result in self.results.items():
            sides = {side: getattr(result, side) for side in ("lower", "lower_se", "upper", "upper_se")}
            together, alone = result.interval(level), result.interval(prob)
            part = self.share(name) if name in self.rows else (np.nan, np.nan)
            table[name] = {
                **{side: np.nan if value is None else value for side, value in sides.items()},
                "low": together[0],
                "high": together[1],
                "level": level,
                "marginal_low": alone[0],
                "marginal_high": alone[1],
                "share_low": part[0],
                "share_high": part[1],
            }
        return pd.DataFrame.from_dict(table, orient="index").rename_axis("latent")

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        results, level = self.results, self.level(0.95)
        width = max(map(len, results))
        draws = f"{self.joint.num_samples:,}"
        if self.joint.partial:
            draws += f" of {self.joint.num_requested:,} (interrupted)"
        yield f"Information about each latent in {', '.join(self.joint.data)}: {draws} joint draws, nats"
        together = f"{100 * level:.4g}% interval"
        yield f"  {'':{width}}  {'lower':>9} {'upper':>9}   {together:<22} share of the joint"
        for name, result in results.items():
            bounds = " ".join(f"{'-' if side is None else number(side):>9}" for side in (result.lower, result.upper))
            low, high = result.interval(level)
            interval = f"[{number(low)}, {number(high)}]"
            yield f"  {name:{width}}  {bounds}   {interval:<22} {self.share_text(name)}".rstrip()
        yield f"  Intervals hold for all {len(results)} rows together with probability 95%, each at {100 * level:.4g}%."
        yield "  Shares do not add to one: latents may say the same thing, or say it only together."
        hard = [name for name, result in results.items() if any(result.num_non_finite.values())]
        if hard:
            yield f"  warning  not all terms of {', '.join(hard)} are finite, so that a bound is; none was dropped."

    def share_text(self, name: str) -> str:
        """The share of a row in words; nothing for the joint row."""
        if name not in self.rows:
            return ""
        low, high = (f"{value:.0%}" if np.isfinite(value) else "?" for value in self.share(name))
        return low if low == high else f"{low} to {high}"


def _size(result: MIBounds) -> float:
    """What rows are sorted by."""
    if result.estimate is not None:
        return result.estimate
    return -np.inf if result.lower is None or np.isnan(result.lower) else result.lower


def _ratio(part: float | None, whole: float | None) -> float:
    if part is None or whole is None or np.isnan(part) or not whole > 0:
        return np.nan
    return float(np.clip(0.0 if np.isinf(whole) else part / whole, 0.0, 1.0))
