"""Integrals with the frozen settings of their chains: the same for all data sets, or of each one's own pilots.

Where data sets differ as much as those of a hierarchical model, no step size or mass fits all of them. Then each
data set has forward pilot chains, which adapt, and whose settings its scored chains use. Of several starts (the
prior in either coordinates, or a guide) it may also take the one whose pilots have the highest mean log-weight:
all of them bound the same evidence from below, so that is the one closest to it.

Validity: what is chosen depends on the data set and on noise of its own, never on the simulated latent or on a
scored chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.annealing.chains import Path
from numpyro_mi.annealing.kernels.base import StepSettings
from numpyro_mi.annealing.start import ModelIntegral, outside
from numpyro_mi.annealing.tuning import Pilot, between, coarse_index, given_size, single_gap, smallest, sweep
from numpyro_mi.guides.base import Conditional, guide_stats
from numpyro_mi.model.integrals.densities import flatten
from numpyro_mi.targets import AnnealedTarget

_TEMPERATURES = 50  # of pilot chains, at most
_PARTICLES = 8
_MIN_MOVES = 48
_WORTH = 0.9  # what costs more pilots has to make the gap so much smaller

PlannedIntegral: TypeAlias = "SharedSettings | OwnSettings"
"""An `AnnealedIntegral` with the path of each data set's chains."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SharedSettings:
    """An integral whose chains have the same settings for all data sets.

    Attributes
    ----------
    start
        The integral with its base.
    frozen
        Temperatures and settings.
    """

    start: ModelIntegral
    frozen: Path

    def condition(self, held: Any, rng_key: jax.Array) -> Conditional | None:
        """The guide at the held values."""
        return self.start.condition(held, rng_key)

    def target(self, held: Any, conditional: Conditional | None) -> AnnealedTarget:
        """The target, in the coordinates that chains run in."""
        return self.start.target(held, conditional)

    def coordinates(self, held: Any, conditional: Conditional | None, u: jax.Array) -> jax.Array:
        """An unconstrained point in those coordinates."""
        return self.start.coordinates(held, conditional, u)

    def path(self, conditional: Conditional | None) -> Path:
        """Temperatures and settings."""
        return self.frozen

    def stats(self, conditional: Conditional | None) -> dict[str, jax.Array]:
        """What is to be kept with a draw."""
        return guide_stats(conditional)


