"""What the numbers of a result say about how it was made: limits reached, tails too light, events too rare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from numpyro_mi.results.estimation import PILOT_ROWS, carriers, mean, num_pilot_negatives, variational_limit
from numpyro_mi.results.text.decomposition import is_exact

if TYPE_CHECKING:
    from numpyro_mi.results.mutual_information import MIBounds
    from numpyro_mi.results.numbers import Bounds

_NEAR = 1.0  # nats to a cap
_CAP_SHARE = 0.1
_CONTRASTIVE_ROUNDING = 1e-3
_FEW_ESS, _FEW_SHARE = 5.0, 0.05
_LARGE_K, _WIDE_GAP = 0.7, 0.1
_FEWEST_WEIGHTS = 100  # for a Pareto fit, and for a log-mean that estimates the evidence
_MOST_FITS = 200
_CONSTANT = 1e-6  # nats
_LONG_TAIL = 300.0  # nats that a Pareto fit in double precision bears
_WIDE_EXCESS = 1.0  # nats; a tail that reaches less far in all the draws carries nothing
_INFINITE_K, _UNRELIABLE_K = 1.0, 0.5
_FEW_CARRIERS, _CARRIER_SHARE = 10, 0.2


def method_warnings(result: MIBounds) -> list[str]:
    """Warnings that depend on the method."""
    name = result.method.get("class")
    if result.lower is None or not np.isfinite(result.lower):
        return []
    if name == "InfoNCE":
        return _cap("the lower bound", result.lower, result.method["num_particles"])
    if name == "StructuredInfoNCE":
        return _structured_cap(result)
    if name == "GIWAE":
        return _cap("the contrastive term", mean(result.parts["contrastive"]).value, result.method["num_particles"])
    if name in ("MINE", "NWJ"):
        return _variational(result)
    if name in ("IWAE", "BarberAgakov") and len(result.stats) == 1:
        many = result.stats[0]["forward_log_weight"].shape[1] >= _FEWEST_WEIGHTS
        return [*_importance(result), *(_tails(result) if many else [])]
    return []


def _cap(what: str, value: float, num_particles: int) -> list[str]:
    cap = np.log(num_particles)
    if value < cap - _NEAR:
        return []
    return [
        f"{what} is within {_NEAR:g} nat of log {num_particles:,} = {cap:.2f}, which it never exceeds, however large "
        "the mutual information: more num_particles, or a method without such a limit (AIS, or MINEAIS if there is no "
        "likelihood)."
    ]


def _structured_cap(result: MIBounds) -> list[str]:
    """The cap on the mean of the own weight over the mean of all, which is all of the lower bound only without sums."""
    signs = [part["sign"] for part in result.decomposition if part["kind"] == "integral"]
    if len(result.stats) != 1 or signs != [-1]:  # nothing is sampled, or each integral has a cap of its own
        return []
    stats = result.stats[0]
    contrastive = stats["reverse_log_weight"][:, 0].astype(np.float64) - stats["reverse_log_evidence"]
    value = mean(contrastive).value
    lower = result.lower or 0.0
    all_of_it = abs(value - lower) <= _CONTRASTIVE_ROUNDING * max(1.0, abs(lower))
    what = "the lower bound" if all_of_it else "the contrastive term"
    return _cap(what, value, result.method["num_particles"])


def rare_events(bounds: Bounds, num_draws: int) -> list[str]:
    """Whether the terms say of themselves that rare events decide: few or none of them carry the spread.

    Parameters
    ----------
    bounds
        With terms that are sampled.
    num_draws
        Joint draws that the terms are made of.
    """
    sides = {"lower": bounds.lower_i, "upper": bounds.upper_i}
    found = {
        side: carriers(terms)
        for side, terms in sides.items()
        if terms is not None and len(terms) > 1 and np.isfinite(terms).all()
    }
    few = {side: count for side, count in found.items() if count < _few(bounds.num_samples)}
    if not few:
        return []
    count, name = min(few.values()), "both bounds" if len(few) > 1 else f"the {next(iter(few))} bound"
    start = f"the terms of {name} are all alike"
    if count:
        verb = "carry" if count > 1 else "carries"
        start = f"{count} of {bounds.num_samples:,} terms of {name} {verb} 90% of the spread"
    return [
        f"{start}: an event of probability below 3/N = {3 / num_draws:.2g} would not show in N = {num_draws:,} draws, "
        "and the interval knows only of what they show. To measure an event of probability p takes about 30/p draws."
    ]


def rare_events_of(results: Mapping[Any, MIBounds], noun: str) -> list[str]:
    """The same for several results by name, in one sentence."""
    names = [
        name
        for name, result in results.items()
        if not is_exact(result) and result.num_samples and rare_events(result, result.num_samples)
    ]
    if not names:
        return []
    least = min(results[name].num_samples for name in names)
    return [
        f"few terms, or none, carry the spread of {noun} {', '.join(map(str, names))}: an event of probability below "
        f"3/N = {3 / least:.2g} would not show in N = {least:,} draws, and the interval knows only of what they show."
    ]


def _few(num_samples: int) -> float:
    """Terms that are few among so many."""
    return min(_FEW_CARRIERS, _CARRIER_SHARE * num_samples)


def _variational(result: MIBounds) -> list[str]:
    found = []
    negatives = result.cost.get("scored_negatives", result.num_samples * result.method["num_negatives"])
    pilots = num_pilot_negatives(result.cost.get("pilot_rows", PILOT_ROWS))
    limit = variational_limit(negatives, pilots)
    capped = float(result.parts["capped"].mean())
    if capped > _CAP_SHARE or (result.lower is not None and result.lower > limit - _NEAR):
        found.append(
            f"the critic is capped in {capped:.0%} of the pairs, and no bound of this kind from {negatives:,} "
            f"negatives and {pilots:,} in pilots can certify much more than {limit:.2f} nats: that grows with the log "
            "of their number only. A method that knows a density (MINEAIS with a prior, AIS with a likelihood) has no "
            "such limit."
        )
    return found


def _importance(result: MIBounds) -> list[str]:
    """Too few weights that count, in either set; only the one with the own draw sees a mode that the guide misses."""
    stats = result.stats[0]
    drawn, own = stats["forward_log_weight"], stats["reverse_log_weight"]
    num_particles = drawn.shape[1]
    if num_particles < 2 * _FEW_ESS:
        return []
    shares = [float(np.mean(_ess(weights) < _FEW_ESS)) for weights in (drawn, np.hstack([own, drawn[:, 1:]]))]
    found = []
    if max(shares) > _FEW_SHARE:
        found.append(
            f"fewer than {_FEW_ESS:g} of {num_particles:,} weights count in {shares[0]:.0%} of the joint draws, or in "
            f"{shares[1]:.0%} if the simulated latent is one of them: the guide is too far from the posterior for "
            "importance sampling. Anneal from it: AIS(base=...)."
        )
    contrastive = result.parts.get("contrastive")
    near = contrastive is not None and mean(contrastive).value > np.log(num_particles) - _NEAR
    if num_particles >= _FEWEST_WEIGHTS and (near or (result.gap or 0.0) > _WIDE_GAP):
        median = float(np.median(_pareto_k(drawn[:_MOST_FITS])))
        if median > _LARGE_K:
            found.append(
                f"the median Pareto k of the weights is {median:.2f}, above {_LARGE_K}: more num_particles will help "
                "little; a guide with heavier tails, or AIS(base=...), will."
            )
    return found


def _tails(result: MIBounds) -> list[str]:
    """Whether the own weight exceeds the guide's so far and so often that its mean does not exist."""
    stats = result.stats[0]
    drawn = stats["forward_log_weight"].astype(np.float64)
    excess = stats["reverse_log_weight"][:, 0] - (logsumexp(drawn, axis=1) - np.log(drawn.shape[1]))
    excess = excess[np.isfinite(excess) & (excess > 0)]
    if len(excess) < _FEWEST_WEIGHTS or excess.max() < _WIDE_EXCESS:
        return []
    k = float(_pareto_k(np.log(excess)[None])[0])
    if k > _INFINITE_K:
        return [
            f"the tails of the guide are lighter than the posterior's (Pareto k {k:.1f} over the joint draws), so that "
            "the lower bound may be minus infinity in truth, and its value here rests on a few draws: use a guide with "
            "heavier tails."
        ]
    if k > _UNRELIABLE_K:
        return [
            f"the tails of the guide are light (Pareto k {k:.1f} over the joint draws), so that the standard error of "
            "the lower bound is unreliable: use a guide with heavier tails."
        ]
    return []


