"""Terms of the bounds from blocks of joint draws, one integral after the other; replicates on one data set."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.draws.keys import Role, role_key
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.guides.base import FittedGuide
from numpyro_mi.model.integrals.decomposition import Decomposition, PieceKey
from numpyro_mi.model.integrals.densities import JointDraw, StagedIntegral, StagedModel, flatten
from numpyro_mi.model.sites import parameters
from numpyro_mi.results.estimation import spoil
from numpyro_mi.runs.blocks import LANES
from numpyro_mi.runs.settings import PlannedIntegral


class RawRun(NamedTuple):
    """A finished run, before it becomes a result; arrays are NumPy with a leading draw axis.

    Attributes
    ----------
    terms
        For each row that was asked for, the terms of its lower and its upper bound, nats, float64.
    stats
        For each integral, what the evidence estimates reported.
    integrals
        With their frozen plans.
    plans
        For each integral, the frozen settings that all data sets share, by name.
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
    integrals: tuple[PlannedIntegral, ...]
    plans: tuple[dict[str, np.ndarray], ...]
    guides: tuple[FittedGuide, ...]
    cost: dict[str, int]
    seconds: dict[str, float]
    num_requested: int

    @property
    def num_scored(self) -> int:
        """Joint draws scored."""
        return len(self.terms[0][0])


class Scored:
    """Scored blocks as they come in."""

    def __init__(
        self,
        rows: Sequence[Decomposition],
        staged: StagedModel,
        integrals: Sequence[PlannedIntegral],
        method: EvidenceMethod,
    ):
        self._rows, self._staged, self._integrals, self._method = rows, staged, integrals, method
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
            evidence = jax.device_get(_evidence(self._integrals[i], self._method, keys, start, held, draws.points[i]))
            elbo, eubo = evidence.elbo.astype(np.float64), evidence.eubo.astype(np.float64)
            found[integral.key] = elbo, eubo
            terms = {"forward_log_evidence": elbo, "reverse_log_evidence": eubo, **evidence.stats}
            stats.append(self._summarised(i, {name: value[:count] for name, value in terms.items()}))
        for key, log_sum in zip(self._staged.sums, draws.sums, strict=True):
            found[key] = (np.asarray(log_sum, np.float64),) * 2
        rows = [_assembled(row, draws, found) for row in self._rows]
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
    row: Decomposition, draws: JointDraw, found: dict[PieceKey, tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Terms of a lower and an upper bound, from the log-densities and the evidence bounds of a block of draws."""
    exact = sum(
        (sign * np.asarray(draws.log_probs[name], np.float64) for sign, name in row.exact),
        parameters.spoil(draws.invalid, np.zeros(len(next(iter(draws.log_probs.values()))))),
    )
    lower, upper = exact.copy(), exact.copy()
    for piece in row.pieces():
        add_piece(lower, upper, piece.sign, *found[piece.key])
    return spoil(lower, -1), spoil(upper, +1)


def add_piece(lower: np.ndarray, upper: np.ndarray, sign: int, elbo: np.ndarray, eubo: np.ndarray) -> None:
    """Add a signed log-marginal, by its two bounds, to the terms of both sides in place."""
    with np.errstate(invalid="ignore"):
        lower += sign * (elbo if sign > 0 else eubo)
        upper += sign * (eubo if sign > 0 else elbo)


@partial(jax.jit, static_argnames=("method",))
def _evidence(integral, method, rng_keys, start, held, points):
    """Evidence estimates of one integral for a block of draws, keyed by the index of the draw."""

    def one(index, held, point):
        condition_key, chains_key = (jax.random.fold_in(key, index) for key in rng_keys)
        conditional = integral.condition(held, condition_key)
        exact = integral.coordinates(held, conditional, flatten(point))
        evidence = method.evidence(integral.target(held, conditional), integral.path(conditional), exact, chains_key)
        return evidence._replace(stats={**evidence.stats, **integral.stats(conditional)})

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
        keys = [jax.random.fold_in(role_key(rng_key, role), i) for role in (Role.REPLICATE_CONDITION, Role.REPLICATES)]
        held = {name: values[name] for name in integral.held}
        found.append(np.asarray(_replicates(raw.integrals[i], method, keys, held, jnp.arange(count)), float))
    return found


@partial(jax.jit, static_argnames=("method",))
def _replicates(integral, method, rng_keys, held, indices):
    def one(index):
        condition_key, chains_key = (jax.random.fold_in(key, index) for key in rng_keys)
        conditional = integral.condition(held, condition_key)
        target = integral.target(held, conditional)
        # There is no exact draw: any point will do, for what starts from it is not used.
        return method.evidence(target, integral.path(conditional), target.sample_base(condition_key), chains_key).elbo

    return jax.lax.map(one, indices, batch_size=LANES // 16)
