"""The numbers inside the arguments of a model, and the arguments again with other numbers in their places."""

import copy
import enum
import inspect
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_DEEPEST = 30
_NOT_OPENED = (str, bytes, type, enum.Enum, np.generic, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


class _Leaf(NamedTuple):
    label: str
    value: Any


class _Branch(NamedTuple):
    value: Any
    parts: dict[Any, Any]
    put: Callable[[dict[Any, Any]], Any]


class Contents:
    """Values taken apart into numbers.

    Dicts and other mappings, sequences, data frames, pytrees and objects (their attributes and slots) are opened, and
    so are `functools.partial` and bound methods. Functions are not, nor objects that cannot be copied.

    Parameters
    ----------
    roots
        The values by name.
    objects
        Whether to open objects other than containers that JAX or Python knows.

    Attributes
    ----------
    arrays
        Arrays, floats and lists of numbers, by a label such as `data['y']`.
    columns
        Numeric columns of data frames, which can be replaced by numbers and not by tracers.
    scalars
        Single integers and booleans.
    """

    def __init__(self, roots: Mapping[str, Any], objects: bool = True):
        self.arrays: dict[str, Any] = {}
        self.columns: dict[str, Any] = {}
        self.scalars: dict[str, Any] = {}
        self._objects = objects
        self._known: dict[int, Any] = {}
        self._kept: list[Any] = []  # what was made on the way, so that no identity is used twice
        self._roots = {}
        for name, value in roots.items():
            self._known.clear()  # the same object as two arguments may stand for two things
            self._roots[name] = self._open(value, name, 0)

    def filled(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The roots with other numbers for some labels; what holds none of these is itself."""
        made: dict[int, Any] = {}
        return {name: _filled(node, values, made)[0] for name, node in self._roots.items()}

    def originals(self) -> dict[str, Any]:
        """Every number by its label."""
        return {**self.arrays, **self.columns, **self.scalars}

    def _open(self, value: Any, label: str, depth: int) -> Any:
        if id(value) in self._known:
            return self._known[id(value)]
        self._kept.append(value)
        try:
            kind = _kind(value)
            if kind is not None:
                return self._leaf(getattr(self, kind), label, value)
            if value is None or depth > _DEEPEST or isinstance(value, _NOT_OPENED):
                return value
            if _is_array(value) and not _fields(value):
                return value
            found = _parts(value, self._objects)
            if found is None:
                return value
            found.put(dict(found.parts))
        except Exception:
            return value
        self._known[id(value)] = value  # inside itself, an object stays as it is
        nodes = {
            key: self._open_part(value, part, label + found.named(key), depth) for key, part in found.parts.items()
        }
        self._known[id(value)] = _Branch(value, nodes, found.put)
        return self._known[id(value)]

    def _open_part(self, whole: Any, part: Any, label: str, depth: int) -> Any:
        if not _is_frame(whole):
            return self._open(part, label, depth + 1)
        if _kind(part) is None:
            return part
        return self._leaf(self.columns, label, part)

    def _leaf(self, numbers: dict[str, Any], label: str, value: Any) -> _Leaf:
        while any(label in known for known in (self.arrays, self.columns, self.scalars)):
            label += "'"  # columns of one name
        numbers[label] = value
        return _Leaf(label, value)


def as_array(leaf: Any) -> Any:
    """A number, a list of numbers or an array as an array; a pandas or xarray object stays one."""
    return np.asarray(leaf) if isinstance(leaf, list | tuple | deque | float | int) else leaf


def dtype_of(leaf: Any) -> np.dtype:
    """Its type of numbers."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return np.asarray(leaf).dtype
    return dtype if isinstance(dtype, np.dtype) else np.dtype(dtype.numpy_dtype)  # of nullable columns


def in_form(leaf: Any, value: Any) -> Any:
    """An array in the form of the argument that it stands for."""
    if isinstance(leaf, list | tuple | deque):
        return type(leaf)(in_form(part, value[i]) for i, part in enumerate(leaf))
    traced = isinstance(value, jax.core.Tracer)
    return type(leaf)(value) if isinstance(leaf, bool | int | float) and not traced else value


def _filled(node: Any, values: Mapping[str, Any], made: dict[int, Any]) -> tuple[Any, bool]:
    """A value with other numbers, and whether it holds any of them."""
    if isinstance(node, _Leaf):
        return values.get(node.label, node.value), node.label in values
    if not isinstance(node, _Branch):
        return node, False
    if id(node) not in made:
        parts = {key: _filled(part, values, made) for key, part in node.parts.items()}
        new = {key: part for key, (part, is_new) in parts.items() if is_new}
        made[id(node)] = (node.put(new), True) if new else (node.value, False)
    return made[id(node)]


def _kind(value: Any) -> str | None:
    """Whether it is an array of numbers, or a single integer or boolean."""
    if isinstance(value, enum.Enum):
        return None
    if isinstance(value, bool | int | np.bool_ | np.integer):
        return "scalars"
    if isinstance(value, float) or _is_number_list(value):
        return "arrays"
    if not _is_array(value):
        return None
    try:
        dtype = dtype_of(value)
    except (AttributeError, TypeError):
        return None  # text, categories, keys
    if not (jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_)):
        return None
    return "scalars" if np.ndim(value) == 0 and dtype.kind in "biu" else "arrays"


def _is_array(value: Any) -> bool:
    return isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype")


def _fields(value: Any) -> tuple[str, ...]:
    """Names of the fields of a structured array."""
    return (value.dtype.names or ()) if isinstance(value, np.ndarray) else ()


def _is_frame(value: Any) -> bool:
    return hasattr(value, "isetitem") and hasattr(value, "columns")


def _is_number_list(value: Any) -> bool:
    if not isinstance(value, list | tuple | deque) or hasattr(value, "_fields") or not value:
        return False
    number = int | float | np.number | np.bool_
    return all(
        _is_number_list(item) or (isinstance(item, number) and not isinstance(item, enum.Enum)) for item in value
    )


class _Parts(NamedTuple):
    """A container's parts by key, how a key is written, what makes the container of other parts."""

    parts: dict[Any, Any]
    named: Callable[[Any], str]
    put: Callable[[dict[Any, Any]], Any]


def _parts(value: Any, objects: bool) -> _Parts | None:
    if _is_frame(value):
        columns = {i: value.iloc[:, i] for i in range(value.shape[1])}
        return _Parts(columns, lambda i: f"[{value.columns[i]!r}]", partial(_with_columns, value))
    if _fields(value):
        return _Parts({name: value[name] for name in _fields(value)}, _item, partial(_with_fields, value))
    if isinstance(value, dict):
        return _Parts(dict(value), _item, partial(_with_items, value))
    if isinstance(value, list | tuple | deque):
        remake, whole = getattr(type(value), "_make", type(value)), list(value)
        return _Parts(dict(enumerate(whole)), _item, lambda new: remake(_replaced(whole, new)))
    if isinstance(value, partial):
        bound = {"func": value.func, "args": value.args, "keywords": value.keywords}
        return _Parts(bound, _attribute, partial(_with_bound, value))
    if isinstance(value, types.MethodType):
        return _Parts({0: value.__self__}, lambda _: ".__self__", lambda new: types.MethodType(value.__func__, new[0]))
    children, tree = jax.tree.flatten(value, is_leaf=lambda part: part is not value)
    if len(children) != 1 or children[0] is not value:
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(value, is_leaf=lambda part: part is not value)]
        named = [jax.tree_util.keystr(path) for path in paths]
        return _Parts(
            dict(enumerate(children)), named.__getitem__, lambda new: jax.tree.unflatten(tree, _replaced(children, new))
        )
    closes = hasattr(type(value), "__del__")  # as a copy would, for the original too, when it is no longer used
    attributes = dict(_attributes(value)) if objects and not closes else {}
    if attributes:
        return _Parts(attributes, _attribute, partial(_with_attributes, value))
    if isinstance(value, Mapping):
        items: dict = dict(value)
        kind: Any = type(value)
        return _Parts(items, _item, lambda new: kind({**items, **new}))
    return None


