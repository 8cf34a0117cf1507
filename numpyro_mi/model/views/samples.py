"""A model as a source of joint samples: for methods that need no likelihood."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax import random
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import _unconstrain_reparam

from numpyro_mi.model.integrals.densities import features, flatten
from numpyro_mi.model.joint import checks
from numpyro_mi.model.joint.checks import listed
from numpyro_mi.model.joint.joint_model import JointModel, Values
from numpyro_mi.model.sites.logits import drawn_point
from numpyro_mi.model.sites.parameters import Verdict, verdict
from numpyro_mi.model.sites.support import JACOBIAN, known_value, site_log_probs
from numpyro_mi.model.staging import Staged, stage


class Sample(NamedTuple):
    """One joint draw as two vectors.

    Attributes
    ----------
    u
        The latents in unconstrained coordinates (discrete ones as they are), sites alphabetically.
    x
        The data, flattened.
    drift
        Log-density of the latents where they are held minus that where they are drawn, nats; 0 where it is not asked
        for.
    invalid
        For each site whose parameters are computed, what is to be said of these.
    """

    u: jax.Array
    x: jax.Array
    drift: jax.Array
    invalid: dict[str, Verdict]


class StagedSamples(NamedTuple):
    """All that a run without a likelihood needs of a model.

    Attributes
    ----------
    draw
        `rng_key -> Sample`.
    sample_prior
        `rng_key -> u`: the latents of a draw of their own.
    log_prior
        `u -> log p(u)`, nats; None where it is not asked for.
    dimension, num_features
        Sizes of u and x.
    parents
        Which sites each site is computed from.
    """

    draw: Staged
    sample_prior: Staged
    log_prior: Staged | None
    dimension: int
    num_features: int
    parents: Mapping[str, frozenset[str]]


def stage_samples(model: JointModel, prior: bool) -> StagedSamples:
    """Stage the simulation, and with `prior` the density of the latents.

    Raises
    ------
    ValueError
        With `prior`, if the latents have no density that can be evaluated and differentiated.
    """
    if prior:
        _evaluable([name for name in model.latent if name in model.without_density])
        for name in model.latent:
            checks.annealable(name, model.traced[name])
        fed = set().union(*(model.parents[name] for name in model.latent)) - {*model.latent, *model.fixed}
        if fed:
            _needs_prior(sorted(fed), model.latent, model.data)
    draw = partial(_sample, model, prior)
    shape = jax.eval_shape(draw, random.key(0))
    log_prior = None
    if prior:
        with checks.differentiable(model.latent):
            log_prior = stage(_log_prior(model), jnp.zeros(shape.u.shape, shape.u.dtype), differentiable=True)
    sample_prior = stage(lambda rng_key: draw(rng_key).u, random.key(0))
    sizes = shape.u.size, shape.x.size
    return StagedSamples(stage(draw, random.key(0)), sample_prior, log_prior, *sizes, model.parents)


def _sample(model: JointModel, prior: bool, rng_key: jax.Array) -> Sample:
    drawing = model.drawing_trace(rng_key)
    values = {name: drawing[name]["value"] for name in model.latent}
    trace = handlers.trace(model.held_at(values)).get_trace()
    drift = jnp.zeros(())
    if prior:
        held, drawn = (site_log_probs(found, model.latent) for found in (trace, drawing))
        drift = sum((held[name] - drawn[name] for name in model.latent), drift)
    u = {name: _unconstrained(trace[name]["fn"], drawing[name]) for name in model.latent}
    x = features({name: known_value(drawing[name]) for name in model.data})
    return Sample(flatten(u), x, drift, _verdicts(model, drawing))


def _verdicts(model: JointModel, drawing: Mapping[str, Any]) -> dict[str, Verdict]:
    """By the draws, since sites without a density are among them."""
    return {name: verdict(drawing[name]["fn"], drawing[name]["value"]) for name in model.sites}


def _unconstrained(fn, drawn: Mapping[str, Any]) -> jax.Array:
    """A draw on the real line, by the transform of the given distribution."""
    if fn.support is None or fn.support.is_discrete:
        return jnp.asarray(drawn["value"], float)
    return drawn_point(drawn, biject_to(fn.support).inv(drawn["value"]))


def _log_prior(model: JointModel) -> Callable[[jax.Array], jax.Array]:
    def points(rng_key: jax.Array) -> Values:
        drawing = model.drawing_trace(rng_key)
        return {name: _unconstrained(drawing[name]["fn"], drawing[name]) for name in model.latent}

    example = jax.eval_shape(points, random.key(0))
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example))

    def log_prior(u: jax.Array) -> jax.Array:
        at = unravel(u)
        moved = handlers.substitute(model.held_at({}), substitute_fn=partial(_unconstrain_reparam, at))
        found = site_log_probs(handlers.trace(moved).get_trace(), model.latent, model.latent, at)
        return sum((found[name] for name in model.latent), found[JACOBIAN])

    return log_prior


def _needs_prior(sites: Sequence[str], latent: Sequence[str], data: Sequence[str]) -> NoReturn:
    """Refuse latents whose marginal density is an integral, where it is needed."""
    if set(sites) & set(data):
        raise ValueError(
            f"latent {listed(latent)} is drawn from data {listed(sorted(set(sites) & set(data)))}, so that it has no "
            "prior that can be evaluated: swap `latent` and `data` (mutual information is symmetric)."
        )
    raise ValueError(
        f"p({', '.join(latent)}) is an integral over {listed(sites)}, and this method evaluates it: name them in "
        f"latent too, as latent={[*latent, *sites]!r}, or use a method that needs joint samples only, as InfoNCE()."
    )


def _evaluable(missing: Sequence[str]) -> None:
    """Refuse latents without a density, for a method that evaluates it."""
    if missing:
        raise ValueError(
            f"latent {listed(missing)} has no density that can be evaluated (its distribution has no log_prob, or "
            "depends on random numbers that are no site), and this method evaluates it: use InfoNCE(), which needs "
            "joint samples only."
        )
