"""Refuses models whose draws are too coarse, or clipped, to follow a density."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.model.integrals.densities import StagedIntegral, flatten

MOST_COLUMNS = 1000
LARGEST_SHARE = 0.01
_LARGEST_REPEATS = 0.05  # of draws that a grid of numbers explains, and chance does not
_BEFORE_EDGE = 2.0  # a factor of seven in the distance from 1
_LARGEST_CHANGE = 0.01  # nats
_LEAST_DISTINCT = 0.5  # of draws; below, a lattice is coarser than some thousandth of the spread
_LARGEST_BIAS = 0.02  # nats, of a site's log-density
_LARGEST_NOISE = 1.0  # nats
_OF_CURVATURE = 12.0  # a value that is rounded, and a location that is, each lose a 24th of the second difference


def atoms(rows: np.ndarray) -> np.ndarray:
    """Where a value is one that comes back although values next to it do not: a point mass, or one of a grid.

    Draws that are coarse come back too, and so do their neighbours.
    """
    found = np.zeros(rows.shape, bool)
    if not np.issubdtype(rows.dtype, np.floating):
        return found
    for i, column in enumerate(rows.T):
        values, places, counts = np.unique(column, return_inverse=True, return_counts=True)
        if len(values) == 1 or counts.max() == 1:
            continue
        adjacent = np.nextafter(values[:-1], np.inf, dtype=values.dtype) == values[1:]
        alone = ~np.append(adjacent, False) & ~np.append(False, adjacent)
        again = alone & (counts > 1)
        often = alone & (counts > LARGEST_SHARE * len(column))
        found[:, i] = (again if counts[again].sum() > _LARGEST_REPEATS * len(column) else often)[places]
    return found


def repeats(rows: np.ndarray) -> bool:
    """Whether values of any column keep coming back: at the edge of a support, say."""
    if not np.issubdtype(rows.dtype, np.floating):
        return False
    ordered = np.sort(rows, 0)
    return bool(((ordered[1:] == ordered[:-1]).mean(0) > LARGEST_SHARE).any())


def check_atoms(latents: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Refuse a latent of which one value keeps coming back."""
    for name, parts in latents.items():
        for column in np.concatenate(parts).T:
            share = np.unique(column, return_counts=True)[1].max() / len(column)
            if share > LARGEST_SHARE:
                _refuse_atoms(name, share)


def check_edges(integral: StagedIntegral, held: Mapping[str, Any], points: Mapping[str, Any]) -> None:
    """Refuse a site with values at the float next to 1, where other sites tell that from values a little before it."""
    for name in integral.by_logit:
        share, change = jax.device_get(_changes_at_edge(integral.integrand, held, points, name))
        if share > LARGEST_SHARE and not change <= _LARGEST_CHANGE:
            _refuse_atoms(name, share)


def check_lattices(latents: Mapping[str, Sequence[np.ndarray]]) -> None:
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


def check_coarse(name: str, rows: np.ndarray, curvature: np.ndarray, num_cells: int) -> None:
    """Refuse a site whose log-density is not smooth from one float to the next.

    Parameters
    ----------
    name
        The site.
    rows
        Its draws, one in a row.
    curvature
        Second differences of the log-density between neighbouring floats, for the first cells of each draw.
    num_cells
        How many cells there are.
    """
    share, cells = num_cells / curvature.shape[1], curvature.shape[1]
    if not _is_coarse(share * curvature):
        return
    size = rows.shape[1] // num_cells
    # Next to a point mass the density is that of something else.
    masses = atoms(rows[:, : cells * size]).reshape(len(rows), cells, size).any(2)
    if not _is_coarse(share * np.where(masses, 0.0, curvature)):
        return
    raise ValueError(
        f"the log-density of site {name!r} changes by {np.abs(curvature).sum(1).mean():.2g} nats from one number of "
        f"{rows.dtype} to the next: its draws are too coarse at this distance from zero, or the density is computed "
        "with too few digits, so that draws do not follow it. Use jax.enable_x64, or measure the site from nearer its "
        "location."
    )


def _is_coarse(curvature: np.ndarray) -> bool:
    total = curvature.astype(np.float64).sum(1)
    return bool(abs(total.mean()) / _OF_CURVATURE > _LARGEST_BIAS or np.sqrt((total**2).mean()) > _LARGEST_NOISE)


def _refuse_atoms(name: str, share: float) -> NoReturn:
    """Refuse a continuous latent whose draws repeat."""
    raise ValueError(
        f"{share:.1%} of the draws of latent {name!r} have one and the same value: NumPyro clips them at the edge of "
        "the support, or they are too coarse in float32 at this distance from zero, so that they do not follow the "
        "density. Use jax.enable_x64, or measure the latent from nearer its location."
    )


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
