"""Results as ArviZ `DataTree`s and back, without loss.

Groups: `/bounds` (terms of the two bounds, one a draw) and, for each annealed integral,
`/integral_0/forward`, `/integral_0/reverse` (log-weights, acceptance, cost) and `/integral_0/plan`
(frozen settings). Particles are weighted independent draws, so they are a dimension `particle`, not
`chain`, and no convergence diagnostic of chains applies to them. Everything that is not an array is
JSON in the attributes of the root.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from numpyro_mi.results.mutual_information import MIBounds

_DIRECTIONS = ("forward", "reverse", "guide", "start")
_DIMS = {
    "log_weight": ("draw", "particle"),
    "log_evidence": ("draw",),
    "accept_prob": ("transition",),
    "accept_prob_i": ("draw",),
    "num_grad": ("draw",),
    "num_resampled": ("draw",),
    "fallback": ("draw",),
    "modes": ("draw",),
    "regression_weight": ("draw",),
    "standardised": ("draw",),
    "guided": ("draw",),
    "betas": ("temperature",),
    "coordinates_untried": (),
    "step_size": ("transition",),
    "inverse_mass_matrix": ("transition", "dim", "dim_bis"),
}
_ATTRIBUTES = (
    "latent",
    "data",
    "method",
    "cost",
    "seconds",
    "key",
    "environment",
    "num_requested",
    "decomposition",
    "notes",
    "given",
    "fixed",
    "num_configurations",
    "rounding",
)


def to_datatree(result: MIBounds) -> xr.DataTree:
    """A result as a `DataTree`."""
    groups: dict[str, xr.Dataset] = {"/": xr.Dataset(attrs=_attributes(result))}
    terms = {"lower_i": result.lower_i, "upper_i": result.upper_i}
    sides = {name: ("draw", value, {"units": "nats"}) for name, value in terms.items() if value is not None}
    groups["/bounds"] = xr.Dataset(sides, coords={"draw": np.arange(result.num_samples)})
    for i, (stats, plan) in enumerate(zip(result.stats, result.plan, strict=True)):
        for direction in _DIRECTIONS:
            prefix = f"{direction}_"
            own = {name.removeprefix(prefix): value for name, value in stats.items() if name.startswith(prefix)}
            if own:
                groups[f"/integral_{i}/{direction}"] = _dataset(own)
        groups[f"/integral_{i}/plan"] = _dataset(plan)
    if result.parts:
        groups["/parts"] = xr.Dataset({name: ("draw", value) for name, value in result.parts.items()})
    return xr.DataTree.from_dict(groups)


def from_datatree(tree: xr.DataTree) -> MIBounds:
    """The result that `to_datatree` was given.

    Raises
    ------
    ValueError
        If the tree is not one of a result.
    """
    if "numpyro_mi" not in tree.attrs or "bounds" not in tree.children:
        raise ValueError(f"this DataTree holds no result of mi_bounds (groups: {sorted(tree.children)}).")
    attributes = json.loads(tree.attrs["numpyro_mi"])
    bounds = tree["bounds"].to_dataset()
    stats: list[dict[str, np.ndarray]] = []
    plans: list[dict[str, np.ndarray]] = []
    while f"integral_{len(stats)}" in tree.children:
        integral = tree[f"integral_{len(stats)}"]
        stats.append(
            {
                f"{direction}_{name}": np.asarray(value)
                for direction in _DIRECTIONS
                if direction in integral.children
                for name, value in integral[direction].to_dataset().data_vars.items()
            }
        )
        plans.append({str(name): np.asarray(value) for name, value in integral["plan"].to_dataset().data_vars.items()})
    lower_i, upper_i = (np.asarray(bounds[name]) if name in bounds else None for name in ("lower_i", "upper_i"))
    for name in ("latent", "data", "decomposition", "notes", "given", "fixed"):
        attributes[name] = tuple(attributes[name])
    found = tree["parts"].to_dataset().data_vars.items() if "parts" in tree.children else ()
    parts = {str(name): np.asarray(value) for name, value in found}
    return MIBounds(lower_i, upper_i, plan=tuple(plans), stats=tuple(stats), parts=parts, **attributes)


def _attributes(result: MIBounds) -> dict[str, Any]:
    """One JSON string that restores the result, and a few plain numbers for readers of the file."""
    record = {name: getattr(result, name) for name in _ATTRIBUTES}
    numbers = {name: getattr(result, name) for name in ("lower", "lower_se", "upper", "upper_se", "gap", "gap_se")}
    low, high = result.interval(0.95)
    return {
        "numpyro_mi": json.dumps(record),
        "units": "nats",
        "interval_95": [low, high],
        **{name: value for name, value in numbers.items() if value is not None},
    }


def _dataset(arrays: dict[str, np.ndarray]) -> xr.Dataset:
    return xr.Dataset({name: (_DIMS[name][: np.ndim(value)], value) for name, value in arrays.items()})
