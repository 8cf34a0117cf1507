"""Joint draws in any batch size, the same numbers in each."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.model.integrals.densities import StagedModel, features, flatten
from numpyro_mi.model.staging import Staged
from numpyro_mi.model.views.samples import StagedSamples
from numpyro_mi.training.pairs import Pairs

GROUP = 128
"""Draws are simulated in groups of this one size, so that no batch size can change their rounding."""
_FITTING_GROUP = 2048


def joint_draws(draw: Staged, rng_key: jax.Array, count: int) -> Any:
    """The first `count` joint draws of a key, with a leading draw axis."""
    groups = list(_groups(draw, rng_key, count))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *groups)


def blocks(draw: Staged, rng_key: jax.Array, count: int, size: int, first: int = 0) -> Iterator[tuple[int, Any]]:
    """Blocks of exactly `size` draws with the index of their first one, from the draw with index `first` on.

    The last block may run past `count`: a compiled program takes one shape only.
    """
    number = -(-(count - first) // size)
    groups = _groups(draw, rng_key, first + number * size, first)
    waiting: Any = None
    for block in range(number):
        while waiting is None or _length(waiting) < size:
            group = next(groups)
            waiting = group if waiting is None else jax.tree.map(lambda a, b: np.concatenate([a, b]), waiting, group)
        yield first + block * size, jax.tree.map(lambda leaf: leaf[:size], waiting)
        waiting = jax.tree.map(lambda leaf: leaf[size:], waiting)


def joint_pairs(staged: StagedModel, rng_key: jax.Array, integral: int) -> Pairs:
    """Joint draws of one integral as flat vectors: its unconstrained sites, and the values it is given."""
    draw, own = staged.draw, staged.integrals[integral]
    held = own.held

    def supply(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, count, _FITTING_GROUP):
            u, x = jax.device_get(_pairs(draw, rng_key, start, integral, held))
            yield u[: count - start], x[: count - start]

    u, x = jax.eval_shape(partial(_pairs, integral=integral, held=held), draw, rng_key, 0)
    return Pairs(supply, u.shape[1], x.shape[1], own.flat_target, own.coordinates)


def sample_pairs(samples: StagedSamples, rng_key: jax.Array) -> Pairs:
    """Joint draws of a model without a likelihood as flat vectors; simulated once, then remembered."""
    known: list[tuple[np.ndarray, np.ndarray]] = []

    def supply(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i, start in enumerate(range(0, count, _FITTING_GROUP)):
            if i == len(known):
                known.append(jax.device_get(_samples(samples.draw, rng_key, start)))
            u, x = known[i]
            yield u[: count - start], x[: count - start]

    return Pairs(supply, samples.dimension, samples.num_features)


@jax.jit
def _samples(draw, rng_key, start):
    found = jax.vmap(lambda index: draw(jax.random.fold_in(rng_key, index)))(start + jnp.arange(_FITTING_GROUP))
    return found.u, found.x


@partial(jax.jit, static_argnames=("integral", "held"))
def _pairs(draw, rng_key, start, integral, held):
    def one(index):
        found = draw(jax.random.fold_in(rng_key, index))
        return flatten(found.points[integral]), features({name: found.values[name] for name in held})

    return jax.vmap(one)(start + jnp.arange(_FITTING_GROUP))


def _groups(draw: Staged, rng_key: jax.Array, count: int, first: int = 0) -> Iterator[Any]:
    for start in range(first - first % GROUP, count, GROUP):
        # On the host: cutting and joining there compiles nothing for each new shape.
        group = jax.device_get(_simulate(draw, rng_key, start))
        yield group if start >= first else jax.tree.map(lambda leaf: leaf[first % GROUP :], group)


@jax.jit
def _simulate(draw, rng_key, start):
    keys = jax.vmap(partial(jax.random.fold_in, rng_key))(start + jnp.arange(GROUP))
    return jax.vmap(draw)(keys)


def _length(draws: Any) -> int:
    return jax.tree.leaves(draws)[0].shape[0]
