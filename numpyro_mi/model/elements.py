"""Elements of a plate as sites of their own.

A site `theta` with a batch shape is split into sites `theta[0]`, `theta[1]`, ..., each drawn from its own part of
the distribution, and the model goes on with the value that they make up. Elements of a batch are independent
given their parents, so that the joint density is the same; everything else sees ordinary sites.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.primitives import _PYRO_STACK, Messenger

from numpyro_mi.model import checks
from numpyro_mi.model.sites import Site
from numpyro_mi.model.slices import Element

Cell = tuple[int, ...]
_INDEXED = re.compile(r"(.+)\[(\d+(?:,\d+)*)\]")


class SplitSites(Messenger):
    """A model with some elements of some sites as sites of their own.

    Where all elements of a site are, its value is deterministic. Where not all are, the site stays under the name
    `others_of`, with a spare draw in the place of each that is; nothing reads the spare ones.

    Parameters
    ----------
    fn
        The model.
    cells
        Elements by site.
    """

    def __init__(self, fn: Callable, cells: Mapping[str, Sequence[Cell]]):
        super().__init__(fn)
        self._cells = cells

    def process_message(self, msg: dict) -> None:
        """Draw the elements of a site, in place of the site or beside it."""
        held = msg["type"] == "sample" and msg["value"] is not None and not msg["is_observed"]
        if msg["type"] != "sample" or msg["name"] not in self._cells or held:
            return
        name = msg["name"]
        fn = msg["fn"].expand((*msg["kwargs"].get("sample_shape", ()), *msg["fn"].batch_shape))
        given = None if msg["value"] is None else jnp.broadcast_to(msg["value"], fn.shape())
        with self._outer_handlers():
            values = {
                cell: numpyro.sample(element(name, cell), Element(fn, cell), obs=None if given is None else given[cell])
                for cell in self._cells[name]
            }
        if len(values) == np.prod(fn.batch_shape):
            whole = jnp.stack([values[cell] for cell in np.ndindex(fn.batch_shape)])
            kept = {"type": "deterministic", "name": name, "value": whole.reshape(fn.shape())}
            kept["cond_indep_stack"] = msg["cond_indep_stack"]
            msg.clear()
            msg.update(kept)
        else:
            msg.update(name=others_of(name), elements=values)

    def postprocess_message(self, msg: dict) -> None:
        """Put elements into the value that the model goes on with; what was recorded of the site stays."""
        for cell, value in msg.get("elements", {}).items():
            msg["value"] = jnp.asarray(msg["value"]).at[cell].set(value)

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


def element(name: str, cell: Cell) -> str:
    """Name of one element of a site."""
    return f"{name}[{','.join(map(str, cell))}]"


def others_of(name: str) -> str:
    """Name of what is left of a site."""
    return f"{name}[others]"


def asked_cells(groups: Mapping[str, Collection[str]], traced: Mapping[str, Site]) -> dict[str, tuple[Cell, ...]]:
    """Elements that are named in groups, by their site.

    Raises
    ------
    ValueError
        For a name with an index that is no element of a batch, or that is named beside its site.
    """
    found: dict[str, set[Cell]] = {}
    for role, names in groups.items():
        for name, (base, cell) in _indexed(names, traced).items():
            batch = _batch_shape(role, base, traced)
            if len(cell) != len(batch) or any(i >= size for i, size in zip(cell, batch, strict=True)):
                first, last = (element(base, tuple(ends)) for ends in ([0] * len(batch), [n - 1 for n in batch]))
                raise ValueError(f"{role} names {name!r}, but {base!r} has the elements {first!r} to {last!r}.")
            found.setdefault(base, set()).add(cell)
    for role, names in groups.items():
        for base in set(names) & set(found):
            one = element(base, min(found[base]))
            raise ValueError(f"{role} names {base!r}, and {one!r}, which is part of it, is named too: name one of them.")
    return {base: tuple(sorted(cells)) for base, cells in found.items()}


def elements_of(role: str, names: Iterable[str], traced: Mapping[str, Site]) -> dict[str, tuple[str, ...]]:
    """Names of all elements of each site that is named.

    Raises
    ------
    ValueError
        For a site without elements.
    """
    checks.names(traced, {role: tuple(names)})
    return {name: tuple(element(name, cell) for cell in np.ndindex(_batch_shape(role, name, traced))) for name in names}


def bases_of(names: Iterable[str], traced: Mapping[str, Site]) -> tuple[str, ...]:
    """Sites that names with an index are elements of."""
    return tuple(dict.fromkeys(base for base, _ in _indexed(names, traced).values()))


def check_split(cells: Mapping[str, Sequence[Cell]], traced: Mapping[str, Site]) -> None:
    """Refuse sites that a handler around the model cannot take apart."""
    for base, wanted in cells.items():
        if element(base, wanted[0]) not in traced:
            raise ValueError(
                f"the elements of site {base!r} cannot be sites of their own, since it is inside scan or cond, or is "
                "held by handlers.substitute: name the whole site."
            )


def _indexed(names: Iterable[str], traced: Mapping[str, Site]) -> dict[str, tuple[str, Cell]]:
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
