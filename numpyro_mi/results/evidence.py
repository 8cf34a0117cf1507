"""Bounds on the log evidence of data, as a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import logsumexp

from numpyro_mi.options import shown
from numpyro_mi.results.estimation import mean
from numpyro_mi.results.numbers import Bounds
from numpyro_mi.results.text.diagnostics import rare_events
from numpyro_mi.results.text.format import number
from numpyro_mi.results.text.report import number_lines

_QUANTILES = (0.5, 0.9, 1.0)


@dataclass(frozen=True, eq=False, repr=False)
class EvidenceBounds(Bounds):
    """Bounds on the log evidence `log p(data)`, in nats.

    Attributes
    ----------
    lower_i, upper_i
        For each of N data sets simulated from the model, a stochastic lower and an upper bound on its own log
        evidence; their means bound the mean log evidence, minus the entropy of the data.
    data
        Names of the data sites.
    observed_i
        For the data that the model was called with, replicates `log W`, shape `(R,)`, each on average below
        `log p(data)`; minus infinity where one is not finite; None if it was called without.
    method, cost, seconds
        As in `MIBounds`.
    """

    data: tuple[str, ...]
    observed_i: np.ndarray | None = None
    method: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def observed(self) -> float | None:
        """Mean of the replicates on the observed data: on average at or below `log p(data)`, nats."""
        return None if self.observed_i is None else mean(self.observed_i).value

    @property
    def observed_se(self) -> float | None:
        """Its standard error."""
        return None if self.observed_i is None else mean(self.observed_i).se

    def limit(self, prob: float = 0.95) -> float:
        """A lower confidence limit on `log p(data)` of the observed data, nats.

        `log W - log(1 / (1 - prob))` with W the mean over all replicates: W exceeds its expectation, which is
        p(data), by a factor of `1 / (1 - prob)` with probability at most `1 - prob` (Markov), whatever the method.
        There is no upper one without an exact posterior draw.
        """
        if not 0 < prob < 1:
            raise ValueError(f"limit needs a probability between 0 and 1, got {shown(prob)}.")
        if self.observed_i is None:
            raise ValueError("the model was called without its data: pass it in model_args or observed=.")
        return float(logsumexp(self.observed_i) - np.log(len(self.observed_i)) + np.log1p(-prob))

    def reliability(self) -> dict[float, float]:
        """Quantiles of the gap `upper - lower` over the simulated data sets, nats.

        They say how far below the truth the value for the observed data may be, if these are like data that the
        model simulates; for other data they say nothing.
        """
        assert self.lower_i is not None and self.upper_i is not None
        gaps = self.upper_i - self.lower_i
        return {level: float(np.quantile(gaps, level, method="inverted_cdf")) for level in _QUANTILES}

    def __repr__(self) -> str:
        data = ", ".join(self.data)
        lines = [f"Log evidence log p({data}): mean over {self.num_samples:,} simulated data sets", *number_lines(self)]
        gaps = ", ".join(f"{number(gap)} ({level:.0%})" for level, gap in self.reliability().items())
        lines.append(f"  gaps          {gaps} of the data sets have no larger one")
        lines += [f"  warning       {text}" for text in rare_events(self, self.num_samples)]
        if self.observed_i is not None:
            lines += [
                f"  observed data {number(self.observed or 0.0)} ± {number(self.observed_se or 0.0)} nats, the mean of "
                f"{len(self.observed_i)} replicates, which lies below log p({data})",
                f"  95% limit     log p({data}) >= {number(self.limit(0.95))} nats (Markov)",
                "  The gaps say how far below it lies if the observed data are like those that the model simulates.",
            ]
        return "\n".join(lines)
