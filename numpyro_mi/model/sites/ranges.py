"""How far a value is from what a constraint of NumPyro allows, with room for rounding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

INSIDE, AT_EDGE, OUTSIDE = 0, 1, 2
"""At the edge means the end of an open range, or infinity: it is wrong where what comes of it is not finite."""

_ROUNDING = 8.0  # units in the last place
_SUM = 1e-5  # of probabilities, row norms and correlations, beside what their number adds to the rounding
_ASYMMETRY = 1e-3  # relative; draws and density are those of the symmetric part
_ABOVE_DIAGONAL = 1e-5  # relative

Codes = jax.Array | np.ndarray
"""INSIDE, AT_EDGE or OUTSIDE for each event of a value."""


def code(constraint: Any, value: jax.Array) -> Codes:
    """Where a value is, event by event; a NaN is outside of everything.

    Raises
    ------
    Exception
        Whatever the constraint of a user raises.
    """
    if isinstance(constraint, constraints.independent):
        found = code(constraint.base_constraint, value)
        axes = tuple(range(found.ndim - constraint.reinterpreted_batch_ndims, found.ndim))
        return found.max(axes, initial=INSIDE) if axes else found
    for kind, test in _TESTS:
        if isinstance(constraint, kind):
            return test(constraint, value)
    if isinstance(constraint, _BOUNDED):
        return _between(constraint, value)
    return _codes(~jnp.asarray(constraint(value)))


def ordered(low: Any, high: Any, whole: bool) -> Codes:
    """Whether the bounds of a support are the right way round; equal ones are a single value."""
    return _codes(~(low <= high), (low == high) & (not whole))


def weights(value: jax.Array) -> Codes:
    """Of probabilities that are divided by their sum."""
    return _codes(~((value >= -_slack(value)).all(-1) & (value.sum(-1) > 0)))


def factorised(value: jax.Array, factor: jax.Array) -> Codes:
    """Of a positive definite matrix, by the Cholesky factor that is known of it (or of its inverse)."""
    return jnp.maximum(_codes(_asymmetric(value)), _codes(jnp.isnan(factor).any((-2, -1))))


def words(constraint: Any) -> str:
    """What a constraint asks of a parameter."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    for kind, text in _WORDS:
        if isinstance(constraint, kind):
            return text
    lower, upper = getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)
    if isinstance(constraint, _BOUNDED) and not any(isinstance(bound, jax.core.Tracer) for bound in (lower, upper)):
        number = "be a whole number" if constraint.is_discrete else "be"
        if lower is not None and upper is not None:
            return f"{number} between {lower:g} and {upper:g}"
        side = (
            ("above" if upper is None else "below")
            if _is_open(constraint)
            else "at " + ("least" if upper is None else "most")
        )
        return f"{number} {side} {lower if upper is None else upper:g}"
    return f"satisfy {constraint!r}"


def _codes(outside: Any, edge: Any = False) -> Codes:
    return jnp.where(outside, OUTSIDE, jnp.where(edge, AT_EDGE, INSIDE)).astype(jnp.int8)


def _eps(value: jax.Array) -> float:
    dtype = jnp.result_type(value)
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def _slack(value: jax.Array) -> float:
    """Rounding of sums to one."""
    return max(_SUM, 10 * _eps(value)) + _ROUNDING * _eps(value) * np.sqrt(value.shape[-1])


def _between(constraint: Any, value: jax.Array) -> Codes:
    """Of numbers with a lower bound, an upper one, or both."""
    lower, upper = getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)
    width = 0.0 if lower is None or upper is None else jnp.abs(upper - lower)
    below, above = (jnp.abs(0.0 if bound is None else bound) for bound in (lower, upper))
    room = _ROUNDING * _eps(value) * (width + below + above)
    outside, edge = jnp.isnan(value), jnp.isinf(value)
    if lower is not None:
        outside |= value < lower - room
        edge |= (value <= lower) & _is_open(constraint)
    if upper is not None:
        outside |= value > upper + room
        edge |= (value >= upper) & _is_open(constraint)
    if constraint.is_discrete and jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        outside |= jnp.abs(value - jnp.round(value)) > _SUM * (1 + jnp.abs(value))
    return _codes(outside, edge)


def _is_open(constraint: Any) -> bool:
    closed = isinstance(constraint, constraints.greater_than_eq | constraints.less_than_eq)
    ends = constraints.greater_than | constraints.less_than | constraints.open_interval
    return isinstance(constraint, ends) and not closed


def _not_nan(constraint: Any, value: jax.Array) -> Codes:
    """Of any number: logits of -inf and the like have their uses, and angles may go round."""
    return _codes(jnp.isnan(value), jnp.isinf(value))


