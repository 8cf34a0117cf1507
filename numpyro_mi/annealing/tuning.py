"""Pilot runs: step sizes and masses, chosen on draws that are never scored, then frozen.

Two stages, on at most `_MAX_SWEEP` temperatures:

1. A sweep of forward chains, several a data set, adapts while it anneals: at each temperature the
   mass is the spread of the particles of one data set, and the step follows the acceptance.
2. Acceptance alone misleads (a trajectory that swings past its turning point is accepted and goes
   nowhere), so multiples of that profile are run frozen in both directions, and the one with the
   smallest measured gap is kept.

Validity: scored draws are independent of the pilots given the frozen settings (math: any setting
may depend on independent noise and other draws, never on the scored chains).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, logsumexp

from numpyro_mi.annealing.chains import (
    FORWARD,
    REVERSE,
    Path,
    forward_chain,
    keyed_randomness,
    make_path,
    reverse_chain,
)
from numpyro_mi.annealing.kernels.base import Kernel, StepSettings
from numpyro_mi.annealing.start import AnnealedIntegral
from numpyro_mi.model.integrals.densities import flatten
from numpyro_mi.targets import AnnealedTarget

NUM_PILOT_DRAWS = 64
_SWEEP_PARTICLES = 4
_CHOICE_PARTICLES = 32
_MAX_SWEEP = 200
_MIN_SWEEP_MOVES = 64
_MULTIPLIERS = (0.35, 0.5, 0.7, 1.0, 1.4)
_MEMORY = 0.8
_SMALLEST_STEP = 1e-4


class Plan(NamedTuple):
    """Frozen settings of one integral's chains.

    Attributes
    ----------
    betas
        Temperatures, shape `(T+1,)`, float64.
    step_size
        Of the transition at each inner temperature, shape `(T-1,)`.
    inverse_mass_matrix
        Shape `(T-1, d)` or `(T-1, d, d)`.
    """

    betas: np.ndarray
    step_size: np.ndarray
    inverse_mass_matrix: np.ndarray

    def path(self) -> Path:
        """The plan as arrays of an annealed run."""
        return make_path(self.betas, self.step_size, self.inverse_mass_matrix)


class Pilot(NamedTuple):
    """Pilot draws of one integral, with a leading draw axis.

    Attributes
    ----------
    keys
        Of the chains.
    held
        Values that the integral is conditioned on.
    conditional
        What the start of the path depends on besides.
    exact
        Exact draws of the target, in the coordinates that chains run in, `(draws, d)`.
    """

    keys: jax.Array
    held: Any
    conditional: Any
    exact: jax.Array


def tune(
    integral: AnnealedIntegral,
    kernel: Any,
    betas: np.ndarray,
    pilot: Pilot,
    report: Callable[[str], None],
) -> tuple[Plan, np.ndarray | None, dict[str, int]]:
    """Choose what the user left open.

    Returns
    -------
    plan
        Frozen settings at every temperature of `betas`.
    gaps
        Of the single chains of the pilot draws, nats; None where nothing was left open.
    cost
        Gradient evaluations of the pilots, "forward" and "reverse".
    """
    cost = {"forward": 0, "reverse": 0}
    inner, dimension = len(betas) - 2, pilot.exact.shape[1]
    step_size, mass = getattr(kernel, "step_size", 0.0), getattr(kernel, "inverse_mass_matrix", ())
    dense = getattr(kernel, "dense_mass", False)
    shape = (dimension, dimension) if dense else (dimension,)
    if mass and np.shape(mass) != shape:
        raise ValueError(f"inverse_mass_matrix has shape {np.shape(mass)}, the annealed latents have {shape}.")
    if inner == 0 or (step_size is not None and mass is not None):
        fixed = np.broadcast_to(np.asarray(mass or np.ones(shape), np.float64), (inner, *shape))
        return Plan(betas, np.full(inner, 1.0 if step_size is None else step_size), fixed), None, cost

    report("tuning")
    index = coarse_index(inner + 1)
    coarse = betas[index]
    moves = max(1, -(-_MIN_SWEEP_MOVES // (len(coarse) - 2)))
    given = None if mass is None else jnp.asarray(mass)
    steps, masses, _, gradients = sweep(
        integral,
        kernel,
        moves,
        step_size is None,
        jnp.asarray(coarse),
        pilot,
        given,
        jnp.asarray(kernel.max_step_size / 2 if step_size is None else step_size),
        _SWEEP_PARTICLES,
    )
    cost["forward"] += int(gradients)
    multiplier, gaps = 1.0, None
    if step_size is None:
        report("choosing the step size")
        multiplier, gaps = _choose(integral, kernel, coarse, np.asarray(steps), np.asarray(masses), pilot, cost)
    plan = _interpolated(betas, index, multiplier * np.asarray(steps, np.float64), np.asarray(masses, np.float64))
    return plan, gaps, cost


def coarse_index(num_temperatures: int, most: int = _MAX_SWEEP) -> np.ndarray:
    """Which of T+1 temperatures pilots run on, the first and the last among them."""
    return np.unique(np.linspace(0, num_temperatures, min(num_temperatures, most) + 1).round().astype(int))


def choose_base(
    integrals: tuple[AnnealedIntegral, ...], annealed: bool, rng_key: jax.Array, held: Any, points: Any
) -> int:
    """The integral, of several that differ in their base's tails, with the smallest gap on pilot draws.

    For an annealed method the gap is that of single weights, which is what annealing divides by the number
    of temperatures; else that of importance sampling with many of them.
    """
    return smallest(np.asarray(_base_gaps(integrals, annealed, rng_key, held, points), np.float64))


def given_size(gaps: np.ndarray) -> np.ndarray:
    """The mean of a single-chain gap given its size, nats; it has the mean of the gap and far less spread.

    The chains of the two directions are each other's reversal, so that a gap of -g has exp(-g) times the density of
    one of g: whatever the data set and the settings are.
    """
    return gaps * np.tanh(gaps / 2)


def smallest(gaps: np.ndarray) -> int:
    """The row with the smallest mean of log(1 + gap), of gaps that are not negative.

    The mean of the gaps themselves is that of a few data sets where chains fail, and which row has those is chance.
    A row is judged by its finite gaps only if no other row has more of them.
    """
    finite = np.isfinite(gaps)
    means = np.log1p(np.where(finite, np.maximum(gaps, 0.0), 0.0)).sum(1) / np.maximum(finite.sum(1), 1)
    return min(range(len(gaps)), key=lambda i: ((~finite[i]).sum(), means[i]))


@partial(jax.jit, static_argnames=("annealed",))
def _base_gaps(integrals, annealed, rng_key, held, points):
    """Gaps of importance sampling, shape (integrals, draws); what depends on x is computed once for all."""

    def one(index, held, point):
        condition_key, draw_key = jax.random.split(jax.random.fold_in(rng_key, index))
        conditional = integrals[0].condition(held, condition_key)
        exact = integrals[0].coordinates(held, conditional, flatten(point))

        def gap(target):
            def weigh(k):
                return target.log_ratio(target.sample_base(jax.random.fold_in(draw_key, k)))

            drawn = jax.vmap(weigh)(jnp.arange(_CHOICE_PARTICLES))
            own = target.log_ratio(exact)
            # Given two weights, the odds of which is the posterior draw's are their ratio: see `given_size`.
            if annealed:
                return ((own - drawn) * jnp.tanh((own - drawn) / 2)).mean()
            gained = logsumexp(drawn.at[0].set(own)) - logsumexp(drawn)
            return gained * jnp.tanh((own - drawn[0]) / 2)

        return jnp.stack([gap(integral.target(held, conditional)) for integral in integrals])

    size = jax.tree.leaves(points)[0].shape[0]
    return jax.vmap(one, out_axes=1)(jnp.arange(size), held, points)


def _choose(integral, kernel, betas, steps, masses, pilot, cost) -> tuple[float, np.ndarray]:
    """The multiple of the step profile with the smallest gap on the pilot draws, and its gaps."""
    paths = [make_path(betas, multiplier * steps, masses) for multiplier in _MULTIPLIERS]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *paths)
    found, forward, reverse = _pilot_gaps(integral, kernel, stacked, pilot)
    cost["forward"] += int(forward)
    cost["reverse"] += int(reverse)
    gaps = np.asarray(found, np.float64)
    best = smallest(given_size(gaps))
    return _MULTIPLIERS[best], gaps[best]


@partial(jax.jit, static_argnames=("kernel",))
def _pilot_gaps(integral, kernel, paths, pilot):
    """Single-chain gaps `log w_reverse - log w_forward`, shape (candidates, draws), and costs."""

    def one(path, key, held, conditional, exact):
        return single_gap(integral.target(held, conditional), kernel, path, key, exact)

    over_draws = jax.vmap(one, (None, 0, 0, 0, 0))
    gaps, forward, reverse = jax.vmap(over_draws, (0, None, None, None, None))(paths, *pilot)
    return gaps, forward.sum(), reverse.sum()


def single_gap(
    target: AnnealedTarget, kernel: Kernel, path: Path, rng_key: jax.Array, exact: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`log w_reverse - log w_forward` of one chain each way, nats, and their gradients."""
    randomness, zero = keyed_randomness(target, kernel, rng_key, exact), jnp.asarray(0)
    forward = forward_chain(target, kernel, path, randomness.base(zero), lambda t: randomness.noise(FORWARD, zero, t))
    reverse = reverse_chain(target, kernel, path, exact, lambda t: randomness.noise(REVERSE, zero, t))
    return reverse.log_weight - forward.log_weight, forward.num_grad, reverse.num_grad


