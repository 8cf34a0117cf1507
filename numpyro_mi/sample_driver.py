"""Runs a direct bound: fitting on joint draws of their own, then scoring fresh ones."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.bounds.base import DirectMethod, Scorer, Supply
from numpyro_mi.driver import block_size
from numpyro_mi.keys import Role, role_key
from numpyro_mi.model.samples import Sample, StagedSamples
from numpyro_mi.preflight import preflight_samples
from numpyro_mi.progress import Progress
from numpyro_mi.simulation import blocks, sample_pairs
from numpyro_mi.timing import Stopwatch


class RawTerms(NamedTuple):
    """A finished run, before it becomes a result.

    Attributes
    ----------
    parts
        By name, one value a term, float64; "lower" is the bound.
    scorer
        What was trained.
    cost
        Gradient evaluations and draws, by stage.
    seconds
        By stage.
    num_requested
        Terms asked for.
    """

    parts: dict[str, np.ndarray]
    scorer: Scorer
    cost: dict[str, int]
    seconds: dict[str, float]
    num_requested: int


def run_on_model(
    samples: StagedSamples,
    method: DirectMethod,
    rng_key: jax.Array,
    num_samples: int,
    batch_size: int | None,
    progress_bar: bool,
) -> RawTerms:
    """Check, train, then score `num_samples` joint draws."""
    size = block_size(num_samples, method.num_latents) if batch_size is None else min(batch_size, num_samples)
    watch = Stopwatch()
    with Progress(-(-num_samples // size), progress_bar) as progress:
        progress.stage("checking the model")
        preflight_samples(samples, role_key(rng_key, Role.PILOT_JOINT))
        supply = Supply(
            training=sample_pairs(samples, role_key(rng_key, Role.TRAINING_JOINT)),
            pilots=sample_pairs(samples, role_key(rng_key, Role.PILOT_JOINT)),
            num_terms=num_samples,
            log_prior=samples.log_prior,
            sample_prior=samples.sample_prior,
        )
        scorer = method.fit(supply, role_key(rng_key, Role.FIT), progress.stage)
        seconds = {"training": watch.lap()}
        scored = _Scored()
        keys = [role_key(rng_key, role) for role in (Role.NEGATIVES, Role.CHAINS)]
        progress.stage("compiling and scoring")
        try:
            for first, draws in blocks(samples.draw, role_key(rng_key, Role.JOINT), num_samples, size):
                found = _terms(scorer, samples.sample_prior, method.num_latents, keys, first, draws)
                scored.add(found, min(size, num_samples - first))
                progress.stage("scoring")
                progress.block(scored.running(), np.inf)
        except KeyboardInterrupt:
            if scored.count < 2:
                raise
        seconds["scoring"] = watch.lap()
    seconds["compiling"] = watch.compiling
    parts = scored.gathered()
    cost = {"scored": int(parts["num_grad"].sum())} if "num_grad" in parts else {}
    return RawTerms(parts, scorer, cost, seconds, num_samples)


class _Scored:
    """Scored blocks as they come in."""

    def __init__(self) -> None:
        self._blocks: list[dict[str, np.ndarray]] = []
        self.count = 0
        self._sum = 0.0

    def add(self, found: dict[str, jax.Array], count: int) -> None:
        """One block; of its terms only the first `count` belong to the run."""
        block = {name: np.asarray(value, np.float64)[:count] for name, value in jax.device_get(found).items()}
        # A term that is not finite is never dropped: it makes the bound infinite.
        block["lower"] = np.where(np.isfinite(block["lower"]), block["lower"], -np.inf)
        self._blocks.append(block)
        self.count += count
        self._sum += float(block["lower"].sum())

    def running(self) -> float:
        """The bound so far."""
        return self._sum / self.count

    def gathered(self) -> dict[str, np.ndarray]:
        """All blocks, one after the other."""
        return {name: np.concatenate([block[name] for block in self._blocks]) for name in self._blocks[0]}


@partial(jax.jit, static_argnames=("num_latents",))
def _terms(scorer, sample_prior, num_latents, rng_keys, start, draws: Sample):
    """Terms of a block of draws, keyed by the index of the draw, each with fresh latents to compare with."""

    def one(index, u, x):
        negatives_key, own_key = (jax.random.fold_in(key, index) for key in rng_keys)
        others = jax.vmap(lambda k: sample_prior(jax.random.fold_in(negatives_key, k)))(jnp.arange(1, num_latents))
        return scorer.terms(jnp.concatenate([u[None], others.reshape(-1, len(u))]), x[None], own_key)

    return jax.vmap(one)(start + jnp.arange(len(draws.u)), draws.u, draws.x)
