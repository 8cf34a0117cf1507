"""Which of the numbers in its arguments the outputs of a function depend on."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from numpyro_mi.model.contents import as_array, dtype_of, in_form
from numpyro_mi.model.staging import depends_on, essences, outputs

Numbers = Mapping[str, Any]
Named = Callable[[Numbers], dict[str, Any]]
"""Named outputs at other numbers, given by their labels; at no others `{}`."""
Readers = dict[str, set[str]]
"""By label, the names of the outputs that depend on it."""

_NEAR = (-3, -2, -1, 0, 1, 2, 3, 5, 8)
_FAR = (1009, 10_007)


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


def scalar_readers(fn: Named, scalars: Numbers) -> Readers:
    """Which outputs depend on single integers and booleans, in any way."""
    return _Trials(fn, scalars, _other_scalar, num_others=2).readers() if scalars else {}


def scalar_holders(fn: Named, scalars: Numbers, of_arrays: Collection[str]) -> Readers:
    """Which outputs contain single integers and booleans as numbers.

    A size changes shapes, an index fails or is clamped beyond the last element, a seed moves nothing in one direction,
    and a switch knows two values. The elements of an output that a number enters move one way with it, without end, or
    as far as the model lets it go are the number itself; the latter says nothing of outputs `of_arrays`, of which it
    may be an index.
    """
    if not scalars:
        return {}
    changed = _Trials(fn, scalars, _other_scalar, num_others=2, other_shapes=False, always_read=False).readers()
    return {
        label: names & _moved(fn, label, scalars[label], of_arrays) if names else set()
        for label, names in changed.items()
    }


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
        found.update(_Trials(fn, left, _other_array, num_others=5, other_shapes=other_shapes).readers())
    return found


class _Trials:
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
                with _quiet():
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


def _other_array(leaf: Any, i: int) -> Any:
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


def _other_scalar(leaf: Any, i: int) -> Any:
    if np.asarray(leaf).dtype == np.bool_:
        return _alike(leaf, 2 if i else not bool(leaf))
    return _alike(leaf, int(leaf) + (-1 if i else 1))


def _alike(leaf: Any, number: Any) -> Any:
    """A number in the form of an integer or boolean: an array for an array, of its own type where it has that value."""
    if isinstance(leaf, bool | int):
        return number
    dtype = np.asarray(leaf).dtype
    if isinstance(number, float) or (dtype == np.bool_ and not isinstance(number, bool)):
        dtype = np.asarray(number).dtype
    elif dtype != np.bool_ and not np.iinfo(dtype).min <= number <= np.iinfo(dtype).max:
        raise OverflowError
    return dtype.type(number) if isinstance(leaf, np.generic) else np.asarray(number, dtype)


def _moved(fn: Named, label: str, leaf: Any, of_arrays: Collection[str]) -> set[str]:
    """Outputs with elements that move with a number, in one direction only."""
    here, is_bool = int(leaf), np.asarray(leaf).dtype == np.bool_
    numbers = [False, True, 2, 3, 5, 8] if is_bool else [here + shift for shift in _NEAR]
    tried = {number: _at(fn, label, leaf, number) for number in numbers}
    near = {number: values for number, values in tried.items() if values is not None}
    if is_bool:
        itself = _itself({number: near[number] for number in (False, True) if number in near})
        return itself | (_monotone(list(near.values())) if len(near) > 3 else set())
    moved = _monotone(list(near.values())) if len(near) > 2 else set()
    if not moved:
        return set()
    start = here if here + 1 in near else here - 1
    between = [_at(fn, label, leaf, number) for number in (start, start + 0.5, start + 1)]
    far = [near.get(here), *(_at(fn, label, leaf, here + shift) for shift in _FAR)]
    return moved & (_monotone(between) | _monotone(far) | (_itself(near) - set(of_arrays)))


def _at(fn: Named, label: str, leaf: Any, number: Any) -> dict[str, np.ndarray] | None:
    """Outputs at another number; None where it does not do."""
    try:
        with _quiet():
            return outputs(partial(fn, {label: _alike(leaf, number)}))
    except Exception:
        return None


def _monotone(steps: Sequence[dict[str, np.ndarray] | None]) -> set[str]:
    """Outputs of which some elements move in one direction, and all others stay."""
    known = [step for step in steps if step is not None]
    found: set[str] = set()
    if len(known) < len(steps):
        return found
    for name, first in known[0].items():
        if any(step[name].shape != first.shape for step in known):
            continue
        changes = np.diff(np.asarray([step[name] for step in known], float), axis=0)
        still, one_way = (changes == 0).all(0), (changes > 0).all(0) | (changes < 0).all(0)
        if (still | one_way).all() and one_way.any():
            found.add(name)
    return found


def _itself(steps: Mapping[Any, dict[str, np.ndarray]]) -> set[str]:
    """Outputs of which what changes is the number, at each of several numbers."""
    if len(steps) < 2:
        return set()
    (number, first), *others = steps.items()
    found = set()
    for name, values in first.items():
        if any(other[name].shape != values.shape for _, other in others):
            continue
        changed = np.any([other[name] != values for _, other in others], axis=0)
        if changed.any() and all((step[name][changed] == at).all() for at, step in steps.items()):
            found.add(name)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
