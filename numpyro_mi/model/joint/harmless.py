"""What looks like a fault of a model and is harmless: a scale of exactly 1, a parameter that changes no law."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from numpyro_mi.model.sites.site import Site, points_of, with_points
from numpyro_mi.model.staging import KEY, depends_on, stage

Trace = Callable[[jax.Array], dict[str, dict]]
_CENTERED, _DECENTERED = "_centered", "_decentered"
_CENTERINGS = (0.2, 0.9)
_NUM_KEYS = 4
_ROUNDING = 1e-3  # relative


def settled(sites: Mapping[str, Site], trace: Trace) -> dict[str, Site]:
    """Sites with what their messages alone do not tell: whether a traced scale is 1, and where Deltas in mixtures are.

    `trace` is one in which every random site is drawn.
    """
    scaled = [name for name, own in sites.items() if own.scaled]
    pointed = [name for name, own in sites.items() if own.points]
    scales = _constants(trace, scaled, lambda msg: msg["scale"])
    points = _constants(trace, pointed, lambda msg: points_of(msg["fn"]))
    found = dict(sites)
    found |= {name: found[name]._replace(scaled=bool(np.any(scale != 1))) for name, scale in scales.items()}
    return found | {name: with_points(found[name], points.get(name)) for name in pointed}


def _constants(trace: Trace, names: Sequence[str], read: Callable[[dict], Any]) -> dict[str, Any]:
    """What `read` finds in the messages of some sites: of those where it depends on no draw."""
    if not names:
        return {}

    def values(inputs):
        messages = trace(inputs[KEY])
        return {name: jax.tree.map(jnp.asarray, read(messages[name])) for name in names}

    inputs = {KEY: random.key(0)}
    fixed = [name for name, by in depends_on(values, inputs).items() if not by]
    staged = stage(lambda: {name: value for name, value in values(inputs).items() if name in fixed})
    return jax.device_get(staged())


def is_centering(name: str, sites: Mapping[str, Site]) -> bool:
    """Whether a parameter has the name, and the sites, of one of `LocScaleReparam(centered=None)`."""
    if not name.endswith(_CENTERED):
        return False
    kinds = [sites[other].kind if other in sites else None for other in centered_site(name)]
    return kinds == ["deterministic", "sample"]


def centered_site(name: str) -> tuple[str, str]:
    """The site that such a parameter belongs to, deterministic now, and the random one that it is computed from."""
    site = name.removesuffix(_CENTERED)
    return site, site + _DECENTERED


def changes_nothing(draws: Callable[[Any, jax.Array], dict[str, Any]], parameter: Any, own: str) -> bool:
    """Whether all sites but one are drawn the same, whatever the value of a parameter.

    `draws` maps a value and a key to a draw of all sites.
    """

    def both(key):
        return [draws(jnp.full(parameter.shape, value, parameter.dtype), key) for value in _CENTERINGS]

    first, second = jax.device_get(jax.jit(jax.vmap(both))(random.split(random.key(0), _NUM_KEYS)))
    return all(
        np.allclose(one, other, _ROUNDING, _ROUNDING, equal_nan=True)
        for name in first
        if name != own
        for one, other in zip(*map(jax.tree.leaves, (first[name], second[name])), strict=True)
    )


def notes(parameters: Sequence[str]) -> tuple[str, ...]:
    """What a result says of parameters that were left at their initial values."""
    return tuple(
        f"{name} of LocScaleReparam has its initial value: no value of it changes the law of {centered_site(name)[0]}."
        for name in parameters
    )
