"""Annealed sequential Monte Carlo and conditional sequential Monte Carlo."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from numpyro_mi.annealing.chains import FORWARD, REVERSE, Path, Randomness, compensated_add, keyed_randomness
from numpyro_mi.annealing.kernels.base import Kernel, StepInfo, select
from numpyro_mi.annealing.kernels.hmc import AnnealedHMC
from numpyro_mi.annealing.schedules import PowerSchedule
from numpyro_mi.evidence.annealed import AnnealedMethod
from numpyro_mi.evidence.base import Evidence, log_mean_exp
from numpyro_mi.evidence.schemes.independent import IM
from numpyro_mi.guides.base import Guide
from numpyro_mi.options import shown
from numpyro_mi.targets import AnnealedTarget

DEFAULT_NUM_TEMPERATURES = 50


@dataclass(frozen=True)
class AnnealedSMC(AnnealedMethod):
    """Annealed sequential Monte Carlo: chains that are resampled on their way to the posterior.

    Where the weights have become uneven, particles of small weight are replaced by copies of heavy
    ones. Independent chains need a number of particles exponential in the gap of one chain; with
    resampling the gap falls about as the number of temperatures over that of particles.

    The upper bound on mutual information comes from forward runs, the lower from conditional runs,
    in which one particle follows a reverse chain from the simulated latent, an exact posterior
    draw, and is never replaced.

    Parameters
    ----------
    num_temperatures
        Number of weight increments T; a particle makes T-1 transitions. None: 50, or what an array
        schedule says.
    num_particles
        K particles a bound. 1 is single-chain AIS.
    kernel
        `AnnealedHMC(...)`, or a NumPyro `HMC` or `NUTS` object, whose settings are honoured (its
        model plays no part).
    schedule
        A rule such as `PowerSchedule(4)`, or an array of T+1 temperatures from 0 to 1.
    ess_threshold
        Particles are resampled after a weight increment where their effective sample size is less
        than this part of K. 1 resamples always, 0 never.
    base
        Where the path starts: None for the prior, or a guide such as `RegressionGuide()`, in whose
        coordinates the particles then move. A fitted guide is used as it is.
    start, coordinates, settings
        As in `AIS`.

    References
    ----------
    Del Moral, Doucet and Jasra, JRSS B 2006 (annealed SMC); Andrieu, Doucet and Holenstein, JRSS B
    2010 (conditional SMC); Grosse et al., 2015 (both directions).
    """

    num_temperatures: int | None = None
    num_particles: int = 32
    kernel: Any = field(default_factory=AnnealedHMC)
    schedule: Any = field(default_factory=PowerSchedule)
    ess_threshold: float = 0.5
    # What follows is settled outside the compiled programs, which take it as arguments.
    base: Guide | None = field(default=None, compare=False)
    start: str = field(default="base", compare=False)
    coordinates: str = field(default="chosen", compare=False)
    settings: str = field(default="chosen", compare=False)

    def __post_init__(self) -> None:
        threshold = self.ess_threshold
        if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number):
            raise TypeError(f"AnnealedSMC needs a number for ess_threshold, got {shown(threshold)}.")
        if not 0 <= threshold <= 1:
            raise ValueError(
                f"AnnealedSMC needs 0 <= ess_threshold <= 1, a part of num_particles, got {shown(threshold)}."
            )
        object.__setattr__(self, "ess_threshold", float(threshold))
        self._settle(DEFAULT_NUM_TEMPERATURES)

    def evidence(self, target: AnnealedTarget, path: Path, exact: jax.Array, rng_key: jax.Array) -> Evidence:
        """Bounds on `log Z` of one target, given `exact`, one exact draw of it."""
        randomness = keyed_randomness(target, self.kernel, rng_key, exact)
        return smc_evidence(target, self.kernel, path, exact, self.num_particles, self.ess_threshold, randomness)


class Reference(NamedTuple):
    """The path that a conditional run keeps: a reverse chain, in order of temperature.

    Attributes
    ----------
    states
        States `y_1..y_T` of the kernel, leading axis `T`.
    info
        What its T-1 transitions report.
    """

    states: Any
    info: StepInfo


class Particles(NamedTuple):
    """All particles at one temperature.

    Attributes
    ----------
    state
        States of the kernel, leading axis `K`; in a conditional run the reference is first.
    log_weight, log_weight_lost
        Since the last resampling, shape `(K,)`, and what their sum has lost to rounding.
    log_evidence, log_evidence_lost
        Sum of log mean weights over the resamplings so far, and what it has lost.
    """

    state: Any
    log_weight: jax.Array
    log_weight_lost: jax.Array
    log_evidence: jax.Array
    log_evidence_lost: jax.Array


class Run(NamedTuple):
    """A finished run.

    Attributes
    ----------
    log_weight
        Shape `(K,)`; the mean of its exponentials is the evidence estimate.
    accept_prob
        Of each transition, mean over particles, shape `(T-1,)`.
    num_grad
        Gradients evaluated.
    num_resampled
        How often the particles were resampled.
    """

    log_weight: jax.Array
    accept_prob: jax.Array
    num_grad: jax.Array
    num_resampled: jax.Array

    def stats(self, side: str) -> dict[str, jax.Array]:
        """The fields, with the side in their names."""
        return {f"{side}_{name}": value for name, value in self._asdict().items()}


def smc_evidence(
    target: AnnealedTarget,
    kernel: Kernel,
    path: Path,
    exact: jax.Array,
    num_particles: int,
    ess_threshold: float,
    randomness: Randomness,
) -> Evidence:
    """Bounds on `log Z` of one target: a forward run, and a conditional run around `exact`.

    Both share the noise of their forward transitions (each expectation is unaffected).
    """
    if num_particles == 1:  # there is nothing to choose from
        single = IM().evidence(target, kernel, path, exact, 1, randomness)
        never = jnp.asarray(0)
        return single._replace(stats={**single.stats, "forward_num_resampled": never, "reverse_num_resampled": never})
    forward = run_particles(target, kernel, path, num_particles, ess_threshold, randomness)
    reference = reference_path(target, kernel, path, exact, randomness)
    reverse = run_particles(target, kernel, path, num_particles, ess_threshold, randomness, reference)
    stats = {**forward.stats("forward"), **reverse.stats("reverse")}
    return Evidence(log_mean_exp(forward.log_weight), log_mean_exp(reverse.log_weight), stats)


def reference_path(
    target: AnnealedTarget, kernel: Kernel, path: Path, exact: jax.Array, randomness: Randomness
) -> Reference:
    """The reverse chain from `exact`, a draw of the target, with all its states."""
    zero = jnp.asarray(0)

    def body(state, inputs):
        settings, step = inputs
        state, info = kernel.reverse(target, state, settings, randomness.noise(REVERSE, zero, step))
        return state, (state, info)

    last = kernel.init(target, exact)
    steps = jnp.arange(1, path.increments.shape[0])
    _, (states, info) = jax.lax.scan(body, last, (path.settings, steps), reverse=True)
    return Reference(jax.tree.map(lambda rest, end: jnp.concatenate([rest, end[None]]), states, last), info)


def run_particles(
    target: AnnealedTarget,
    kernel: Kernel,
    path: Path,
    num_particles: int,
    ess_threshold: float,
    randomness: Randomness,
    reference: Reference | None = None,
) -> Run:
    """Weight, then alternate resampling, transitions and weights; the last weights are not resampled.

    Without a reference `E[Zhat] = Z`. With one, conditional: its state is particle 0 at every
    temperature, the others are resampled from all particles, and `E[1/Zhat] = 1/Z`. Both rest on
    one rule of when to resample, a symmetric function of the weights.
    """
    num_kept = 0 if reference is None else 1
    moving = jnp.arange(num_kept, num_particles)
    ancestors = _ancestors(randomness, num_kept)

    def body(particles, inputs):
        increment, settings, step, kept = inputs
        particles, resampled = _resample(particles, ess_threshold, lambda weights: ancestors(step, weights))
        moved = jax.vmap(lambda k, state: kernel.forward(target, state, settings, randomness.noise(FORWARD, k, step)))(
            moving, jax.tree.map(lambda leaf: leaf[num_kept:], particles.state)
        )
        state, info = _prepend(kept, moved)
        return _weigh(particles._replace(state=state), increment), (info, resampled)

    first, later = None, None
    if reference is not None:
        first = jax.tree.map(lambda leaf: leaf[0], reference.states)
        later = (jax.tree.map(lambda leaf: leaf[1:], reference.states), reference.info)
    state = _prepend(first, jax.vmap(lambda k: kernel.init(target, randomness.base(k)))(moving))
    nothing = jnp.zeros_like(path.increments[0] * state.log_ratio)
    particles = _weigh(Particles(state, nothing, nothing, nothing[0], nothing[0]), path.increments[0])
    steps = jnp.arange(1, path.increments.shape[0])
    particles, (info, resampled) = jax.lax.scan(body, particles, (path.increments[1:], path.settings, steps, later))
    return Run(
        particles.log_evidence + particles.log_weight,
        info.accept_prob.mean(1),
        num_particles + info.num_grad.sum(),
        resampled.sum(),
    )


def _ancestors(randomness: Randomness, num_kept: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Transition index, log-weights -> index of the particle that each one continues; kept ones their own."""
    choose = randomness.ancestors
    if choose is None:
        raise ValueError("this randomness has no ancestors, which resampling needs.")
    direction = REVERSE if num_kept else FORWARD
    return lambda step, log_weight: jnp.where(
        jnp.arange(log_weight.shape[0]) < num_kept,
        jnp.arange(log_weight.shape[0]),
        choose(direction, step, log_weight),
    )


