"""Elements of a plate as sites of their own.

A site `theta` with a batch shape is split into sites `theta[0]`, `theta[1]`, ..., each drawn from its own part of
the distribution, and the model goes on with the value that they make up. Elements of a batch are independent
given their parents, so that the joint density is the same; everything else sees ordinary sites.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import random
from numpyro.distributions.distribution import Distribution
from numpyro.primitives import _PYRO_STACK, Messenger

from numpyro_mi.model.joint import checks
from numpyro_mi.model.sites.draws import drawable
from numpyro_mi.model.sites.site import Site
from numpyro_mi.model.sites.slices import Element, Others, WholeDraw

Index = Sequence[int] | jax.Array
_INDEXED = re.compile(r"(.+)\[(\d+(?:,\d+)*)\]")


class SplitSites(Messenger):
    """A model with some elements of some sites as sites of their own.

    The site itself becomes deterministic. Where not all of its elements are named, the others are one site more,
    `others_of`, which has the shape of the whole with a spare draw in the place of each that is; nothing reads these.
    Draws of everything are those of the model as it was.

    Parameters
    ----------
    fn
        The model.
    cells
        By site, the index of each of its elements, in the order of the index, by the name that it is to have.
    """

    not_data = ("_cells",)  # numbers that `Contents` leaves out

    def __init__(self, fn: Callable, cells: Mapping[str, Mapping[str, Index]]):
        super().__init__(fn)
        self._cells = cells

    def process_message(self, msg: dict) -> None:
        """Draw the parts of a site in its place."""
        held = msg["type"] == "sample" and msg["value"] is not None and not msg["is_observed"]
        if msg["type"] != "sample" or msg["name"] not in self._cells or held:
            return
        fn = msg["fn"].expand((*msg["kwargs"].get("sample_shape", ()), *msg["fn"].batch_shape))
        given = None if msg["value"] is None else jnp.broadcast_to(msg["value"], fn.shape())
        with self._outer_handlers(), _Frames(msg["cond_indep_stack"]):
            value = self._drawn(msg["name"], fn, given)
        kept = {"type": "deterministic", "name": msg["name"], "value": value}
        kept["cond_indep_stack"] = msg["cond_indep_stack"]
        msg.clear()
        msg.update(kept)

    def _drawn(self, name: str, fn: Distribution, given: jax.Array | None) -> jax.Array:
        """The value that the parts of a site make up."""
        cells = {part: tuple(index) for part, index in self._cells[name].items()}
        whole = WholeDraw(drawable(fn))
        if len(cells) == np.prod(fn.batch_shape):
            value = None
        else:
            others = Others(fn, tuple(cells.values()), whole)
            value = numpyro.sample(others_of(name), others, obs=given)
        values = []
        for i, (part, cell) in enumerate(cells.items()):
            obs = None if given is None else given[cell]
            # With a key that comes of the whole draw's own, so that all that follows is drawn with the keys it had.
            key = None if whole.key is None or obs is not None else random.fold_in(whole.key, 1 + i)
            values.append(numpyro.sample(part, Element(fn, cell, whole), obs=obs, rng_key=key))
            value = value if value is None else jnp.asarray(value).at[cell].set(values[-1])
        return jnp.stack(values).reshape(fn.shape()) if value is None else value

    @contextmanager
    def _outer_handlers(self) -> Iterator[None]:
        """Only the handlers around the model: the plates inside it have already had their effect on the site."""
        place = _PYRO_STACK.index(self)
        inner = _PYRO_STACK[place:]
        del _PYRO_STACK[place:]
        try:
            yield
        finally:
            _PYRO_STACK.extend(inner)


class _Frames(Messenger):
    """Says which plates the sites inside are in, without widening their distributions."""

    def __init__(self, frames: Sequence[Any]):
        super().__init__()
        self._frames = list(frames)

    def process_message(self, msg: dict) -> None:
        if msg["type"] == "sample" and msg["fn"].batch_shape:
            msg["cond_indep_stack"].extend(self._frames)


def split_one(fn: Callable, base: str, cell: Sequence[int]) -> tuple[Callable, str]:
    """A model with one element of a site as a site of its own, and its name.

    The name does not say which element it is, and the index is an array, so that all elements share their programs.
    """
    name = f"{base}[i]"
    return SplitSites(fn, {base: {name: jnp.asarray(cell, int)}}), name


def element(name: str, cell: Sequence[int]) -> str:
    """Name of one element of a site."""
    return f"{name}[{','.join(map(str, cell))}]"


def others_of(name: str) -> str:
    """Name of what is left of a site."""
    return f"{name}[others]"


def parts_of(name: str, sites: Iterable[str]) -> tuple[str, ...]:
    """Which sites of a split model are parts of a site."""
    return tuple(part for part in sites if part.startswith(f"{name}[") and part.endswith("]"))


def asked_cells(groups: Mapping[str, Collection[str]], traced: Mapping[str, Site]) -> dict[str, dict[str, Index]]:
    """Elements that are named in groups, by their site: the index of each by its name.

    Raises
    ------
    ValueError
        For a name with an index that is no element of a batch, or that is named beside its site.
    """
    found: dict[str, set[tuple[int, ...]]] = {}
    spare = {others_of(name): name for name in traced if others_of(name) not in traced}
    for role, names in groups.items():
        for name in sorted(set(names) & set(spare)):
            first = element(spare[name], (0,))
            raise ValueError(f"{role} names {name!r}, which is no group: name elements one by one, as {first!r}.")
        for name, (base, cell) in _indexed(names, traced).items():
            batch = _batch_shape(role, base, traced)
            if len(cell) != len(batch) or any(i >= size for i, size in zip(cell, batch, strict=True)):
                first, last = (element(base, tuple(ends)) for ends in ([0] * len(batch), [n - 1 for n in batch]))
                raise ValueError(f"{role} names {name!r}, but {base!r} has the elements {first!r} to {last!r}.")
            found.setdefault(base, set()).add(cell)
    for role, names in groups.items():
        for base in set(names) & set(found):
            one = element(base, min(found[base]))
            raise ValueError(
                f"{role} names {base!r}, and {one!r}, which is part of it, is named too: name one of them."
            )
    return {base: {element(base, cell): cell for cell in sorted(cells)} for base, cells in found.items()}


def elements_of(role: str, names: Iterable[str], traced: Mapping[str, Site]) -> dict[str, dict[str, Index]]:
    """All elements of each site that is named: the index of each by its name.

    Raises
    ------
    ValueError
        For a site without elements.
    """
    checks.names(traced, {role: tuple(names)})
    shapes = {name: _batch_shape(role, name, traced) for name in names}
    return {name: {element(name, cell): cell for cell in np.ndindex(shape)} for name, shape in shapes.items()}


def bases_of(names: Iterable[str], traced: Mapping[str, Site]) -> tuple[str, ...]:
    """Sites that names with an index are elements of."""
    return tuple(dict.fromkeys(base for base, _ in _indexed(names, traced).values()))


def check_split(cells: Mapping[str, Mapping[str, Index]], traced: Mapping[str, Site]) -> None:
    """Refuse sites that a handler around the model cannot take apart."""
    for base, wanted in cells.items():
        if not set(wanted) <= set(traced):
            raise ValueError(
                f"the elements of site {base!r} cannot be sites of their own, since it is inside scan or cond, or is "
                "held by handlers.substitute: name the whole site."
            )


def _indexed(names: Iterable[str], traced: Mapping[str, Site]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Site and index of names that are no site but `site[index]`."""
    matches = {name: _INDEXED.fullmatch(name) for name in names if name not in traced}
    return {
        name: (match[1], tuple(map(int, match[2].split(","))))
        for name, match in matches.items()
        if match and match[1] in traced
    }


def _batch_shape(role: str, base: str, traced: Mapping[str, Site]) -> tuple[int, ...]:
    """Batch shape of a site that can be taken apart."""
    site = traced[base]
    if site.kind != "sample":
        raise ValueError(
            f"{role} asks for elements of {base!r}, which is a {site.kind} and not a random site of the model: name "
            "what it is computed from."
        )
    batch = site.drawn[: len(site.drawn) - site.event_dim]
    if not batch:
        event = f"one event of shape {site.drawn}" if site.drawn else "a number"
        raise ValueError(
            f"{role} asks for elements of {base!r}, which is {event}: only elements of a batch, independent given "
            "their parents, are sites of their own. Name the whole site, or write it in a numpyro.plate (without "
            "to_event) if its elements are independent."
        )
    if site.masked:
        raise ValueError(f"{role} asks for elements of {base!r}, which is masked (handlers.mask): name the whole site.")
    return batch
