"""Joint draws in any batch size, the same numbers in each."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.model.densities import JointDraw
from numpyro_mi.model.staging import Staged

GROUP = 128
"""Draws are simulated in groups of this one size, so that no batch size can change their rounding."""


def joint_draws(draw: Staged, rng_key: jax.Array, count: int) -> JointDraw:
    """The first `count` joint draws of a key, with a leading draw axis."""
    groups = list(_groups(draw, rng_key, count))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *groups)


def blocks(draw: Staged, rng_key: jax.Array, count: int, size: int) -> Iterator[tuple[int, JointDraw]]:
    """Blocks of exactly `size` draws with the index of their first one.

    The last block may run past `count`: a compiled program takes one shape only.
    """
    number = -(-count // size)
    groups = _groups(draw, rng_key, number * size)
    waiting: JointDraw | None = None
    for block in range(number):
        while waiting is None or _length(waiting) < size:
            group = next(groups)
            waiting = group if waiting is None else jax.tree.map(lambda a, b: np.concatenate([a, b]), waiting, group)
        yield block * size, jax.tree.map(lambda leaf: leaf[:size], waiting)
        waiting = jax.tree.map(lambda leaf: leaf[size:], waiting)


def _groups(draw: Staged, rng_key: jax.Array, count: int) -> Iterator[JointDraw]:
    for start in range(0, count, GROUP):
        # On the host: cutting and joining there compiles nothing for each new shape.
        yield jax.device_get(_simulate(draw.program, draw.constants, rng_key, start))


@partial(jax.jit, static_argnames=("program",))
def _simulate(program, constants, rng_key, start):
    keys = jax.vmap(partial(jax.random.fold_in, rng_key))(start + jnp.arange(GROUP))
    return jax.vmap(lambda key: program(constants, key))(keys)


def _length(draws: JointDraw) -> int:
    return jax.tree.leaves(draws)[0].shape[0]
