"""How to sum over discrete sites: what the axes of their conditionals stand for, and in which order to go."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.model.integrals.sums import TIME, Layout, Sum, SummedSite
from numpyro_mi.model.joint.checks import listed
from numpyro_mi.model.sites.site import MOST_CHOICES

_FEW = 64  # configurations: below, elements are not told apart


def layouts(
    trace: Mapping[str, dict], names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Layout]:
    """Layouts of sites, from a trace and the shapes of their log-densities."""
    found = {}
    for name in names:
        shape = shapes[name]
        frames = {frame.dim: frame.name for frame in trace[name]["cond_indep_stack"]}
        axes = [frames.get(i - len(shape)) for i in range(len(shape))]
        if axes and axes[0] is None and shape[0] > 1:
            axes[0] = TIME
        value = trace[name]["value"]
        found[name] = Layout(tuple(axes), tuple(shape), jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(value)))
    return found


def plan(
    names: Sequence[str],
    choices: Mapping[str, Sequence[int]],
    found: Mapping[str, Layout],
    scopes: Mapping[str, frozenset[str]],
) -> Sum:
    """How to sum over some sites: all their elements jointly if that is little work, else one by one.

    Raises
    ------
    ValueError
        If it would take more than 1,024 configurations.
    """
    joint = _candidate(names, choices, found, scopes, apart=False)
    apart = _candidate(names, choices, found, scopes, apart=True)
    if joint is not None and _count(joint) <= _FEW:
        return joint
    why = "the sum takes more than that many configurations even so" if apart is None else _obstacle(apart)
    if apart is not None and why is None:
        return apart
    if joint is None:
        _refuse_sum(names, why)
    return joint


def _candidate(names, choices, found, scopes, apart: bool) -> Sum | None:
    """The sum, or None if it has too many configurations."""
    total, sites = 1.0, []
    sizes: dict[str, int] = {}
    for layout in found.values():
        for axis, size in zip(layout.axes, layout.shape, strict=True):
            if axis is not None and apart:
                sizes[axis] = size
    for name in names:
        layout = found[name]
        axes = tuple(axis for axis in layout.axes if axis is not None) if apart else ()
        elements = int(np.prod(layout.value.shape)) // int(np.prod([sizes[axis] for axis in axes]))
        total *= float(len(choices[name])) ** (elements * (1 + (TIME in axes)))
        if total > MOST_CHOICES:
            return None
        configurations = np.array(list(itertools.product(choices[name], repeat=elements)))
        sites.append(SummedSite(name, axes, configurations.reshape(-1, elements), layout))
    known = dict(found)
    if not apart:
        known = {name: layout._replace(axes=(None,) * len(layout.axes)) for name, layout in found.items()}
        sites = [site._replace(layout=known[site.name]) for site in sites]
    return Sum(tuple(sites), known, dict(scopes), sizes)


def _count(candidate: Sum) -> int:
    return int(np.prod([size for _, size in candidate.grid]))


def _obstacle(candidate: Sum) -> str | None:
    """Why elements cannot be summed one by one, or None."""
    for layout in candidate.layouts.values():
        for axis, size in zip(layout.axes, layout.shape, strict=True):
            if axis is not None and candidate.sizes[axis] != size:
                return "axes outside plates have different sizes"
    scopes = dict(candidate.scopes)
    axes = {name: frozenset(axis for axis in layout.axes if axis) for name, layout in candidate.layouts.items()}
    for group in candidate.order():
        names = frozenset(site.name for site in group)
        own = frozenset(group[0].axes)
        involved = [name for name in scopes if scopes[name] & names]
        for name in involved:
            if not own <= axes[name]:
                return (
                    f"{name!r} is not in the same plates (or the same scan) as {group[0].name!r}, which it depends on"
                )
        merged = " and ".join(involved)
        scopes[merged], axes[merged] = frozenset().union(*(scopes[name] for name in involved)) - names, own - {TIME}
        for name in involved:
            if name != merged:
                del scopes[name], axes[name]
    return None


def _refuse_sum(names: Sequence[str], why: str | None) -> NoReturn:
    """Refuse a sum over discrete sites that takes too much work."""
    raise ValueError(
        f"the sum over discrete site(s) {listed(names)} takes more than {MOST_CHOICES:,} configurations, and their "
        f"elements cannot be summed one by one: {why}. Put what belongs together into one numpyro.plate, or name a "
        "site in given."
    )
