"""The values that a model gives to `obs=`: data and constants, nothing that is drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import random
from numpyro import handlers

from numpyro_mi.model.joint.checks import listed
from numpyro_mi.model.sites.site import Site
from numpyro_mi.model.staging import KEY, depends_on, essences


def drawn_sources(run: Callable[[], Any], traced: Mapping[str, Site]) -> dict[str, list[str]]:
    """For each value that is computed from other random sites, or from random numbers, the sites.

    Whoever simulates such a site draws it afresh, and what its value says of the others is lost. What a
    `scan` hands on of the site itself is no other site.

    Parameters
    ----------
    run
        The model without arguments, with no site held at a value.
    traced
        Its sites.
    """
    samples = {name: found for name, found in traced.items() if found.kind == "sample"}
    observed = [name for name, found in samples.items() if found.observed]
    if not observed:
        return {}

    def given(inputs: dict[str, Any]) -> dict[str, Any]:
        held = {name: value for name, value in inputs.items() if name != KEY}
        model = handlers.condition(handlers.condition(run, condition_fn=_keep_value), data=held)
        found = handlers.trace(handlers.seed(model, inputs[KEY])).get_trace()
        return {name: found[name]["args"] for name in observed}

    def as_called() -> dict[str, Any]:
        found = handlers.trace(handlers.seed(run, random.key(0))).get_trace()
        return {name: found[name]["value"] for name in observed}

    inputs = {name: jax.ShapeDtypeStruct(found.drawn, found.value.dtype) for name, found in samples.items()}
    sources = depends_on(given, {**inputs, KEY: random.key(0)})
    once, again = (essences(lambda: as_called()) for _ in range(2))  # each a function of its own: JAX keeps traces
    return {
        name: sorted(sources[name] - {name, KEY})
        for name in observed
        if sources[name] - {name} or once[name] != again[name]
    }


def check(sources: Mapping[str, list[str]]) -> None:
    """Refuse values that are computed from other random sites or from random numbers."""
    for name, sites in sources.items():
        if sites:
            what = f"site{'s' if len(sites) > 1 else ''} {listed(sites)}"
            lost = f"{name!r} is drawn from its own distribution, and what the value has from {listed(sites)} is lost"
        else:
            what = "random numbers (numpyro.prng_key(), numpy.random, or a site that handlers.block hides)"
            lost = f"{name!r} is drawn from its own distribution, and the value is lost"
        raise ValueError(
            f"the value that site {name!r} is given by obs= is computed from {what}. In a simulation {lost}: compute "
            "it from arguments and constants alone, or call the model without it. To leave missing cells out, use a "
            "fixed mask: numpyro.handlers.mask(mask=~missing) around numpyro.sample(..., obs=jnp.where(missing, 0, x))."
        )


def _keep_value(msg: dict) -> None:
    """Keep the value that the model gives where `scan` lets it pass, before another one takes its place."""
    if msg["is_observed"]:
        msg["args"] = (msg["value"],)
