"""A lower bound on the expected information gain and its gradient, as a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from numpyro_mi.results.text.format import number


@dataclass(frozen=True, eq=False, repr=False)
class GainGradient:
    """A lower bound on the expected information gain of one design, and its gradient, nats per unit of the design.

    The gradient is an unbiased estimate of that of the bound; it bounds nothing itself.

    Attributes
    ----------
    lower, lower_se
        The lower bound and its standard error, nats.
    gradient, gradient_se
        Its derivative by each number of the design, and the standard errors; in the structure of the design.
    num_samples
        Joint draws.
    notes
        What there is to say of the numbers.
    """

    lower: float
    lower_se: float
    gradient: Any
    gradient_se: Any
    num_samples: int
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lines = [
            f"Gradient of a lower bound on the expected information gain: {self.num_samples:,} joint draws",
            f"  {'lower bound':24} {number(self.lower):>9} ± {number(self.lower_se)} nats",
        ]
        paths = jax.tree_util.tree_flatten_with_path(self.gradient)[0]
        for (path, values), errors in zip(paths, jax.tree.leaves(self.gradient_se), strict=True):
            for index in np.ndindex(values.shape):
                name = f"design{jax.tree_util.keystr(path)}{list(index) if index else ''}"
                lines.append(f"  by {name:21} {number(values[index]):>9} ± {number(errors[index])}")
        return "\n".join([*lines, *(f"  note  {note}" for note in self.notes)])
