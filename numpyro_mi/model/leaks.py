"""Whether a model reads its data argument elsewhere than in `obs=`, where simulation would mix in real data."""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import random
from numpyro import handlers

from numpyro_mi.model import call_checks
from numpyro_mi.model.staging import depends_on, essence

Arguments = Mapping[str, Any]


def check(
    model: Callable,
    args: tuple,
    kwargs: Mapping[str, Any],
    params: Mapping[str, Any],
    simulated: frozenset[str],
    sites: Collection[str],
    trace: Callable[[Callable, frozenset[str], jax.Array], dict[str, dict]],
) -> None:
    """Refuse a model whose simulation depends on an argument that holds data.

    An argument holds data if the value that a data site is given is computed from it. Once the data
    are simulated nothing may depend on it any more. Arrays, floats and lists of numbers are looked
    at; what a model closes over cannot be.

    Parameters
    ----------
    model, args, kwargs, params
        As the model is called.
    simulated
        Sites that are given a value by the call, and are drawn instead.
    sites
        All random sites.
    trace
        `trace(run, simulated, rng_key)`: the trace of a bound model with those sites drawn.
    """
    # By position in a dict, for a tuple of numbers is a leaf and the tuple of arguments is none.
    passed = {"args": dict(enumerate(args)), "kwargs": dict(kwargs)}
    leaves, tree = jax.tree.flatten(passed, is_leaf=_is_number_list)
    numbers = {str(i): _as_array(leaf) for i, leaf in enumerate(leaves) if _may_hold_data(leaf)}

    def traced(values: Arguments, drawn: frozenset[str]) -> dict[str, dict]:
        filled = [_as_passed(leaf, values[str(i)]) if str(i) in values else leaf for i, leaf in enumerate(leaves)]
        new = jax.tree.unflatten(tree, filled)
        run = partial(handlers.substitute(model, data=dict(params)), *new["args"].values(), **new["kwargs"])
        return trace(run, drawn, random.key(0))

    def given(site: str, values: Arguments) -> dict[str, Any]:
        return {site: traced(values, frozenset())[site]["value"]}

    def simulation(values: Arguments) -> dict[str, Any]:
        found = traced(values, simulated)
        return {
            name: (found[name]["value"], found[name]["fn"].log_prob(jax.lax.stop_gradient(found[name]["value"])))
            for name in sites
        }

    if not numbers:
        return
    holds_data: set[str] = set()
    for site in simulated:
        sources = _read_by(partial(given, site), numbers)
        masks = {name for name in sources if np.issubdtype(np.asarray(numbers[name]).dtype, np.bool_)}
        holds_data |= sources if masks == sources else sources - masks  # obs=jnp.where(mask, x, 0)
    both = sorted(int(i) for i in holds_data & _read_by(simulation, numbers)) if holds_data else []
    if both:
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(passed, is_leaf=_is_number_list)[0]]
        call_checks.refuse_data_reading([_argument_name(model, paths[i]) for i in both], simulated)


def _may_hold_data(leaf: Any) -> bool:
    """Arrays, floats and lists of numbers; a whole number alone is a size, and a boolean alone a switch."""
    if _is_number_list(leaf) or isinstance(leaf, float):
        return True
    return hasattr(leaf, "shape") and (np.ndim(leaf) > 0 or np.issubdtype(np.asarray(leaf).dtype, np.floating))


def _is_number_list(value: Any) -> bool:
    if not isinstance(value, list | tuple) or hasattr(value, "_fields") or not value:
        return False
    return all(
        _is_number_list(item) or (isinstance(item, int | float) and not isinstance(item, bool)) for item in value
    )


def _as_array(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, list | tuple | float) else leaf


def _as_passed(leaf: Any, value: Any) -> Any:
    """An array in the form of the argument that it stands for."""
    if isinstance(leaf, list | tuple):
        return type(leaf)(_as_passed(part, value[i]) for i, part in enumerate(leaf))
    traced = isinstance(value, jax.core.Tracer)
    return type(leaf)(value) if isinstance(leaf, int | float) and not traced else value


def _read_by(fn: Callable[[Arguments], dict[str, Any]], numbers: Arguments) -> frozenset[str]:
    """The arguments that `fn` reads the values of.

    Code that cannot be traced (NumPy functions of an argument, sizes computed from one) is staged at
    the given values and at others instead: what is not read leaves the same program. Where the model
    takes no other values it reads them.
    """
    try:
        return frozenset().union(*depends_on(fn, dict(numbers)).values())
    except Exception:
        if len(numbers) > 1:
            return frozenset().union(*(_read_by(fn, {name: value}) for name, value in numbers.items()))
    ((name, value),) = numbers.items()
    here = essence(partial(fn, {name: value}))
    for other in _others(value):
        try:
            return frozenset() if essence(partial(fn, {name: other})) == here else frozenset({name})
        except Exception:
            continue
    return frozenset({name})


def _others(value: Any) -> list[Any]:
    """Other values of the same shape and type (still a pandas object, if it is one), likely ones first."""
    dtype = np.asarray(value).dtype
    if np.issubdtype(dtype, np.bool_):
        return [~value]
    ramp = np.linspace(1, 2, np.size(value)).reshape(np.shape(value)).astype(dtype)
    return [value + ramp, value - ramp, (value - value.min() / 2).astype(dtype), (value * 0.5).astype(dtype)]


def _argument_name(model: Callable, path: tuple) -> str:
    """Name of the model's argument that a pytree path of `(args, kwargs)` points to."""
    where, key = path[0].key, path[1].key
    if where == "kwargs":
        return str(key)
    try:
        return list(inspect.signature(model).parameters)[key]
    except (TypeError, ValueError, IndexError):
        return f"positional argument {key}"
