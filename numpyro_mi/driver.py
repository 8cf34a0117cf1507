"""Runs a method over joint draws: keys, chunks, progress, interruption."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.annealing import Path
from numpyro_mi.decomposition import Decomposition, PieceKey
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.guides.base import FittedGuide, guide_stats
from numpyro_mi.integrals import ModelIntegral, begin
from numpyro_mi.keys import Role, role_key
from numpyro_mi.model.densities import JointDraw, StagedIntegral, StagedModel, flatten
from numpyro_mi.preflight import preflight
from numpyro_mi.progress import Progress
from numpyro_mi.simulation import blocks, joint_pairs
from numpyro_mi.timing import Stopwatch
from numpyro_mi.tuning import NUM_PILOT_DRAWS, Pilot, Plan, choose_base, tune

_LANES = 1024  # chains of a block: more raise no rate on a CPU, and blocks are where a run can be stopped


class RawRun(NamedTuple):
    """A finished run, before it becomes a result; arrays are NumPy with a leading draw axis.

    Attributes
    ----------
    terms
        For each row that was asked for, the terms of its lower and its upper bound, nats, float64.
    stats
        For each integral, what the evidence estimates reported.
    plans
        For each integral, its frozen settings.
    guides
        The fitted guide that each integral's path starts from; none if they start from the prior.
    cost
        Gradient evaluations by stage and direction.
    seconds
        By stage: compiling, tuning (with the checks), scoring.
    num_requested
        How many draws were asked for; fewer rows mean that the run was interrupted.
    """

    terms: tuple[tuple[np.ndarray, np.ndarray], ...]
    stats: tuple[dict[str, np.ndarray], ...]
    plans: tuple[Plan, ...]
    guides: tuple[FittedGuide, ...]
    cost: dict[str, int]
    seconds: dict[str, float]
    num_requested: int

    @property
    def num_scored(self) -> int:
        """Joint draws scored."""
        return len(self.terms[0][0])


def run(
    staged: StagedModel,
    rows: Sequence[Decomposition],
    method: EvidenceMethod,
    rng_key: jax.Array,
    num_samples: int,
    batch_size: int | None,
    progress_bar: bool,
    resume: RawRun | None = None,
) -> RawRun:
    """Check, tune, then score `num_samples` joint draws; `staged` holds what is in any of the rows.

    `resume`, an earlier run of the same, is continued to `num_samples` draws with its own plans and guides.
    """
    size = block_size(num_samples, method.num_particles) if batch_size is None else min(batch_size, num_samples)
    done = 0 if resume is None else resume.num_scored
    watch = Stopwatch()
    with Progress(-(-(num_samples - done) // size), progress_bar) as progress:
        if resume is None:
            progress.stage("checking the model")
            pilots = preflight(staged, role_key(rng_key, Role.PILOT_JOINT))
            guides = _fit(staged, method, pilots, rng_key, progress)
            integrals = _based(staged, guides)
            plans, cost = _tune(staged, integrals, method, pilots, rng_key, progress)
            seconds = {"tuning": watch.lap(), "scoring": 0.0, "compiling": 0.0}
        else:
            guides = list(resume.guides) or [None] * len(staged.integrals)
            integrals = _based(staged, guides)
            plans, cost, seconds = list(resume.plans), dict(resume.cost), dict(resume.seconds)
        scored = _Scored(rows, staged, integrals, method, [plan.path() for plan in plans])
        if resume is not None:
            scored.preload(resume)
        progress.stage("compiling and scoring")
        try:
            for first, draws in blocks(staged.draw, role_key(rng_key, Role.JOINT), num_samples, size, done):
                scored.add(draws, rng_key, first, min(size, num_samples - first))
                progress.stage("scoring")
                progress.block(*scored.running())
        except KeyboardInterrupt:
            if scored.count < 2:
                raise
        seconds["scoring"] += watch.lap()
    seconds["compiling"] += watch.compiling
    terms, stats = scored.gathered()
    for name in ("forward", "reverse", "guide"):
        spent = [stat[f"{name}_num_grad"].sum() for stat in stats if f"{name}_num_grad" in stat]
        if spent:
            cost[f"scored_{name}"] = int(sum(spent))
    return RawRun(terms, stats, tuple(plans), tuple(guide for guide in guides if guide), cost, seconds, num_samples)


def _based(staged: StagedModel, guides: list[FittedGuide | None]) -> list[ModelIntegral]:
    """Each integral with the guide that its path starts from."""
    return [ModelIntegral(own.integrand, guide) for own, guide in zip(staged.integrals, guides, strict=True)]


class _Scored:
    """Scored blocks as they come in."""

    def __init__(
        self,
        rows: Sequence[Decomposition],
        staged: StagedModel,
        integrals: list[ModelIntegral],
        method: EvidenceMethod,
        paths: list[Path],
    ):
        self._rows, self._staged, self._integrals = rows, staged, integrals
        self._method, self._paths = method, paths
        self._blocks: list[tuple] = []
        self._accept: dict[tuple[int, str], np.ndarray] = {}
        self.count = 0
        self._sums = np.zeros(2)

    def preload(self, raw: RawRun) -> None:
        """Start from the draws of an earlier run."""
        stats = []
        for i, found in enumerate(raw.stats):
            stats.append({name: value for name, value in found.items() if not name.endswith("_accept_prob")})
            for direction in ("forward", "reverse"):
                if f"{direction}_accept_prob" in found:
                    self._accept[i, direction] = raw.num_scored * found[f"{direction}_accept_prob"]
        self._blocks.append((list(raw.terms), stats))
        self.count += raw.num_scored
        self._sums += [terms.sum() for terms in raw.terms[0]]

    def add(self, draws: JointDraw, rng_key: jax.Array, start: int, count: int) -> None:
        """Score one block; of its draws only the first `count` belong to the run."""
        stats, found = [], {}
        for i, integral in enumerate(self._staged.integrals):
            held = {name: draws.values[name] for name in integral.held}
            keys = [jax.random.fold_in(role_key(rng_key, role), i) for role in (Role.CONDITION, Role.CHAINS)]
            evidence = jax.device_get(
                _evidence(self._integrals[i], self._method, self._paths[i], keys, start, held, draws.points[i])
            )
            elbo, eubo = evidence.elbo.astype(np.float64), evidence.eubo.astype(np.float64)
            found[integral.key] = elbo, eubo
            terms = {"forward_log_evidence": elbo, "reverse_log_evidence": eubo, **evidence.stats}
            stats.append(self._summarised(i, {name: value[:count] for name, value in terms.items()}))
        for key, log_sum in zip(self._staged.sums, draws.sums, strict=True):
            found[key] = (np.asarray(log_sum, np.float64),) * 2
        rows = [_assembled(row, draws.log_probs, found) for row in self._rows]
        self._blocks.append(([(lower[:count], upper[:count]) for lower, upper in rows], stats))
        self.count += count
        self._sums += [terms[:count].sum() for terms in rows[0]]

    def _summarised(self, integral: int, stats: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Acceptance by draw instead of by draw and temperature; the latter only as a mean over draws."""
        for direction in ("forward", "reverse"):
            if f"{direction}_accept_prob" not in stats:
                continue
            accept = stats.pop(f"{direction}_accept_prob").astype(np.float64)
            stats[f"{direction}_accept_prob_i"] = accept.mean(1) if accept.shape[1] else np.ones(len(accept))
            self._accept[integral, direction] = self._accept.get((integral, direction), 0.0) + accept.sum(0)
        return stats

    def running(self) -> tuple[float, float]:
        """Bounds of the first row so far."""
        return tuple(self._sums / self.count)

    def gathered(self) -> tuple[tuple[tuple[np.ndarray, np.ndarray], ...], tuple[dict[str, np.ndarray], ...]]:
        """All blocks, one after the other."""
        rows, stats = zip(*self._blocks, strict=True)
        terms = tuple(
            (np.concatenate([block[i][0] for block in rows]), np.concatenate([block[i][1] for block in rows]))
            for i in range(len(self._rows))
        )
        merged = tuple(
            {name: np.concatenate([block[i][name] for block in stats]) for name in stats[0][i]}
            for i in range(len(self._staged.integrals))
        )
        for (i, direction), total in self._accept.items():
            merged[i][f"{direction}_accept_prob"] = total / self.count
        return terms, merged


