"""From pilot draws to integrals that are ready to be scored: fitted guides, starts, frozen settings."""

from collections.abc import Sequence

import jax
import numpy as np

from numpyro_mi.evidence.annealed import AnnealedMethod, has_own_units
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.guides.base import FittedGuide, guide_stats
from numpyro_mi.integrals import ModelIntegral, begin
from numpyro_mi.keys import Role, role_key
from numpyro_mi.model.densities import JointDraw, StagedIntegral, StagedModel, flatten
from numpyro_mi.preflight import standardisable
from numpyro_mi.progress import Progress
from numpyro_mi.simulation import joint_pairs
from numpyro_mi.starts import PlannedIntegral, SharedSettings, choose_starts
from numpyro_mi.tuning import NUM_PILOT_DRAWS, Pilot, choose_base, tune


def fit_guides(
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


def _starts(
    integral: StagedIntegral, method: EvidenceMethod, guide: FittedGuide | None, held: dict, points: dict
) -> tuple[list[ModelIntegral], bool]:
    """Where the path of a data set may start, and in which coordinates; and whether it has settings of its own."""
    integrand = integral.integrand
    from_guide = [] if guide is None else [ModelIntegral(integrand, guide)]
    plain, standardised = ModelIntegral(integrand, None), ModelIntegral(integrand, None, True)
    if not isinstance(method, AnnealedMethod) or len(method.betas()) < 3:
        return from_guide or [plain], False
    fixed = has_own_units(method.kernel)
    if from_guide and method.start == "base":
        return from_guide, method.settings == "own" and not fixed
    both = integrand.restate is not None and not fixed and standardisable(integrand, held, points)
    coordinates = method.coordinates if both else "model"
    from_prior = {"model": [plain], "standardised": [standardised], "chosen": [plain, standardised]}[coordinates]
    several = len(from_guide) + len(from_prior) > 1
    return [*from_guide, *from_prior], not fixed and (several or method.settings == "own")


def plan_integrals(
    staged: StagedModel,
    guides: Sequence[FittedGuide | None],
    method: EvidenceMethod,
    pilots: JointDraw,
    rng_key: jax.Array,
    progress: Progress,
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
    for i, (integral, guide) in enumerate(zip(staged.integrals, guides, strict=True)):
        condition_keys, chain_keys = (
            jax.random.split(jax.random.fold_in(role_key(rng_key, role), i), NUM_PILOT_DRAWS)
            for role in (Role.PILOT_CONDITION, Role.PILOT_CHAINS)
        )
        held = {name: draws.values[name] for name in integral.held}
        starts, own = _starts(integral, method, guide, held, draws.points[i])
        betas = method.betas()
        planned: PlannedIntegral
        if own:
            progress.stage("choosing the coordinates" if guide is None else "choosing the start")
            planned, spent = choose_starts(starts, method.kernel, betas, chain_keys, held, draws.points[i])
            plan = {"betas": betas}
        else:
            (start,) = starts
            conditional, exact = begin(start, condition_keys, held, jax.vmap(flatten)(draws.points[i]))
            searched = guide_stats(conditional).get("guide_num_grad")
            if searched is not None:
                cost["pilot_guide"] = cost.get("pilot_guide", 0) + int(searched.sum())
            pilot = Pilot(chain_keys, held, conditional, exact)
            found, spent = tune(start, method.kernel, betas, pilot, progress.stage)
            planned, plan = SharedSettings(start, found.path()), found._asdict()
        integrals.append(planned)
        plans.append(plan)
        cost["pilot_forward"] += spent["forward"]
        cost["pilot_reverse"] += spent["reverse"]
    return tuple(integrals), tuple(plans), cost
