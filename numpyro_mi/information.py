"""Which latents the data can teach: a row for each, bounded together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from numpyro_mi.api import DEFAULT_NUM_SAMPLES, check_run
from numpyro_mi.decomposition import decompose
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.keys import as_key
from numpyro_mi.model.trace import joint_model, latents_of
from numpyro_mi.report import number
from numpyro_mi.results import MIBounds
from numpyro_mi.rows import Rows, require_likelihood

if TYPE_CHECKING:
    import pandas as pd

_ALL = "all latents"


@dataclass(frozen=True, eq=False, repr=False)
class InformationTable:
    """Bounds on I(latent; data) for each of several latents, and for all of them together, in nats.

    All rows are from the same joint draws. Shares do not add to one: what two latents say together may be
    more than the sum of what they say alone, or less.

    Attributes
    ----------
    rows
        A result a row by name, the most informative (by the middle of its bounds) first.
    joint
        The result for all latents together.
    cost, seconds
        Of the whole table.
    """

    rows: dict[str, MIBounds]
    joint: MIBounds
    cost: dict[str, int]
    seconds: dict[str, float]

    def to_frame(self, prob: float = 0.95) -> pd.DataFrame:
        """Table with one row a latent, and the joint row last.

        Columns `lower`, `lower_se`, `upper`, `upper_se` in nats; `low`, `high`: intervals that hold for all rows
        together with probability `prob` (Bonferroni); `share_low`, `share_high`: what part of the joint
        information it is, from `lower / joint upper` to `upper / joint lower`, without their sampling errors.
        """
        import pandas as pd

        level = 1 - (1 - prob) / (len(self.rows) + 1)
        table = {}
        for name, result in {**self.rows, _ALL: self.joint}.items():
            low, high = result.interval(level)
            table[name] = {
                "lower": result.lower,
                "lower_se": result.lower_se,
                "upper": result.upper,
                "upper_se": result.upper_se,
                "low": low,
                "high": high,
                "share_low": np.nan if name == _ALL else _share(result.lower, self.joint.upper),
                "share_high": np.nan if name == _ALL else _share(result.upper, self.joint.lower),
            }
        return pd.DataFrame.from_dict(table, orient="index").rename_axis("latent")

    def __repr__(self) -> str:
        frame = self.to_frame(0.95)
        width = max(map(len, frame.index))
        data = ", ".join(self.joint.data)
        lines = [
            f"Information about each latent in {data}: {self.joint.num_samples:,} joint draws",
            f"  {'':{width}}  {'lower':>9} {'upper':>9}   95% interval, all rows together    share of the joint",
        ]
        for name, row in frame.iterrows():
            interval = f"[{number(row['low'])}, {number(row['high'])}]"
            share = "" if name == _ALL else f"{row['share_low']:.0%} to {row['share_high']:.0%}"
            lines.append(
                f"  {name:{width}}  {number(row['lower']):>9} {number(row['upper']):>9}   {interval:<32} {share:>18}"
            )
        lines.append("  Shares do not add to one: latents may say the same thing, or say it only together.")
        return "\n".join(lines)


def information_table(
    model: Callable,
    data: str | Sequence[str],
    latents: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
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
    so that R rows cost about R + 1 runs, and less where pieces cancel.

    Parameters
    ----------
    model
        A NumPyro model.
    data
        Name or names of the data sites.
    latents
        The rows: names of sites, or groups of sites by the name of their row. None: a row for every random
        site outside `data`.
    method
        `AIS(...)`, `AnnealedSMC(...)`, `IWAE(...)`, `BarberAgakov(...)` or `StructuredInfoNCE(...)`; None means
        `AIS()`.
    num_samples, rng_key, params, model_args, model_kwargs, batch_size, progress_bar
        As in `mi_bounds`.

    Returns
    -------
    InformationTable
        In nats; `plot_bounds(table.rows)` draws it.

    Raises
    ------
    TypeError, ValueError
        As in `mi_bounds`.

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
    known = latents_of(model, data, model_args, model_kwargs, params)
    groups = _groups(known if latents is None else latents)
    asked = tuple(dict.fromkeys([*known, *(site for group in groups.values() for site in group)]))
    joint = joint_model(model, asked, data, model_args, model_kwargs, params)
    require_likelihood(joint, method)
    everything = replace(joint, latent=known)
    models = [everything, *(replace(joint, latent=group) for group in groups.values())]
    rows = Rows(joint, tuple(map(decompose, models)), method, as_key(rng_key))
    raw = rows.run(num_samples, batch_size, progress_bar)
    free: dict[str, Any] = {"cost": {}, "seconds": {}}  # of a row alone they are not known
    results = {name: rows.result(raw, i + 1, latent=group, **free) for i, (name, group) in enumerate(groups.items())}
    ordered = dict(sorted(results.items(), key=lambda item: -item[1].middle))
    return InformationTable(ordered, rows.result(raw, 0, latent=known, **free), raw.cost, raw.seconds)


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
    if _ALL in groups:
        raise ValueError(f"{_ALL!r} is the name of the joint row: give the row in latents another name.")
    return groups


def _share(part: float | None, whole: float | None) -> float:
    if part is None or whole is None or not whole > 0:
        return np.nan
    return float(np.clip(part / whole, 0.0, 1.0))
