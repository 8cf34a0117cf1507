"""One integral together with where its annealed path starts: the prior, or a guide."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from numpyro_mi.guides.base import Conditional, FittedGuide
from numpyro_mi.model.integrals.densities import Integrand, features
from numpyro_mi.targets import AnnealedTarget

_MARGIN = 0.5  # of 64 draws of a normal: five standard deviations from the mean


class AnnealedIntegral(Protocol):
    """An integral that chains can be run on; a pytree.

    The three functions are of one draw. `condition` is called once a draw, before any chain.
    """

    def condition(self, held: Any, rng_key: jax.Array) -> Any:
        """What depends on the held values alone (and independent noise)."""

    def target(self, held: Any, conditional: Any) -> AnnealedTarget:
        """The target, in the coordinates that chains run in."""

    def coordinates(self, held: Any, conditional: Any, u: jax.Array) -> jax.Array:
        """An unconstrained point in those coordinates."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ModelIntegral:
    """An integral of the model, from the prior or, whitened, from a guide.

    Attributes
    ----------
    integrand
        The integral, staged.
    guide
        The base of the path; None: the conditionals of the integrated sites.
    standardised
        Whether chains run in standardised coordinates; not with a guide, which knows those of the supports.
    reach
        The least and the largest coordinates, `(d,)` each, between which chains move; None: everywhere.
    """

    integrand: Integrand
    guide: FittedGuide | None
    standardised: bool = field(default=False, metadata={"static": True})
    reach: tuple[jax.Array, jax.Array] | None = None

    def condition(self, held: Any, rng_key: jax.Array) -> Conditional | None:
        """The guide at the held values."""
        if self.guide is None:
            return None
        return self.guide.condition(self.integrand.target(held), features(held), rng_key)

    def target(self, held: Any, conditional: Conditional | None) -> AnnealedTarget:
        """The integrand itself, or in the guide's coordinates `v`, where `u = loc + scale v`."""
        target = self.integrand.target(held, self.standardised)
        if self.guide is not None and conditional is not None:
            target = whitened(target, self.guide, conditional)
        return target if self.reach is None else target._replace(beyond=partial(outside, self.reach))

    def coordinates(self, held: Any, conditional: Conditional | None, u: jax.Array) -> jax.Array:
        """`u`, standardised if that is asked for, or `v`."""
        if self.guide is None or conditional is None:
            return self.integrand.point(u, held, self.standardised)
        return conditional.whiten(u)

    @property
    def guided(self) -> bool:
        """Whether the path starts from a guide."""
        return self.guide is not None


def outside(reach: tuple[jax.Array, jax.Array], u: jax.Array) -> jax.Array:
    """Whether a point is not between two others, in any coordinate; NaN is not."""
    return ~((reach[0] <= u) & (u <= reach[1])).all()


@jax.jit
def begin(integral: AnnealedIntegral, keys: jax.Array, held: Any, u: jax.Array) -> tuple[Any, jax.Array]:
    """What pilot chains start from, for a number of draws: conditionals, and points in the chains' coordinates."""
    conditional = jax.vmap(integral.condition)(held, keys)
    return conditional, jax.vmap(integral.coordinates)(held, conditional, u)


def within_reach(integral: ModelIntegral, coordinates: jax.Array) -> ModelIntegral:
    """The integral with chains that move no farther out than half the spread of exact draws, `(draws, d)`.

    A density that solves a differential equation with adaptive steps may take a thousand times as long where
    parameters are extreme, and all chains of a batch wait for the one that proposes to go there.
    """
    known = jnp.isfinite(coordinates)
    low = jnp.where(known, coordinates, jnp.inf).min(0)
    high = jnp.where(known, coordinates, -jnp.inf).max(0)
    margin = _MARGIN * (high - low)
    return replace(integral, reach=(low - margin, high + margin))


def whitened(target: AnnealedTarget, guide: FittedGuide, conditional: Conditional) -> AnnealedTarget:
    """The same integral with a guide as base, in the guide's coordinates."""
    log_det = conditional.log_det()

    def log_ratio(v: jax.Array) -> jax.Array:
        u = conditional.unwhiten(v)
        return target.log_base(u) + target.log_ratio(u) + log_det - guide.log_prob(conditional, v)

    sample_target = target.sample_target
    return AnnealedTarget(
        lambda rng_key: guide.sample(conditional, rng_key),
        lambda v: guide.log_prob(conditional, v),
        log_ratio,
        None if sample_target is None else lambda rng_key: conditional.whiten(sample_target(rng_key)),
    )