def _ess(log_weights: np.ndarray) -> np.ndarray:
    """Effective sample size of each row."""
    log_weights = log_weights.astype(np.float64)
    return np.exp(2 * logsumexp(log_weights, axis=1) - logsumexp(2 * log_weights, axis=1))


def _pareto_k(log_values: np.ndarray) -> np.ndarray:
    """Shape of a generalised Pareto distribution fitted to the upper tail of each row of `exp(log_values)`."""
    from arviz_stats.base import array_stats

    log_values = log_values.astype(np.float64)
    size = min(log_values.shape[1] // 5, int(3 * log_values.shape[1] ** 0.5))
    tail = np.sort(log_values, axis=1)[:, -max(5, size) :]
    length = np.where(np.isfinite(tail).all(1), tail[:, -1] - tail[:, 0], 0.0)
    shapes = np.full(len(log_values), -np.inf)  # equal weights have no tail
    fits = (length > _CONSTANT) & (length <= _LONG_TAIL)
    if fits.any():
        with np.errstate(over="ignore"):  # of smoothed weights, which are not used
            # `psislw` is written for leave-one-out cross-validation: what it takes are minus the log-weights.
            shapes[fits] = np.atleast_1d(array_stats.psislw(-log_values[fits], axis=-1)[1])
    long = length > _LONG_TAIL  # Hill's estimator, which the fit tends to as the shape grows
    shapes[long] = tail[long].mean(1) - tail[long, 0]
    return shapes
