"""Which of the single numbers among a model's arguments are data: most are sizes, indices, switches and units."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from numpyro_mi.model.joint.contents import as_array
from numpyro_mi.model.joint.dependence import Named, Numbers, Readers, Trials, other_array, quiet
from numpyro_mi.model.staging import outputs

_NEAR = (-3, -2, -1, 0, 1, 2, 3, 5, 8)
_FAR = (1009, 10_007)

Values = dict[str, np.ndarray]


def scalar_readers(fn: Named, scalars: Numbers) -> Readers:
    """Which outputs depend on single integers and booleans, in any way."""
    return Trials(fn, scalars, _other_scalar, num_others=2).readers() if scalars else {}


def scalar_holders(fn: Named, scalars: Numbers, of_arrays: Collection[str]) -> Readers:
    """Which outputs contain single integers and booleans as numbers.

    A size changes shapes, an index fails or is clamped beyond the last element, a seed moves nothing in one direction,
    and a switch knows two values. The elements of an output that a number enters move one way with it, without end, or
    as far as the model lets it go are the number itself; the latter says nothing of outputs `of_arrays`, of which it
    may be an index.
    """
    if not scalars:
        return {}
    changed = Trials(fn, scalars, _other_scalar, num_others=2, other_shapes=False, always_read=False).readers()
    return {
        label: names & _moved(fn, label, scalars[label], of_arrays) if names else set()
        for label, names in changed.items()
    }


def without_units(fn: Named, numbers: Numbers, readers: Readers) -> Readers:
    """Readers of single numbers, without the outputs of which these are but units.

    So is a number every element of whose output also holds a value of an array, as in `obs=y / scale`, or that divides
    another single number, as in `obs=count / total`.

    Parameters
    ----------
    fn
        The function.
    numbers
        All numbers by their labels.
    readers
        The outputs that hold each.
    """
    single = {
        label: numbers[label] for label, names in readers.items() if names and np.ndim(as_array(numbers[label])) == 0
    }
    arrays = {label: numbers[label] for label, names in readers.items() if names and label not in single}
    if not single or len(single) + len(arrays) < 2:
        return readers
    here = outputs(partial(fn, {}))
    by_arrays = [_at_others(fn, here, arrays, i) for i in range(5) if arrays]
    moved = {label: _at_others(fn, here, {label: leaf}, 0) for label, leaf in single.items()}
    found = dict(readers)
    for label in single:
        held = set()
        for name in readers[label]:
            values, own = here[name], _changed(here, moved[label], name, unknown=True)
            if _is_unit(values, (moved[label] or here)[name]):
                for others in by_arrays:
                    own = own & ~_changed(here, others, name, unknown=False)
            alone = own
            for other in set(single) - {label}:
                alone = alone & ~_changed(here, moved[other], name, unknown=False)
            is_straight = isinstance(numbers[label], float) or _is_straight(fn, label, numbers[label], name, own)
            if alone.any() or (own.any() and is_straight):
                held.add(name)
        found[label] = held
    return found


def _at_others(fn: Named, here: Values, numbers: Numbers, i: int) -> Values | None:
    """Outputs at other numbers; None where these do not do, or give outputs of other shapes."""
    try:
        with quiet():
            there = outputs(partial(fn, {label: _other(leaf, i) for label, leaf in numbers.items()}))
    except Exception:
        return None
    return there if all(there[name].shape == values.shape for name, values in here.items()) else None


def _changed(here: Values, there: Values | None, name: str, unknown: bool) -> np.ndarray:
    return np.full(here[name].shape, unknown) if there is None else _differ(here[name], there[name])


def _differ(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first != second) & ~(np.isnan(first) & np.isnan(second))


def _is_unit(here: np.ndarray, there: np.ndarray) -> bool:
    """Whether what changes in an output is multiplied by one number, or shifted by one."""
    where = _differ(here, there) & np.isfinite(here) & np.isfinite(there)
    if where.sum() < min(2, here.size):
        return False
    values, change = here[where].astype(float), there[where].astype(float) - here[where]
    scaled = values * (change @ values) / max(values @ values, np.finfo(float).tiny)
    return any(
        np.allclose(change, wanted, rtol=1e-2, atol=1e-4 * np.abs(change).max()) for wanted in (scaled, change[0])
    )


def _is_straight(fn: Named, label: str, leaf: Any, name: str, where: np.ndarray) -> bool:
    """Whether elements of an output are a straight line in an integer."""
    steps = [_at(fn, label, leaf, int(leaf) + shift) for shift in (-1, 0, 1)]
    known = [step[name][where].astype(float) for step in steps if step is not None and step[name].shape == where.shape]
    if np.asarray(leaf).dtype == np.bool_ or len(known) < 3:
        return True
    first, second = known[1] - known[0], known[2] - known[1]
    return bool(np.all(np.abs(second - first) <= 1e-4 * np.maximum(np.abs(first), np.abs(second))))


def _other(leaf: Any, i: int) -> Any:
    array = np.asarray(as_array(leaf))
    return _other_scalar(leaf, i) if array.ndim == 0 and array.dtype.kind in "biu" else other_array(leaf, i)


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
    # Of one sign, for a square goes down and up again.
    numbers = [here + shift for shift in _NEAR if (here + shift) * (1 if here >= 0 else -1) >= 0]
    numbers = [False, True, 2, 3, 5, 8] if is_bool else numbers
    tried = {number: _at(fn, label, leaf, number) for number in numbers}
    at_here = tried[here]
    if at_here is None:
        return set()
    near = {number: values for number, values in tried.items() if values is not None and _is_alike(values, at_here)}
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
        with quiet():
            return outputs(partial(fn, {label: _alike(leaf, number)}))
    except Exception:
        return None


def _is_alike(values: Values, here: Values) -> bool:
    """Whether outputs are finite where they were."""
    return all(np.array_equal(np.isfinite(values[name]), np.isfinite(value)) for name, value in here.items())


def _monotone(steps: Sequence[dict[str, np.ndarray] | None]) -> set[str]:
    """Outputs of which some elements move in one direction, and all others stay."""
    known = [step for step in steps if step is not None]
    found: set[str] = set()
    if len(known) < len(steps):
        return found
    for name, first in known[0].items():
        if any(step[name].shape != first.shape for step in known):
            continue
        changes = np.diff(np.nan_to_num(np.asarray([step[name] for step in known], float)), axis=0)
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
        changed = np.any([_differ(other[name], values) for _, other in others], axis=0)
        if changed.any() and all((step[name][changed] == at).all() for at, step in steps.items()):
            found.add(name)
    return found