@partial(jax.jit, static_argnames=("kernel", "moves", "adapt", "num_particles"))
def sweep(integral, kernel, moves, adapt, betas, pilot, mass, step_size, num_particles):
    """Anneal pilot particles forwards, adapting step and mass as it goes.

    Returns
    -------
    step_size, inverse_mass_matrix
        At the inner ones of `betas`.
    log_weight
        Of each particle, shape `(draws, particles)`.
    num_grad
        Gradients.
    """
    dense = kernel.dense_mass
    particles = jnp.arange(num_particles)

    def on_all(fn, *args):
        """Apply `fn(target, randomness, particle, ...)` to every draw and particle."""

        def one(draw, particle, *rest):
            target = integral.target(draw.held, draw.conditional)
            return fn(target, keyed_randomness(target, kernel, draw.keys, draw.exact), particle, *rest)

        over_particles = jax.vmap(one, (None, 0) + (0,) * len(args))
        return jax.vmap(over_particles, (0, None) + (0,) * len(args))(pilot, particles, *args)

    state = on_all(lambda target, randomness, k: (kernel.init(target, randomness.base(k)), jnp.zeros(())))[0]

    def body(carry, inputs):
        state, log_step, remembered, log_weight, gradients = carry
        beta, increment, step = inputs
        spread = _spread(state.u, dense)
        remembered = jnp.where(step > 1, _MEMORY * remembered + (1 - _MEMORY) * spread, spread)
        inverse_mass_matrix = remembered if mass is None else mass

        def transition(carry, move):
            state, log_step = carry
            settings = StepSettings(beta, jnp.exp(log_step), inverse_mass_matrix)
            state, info = on_all(
                lambda target, randomness, k, state: kernel.forward(
                    target, state, settings, randomness.noise(FORWARD, k, step * moves + move)
                ),
                state,
            )
            if adapt:
                log_step = log_step + info.accept_prob.mean() - kernel.target_accept_prob
                log_step = jnp.clip(log_step, *jnp.log(kernel.max_step_size * jnp.array([_SMALLEST_STEP, 1.0])))
            return (state, log_step), info.num_grad.sum()

        (state, log_step), used = jax.lax.scan(transition, (state, log_step), jnp.arange(moves))
        log_weight = log_weight + increment * state.log_ratio
        carry = state, log_step, remembered, log_weight, gradients + used.sum()
        return carry, (jnp.exp(log_step), inverse_mass_matrix)

    increments = jnp.diff(betas)
    log_weight = increments[0] * state.log_ratio
    carry = (state, jnp.log(step_size), _spread(state.u, dense), log_weight, jnp.asarray(log_weight.size))
    inputs = betas[1:-1], increments[1:], jnp.arange(1, betas.shape[0] - 1)
    (_, _, _, log_weight, gradients), (step_sizes, masses) = jax.lax.scan(body, carry, inputs)
    return step_sizes, masses, log_weight, gradients


