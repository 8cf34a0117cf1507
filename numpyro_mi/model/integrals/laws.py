"""Whether a model's draws follow its log-densities: one program over pilot draws."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from numpyro import handlers

from numpyro_mi.model.integrals.decomposition import ancestors
from numpyro_mi.model.integrals.pieces import Misreading, Piece
from numpyro_mi.model.joint.joint_model import JointModel, Values
from numpyro_mi.model.sites.conditionals import Terms, checkable, is_own, terms
from numpyro_mi.model.sites.coordinates import substitute_points
from numpyro_mi.model.sites.identities import acceptance, balance, drift
from numpyro_mi.model.sites.support import site_log_prob_tables
from numpyro_mi.model.staging import Staged, stage


class Moved(NamedTuple):
    """A draw whose latents are moved: terms of `identities`, and the acceptance of the move."""

    balance: jax.Array
    drift: jax.Array
    acceptance: jax.Array


class Conditionals(NamedTuple):
    """Of one draw, by site.

    Attributes
    ----------
    terms
        Of the site's own conditional.
    misread
        Of each conditional that depends on a site that is summed out.
    """

    terms: dict[str, Terms]
    misread: dict[str, Misreading]


class Laws(NamedTuple):
    """What is evaluated at pilot draws.

    Attributes
    ----------
    examine
        `(rng_key, values, points, steps, change, whole) -> (Moved, Conditionals)` for one draw: its continuous latents
        moved by `steps` and elements of its summed sites changed with the probabilities `change`; conditionals only if
        `whole` is true, else zeros.
    points, summed
        Sites that can be moved.
    readers
        For each of these, the sites whose densities then change.
    own
        Sites whose distribution is of the user's own making.
    """

    examine: Staged
    points: tuple[str, ...]
    summed: tuple[str, ...]
    readers: Mapping[str, tuple[str, ...]]
    own: frozenset[str]


def stage_laws(model: JointModel, pieces: Sequence[Piece], values: Values, points: Values) -> Laws:
    """Stage the checks of a model, at the shapes of one draw and of its unconstrained points."""
    summed = tuple(dict.fromkeys(name for piece in pieces for name in piece.summed))
    checked, own = _checked(model, values)

    def conditionals(rng_key: jax.Array, values: Values) -> Conditionals:
        trace = handlers.trace(model.held_at(values)).get_trace()
        keys = dict(zip(checked, random.split(rng_key, max(1, len(checked))), strict=False))
        found = {name: terms(trace[name]["fn"], trace[name]["value"], keys[name]) for name in checked}
        misread: dict[str, Misreading] = {}
        for piece in pieces:
            misread.update(piece.misread(values))
        return Conditionals(found, misread)

    def examine(rng_key, values, points, steps, change, whole):
        move_key, own_key = random.split(rng_key)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        found = jax.lax.cond(whole, partial(conditionals, own_key), lambda _: nothing, values)
        return _moved(model, move_key, values, points, steps, change), found

    shapes = jax.eval_shape(conditionals, random.key(0), values)
    change = {name: jnp.zeros(()) for name in summed}
    staged = stage(examine, random.key(0), values, points, points, change, jnp.asarray(True))
    readers = {
        name: tuple(other for other in _drawn(model) if other == name or name in model.parents[other])
        for name in (*points, *summed)
    }
    return Laws(staged, tuple(points), summed, readers, own)


def _drawn(model: JointModel) -> tuple[str, ...]:
    """Sites that are drawn, and that the groups depend on."""
    needed = ancestors((*model.latent, *model.data, *model.given), model.parents)
    return tuple(name for name in model.sites if name in needed and name not in model.fixed)


def _checked(model: JointModel, values: Values) -> tuple[tuple[str, ...], frozenset[str]]:
    """Sites whose conditionals can be checked, and those that are of the user's own making."""
    found: list[str] = []
    own: set[str] = set()

    def record(values: Values) -> dict[str, Terms]:
        trace = handlers.trace(model.held_at(values)).get_trace()
        result = {}
        for name in _drawn(model):
            fn = trace[name]["fn"]
            own.update({name} if is_own(fn) else ())
            if checkable(fn):
                # What draws or scores in a way of its own is seen by the other checks alone.
                with contextlib.suppress(Exception):
                    result[name] = terms(fn, trace[name]["value"], random.key(0))
        found.extend(result)
        return result

    jax.eval_shape(record, values)
    return tuple(found), frozenset(own)


def _moved(
    model: JointModel, rng_key: jax.Array, values: Values, points: Values, steps: Values, change: Values
) -> Moved:
    """A draw moved up and down by the same step, against where it was."""
    turns = {}
    for i, (name, share) in enumerate(change.items()):
        flip_key, turn_key = random.split(random.fold_in(rng_key, i))
        flips = random.bernoulli(flip_key, share, values[name].shape)
        count = len(model.traced[name].choices or ())
        turns[name] = jnp.where(flips, random.randint(turn_key, flips.shape, 1, max(2, count)), 0)

    def tables(sign: jax.Array) -> Values:
        moved = {name: points[name] + sign * steps[name] for name in points}
        held = {name: value for name, value in values.items() if name not in points}
        held |= {name: _turned(model, name, values[name], sign.astype(int) * turns[name]) for name in turns}
        place = partial(substitute_points, moved, (), None)
        trace = handlers.trace(handlers.substitute(model.held_at(held), substitute_fn=place)).get_trace()
        return site_log_prob_tables(trace, _drawn(model), tuple(points), moved)

    found = jax.vmap(tables)(jnp.array([0.0, 1.0, -1.0]))
    # Differences of elements first: sums of many have digits to lose.
    changes = [(table - table[0]).reshape(3, -1).sum(1) for table in found.values()]
    _, up, down = jnp.stack(changes).sum(0)
    direction = jnp.sign(sum((jnp.sign(step).sum() for step in steps.values()), jnp.zeros(())))
    direction = jnp.where(jnp.isnan(direction), 0.0, direction)
    return Moved(balance(up, down), drift(up, down) * direction, 0.5 * (acceptance(up) + acceptance(down)))


def _turned(model: JointModel, name: str, value: jax.Array, turn: Any) -> jax.Array:
    """Values of a site whose values can be listed, each moved on in the list."""
    choices = jnp.asarray(model.traced[name].choices)
    place = jnp.argmax(value[..., None] == choices, -1)
    return choices[(place + turn) % len(choices)].astype(value.dtype)
