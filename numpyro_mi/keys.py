"""Who draws with which key: no two roles ever share one.

Inside a role the same holds: a key is split, folded into, or passed on, and only one of the three; where two
things draw, `a, b = split(key)` comes first.
"""

from enum import IntEnum

import jax


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


def role_key(rng_key: jax.Array, role: Role) -> jax.Array:
    """The key of one role."""
    return jax.random.fold_in(rng_key, int(role))