def _simplex(constraint: Any, value: jax.Array) -> Codes:
    slack = _slack(value)
    return _codes(~((value >= -slack).all(-1) & (jnp.abs(value.sum(-1) - 1) <= slack)))


def _l1_ball(constraint: Any, value: jax.Array) -> Codes:
    return _codes(~(jnp.abs(value).sum(-1) <= 1 + _slack(value)))


def _ordered(constraint: Any, value: jax.Array) -> Codes:
    steps = jnp.diff(value, axis=-1)
    found = _codes(~(steps >= 0).all(-1), (steps == 0).any(-1))
    if isinstance(constraint, type(constraints.positive_ordered_vector)):
        found = jnp.maximum(found, code(constraints.independent(constraints.positive, 1), value))
    return found


def _triangular(constraint: Any, value: jax.Array) -> Codes:
    diagonal = jnp.diagonal(value, axis1=-2, axis2=-1)
    above = jnp.abs(jnp.triu(value, 1)).max((-2, -1), initial=0.0)
    wrong = ~(above <= _ABOVE_DIAGONAL * jnp.abs(value).max((-2, -1))) | ~(diagonal >= 0).all(-1)
    if isinstance(constraint, type(constraints.corr_cholesky)):
        wrong |= ~(jnp.abs((value**2).sum(-1) - 1) <= 2 * _slack(value)).all(-1)
    return _codes(wrong | jnp.isnan(value).any((-2, -1)), (diagonal == 0).any(-1))


def _definite(constraint: Any, value: jax.Array) -> Codes:
    found = factorised(value, jnp.linalg.cholesky(value))
    if isinstance(constraint, type(constraints.corr_matrix)):
        diagonal = jnp.diagonal(value, axis1=-2, axis2=-1)
        found = jnp.maximum(found, _codes(~(jnp.abs(diagonal - 1) <= _slack(value)).all(-1)))
    return found


def _asymmetric(value: jax.Array) -> jax.Array:
    difference = jnp.abs(value - jnp.swapaxes(value, -2, -1)).max((-2, -1))
    return ~(difference <= _ASYMMETRY * jnp.abs(value).max((-2, -1)))


def _circulant(constraint: Any, value: jax.Array) -> Codes:
    spectrum = jnp.fft.rfft(value)
    scale = jnp.abs(spectrum).max(-1, keepdims=True)
    right = (jnp.abs(spectrum.imag) <= _ASYMMETRY * scale) & (spectrum.real >= -_SUM * scale)
    return _codes(~right.all(-1))


_BOUNDED = (
    constraints.greater_than,
    constraints.less_than,
    constraints.interval,
    constraints.integer_greater_than,
    constraints.integer_interval,
)
_TESTS: list[tuple[Any, Callable[[Any, jax.Array], Codes]]] = [
    (type(constraints.circular), _not_nan),
    (type(constraints.real), _not_nan),
    (type(constraints.complex), _not_nan),
    (type(constraints.simplex), _simplex),
    (type(constraints.l1_ball), _l1_ball),
    (type(constraints.ordered_vector), _ordered),
    (type(constraints.positive_ordered_vector), _ordered),
    (type(constraints.lower_cholesky), _triangular),
    (type(constraints.corr_cholesky), _triangular),
    (type(constraints.positive_definite), _definite),
    (type(constraints.corr_matrix), _definite),
    (type(constraints.positive_definite_circulant_vector), _circulant),
]
_WORDS: list[tuple[Any, str]] = [
    (type(constraints.circular), "be finite"),
    (type(constraints.real), "be finite"),
    (type(constraints.complex), "be finite"),
    (type(constraints.simplex), "be probabilities that sum to 1"),
    (type(constraints.l1_ball), "have absolute values that sum to at most 1"),
    (type(constraints.ordered_vector), "increase from element to element"),
    (type(constraints.positive_ordered_vector), "be positive and increase from element to element"),
    (type(constraints.corr_cholesky), "be the Cholesky factor of a correlation matrix"),
    (type(constraints.lower_cholesky), "be lower triangular with a positive diagonal"),
    (type(constraints.corr_matrix), "be a correlation matrix"),
    (type(constraints.positive_definite), "be symmetric and positive definite"),
    (type(constraints.positive_definite_circulant_vector), "be the first row of a circulant covariance"),
    (type(constraints.nonnegative_integer), "be a whole number, 0 or more"),
    (type(constraints.positive_integer), "be a whole number, 1 or more"),
    (type(constraints.nonnegative), "not be negative"),
    (type(constraints.positive), "be positive and finite"),
]
