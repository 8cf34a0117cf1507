"""Joint draws as flat vectors, for what is fitted or trained on them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from numpyro_mi.targets import AnnealedTarget


class Pairs(NamedTuple):
    """A supply of joint draws (u, x) for fitting; none of them is ever scored.

    Attributes
    ----------
    blocks
        `count -> iterator of (u, x)`: the first `count` draws, in NumPy arrays `(n, d)` and `(n, p)`.
    dimension
        Of u, the unconstrained latents.
    num_features
        Of x, the flattened data.
    target
        `x -> p(u, x)`, a pytree; None where the model's density is not known.
    coordinates
        Stages the map between u and the sites that it stands for; None where they have no names.
    """

    blocks: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]
    dimension: int
    num_features: int
    target: Callable[[jax.Array], AnnealedTarget] | None = None
    coordinates: Callable[[], Any] | None = None

    def first(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` draws at once."""
        u, x = zip(*self.blocks(count), strict=True)
        return np.concatenate(u), np.concatenate(x)
