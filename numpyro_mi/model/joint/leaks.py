"""Whether a model reads its data elsewhere than in `obs=`, where simulation would mix in real data."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import numpy as np
from jax import random

from numpyro_mi.model.joint import call as call_checks
from numpyro_mi.model.joint.checks import listed
from numpyro_mi.model.joint.contents import Contents, as_array, dtype_of
from numpyro_mi.model.joint.dependence import Named, Numbers, holders, readers
from numpyro_mi.model.joint.resemblance import is_made_of
from numpyro_mi.model.joint.single_numbers import scalar_holders, scalar_readers, without_units
from numpyro_mi.model.staging import essences, outputs, own_arrays

Trace = Callable[[Callable[[], Any], frozenset[str], jax.Array], dict[str, dict]]
Bind = Callable[[Callable, tuple, Mapping[str, Any]], Callable[[], Any]]

_MODEL = "<model>"  # no argument is named like this
_MOST_NAMED = 5


def check(
    model: Callable,
    args: tuple,
    kwargs: Mapping[str, Any],
    bind: Bind,
    simulated: frozenset[str],
    sites: Collection[str],
    trace: Trace,
) -> None:
    """Refuse a model whose simulation depends on an argument that holds data.

    An argument holds data if the value that a data site is given is computed from it. Once the data
    are simulated nothing may depend on it any more. Arguments are looked into wherever numbers may be: defaults, what
    `functools.partial` binds, containers and attributes of objects. A single integer or boolean is mostly a size, an
    index or a switch, and holds data if a value that is given moves with it as with a number. A value that comes of no
    argument is one that the model closes over, and is compared with the arrays that the simulation is computed from.

    Parameters
    ----------
    model, args, kwargs
        As the model is called.
    bind
        `bind(model, args, kwargs)`: the model without arguments.
    simulated
        Sites that are given a value by the call, and are drawn instead.
    sites
        All random sites.
    trace
        `trace(run, simulated, rng_key)`: the trace of a bound model with those sites drawn.
    """
    call = _Call(model, args, kwargs, bind)

    def given(numbers: Numbers) -> dict[str, Any]:
        found = trace(call(numbers), frozenset(), random.key(0))
        return {name: found[name]["value"] for name in simulated}

    def simulation(rng_key: jax.Array, numbers: Numbers) -> dict[str, Any]:
        found = trace(call(numbers), simulated, rng_key)
        return {name: (found[name]["value"], _log_prob(found[name])) for name in sites}

    call.open(given)
    sources = _sources(given, call.contents, simulated)
    read = _read(partial(simulation, random.key(0)), call.contents, set().union(*sources.values()))
    if read:
        _refuse_data_reading([label.replace(_MODEL, "model") for label in read[:_MOST_NAMED]], simulated)
    unknown = sorted(name for name in simulated if all(label.startswith(_MODEL) for label in sources[name]))
    if unknown:
        values = outputs(lambda: {name: value for name, value in given({}).items() if name in unknown})
        try:
            arrays = own_arrays(lambda rng_key: simulation(rng_key, {}), random.key(0))
        except Exception:
            return  # it cannot be computed in parts
        for name in unknown:
            if any(is_made_of(array, values[name]) for array in arrays):
                call_checks.refuse_data_within(name)


def _log_prob(msg: dict) -> Any:
    try:
        return msg["fn"].log_prob(jax.lax.stop_gradient(msg["value"]))
    except NotImplementedError:
        return jax.tree.leaves(msg["fn"])  # it can be simulated and has no density


def _sources(given: Named, contents: Contents, names: Collection[str]) -> dict[str, set[str]]:
    """For each value that is given, the numbers that hold it."""
    numbers = {label: as_array(leaf) for label, leaf in {**contents.arrays, **contents.columns}.items()}
    selections = [label for label, array in numbers.items() if _may_select(array)]
    by_label = holders(given, contents.arrays, contents.columns, selections)
    scalars = scalar_holders(given, contents.scalars, set().union(*by_label.values()))
    for name in names:
        sources = {label for label, sites in by_label.items() if name in sites}
        masks = {label for label in sources if np.issubdtype(dtype_of(numbers[label]), np.bool_)}
        for label in masks if masks != sources else ():  # obs=jnp.where(mask, x, 0)
            by_label[label] = by_label[label] - {name}
    by_label = without_units(given, contents.originals(), {**by_label, **scalars})
    return {name: {label for label, sites in by_label.items() if name in sites} for name in names}


def _may_select(array: Any) -> bool:
    """Whether it may be the index of one element after the other, as in obs=x[index]."""
    return dtype_of(array).kind in "iu" and len(np.unique(np.asarray(array))) == np.size(array)


def _read(simulation: Named, contents: Contents, labels: Collection[str]) -> list[str]:
    """Those of the numbers that a simulation depends on."""
    arrays, columns, scalars = (
        {label: value for label, value in numbers.items() if label in labels}
        for numbers in (contents.arrays, contents.columns, contents.scalars)
    )
    by_label = {**readers(simulation, arrays, columns), **scalar_readers(simulation, scalars)}
    return [label for label in contents.originals() if by_label.get(label)]


class _Call:
    """A model bound to its arguments, with other numbers in these."""

    def __init__(self, model: Callable, args: tuple, kwargs: Mapping[str, Any], bind: Bind):
        bound: Any = model
        while isinstance(bound, partial):
            bound, args, kwargs = bound.func, (*bound.args, *args), {**bound.keywords, **kwargs}
        self._model, self._bind, self._plain = bound, bind, (args, dict(kwargs))
        self._passed: dict[str, Any] = {}
        self._num_positional = 0
        self.contents = Contents({})

    def open(self, given: Named) -> None:
        """Look into the arguments, but not where defaults, or copies of objects, make another model."""
        here = essences(partial(given, {}))
        for defaults, objects in ((True, True), (False, True), (False, False)):
            self._passed, self._num_positional = _by_name(self._model, *self._plain, defaults)
            self.contents = Contents({_MODEL: self._model, **self._passed}, objects)
            try:
                if essences(partial(given, self.contents.originals())) == here:
                    return
            except Exception:
                continue

    def __call__(self, numbers: Numbers) -> Callable[[], Any]:
        if not numbers:
            return self._bind(self._model, *self._plain)
        filled = self.contents.filled(numbers)
        names = list(self._passed)
        args = tuple(filled[name] for name in names[: self._num_positional])
        return self._bind(filled[_MODEL], args, {name: filled[name] for name in names[self._num_positional :]})


def _by_name(model: Callable, args: tuple, kwargs: dict[str, Any], defaults: bool) -> tuple[dict[str, Any], int]:
    """The arguments of a call by name, positional ones first, and how many these are."""
    numbered = {f"positional argument {i}": value for i, value in enumerate(args)}
    try:
        bound = inspect.signature(model).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return {**numbered, **kwargs}, len(args)
    if defaults:
        bound.apply_defaults()
    names: list[str] = []
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{name}[{i}]" for i in range(len(bound.arguments.get(name, ())))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(name)
    passed = dict(zip(names, bound.args, strict=False))
    if len(passed) < len(bound.args) or set(passed) & set(bound.kwargs):
        return {**numbered, **kwargs}, len(args)
    return {**passed, **bound.kwargs}, len(passed)


def _refuse_data_reading(arguments: Sequence[str], sites: Collection[str]) -> NoReturn:
    """Refuse a model whose data argument is read outside `obs=`."""
    raise ValueError(
        f"the model reads its data argument {listed(arguments)} outside obs=, so {listed(sorted(sites))} cannot be "
        "simulated from the model alone: the real data would leak in. Write an autoregression with "
        "numpyro.contrib.control_flow.scan on the sampled values, or pass None if the model then simulates its data. "
        "What else it needs must be an argument of its own: a mask of missing values, a number that is computed from "
        "the data, such as that of classes, or covariates (as arguments, or in a dict of arrays, not in one array "
        "with the outcomes). A mask that other data choose must be computed from what numpyro.sample returns for them."
    )
