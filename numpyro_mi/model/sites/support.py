"""Log-densities that are zero outside the support, and nowhere else.

Whenever the support of a held site moves with a latent, as in `x ~ Uniform(z - 1, z + 1)`, annealing
asks for densities outside it. NumPyro leaves those to its validation, which a user can switch off (a
`Uniform` then keeps its height out there), does not look between the transforms of a chain, and
is strict to the last bit: a Dirichlet draw of 5,000 parts whose sum is off by 2e-6 has density zero.
So validation is switched off here, and supports are checked with room for rounding.
"""

import contextlib
import copy
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints, transforms
from numpyro.distributions.distribution import (
    Distribution,
    FoldedDistribution,
    MaskedDistribution,
    TransformedDistribution,
    Unit,
)

from numpyro_mi.model.sites.logits import by_logit
from numpyro_mi.model.sites.site import WRAPPERS, ingredients, unwrapped

JACOBIAN = "<jacobian>"  # no site is named like this
_ROUNDING = 2.0  # units in the last place, of the value and of the bound
_WIDENING = 0.02  # of the distance between two bounds

_NONE: Mapping[str, jax.Array] = MappingProxyType({})

Test = Callable[[jax.Array], jax.Array]


def site_log_probs(
    trace: Mapping[str, dict],
    names: Collection[str],
    moved: Collection[str] = (),
    points: Mapping[str, jax.Array] = _NONE,
) -> dict[str, jax.Array]:
    """Log-density of each named site of a trace, summed over its elements; see `site_log_prob_tables`."""
    return {name: jnp.sum(value) for name, value in site_log_prob_tables(trace, names, moved, points).items()}


def site_log_prob_tables(
    trace: Mapping[str, dict],
    names: Collection[str],
    moved: Collection[str] = (),
    points: Mapping[str, jax.Array] = _NONE,
) -> dict[str, jax.Array]:
    """Log-density of each named site of a trace, element by element.

    Sites in `moved` come from the real line through their declared support, which is wider than the
    true one where a transform does not know its domain (an affine map of an exponential). The
    log-determinants of their maps are summed under `JACOBIAN`. The unconstrained points that they come from are
    `points`, where these are known.
    """
    found: dict[str, jax.Array] = {JACOBIAN: jnp.zeros(())}
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        if name in names:
            fn = on_support(site["fn"], moves=name in moved)
            fn = by_logit(fn, points[name]) if name in points else fn
            found[name] = fn.log_prob(jnp.asarray(site["value"]))
        elif isinstance(unwrapped(site["fn"]), Unit):
            # Models with a factor of their own are refused, so this is a log-determinant.
            found[JACOBIAN] += jnp.sum(site["fn"].log_prob(site["value"]))
    return found


def kept_cells(fn: Distribution) -> Any:
    """Which cells of a value the masks of a distribution keep, in a shape that goes with it; None: all."""
    kept = None
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, MaskedDistribution) and fn._mask is not True:
            mask = jnp.asarray(fn._mask)
            mask = mask.reshape(mask.shape + (1,) * fn.event_dim)
            kept = mask if kept is None else kept & mask
        fn = fn.base_dist
    return kept


def known_value(site: Mapping[str, Any]) -> Any:
    """The value of a site as far as its masks keep it, and a constant in the other cells.

    Those are simulated like all others, and what reads the data as a vector must not see them. The constant is one
    of the support, where that does not move with other sites, so that no gradient is lost; else it is 0.
    """
    value = site["value"]
    kept = kept_cells(site["fn"]) if site["type"] == "sample" else None
    if kept is None:
        return value
    support, constant = unwrapped(site["fn"]).support, 0
    if not _traced(list(bounds_of(support))):
        with contextlib.suppress(NotImplementedError):
            constant = support.feasible_like(value)
    return jnp.where(kept, value, jnp.asarray(constant, jnp.result_type(value)))


def on_support(fn: Distribution, moves: bool = False) -> Distribution:
    """A copy of a distribution whose `log_prob` is -inf outside the support, without NumPyro's validation.

    A support with constant bounds needs no check at a draw of its own, unless something around it
    moves the draw: `moves`.
    """
    images = isinstance(fn, TransformedDistribution) and not isinstance(fn, FoldedDistribution)
    if images:
        moves = moves or _traced(jax.tree.leaves(fn.transforms))
    inner = moves if images or isinstance(fn, WRAPPERS) else True
    fn = copy.copy(fn)
    fn._validate_args = False
    for name, value in list(ingredients(fn)):
        if isinstance(value, Distribution):
            setattr(fn, name, on_support(value, inner))
        else:
            setattr(fn, name, type(value)(on_support(item, inner) for item in value))
    if isinstance(fn, WRAPPERS):
        return fn
    test = _outside_images(fn, moves) if images else _outside_bounds(fn.support, moves)
    if test is not None:
        original = fn.log_prob
        fn.log_prob = lambda value, *args: _zero_where(test(value), original(value, *args))
    return fn


