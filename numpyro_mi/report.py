"""A result as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpyro_mi.results import MIBounds

_MIN_DRAWS = 100
_HEAVY_SKEWNESS = 5.0


def report(result: MIBounds) -> str:
    """One readable block: bounds, gap, interval, cost, verdict, warnings."""
    low, high = result.interval(0.95)
    names = f"I({', '.join(result.latent)}; {', '.join(result.data)})"
    draws = f"{result.num_samples:,} joint draws"
    if result.partial:
        draws += f" of {result.num_requested:,} (interrupted)"
    lines = [
        f"Mutual information {names}: {_method(result)}, {draws}",
        f"  lower bound   {_pair(result.lower, result.lower_se)}",
        f"  upper bound   {_pair(result.upper, result.upper_se)}",
        f"  gap           {_pair(result.gap, result.gap_se)}",
        f"  95% interval  [{_number(low)}, {_number(high)}] nats = [{_bits(low)}, {_bits(high)}] bits",
    ]
    lines += [f"  {term}" for term in result.terms]
    if result.cost:
        lines.append(f"  cost          {_cost(result)}")
    lines.append(f"  verdict       {verdict(result)}")
    lines += [f"  warning       {text}" for text in warnings_of(result)]
    return "\n".join(lines)


def verdict(result: MIBounds) -> str:
    """What limits the width, and what to do about it."""
    bad = result.num_non_finite
    if any(bad.values()):
        return _spoiled(result, bad)
    if result.gap is None or result.gap_se is None or result.lower_se is None or result.upper_se is None:
        return "one side only: the width is unknown."
    error = max(result.lower_se, result.upper_se)
    if result.gap == 0 and result.gap_se == 0:
        return "every term is exact, and the width is sampling error alone." if error else "exact."
    if error == 0:
        return f"gap {result.gap:.2g} without sampling error: add temperatures or particles, not draws."
    ratio = result.gap / error
    size = f"gap {result.gap:.2g} = {abs(ratio):.2g} standard errors"
    if ratio < 2:
        return f"{size}: add draws, not temperatures."
    if ratio > 6:
        return f"{size}: add temperatures or particles, not draws."
    return f"{size}: temperatures or particles and draws both help."


def warnings_of(result: MIBounds) -> list[str]:
    """What a reader of the numbers must know."""
    found = []
    for side, count in result.num_non_finite.items():
        if count:
            found.append(
                f"{count} of {result.num_samples} terms of the {side} bound are not finite, so it is "
                "infinite; none was dropped."
            )
    if 0 < result.num_samples < _MIN_DRAWS:
        found.append(f"{result.num_samples} draws are few: the interval rests on at least {_MIN_DRAWS}.")
    for side, terms in (("lower", result.lower_i), ("upper", result.upper_i)):
        if terms is None or not np.isfinite(terms).all() or terms.size < 3 or terms.std() == 0:
            continue
        skewness = float(np.mean(((terms - terms.mean()) / terms.std()) ** 3))
        if abs(skewness) > _HEAVY_SKEWNESS:
            found.append(
                f"terms of the {side} bound are heavily skewed ({skewness:+.1f}): a few draws carry its "
                "standard error; the interval is corrected for skewness, yet add draws."
            )
    if result.gap is not None and result.gap_se is not None and result.gap < -4 * result.gap_se:
        found.append("the bounds cross by more than 4 standard errors: please report this model, it should not happen.")
    return found


def _spoiled(result: MIBounds, bad: dict[str, int]) -> str:
    hard = any(np.isneginf(stat["forward_log_weight"]).any() for stat in result.stats)
    if bad.get("upper") and not bad.get("lower") and hard:
        share = np.mean([np.isneginf(stat["forward_log_weight"]).mean() for stat in result.stats])
        return (
            f"a hard support: {share:.0%} of the forward chains have weight zero, because a prior draw outside the "
            f"support of the data cannot be annealed into it; {bad['upper']} draws lost all their chains. The "
            "lower bound stands; more particles lose fewer draws."
        )
    spoiled = [f"{side} ({count})" for side, count in bad.items() if count]
    rest = "the other side stands." if len(spoiled) < len(bad) else "no side stands."
    return f"terms without a finite value on the {' and '.join(spoiled)} side; {rest}"


def _method(result: MIBounds) -> str:
    method = result.method
    if method.get("class") != "AIS":
        return str(method.get("class", "exact"))
    scheme = (method.get("scheme") or {}).get("class", "?")
    temperatures, particles = method["num_temperatures"], method["num_particles"]
    return f"AIS, {scheme}, {_plural(temperatures, 'temperature')} x {_plural(particles, 'particle')}"


def _cost(result: MIBounds) -> str:
    cost, seconds = result.cost, result.seconds
    pilot = cost.get("pilot_forward", 0) + cost.get("pilot_reverse", 0)
    scored = cost.get("scored_forward", 0) + cost.get("scored_reverse", 0)
    text = f"{_count(scored)} gradients scored, {_count(pilot)} in pilots"
    if seconds:
        text += f"; {sum(seconds.values()):.1f} s on {result.environment.get('device', '?')}"
    return text


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _count(number: int) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:  # else it would round up to 1000 of the unit below
            return f"{number / size:.3g}{unit}"
    return str(number)


def _pair(value: float | None, se: float | None) -> str:
    if value is None or se is None:
        return "-"
    if not np.isfinite(value):
        return f"{value} nats"
    return f"{_number(value)} ± {_number(se)} nats"


def _number(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else f"{value}"


def _bits(value: float) -> str:
    return _number(value / np.log(2))
