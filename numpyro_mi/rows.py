"""Several signed sums of log-marginals of one model from one run: what the verbs with a likelihood share."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from numpyro_mi.config import describe
from numpyro_mi.decomposition import Decomposition, described, union
from numpyro_mi.driver import RawRun, run
from numpyro_mi.environment import environment, warn_of_waiting
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.evidence.importance import IWAE
from numpyro_mi.evidence.independent_reverse import IR
from numpyro_mi.keys import key_record
from numpyro_mi.model import integral_checks
from numpyro_mi.model.densities import StagedModel, stage_model
from numpyro_mi.model.trace import JointModel
from numpyro_mi.results import MIBounds


def require_likelihood(model: JointModel, method: EvidenceMethod) -> None:
    """Refuse a model with sites that have no density, before it is decomposed."""
    if model.without_density:
        integral_checks.needs_likelihood(model.without_density, type(method).__name__)


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
    """

    model: JointModel
    decompositions: tuple[Decomposition, ...]
    method: EvidenceMethod
    key: jax.Array

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
        programs = [self.staged.draw, *(own.integrand.log_ratio for own in self.staged.integrals)]
        warn_of_waiting(lambda: any(program.uses("cholesky") for program in programs))
        return run(
            self.staged, self.decompositions, self.method, self.key, num_samples, batch_size, progress_bar, resume
        )

    def result(self, raw: RawRun, row: int, **changes: Any) -> MIBounds:
        """One row of a finished run; `changes` are fields of the result that are not those of the run."""
        decomposition = self.decompositions[row]
        lower_i, upper_i = raw.terms[row]
        places = [self.shared.integrals.index(piece._replace(sign=1)) for piece in decomposition.integrals]
        stats = tuple(raw.stats[i] for i in places)
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
        return MIBounds(lower_i, upper_i, **(fields | changes))


def _importance_parts(
    lower_i: np.ndarray, stats: tuple[dict[str, np.ndarray], ...], decomposition: Decomposition
) -> dict[str, np.ndarray]:
    """The lower bound of an importance sampler as the guide's variational bound and a contrastive term."""
    if len(stats) != 1 or decomposition.integrals[0].sign != -1:
        return {}
    contrastive = stats[0]["reverse_log_weight"][:, 0].astype(np.float64) - stats[0]["reverse_log_evidence"]
    return {"variational": lower_i - contrastive, "contrastive": contrastive}
