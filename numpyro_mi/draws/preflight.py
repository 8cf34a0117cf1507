"""What only draws can show: a model, or a posterior sampler, that would void the bounds.

Runs on pilot draws, before anything is tuned or scored.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.draws.consistency import COMPILE_QUICKLY, Differences, LawTest
from numpyro_mi.draws.simulation import blocks
from numpyro_mi.draws.values import MOST_COLUMNS, check_atoms, check_edges, check_lattices
from numpyro_mi.model.integrals.densities import JointDraw, StagedModel, flatten
from numpyro_mi.model.sites import parameters
from numpyro_mi.model.sites.edges import why_not_finite
from numpyro_mi.model.views.samples import StagedSamples

_NUM_DRAWS = 4096
_BLOCK = 512
_LARGEST_T = 6.0
_NONE: Mapping[str, Any] = MappingProxyType({})


def preflight(staged: StagedModel, rng_key: jax.Array) -> JointDraw:
    """Check densities at the model's own draws and at prior draws, and the posterior sampler.

    Returns
    -------
    JointDraw
        Pilot draws, for further use; none of them is ever scored.

    Raises
    ------
    ValueError
        Naming the site, or the sampler.
    """
    # The base draws must not be the simulated latents again: a key of its own for each role.
    joint_key, base_key, sampler_key, law_key = jax.random.split(rng_key, 4)
    counts: dict[tuple[str, str], int] = {}
    drift, laws = Differences(), LawTest(staged.laws())
    latents: dict[str, list[np.ndarray]] = {}
    differences: list[dict[tuple[int, str], np.ndarray]] = []
    invalid = []
    first: JointDraw | None = None
    for start, draws in blocks(staged.draw, joint_key, _NUM_DRAWS, _BLOCK):
        first = draws if first is None else first
        invalid.append(draws.invalid)
        for name, value in draws.log_probs.items():
            _count(counts, ("draw", name), draws.values[name])
            _count(counts, ("log-density", name), value)
            drift.add(name, draws.drift[name], value)
        # A site that several integrals integrate out has one value.
        for name, value in {name: value for point in draws.points for name, value in point.items()}.items():
            _count(counts, ("unconstrained value", name), value)
            latents.setdefault(name, []).append(np.asarray(value).reshape(_BLOCK, -1)[:, :MOST_COLUMNS])
        laws.add(draws, jax.random.fold_in(law_key, start))
        differences.append(_posterior_differences(staged, draws, jax.random.fold_in(sampler_key, start)))
    assert first is not None
    overflowing = [name for (what, name), bad in counts.items() if what == "draw" and bad > _NUM_DRAWS / 1000]
    parameters.check(invalid, staged.parents, overflowing)
    drift.check()
    laws.check_sums()
    _check_finite(counts, _NUM_DRAWS, first.values)
    check_atoms(latents)
    check_lattices(latents)
    laws.check_coarse()
    for integral, points in zip(staged.integrals, first.points, strict=True):
        held = {name: first.values[name] for name in integral.held}
        check_edges(integral, held, points)
        found = _factors_at_base(integral.integrand, base_key, held)
        _check_legitimate(jax.device_get(found))
    laws.check()
    _check_posterior_sampler(differences)
    return first


def preflight_samples(samples: StagedSamples, rng_key: jax.Array) -> None:
    """Check what only draws can show of a model whose likelihood is not used.

    Raises
    ------
    ValueError
        Naming the group.
    """
    counts: dict[tuple[str, str], int] = {}
    latents: dict[str, list[np.ndarray]] = {"latent": []}
    drift, invalid = Differences(), []
    for _, draws in blocks(samples.draw, rng_key, _NUM_DRAWS, _BLOCK):
        invalid.append(draws.invalid)
        for name, value in (("latent", draws.u), ("data", draws.x)):
            _count(counts, ("value", name), value)
        if samples.log_prior is not None:
            densities = _prior_densities(samples.log_prior, draws.u)
            _count(counts, ("prior density", "latent"), densities)
            drift.add("latent", draws.drift, densities)
            latents["latent"].append(draws.u[:, :MOST_COLUMNS])
    parameters.check(invalid, samples.parents)
    drift.check()
    _check_finite(counts, _NUM_DRAWS)
    if samples.log_prior is not None:
        check_atoms(latents)


@jax.jit
def _prior_densities(log_prior, u):
    return jax.vmap(log_prior)(u)


def _check_finite(counts: Mapping[tuple[str, str], int], num_draws: int, values: Mapping[str, Any] = _NONE) -> None:
    """Refuse a model whose own draws have no finite density or no finite unconstrained value.

    Exact draws at the edge of a support may be infinite in float32. Up to one in a thousand they
    are scored as what they are, an infinite term; above that nothing finite can come out. `values` are draws of the
    sites, which may tell why.
    """
    for (what, name), bad in counts.items():
        if bad > num_draws / 1000:
            raise ValueError(
                f"the {what} of site {name!r} is not finite at {bad} of {num_draws} of the model's own draws (above "
                f"1 in 1,000): {why_not_finite(name, {site: np.asarray(value) for site, value in values.items()})}"
            )


def _check_legitimate(log_probs: Mapping[str, Any]) -> None:
    """Refuse NaN or +inf at prior draws; a likelihood of zero is legitimate."""
    for name, values in log_probs.items():
        bad = int((np.isnan(values) | np.isposinf(values)).sum())
        if bad:
            raise ValueError(
                f"the log-density of site {name!r} is NaN or +inf at {bad} of {len(values)} prior draws: check the "
                "parameters of its distribution over the whole range of the prior."
            )


def _count(counts: dict, key: tuple[str, str], values: Any) -> None:
    values = np.asarray(values)
    bad = int((~np.isfinite(values.reshape(len(values), -1))).any(1).sum())
    if bad:
        counts[key] = counts.get(key, 0) + bad


@partial(jax.jit, compiler_options=COMPILE_QUICKLY)
def _factors_at_base(integrand, rng_key, held):
    """Each factor of an integral at one base draw for each of a group of held values."""

    def one(index, held):
        held = integrand.held(held)
        return integrand.site_log_probs(integrand.sample_base(jax.random.fold_in(rng_key, index), held), held)

    return jax.vmap(one)(jnp.arange(_BLOCK), held)


def _posterior_differences(
    staged: StagedModel, draws: JointDraw, rng_key: jax.Array
) -> dict[tuple[int, str], np.ndarray]:
    """Statistics of a sampled minus those of the simulated latent, for each integral with a sampler."""
    found = {}
    for i, (integral, points) in enumerate(zip(staged.integrals, draws.points, strict=True)):
        if integral.integrand.sample_target is not None:
            held = {name: draws.values[name] for name in integral.held}
            result = _differences(integral.integrand, rng_key, held, points)
            found.update(
                {(i, what): np.asarray(value, np.float64).reshape(_BLOCK, -1) for what, value in result.items()}
            )
    return found


def _check_posterior_sampler(differences: list[dict[tuple[int, str], np.ndarray]]) -> None:
    """Refuse a sampler whose draws are not exchangeable with the simulated latents.

    Given the data, a posterior draw and the simulated latent have the same law, so every paired
    difference has mean zero. An inexact sampler moves both bounds together, which the gap between
    them cannot show.
    """
    for i, what in differences[0]:
        columns = np.concatenate([block[i, what] for block in differences])
        if not np.isfinite(columns).all():
            raise ValueError(f"posterior_sampler gives draws whose {what} is not finite.")
        error = columns.std(0, ddof=1) / np.sqrt(len(columns))
        t = np.abs(columns.mean(0)) / np.where(error > 0, error, np.inf)
        if t.max() > _LARGEST_T:
            raise ValueError(
                f"posterior_sampler is not an exact sampler of the posterior: over {len(columns)} data sets the mean "
                f"{what} of its draws is {t.max():.0f} standard errors from that of the simulated latents, which are "
                "exact. Both bounds would be wrong; use IM() or CR(), which need no sampler."
            )


@jax.jit
def _differences(integrand, rng_key, held, points):

    def one(index, held, point):
        target = integrand.target(held)
        assert target.sample_target is not None
        simulated, sampled = flatten(point), target.sample_target(jax.random.fold_in(rng_key, index))

        def statistics(u):
            return {
                "log-likelihood": target.log_ratio(u),
                "prior log-density": target.log_base(u),
                "unconstrained value": u,
            }

        return jax.tree.map(jnp.subtract, statistics(sampled), statistics(simulated))

    return jax.vmap(one)(jnp.arange(_BLOCK), held, points)
