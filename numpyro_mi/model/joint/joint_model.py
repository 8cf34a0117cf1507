"""A NumPyro model bound to its arguments, with the roles of its sites, and how its joint distribution is simulated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
import numpyro
from numpyro import handlers

from numpyro_mi.model.joint import checks
from numpyro_mi.model.sites.site import Site

Values = dict[str, Any]


@dataclass(frozen=True, eq=False)
class JointModel:
    """A model bound to its arguments and parameters, with the roles of its sites.

    Attributes
    ----------
    run
        The model without arguments; data sites are not yet simulated in it.
    latent, data, given
        Names of the two groups whose mutual information is asked for, and of those it is conditioned on.
    fixed
        Sites that it is conditioned on at one value, by name.
    sites
        The random sites in model order: everything that is drawn when the joint distribution is
        simulated. Sites observed at a fixed value are not among them.
    traced
        Every site of the model, for checks.
    parents
        For each random site, the random sites that its distribution is computed from.
    simulated
        Asked-for sites that the model is given a value for, which is not used.
    without_density
        Sites that can be simulated but have no density: deterministic data, and sites whose distribution
        depends on random numbers that are no site.
    notes
        What a result has to say of the model.
    """

    run: Callable[[], Any]
    latent: tuple[str, ...]
    data: tuple[str, ...]
    sites: tuple[str, ...]
    traced: Mapping[str, Site]
    parents: Mapping[str, frozenset[str]]
    simulated: frozenset[str]
    given: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    without_density: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def joint(self) -> Callable[[], Any]:
        """The model with every asked-for site drawn, whether or not it is given `obs=`."""
        return handlers.condition(self.run, condition_fn=partial(_draw, self.simulated))

    def simulate(self, rng_key: jax.Array) -> Values:
        """One ancestral draw of all random sites, by name."""
        trace = self.drawing_trace(rng_key)
        return {name: trace[name]["value"] for name in self.sites}

    def drawing_trace(self, rng_key: jax.Array) -> dict[str, dict]:
        """Trace of one ancestral draw."""
        return simulated_trace(self.run, self.simulated, rng_key)

    def observed_values(self) -> Values | None:
        """Values of the data that the model is called with; None if any of them is missing."""
        if not set(self.data) <= self.simulated:
            return None
        trace = handlers.trace(handlers.seed(self.run, 0)).get_trace()
        shapes = {name: self.traced[name].drawn for name in self.data}
        return {name: np.broadcast_to(np.asarray(trace[name]["value"]), shapes[name]) for name in self.data}

    def held_at(self, values: Values, rng_key: jax.Array | int = 0) -> Callable[[], Any]:
        """The model with sites held at given values; what is asked of it never depends on the key."""
        return handlers.seed(handlers.condition(self.run, data=values), rng_key)


def simulated_trace(run: Callable, simulated: frozenset[str], rng_key: jax.Array) -> dict[str, dict]:
    """Trace with the sites in `simulated` drawn whether or not they are given a value."""
    model = handlers.condition(run, condition_fn=partial(_draw, simulated))
    return handlers.trace(handlers.seed(model, rng_key)).get_trace()


def _draw(simulated: frozenset[str], msg: dict) -> jax.Array | None:
    checks.drawable(msg["name"], msg["fn"])
    if msg["name"] in simulated:
        return msg["fn"](rng_key=numpyro.prng_key(), sample_shape=msg["kwargs"]["sample_shape"])
    return None
