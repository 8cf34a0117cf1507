"""Stochastic gradient training on a pool of joint draws, stopped where a held-out part no longer gains."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from numpyro_mi.options import integer, shown
from numpyro_mi.training.pairs import Pairs

_HELD_OUT = 2048
_FEWEST = 10  # draws, of which two are held out
_EVERY = 100  # steps between two looks at the held-out draws
_PATIENCE = 6  # looks without a gain
_GAIN = 0.002  # nats; less is none


class Objective(Protocol):
    """What is trained: hashable, so that the same objective compiles once."""

    def loss(self, trained: Any, fixed: Any, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> jax.Array:
        """Minimised over `trained` on a batch `(B, d)`, `(B, p)`."""

    def bound(self, trained: Any, fixed: Any, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> jax.Array:
        """What is watched on held-out batches, nats: the larger, the better."""


@dataclass(frozen=True)
class Training:
    """How a guide or critic is trained.

    Parameters
    ----------
    num_draws
        Joint draws to train on, never scored; a fifth of them is held out, 2,048 at most, and the best
        parameters on those are kept.
    max_steps
        Most gradient steps; training stops when six looks at the held-out draws, 100 steps apart, show
        no gain.
    batch_size
        Draws a step.
    learning_rate
        Of Adam, decayed along a cosine.
    """

    num_draws: int = 50_000
    max_steps: int = 3000
    batch_size: int = 128
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("num_draws", "max_steps", "batch_size"):
            object.__setattr__(self, name, integer("Training", name, getattr(self, name)))
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not 0 < rate < np.inf:
            raise ValueError(f"Training needs learning_rate, a positive finite number such as 1e-3, got {shown(rate)}.")
        object.__setattr__(self, "learning_rate", float(rate))
        if self.num_draws < max(2 * self.batch_size, _FEWEST):
            raise ValueError(
                f"Training needs num_draws of at least {_FEWEST} and of two batches of {self.batch_size}, got "
                f"{self.num_draws}: raise it, or lower batch_size."
            )


def check_training(owner: str, training: Any) -> None:
    """Refuse what is no training configuration."""
    if not isinstance(training, Training):
        raise TypeError(f"{owner} needs training=Training(...), got {shown(training)}.")


def train(
    objective: Objective,
    trained: Any,
    fixed: Any,
    pairs: Pairs,
    training: Training,
    rng_key: jax.Array,
    report: Callable[[str], None],
) -> Any:
    """The parameters with the best held-out bound."""
    report("simulating for training")
    latents, data = pairs.first(training.num_draws)
    finite = np.isfinite(latents).all(1) & np.isfinite(data).all(1)
    u, x = jnp.asarray(latents[finite]), jnp.asarray(data[finite])
    held_out = min(_HELD_OUT, len(u) // 5)
    watched, (u, x) = (u[:held_out], x[:held_out]), (u[held_out:], x[held_out:])
    if len(u) < training.batch_size or held_out < _FEWEST // 5:
        raise ValueError(
            f"training has {len(u)} joint draws with finite values, and {held_out} held out, where a batch of "
            f"{training.batch_size} and {_FEWEST // 5} held out are needed: lower batch_size, or give it more draws "
            "(rows of the arrays, or num_draws)."
        )
    optimizer = _optimizer(training.learning_rate, training.max_steps)
    state = optimizer.init(trained)
    watch_key, rng_key = jax.random.split(rng_key)

    def look(trained: Any) -> float:
        return float(_watched(objective, training.batch_size, trained, fixed, *watched, watch_key))

    best, best_bound, since = trained, look(trained), 0
    for start in range(0, training.max_steps, _EVERY):
        trained, state = _steps(objective, training, trained, state, fixed, u, x, jax.random.fold_in(rng_key, start))
        bound = look(trained)
        since += 1
        if np.isfinite(bound) and not bound <= best_bound:
            since = 0 if not bound <= best_bound + _GAIN else since
            best, best_bound = trained, bound
        report(f"training: {bound:.3f} nats held out")
        if since >= _PATIENCE or not np.isfinite(bound):
            break
    return best


@lru_cache
def _optimizer(learning_rate: float, max_steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(learning_rate, max_steps, 0.02))
    )


@partial(jax.jit, static_argnames=("objective", "training"))
def _steps(objective, training, trained, state, fixed, u, x, rng_key):
    """A run of gradient steps on random batches."""
    optimizer = _optimizer(training.learning_rate, training.max_steps)

    def step(carry, key):
        trained, state = carry
        pick_key, loss_key = jax.random.split(key)
        rows = jax.random.choice(pick_key, u.shape[0], (training.batch_size,), replace=True)
        gradient = jax.grad(objective.loss)(trained, fixed, u[rows], x[rows], loss_key)
        gradient = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0.0), gradient)
        updates, state = optimizer.update(gradient, state, trained)
        return (optax.apply_updates(trained, updates), state), None

    return jax.lax.scan(step, (trained, state), jax.random.split(rng_key, _EVERY))[0]


@partial(jax.jit, static_argnames=("objective", "batch_size"))
def _watched(objective, batch_size, trained, fixed, u, x, rng_key):
    """Mean held-out bound over batches, always with the same noise."""
    size = min(batch_size, u.shape[0])
    count = u.shape[0] // size

    def one(inputs):
        index, u, x = inputs
        return objective.bound(trained, fixed, u, x, jax.random.fold_in(rng_key, index))

    batches = [array[: count * size].reshape(count, size, -1) for array in (u, x)]
    return jax.lax.map(one, (jnp.arange(count), *batches)).mean()
