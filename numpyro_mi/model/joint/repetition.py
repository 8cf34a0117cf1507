"""Whether a model is the same one whenever it is called, and puts held values where it draws them."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jax import random
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from numpyro.primitives import Messenger

from numpyro_mi.model.joint import checks
from numpyro_mi.model.staging import by_output


class ForwardScans(Messenger):
    """A model that refuses a scan backwards over sites, where NumPyro puts held values in the reverse order."""

    def postprocess_message(self, msg: dict) -> None:
        """Look at the sites of a scan that has run."""
        if msg["type"] != "control_flow" or len(msg["args"]) != 5 or not msg["args"][-1]:
            return
        _, (found, _) = msg["value"]
        names = [name for name, site in found.trace.items() if site["type"] == "sample"]
        if names:
            checks.forwards(names)


def changing(simulate: Callable[[jax.Array], dict[str, Any]], names: Collection[str]) -> list[str]:
    """Sites that are computed with other numbers at another call, by `simulate(rng_key)` with the same key.

    Only numbers are compared. What a model computes on the host, as a callback, is not looked into.
    """
    # JAX remembers what it traced by the function: each call has one of its own.
    calls = [jax.make_jaxpr(lambda key: simulate(key), return_shape=True)(random.key(0)) for _ in range(2)]
    if _same(*(_numbers(closed) for closed, _ in calls)):
        return []
    first, second = (
        {name: _numbers(part) for name, part in by_output(closed, shape).items()} for closed, shape in calls
    )
    return [name for name in names if name in first and not _same(first[name], second[name])]


def _same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(_equal, first, second))


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _numbers(closed: ClosedJaxpr) -> list[np.ndarray]:
    """All numbers that a staged function computes with, in the order of its text."""
    found: list[Any] = []
    _collect(closed.jaxpr, found)
    return [_array(value) for value in (*closed.consts, *found)]


def _collect(jaxpr: Jaxpr, found: list[Any]) -> None:
    for eqn in jaxpr.eqns:
        found.extend(var.val for var in eqn.invars if isinstance(var, Literal))
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda leaf: isinstance(leaf, _KINDS)):
            if isinstance(value, ClosedJaxpr):
                found.extend(value.consts)
            if isinstance(value, _KINDS):
                _collect(value.jaxpr if isinstance(value, ClosedJaxpr) else value, found)


_KINDS = (ClosedJaxpr, Jaxpr)


def _array(value: Any) -> np.ndarray:
    if jax.numpy.issubdtype(jax.numpy.result_type(value), jax.dtypes.prng_key):
        value = random.key_data(value)
    return np.asarray(value)
