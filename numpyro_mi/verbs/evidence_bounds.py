"""Bounds on the log evidence of data: of simulated data sets from both sides, of real ones from below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from numpyro_mi.draws.keys import as_key
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.evidence.schemes.independent_reverse import IR
from numpyro_mi.model.integrals.decomposition import Decomposition, evidence
from numpyro_mi.model.integrals.densities import check_parameters_at, fixed_log_probs
from numpyro_mi.model.joint import call
from numpyro_mi.model.joint.observed import observed_data
from numpyro_mi.model.joint.trace import joint_model, latents_of
from numpyro_mi.results.estimation import spoil
from numpyro_mi.results.evidence import EvidenceBounds
from numpyro_mi.results.files.methods import describe
from numpyro_mi.runs.evidence import Rows, require_likelihood
from numpyro_mi.runs.scoring import RawRun, replicates
from numpyro_mi.verbs.arguments import DEFAULT_NUM_SAMPLES, check_run, integer


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
        values = call.observed_values(observed, joint.traced, joint.data)
    values = None if values is None else observed_data(joint, values)
    if isinstance(method, AIS) and isinstance(method.scheme, IR) and values is not None:
        _refuse_sampler_on_observed()
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


def _refuse_sampler_on_observed() -> NoReturn:
    """Refuse the independent reverse scheme where there is no exact draw to start from."""
    raise ValueError(
        "IR(posterior_sampler) starts from exact draws, which observed data have none of: use IM() or CR(), or call "
        "the model without its data."
    )