class Chosen(NamedTuple):
    """What the pilots of one data set found.

    Attributes
    ----------
    start
        Index of it.
    conditional
        The guide at the data set, if a start has one.
    settings
        Of the start's chains at the inner temperatures.
    num_grad
        Gradients of the pilots.
    scores
        Mean log-weight of the pilots of each start.
    """

    start: jax.Array
    conditional: Conditional | None
    settings: StepSettings
    num_grad: jax.Array
    scores: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class OwnSettings:
    """An integral whose chains have settings from pilots of the same data set.

    Attributes
    ----------
    starts
        Of one integrand, and at most one guide, from which each data set takes one.
    betas
        All temperatures, shape `(T+1,)`.
    increments
        Their differences.
    index
        Which temperatures pilots run on.
    kernel
        That of all chains.
    """

    starts: tuple[ModelIntegral, ...]
    betas: jax.Array
    increments: jax.Array
    index: tuple[int, ...] = field(metadata={"static": True})
    kernel: Any = field(metadata={"static": True})

    def condition(self, held: Any, rng_key: jax.Array) -> Chosen:
        """Run the pilots of one data set."""
        guide_key, *keys = jax.random.split(rng_key, 1 + len(self.starts))
        guided = [start for start in self.starts if start.guide is not None]
        conditional = guided[0].condition(held, guide_key) if guided else None
        found = [self._pilots(start, held, conditional, key) for start, key in zip(self.starts, keys, strict=True)]
        settings, scores, costs = zip(*found, strict=True)
        best = jnp.stack(scores)
        start = jnp.argmax(jnp.where(jnp.isnan(best), -jnp.inf, best))
        own = jax.tree.map(lambda *leaves: jnp.stack(leaves)[start], *settings)
        return Chosen(start, conditional, own, sum(costs, jnp.asarray(0)), best)

    def _pilots(
        self, start: ModelIntegral, held: Any, conditional: Conditional | None, rng_key: jax.Array
    ) -> tuple[StepSettings, jax.Array, jax.Array]:
        """Settings at all inner temperatures, the mean log-weight, and gradients, of one start."""
        shape = jax.eval_shape(start.target(held, conditional).sample_base, rng_key)
        pilot = Pilot(rng_key, held, conditional, jnp.zeros(shape.shape, shape.dtype))
        one = jax.tree.map(lambda leaf: leaf[None], pilot)
        moves = -(-_MIN_MOVES // (len(self.index) - 2))
        coarse, step_size = self.betas[jnp.asarray(self.index)], jnp.asarray(0.5 * self.kernel.max_step_size)
        steps, masses, log_weight, num_grad = sweep(
            start, self.kernel, moves, True, coarse, one, None, step_size, _PARTICLES
        )
        weights = between(np.asarray(self.index))
        settings = StepSettings(
            self.betas[1:-1], jnp.exp(weights @ jnp.log(steps)), jnp.tensordot(weights, masses, axes=1)
        )
        return settings, log_weight.mean(), num_grad

    def target(self, held: Any, chosen: Chosen) -> AnnealedTarget:
        """The target of the chosen start, in its coordinates."""
        first = self.starts[0]
        if len(self.starts) == 1:
            return first.target(held, chosen.conditional)
        target = self._target(held, chosen)
        reaches = [start.reach for start in self.starts if start.reach is not None]
        if not reaches:
            return target
        low, high = (jnp.stack(side)[chosen.start] for side in zip(*reaches, strict=True))
        return target._replace(beyond=partial(outside, (low, high)))

    def _target(self, held: Any, chosen: Chosen) -> AnnealedTarget:
        """That of the chosen start of several."""
        first = self.starts[0]
        target = first.integrand.target(held, self._flag(chosen, "standardised"))
        guide = next((start.guide for start in self.starts if start.guide is not None), None)
        if guide is None or chosen.conditional is None:
            return target
        guided = self._flag(chosen, "guided")
        at = _where_guided(guided, chosen.conditional)
        log_det, exact = at.log_det(), first.integrand.target(held).sample_target

        def log_base(v: jax.Array) -> jax.Array:
            return jnp.where(guided, guide.log_prob(at, v), target.log_base(at.unwhiten(v)))

        def log_ratio(v: jax.Array) -> jax.Array:
            u = at.unwhiten(v)
            rest = target.log_base(u) + log_det - guide.log_prob(at, v)
            return target.log_ratio(u) + jnp.where(guided, rest, 0.0)

        return AnnealedTarget(
            lambda rng_key: jnp.where(guided, guide.sample(at, rng_key), target.sample_base(rng_key)),
            log_base,
            log_ratio,
            None if exact is None else lambda rng_key: self.coordinates(held, chosen, exact(rng_key)),
        )

    def coordinates(self, held: Any, chosen: Chosen, u: jax.Array) -> jax.Array:
        """A point in the coordinates of the chosen start."""
        points = [start.coordinates(held, chosen.conditional, u) for start in self.starts]
        return jnp.stack(points)[chosen.start]

    def path(self, chosen: Chosen) -> Path:
        """Temperatures and settings of the data set."""
        return Path(self.increments, chosen.settings)

    def stats(self, chosen: Chosen) -> dict[str, jax.Array]:
        """What is to be kept with a draw."""
        flags = {f"start_{name}": self._flag(chosen, name).astype(int) for name in ("standardised", "guided")}
        return {**guide_stats(chosen.conditional), **flags, "start_num_grad": chosen.num_grad}

    def _flag(self, chosen: Chosen, name: str) -> jax.Array:
        return jnp.asarray([getattr(start, name) for start in self.starts])[chosen.start]


def own_settings(starts: Sequence[ModelIntegral], kernel: Any, betas: np.ndarray) -> OwnSettings:
    """An integral with pilots for each data set, on some of the temperatures `(T+1,)`."""
    index = coarse_index(len(betas) - 1, _TEMPERATURES)
    increments = jnp.asarray(np.diff(np.asarray(betas, np.float64)))
    return OwnSettings(tuple(starts), jnp.asarray(betas), increments, tuple(index.tolist()), kernel)


def affordable(num_temperatures: int, num_particles: int) -> bool:
    """Whether pilots for each data set cost at most half of its scored forward chains, for one start."""
    return 2 * _TEMPERATURES * _PARTICLES <= num_temperatures * num_particles


def choose_starts(
    starts: Sequence[ModelIntegral],
    kernel: Any,
    betas: np.ndarray,
    keys: jax.Array,
    held: Any,
    points: Any,
    shared_gaps: np.ndarray | None,
) -> tuple[OwnSettings | None, dict[str, int]]:
    """What has the smallest gaps on pilot draws, in the sense of `smallest`.

    Returns
    -------
    integral
        One start for all data sets, or all of them where it pays to leave the choice to each data set; None where
        settings of its own do not pay either, if these have `shared_gaps`.
    cost
        Gradient evaluations, "forward" and "reverse".
    """
    coarse = betas[coarse_index(len(betas) - 1)]
    found = [jax.device_get(_gaps(own_settings([start], kernel, coarse), keys, held, points)) for start in starts]
    gaps, scores, forward, reverse = (np.stack(part).astype(np.float64) for part in zip(*found, strict=True))
    cost = {"forward": int(forward.sum()), "reverse": int(reverse.sum())}
    gaps = given_size(gaps)
    rows = [] if shared_gaps is None else [_WORTH * given_size(shared_gaps)]
    rows += list(gaps)
    if len(starts) > 1:
        chosen = np.where(np.isnan(scores), -np.inf, scores).argmax(0)
        rows.append(np.take_along_axis(gaps, chosen[None], 0)[0] / _WORTH)
    best = smallest(np.stack(rows)) - (shared_gaps is not None)
    if best < 0:
        return None, cost
    return own_settings([starts[best]] if best < len(starts) else starts, kernel, betas), cost


@jax.jit
def _gaps(integral, keys, held, points):
    """Single-chain gaps of pilot draws, the scores of their pilots, and costs."""

    def one(key, held, point):
        pilot_key, chain_key = jax.random.split(key)
        chosen = integral.condition(held, pilot_key)
        target, path = integral.target(held, chosen), integral.path(chosen)
        exact = integral.coordinates(held, chosen, flatten(point))
        gap, forward, reverse = single_gap(target, integral.kernel, path, chain_key, exact)
        return gap, chosen.scores[0], chosen.num_grad + forward, reverse

    return jax.vmap(one)(keys, held, points)


def _where_guided(guided: jax.Array, conditional: Conditional) -> Conditional:
    """The guide's coordinates, or none."""
    loc, scale = conditional.loc, conditional.scale
    one = jnp.ones_like(scale) if scale.ndim == 1 else jnp.eye(loc.size, dtype=scale.dtype)
    return conditional._replace(loc=jnp.where(guided, loc, 0.0), scale=jnp.where(guided, scale, one))
