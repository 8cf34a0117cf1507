"""Runs a method with a likelihood over joint draws: checks, tuning, scoring; and its results."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from numpyro_mi.draws.keys import Role, key_record, role_key
from numpyro_mi.draws.preflight import preflight
from numpyro_mi.draws.simulation import blocks
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.evidence.importance import IWAE
from numpyro_mi.evidence.schemes.independent_reverse import IR
from numpyro_mi.model.integrals.decomposition import Decomposition, described, union
from numpyro_mi.model.integrals.densities import StagedModel, stage_model
from numpyro_mi.model.integrals.exact import ExactTable, ExactTerms, exact_tables
from numpyro_mi.model.joint import checks
from numpyro_mi.model.joint.joint_model import JointModel
from numpyro_mi.results.files.methods import describe
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.runs.blocks import LANES, block_size
from numpyro_mi.runs.environment import environment
from numpyro_mi.runs.planning import fit_guides, plan_integrals
from numpyro_mi.runs.progress import Progress
from numpyro_mi.runs.scoring import RawRun, Scored
from numpyro_mi.runs.timing import Stopwatch

_LOOPING_LANES = 128  # where densities have loops, a block takes as long as its longest one
_WAITS = "; a batch waits for its longest loop, which mxstep or max_steps of the solver bounds"


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
    looping = any(integral.integrand.loops for integral in staged.integrals)
    lanes = _LOOPING_LANES if looping else LANES
    size = block_size(num_samples, method.num_particles, lanes) if batch_size is None else min(batch_size, num_samples)
    done = 0 if resume is None else resume.num_scored
    watch = Stopwatch()
    with Progress(-(-(num_samples - done) // size), progress_bar) as progress:

        def stage(name: str) -> None:
            progress.stage(f"{name}{_WAITS if looping else ''}")

        if resume is None:
            progress.stage("checking the model")
            pilots = preflight(staged, role_key(rng_key, Role.PILOT_JOINT))
            guides = fit_guides(staged, method, pilots, rng_key, progress.stage)
            integrals, plans, cost = plan_integrals(staged, guides, method, pilots, rng_key, stage)
            seconds = {"tuning": watch.lap(), "scoring": 0.0, "compiling": 0.0}
            fitted = tuple(guide for guide in guides if guide)
        else:
            integrals, plans, fitted = resume.integrals, resume.plans, resume.guides
            cost, seconds = dict(resume.cost), dict(resume.seconds)
        scored = Scored(rows, staged, integrals, method)
        if resume is not None:
            scored.preload(resume)
        stage("compiling and scoring")
        try:
            for first, draws in blocks(staged.draw, role_key(rng_key, Role.JOINT), num_samples, size, done):
                scored.add(draws, rng_key, first, min(size, num_samples - first))
                stage("scoring")
                progress.block(*scored.running())
        except KeyboardInterrupt:
            if scored.count < 2:
                raise
        seconds["scoring"] += watch.lap()
    seconds["compiling"] += watch.compiling
    terms, stats = scored.gathered()
    for name in ("forward", "reverse", "guide", "start"):
        spent = [stat[f"{name}_num_grad"].sum() for stat in stats if f"{name}_num_grad" in stat]
        if spent:
            cost[f"scored_{name}"] = int(sum(spent))
    return RawRun(terms, stats, integrals, plans, fitted, cost, seconds, num_samples)


def require_likelihood(model: JointModel, method: EvidenceMethod) -> None:
    """Refuse a model with sites that have no density, before it is decomposed."""
    if model.without_density:
        checks.needs_likelihood(model.without_density, type(method).__name__)


@dataclass(frozen=True, eq=False)
class Rows:
    """A model, what is asked of it, and how to bound that.

    Attributes
    ----------
    model
        The model; its groups are those of the rows together.
    decompositions
        What each row is a sum of; pieces that several rows share are bounded once.
    method
        How each integral is bounded.
    key
        Of all random numbers.
    may_sum
        Whether rows that depend on a few discrete sites may be summed over all values of these. Not where the terms
        of single draws are wanted.
    """

    model: JointModel
    decompositions: tuple[Decomposition, ...]
    method: EvidenceMethod
    key: jax.Array
    may_sum: bool = True

    @cached_property
    def shared(self) -> Decomposition:
        """The pieces of all rows, each once."""
        return union(self.decompositions)

    @cached_property
    def staged(self) -> StagedModel:
        """The model as functions."""
        method = self.method
        gradients = method.kernel is not None or getattr(method.base, "needs_gradient", method.base is not None)
        scheme = method.scheme if isinstance(method, AIS) else None
        sampler = scheme.posterior_sampler if isinstance(scheme, IR) else None
        return stage_model(self.model, self.shared, gradients, sampler)

    @cached_property
    def tables(self) -> list[ExactTable]:
        """What the rows that can be summed are summed over."""
        return exact_tables(self.model, self.decompositions) if self.may_sum else []

    @cached_property
    def exact(self) -> dict[int, ExactTerms]:
        """The rows that are summed, by their place."""
        return {row: terms for table in self.tables for row, terms in table.exact().items()}

    @property
    def functions(self) -> Any:
        """What is compiled."""
        return self.staged.draw, [integral.integrand for integral in self.staged.integrals]

    @property
    def lanes(self) -> int:
        """Points that one draw computes at the same time."""
        return self.method.num_particles

    def run(self, num_samples: int, batch_size: int | None, progress_bar: bool, resume: RawRun | None = None) -> RawRun:
        """Check, tune and score; or continue an earlier run to `num_samples` draws."""
        summed = {row for table in self.tables for row in table.rows}
        if summed and all(i in summed or not row.dependent for i, row in enumerate(self.decompositions)):
            return self._sum(num_samples, progress_bar, resume)
        exact = self.exact  # before anything runs: it may refuse the model
        raw = run(
            self.staged, self.decompositions, self.method, self.key, num_samples, batch_size, progress_bar, resume
        )
        return raw._replace(
            terms=tuple(
                _constant(exact[i].value, raw.num_scored) if i in exact else terms for i, terms in enumerate(raw.terms)
            )
        )

    def _sum(self, num_samples: int, progress_bar: bool, resume: RawRun | None) -> RawRun:
        """A run in which nothing is left to sample."""
        watch = Stopwatch()
        with Progress(1, progress_bar) as progress:
            if resume is None:
                progress.stage("checking the model")
                preflight(self.staged, role_key(self.key, Role.PILOT_JOINT))
            checking = watch.lap()
            progress.stage("summing")
            values = [self.exact[i].value if i in self.exact else 0.0 for i in range(len(self.decompositions))]
        seconds = {"tuning": checking, "scoring": watch.lap(), "compiling": watch.compiling}
        if resume is not None:
            seconds = {name: resume.seconds[name] + value for name, value in seconds.items()}
        terms = tuple(_constant(value, num_samples) for value in values)
        return RawRun(terms, (), (), (), (), {}, seconds, num_samples)

    def result(self, raw: RawRun, row: int, **changes: Any) -> MIBounds:
        """One row of a finished run; `changes` are fields of the result that are not those of the run."""
        decomposition = self.decompositions[row]
        lower_i, upper_i = raw.terms[row]
        places = [self.shared.integrals.index(piece._replace(sign=1)) for piece in decomposition.integrals]
        stats = tuple(raw.stats[i] for i in places)
        exact = self.exact.get(row)
        fields = {
            "latent": self.model.latent,
            "data": self.model.data,
            "given": self.model.given,
            "fixed": tuple(self.model.fixed),
            "method": describe(self.method),
            "plan": tuple(raw.plans[i] for i in places),
            "stats": stats,
            "guides": tuple(raw.guides[i] for i in places) if raw.guides else (),
            "parts": _importance_parts(lower_i, stats, decomposition) if isinstance(self.method, IWAE) else {},
            "cost": raw.cost,
            "seconds": raw.seconds,
            "key": key_record(self.key),
            "environment": environment(),
            "num_requested": raw.num_requested,
            "notes": self.model.notes,
            "decomposition": described(decomposition, self.model.parents),
        }
        if exact is not None:
            fields["num_configurations"], fields["rounding"] = exact.num_configurations, exact.rounding
            fields["notes"] = (_note(exact),)
        return MIBounds(lower_i, upper_i, **(fields | changes))


def _constant(value: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Terms of both bounds that are all the mutual information itself."""
    return np.full(count, value), np.full(count, value)


def _note(exact: ExactTerms) -> str:
    """How the value of a row was found."""
    values = f"{exact.num_configurations:,} joint values of {', '.join(exact.sites)}"
    return f"summed over all {values}: no sampling error; the interval is as wide as rounding may be."


def _importance_parts(
    lower_i: np.ndarray, stats: tuple[dict[str, np.ndarray], ...], decomposition: Decomposition
) -> dict[str, np.ndarray]:
    """The lower bound of an importance sampler as the guide's variational bound and a contrastive term."""
    if len(stats) != 1 or decomposition.integrals[0].sign != -1:
        return {}
    contrastive = stats[0]["reverse_log_weight"][:, 0].astype(np.float64) - stats[0]["reverse_log_evidence"]
    return {"variational": lower_i - contrastive, "contrastive": contrastive}
