"""One element of a batch, and what is left of the batch, as distributions of their own."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import random
from numpyro.distributions import constraints
from numpyro.distributions.distribution import Distribution

Cell = tuple[Any, ...]
"""An index for each batch axis; integers, or scalars of JAX."""
_SPARE = 2**31 - 1  # that no distribution splits its key by


class WholeDraw:
    """The draw of the whole batch that its parts take theirs from, so that splitting a site changes no draw.

    The first part that is drawn draws it, with its own key; parts that are held at values never do.
    """

    def __init__(self, fn: Distribution):
        self._fn = fn
        self.key: Any = None
        self._value: Any = None

    def __call__(self, key: Any) -> jax.Array:
        """The draw."""
        if self._value is None:
            self.key, self._value = key, self._fn.sample(key)
        return self._value


class Element(Distribution):
    """One element of a batch.

    Densities are those of the whole batch, read at one place, so that they hold for every distribution.

    Parameters
    ----------
    base_dist
        The whole batch.
    cell
        Which one.
    whole
        The draw that it takes its own from.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("base_dist", "cell")

    def __init__(self, base_dist: Distribution, cell: Cell, whole: WholeDraw):
        self.base_dist, self.cell, self._whole = base_dist, cell, whole
        super().__init__((), base_dist.event_shape, validate_args=False)

    @property
    def has_enumerate_support(self) -> bool:
        """Whether its values can be listed."""
        return self.base_dist.has_enumerate_support

    @property
    def support(self) -> Any:
        """Of this element, whose bounds may be its own."""
        return _support_at(self.base_dist.support, self.base_dist.shape(), self.cell)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """A draw."""
        whole = self.base_dist.sample(key, sample_shape) if sample_shape else self._whole(key)
        return whole[(..., *self.cell, *[slice(None)] * self.event_dim)]

    def log_prob(self, value: jax.Array, intermediates: Any = None) -> jax.Array:
        """Log-density in nats."""
        whole = self.base_dist
        lead = jnp.shape(value)[: jnp.ndim(value) - self.event_dim]
        shape = (*lead, *whole.shape())
        spread = jnp.reshape(value, (*lead, *[1] * len(self.cell), *self.event_shape))
        spread = jnp.broadcast_to(spread, shape)
        everywhere = whole.support
        if _support_at(everywhere, whole.shape(), self.cell) is not everywhere:
            # Outside their own bounds the densities of the others might spoil the gradient.
            with contextlib.suppress(NotImplementedError):
                here = jnp.zeros(whole.batch_shape, bool).at[self.cell].set(True)
                here = here.reshape(*whole.batch_shape, *[1] * self.event_dim)
                spread = jnp.where(here, spread, everywhere.feasible_like(spread))
        return whole.log_prob(spread)[(..., *self.cell)]

    def enumerate_support(self, expand: bool = True) -> jax.Array:
        """Its values, where they are those of every element."""
        return self.base_dist.enumerate_support(expand=False).reshape(-1)


class Others(Distribution):
    """A whole batch whose elements at some cells are spare draws, which stand for nothing.

    Parameters
    ----------
    base_dist
        The whole batch.
    cells
        Where the spare ones are.
    whole
        The draw that the others are taken from.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("base_dist", "cells")

    def __init__(self, base_dist: Distribution, cells: tuple[Cell, ...], whole: WholeDraw):
        self.base_dist, self.cells, self._whole = base_dist, cells, whole
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def has_enumerate_support(self) -> bool:
        """Whether its values can be listed."""
        return self.base_dist.has_enumerate_support

    @property
    def support(self) -> Any:
        """Of the batch."""
        return self.base_dist.support

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """A draw."""
        value = self.base_dist.sample(key, sample_shape) if sample_shape else self._whole(key)
        spare = self.base_dist.sample(random.fold_in(key, _SPARE), sample_shape)
        for cell in self.cells:
            at = (..., *cell, *[slice(None)] * self.event_dim)
            value = value.at[at].set(spare[at])
        return value

    def log_prob(self, value: jax.Array, intermediates: Any = None) -> jax.Array:
        """Log-density in nats, element by element."""
        return self.base_dist.log_prob(value)

    def enumerate_support(self, expand: bool = True) -> jax.Array:
        """Its values, where they are those of every element."""
        return self.base_dist.enumerate_support(expand=expand)


def _support_at(support: Any, shape: tuple[int, ...], cell: Cell) -> Any:
    """The support of one element; the very same where its bounds are those of all."""
    if isinstance(support, constraints.independent):
        base = _support_at(support.base_constraint, shape, cell)
        if base is support.base_constraint:
            return support
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    leaves, tree = jax.tree.flatten(support)
    if not any(jnp.size(leaf) > 1 for leaf in leaves):
        return support
    around = shape[: len(shape) - support.event_dim]
    return jax.tree.unflatten(tree, [jnp.broadcast_to(leaf, around)[cell] for leaf in leaves])
