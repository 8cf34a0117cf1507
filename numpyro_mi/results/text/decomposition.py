"""What a result is made of, as text: the log-marginals, and the settings that their chains had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpyro_mi.results.mutual_information import MIBounds

_MOST_NAMES = 3
_KINDS = ("exact", "sum", "integral", "cancelled")
SAMPLERS = ("IWAE", "BarberAgakov", "StructuredInfoNCE")
"""Methods without chains."""


def decomposition_lines(result: MIBounds) -> list[str]:
    """The log-marginals that are exact in one line, and a line for each that is an integral."""
    if independent(result):
        return ["  nothing is left of the decomposition: the groups are independent and I = 0 exactly"]
    kinds = {kind: [part for part in result.decomposition if part["kind"] == kind] for kind in _KINDS}
    exact = [f"{_sign(part)} log {_factors(part)}" for part in kinds["exact"]]
    lines = [f"  exact         {_some(exact, ' ', 'terms')}"] if exact else []
    verb = "sampled" if result.method.get("class") in SAMPLERS else "annealed"
    shares = _gap_shares(result)
    for kind, label in (("sum", "summed"), ("integral", verb)):
        what = "sum" if kind == "sum" else "integral"
        for i, part in enumerate(kinds[kind]):
            over = _some(part["integrated"], ", ", "sites")
            share = f", {shares[i]:.0%} of the gap" if kind == "integral" and len(shares) > 1 else ""
            lines.append(f"  {label:<14}{_sign(part)} log of the {what} of {_factors(part)} over {over}{share}")
    for part in kinds["cancelled"]:
        over = _some(part["integrated"], ", ", "sites")
        lines.append(f"  cancelled     the integral of {_factors(part)} over {over}")
    return lines


def settings_lines(result: MIBounds) -> list[str]:
    """Which integrals have settings from pilots of each data set, and in which coordinates their chains ran."""
    lines = []
    for i, stats in enumerate(result.stats):
        if "start_standardised" not in stats:
            continue
        guided, standardised = (np.asarray(stats[f"start_{name}"]) for name in ("guided", "standardised"))
        shares = {
            "the guide": guided.mean(),
            "the prior, standardised": standardised.mean(),
            "the prior": (guided + standardised == 0).mean(),
        }
        taken = {name: share for name, share in shares.items() if share}
        starts = ", ".join(f"{name} ({share:.0%})" if len(taken) > 1 else name for name, share in taken.items())
        which = f"of integral {i + 1} " if len(result.stats) > 1 else ""
        lines.append(f"  settings      {which}from pilots of each data set; start: {starts}")
    return lines


def untried_coordinates(result: MIBounds) -> str:
    """A sentence on coordinates that the pilots did not try, for want of the settings of each data set."""
    if not any("coordinates_untried" in plan for plan in result.plan):
        return ""
    return (
        ' The pilots did not try other coordinates (num_temperatures * num_particles is small, or settings="shared"): '
        'set coordinates="standardised", and see whether the gap is smaller.'
    )


def other_starts(result: MIBounds) -> str:
    """What helps where a few data sets carry the gap; chains from the prior can start from each data set instead."""
    method = result.method
    if "start" not in method or method.get("base") is not None:
        return "or another parametrisation"
    return 'another parametrisation, or a start from each data set: base=LaplaceGuide(), start="chosen"'


def independent(result: MIBounds) -> bool:
    """Whether nothing is left to estimate."""
    terms = (result.lower_i, result.upper_i)
    left = any(part["kind"] != "cancelled" for part in result.decomposition)
    return not left and all(term is not None and not term.any() for term in terms)


def is_exact(result: MIBounds) -> bool:
    """Whether the result has no sampling error: every value was summed over, or nothing is left to estimate."""
    return result.num_configurations > 0 or independent(result)


def _gap_shares(result: MIBounds) -> list[float]:
    """Of each integral, its share of the gap between the bounds."""
    signs = [part["sign"] for part in result.decomposition if part["kind"] == "integral"]
    if len(signs) != len(result.stats) or any(result.num_non_finite.values()):
        return []
    widths = [
        abs(sign) * float(np.mean(stat["reverse_log_evidence"] - stat["forward_log_evidence"]))
        for sign, stat in zip(signs, result.stats, strict=True)
    ]
    total = sum(widths)
    return [width / total for width in widths] if total > 0 else []


def _sign(part: dict[str, Any]) -> str:
    size = abs(part["sign"])
    return ("+" if part["sign"] > 0 else "-") + (f" {size}" if size != 1 else "")


def _factors(part: dict[str, Any]) -> str:
    factors = [
        f"p({name} | {_some(parents, ', ', 'sites')})" if parents else f"p({name})"
        for name, parents in part["factors"].items()
    ]
    return _some(factors, " ", "factors")


def _some(items: list[str], separator: str, noun: str) -> str:
    """The first three, and how many there are."""
    text = separator.join(items[:_MOST_NAMES])
    return text if len(items) <= _MOST_NAMES else f"{text}{separator}... ({len(items)} {noun})"
