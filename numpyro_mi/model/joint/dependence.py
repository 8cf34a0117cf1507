"""Which of the numbers in its arguments the outputs of a function depend on."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from numpyro_mi.model.joint.contents import as_array, dtype_of, in_form
from numpyro_mi.model.staging import depends_on, essences

Numbers = Mapping[str, Any]
Named = Callable[[Numbers], dict[str, Any]]
"""Named outputs at other numbers, given by their labels; at no others `{}`."""
Readers = dict[str, set[str]]
"""By label, the names of the outputs that depend on it."""


def readers(fn: Named, arrays: Numbers, columns: Numbers) -> Readers:
    """Which outputs depend on the values of arrays, and on columns of data frames, in any way.

    Code that cannot be traced (NumPy functions of an argument, sizes computed from one) is staged at
    the given values and at others instead: what is not read leaves the same program. Where it
    takes no other values it reads them.
    """
    return _readers(fn, arrays, columns, by_index=True, other_shapes=True)


def holders(fn: Named, arrays: Numbers, columns: Numbers, selections: Collection[str]) -> Readers:
    """Which outputs are computed from the values of arrays and columns.

    An array among `selections` that only says which elements of another one are taken does not count where that can
    be traced, nor does one that only decides how many there are; a tuple of integers that takes no other values
    is a shape.
    """
    found = _readers(fn, arrays, columns, by_index=True, other_shapes=False)
    if any(found[label] for label in selections):
        by_value = _readers(fn, arrays, columns, by_index=False, other_shapes=False)
        found.update({label: by_value[label] for label in selections})
    return found


def _readers(fn: Named, arrays: Numbers, columns: Numbers, by_index: bool, other_shapes: bool) -> Readers:
    found: Readers = {}
    try:
        found.update(_traced(fn, arrays, by_index))
    except Exception:
        for label, value in arrays.items() if len(arrays) > 1 else ():
            try:
                found.update(_traced(fn, {label: value}, by_index))
            except Exception:
                continue
    left = {label: value for label, value in {**arrays, **columns}.items() if label not in found}
    if left:
        found.update(Trials(fn, left, other_array, num_others=5, other_shapes=other_shapes).readers())
    return found


class Trials:
    """The program of a function at other numbers, compared with that at its own.

    Parameters
    ----------
    fn, numbers
        The function and its numbers.
    other
        `other(number, i)`: other numbers in the place of one, the likely ones first.
    num_others
        How many there are.
    other_shapes
        Whether an output of another shape depends on a number; else such numbers say nothing.
    always_read
        Whether all outputs depend on a number where no other one does.
    """

    def __init__(
        self,
        fn: Named,
        numbers: Numbers,
        other: Callable[[Any, int], Any],
        num_others: int,
        other_shapes: bool = True,
        always_read: bool = True,
    ):
        self._fn, self._numbers, self._other, self._num_others = fn, numbers, other, num_others
        self._other_shapes, self._always_read = other_shapes, always_read
        self._here = essences(partial(fn, {}))

    def readers(self) -> Readers:
        """Which outputs depend on which numbers."""
        return self._search(list(self._numbers))

    def _search(self, labels: Sequence[str]) -> Readers:
        """Many numbers at once, and halves of them where that changes anything or fails."""
        changed = self._changed(labels)
        if changed is not None and not changed:
            return {label: set() for label in labels}
        if len(labels) == 1:
            return {labels[0]: self._unknown(labels[0]) if changed is None else changed}
        half = len(labels) // 2
        return {**self._search(labels[:half]), **self._search(labels[half:])}

    def _unknown(self, label: str) -> set[str]:
        is_shape = isinstance(self._numbers[label], tuple) and dtype_of(as_array(self._numbers[label])).kind == "i"
        read = self._always_read and (self._other_shapes or not is_shape)
        return set(self._here) if read else set()

    def _changed(self, labels: Sequence[str]) -> set[str] | None:
        """The outputs that are computed in another way at other numbers; None where there are no others."""
        changed: set[str] = set()
        ran = False
        for i in range(self._num_others):
            try:
                with quiet():
                    others = {label: self._other(self._numbers[label], i) for label in labels}
                    there = essences(partial(self._fn, others))
            except Exception:
                continue
            reshaped = any(there[name].shapes != here.shapes for name, here in self._here.items())
            if reshaped and not self._other_shapes:
                continue
            ran = True
            changed |= {name for name, here in self._here.items() if there[name] != here}
            if changed and (len(labels) > 1 or changed == set(self._here)):
                break
        return changed if ran else None


def _traced(fn: Named, numbers: Numbers, by_index: bool) -> Readers:
    shapes = {
        label: jax.ShapeDtypeStruct(np.shape(value), jax.dtypes.canonicalize_dtype(dtype_of(as_array(value))))
        for label, value in numbers.items()
    }

    def run(traced: Numbers) -> dict[str, Any]:
        return fn({label: in_form(numbers[label], value) for label, value in traced.items()})

    by_output = depends_on(run, shapes, by_index=by_index)
    return {label: {name for name, used in by_output.items() if label in used} for label in numbers}


def other_array(leaf: Any, i: int) -> Any:
    """Another value of the same shape and type (still a pandas object, if it is one), likely ones first."""
    value, dtype = as_array(leaf), dtype_of(as_array(leaf))
    if np.issubdtype(dtype, np.bool_):
        return in_form(leaf, ~value)
    if i == 0 or i == 1:
        ramp = np.linspace(1, 2, np.size(value)).reshape(np.shape(value)).astype(dtype)
        return in_form(leaf, value + ramp if i == 0 else value - ramp)
    if i == 2:
        return in_form(leaf, (value - value.min() / 2).astype(dtype))
    return in_form(leaf, (value * (0.5 if i == 3 else -1)).astype(dtype))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that other numbers may give."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
