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

_SHIFTS = (0, 1, 2, 3, 5, 8)
_FAR_SHIFTS = (1009, 10_007)


def readers(fn: Named, arrays: Numbers, columns: Numbers, by_index: bool = True) -> Readers:
    """Which outputs depend on the values of arrays, and on columns of data frames.

    Code that cannot be traced (NumPy functions of an argument, sizes computed from one) is staged at
    the given values and at others instead: what is not read leaves the same program. Where it
    takes no other values it reads them. Without `by_index`, an array that only says which elements of another one
    are taken is not read, as far as it can be traced.
    """
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
        found.update(_Trials(fn, left, _other_array, num_others=5).readers())
    return found


def scalar_readers(fn: Named, scalars: Numbers) -> Readers:
    """Which outputs depend on single integers and booleans, in any way."""
    return _Trials(fn, scalars, _other_scalar, num_others=2).readers() if scalars else {}


def moved_by(fn: Named, scalars: Numbers) -> Readers:
    """Which outputs contain single integers and booleans as numbers.

    A size changes shapes, an index fails or is clamped beyond the last element, a seed moves nothing in one direction,
    and a switch knows two values. The elements of an output that a number enters move one way with it, without end.
    """
    found: Readers = {}
    tested = _Trials(fn, scalars, _other_scalar, num_others=2, reads_if_none=False).readers() if scalars else {}
    for label, names in tested.items():
        moved = _moved(fn, label, scalars[label]) if names else set()
        found[label] = names & moved
    return found


class _Trials:
    """The program of a function at other numbers, compared with that at its own."""

    def __init__(
        self,
        fn: Named,
        numbers: Numbers,
        other: Callable[[Any, int], Any],
        num_others: int,
        reads_if_none: bool = True,
    ):
        self._fn, self._numbers, self._other = fn, numbers, other
        self._num_others, self._reads_if_none = num_others, reads_if_none
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
            everything = set(self._here) if self._reads_if_none else set()
            return {labels[0]: everything if changed is None else changed}
        half = len(labels) // 2
        return {**self._search(labels[:half]), **self._search(labels[half:])}

    def _changed(self, labels: Sequence[str]) -> set[str] | None:
        """The outputs that are computed in another way at other numbers; None where there are no others."""
        changed, ran = set(), False
        for i in range(self._num_others):
            try:
                with _quiet():
                    others = {label: self._other(self._numbers[label], i) for label in labels}
                    there = essences(partial(self._fn, others))
            except Exception:
                continue
            ran = True
            changed |= {name for name, found in there.items() if found != self._here[name]}
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


def _moved(fn: Named, label: str, leaf: Any) -> set[str]:
    """Outputs with elements that move with a number, in one direction only."""
    is_bool = np.asarray(leaf).dtype == np.bool_
    here = int(leaf)
    if is_bool:
        both = _at(fn, label, leaf, [False, True])
        steps = _at(fn, label, leaf, [False, True, 2, 3, 5, 8])
        same = set() if both is None else {name for name, values in both.items() if _is_itself(values)}
        return same | _monotone(steps)
    up = _at(fn, label, leaf, [here + shift for shift in _SHIFTS])
    steps = _at(fn, label, leaf, [here - shift for shift in _SHIFTS]) if up is None else up
    moved = _monotone(steps)
    if not moved or steps is None:
        return set()
    ends = [here, here + 0.5, here + 1] if up is not None else [here - 1, here - 0.5, here]
    between = moved & _monotone(_at(fn, label, leaf, ends))
    far = [here, *(here + (shift if up is not None else -shift) for shift in _FAR_SHIFTS)]
    return between | (moved & _monotone(_at(fn, label, leaf, far)))


def _at(fn: Named, label: str, leaf: Any, numbers: Collection[Any]) -> dict[str, np.ndarray] | None:
    """Outputs at several numbers, one after the other; None where one of these does not do."""
    try:
        with _quiet():
            found = [outputs(partial(fn, {label: _alike(leaf, number)})) for number in numbers]
            return {name: np.stack([one[name] for one in found]).reshape(len(found), -1) for name in found[0]}
    except Exception:
        return None


def _monotone(steps: Mapping[str, np.ndarray] | None) -> set[str]:
    found = set()
    for name, values in (steps or {}).items():
        changes = np.diff(values.astype(float), axis=0)
        still, one_way = (changes == 0).all(0), (changes > 0).all(0) | (changes < 0).all(0)
        if (still | one_way).all() and one_way.any():
            found.add(name)
    return found


def _is_itself(values: np.ndarray) -> bool:
    """Whether what changes is 0 for False and 1 for True."""
    changed = values[0] != values[1]
    return bool(changed.any() and (values[0][changed] == 0).all() and (values[1][changed] == 1).all())


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
