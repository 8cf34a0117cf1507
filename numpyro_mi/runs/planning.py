"""From pilot draws to integrals that are ready to be scored: fitted guides, starts, frozen settings."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from numpyro_mi.annealing.start import ModelIntegral, begin, within_reach
from numpyro_mi.annealing.tuning import NUM_PILOT_DRAWS, Pilot, choose_base, tune
from numpyro_mi.draws.consistency import LARGEST_DRIFT
from numpyro_mi.draws.keys import Role, role_key
from numpyro_mi.draws.simulation import joint_pairs
from numpyro_mi.evidence.annealed import AnnealedMethod, has_own_units
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.guides.base import FittedGuide, guide_stats
from numpyro_mi.model.integrals.densities import Integrand, JointDraw, StagedIntegral, StagedModel, flatten
from numpyro_mi.runs.settings import PlannedIntegral, SharedSettings, affordable, choose_starts

_SMALL = 0.5  # nats; a mean gap of single chains that needs no better settings
_UNEVEN = 3.0
_LOOPING_DRAWS = 16  # pilots where densities have loops, each of which may cost as much as a thousand others
_NO_WAY_BACK = (
    'coordinates="standardised" was not followed for the integral over {sites}: at pilot draws the densities in '
    "standardised coordinates differ from those of the model by more than rounding, so that chains run in the "
    "coordinates of the supports. Use jax.enable_x64."
)

Report = Callable[[str], None]
"""Told what is being done."""


def fit_guides(
    staged: StagedModel, method: EvidenceMethod, pilots: JointDraw, rng_key: jax.Array, report: Report
) -> list[FittedGuide | None]:
    """The fitted guide of each integral, on joint draws of their own; of its variants, the one that pilots choose."""
    if method.base is None:
        return [None] * len(staged.integrals)
    fitted: list[FittedGuide | None] = []
    for i in range(len(staged.integrals)):
        draw_key, fit_key = jax.random.split(jax.random.fold_in(role_key(rng_key, Role.FIT), i))
        pairs = joint_pairs(staged, draw_key, i)
        guide = method.base.fit(pairs, fit_key, report)
        variants = getattr(guide, "variants", lambda: ())()
        if len(variants) > 1:
            report("choosing the guide")
            integrals = tuple(ModelIntegral(staged.integrals[i].integrand, variant) for variant in variants)
            draws = jax.tree.map(lambda leaf: leaf[:NUM_PILOT_DRAWS], pilots)
            held = {name: draws.values[name] for name in staged.integrals[i].held}
            choice_key, annealed = jax.random.fold_in(fit_key, 0), method.kernel is not None
            guide = variants[choose_base(integrals, annealed, choice_key, held, draws.points[i])]
        fitted.append(guide)
    return fitted


def _starts(
    integral: StagedIntegral, method: EvidenceMethod, guide: FittedGuide | None, held: dict, points: dict
) -> list[ModelIntegral]:
    """Where the path of a data set may start, and in which coordinates; the first is the one for all data sets."""
    integrand = integral.integrand
    from_guide = [] if guide is None else [ModelIntegral(integrand, guide)]
    plain, standardised = ModelIntegral(integrand, None), ModelIntegral(integrand, None, True)
    if not isinstance(method, AnnealedMethod) or len(method.betas()) < 3:
        return from_guide or [plain]
    if from_guide and method.start == "base":
        return from_guide
    wanted = method.coordinates == "standardised" or (method.coordinates == "chosen" and _may_choose(method))
    free = wanted and integrand.restate is not None and not has_own_units(method.kernel)
    if not free:
        return [*from_guide, plain]
    if not standardisable(integrand, held, points):
        if method.coordinates == "standardised":
            warnings.warn(_NO_WAY_BACK.format(sites=", ".join(repr(name) for name in points)), stacklevel=2)
        return [*from_guide, plain]
    return [*from_guide, standardised] if method.coordinates == "standardised" else [*from_guide, plain, standardised]


def _may_choose(method: AnnealedMethod) -> bool:
    """Whether settings of each data set can come to be tried."""
    if method.settings == "shared" or has_own_units(method.kernel):
        return False
    asked = method.settings == "own" or method.start == "chosen"
    return asked or affordable(len(method.betas()) - 1, method.num_particles)


def _untried(integral: StagedIntegral, method: EvidenceMethod, guide: FittedGuide | None) -> dict[str, np.ndarray]:
    """A mark in the plan of an integral whose coordinates were left to the pilots, which had no chance to choose."""
    if not isinstance(method, AnnealedMethod) or guide is not None or integral.integrand.restate is None:
        return {}
    open_choice = method.coordinates == "chosen" and len(method.betas()) >= 3 and not has_own_units(method.kernel)
    return {"coordinates_untried": np.ones((), int)} if open_choice and not _may_choose(method) else {}


def _worth_a_choice(method: AnnealedMethod, gaps: np.ndarray, num_starts: int) -> bool:
    """Whether settings of each data set, from each start, are to be tried beside those that all share."""
    if not _may_choose(method):
        return False
    if method.settings == "own" or method.start == "chosen" or not np.isfinite(gaps).all():
        return True
    # The log-weight of a chain has about twice its mean gap as variance; more means that data sets differ.
    uneven = gaps.var() > _UNEVEN * 2 * gaps.mean()
    return bool(gaps.mean() > _SMALL and (num_starts > 1 or uneven))


def _within_reach(
    starts: Sequence[ModelIntegral], exact: jax.Array, keys: jax.Array, held: dict, points: dict
) -> list[ModelIntegral]:
    """Starts whose chains stay near the pilot draws; `exact` are these in the coordinates of the first start."""
    u = jax.vmap(flatten)(points)
    drawn = [exact, *(begin(start, keys, held, u)[1] for start in starts[1:])]
    return [within_reach(start, own) for start, own in zip(starts, drawn, strict=True)]


def _add(cost: dict[str, int], spent: dict[str, int]) -> None:
    for direction, count in spent.items():
        cost[f"pilot_{direction}"] += count


def plan_integrals(
    staged: StagedModel,
    guides: Sequence[FittedGuide | None],
    method: EvidenceMethod,
    pilots: JointDraw,
    rng_key: jax.Array,
    report: Report,
) -> tuple[tuple[PlannedIntegral, ...], tuple[dict[str, np.ndarray], ...], dict[str, int]]:
    """Each integral with its frozen settings, or what finds them for a data set, from the first pilot draws.

    Returns
    -------
    integrals
        One for each staged integral.
    plans
        For each, the settings that all data sets share, by name.
    cost
        Gradient evaluations of the pilots.
    """
    integrals: list[PlannedIntegral] = []
    plans: list[dict[str, np.ndarray]] = []
    cost = {"pilot_forward": 0, "pilot_reverse": 0}
    draws = jax.tree.map(lambda leaf: leaf[:NUM_PILOT_DRAWS], pilots)
    betas = method.betas()
    for i, (integral, guide) in enumerate(zip(staged.integrals, guides, strict=True)):
        condition_keys, chain_keys, choice_keys = (
            jax.random.split(jax.random.fold_in(role_key(rng_key, role), i), NUM_PILOT_DRAWS)
            for role in (Role.PILOT_CONDITION, Role.PILOT_CHAINS, Role.PILOT_CHOICE)
        )
        held = {name: draws.values[name] for name in integral.held}
        points = draws.points[i]
        starts = _starts(integral, method, guide, held, points)
        conditional, exact = begin(starts[0], condition_keys, held, jax.vmap(flatten)(points))
        searched = guide_stats(conditional).get("guide_num_grad")
        if searched is not None:
            cost["pilot_guide"] = cost.get("pilot_guide", 0) + int(searched.sum())
        pilot = Pilot(chain_keys, held, conditional, exact)
        if isinstance(method, AnnealedMethod) and integral.integrand.loops:
            starts = _within_reach(starts, exact, condition_keys, held, points)
            few = (pilot, choice_keys, held, points)
            pilot, choice_keys, held, points = jax.tree.map(lambda leaf: leaf[:_LOOPING_DRAWS], few)
        plan, gaps, spent = tune(starts[0], method.kernel, betas, pilot, report)
        _add(cost, spent)
        planned: PlannedIntegral | None = None
        if isinstance(method, AnnealedMethod) and gaps is not None and _worth_a_choice(method, gaps, len(starts)):
            report("settings of each data set")
            others = None if method.settings == "own" or method.start == "chosen" else gaps
            planned, spent = choose_starts(starts, method.kernel, betas, choice_keys, held, points, others)
            _add(cost, spent)
        integrals.append(SharedSettings(starts[0], plan.path()) if planned is None else planned)
        settings = {"betas": betas} if planned is not None else plan._asdict()
        plans.append(settings | _untried(integral, method, guide))
    return tuple(integrals), tuple(plans), cost


def standardisable(integrand: Integrand, held: Mapping[str, Any], points: Mapping[str, Any]) -> bool:
    """Whether standardised coordinates lead back to the same densities at pilot draws."""
    found, wanted = jax.device_get(_both_coordinates(integrand, held, points))
    return all(
        bool(np.all(np.abs(found[name] - wanted[name]) <= LARGEST_DRIFT * (1 + np.abs(wanted[name]))))
        for name in wanted
    )


@jax.jit
def _both_coordinates(integrand, held, points):
    """Each factor at the same points in standardised coordinates, and in those of the supports."""

    def one(held, point):
        u = flatten(point)
        return tuple(
            integrand.site_log_probs(integrand.point(u, held, flag), integrand.held(held, flag))
            for flag in (True, False)
        )

    return jax.vmap(one)(held, points)
