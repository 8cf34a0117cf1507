"""What only draws can show: a model, or a posterior sampler, that would void the bounds.

Runs on pilot draws, before anything is tuned or scored.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.model.densities import Integrand, JointDraw, StagedIntegral, StagedModel, flatten
from numpyro_mi.model.edges import why_not_finite
from numpyro_mi.model.samples import StagedSamples
from numpyro_mi.simulation import blocks

_NUM_DRAWS = 4096
_BLOCK = 512
_LARGEST_T = 6.0
LARGEST_DRIFT = 1e-2  # relative; recomputing a draw through a transform and back rounds
_LARGEST_MISREADING = 1e-3  # relative, of one element
_LARGEST_SHARE = 0.01
_BEFORE_EDGE = 2.0  # a factor of seven in the distance from 1
_LARGEST_CHANGE = 0.01  # nats
_LEAST_DISTINCT = 0.5  # of draws; below, a lattice is coarser than some thousandth of the spread
_MOST_COLUMNS = 1000
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
    joint_key, base_key, sampler_key = jax.random.split(rng_key, 3)
    counts: dict[tuple[str, str], int] = {}
    drift: dict[str, float] = {}
    misread: dict[str, float] = {}
    latents: dict[str, list[np.ndarray]] = {}
    differences: list[dict[tuple[int, str], np.ndarray]] = []
    first: JointDraw | None = None
    for start, draws in blocks(staged.draw, joint_key, _NUM_DRAWS, _BLOCK):
        first = draws if first is None else first
        for name, value in draws.log_probs.items():
            _count(counts, ("log-density", name), value)
            moved = np.asarray(draws.drift[name])
            drift[name] = max(drift.get(name, 0.0), float(np.where(np.isfinite(moved), moved, 0.0).max()))
        for name, error in draws.misread.items():
            misread[name] = max(misread.get(name, 0.0), float(np.nan_to_num(error, nan=np.inf).max()))
        # A site that several integrals integrate out has one value.
        for name, value in {name: value for point in draws.points for name, value in point.items()}.items():
            _count(counts, ("unconstrained value", name), value)
            latents.setdefault(name, []).append(np.asarray(value).reshape(_BLOCK, -1)[:, :_MOST_COLUMNS])
        differences.append(_posterior_differences(staged, draws, jax.random.fold_in(sampler_key, start)))
    assert first is not None
    for name, largest in drift.items():
        if largest > LARGEST_DRIFT:
            refuse_drift(name, largest)
    for name, largest in misread.items():
        if largest > _LARGEST_MISREADING:
            _refuse_misreading(name)
    _check_finite(counts, _NUM_DRAWS, first.values)
    _check_atoms(latents)
    _check_lattices(latents)
    for integral, points in zip(staged.integrals, first.points, strict=True):
        held = {name: first.values[name] for name in integral.held}
        _check_edges(integral, held, points)
        found = _factors_at_base(integral.integrand, base_key, held)
        _check_legitimate(jax.device_get(found))
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
    for _, draws in blocks(samples.draw, rng_key, _NUM_DRAWS, _BLOCK):
        for name, value in (("latent", draws.u), ("data", draws.x)):
            _count(counts, ("value", name), value)
        if samples.log_prior is not None:
            _count(counts, ("prior density", "latent"), _prior_densities(samples.log_prior, draws.u))
            largest = float(np.nanmax(draws.drift))
            if largest > LARGEST_DRIFT:
                refuse_drift("latent", largest)
            latents["latent"].append(draws.u[:, :_MOST_COLUMNS])
    _check_finite(counts, _NUM_DRAWS)
    if samples.log_prior is not None:
        _check_atoms(latents)


@jax.jit
def _prior_densities(log_prior, u):
    return jax.vmap(log_prior)(u)


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


def refuse_drift(name: str, largest: float) -> NoReturn:
    """Refuse a model that is not the same model every time it is called."""
    raise ValueError(
        f"the log-density of site {name!r} is not the same where the model draws it and where it is held at that "
        f"draw (relative difference {largest:.2g}): the model draws with numpy.random or changes state of its own, or "
        "NumPyro does not put held values in their places (scan(..., reverse=True): scan over the flipped sequence)."
    )


def _refuse_misreading(name: str) -> NoReturn:
    """Refuse a sum over discrete sites that a conditional does not come apart into."""
    raise ValueError(
        f"the distribution of site {name!r} depends on other elements of a discrete site than its own (of another "
        "element of the plate, or of an earlier time than the one before), so that the sum over the discrete site does "
        "not come apart. Name the discrete site in given, or write the model so that elements of a plate are "
        "independent and a chain has one step of memory."
    )


def _refuse_atoms(name: str, share: float) -> NoReturn:
    """Refuse a continuous latent whose draws repeat."""
    raise ValueError(
        f"{share:.1%} of the draws of latent {name!r} have one and the same value: NumPyro clips them at the edge of "
        "the support, or they are too coarse in float32 at this distance from zero, so that they do not follow the "
        "density. Use jax.enable_x64, or measure the latent from nearer its location."
    )


def _check_atoms(latents: dict[str, list[np.ndarray]]) -> None:
    """Refuse a latent of which one value keeps coming back."""
    for name, parts in latents.items():
        for column in np.concatenate(parts).T:
            share = np.unique(column, return_counts=True)[1].max() / _NUM_DRAWS
            if share > _LARGEST_SHARE:
                _refuse_atoms(name, share)


def _check_edges(integral: StagedIntegral, held: Mapping[str, Any], points: Mapping[str, Any]) -> None:
    """Refuse a site with values at the float next to 1, where other sites tell that from values a little before it."""
    for name in integral.by_logit:
        share, change = jax.device_get(_changes_at_edge(integral.integrand, held, points, name))
        if share > _LARGEST_SHARE and not change <= _LARGEST_CHANGE:
            _refuse_atoms(name, share)


@partial(jax.jit, static_argnames=("name",))
def _changes_at_edge(integrand, held, points, name):
    """How many draws of a site are at the edge, and how much other densities there change a little before it."""

    def one(held, point):
        logit = point[name]
        edge = -jnp.log(jnp.finfo(logit.dtype).eps)
        held, at_edge = integrand.held(held), logit > edge
        moved = {**point, name: jnp.where(at_edge, edge - _BEFORE_EDGE, logit)}
        found, wanted = (integrand.site_log_probs(flatten(value), held) for value in (moved, point))
        changes = [jnp.abs(found[other] - wanted[other]) for other in found if other != name]
        return at_edge.any(), sum(changes, jnp.zeros(()))

    at_edge, change = jax.vmap(one)(held, points)
    return at_edge.mean(), jnp.where(at_edge, change, 0.0).sum() / at_edge.sum()


def _check_lattices(latents: dict[str, list[np.ndarray]]) -> None:
    """Refuse a latent whose draws are rounded so much that they keep meeting."""
    for name, parts in latents.items():
        for column in np.concatenate(parts).T:
            distinct = len(np.unique(column))
            if distinct < _LEAST_DISTINCT * len(column):
                raise ValueError(
                    f"draws of latent {name!r} take only {distinct:,} distinct values in {len(column):,}: they "
                    f"are too coarse in {column.dtype} at this distance from zero, so that they do not follow the "
                    "density. Use jax.enable_x64, or measure the latent from nearer its location."
                )


def _count(counts: dict, key: tuple[str, str], values: Any) -> None:
    values = np.asarray(values)
    bad = int((~np.isfinite(values.reshape(len(values), -1))).any(1).sum())
    if bad:
        counts[key] = counts.get(key, 0) + bad


@jax.jit
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
