"""Hamiltonian Monte Carlo on an annealed density."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.lax import erf, erfc

from numpyro_mi.annealing.kernels.base import ChainState, StepInfo, StepSettings, evaluate, select
from numpyro_mi.options import integer, shown
from numpyro_mi.targets import AnnealedTarget


class HMCNoise(NamedTuple):
    """Randomness of one transition: standard normals.

    Attributes
    ----------
    momentum
        Shape `(d,)`.
    accept, jitter
        Scalars; their normal probabilities are the uniforms that accept and jitter.
    """

    momentum: jax.Array
    accept: jax.Array
    jitter: jax.Array


@dataclass(frozen=True)
class AnnealedHMC:
    """Metropolis-adjusted HMC with fresh momentum and a static number of leapfrog steps.

    Reversible for any frozen settings, so it serves both directions. The step of each transition is
    multiplied by a random factor that does not look at the state; a proposal whose energy is not a
    number is rejected, and so is one whose trajectory begins, passes or ends where the target says that chains do
    not move: the trajectory back passes the same points. A transition costs `num_steps` gradients.

    Parameters
    ----------
    num_steps
        Leapfrog steps of a transition.
    step_size
        In standard deviations (units of `sqrt(inverse_mass_matrix)`), one for all temperatures. None: one
        per temperature, tuned on pilot draws and frozen.
    inverse_mass_matrix
        Variance of each unconstrained coordinate, in NumPyro's order (sites alphabetically), one
        for all temperatures. None: one per temperature, tuned on pilot draws and frozen.
    jitter
        The factor on the step is uniform on `1 - jitter .. 1 + jitter`.
    target_accept_prob
        Acceptance that bounds the step from above in the pilots; the pilots' measured gap then
        chooses.
    """

    num_steps: int = 3
    step_size: float | None = None
    inverse_mass_matrix: tuple[float, ...] | None = None
    jitter: float = 0.2
    target_accept_prob: float = 0.9

    def __post_init__(self) -> None:
        for name in ("step_size", "jitter", "target_accept_prob"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | np.number)):
                raise TypeError(f"AnnealedHMC needs a number for {name}, got {shown(value)}.")
        if self.inverse_mass_matrix is not None and np.ndim(self.inverse_mass_matrix) != 1:
            raise ValueError(
                "AnnealedHMC needs inverse_mass_matrix, one variance for each unconstrained coordinate, "
                f"got {shown(self.inverse_mass_matrix)}."
            )
        object.__setattr__(self, "num_steps", integer("AnnealedHMC", "num_steps", self.num_steps))
        if self.step_size is not None and not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise ValueError(f"AnnealedHMC needs a positive step_size or None (tuned), got {shown(self.step_size)}.")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"AnnealedHMC needs 0 <= jitter < 1, got {shown(self.jitter)}.")
        if not 0 < self.target_accept_prob < 1:
            raise ValueError(f"AnnealedHMC needs 0 < target_accept_prob < 1, got {shown(self.target_accept_prob)}.")
        if self.inverse_mass_matrix is not None:
            masses = tuple(float(mass) for mass in self.inverse_mass_matrix)
            if not all(mass > 0 and math.isfinite(mass) for mass in masses):
                raise ValueError(
                    "AnnealedHMC needs positive finite inverse_mass_matrix entries, got "
                    f"{shown(self.inverse_mass_matrix)}."
                )
            object.__setattr__(self, "inverse_mass_matrix", masses)

    @property
    def max_step_size(self) -> float:
        """A quarter period of a standard normal; beyond it a trajectory swings back."""
        return 0.5 * math.pi / self.num_steps

    @property
    def dense_mass(self) -> bool:
        """Masses are diagonal."""
        return False

    def init(self, target: AnnealedTarget, u: jax.Array) -> ChainState:
        """State at `u`; one gradient."""
        return evaluate(target, u)

    def sample_noise(self, rng_key: jax.Array, u: jax.Array) -> HMCNoise:
        """One call of the generator for momentum, acceptance and jitter together."""
        normal = random.normal(rng_key, (u.size + 2,), u.dtype)
        return HMCNoise(normal[:-2], normal[-2], normal[-1])

    def forward(
        self, target: AnnealedTarget, state: ChainState, settings: StepSettings, noise: HMCNoise
    ) -> tuple[ChainState, StepInfo]:
        """One transition."""
        beta = settings.beta
        scale = jnp.sqrt(settings.inverse_mass_matrix)
        step = settings.step_size * (1 + self.jitter * erf(noise.jitter / math.sqrt(2)))
        gradient = jax.grad(lambda u: target.log_base(u) + beta * target.log_ratio(u))
        # Velocities in units of the scale, so that their kinetic energy is that of a standard normal.
        velocity = noise.momentum + 0.5 * step * scale * state.grad_density(beta)
        u, lost = _reached(target, state.u, state.u + step * scale * velocity, _beyond(target, state.u))

        def leapfrog(_, carry):
            u, velocity, lost = carry
            velocity = velocity + step * scale * gradient(u)
            u, lost = _reached(target, state.u, u + step * scale * velocity, lost)
            return u, velocity, lost

        u, velocity, lost = jax.lax.fori_loop(0, self.num_steps - 1, leapfrog, (u, velocity, lost))
        proposal = evaluate(target, u)
        velocity = velocity + 0.5 * step * scale * proposal.grad_density(beta)
        gain = (
            proposal.log_density(beta)
            - state.log_density(beta)
            + 0.5 * (noise.momentum @ noise.momentum - velocity @ velocity)
        )
        gain = jnp.where(jnp.isnan(gain) | lost, -jnp.inf, gain)
        log_uniform = jnp.log(0.5 * erfc(noise.accept / math.sqrt(2)))
        info = StepInfo(jnp.exp(jnp.minimum(gain, 0.0)), jnp.asarray(self.num_steps))
        return select(log_uniform < gain, proposal, state), info

    reverse = forward


def _beyond(target: AnnealedTarget, u: jax.Array) -> jax.Array:
    """Whether chains do not move at `u`."""
    return jnp.asarray(False) if target.beyond is None else target.beyond(u)


def _reached(target: AnnealedTarget, start: jax.Array, u: jax.Array, lost: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where a trajectory goes on, and whether it is lost: then back at its start, whose density is no dearer."""
    if target.beyond is None:
        return u, lost
    lost = lost | target.beyond(u)
    return jnp.where(lost, start, u), lost
