"""Joint draws as flat vectors, for what is fitted or trained on them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


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
    """

    blocks: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]
    dimension: int
    num_features: int

    def first(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` draws at once."""
        u, x = zip(*self.blocks(count), strict=True)
        return np.concatenate(u), np.concatenate(x)
