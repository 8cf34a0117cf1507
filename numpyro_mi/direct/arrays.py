"""Direct bounds on the rows of arrays: which rows train and are scored, and in which units."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.direct.base import DirectMethod, is_fitted
from numpyro_mi.direct.critics import RescaledCritic
from numpyro_mi.draws.array_prior import Columns
from numpyro_mi.draws.keys import Role, role_key

_SHARES = (0.5, 0.1)  # training, pilots; the rest is scored
_FEWEST_TERMS = 8


def refuse_fitted(method: DirectMethod) -> None:
    """Refuse guides and critics that may have seen the rows that would be scored."""
    for name in ("guide", "base", "critic"):
        part = getattr(method, name, None)
        if is_fitted(part) or isinstance(part, RescaledCritic):
            raise ValueError(
                f"{type(method).__name__} on arrays got {name}, a {type(part).__name__}, which is fitted already: rows "
                "are split by the key, so that one fitted to these arrays would be scored on rows that it was fitted "
                "to, and the bound be too high. Pass what it was fitted from, such as RegressionGuide() or "
                "MLPCritic(), to fit it anew, or a critic function of your own."
            )


def split_rows(num_rows: int, method: DirectMethod, rng_key: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the rows that train, of the pilots, and of what is scored, shape `(terms, rows of a term)`."""
    order = np.asarray(jax.random.permutation(role_key(rng_key, Role.SPLIT), num_rows))
    ends = [round(num_rows * share) for share in np.cumsum(_SHARES)]
    training, pilots, scored = np.split(order, ends)
    size = method.num_latents
    num_terms = len(scored) // size
    if num_terms < _FEWEST_TERMS:
        raise ValueError(
            f"{type(method).__name__} scores one term a block of {size} rows, and {num_rows} rows leave {len(scored)} "
            f"for scoring ({_SHARES[0]:.0%} train, {_SHARES[1]:.0%} are pilots), {num_terms} blocks where at least "
            f"{_FEWEST_TERMS} are needed: pass more rows, or make the blocks smaller."
        )
    return training, pilots, scored[: num_terms * size].reshape(num_terms, size)


def in_own_units(method: Any, z: Columns, x: Columns) -> DirectMethod:
    """The method, with a user's critic as it is called in the coordinates of standardised columns."""
    if hasattr(method.critic, "initial"):
        return method
    units = (jnp.asarray(array, float) for array in (x.loc, x.scale, z.loc, z.scale))
    return replace(method, critic=RescaledCritic(method.critic, *units))
