"""Which latents the data can teach: a row for each, bounded together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from numpyro_mi.api import DEFAULT_NUM_SAMPLES, check_run
from numpyro_mi.decomposition import decompose
from numpyro_mi.driver import RawRun
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.keys import as_key
from numpyro_mi.model.elements import bases_of, elements_of, split_one
from numpyro_mi.model.trace import JointModel, joint_model, latents_of, traced_sites
from numpyro_mi.results import MIBounds
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
        Name or names of sites in plates: a row more for each of their elements, with the others integrated out.
        Each is a run of its own on the same draws, of up to three integrals; all of one site share their programs.
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
    both = sorted(set(cells) & {data} if isinstance(data, str) else set(cells) & set(data))
    if both:
        raise ValueError(f"elements names {both[0]!r}, which is in data: rows are of latents.")
    groups |= {name: (name,) for indices in cells.values() for name in indices}
    together = {name: group for name, group in groups.items() if not bases_of(group, traced)}
    asked = tuple(dict.fromkeys([*known, *(site for group in together.values() for site in group)]))
    joint = joint_model(model, asked, data, *call)
    require_likelihood(joint, method)
    parts = [_part(joint, {JOINT: known, **together}, method, key)]
    for name in groups:
        if name not in together:
            parts.append(_element_part(name, groups[name], model, data, call, cells, method, key))
    for part in parts:
        _ = part.rows.staged  # what cannot be bounded is refused before anything runs
    results: dict[str, MIBounds] = {}
    cost: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for part in parts:
        try:
            raw = part.rows.run(num_samples, batch_size, progress_bar)
        except KeyboardInterrupt:
            if not results:
                raise
            break
        cost.update(raw.cost)
        seconds.update(raw.seconds)
        results |= part.results(raw)
        if len(raw.terms[0][0]) < raw.num_requested:
            break
    everything = results.pop(JOINT)
    left = tuple(name for name in groups if name not in results)
    return InformationTable(results, everything, dict(cost), dict(seconds), left)


class _Part(NamedTuple):
    """Rows that one run bounds: the latents of each by its name, and what sites are called in the end."""

    rows: Rows
    latents: Mapping[str, tuple[str, ...]]
    called: Mapping[str, str]

    def results(self, raw: RawRun) -> dict[str, MIBounds]:
        """A result a row; what one alone costs is not known."""
        return {name: self._result(raw, i, group) for i, (name, group) in enumerate(self.latents.items())}

    def _result(self, raw: RawRun, i: int, group: tuple[str, ...]) -> MIBounds:
        result = self.rows.result(raw, i, latent=group, cost={}, seconds={})

        def called(names: Iterable[str]) -> list[str]:
            return [self.called.get(name, name) for name in names]

        pieces = tuple(
            {
                **piece,
                "integrated": called(piece["integrated"]),
                "factors": {called([name])[0]: called(parents) for name, parents in piece["factors"].items()},
            }
            for piece in result.decomposition
        )
        return replace(result, decomposition=pieces)


def _part(joint: JointModel, groups: Mapping[str, tuple[str, ...]], method: EvidenceMethod, key: jax.Array) -> _Part:
    """Rows of one model, whose pieces are shared."""
    models = [replace(joint, latent=group) for group in groups.values()]
    return _Part(Rows(joint, tuple(map(decompose, models)), method, key), groups, {})


def _element_part(
    name: str,
    group: tuple[str, ...],
    model: Callable,
    data: str | Sequence[str],
    call: tuple,
    cells: Mapping[str, Mapping[str, Any]],
    method: EvidenceMethod,
    key: jax.Array,
) -> _Part:
    """A row that names elements, on a model of its own with the same draws."""
    base = next((base for base, indices in cells.items() if group[0] in indices), None)
    if base is None or len(group) > 1:
        joint = joint_model(model, group, data, *call)
        return _part(joint, {name: group}, method, key)
    split, site = split_one(model, base, cells[base][group[0]])
    part = _part(joint_model(split, site, data, *call), {name: (site,)}, method, key)
    return part._replace(latents={name: group}, called={site: group[0]})


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
