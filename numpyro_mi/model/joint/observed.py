"""Values that sites are held at: in the type of the site's own draws, and refused where the site cannot have them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro import handlers

from numpyro_mi.model.joint import checks
from numpyro_mi.model.joint.checks import short
from numpyro_mi.model.joint.joint_model import JointModel, Values
from numpyro_mi.model.sites.support import kept_cells, known_value, off_support
from numpyro_mi.model.staging import depends_on


def observed_data(model: JointModel, values: Mapping[str, Any]) -> Values:
    """Values of the data sites, of the shape of one draw, as the model itself would draw them.

    Cells that a mask leaves out may hold anything, and get a value of the support. Supports that depend on latents
    are not looked at, beyond whether numbers are finite, and whole where the site is discrete.

    Raises
    ------
    TypeError, ValueError
        Naming the site, and how many of its entries are outside its support.
    """
    arrays = {name: as_numbers(f"observed data {name!r}", value) for name, value in values.items()}
    example = jax.eval_shape(model.simulate, random.key(0))
    others = {name: shape for name, shape in example.items() if name not in arrays}
    cast = {name: _cast(array, example[name].dtype) for name, array in arrays.items()}

    def trace(latents: Values) -> dict[str, dict]:
        return handlers.trace(model.held_at({**latents, **cast})).get_trace()

    def supports(latents: Values) -> dict[str, Any]:
        found = trace(latents)
        return {name: jax.tree.leaves(found[name]["fn"].support) for name in arrays}

    def looked_at(given: Mapping[str, jax.Array]) -> dict[str, tuple[Any, Any, Any]]:
        drawn = model.simulate(random.key(0))
        found = trace({name: drawn[name] for name in others})
        result = {}
        for name, value in given.items():
            site = found[name]
            kept = kept_cells(site["fn"])
            kept = jnp.ones((), bool) if kept is None else kept
            known = known_value({**site, "value": cast[name]})
            result[name] = (off_support(site["fn"], value, not moving[name]), kept, known)
        return result

    with checks.model_errors():
        moving = depends_on(supports, others) if others else dict.fromkeys(arrays, frozenset())
        found = jax.device_get(jax.jit(looked_at)({name: jnp.asarray(array) for name, array in arrays.items()}))
    for name, (outside, kept, _) in found.items():
        lost = np.broadcast_to(kept, arrays[name].shape) & _lost(arrays[name], cast[name])
        refuse_outside("observed data", name, arrays[name], outside if outside.any() else lost)
    return {name: jnp.asarray(known) for name, (_, _, known) in found.items()}


def as_numbers(what: str, value: Any) -> np.ndarray:
    """An array of real numbers or booleans."""
    array = np.ma.filled(value.astype(float), np.nan) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    kind = array.dtype
    number = jnp.issubdtype(kind, jnp.number) and kind.kind != "m" and not jnp.issubdtype(kind, jnp.complexfloating)
    if not number and kind != np.bool_:
        raise TypeError(f"{what} must be an array of real numbers or booleans, got one of type {kind}.")
    return array


def refuse_outside(what: str, name: str, value: np.ndarray, outside: np.ndarray) -> None:
    """Refuse values of which entries are outside the support of their site."""
    if not outside.any():
        return
    entries = f"{int(outside.sum()):,} of {outside.size:,} entries"
    if outside.shape == value.shape:
        entries += f", such as {short(np.asarray(value)[outside][0].item())},"
    raise ValueError(
        f"{what} {name!r}: {entries} are outside the support of its distribution in the model, where a log-density "
        "means nothing. Pass values that the site can have, and leave cells that are missing out by handlers.mask."
    )


def _cast(array: np.ndarray, dtype: Any) -> jax.Array:
    with np.errstate(invalid="ignore"):  # of cells that are masked, or are refused
        return jnp.asarray(array.astype(dtype))


def _lost(array: np.ndarray, cast: jax.Array) -> np.ndarray:
    """Entries that are others as numbers of the site's type; rounding of floats aside."""
    if jnp.issubdtype(cast.dtype, jnp.floating):
        return np.zeros(array.shape, bool)
    return np.asarray(cast) != array
