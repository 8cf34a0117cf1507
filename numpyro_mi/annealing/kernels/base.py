"""What a kernel is, and the state that all gradient-based kernels share."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from numpyro_mi.targets import AnnealedTarget


class StepSettings(NamedTuple):
    """Frozen settings of the transition at one temperature.

    Attributes
    ----------
    beta
        Inverse temperature, a scalar: the transition leaves `pi_0 * exp(beta * log_ratio)` invariant.
    step_size
        Leapfrog step in units of `sqrt(inverse_mass_matrix)`.
    inverse_mass_matrix
        Diagonal `(d,)` or dense `(d, d)`, in squared units of the unconstrained coordinates.
    """

    beta: jax.Array
    step_size: jax.Array
    inverse_mass_matrix: jax.Array


class StepInfo(NamedTuple):
    """What a transition reports: acceptance probability in 0..1, and gradients evaluated."""

    accept_prob: jax.Array
    num_grad: jax.Array


class ChainState(NamedTuple):
    """A point with base and log-ratio kept apart, so that a new temperature needs no evaluation.

    Attributes
    ----------
    u
        Position, shape `(d,)`.
    log_base, log_ratio
        Values there, nats.
    grad_base, grad_ratio
        Gradients there, shape `(d,)`.
    """

    u: jax.Array
    log_base: jax.Array
    log_ratio: jax.Array
    grad_base: jax.Array
    grad_ratio: jax.Array

    def log_density(self, beta: jax.Array) -> jax.Array:
        """Unnormalised log-density at temperature `beta`."""
        return self.log_base + beta * self.log_ratio

    def grad_density(self, beta: jax.Array) -> jax.Array:
        """Its gradient."""
        return self.grad_base + beta * self.grad_ratio


class Kernel(Protocol):
    """A transition of ONE chain that leaves the annealed density invariant.

    Randomness is drawn by `sample_noise` and passed in, so that a test kernel with finite noise can
    be enumerated exactly. `reverse` is the exact time reversal of `forward` at the same settings;
    for a reversible kernel it is `forward`. Any state with an attribute `log_ratio` will do.
    """

    def init(self, target: AnnealedTarget, u: jax.Array) -> Any:
        """State at `u`."""

    def sample_noise(self, rng_key: jax.Array, u: jax.Array) -> Any:
        """Randomness of one transition; of `u` only shape and type may be used."""

    def forward(self, target: AnnealedTarget, state: Any, settings: StepSettings, noise: Any) -> tuple[Any, StepInfo]:
        """One transition."""

    def reverse(self, target: AnnealedTarget, state: Any, settings: StepSettings, noise: Any) -> tuple[Any, StepInfo]:
        """Its time reversal."""


class TunableKernel(Kernel, Protocol):
    """A kernel whose step sizes and masses the pilots choose where the user gave none.

    Attributes
    ----------
    step_size, inverse_mass_matrix
        The user's values, or None: tuned.
    max_step_size
        No pilot tries a larger step.
    target_accept_prob
        Mean acceptance that the pilots' first sweep steers to.
    dense_mass
        Whether the tuned mass is a full matrix.
    """

    @property
    def step_size(self) -> float | None: ...  # noqa: D102
    @property
    def inverse_mass_matrix(self) -> Any: ...  # noqa: D102
    @property
    def max_step_size(self) -> float: ...  # noqa: D102
    @property
    def target_accept_prob(self) -> float: ...  # noqa: D102
    @property
    def dense_mass(self) -> bool: ...  # noqa: D102


def evaluate(target: AnnealedTarget, u: jax.Array) -> ChainState:
    """The state at `u`: one gradient of the joint, taken in its two parts."""
    log_base, grad_base = jax.value_and_grad(target.log_base)(u)
    log_ratio, grad_ratio = jax.value_and_grad(target.log_ratio)(u)
    return ChainState(u, log_base, log_ratio, grad_base, grad_ratio)


def select(accept: jax.Array, new: Any, old: Any) -> Any:
    """`new` where accepted, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)
