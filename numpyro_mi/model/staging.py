"""Functions of a model, staged once per call into a hashable program and its arrays.

A compiled program must never outlive the model it was made from, and must not be made twice for
the same model. So every call stages the model afresh (milliseconds); what is compiled is keyed on
the text of the staged function, and the arrays that the function closes over (model arguments,
fitted parameters, module weights) are passed to it as arguments. A changed array therefore changes
the result and compiles nothing; a changed program compiles again.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jax.interpreters import partial_eval

Constants = Sequence[jax.Array]

KEY = "<rng_key>"
"""The key among the inputs of `depends_on`, where the others are sites; no site is named like this."""

_CALLS = ("jit", "pjit")  # the names of one primitive


class Program:
    """A staged function without its arrays; equal and equally hashed if it computes the same.

    Parameters
    ----------
    jaxpr
        The staged function; its constants are left out.
    out_tree
        Structure of the result.
    key
        What identifies the computation: its text, the arrays buried inside nested functions, and
        the host callbacks, compared by identity.
    """

    __slots__ = ("jaxpr", "key", "out_tree")

    def __init__(self, jaxpr: Jaxpr, out_tree: Any, key: tuple):
        self.jaxpr, self.out_tree, self.key = jaxpr, out_tree, key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.key == other.key

    def __call__(self, constants: Constants, *args: Any) -> Any:
        """Evaluate on one set of arguments; may be traced, differentiated and vmapped."""
        flat = jax.tree.leaves(args)
        out = jaxpr_as_fun(ClosedJaxpr(self.jaxpr, list(constants)))(*flat)
        return jax.tree.unflatten(self.out_tree, out)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Staged:
    """A program and the arrays to call it with.

    A pytree of its arrays: it goes through `jit` as an argument, and compiles again only for another
    program.
    """

    program: Program = field(metadata={"static": True})
    constants: Constants

    def __call__(self, *args: Any) -> Any:
        """Evaluate; may be traced, differentiated and vmapped."""
        return self.program(self.constants, *args)

    def uses(self, primitive: str) -> bool:
        """Whether the program calls a primitive of JAX."""
        return re.search(rf"= {primitive}\b", str(self.program.key[0])) is not None


def stage(fn: Callable, *example: Any, differentiable: bool = False) -> Staged:
    """Stage `fn` at the shapes of `example`.

    Parameters
    ----------
    fn
        Function of arrays (pytrees of them).
    *example
        Arguments, or their `jax.ShapeDtypeStruct`; only shapes and types matter.
    differentiable
        Whether gradients with respect to the first argument will be taken: custom derivative rules
        then join the key, through the text of the gradient and the arrays that only it holds.
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*example)
    closed = live(closed)
    key: tuple = _identity(closed.jaxpr)
    if differentiable:
        gradient = live(jax.make_jaxpr(jax.grad(lambda *args: fn(*args)))(*example))
        new = [const for const in gradient.consts if not any(const is known for known in closed.consts)]
        known = {_bytes(const) for const in closed.consts} if new else set()
        key += (*_identity(gradient.jaxpr), *(c for c in map(_bytes, new) if c not in known))
    constants = [
        c if jnp.issubdtype(jnp.result_type(c), jax.dtypes.prng_key) else jnp.asarray(c) for c in closed.consts
    ]
    # The same computation under other names of sites is another program: it returns another dict.
    out_tree = jax.tree.structure(shape)
    key += (jax.tree.structure(example), out_tree)
    return Staged(Program(closed.jaxpr, out_tree, key), constants)


class Essence(NamedTuple):
    """What an output is computed from: its shapes, and program and arrays, without dead code."""

    shapes: tuple
    program: tuple


def essences(fn: Callable[[], dict[str, Any]]) -> dict[str, Essence]:
    """What each named output of `fn()` is computed from; comparable."""
    closed, shape = jax.make_jaxpr(fn, return_shape=True)()
    return {
        name: Essence(
            (jax.tree.structure(shape[name]), *(leaf.shape for leaf in jax.tree.leaves(shape[name]))),
            (*_identity(part.jaxpr), *map(_bytes, part.consts)),
        )
        for name, part in by_output(closed, shape).items()
    }


def outputs(fn: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """The named outputs of `fn()`, one array each, computed without what they do not depend on."""
    closed, shape = jax.make_jaxpr(fn, return_shape=True)()
    return {name: np.asarray(jaxpr_as_fun(part)()[0]) for name, part in by_output(closed, shape).items()}


def by_output(closed: ClosedJaxpr, shape: dict[str, Any]) -> dict[str, ClosedJaxpr]:
    """The part of a program that each named output is computed by."""
    names = [name for name in sorted(shape) for _ in jax.tree.leaves(shape[name])]
    return {name: live(closed, [other == name for other in names]) for name in shape}


def live(closed: ClosedJaxpr, wanted: Sequence[bool] | None = None) -> ClosedJaxpr:
    """Without dead code, and without the arrays that only dead code reads; of the outputs, those that are wanted.

    A model called with its data and one called without then stage to the same simulation.
    """
    wanted = [True] * len(closed.jaxpr.outvars) if wanted is None else list(wanted)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, wanted, instantiate=True)
    read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | {id(var) for var in jaxpr.outvars}
    kept = [(var, const) for var, const in zip(jaxpr.constvars, closed.consts, strict=True) if id(var) in read]
    return ClosedJaxpr(jaxpr.replace(constvars=[var for var, _ in kept]), [const for _, const in kept])


