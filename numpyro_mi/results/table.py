"""Bounds on the information about each of several latents, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.results.text.decomposition import is_exact
from numpyro_mi.results.text.diagnostics import rare_events_of
from numpyro_mi.results.text.format import number

if TYPE_CHECKING:
    import pandas as pd

_DECIMALS = 6  # of nats; beyond, rows are alike
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
    interrupted
        Names of the rows that Ctrl-C left without a result; levels count them too.
    """

    rows: dict[str, MIBounds]
    joint: MIBounds
    cost: dict[str, int]
    seconds: dict[str, float]
    interrupted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "rows", dict(sorted(self.rows.items(), key=lambda row: -round(float(row[1].middle), _DECIMALS)))
        )

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
        return 1 - (1 - prob) / (len(self.results) + len(self.interrupted))

    def share(self, name: str) -> tuple[float, float]:
        """What part of the joint information a row is, without sampling errors.

        From `lower / joint upper` to `upper / joint lower`, cut off at 0 and 1, which a share is between; NaN where
        there is no joint information to share.
        """
        row, joint = self.rows[name], self.joint
        if joint.upper is not None and joint.upper <= 0:
            return np.nan, np.nan
        return _ratio(row.lower, joint.upper, 0.0), _ratio(row.upper, joint.lower, 1.0)

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
        summed = [name for name, result in results.items() if result.num_configurations]
        draws = f"{self.joint.num_samples:,}"
        if self.joint.partial:
            draws += f" of {self.joint.num_requested:,} (interrupted)"
        exact = all(map(is_exact, results.values()))
        how = "exact" if exact else f"{draws} joint draws"
        yield f"Information about each latent in {', '.join(self.joint.data)}: {how}, nats"
        together = f"{100 * level:.4g}% interval"
        yield f"  {'':{width}}  {'lower':>9} {'upper':>9}   {together:<22} share of the joint"
        for name, result in results.items():
            bounds = " ".join(f"{'-' if side is None else number(side):>9}" for side in (result.lower, result.upper))
            low, high = result.interval(level)
            interval = f"[{number(low)}, {number(high)}]"
            yield f"  {name:{width}}  {bounds}   {interval:<22} {self.share_text(name)}".rstrip()
        count = len(results) + len(self.interrupted)
        yield f"  Intervals hold for all {count} rows together with probability 95%, each at {100 * level:.4g}%."
        if self.interrupted:
            yield f"  interrupted  no result for {', '.join(self.interrupted)}"
        if summed and not exact:
            yield f"  exact  {', '.join(summed)}: summed over all values, without sampling error."
        yield "  Shares do not add to one: latents may say the same thing, or say it only together."
        hard = [name for name, result in results.items() if any(result.num_non_finite.values())]
        if hard:
            yield f"  warning  not all terms of {', '.join(hard)} are finite, so that a bound is; none was dropped."
        yield from (f"  warning  {text}" for text in rare_events_of(results, "the rows"))

    def share_text(self, name: str) -> str:
        """The share of a row in words; nothing for the joint row."""
        if name not in self.rows:
            return ""
        low, high = self.share(name)
        return "" if np.isnan(low) else f"{low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%} to {high:.0%}"


def _ratio(part: float | None, whole: float | None, otherwise: float) -> float:
    if part is None or whole is None or not whole > 0 or not np.isfinite(part):
        return otherwise
    return float(np.clip(part / whole, 0.0, 1.0))
