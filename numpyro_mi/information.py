"""Which latents the data can teach: a row for each, bounded together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from numpyro_mi.api import DEFAULT_NUM_SAMPLES, check_run
from numpyro_mi.decomposition import decompose
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.keys import as_key
from numpyro_mi.model.elements import bases_of, elements_of
from numpyro_mi.model.trace import joint_model, latents_of, traced_sites
from numpyro_mi.rows import Rows, require_likelihood
from numpyro_mi.tables import JOINT, InformationTable


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
        Name or names of sites in plates: a row more for each of their elements. Elements share no programs, so
        that compiling takes seconds for each; discrete ones are summed all together, which bounds their number.
    method
        `AIS(...)`, `AnnealedSMC(...)`, `IWAE(...)`, `BarberAgakov(...)` or `StructuredInfoNCE(...)`; None means
        `AIS()`.
    num_samples, rng_key, params, model_args, model_kwargs, batch_size, progress_bar
        As in `mi_bounds`.

    Returns
    -------
    InformationTable
        In nats; `plot_bounds(table)` draws it.

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
    call = (model_args, model_kwargs, params)
    known = latents_of(model, data, *call)
    groups = _groups(known if latents is None else latents)
    wanted = (elements,) if isinstance(elements, str) else tuple(elements)
    traced = traced_sites(model, *call)
    split = elements_of("elements", wanted, traced)
    named = bases_of([name for group in groups.values() for name in group], traced)
    parts = {**split, **elements_of("latents", named, traced)}
    groups |= {part: (part,) for whole in split.values() for part in whole}

    def spread(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for name in names for part in parts.get(name, (name,))))

    asked = spread([*known, *(site for group in groups.values() for site in group)])
    joint = joint_model(model, asked, data, *call)
    require_likelihood(joint, method)
    models = [replace(joint, latent=spread(group)) for group in (known, *groups.values())]
    rows = Rows(joint, tuple(map(decompose, models)), method, as_key(rng_key))
    raw = rows.run(num_samples, batch_size, progress_bar)
    free: dict[str, Any] = {"cost": {}, "seconds": {}}  # of a row alone they are not known
    results = {name: rows.result(raw, i + 1, latent=group, **free) for i, (name, group) in enumerate(groups.items())}
    return InformationTable(results, rows.result(raw, 0, latent=known, **free), raw.cost, raw.seconds)


def _groups(latents: Any) -> dict[str, tuple[str, ...]]:
    """Sites of each row by its name."""
    if isinstance(latents, str):
        latents = (latents,)
    if not isinstance(latents, Mapping):
        latents = {name: name for name in latents}
    groups = {str(name): (sites,) if isinstance(sites, str) else tuple(sites) for name, sites in latents.items()}
    empty = [name for name, sites in groups.items() if not sites]
    if not groups or empty:
        raise ValueError(f"latents needs at least one row, and each at least one site, got {latents!r}.")
    if JOINT in groups:
        raise ValueError(f"{JOINT!r} is the name of the joint row: give the row in latents another name.")
    return groups