def _spread(u: jax.Array, dense: bool) -> jax.Array:
    """Posterior spread of one data set, pooled over data sets; `u` is (draws, particles, d).

    Variances are pooled geometrically, so that one data set with a huge spread does not set the
    mass of all; `offset` is the mean log of a chi-square over its degrees of freedom.
    """
    dof = u.shape[1] - 1
    centred = u - u.mean(1, keepdims=True)
    variance = (centred**2).sum(1) / dof
    offset = digamma(dof / 2.0) - jnp.log(dof / 2.0)
    tiny = jnp.finfo(u.dtype).tiny * 1e6
    diagonal = jnp.exp(jnp.log(jnp.maximum(variance, tiny)).mean(0) - offset)
    if not dense:
        return diagonal
    pooled = jnp.einsum("nki,nkj->ij", centred, centred)
    scale = jnp.sqrt(jnp.maximum(jnp.diag(pooled), tiny))
    shrink = u.shape[2] / (u.shape[2] + u.shape[0] * dof)
    correlation = (1 - shrink) * pooled / scale[:, None] / scale + shrink * jnp.eye(u.shape[2])
    correlation = correlation.at[jnp.diag_indices(u.shape[2])].set(1.0)
    return correlation * jnp.sqrt(diagonal[:, None] * diagonal)


def _interpolated(betas: np.ndarray, index: np.ndarray, steps: np.ndarray, masses: np.ndarray) -> Plan:
    """Settings at every inner temperature from those at the temperatures of the sweep."""
    weights = between(index)
    return Plan(betas, np.exp(weights @ np.log(steps)), np.tensordot(weights, masses, axes=1))


def between(index: np.ndarray) -> np.ndarray:
    """Weights that interpolate from the inner temperatures at `index` to all inner ones, `(T-1, len(index) - 2)`."""
    inner, known = np.arange(1, index[-1]), index[1:-1]
    return np.stack([np.interp(inner, known, unit) for unit in np.eye(len(known))], axis=1)
