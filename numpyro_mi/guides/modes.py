"""Modes of a log-density by damped Newton steps."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

FLAT = 1e-4  # least curvature of a mode, in units of the regression's
_TOLERANCE = 0.01  # posterior standard deviations that a mode may be off
_DAMPINGS = (0.0, 1.0, 16.0)  # multiples of the damping, tried at each curvature
_CALMER = (0.1, 0.25, 4.0)  # damping afterwards, by the one that climbed highest
_WILDER = 64.0  # if none climbed
_SAME_MODE = 0.5  # posterior standard deviations within which two modes are one
_GIVE_UP = 1e7  # damping, in units of the mean curvature


class Search(NamedTuple):
    """Where a mode search stands, in whitened coordinates.

    Attributes
    ----------
    v
        The point.
    value, curvatures, axes
        `log p` where it was last expanded, and eigenvalues and eigenvectors of its negative Hessian there.
    damping
        In units of the mean curvature.
    found
        Whether v is a mode, and the expansion is there.
    num_grad, iteration
        Gradient evaluations and steps so far.
    """

    v: jax.Array
    value: jax.Array
    curvatures: jax.Array
    axes: jax.Array
    damping: jax.Array
    found: jax.Array
    num_grad: jax.Array
    iteration: jax.Array


class Mode(NamedTuple):
    """A mode in whitened coordinates, with its component.

    Attributes
    ----------
    log_evidence
        Laplace's approximation; minus infinity for no mode.
    v
        The point.
    widths, axes
        Of the component: square roots of the eigenvalues of its scale matrix, and eigenvectors.
    """

    log_evidence: jax.Array
    v: jax.Array
    widths: jax.Array
    axes: jax.Array


def find_mode(log_joint: Callable[[jax.Array], jax.Array], start: jax.Array, max_iterations: jax.Array) -> Search:
    """Climb from `start` by damped Newton steps, each axis by the size of its curvature: saddles repel."""
    d, dtype = start.size, start.dtype
    slack = 16 * jnp.finfo(dtype).eps  # a fall of `log p` that rounding explains
    calmer, wilder = jnp.array(_CALMER, dtype), jnp.array(_WILDER, dtype)

    def unfinished(state):
        return ~state.found & (state.iteration < max_iterations) & (state.damping < _GIVE_UP)

    def climb(state):
        value, slopes, curvatures, axes = expand(log_joint, state.v)
        floor = jnp.maximum(FLAT, 8 * jnp.finfo(dtype).eps * jnp.abs(curvatures).max())
        sizes = jnp.maximum(jnp.abs(curvatures), floor)
        found = ((slopes**2 / sizes).sum() < _TOLERANCE**2) & (curvatures[0] > floor) & jnp.isfinite(value)
        dampings = state.damping * sizes.mean() * jnp.array(_DAMPINGS, dtype)
        trials = state.v + (slopes / (sizes + dampings[:, None])) @ axes.T
        values = jax.vmap(log_joint)(trials)
        values = jnp.where(jnp.isfinite(values), values, -jnp.inf)
        best = values.argmax()
        climbs = jnp.isfinite(value) & (values[best] >= value - slack * (1 + jnp.abs(value)))
        v = jnp.where(climbs & ~found, trials[best], state.v)
        damping = jnp.maximum(state.damping * jnp.where(climbs, calmer[best], wilder), _GIVE_UP**-1)
        num_grad = state.num_grad + expansion_cost(d) + (len(_DAMPINGS) + 1) // 2
        return Search(v, value, curvatures, axes, damping, found, num_grad, state.iteration + 1)

    zero, one = jnp.asarray(0), jnp.asarray(1.0, dtype)
    begin = Search(start, -jnp.inf * one, jnp.ones(d, dtype), jnp.eye(d, dtype=dtype), 0.1 * one, zero > 0, zero, zero)
    return jax.lax.while_loop(unfinished, climb, begin)


def new_mode(search: Search, modes: Mode, inflation: float) -> Mode:
    """Where a search ended, unless it found no mode, or one of the others again."""
    curvatures = jnp.maximum(search.curvatures, FLAT)
    distance = (((modes.v - search.v) @ search.axes) ** 2 * curvatures).sum(1)
    again = ((distance < _SAME_MODE**2) & (modes.log_evidence > -jnp.inf)).any()
    log_evidence = search.value + 0.5 * (math.log(2 * math.pi) - jnp.log(curvatures)).sum()
    new = search.found & ~again
    return Mode(
        jnp.where(new, log_evidence, -jnp.inf),
        jnp.where(new, search.v, 0.0),
        jnp.where(new, jnp.sqrt(inflation / curvatures), 1.0),
        search.axes,
    )


def expand(log_joint: Callable, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Value; gradient along the axes; curvatures, ascending, and axes: of the negative Hessian."""

    def slope(v):
        value, gradient = jax.value_and_grad(log_joint)(v)
        return gradient, (value, gradient)

    hessian, (value, gradient) = jax.jacfwd(slope, has_aux=True)(v)
    usable = jnp.isfinite(hessian).all() & jnp.isfinite(gradient).all()
    curvature = jnp.where(usable, -0.5 * (hessian + hessian.T), jnp.eye(v.size, dtype=v.dtype))
    curvatures, axes = jnp.linalg.eigh(curvature)
    return jnp.where(usable, value, -jnp.inf), jnp.where(usable, gradient, 0.0) @ axes, curvatures, axes


def expansion_cost(dimension: int) -> int:
    """Gradients of one expansion: each column of the Hessian counts as two (and a value alone as a half)."""
    return 1 + 2 * dimension
