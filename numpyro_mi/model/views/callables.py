"""A user's guide function, staged like a model: draws and log-density in the model's unconstrained coordinates."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from numpyro import handlers

from numpyro_mi.model.integrals.densities import Coordinates, held_values
from numpyro_mi.model.joint.told import told
from numpyro_mi.model.sites.parameters import spoil, verdict, with_flaw
from numpyro_mi.model.sites.site import Site, site
from numpyro_mi.model.sites.support import site_log_probs
from numpyro_mi.model.staging import KEY, Staged, depends_on, stage


class StagedGuide(NamedTuple):
    """A guide of one integral; x are its held values as one vector.

    Attributes
    ----------
    draw
        `(rng_key, x, params) -> u`.
    density
        `(u, x, params) -> log q(u | x)`, nats.
    params
        Of the guide; arguments, so that other values compile nothing.
    """

    draw: Staged
    density: Staged
    params: dict[str, Any]

    def sample(self, rng_key: jax.Array, x: jax.Array) -> jax.Array:
        """A draw of u."""
        return self.draw(rng_key, x, self.params)

    def log_prob(self, u: jax.Array, x: jax.Array) -> jax.Array:
        """Its log-density, nats."""
        return self.density(u, x, self.params)


def stage_guide(
    guide: Callable, params: Mapping[str, Any], args: tuple, kwargs: Mapping[str, Any], coordinates: Coordinates
) -> StagedGuide:
    """Check and stage `guide(data, *args, **kwargs)`.

    Raises
    ------
    ValueError
        Naming the site or the parameter.
    """
    names = [name for name, _ in coordinates.integrated]
    x = jnp.zeros(sum(shape.size for _, shape in coordinates.held))
    u = jnp.zeros_like(jax.eval_shape(coordinates.unconstrain, *map(_zeros, coordinates[2:])))
    values: dict[str, Any] = jax.tree.map(jnp.asarray, dict(params))

    def run(x: jax.Array, params: Mapping[str, Any] = values) -> Callable:
        return partial(handlers.substitute(guide, data=params), held_values(x, coordinates.held), *args, **kwargs)

    def draw(rng_key, x, params):
        trace = handlers.trace(handlers.seed(run(x, params), rng_key)).get_trace()
        return {name: trace[name]["value"] for name in names}

    def sample(rng_key, x, params):
        return coordinates.unconstrain(draw(rng_key, x, params), held_values(x, coordinates.held))

    def log_prob(u, x, params, rng_key=0):
        drawn, log_det = coordinates.constrain(u, held_values(x, coordinates.held))
        held = handlers.condition(run(x, params), data=drawn)
        trace = handlers.trace(handlers.seed(held, rng_key)).get_trace()
        found = site_log_probs(trace, names, names)
        invalid = {name: verdict(trace[name]["fn"], found[name]) for name in names}
        return spoil(invalid, sum((found[name] for name in names), log_det))

    with _guide_errors():
        _check_sites(_traced(run, x), coordinates)
        _check_parameters(run, x, values)
        _check_randomness(lambda key: draw(key, x, values), lambda key: log_prob(u, x, values, key))
        density = stage(log_prob, u, x, values, differentiable=True)
        return StagedGuide(stage(sample, random.key(0), x, values), density, values)


class _Refusal(ValueError):
    """A check of ours, so that its message needs no wrapping."""


@contextmanager
def _guide_errors() -> Iterator[None]:
    """Keep the message of an exception raised by the guide, and say where it came from."""
    try:
        yield
    except _Refusal as refusal:
        raise ValueError(str(refusal)) from None
    except Exception as error:
        raise ValueError(
            f"the guide raised {type(error).__name__} while it was traced: {told(error)}. It is called as guide(data), "
            "with data a dict of one draw of each held site by name."
        ) from error


def _zeros(shapes: tuple) -> dict[str, jax.Array]:
    return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes}


def _traced(run: Callable, x: jax.Array) -> dict[str, Site]:
    """Trace without computing."""
    found: dict[str, Site] = {}

    def record(rng_key, x):
        trace = handlers.trace(handlers.seed(run(x), rng_key)).get_trace()
        found.update({name: with_flaw(site(msg), msg) for name, msg in trace.items()})

    jax.eval_shape(record, random.key(0), x)
    return found


def _check_sites(found: Mapping[str, Site], coordinates: Coordinates) -> None:
    """Require exactly the integrated latents, each drawn from a density on the real line."""
    wanted = dict(coordinates.integrated)
    drawn = {name: own for name, own in found.items() if own.kind == "sample"}
    missing, unknown = sorted(set(wanted) - set(drawn)), sorted(set(drawn) - set(wanted))
    if missing or unknown:
        parts = [f"lacks {missing}"] * bool(missing) + [f"has {unknown}, which are none of them"] * bool(unknown)
        raise _Refusal(
            f"the guide must draw exactly the latents that are integrated out, {sorted(wanted)}; it "
            f"{' and '.join(parts)}. Auxiliary draws have no place in it: its density must be known."
        )
    for name, own in drawn.items():
        flaw = own.flaw or own.obstacle
        if own.observed:
            flaw = "is observed (obs=): a guide draws its sites, from the data that it is given."
        elif own.scaled:
            flaw = "is scaled (handlers.scale or a subsampled plate): a scaled log-density is no density."
        if flaw:
            raise _Refusal(f"site {name!r} of the guide {flaw}")
        if own.drawn != wanted[name].shape:
            raise _Refusal(
                f"site {name!r} of the guide has shape {own.drawn}, and one draw of it in the model has shape "
                f"{wanted[name].shape}."
            )


def _check_parameters(run: Callable, x: jax.Array, params: Mapping[str, Any]) -> None:
    """Require a value for every parameter; modules that carry their values are fine."""

    def initial(inputs):
        trace = handlers.trace(handlers.seed(run(x), inputs[KEY])).get_trace()
        return {name: msg["value"] for name, msg in trace.items() if msg["type"] == "param"}

    keyed = depends_on(initial, {KEY: random.key(0)})
    unknown = sorted(name for name in params if name not in _traced(run, x))
    if unknown:
        raise _Refusal(f"params holds {unknown}, and the parameters of the guide are {sorted(keyed)}.")
    missing = [name for name in keyed if name not in params and (not name.endswith("$params") or keyed[name])]
    if missing:
        raise _Refusal(
            f"parameter(s) {missing} of the guide have no value, only an initial one: pass the fitted values as "
            f"GuideFunction(guide, params={{{missing[0]!r}: ...}}), for example params=svi_result.params."
        )


def _check_randomness(draw: Callable, log_prob: Callable) -> None:
    """Require draws that differ from call to call, and a density that does not."""
    key = {KEY: random.key(0)}
    fixed = [name for name, by in depends_on(lambda inputs: draw(inputs[KEY]), key).items() if not by]
    if fixed:
        raise _Refusal(
            f"site(s) {fixed} of the guide have the same value at every call: the guide brings a key of its own "
            "(handlers.seed, or rng_key= of numpyro.sample); leave the keys to NumPyro."
        )
    density = depends_on(lambda inputs: {"": log_prob(inputs[KEY])}, key)
    if density[""]:
        raise _Refusal(
            "the density of the guide depends on random numbers that are no site of it (from numpyro.prng_key(), or a "
            "dropout layer), so that it cannot be evaluated."
        )
