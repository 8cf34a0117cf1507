"""One integral together with where its annealed path starts: the prior, or a guide."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import jax

from numpyro_mi.guides.base import Conditional, FittedGuide
from numpyro_mi.model.densities import Integrand, features
from numpyro_mi.targets import AnnealedTarget


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
    """

    integrand: Integrand
    guide: FittedGuide | None
    standardised: bool = field(default=False, metadata={"static": True})

    def condition(self, held: Any, rng_key: jax.Array) -> Conditional | None:
        """The guide at the held values."""
        if self.guide is None:
            return None
        return self.guide.condition(self.integrand.target(held), features(held), rng_key)

    def target(self, held: Any, conditional: Conditional | None) -> AnnealedTarget:
        """The integrand itself, or in the guide's coordinates `v`, where `u = loc + scale v`."""
        target = self.integrand.target(held, self.standardised)
        return target if self.guide is None or conditional is None else whitened(target, self.guide, conditional)

    def coordinates(self, held: Any, conditional: Conditional | None, u: jax.Array) -> jax.Array:
        """`u`, standardised if that is asked for, or `v`."""
        if self.guide is None or conditional is None:
            return self.integrand.point(u, held, self.standardised)
        return conditional.whiten(u)

    @property
    def guided(self) -> bool:
        """Whether the path starts from a guide."""
        return self.guide is not None


@jax.jit
def begin(integral: AnnealedIntegral, keys: jax.Array, held: Any, u: jax.Array) -> tuple[Any, jax.Array]:
    """What pilot chains start from, for a number of draws: conditionals, and points in the chains' coordinates."""
    conditional = jax.vmap(integral.condition)(held, keys)
    return conditional, jax.vmap(integral.coordinates)(held, conditional, u)


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
