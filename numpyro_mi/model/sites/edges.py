"""Why a model's own draws have densities or coordinates that are not finite, and what helps."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np


def why_not_finite(name: str, values: Mapping[str, np.ndarray]) -> str:
    """What makes a density or an unconstrained value infinite where the parameters are in range, and what helps."""
    overflowing = [site for site, value in values.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if overflowing:
        return (
            f"draws of site(s) {', '.join(map(repr, overflowing))} are infinite or NaN themselves, as those of a "
            "truncation many deviations from the location are. "
            + _or_in_double_precision("draw the distance from the edge as the site, from an Exponential for example.")
        )
    if name in values and _has_ties(values[name]):
        return (
            "two successive entries of an ordered vector round to the same number. Draw its first entry and its steps "
            "as sites of their own, the steps from a positive distribution, add them up by jnp.cumsum, and name both; "
            "or make the steps differ less."
        )
    return (
        "its parameters are all in range, but these draws are at the edge of the support in this precision, or its "
        "log_prob fails. "
        + _or_in_double_precision(
            "use a support farther from its edge (of a distribution that is truncated on both sides far above its "
            "location, draw the negative)."
        )
    )


def _or_in_double_precision(advice: str) -> str:
    """An advice, after that of double precision where that is not yet used."""
    if jnp.result_type(float) == np.float64:
        return advice[0].upper() + advice[1:]
    return f"Use jax.enable_x64, or {advice}"


def _has_ties(value: np.ndarray) -> bool:
    """Whether draws are vectors whose entries never fall, and sometimes do not rise."""
    steps = np.diff(value) if value.ndim > 1 and value.dtype.kind == "f" else np.ones(0)
    return bool(steps.size and (steps >= 0).all() and (steps == 0).any())
