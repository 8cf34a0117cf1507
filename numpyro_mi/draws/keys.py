"""Who draws with which key: no two roles ever share one.

Inside a role the same holds: a key is split, folded into, or passed on, and only one of the three; where two
things draw, `a, b = split(key)` comes first.
"""

from enum import IntEnum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.options import shown


class Role(IntEnum):
    """What a random number is for."""

    JOINT = 0
    CHAINS = 1
    PILOT_JOINT = 2
    PILOT_CHAINS = 3
    FIT = 4
    CONDITION = 5
    PILOT_CONDITION = 6
    TRAINING_JOINT = 7
    NEGATIVES = 8
    SPLIT = 9
    REPLICATES = 10
    REPLICATE_CONDITION = 11
    PILOT_CHOICE = 12


def role_key(rng_key: jax.Array, role: Role) -> jax.Array:
    """The key of one role."""
    return jax.random.fold_in(rng_key, int(role))


def as_key(rng_key: jax.Array | int | None) -> jax.Array:
    """A new-style key from a key of either style, an integer, or None."""
    if rng_key is None:
        return jax.random.key(0)
    if isinstance(rng_key, int | np.integer) and not isinstance(rng_key, bool):
        return jax.random.key(int(rng_key))
    if isinstance(rng_key, jax.Array | np.ndarray):
        if rng_key.ndim == 0 and jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key):
            if rng_key.dtype != jax.random.key(0).dtype:
                raise TypeError(
                    f"rng_key is of type {rng_key.dtype}, but JAX's default is {jax.random.key(0).dtype}: "
                    "pass a key of the default kind, or an integer."
                )
            return jnp.asarray(rng_key)
        if rng_key.shape == jax.random.key_data(jax.random.key(0)).shape and rng_key.dtype == np.uint32:
            return jax.random.wrap_key_data(jnp.asarray(rng_key))
    raise TypeError(f"rng_key must be a JAX random key, an integer or None, got {shown(rng_key)}.")


def key_record(key: jax.Array) -> dict[str, Any]:
    """A key as plain data."""
    return {"data": np.asarray(jax.random.key_data(key)).tolist(), "impl": str(jax.random.key_impl(key))}
