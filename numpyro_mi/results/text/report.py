"""A result as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from numpyro_mi.results.estimation import mean
from numpyro_mi.results.text.decomposition import (
    SAMPLERS,
    decomposition_lines,
    is_exact,
    other_starts,
    settings_lines,
    untried_coordinates,
)
from numpyro_mi.results.text.diagnostics import method_warnings, rare_events
from numpyro_mi.results.text.format import bits, count, number, pair, plural

if TYPE_CHECKING:
    from numpyro_mi.results.mutual_information import MIBounds, MIDifference
    from numpyro_mi.results.numbers import Bounds

_MIN_DRAWS = 100
_HEAVY_SKEWNESS = 5.0
_PARTS = (  # name, label, remark
    ("variational", "variational", ""),
    ("contrastive", "contrastive", ""),
    ("ibal_upper", "IBAL at most", ", which says how well the annealing did and does not bound I"),
)


def report(result: MIBounds) -> str:
    """One readable block: bounds, gap, interval, decomposition, cost, verdict, warnings."""
    draws = f"{result.num_samples:,} {_unit(result)}"
    if result.partial:
        draws += f" of {result.num_requested:,} (interrupted)"
    how = f"{method_name(result)}, {draws}"
    if result.num_configurations:
        how = f"exact, a sum over {result.num_configurations:,} joint values"
    title = f"Mutual information {quantity(result)}: {how}"
    lines = [title, *number_lines(result), *decomposition_lines(result), *_parts(result), *settings_lines(result)]
    if result.cost or result.seconds:
        lines.append(f"  cost          {_cost(result)}")
    lines.append(f"  verdict       {verdict(result)}")
    lines += [f"  note          {text}" for text in result.notes]
    lines += [f"  warning       {text}" for text in warnings_of(result)]
    return "\n".join(lines)


def quantity(result: MIBounds) -> str:
    """What is bounded, as a formula."""
    given = ", ".join((*result.given, *(f"{name} fixed" for name in result.fixed)))
    return f"I({', '.join(result.latent)}; {', '.join(result.data)}{' | ' + given if given else ''})"


def report_difference(difference: MIDifference) -> str:
    """The bounds on a difference as one readable block."""
    how = "exact" if difference.exact else f"{difference.num_samples:,} pairs of joint draws"
    found = [] if difference.exact else rare_events(difference, difference.num_samples)
    title = f"Difference of mutual information: {how}"
    return "\n".join([title, *number_lines(difference), *(f"  warning       {text}" for text in found)])


def verdict(result: MIBounds) -> str:
    """What limits the width, and what to do about it."""
    bad = result.num_non_finite
    if any(bad.values()):
        return _spoiled(result, bad)
    if result.lower_i is None or result.upper_i is None:
        if "estimate" in result.parts:
            return "an estimate and no bound: its error has either sign and is not known."
        side = "lower" if result.upper_i is None else "upper"
        return f"one side only: how far the truth lies beyond the {side} bound is not known."
    gaps = result.upper_i - result.lower_i
    gap, gap_se = mean(gaps)
    # Of the lower bound: the gap's own heavy tail is in the error of the upper bound, and would hide the gap.
    error = mean(result.lower_i).se
    if gap == 0 and gap_se == 0:
        if is_exact(result):
            return "exact."
        rest = "the width is sampling error alone" if error else "all that were drawn are alike"
        return f"every term is exact, and {rest}."
    if _cross(result):
        return "none: the bounds cross."
    if error and gap < 2 * error:
        return f"{_size(gap, error)}: more num_samples, rather than {_effort(result)}."
    few, share = _largest(gaps)
    if share > 0.5:
        make = "makes" if few == 1 else "make"
        return (
            f"{few} of {gaps.size:,} draws {make} {share:.0%} of the gap (median {np.median(gaps):.2g}): "
            f"more {_effort(result)}, {other_starts(result)}.{untried_coordinates(result)}"
        )
    if not error or gap > 6 * error:
        what = f"more {_effort(result)}, rather than num_samples."
    else:
        what = f"num_samples, and {_effort(result)}, both help."
    return f"{_size(gap, error)}: {what}{untried_coordinates(result)}"


def warnings_of(result: MIBounds) -> list[str]:
    """What a reader of the numbers must know."""
    found = method_warnings(result)
    if is_exact(result):
        return found
    for side, lost in result.num_non_finite.items():
        if lost:
            found.append(
                f"{lost} of {result.num_samples} terms of the {side} bound are not finite, so it is "
                "infinite; none was dropped."
            )
    if 0 < result.num_samples < _MIN_DRAWS:
        found.append(f"{result.num_samples} draws are few: the interval rests on at least {_MIN_DRAWS}.")
    rare = rare_events(result, max(result.num_samples, result.cost.get("scored_rows", 0)))
    found += rare
    for side, terms in (("lower", result.lower_i), ("upper", result.upper_i)):
        if rare or terms is None or not np.isfinite(terms).all() or terms.size < 3 or terms.std() == 0:
            continue
        skewness = float(np.mean(((terms - terms.mean()) / terms.std()) ** 3))
        if abs(skewness) > _HEAVY_SKEWNESS:
            found.append(
                f"terms of the {side} bound are heavily skewed ({skewness:+.1f}): a few draws carry its "
                "standard error; the interval allows for the skewness that these draws show."
            )
    if _cross(result):
        found.append("the bounds cross by more than 4 standard errors: please report this model, it should not happen.")
    if result.upper is not None and result.upper_se is not None and result.upper < -4 * result.upper_se:
        found.append(
            "the upper bound lies below zero by more than 4 standard errors, which no mutual information does: does a "
            "distribution of the model draw from another law than its log_prob says?"
        )
    return found


def _effort(result: MIBounds) -> str:
    """What closes the gap of a method."""
    if result.method.get("class") not in SAMPLERS:
        return "num_temperatures or num_particles"
    if "guide" not in result.method:
        return "num_particles"
    return "num_particles, or a better guide" if "num_particles" in result.method else "work on the guide"


def _size(gap: float, error: float) -> str:
    if not error:
        return f"gap {gap:.2g} without sampling error"
    return f"gap {gap:.2g} = {gap / error:.2g} standard errors of the lower bound"


def _largest(gaps: np.ndarray) -> tuple[int, float]:
    """How many draws the widest 1 % are, and their share of all that is positive of the gap."""
    few = max(1, gaps.size // 100)
    total = np.maximum(gaps, 0).sum()
    return few, float(np.sort(gaps)[-few:].sum() / total) if total else 0.0


def _cross(result: MIBounds) -> bool:
    return result.gap is not None and result.gap_se is not None and result.gap < -4 * result.gap_se


def _spoiled(result: MIBounds, bad: dict[str, int]) -> str:
    hard = any(np.isneginf(stat["forward_log_weight"]).any() for stat in result.stats)
    if bad.get("upper") and not bad.get("lower") and hard:
        share = np.mean([np.isneginf(stat["forward_log_weight"]).mean() for stat in result.stats])
        return (
            f"a hard support: {share:.0%} of the forward chains have weight zero, because a prior draw outside the "
            f"support of the data cannot be annealed into it; {bad['upper']} draws lost all their chains. The "
            "lower bound stands; more num_particles lose fewer draws."
        )
    good = [side for side, count in bad.items() if not count]
    return f"only the {good[0]} bound stands." if good else "no side stands."


def number_lines(bounds: Bounds) -> list[str]:
    """Both bounds, gap and interval, a line each."""
    if bounds.lower_i is None and bounds.upper_i is None and bounds.estimate is not None:
        return [f"  estimate      {bounds.estimate:.4f} nats, which bounds nothing"]
    low, high = bounds.interval(0.95)
    return [
        f"  lower bound   {pair(bounds.lower, bounds.lower_se)}",
        f"  upper bound   {pair(bounds.upper, bounds.upper_se)}",
        f"  gap           {pair(bounds.gap, bounds.gap_se)}",
        f"  95% interval  [{number(low)}, {number(high)}] nats = [{bits(low)}, {bits(high)}] bits",
    ]


def _parts(result: MIBounds) -> list[str]:
    """What the lower bound is made of, and what goes beside it."""
    found = [
        f"  {label:<14}{pair(*mean(result.parts[name]))}{note}" for name, label, note in _PARTS if name in result.parts
    ]
    if "own_score" in result.parts:
        log_means = result.parts["log_mean_exp_score"]
        value = result.parts["own_score"].mean() - (logsumexp(log_means) - np.log(log_means.size))
        found.append(f"  DV estimate   {value:.4f} nats, not a bound")
    return found


def _unit(result: MIBounds) -> str:
    """What one term of the bound stands for."""
    rows = result.cost.get("scored_rows")
    return "joint draws" if rows is None or rows < 2 * result.num_samples else "disjoint blocks of joint draws"


def method_name(result: MIBounds) -> str:
    """The method with its sizes."""
    method = result.method
    parts = [str(method.get("class", "exact"))]
    if "scheme" in method:
        parts.append((method["scheme"] or {}).get("class", "?"))
    sizes = [
        plural(method[name], noun)
        for name, noun in (("num_temperatures", "temperature"), ("num_particles", "particle"))
        if name in method
    ]
    if sizes:
        parts.append(" x ".join(sizes))
    guide = method.get("base") or method.get("guide")
    if guide:
        parts.append(f"from {guide.get('fitted', guide).get('class', 'a guide')}")
    return ", ".join(parts)


def _cost(result: MIBounds) -> str:
    cost, seconds = result.cost, result.seconds
    pilot = sum(cost.get(f"pilot_{name}", 0) for name in ("forward", "reverse", "guide"))
    scored = sum(cost.get(f"scored_{name}", 0) for name in ("forward", "reverse", "guide", "gradients"))
    text = []
    if scored or pilot or "scored_forward" in cost:
        pilots = (
            f", {count(pilot)} in pilots" if "pilot_forward" in cost else ", those of training and pilots not counted"
        )
        text.append(f"{count(scored)} gradients scored{pilots}")
    if "scored_rows" in cost:
        sizes = [f"{cost[f'{part}_rows']:,} {part}" for part in ("training", "pilot", "scored")]
        text.append(f"rows: {', '.join(sizes)}")
    if seconds:
        compiling = f", of which {seconds['compiling']:.1f} compiling" if "compiling" in seconds else ""
        text.append(f"{sum(seconds.values()):.1f} s{compiling}, on {_device(result)}")
    return "; ".join(text)


def _device(result: MIBounds) -> str:
    device = result.environment.get("device", "?")
    platform, _, kind = device.partition(" (")
    return platform if kind == f"{platform})" else device
