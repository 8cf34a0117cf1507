"""One element of a batch as a distribution."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.distribution import Distribution


class Element(Distribution):
    """One element of a batch, as a distribution of its own.

    Densities are those of the whole batch, read at one place, so that they hold for every distribution.

    Parameters
    ----------
    base_dist
        The whole batch.
    cell
        Which one, an index for each batch axis.
    """

    arg_constraints = {}
    pytree_data_fields = ("base_dist",)
    pytree_aux_fields = ("cell",)

    def __init__(self, base_dist: Distribution, cell: tuple[int, ...]):
        self.base_dist, self.cell = base_dist, cell
        super().__init__((), base_dist.event_shape, validate_args=False)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether its values can be listed."""
        return self.base_dist.has_enumerate_support

    @property
    def support(self) -> Any:
        """Of this element, whose bounds may be its own."""
        return _support_at(self.base_dist.support, self.base_dist.shape(), self.cell)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """A draw."""
        return self.base_dist.sample(key, sample_shape)[(..., *self.cell, *[slice(None)] * self.event_dim)]

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
                here = np.zeros((*whole.batch_shape, *[1] * self.event_dim), bool)
                here[self.cell] = True
                spread = jnp.where(here, spread, everywhere.feasible_like(spread))
        return whole.log_prob(spread)[(..., *self.cell)]

    def enumerate_support(self, expand: bool = True) -> jax.Array:
        """Its values, where they are those of every element."""
        return self.base_dist.enumerate_support(expand=False).reshape(-1)


def _support_at(support: Any, shape: tuple[int, ...], cell: tuple[int, ...]) -> Any:
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
