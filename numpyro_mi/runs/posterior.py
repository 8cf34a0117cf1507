"""Information gain of the next observation after a real history, which posterior samples stand for.

With theta_0 a posterior sample, y data simulated at it and theta_k other posterior samples, both bounds need the
likelihood p(y | theta) of the next observation alone. They take their theta_k from different places, so that
autocorrelated samples void neither. The lower bound is the information of y on which of K samples it came from, and
holds if all K are exchangeable: a random subset. The upper one exceeds the gain by the divergence of p(y) from the
mean of p(y | theta_k), whatever these are, and holds if they are independent of theta_0: samples of the other half of
the run, in the order in which they were drawn. At random, they would hold near copies of theta_0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.draws.consistency import Differences
from numpyro_mi.draws.keys import Role, key_record, role_key
from numpyro_mi.evidence.base import log_mean_exp
from numpyro_mi.evidence.importance import StructuredInfoNCE
from numpyro_mi.model.joint.checks import needs_likelihood
from numpyro_mi.model.joint.joint_model import JointModel, Values
from numpyro_mi.model.sites import parameters
from numpyro_mi.model.views.likelihood import Likelihood, check_likelihood, posterior_arrays, stage_likelihood
from numpyro_mi.options import shown
from numpyro_mi.results.estimation import spoil
from numpyro_mi.results.files.methods import describe
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.runs.environment import environment
from numpyro_mi.runs.progress import Progress
from numpyro_mi.runs.timing import Stopwatch

HISTORY = "history"
NOTE = (
    "given the posterior samples: both bounds are as exact as the run that drew these, and its own error (chains that "
    "have not converged, autocorrelation) is not in the standard errors or the intervals."
)
_CHUNK = 256  # likelihoods of one draw at the same time
_DEFAULT_PARTICLES = 1000


class PosteriorRun(NamedTuple):
    """Terms of the two bounds so far, nats, float64, and seconds by stage."""

    lower_i: np.ndarray
    upper_i: np.ndarray
    seconds: dict[str, float]
    num_requested: int

    @property
    def num_scored(self) -> int:
        """Joint draws scored."""
        return len(self.lower_i)


@dataclass(frozen=True, eq=False)
class PosteriorGain:
    """One design, with posterior samples in the place of the prior; used as `Rows` are.

    Attributes
    ----------
    model
        The model of the next observation.
    samples
        Posterior samples of its latents, checked, shape `(M, ...)`.
    method
        K weights a bound.
    key
        Of all random numbers.
    """

    model: JointModel
    samples: Values
    method: StructuredInfoNCE
    key: jax.Array

    @cached_property
    def functions(self) -> Likelihood:
        """The likelihood, staged."""
        return stage_likelihood(self.model)

    @property
    def lanes(self) -> int:
        """Points that one draw computes at the same time."""
        return min(2 * self.method.num_particles, _CHUNK)

    def run(self, num_samples: int, size: int, progress_bar: bool, resume: PosteriorRun | None = None) -> PosteriorRun:
        """Score draws in blocks of `size`, or continue an earlier run to `num_samples` draws."""
        done = 0 if resume is None else resume.num_scored
        seconds = {"scoring": 0.0, "compiling": 0.0} if resume is None else dict(resume.seconds)
        terms = [np.zeros((2, 0)) if resume is None else np.stack([resume.lower_i, resume.upper_i])]
        watch = Stopwatch()
        with Progress(-(-(num_samples - done) // size), progress_bar) as progress:
            progress.stage("compiling and scoring")
            if resume is None:
                self._check_samples()
            rows = _orders(role_key(self.key, Role.SPLIT), len(self.samples[self.model.latent[0]]))
            keys = [role_key(self.key, role) for role in (Role.JOINT, Role.NEGATIVES)]
            drift = Differences()
            try:
                for first in range(done, num_samples, size):
                    lower, upper, difference, log_prob, invalid = jax.device_get(
                        _block(self.functions, self.samples, rows, keys, first, size, self.method.num_particles)
                    )
                    parameters.check([invalid], self.model.parents)
                    drift.add(", ".join(self.model.data), difference, log_prob)
                    drift.check()
                    terms.append(np.stack([spoil(lower, -1), spoil(upper, +1)])[:, : num_samples - first])
                    progress.stage("scoring")
                    progress.block(*np.concatenate(terms, 1).mean(1))
            except KeyboardInterrupt:
                if sum(block.shape[1] for block in terms) < 2:
                    raise
        seconds["scoring"] += watch.lap()
        seconds["compiling"] += watch.compiling
        lower_i, upper_i = np.concatenate(terms, 1)
        return PosteriorRun(lower_i, upper_i, seconds, num_samples)

    def result(self, raw: PosteriorRun, row: int = 0) -> MIBounds:
        """The bounds of a run."""
        model = self.model
        latents = {name: [HISTORY] for name in model.latent}
        data = {name: sorted(model.parents[name]) for name in model.data}
        return MIBounds(
            raw.lower_i,
            raw.upper_i,
            latent=model.latent,
            data=model.data,
            fixed=(HISTORY,),
            method=describe(self.method),
            notes=(NOTE, *model.notes),
            seconds=raw.seconds,
            key=key_record(self.key),
            environment=environment(),
            num_requested=raw.num_requested,
            decomposition=(
                *({"kind": "exact", "sign": 1, "integrated": [], "factors": {name: data[name]}} for name in data),
                {"kind": "integral", "sign": -1, "integrated": list(model.latent), "factors": latents | data},
            ),
        )

    def _check_samples(self) -> None:
        """Refuse samples that are no values of their sites, or at which the data have no distribution."""
        pilot_key = role_key(self.key, Role.PILOT_JOINT)
        insides, invalid = jax.device_get(_at_samples(self.functions, self.samples, pilot_key))
        for name, inside in insides.items():
            if not inside.all():
                raise ValueError(
                    f"posterior_samples[{name!r}] holds {int((~inside).sum())} of {len(inside)} draws outside the "
                    "support of the site in this model: pass draws on the site's own, constrained space, as "
                    "mcmc.get_samples() returns them."
                )
        parameters.check([invalid], self.model.parents)


def posterior_method(method: Any, samples: Mapping[str, Any], num_samples: int) -> StructuredInfoNCE:
    """The method for these samples; refuse any other, and more draws or particles than they allow."""
    count = len(next(iter(samples.values())))
    half = count // 2
    if method is None:
        method = StructuredInfoNCE(min(_DEFAULT_PARTICLES, half))
    if not isinstance(method, StructuredInfoNCE):
        raise TypeError(
            "with posterior_samples, method must be StructuredInfoNCE(num_particles=...) or None, got "
            f"{shown(method)}: samples have no density to anneal from or to weigh a guide with."
        )
    if method.num_particles > half:
        raise ValueError(
            f"StructuredInfoNCE(num_particles={method.num_particles}) takes that many of one half of the posterior "
            f"samples, and there are {count}: at most num_particles={half}, or draw more."
        )
    if num_samples > half:
        raise ValueError(
            f"num_samples must be at most half the number of posterior samples, {half}, got {num_samples}: each joint "
            f"draw takes one of its own. Pass num_samples={half}, or draw more posterior samples."
        )
    return method


def posterior_gains(
    models: Sequence[JointModel], samples: Any, method: Any, num_samples: int, key: jax.Array
) -> list[PosteriorGain]:
    """Check the models of several designs, and the samples that they share.

    Raises
    ------
    TypeError, ValueError
        Before anything compiles.
    """
    for model in models:
        if model.without_density:
            needs_likelihood(model.without_density, "StructuredInfoNCE")
        check_likelihood(model)
        samples = posterior_arrays(model, samples)
    method = posterior_method(method, samples, num_samples)
    return [PosteriorGain(model, samples, method, key) for model in models]


def _orders(rng_key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """All rows in random order, and those of each half of the run in random order, the halves as long as each other."""
    half = count // 2
    whole, first, second = (np.asarray(jax.random.key_data(key)) for key in jax.random.split(rng_key, 3))

    def shuffled(seed: np.ndarray, size: int) -> np.ndarray:
        return np.random.default_rng(seed.tolist()).permutation(size)

    halves = np.stack([shuffled(first, half), half + shuffled(second, count - half)[:half]])
    return jnp.asarray(shuffled(whole, count)), jnp.asarray(halves)


@jax.jit
def _at_samples(likelihood, samples, rng_key):
    """Whether each sample is in its support, and what is to be said of the parameters of the data there."""

    def one(latents, rng_key):
        return likelihood.inside(latents), likelihood.simulate(latents, rng_key)[2]

    count = len(next(iter(samples.values())))
    return jax.vmap(one)(samples, jax.random.split(rng_key, count))


@partial(jax.jit, static_argnames=("size", "num_particles"))
def _block(likelihood, samples, orders, rng_keys, start, size, num_particles):
    """Terms of a block of draws, keyed by the index of the draw."""
    everything, halves = orders
    count, half = len(everything), halves.shape[1]

    def one(index):
        draw_key, pick_key = (jax.random.fold_in(key, index) for key in rng_keys)
        lower_key, upper_key = jax.random.split(pick_key)
        own = everything[index % count]  # the last block may run past the draws that are asked for
        y, drift, invalid = likelihood.simulate(_row(samples, own), draw_key)
        own_log_prob = likelihood.log_prob(_row(samples, own), y)

        def log_weights(rows):
            weight = lambda row: likelihood.log_prob(_row(samples, row), y) - own_log_prob  # noqa: E731
            return jax.lax.map(weight, rows, batch_size=_CHUNK)

        # Random stretches of random orders, of which the first skips the own place: subsets without replacement.
        step = jax.random.randint(lower_key, (), 1, count - num_particles + 2)
        others = everything[(index + step + jnp.arange(num_particles - 1)) % count]
        step = jax.random.randint(upper_key, (), 0, half)
        opposite = halves[jnp.where(own < half, 1, 0)][(step + jnp.arange(num_particles)) % half]
        weights = log_weights(jnp.concatenate([others, opposite]))
        mixed = jnp.concatenate([own_log_prob[None] - own_log_prob, weights[: num_particles - 1]])
        return -log_mean_exp(mixed), -log_mean_exp(weights[num_particles - 1 :]), drift, own_log_prob, invalid

    return jax.vmap(one)(start + jnp.arange(size))


def _row(samples: Values, row: jax.Array) -> Values:
    return {name: values[row] for name, values in samples.items()}
