"""Which latents the data can teach: a row for each, bounded together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from numpyro_mi.draws.keys import as_key
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.joint.elements import bases_of, elements_of
from numpyro_mi.model.joint.trace import joint_model, latents_of, traced_sites
from numpyro_mi.options import shown
from numpyro_mi.results.table import JOINT, InformationTable
from numpyro_mi.runs.elements import element_part
from numpyro_mi.runs.evidence import Rows, require_likelihood
from numpyro_mi.verbs.arguments import DEFAULT_NUM_SAMPLES, check_run


def information_table(
    model: Callable,
    data: str | Sequence[str],
    latents: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    elements: str | Sequence[str] = (),
    *,
    method: EvidenceMethod | None = None,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    rng_key: jax.Array | int | None = None,
    params: Mapping[str, Any] | None = None,
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress_bar: bool = True,
) -> InformationTable:
    """What the data can teach about each latent: bounds on I(latent; data), all others integrated out.

    Every row is an integral over the other latents given this one; the integral over all of them is shared,
    so that R rows cost about R + 1 runs, and less where pieces cancel. (Where latents depend on one another,
    as in a hierarchy, the density of a row alone may be one more integral.)

    Parameters
    ----------
    model
        A NumPyro model.
    data
        Name or names of the data sites.
    latents
        The rows: names of sites or of elements such as "theta[2]", or groups of them by the name of their row.
        None: a row for every random site outside `data`.
    elements
        Name or names of sites in plates: a row more for each of their elements, with the others integrated out.
        Each is a run of its own on the same draws, of one or two integrals; all of one site share their programs.
    method
        `AIS(...)`, `AnnealedSMC(...)`, `IWAE(...)`, `BarberAgakov(...)` or `StructuredInfoNCE(...)`; None means
        `AIS()`.
    num_samples, rng_key, params, model_args, model_kwargs, batch_size, progress_bar
        As in `mi_bounds`.

    Returns
    -------
    InformationTable
        In nats; `plot_bounds(table)` draws it. On Ctrl-C, the rows that are there.

    Raises
    ------
    TypeError, ValueError
        For rows that are none, or sites that have no elements; and as in `mi_bounds`.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> from numpyro_mi import information_table
    >>> def model(x=None):
    ...     slope = numpyro.sample("slope", dist.Normal(0, 1))
    ...     offset = numpyro.sample("offset", dist.Normal(0, 0.1))
    ...     numpyro.sample("x", dist.Normal(slope * 2 + offset, 1), obs=x)
    >>> information_table(model, "x", num_samples=100, progress_bar=False)  # doctest: +SKIP
    """
    method = AIS() if method is None else method
    num_samples, batch_size = check_run(method, num_samples, batch_size, with_likelihood=True)
    call, key = (model_args, model_kwargs, params), as_key(rng_key)
    known = latents_of(model, data, *call)
    groups = _groups(known if latents is None else latents)
    traced = traced_sites(model, *call)
    cells = elements_of("elements", (elements,) if isinstance(elements, str) else tuple(elements), traced)
    both = sorted(set(cells) & set((data,) if isinstance(data, str) else data))
    if both:
        raise ValueError(f"elements names {both[0]!r}, which is in data: rows are of latents.")
    groups |= {name: (name,) for indices in cells.values() for name in indices}
    together = {name: group for name, group in groups.items() if not bases_of(group, traced)}
    asked = tuple(dict.fromkeys([*known, *(site for group in together.values() for site in group)]))
    joint = joint_model(model, asked, data, *call)
    require_likelihood(joint, method)
    models = [replace(joint, latent=group) for group in (known, *together.values())]
    base = Rows(joint, tuple(map(decompose, models)), method, key)
    parts = [
        element_part(name, group, model, data, call, cells, base)
        for name, group in groups.items()
        if name not in together
    ]
    for rows in (base, *(part.rows for part in parts)):
        _ = rows.staged  # what cannot be bounded is refused before anything runs
    first = base.run(num_samples, batch_size, progress_bar)
    results = {
        name: base.result(first, i, latent=group, cost={}, seconds={})
        for i, (name, group) in enumerate({JOINT: known, **together}.items())
    }
    cost, seconds = Counter(first.cost), Counter(first.seconds)
    for part in parts:
        if any(result.partial for result in results.values()):
            break
        try:
            raw = part.rows.run(num_samples, batch_size, progress_bar)
        except KeyboardInterrupt:
            break
        cost.update(raw.cost)
        seconds.update(raw.seconds)
        results[part.name] = part.result(raw, first)
    everything = results.pop(JOINT)
    left = tuple(name for name in groups if name not in results)
    return InformationTable(results, everything, dict(cost), dict(seconds), left)


def _groups(latents: Any) -> dict[str, tuple[str, ...]]:
    """Sites of each row by its name."""
    if isinstance(latents, str):
        latents = (latents,)
    rows = latents.values() if isinstance(latents, Mapping) else [latents]
    if not all(isinstance(row, Iterable) for row in rows):
        raise TypeError(
            "latents must be a sequence of names of sites, or a mapping from names of rows to names of sites, got "
            f"{shown(latents)}."
        )
    if not isinstance(latents, Mapping):
        latents = {name: name for name in latents}
    groups = {str(name): (sites,) if isinstance(sites, str) else tuple(sites) for name, sites in latents.items()}
    empty = [name for name, sites in groups.items() if not sites]
    if not groups or empty:
        raise ValueError(f"latents needs at least one row, and each at least one site, got {shown(latents)}.")
    if JOINT in groups:
        raise ValueError(f"{JOINT!r} is the name of the joint row: give the row in latents another name.")
    return groups
