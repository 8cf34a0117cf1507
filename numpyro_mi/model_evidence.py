"""Bounds on the log evidence of data: of simulated data sets from both sides, of real ones from below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

from numpyro_mi.api import DEFAULT_NUM_SAMPLES, check_run, integer
from numpyro_mi.config import describe
from numpyro_mi.decomposition import Decomposition, evidence
from numpyro_mi.diagnostics import rare_events
from numpyro_mi.driver import RawRun, replicates
from numpyro_mi.estimation import mean, spoil
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.evidence.independent_reverse import IR
from numpyro_mi.keys import as_key
from numpyro_mi.model import call_checks, integral_checks
from numpyro_mi.model.densities import check_parameters_at, fixed_log_probs
from numpyro_mi.model.observed import observed_data
from numpyro_mi.model.trace import joint_model, latents_of
from numpyro_mi.options import shown
from numpyro_mi.report import number, number_lines
from numpyro_mi.results import Bounds
from numpyro_mi.rows import Rows, require_likelihood

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


def evidence_bounds(
    model: Callable,
    data: str | Sequence[str],
    *,
    observed: Mapping[str, Any] | None = None,
    method: EvidenceMethod | None = None,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    num_replicates: int = 32,
    rng_key: jax.Array | int | None = None,
    params: Mapping[str, Any] | None = None,
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress_bar: bool = True,
) -> EvidenceBounds:
    """Bounds on the log evidence of a model's data, all latents integrated out.

    On data sets simulated from the model both sides are bounded, and show how good the estimates are. On the
    data that the model is called with, only the lower side can be, by the same frozen plan.

    Parameters
    ----------
    model
        A NumPyro model.
    data
        Name or names of the data sites.
    observed
        Values of the data sites, which must lie in their supports; None takes those that the model is called with, if
        there are any. Cells that a mask of the model leaves out may hold anything.
    method
        As in `mi_bounds`, with a likelihood; None means `AIS()`.
    num_samples
        Simulated data sets.
    num_replicates
        Independent estimates on the observed data, at least 2.
    rng_key, params, model_args, model_kwargs, batch_size, progress_bar
        As in `mi_bounds`.

    Returns
    -------
    EvidenceBounds
        In nats.

    Raises
    ------
    TypeError, ValueError
        As in `mi_bounds`.

    References
    ----------
    Grosse, Ancha and Roy, Measuring the reliability of MCMC inference with bidirectional Monte Carlo, NeurIPS
    2016 (both directions on simulated data).
    """
    method = AIS() if method is None else method
    num_samples, batch_size = check_run(method, num_samples, batch_size, with_likelihood=True)
    num_replicates = integer("num_replicates", num_replicates, at_least=2)
    latents = latents_of(model, data, model_args, model_kwargs, params)
    joint = joint_model(model, latents, data, model_args, model_kwargs, params)
    values = joint.observed_values()
    if observed is not None:
        values = call_checks.observed_values(observed, joint.traced, joint.data)
    values = None if values is None else observed_data(joint, values)
    if isinstance(method, AIS) and isinstance(method.scheme, IR) and values is not None:
        integral_checks.refuse_sampler_on_observed()
    require_likelihood(joint, method)
    if values is not None:
        check_parameters_at(joint, values)
    row = evidence(joint)
    rows = Rows(joint, (row,), method, as_key(rng_key), may_sum=False)
    raw = rows.run(num_samples, batch_size, progress_bar)
    ((lower_i, upper_i),) = raw.terms
    observed_i = None if values is None else _replicated(rows, row, raw, values, num_replicates)
    return EvidenceBounds(lower_i, upper_i, joint.data, observed_i, describe(method), raw.cost, raw.seconds)


def _replicated(rows: Rows, row: Decomposition, raw: RawRun, values: dict[str, jax.Array], count: int) -> np.ndarray:
    """Replicates of log W on the observed data."""
    exact = fixed_log_probs(rows.model, [name for _, name in row.exact], row.sums, values)
    parts = replicates(rows.staged.integrals, rows.method, raw, rows.key, values, count)
    return spoil(exact + sum(parts, np.zeros(count)), -1)