def _assembled(
    row: Decomposition, log_probs: dict[str, np.ndarray], found: dict[PieceKey, tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Terms of a lower and an upper bound, from the log-densities and the evidence bounds of a block of draws."""
    exact = sum(
        (sign * np.asarray(log_probs[name], np.float64) for sign, name in row.exact),
        np.zeros(len(next(iter(log_probs.values())))),
    )
    lower, upper = exact.copy(), exact.copy()
    with np.errstate(invalid="ignore"):
        for piece in row.pieces():
            elbo, eubo = found[piece.key]
            lower += piece.sign * (elbo if piece.sign > 0 else eubo)
            upper += piece.sign * (eubo if piece.sign > 0 else elbo)
    # A term that is not finite is never dropped: it makes its side infinite.
    lower[~np.isfinite(lower)], upper[~np.isfinite(upper)] = -np.inf, np.inf
    return lower, upper


@partial(jax.jit, static_argnames=("method",))
def _evidence(integral, method, path, rng_keys, start, held, points):
    """Evidence estimates of one integral for a block of draws, keyed by the index of the draw."""

    def one(index, held, point):
        condition_key, chains_key = (jax.random.fold_in(key, index) for key in rng_keys)
        conditional = integral.condition(held, condition_key)
        exact = integral.coordinates(conditional, flatten(point))
        evidence = method.evidence(integral.target(held, conditional), path, exact, chains_key)
        return evidence._replace(stats={**evidence.stats, **guide_stats(conditional)})

    size = jax.tree.leaves(points)[0].shape[0]
    return jax.vmap(one)(start + jnp.arange(size), held, points)


def replicates(
    integrals: Sequence[StagedIntegral],
    method: EvidenceMethod,
    raw: RawRun,
    rng_key: jax.Array,
    values: dict[str, jax.Array],
    count: int,
) -> list[np.ndarray]:
    """Forward estimates `log W` of each integral at one set of held values, by the frozen plan of a run; `(count,)`."""
    found = []
    for i, integral in enumerate(integrals):
        guide = raw.guides[i] if raw.guides else None
        keys = [jax.random.fold_in(role_key(rng_key, role), i) for role in (Role.REPLICATE_CONDITION, Role.REPLICATES)]
        held = {name: values[name] for name in integral.held}
        own = ModelIntegral(integral.integrand, guide)
        found.append(np.asarray(_replicates(own, method, raw.plans[i].path(), keys, held, jnp.arange(count)), float))
    return found


@partial(jax.jit, static_argnames=("method",))
def _replicates(integral, method, path, rng_keys, held, indices):
    def one(index):
        condition_key, chains_key = (jax.random.fold_in(key, index) for key in rng_keys)
        conditional = integral.condition(held, condition_key)
        target = integral.target(held, conditional)
        # There is no exact draw: any point will do, for what starts from it is not used.
        return method.evidence(target, path, target.sample_base(condition_key), chains_key).elbo

    return jax.lax.map(one, indices, batch_size=_LANES // 16)


def _fit(
    staged: StagedModel, method: EvidenceMethod, pilots: JointDraw, rng_key: jax.Array, progress: Progress
) -> list[FittedGuide | None]:
    """The fitted guide of each integral, on joint draws of their own; of its variants, the one that pilots choose."""
    if method.base is None:
        return [None] * len(staged.integrals)
    fitted: list[FittedGuide | None] = []
    for i in range(len(staged.integrals)):
        draw_key, fit_key = jax.random.split(jax.random.fold_in(role_key(rng_key, Role.FIT), i))
        pairs = joint_pairs(staged, draw_key, i)
        guide = method.base.fit(pairs, fit_key, progress.stage)
        variants = getattr(guide, "variants", lambda: ())()
        if len(variants) > 1:
            progress.stage("choosing the guide")
            integrals = tuple(ModelIntegral(staged.integrals[i].integrand, variant) for variant in variants)
            draws = jax.tree.map(lambda leaf: leaf[:NUM_PILOT_DRAWS], pilots)
            held = {name: draws.values[name] for name in staged.integrals[i].held}
            choice_key, annealed = jax.random.fold_in(fit_key, 0), method.kernel is not None
            guide = variants[choose_base(integrals, annealed, choice_key, held, draws.points[i])]
        fitted.append(guide)
    return fitted


def _tune(
    staged: StagedModel,
    integrals: list[ModelIntegral],
    method: EvidenceMethod,
    pilots: JointDraw,
    rng_key: jax.Array,
    progress: Progress,
) -> tuple[list[Plan], dict[str, int]]:
    """A frozen plan for each integral, from the first pilot draws."""
    plans, cost = [], {"pilot_forward": 0, "pilot_reverse": 0}
    draws = jax.tree.map(lambda leaf: leaf[:NUM_PILOT_DRAWS], pilots)
    for i, integral in enumerate(integrals):
        condition_keys, chain_keys = (
            jax.random.split(jax.random.fold_in(role_key(rng_key, role), i), NUM_PILOT_DRAWS)
            for role in (Role.PILOT_CONDITION, Role.PILOT_CHAINS)
        )
        held = {name: draws.values[name] for name in staged.integrals[i].held}
        conditional, exact = begin(integral, condition_keys, held, jax.vmap(flatten)(draws.points[i]))
        searched = guide_stats(conditional).get("guide_num_grad")
        if searched is not None:
            cost["pilot_guide"] = cost.get("pilot_guide", 0) + int(searched.sum())
        pilot = Pilot(chain_keys, held, conditional, exact)
        plan, spent = tune(integral, method.kernel, method.betas(), pilot, progress.stage)
        plans.append(plan)
        cost["pilot_forward"] += spent["forward"]
        cost["pilot_reverse"] += spent["reverse"]
    return plans, cost


def block_size(num_samples: int, num_particles: int) -> int:
    """Some twenty blocks, each of 256 to 1,024 chains, as equal as can be."""
    most, least = max(1, _LANES // (num_particles + 1)), max(1, _LANES // 4 // (num_particles + 1))
    size = min(max(num_samples // 20, least), most, num_samples)
    return -(-num_samples // -(-num_samples // size))