def depends_on(fn: Callable, inputs: dict[str, Any], *, by_index: bool = True) -> dict[str, frozenset[str]]:
    """For each named output of `fn(inputs)`, the names of the inputs that it is computed from.

    Dead-code elimination follows the carry of `scan` exactly, so that a state space model does not
    look as if every state depended on every observation; where JAX has no rule (a `while` loop), an
    output counts as depending on all inputs of the loop. Without `by_index`, an input that only says which elements
    of another one are taken does not count.
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(inputs)
    jaxpr = closed.jaxpr if by_index else _without_indices(closed.jaxpr, [True] * len(closed.jaxpr.invars))
    input_names = [name for name in sorted(inputs) for _ in jax.tree.leaves(inputs[name])]
    output_names = [name for name in sorted(shape) for _ in jax.tree.leaves(shape[name])]
    result: dict[str, frozenset[str]] = {name: frozenset() for name in shape}
    for name in shape:
        wanted = [other == name for other in output_names]
        _, used = partial_eval.dce_jaxpr(jaxpr, wanted)
        result[name] = frozenset(n for n, u in zip(input_names, used, strict=True) if u)
    return result


def _without_indices(jaxpr: Jaxpr, from_input: Sequence[bool]) -> Jaxpr:
    """A program for dependencies alone, which takes elements of inputs by constant indices."""
    known = {var for var, is_input in zip(jaxpr.invars, from_input, strict=True) if is_input}

    def is_input(var: Any) -> bool:
        return not isinstance(var, Literal) and var in known

    eqns = []
    for eqn in jaxpr.eqns:
        inner = eqn.params.get("jaxpr")
        if eqn.primitive.name in ("gather", "dynamic_slice") and is_input(eqn.invars[0]):
            avals: list[Any] = [var.aval for var in eqn.invars[1:]]
            indices = [Literal(np.zeros(aval.shape, aval.dtype), aval) for aval in avals]
            eqns.append(eqn.replace(invars=[eqn.invars[0], *indices]))
        elif eqn.primitive.name in _CALLS and isinstance(inner, ClosedJaxpr):
            inner = inner.replace(jaxpr=_without_indices(inner.jaxpr, [is_input(var) for var in eqn.invars]))
            eqns.append(eqn.replace(params={**eqn.params, "jaxpr": inner}))
        else:
            eqns.append(eqn)
        if any(map(is_input, eqn.invars)):
            known.update(eqn.outvars)
    return jaxpr.replace(eqns=eqns)


def own_arrays(fn: Callable, *inputs: Any) -> list[np.ndarray]:
    """Arrays that a function has of its own, as they are where they first meet one of its inputs."""
    closed = live(jax.make_jaxpr(fn)(*inputs))

    def run(constants: Constants) -> list[Any]:
        met: list[Any] = []
        _meet(closed.jaxpr, constants, [None] * len(closed.jaxpr.invars), met)
        return met

    return [np.asarray(array) for array in jax.jit(run)(closed.consts)]


def _meet(jaxpr: Jaxpr, constants: Constants, values: Sequence[Any], met: list[Any]) -> list[Any]:
    """Compute what needs no input, for which `None` stands, and collect it where it meets one."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *values), strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else known[var]

    for eqn in jaxpr.eqns:
        here, inner = [read(var) for var in eqn.invars], eqn.params.get("jaxpr")
        if all(value is not None for value in here):
            bound = eqn.primitive.get_bind_params(eqn.params)
            functions, params = bound if isinstance(bound, tuple) else ((), bound)  # older releases of JAX, newer ones
            out = eqn.primitive.bind(*functions, *here, **params)
            out = out if eqn.primitive.multiple_results else [out]
        elif eqn.primitive.name in _CALLS and isinstance(inner, ClosedJaxpr):
            out = _meet(inner.jaxpr, inner.consts, here, met)
        else:
            met += [value for value in here if value is not None and jnp.issubdtype(jnp.result_type(value), np.number)]
            out = [None] * len(eqn.outvars)
        known.update(zip(eqn.outvars, out, strict=True))
    return [read(var) for var in jaxpr.outvars]


def repeated_outputs(fn: Callable, inputs: dict[str, Any]) -> set[str]:
    """Named outputs of `fn(inputs)` that are the very value of another output."""
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(inputs)
    names = [name for name in sorted(shape) for _ in jax.tree.leaves(shape[name])]
    counts = Counter(id(var) for var in closed.jaxpr.outvars)
    return {name for name, var in zip(names, closed.jaxpr.outvars, strict=True) if counts[id(var)] > 1}


def _identity(jaxpr: Jaxpr) -> tuple:
    """Text of a staged function with what the text leaves out."""
    buried: list[Any] = []
    _collect_buried(jaxpr, buried)
    # Addresses of derivative rules and memoised thunks differ from one trace to the next.
    text = re.sub(r"0x[0-9a-fA-F]+", "0x", str(jaxpr))
    return (text, *buried)


def _collect_buried(jaxpr: Jaxpr, found: list[Any]) -> None:
    for eqn in jaxpr.eqns:
        for var in eqn.invars:
            if isinstance(var, Literal) and np.ndim(var.val) > 0:
                found.append(_bytes(var.val))
        if "callback" in eqn.primitive.name:
            found.append(eqn.params.get("callback"))
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if isinstance(value, ClosedJaxpr):
                found.extend(_bytes(const) for const in value.consts)
                _collect_buried(value.jaxpr, found)
            elif isinstance(value, Jaxpr):
                _collect_buried(value, found)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)


def _bytes(value: Any) -> tuple:
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return (str(array.dtype), array.shape, array.tobytes())