def _outside_images(fn: TransformedDistribution, moves: bool) -> Test | None:
    """The test of a transformed distribution: whether a value is no image of its transforms.

    The support of the base stands for that of an affine map, whose own codomain NumPyro guesses.
    """
    if not moves:
        return None
    parts = [
        part
        for transform in fn.transforms
        for part in (transform.parts if isinstance(transform, transforms.ComposeTransform) else [transform])
    ]
    tests = [
        None if isinstance(part, transforms.AffineTransform) else _outside_bounds(part.codomain, True) for part in parts
    ]

    def outside(value: jax.Array) -> jax.Array:
        batch_ndim = jnp.ndim(value) - fn.event_dim
        found = jnp.zeros((), bool)
        for part, test in zip(reversed(parts), reversed(tests), strict=True):
            if test is not None:
                at = test(value)
                found |= at.any(tuple(range(batch_ndim, at.ndim)))
            value = part.inv(value)
        return found

    return outside if any(tests) else None


def _zero_where(outside: jax.Array, log_prob: jax.Array) -> jax.Array:
    events = tuple(range(log_prob.ndim, outside.ndim))
    return jnp.where(outside.any(events), -jnp.inf, log_prob)


def _outside_bounds(support: Any, moves: bool) -> Test | None:
    """The test of a bounded support, or None where it has no bounds or a draw stays inside them."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    lower, upper = bounds_of(support)
    if isinstance(support, constraints.multinomial):
        total = upper
        wrong_total = lambda value: ((value.sum(-1) != total) | (value < 0).any(-1))[..., None]  # noqa: E731
        return wrong_total if moves or _traced([total]) else None
    if lower is None and upper is None:
        return None
    if not (moves or _traced([lower, upper])):
        return None

    def outside(value: jax.Array) -> jax.Array:
        eps = jnp.finfo(value.dtype).eps if jnp.issubdtype(jnp.result_type(value), jnp.floating) else 0.0
        # A NaN is not outside: it is for the checks to find.
        # Room for rounding that is wide against the distance of the bounds would be another support: then
        # there is none, and draws that round to the outside are found before anything is scored.
        width = jnp.inf if lower is None or upper is None else upper - lower

        def room(bound: Any) -> jax.Array:
            rounding = _ROUNDING * eps * (jnp.abs(value) + jnp.abs(bound))
            return jnp.where(rounding < _WIDENING * width, rounding, 0.0)

        below = False if lower is None else value < lower - room(lower)
        above = False if upper is None else value > upper + room(upper)
        return jnp.asarray(below | above)

    return outside


def bounds_of(support: Any) -> tuple[Any, Any]:
    """Lower and upper bound of a support; None where it has none."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)


def outside(fn: Distribution, value: jax.Array) -> np.ndarray:
    """Which entries of a value that is held are outside the support, as far as that is known without other sites."""
    with jax.ensure_compile_time_eval():
        found = off_support(fn, value, not _traced(jax.tree.leaves(fn.support)))
    return np.zeros((), bool) if _traced([found]) else np.asarray(found)


def off_support(fn: Distribution, value: jax.Array, bounded: bool = True) -> jax.Array:
    """Which entries of a value its distribution cannot draw; those that a mask leaves out are never among them.

    Without `bounded`, only what is no finite number, or not whole where the distribution is discrete. Entries are
    those of vectors too, unless their support is one of whole vectors, such as the simplex.
    """
    support, value = fn.support, jnp.asarray(value)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    entries = jnp.ndim(value) - getattr(support, "event_dim", 0)

    def by_entry(found: jax.Array) -> jax.Array:
        return found.any(tuple(range(entries, found.ndim)))

    found = by_entry(~jnp.isfinite(value))
    if getattr(support, "is_discrete", False):
        found |= by_entry(value != jnp.floor(value))
    if bounded and support is not None:
        with contextlib.suppress(NotImplementedError):
            found = found | ~jnp.asarray(_holds(support, value))
    kept = kept_cells(fn)
    if kept is not None:
        found = found & (by_entry(jnp.broadcast_to(kept, jnp.shape(value))))
    return found


def _holds(support: Any, value: jax.Array) -> jax.Array:
    """Whether a support holds a value, or one that rounds to it."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return support(value)
    room = 2 * _ROUNDING * jnp.finfo(value.dtype).eps
    if isinstance(support, type(constraints.simplex)):
        total = value.sum(-1, keepdims=True)
        near = jnp.abs(total - 1) < 1e-6 + room * value.shape[-1]
        return support(jnp.where(near, value / total, value))
    return support(value) | support(value * (1 - room)) | support(value * (1 + room))


def _traced(values: list) -> bool:
    return any(isinstance(value, jax.core.Tracer) for value in values)
