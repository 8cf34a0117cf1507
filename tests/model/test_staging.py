"""Staged functions are equal exactly if they compute the same, their arrays aside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.staging import depends_on, stage

X = jnp.zeros(3)
ONE, TWO = np.ones(3, np.float32), np.full(3, 2, np.float32)
PROGRAM, ARRAYS, NOTHING = "another program", "other arrays", "nothing"


def difference(first, second):
    """What differs between two staged functions; the second must never run as the first."""
    if first.program != second.program:
        return PROGRAM
    assert hash(first.program) == hash(second.program)
    pairs = zip(first.constants, second.constants, strict=True)
    return NOTHING if all(np.array_equal(a, b) for a, b in pairs) else ARRAYS


def custom_jvp(rule):
    fn = jax.custom_jvp(lambda x: x.sum())
    fn.defjvp(lambda primals, tangents: (fn(*primals), (rule * tangents[0]).sum()))
    return fn


def custom_vjp(rule):
    fn = jax.custom_vjp(lambda x: x.sum())
    fn.defvjp(lambda x: (fn(x), None), lambda _, g: (g * rule * jnp.ones(3),))
    return fn


def callback(host):
    return lambda x: jax.pure_callback(host, jax.ShapeDtypeStruct((3,), X.dtype), x).sum()


def double(x):
    return 2 * np.asarray(x)


def triple(x):
    return 3 * np.asarray(x)


# By name: what makes a function, two things to make it from, and what must differ then.
MAKERS = {
    "array": (lambda w: lambda x: (w * x).sum(), ONE, TWO, ARRAYS),
    "jax_array": (lambda w: lambda x: (w * x).sum(), jnp.array(ONE), jnp.array(TWO), ARRAYS),
    "scalar": (lambda w: lambda x: (w * x).sum(), 1.0, 2.0, PROGRAM),
    "last_bit": (lambda w: lambda x: (w * x).sum(), np.float32(1), np.float32(1 + 2**-23), PROGRAM),
    "shape": (lambda w: lambda x: (w * x).sum(), ONE, ONE[:1], PROGRAM),
    "dtype": (lambda w: lambda x: (w * x).sum(), ONE, ONE.astype(int), PROGRAM),
    "operation": (lambda f: lambda x: f(x).sum(), jnp.sin, jnp.cos, PROGRAM),
    "nested_jit": (lambda w: lambda x: jax.jit(lambda y: (w * y).sum())(x), ONE, TWO, (PROGRAM, ARRAYS)),
    "scan": (
        lambda w: lambda x: jax.lax.scan(lambda c, t: (c + (t * w).sum(), None), 0.0, x)[0],
        ONE,
        TWO,
        (PROGRAM, ARRAYS),
    ),
    "cond": (
        lambda w: lambda x: jax.lax.cond(x[0] > 0, lambda y: (y * w).sum(), lambda y: 0.0, x),
        ONE,
        TWO,
        (PROGRAM, ARRAYS),
    ),
    "remat": (lambda w: lambda x: jax.checkpoint(lambda y: (w * y).sum())(x), ONE, TWO, (PROGRAM, ARRAYS)),
    "seed": (lambda seed: lambda x: (x + jax.random.normal(jax.random.key(seed))).sum(), 0, 1, PROGRAM),
    "derivative": (custom_jvp, 1.0, 2.0, PROGRAM),
    "array_of_derivative": (custom_jvp, ONE, TWO, PROGRAM),
    "pullback": (custom_vjp, 1.0, 2.0, PROGRAM),
    "array_of_pullback": (custom_vjp, ONE, TWO, PROGRAM),
}


@pytest.mark.parametrize("name", MAKERS)
def test_difference(name):
    make, one, other, expected = MAKERS[name]
    staged = functools.partial(stage, differentiable=True)
    assert difference(staged(make(one), X), staged(make(one), X)) == NOTHING
    found = difference(staged(make(one), X), staged(make(other), X))
    assert found in expected if isinstance(expected, tuple) else found == expected


@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit])
def test_host_callbacks_are_told_apart(wrap):
    assert difference(stage(wrap(callback(double)), X), stage(wrap(callback(double)), X)) == NOTHING
    assert difference(stage(wrap(callback(double)), X), stage(wrap(callback(triple)), X)) == PROGRAM


def test_a_changed_array_in_a_nested_jit_is_never_stale():
    call = jax.jit(lambda program, constants, x: program(constants, x), static_argnums=0)
    for w in (ONE, TWO, ONE):
        inner = jax.jit(lambda x, w=w: (w * x).sum())
        staged = stage(lambda x, inner=inner: inner(x), X)
        assert call(staged.program, staged.constants, jnp.ones(3)) == w.sum()


def staged_model(w, scale=1.0):
    def model(x=None):
        z = numpyro.sample("z", dist.Gamma(2.0, 1.0))
        with numpyro.plate("N", 3):
            numpyro.sample("x", dist.Normal(w * z, scale), obs=x)

    joint = joint_model(model, "z", "x")
    return stage_model(joint, decompose(joint))


def programs(model):
    functions = [function for integral in model.integrals for function in vars(integral.integrand).values()]
    return tuple(function and function.program for function in (model.draw, *functions))


def test_a_model_staged_twice_is_the_same_programs():
    first, again = staged_model(ONE), staged_model(ONE)
    assert programs(first) == programs(again) and hash(programs(first)) == hash(programs(again))


def test_changed_arrays_of_a_model_change_arrays_only():
    first, changed = staged_model(ONE), staged_model(TWO)
    assert programs(first) == programs(changed)
    assert difference(first.draw, changed.draw) == ARRAYS
    held, integrals = {"x": X}, [model.integrals[0] for model in (first, changed)]
    ratios = [integral.integrand.log_ratio(X[:1], held) for integral in integrals]
    np.testing.assert_allclose(ratios, [3 * dist.Normal(w, 1).log_prob(0) for w in (1, 2)], rtol=1e-5)


def test_a_changed_number_of_a_model_is_never_stale():
    first, changed = staged_model(ONE), staged_model(ONE, scale=2.0)
    assert difference(first.draw, changed.draw) != NOTHING
    held, integrals = {"x": X}, [model.integrals[0] for model in (first, changed)]
    ratios = [integral.integrand.log_ratio(X[:1], held) for integral in integrals]
    np.testing.assert_allclose(ratios, [3 * dist.Normal(1, scale).log_prob(0) for scale in (1, 2)], rtol=1e-5)


def test_dependencies():
    def fn(inputs):
        a, b, c = inputs["a"], inputs["b"], inputs["c"]

        def step(carry, t):
            x, y = carry
            return (x + a[t], y + x), (x, y)

        _, (x, y) = jax.lax.scan(step, (b, 0.0), jnp.arange(3))
        return {
            "b": b,
            "x": x,
            "y": y,
            "branch": jax.lax.cond(c > 0, lambda: a.sum(), lambda: 0.0),
            "constant": jnp.zeros(2),
            "loop": jax.lax.fori_loop(0, 3, lambda i, v: v * c, 1.0),
            "stopped": jax.lax.stop_gradient(c),
            "index": a[jnp.int32(b)],
        }

    found = depends_on(fn, {"a": X, "b": jnp.zeros(()), "c": jnp.zeros(())})
    assert {name: "".join(sorted(used)) for name, used in found.items()} == {
        "b": "b",
        "x": "ab",
        "y": "ab",
        "branch": "ac",
        "constant": "",
        "loop": "c",
        "stopped": "c",
        "index": "ab",
    }
