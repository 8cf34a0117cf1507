"""Runs a direct bound: fitting on joint draws of their own, then scoring fresh ones."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.direct.arrays import in_own_units, refuse_fitted, split_rows
from numpyro_mi.direct.base import DirectMethod, Scorer, Supply
from numpyro_mi.direct.nearest_neighbors import KSG
from numpyro_mi.draws.array_prior import check_prior, staged_prior
from numpyro_mi.draws.array_split import row_pairs, standardised
from numpyro_mi.draws.keys import Role, key_record, role_key
from numpyro_mi.draws.preflight import preflight_samples
from numpyro_mi.draws.simulation import blocks, sample_pairs
from numpyro_mi.model.integrals.decomposition import check_fixed
from numpyro_mi.model.joint import checks
from numpyro_mi.model.joint.joint_model import JointModel
from numpyro_mi.model.sites import parameters
from numpyro_mi.model.views.samples import Sample, StagedSamples, stage_samples
from numpyro_mi.results.estimation import spoil
from numpyro_mi.results.files.methods import describe
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.runs.blocks import block_size
from numpyro_mi.runs.environment import environment
from numpyro_mi.runs.progress import Progress
from numpyro_mi.runs.timing import Stopwatch


class RawTerms(NamedTuple):
    """A finished run, before it becomes a result.

    Attributes
    ----------
    parts
        By name, one value a term, float64; "lower" is the bound.
    scorer
        What was trained.
    cost
        Gradient evaluations, negatives and rows, by stage.
    seconds
        By stage.
    num_requested
        Terms asked for.
    notes
        What the checks have to say.
    """

    parts: dict[str, np.ndarray]
    scorer: Scorer | None
    cost: dict[str, int]
    seconds: dict[str, float]
    num_requested: int
    notes: tuple[str, ...] = ()

    @property
    def num_scored(self) -> int:
        """Terms scored."""
        return len(self.parts["lower"])


class _Work(NamedTuple):
    """What is scored.

    Attributes
    ----------
    num_terms, size
        Terms of the run, and of a block.
    blocks
        Each with the index of its first term.
    score
        The terms of a block, by the scorer, the index of the first one and the block.
    rows
        Rows of arrays that train, and that are pilots, by name.
    rows_per_term
        Rows of arrays that a term scores.
    negatives_per_term
        Scores of independent pairs in a term.
    """

    num_terms: int
    size: int
    blocks: Iterator[tuple[int, Any]]
    score: Callable[[Scorer, int, Any], dict[str, jax.Array]]
    negatives_per_term: int
    rows: dict[str, int] = {}
    rows_per_term: int = 0


def run_on_model(
    samples: StagedSamples,
    method: DirectMethod,
    rng_key: jax.Array,
    num_samples: int,
    batch_size: int | None,
    progress_bar: bool,
) -> RawTerms:
    """Check, train, then score `num_samples` joint draws."""
    size = block_size(num_samples, method.num_particles) if batch_size is None else min(batch_size, num_samples)
    watch, num_latents = Stopwatch(), method.num_latents
    keys = [role_key(rng_key, role) for role in (Role.NEGATIVES, Role.CHAINS)]
    work = _Work(
        num_samples,
        size,
        blocks(samples.draw, role_key(rng_key, Role.JOINT), num_samples, size),
        lambda scorer, first, draws: _terms(scorer, samples.sample_prior, num_latents, keys, first, draws),
        negatives_per_term=num_latents - 1,
    )
    with Progress(-(-num_samples // size), progress_bar) as progress:
        progress.stage("checking the model")
        preflight_samples(samples, role_key(rng_key, Role.PILOT_JOINT))
        supply = Supply(
            training=sample_pairs(samples, role_key(rng_key, Role.TRAINING_JOINT)),
            pilots=sample_pairs(samples, role_key(rng_key, Role.PILOT_JOINT)),
            num_negatives=num_samples * work.negatives_per_term,
            log_prior=samples.log_prior,
            sample_prior=samples.sample_prior,
        )
        return _fit_and_score(method, supply, work, rng_key, progress, watch)


def run_on_arrays(
    z: np.ndarray,
    x: np.ndarray,
    log_prior: Callable | None,
    method: DirectMethod,
    rng_key: jax.Array,
    progress_bar: bool,
) -> RawTerms:
    """Split the rows into disjoint parts, train, then score one term a disjoint block of rows."""
    refuse_fitted(method)
    training, pilots, scored = split_rows(len(z), method, rng_key)
    z_columns, x_columns = standardised(z, training), standardised(x, training)
    prior = None if log_prior is None else staged_prior(log_prior, z_columns)
    notes = () if prior is None else check_prior(prior, z_columns, np.concatenate([training, pilots]))
    watch, (num_terms, num_rows) = Stopwatch(), scored.shape
    size, chains_key = block_size(num_terms, method.num_particles), role_key(rng_key, Role.CHAINS)
    # The last block is filled up with its own rows: a compiled program takes one shape only.
    filled = ((first, np.resize(scored[first : first + size], (size, num_rows))) for first in range(0, num_terms, size))

    def score(scorer: Scorer, first: int, rows: np.ndarray) -> dict[str, jax.Array]:
        u, x = (jnp.asarray(columns.values[rows]) for columns in (z_columns, x_columns))
        return _block_terms(scorer, chains_key, first, u, x)

    work = _Work(
        num_terms,
        size,
        filled,
        score,
        negatives_per_term=num_rows * (num_rows - 1),
        rows={"training": len(training), "pilot": len(pilots)},
        rows_per_term=num_rows,
    )
    supply = Supply(
        training=row_pairs(z_columns, x_columns, training),
        pilots=row_pairs(z_columns, x_columns, pilots),
        num_negatives=num_terms * work.negatives_per_term,
        log_prior=prior,
    )
    with Progress(-(-num_terms // size), progress_bar) as progress:
        run = _fit_and_score(in_own_units(method, z_columns, x_columns), supply, work, rng_key, progress, watch)
    return run._replace(notes=notes)


def _fit_and_score(
    method: DirectMethod, supply: Supply, work: _Work, rng_key: jax.Array, progress: Progress, watch: Stopwatch
) -> RawTerms:
    """Train, then score block after block; on Ctrl-C, the finished ones."""
    scorer = method.fit(supply, role_key(rng_key, Role.FIT), progress.stage)
    seconds = {"training": watch.lap()}
    scored = _ScoredTerms()
    progress.stage("compiling and scoring")
    try:
        for first, block in work.blocks:
            scored.add(work.score(scorer, first, block), min(work.size, work.num_terms - first))
            progress.stage("scoring")
            progress.block(scored.running(), np.inf)
    except KeyboardInterrupt:
        if scored.count < 2:
            raise
    seconds["scoring"] = watch.lap()
    seconds["compiling"] = watch.compiling
    parts = scored.gathered()
    return RawTerms(parts, scorer, _cost(work, parts), seconds, work.num_terms)


def _cost(work: _Work, parts: dict[str, np.ndarray]) -> dict[str, int]:
    """Gradients, negatives and rows of what was scored."""
    count, cost = len(parts["lower"]), {}
    if "num_grad" in parts:
        cost["scored_gradients"] = int(parts["num_grad"].sum())
    if work.negatives_per_term:
        cost["scored_negatives"] = count * work.negatives_per_term
    if work.rows:
        cost |= {f"{name}_rows": rows for name, rows in work.rows.items()}
        cost["scored_rows"] = count * work.rows_per_term
    return cost


@jax.jit
def _block_terms(scorer, rng_key, start, u, x):
    """One term a block of rows, keyed by its index."""
    keys = jax.vmap(lambda index: jax.random.fold_in(rng_key, index))(start + jnp.arange(len(u)))
    return jax.vmap(scorer.terms)(u, x, keys)


class _ScoredTerms:
    """Scored blocks as they come in."""

    def __init__(self) -> None:
        self._blocks: list[dict[str, np.ndarray]] = []
        self.count = 0
        self._sum = 0.0

    def add(self, found: dict[str, jax.Array], count: int) -> None:
        """One block; of its terms only the first `count` belong to the run."""
        block = {name: np.asarray(value, np.float64)[:count] for name, value in jax.device_get(found).items()}
        block["lower"] = spoil(block["lower"], -1)
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

    def one(index, u, x, invalid):
        negatives_key, own_key = (jax.random.fold_in(key, index) for key in rng_keys)
        others = jax.vmap(lambda k: sample_prior(jax.random.fold_in(negatives_key, k)))(jnp.arange(1, num_latents))
        terms = scorer.terms(jnp.concatenate([u[None], others.reshape(-1, len(u))]), x[None], own_key)
        return {**terms, "lower": parameters.spoil(invalid, terms["lower"])}

    return jax.vmap(one)(start + jnp.arange(len(draws.u)), draws.u, draws.x, draws.invalid)


def direct_samples(model: JointModel, method: DirectMethod) -> StagedSamples:
    """Joint samples of a model for a method without a likelihood.

    Raises
    ------
    ValueError
        If the method cannot condition on what is given, or needs a prior that cannot be evaluated.
    """
    if model.given:
        checks.given_needs_likelihood(model.given, type(method).__name__)
    check_fixed(model)
    return stage_samples(model, method.needs_prior)


def direct_result(
    latent: tuple[str, ...],
    data: tuple[str, ...],
    method: DirectMethod | KSG,
    key: jax.Array,
    raw: RawTerms,
    notes: tuple[str, ...],
    fixed: tuple[str, ...] = (),
) -> MIBounds:
    """The result of a method without a likelihood."""
    parts = dict(raw.parts)
    return MIBounds(
        lower_i=parts.pop("lower", None),
        upper_i=None,
        latent=latent,
        data=data,
        fixed=fixed,
        notes=notes,
        method=describe(method),
        parts=parts,
        trained=raw.scorer,
        cost=raw.cost,
        seconds=raw.seconds,
        key=key_record(key),
        environment=environment(),
        num_requested=raw.num_requested,
    )
