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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jax.interpreters import partial_eval

Constants = Sequence[jax.Array]


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


def essence(fn: Callable[[], Any]) -> tuple:
    """What the result of `fn()` is computed from: program and arrays, without dead code; comparable."""
    closed = live(jax.make_jaxpr(fn)())
    return (*_identity(closed.jaxpr), *map(_bytes, closed.consts))


def live(closed: ClosedJaxpr, wanted: Sequence[bool] | None = None) -> ClosedJaxpr:
    """Without dead code, and without the arrays that only dead code reads; of the outputs, those that are wanted.

    A model called with its data and one called without then stage to the same simulation.
    """
    wanted = [True] * len(closed.jaxpr.outvars) if wanted is None else list(wanted)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, wanted, instantiate=True)
    read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | {id(var) for var in jaxpr.outvars}
    kept = [(var, const) for var, const in zip(jaxpr.constvars, closed.consts, strict=True) if id(var) in read]
    return ClosedJaxpr(jaxpr.replace(constvars=[var for var, _ in kept]), [const for _, const in kept])


def depends_on(fn: Callable, inputs: dict[str, Any]) -> dict[str, frozenset[str]]:
    """For each named output of `fn(inputs)`, the names of the inputs that it is computed from.

    Dead-code elimination follows the carry of `scan` exactly, so that a state space model does not
    look as if every state depended on every observation; where JAX has no rule (a `while` loop), an
    output counts as depending on all inputs of the loop.
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(inputs)
    input_names = [name for name in sorted(inputs) for _ in jax.tree.leaves(inputs[name])]
    output_names = [name for name in sorted(shape) for _ in jax.tree.leaves(shape[name])]
    result: dict[str, frozenset[str]] = {name: frozenset() for name in shape}
    for name in shape:
        wanted = [other == name for other in output_names]
        _, used = partial_eval.dce_jaxpr(closed.jaxpr, wanted)
        result[name] = frozenset(n for n, u in zip(input_names, used, strict=True) if u)
    return result


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