def _prepend(kept: Any, others: Any) -> Any:
    """`kept`, if any, in front of `others`, leaf by leaf."""
    if kept is None:
        return others
    return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), kept, others)


def _weigh(particles: Particles, increment: jax.Array) -> Particles:
    """Add one increment to the log-weights."""
    total, lost = compensated_add(
        particles.log_weight, particles.log_weight_lost, increment * particles.state.log_ratio
    )
    return particles._replace(log_weight=total, log_weight_lost=lost)


def _resample(
    particles: Particles, ess_threshold: float, choose: Callable[[jax.Array], jax.Array]
) -> tuple[Particles, jax.Array]:
    """Resample where the weights call for it; also whether they did."""
    due = _is_due(particles.log_weight, ess_threshold)
    if ess_threshold == 0:
        return particles, due
    indices = choose(particles.log_weight)
    total, lost = compensated_add(
        particles.log_evidence, particles.log_evidence_lost, log_mean_exp(particles.log_weight)
    )
    nothing = jnp.zeros_like(particles.log_weight)
    resampled = Particles(jax.tree.map(lambda leaf: leaf[indices], particles.state), nothing, nothing, total, lost)
    return select(due, resampled, particles), due


def _is_due(log_weight: jax.Array, ess_threshold: float) -> jax.Array:
    """Whether the effective sample size is too small; not where weights are all zero or not a number."""
    if ess_threshold in (0, 1):
        return jnp.asarray(ess_threshold == 1)
    log_size = 2 * logsumexp(log_weight) - logsumexp(2 * log_weight)
    return log_size < jnp.log(ess_threshold * log_weight.shape[0])