def _item(key: Any) -> str:
    return f"[{key!r}]"


def _attribute(name: str) -> str:
    return f".{name}"


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    left_out = getattr(type(value), "not_data", ())
    for name, part in getattr(value, "__dict__", {}).items():
        if name not in left_out and not _is_cached(value, name):
            yield name, part
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            name = f"_{cls.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
            if name not in ("__dict__", "__weakref__") and inspect.getattr_static(value, name, None) is not None:
                try:
                    yield name, object.__getattribute__(value, name)
                except AttributeError:
                    continue


def _is_cached(value: Any, name: str) -> bool:
    """Whether an attribute was computed from others, and must be again when these change."""
    return isinstance(inspect.getattr_static(type(value), name, None), cached_property)


def _replaced(whole: list, new: Mapping[int, Any]) -> list:
    return [new.get(i, part) for i, part in enumerate(whole)]


def _with_columns(frame: Any, new: Mapping[int, Any]) -> Any:
    if any(isinstance(column, jax.core.Tracer) for column in new.values()):
        raise TypeError("a data frame holds no tracers")
    made = frame.copy()
    for i, column in new.items():
        made.isetitem(i, column)
    return made


def _with_fields(array: np.ndarray, new: Mapping[str, Any]) -> np.ndarray:
    made = array.copy()
    for name, part in new.items():
        made[name] = part
    return made


def _with_items(mapping: dict, new: Mapping[Any, Any]) -> dict:
    made = copy.copy(mapping)
    made.update(new)
    return made


def _with_bound(bound: partial, new: Mapping[str, Any]) -> partial:
    parts = {"func": bound.func, "args": bound.args, "keywords": bound.keywords, **new}
    return partial(parts["func"], *parts["args"], **parts["keywords"])


def _with_attributes(value: Any, new: Mapping[str, Any]) -> Any:
    made = copy.copy(value)
    if made is value:
        raise TypeError("not a copy")
    own = getattr(made, "__dict__", {})
    for name in [name for name in own if _is_cached(value, name)]:
        del own[name]
    for name, part in new.items():
        if name in own:
            own[name] = part
        else:
            object.__setattr__(made, name, part)
    return made
