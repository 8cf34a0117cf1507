"""Runs a direct bound: fitting on joint draws of their own, then scoring fresh ones."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.bounds.base import DirectMethod, Scorer, Supply
from numpyro_mi.driver import block_size
from numpyro_mi.keys import Role, role_key
from numpyro_mi.model import integral_checks
from numpyro_mi.model.samples import Sample, StagedSamples
from numpyro_mi.model.staging import stage
from numpyro_mi.pairs import Pairs
from numpyro_mi.preflight import preflight_samples
from numpyro_mi.progress import Progress
from numpyro_mi.simulation import blocks, sample_pairs
from numpyro_mi.timing import Stopwatch

_SHARES = (0.5, 0.1)  # of the rows of arrays: training, pilots; the rest is scored
_FEWEST_TERMS = 8
_ROWS = 4096


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
    scorer: Scorer | None
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
    cost = {"scored_gradients": int(parts["num_grad"].sum())} if "num_grad" in parts else {}
    return RawTerms(parts, scorer, cost, seconds, num_samples)


def run_on_arrays(
    z: np.ndarray,
    x: np.ndarray,
    log_prior: Callable | None,
    method: DirectMethod,
    rng_key: jax.Array,
    progress_bar: bool,
) -> RawTerms:
    """Split the rows into disjoint parts, train, then score one term a disjoint block of rows."""
    order = np.asarray(jax.random.permutation(role_key(rng_key, Role.SPLIT), len(z)))
    ends = [round(len(z) * share) for share in np.cumsum(_SHARES)]
    parts = np.split(order, ends)
    size = method.num_latents
    num_terms = len(parts[2]) // size
    if num_terms < _FEWEST_TERMS:
        raise ValueError(
            f"{type(method).__name__} scores one term a block of {size} rows, and {len(z)} rows leave {len(parts[2])} "
            f"for scoring ({_SHARES[0]:.0%} train, {_SHARES[1]:.0%} are pilots), {num_terms} blocks where at least "
            f"{_FEWEST_TERMS} are needed: pass more rows, or make the blocks smaller."
        )
    (z, z_loc, z_scale), (x, _, _) = (_standardised(array, parts[0]) for array in (z, x))
    prior = None
    if log_prior is not None:
        with integral_checks.differentiable(["z"]):
            prior = stage(_in_standard_units(log_prior, z_loc, z_scale), jnp.zeros(z.shape[1]), differentiable=True)
    watch = Stopwatch()
    scored, per_block = _Scored(), max(1, _ROWS // size)
    with Progress(-(-num_terms // per_block), progress_bar) as progress:
        training, pilots = (_array_pairs(z[part], x[part]) for part in parts[:2])
        supply = Supply(training, pilots, num_terms, prior)
        scorer = method.fit(supply, role_key(rng_key, Role.FIT), progress.stage)
        seconds = {"training": watch.lap()}
        progress.stage("scoring")
        rows = parts[2][: num_terms * size].reshape(num_terms, size)
        for start in range(0, num_terms, per_block):
            # The last block is filled up with its own rows: a compiled program takes one shape only.
            block = np.resize(rows[start : start + per_block], (per_block, size))
            found = _block_terms(
                scorer, role_key(rng_key, Role.CHAINS), start, jnp.asarray(z[block]), jnp.asarray(x[block])
            )
            scored.add(found, min(per_block, num_terms - start))
            progress.block(scored.running(), np.inf)
        seconds["scoring"] = watch.lap()
    seconds["compiling"] = watch.compiling
    cost = {f"{name}_rows": len(part) for name, part in zip(("training", "pilot", "scored"), parts, strict=True)}
    return RawTerms(scored.gathered(), scorer, cost, seconds, num_terms)


def _standardised(array: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns in units of the training rows, so that single precision loses no digits to an offset."""
    loc, scale = array[training].mean(0), array[training].std(0)
    scale = np.where(scale > 0, scale, 1.0)
    return (array - loc) / scale, loc, scale


def _in_standard_units(log_prior: Callable, loc: np.ndarray, scale: np.ndarray) -> Callable:
    """A user's log-density, in the coordinates of `_standardised`."""
    log_det = float(np.log(scale).sum())

    def density(u: jax.Array) -> jax.Array:
        value = jnp.asarray(log_prior(u * jnp.asarray(scale, float) + jnp.asarray(loc, float)))
        if value.shape:
            raise ValueError(
                f"log_prior takes one z, a vector of {len(loc)} columns, and returns a scalar log-density in nats; it "
                f"returned shape {value.shape}."
            )
        return value + log_det

    return density


def _array_pairs(u: np.ndarray, x: np.ndarray) -> Pairs:
    """Rows as a supply of joint draws; it ends where they end."""

    def supply(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, min(count, len(u)), _ROWS):
            stop = min(start + _ROWS, count)
            yield u[start:stop].astype(np.float32), x[start:stop].astype(np.float32)

    return Pairs(supply, u.shape[1], x.shape[1])


@jax.jit
def _block_terms(scorer, rng_key, start, u, x):
    """One term a block of rows, keyed by its index."""
    keys = jax.vmap(lambda index: jax.random.fold_in(rng_key, index))(start + jnp.arange(len(u)))
    return jax.vmap(scorer.terms)(u, x, keys)


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
