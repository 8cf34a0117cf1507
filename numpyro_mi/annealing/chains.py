"""Annealed chains of one target: forwards from the base, backwards from an exact draw of the target.

Notation of the weights: a path visits `y_1, ..., y_T`, where `y_t` is the state that enters weight
`t`; forwards `y_1` comes from the base and `y_{t+1}` from the kernel at temperature `b_t`, so T
temperatures take T-1 transitions. `log w = sum_t (b_t - b_{t-1}) * log_ratio(y_t)` in both directions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.annealing.kernels.base import Kernel, StepSettings
from numpyro_mi.targets import AnnealedTarget

FORWARD, REVERSE = 0, 1

Noise = Callable[[jax.Array], Any]
"""Supply of randomness for one chain: transition index (1..T-1) -> noise of the kernel."""


class Path(NamedTuple):
    """Everything frozen about an annealed run.

    Attributes
    ----------
    increments
        `b_t - b_{t-1}` for t = 1..T, shape `(T,)`; differences are taken in float64.
    settings
        Kernel settings at the inner temperatures `b_1..b_{T-1}`, leading axis `T-1`.
    """

    increments: jax.Array
    settings: StepSettings


class Chain(NamedTuple):
    """A finished chain.

    Attributes
    ----------
    u
        Last state: `y_T` forwards, `y_1` backwards.
    log_weight
        `log w`, nats.
    accept_prob
        Acceptance probability of each transition, in order of temperature, shape `(T-1,)`.
    num_grad
        Gradients evaluated, the first state included.
    """

    u: jax.Array
    log_weight: jax.Array
    accept_prob: jax.Array
    num_grad: jax.Array


class Randomness(NamedTuple):
    """Supply of all randomness of one evidence estimate.

    Attributes
    ----------
    base
        Particle index -> exact draw of the base.
    target
        Particle index -> exact draw of the target (only with a posterior sampler).
    noise
        Direction (FORWARD or REVERSE), particle index, transition index -> noise of the kernel.
    ancestors
        Direction, index of the transition that follows, log-weights `(K,)` -> K independent particle
        indices with probabilities proportional to the weights; None where nothing is resampled.
    """

    base: Callable[[jax.Array], jax.Array]
    target: Callable[[jax.Array], jax.Array]
    noise: Callable[[int, jax.Array, jax.Array], Any]
    ancestors: Callable[[int, jax.Array, jax.Array], jax.Array] | None = None


def keyed_randomness(target: AnnealedTarget, kernel: Kernel, rng_key: jax.Array, u: jax.Array) -> Randomness:
    """Randomness keyed by role, particle and transition, so that no batch shape changes a number."""

    def keyed(role, particle):
        return jax.random.fold_in(rng_key, 4 * particle + role)

    def noise(direction, particle, step):
        return kernel.sample_noise(jax.random.fold_in(keyed(direction, particle), step), u)

    def base(particle):
        return target.sample_base(keyed(2, particle))

    def exact(particle):
        if target.sample_target is None:
            raise ValueError("this target has no exact sampler.")
        return target.sample_target(keyed(3, particle))

    def ancestors(direction, step, log_weight):
        # Transitions count from 1, so the key of transition 0 is free.
        key = jax.random.fold_in(jax.random.fold_in(keyed(direction, 0), 0), step)
        # By inverting cumulated weights: categorical() would draw K^2 numbers.
        return jax.random.choice(key, log_weight.size, log_weight.shape, p=jax.nn.softmax(log_weight))

    return Randomness(base, exact, noise, ancestors)


def make_path(betas: np.ndarray, step_size: np.ndarray, inverse_mass_matrix: np.ndarray) -> Path:
    """A path from float64 temperatures `(T+1,)` and settings of the T-1 transitions."""
    betas = np.asarray(betas, np.float64)
    return Path(
        jnp.asarray(np.diff(betas)),
        StepSettings(jnp.asarray(betas[1:-1]), jnp.asarray(step_size), jnp.asarray(inverse_mass_matrix)),
    )


def forward_chain(target: AnnealedTarget, kernel: Kernel, path: Path, u: jax.Array, noise: Noise) -> Chain:
    """Anneal from `u`, a draw of the base, towards the target: `E[w] = Z`."""
    return _run(target, kernel, kernel.forward, path, u, noise, _transitions(path))


def reverse_chain(target: AnnealedTarget, kernel: Kernel, path: Path, u: jax.Array, noise: Noise) -> Chain:
    """Anneal from `u`, an exact draw of the target, back to the base: `E[1/w] = 1/Z`."""
    backwards = jax.tree.map(lambda leaf: leaf[::-1], path)
    chain = _run(target, kernel, kernel.reverse, backwards, u, noise, _transitions(path)[::-1])
    return chain._replace(accept_prob=chain.accept_prob[::-1])


def _transitions(path: Path) -> jax.Array:
    """Index of each transition, that of its temperature: 1..T-1."""
    return jnp.arange(1, path.increments.shape[0])


def _run(
    target: AnnealedTarget, kernel: Kernel, move: Callable, path: Path, u: jax.Array, noise: Noise, steps: jax.Array
) -> Chain:
    """Weight, then alternate transitions and weights; both directions are this one loop."""
    state = kernel.init(target, u)
    total = path.increments[0] * state.log_ratio

    def body(carry, inputs):
        state, total, lost = carry
        increment, settings, step = inputs
        state, info = move(target, state, settings, noise(step))
        total, lost = compensated_add(total, lost, increment * state.log_ratio)
        return (state, total, lost), info

    carry = (state, total, jnp.zeros_like(total))
    (state, total, _), info = jax.lax.scan(body, carry, (path.increments[1:], path.settings, steps))
    return Chain(state.u, total, info.accept_prob, 1 + info.num_grad.sum())


def compensated_add(total: jax.Array, lost: jax.Array, term: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compensated (Kahan) sum: thousands of float32 increments lose no hundredth of a nat."""
    term = term - lost
    new = total + term
    return new, jnp.where(jnp.isfinite(new), (new - total) - term, 0.0)
