"""Exact sums over discrete sites.

The conditionals of a model are evaluated at configurations in which every element of a plate has the
same value, and, where sites are indexed by time (inside `scan`), all even times one value and all odd
times another. An element's own conditional then shows for each of its own values, and for each pair of
successive ones, which is all that a sum over elements one by one, or along a chain, needs. That a
conditional reads no other elements is checked against the model's own draws: read at the drawn values,
the tables must give back the log-density.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

TIME = "<time>"  # no plate is named like this
Tables = dict[str, jax.Array]


class Layout(NamedTuple):
    """What the axes of a site's log-density stand for.

    Attributes
    ----------
    axes
        For each batch axis the plate's name, `TIME` for a leading axis outside plates, or None.
    shape
        Their sizes.
    value
        Shape and type of the site's value, whose leading axes these are.
    """

    axes: tuple[str | None, ...]
    shape: tuple[int, ...]
    value: jax.ShapeDtypeStruct


class SummedSite(NamedTuple):
    """A discrete site, and how its values are gone through.

    Attributes
    ----------
    name
        The site.
    axes
        Axes along which its elements are summed one by one (`TIME`: along a chain).
    configurations
        Values of what is left, a row each, `(count, elements)`.
    layout
        Of the site.
    """

    name: str
    axes: tuple[str, ...]
    configurations: np.ndarray
    layout: Layout

    @property
    def chain(self) -> bool:
        """Whether its elements are successive in time."""
        return TIME in self.axes

    @property
    def size(self) -> int:
        """Number of configurations."""
        return len(self.configurations)

    def _places(self) -> tuple[list[int], list[int]]:
        """Axes of the value that are gone through element by element, and the others."""
        own = [self.layout.axes.index(name) for name in self.axes]
        return own, [i for i in range(len(self.layout.value.shape)) if i not in own]

    def values(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The site with one configuration in all elements, or with two in turn along a chain."""
        own, rest = self._places()
        shape = self.layout.value.shape
        around = [1 if i in own else shape[i] for i in range(len(shape))]
        one, other = (np.broadcast_to(values.reshape(around), shape) for values in (first, second))
        if not self.chain:
            return one
        time = self.layout.axes.index(TIME)
        even = (np.arange(shape[time]) % 2 == 0).reshape([-1 if i == time else 1 for i in range(len(shape))])
        return np.where(even, one, other)

    def positions(self, value: jax.Array) -> jax.Array:
        """Which configuration each element of a value is, with the axes in the order of `axes`."""
        own, rest = self._places()
        moved = jnp.transpose(value, [*own, *rest]).reshape(*(value.shape[i] for i in own), -1)
        return jnp.argmax((moved[..., None, :] == self.configurations).all(-1), axis=-1)


class Sum(NamedTuple):
    """The sum over some discrete sites of a product of conditionals.

    Attributes
    ----------
    sites
        The sites.
    layouts
        Of each conditional that depends on one of them.
    scopes
        The summed sites that each of these depends on.
    sizes
        Of each plate, and of time.
    """

    sites: tuple[SummedSite, ...]
    layouts: dict[str, Layout]
    scopes: dict[str, frozenset[str]]
    sizes: dict[str, int]

    @property
    def grid(self) -> list[tuple[str, int]]:
        """Axes of the tables, with their sizes: one for each site, two for a chain's even and odd times."""
        return [(site.name, site.size) for site in self.sites for _ in range(1 + site.chain)]

    def configurations(self) -> dict[str, np.ndarray]:
        """Values of each site in every configuration, with a leading axis."""
        found: dict[str, list[np.ndarray]] = {site.name: [] for site in self.sites}
        for chosen in itertools.product(*(range(size) for _, size in self.grid)):
            remaining = iter(chosen)
            for site in self.sites:
                first = site.configurations[next(remaining)]
                second = site.configurations[next(remaining)] if site.chain else first
                found[site.name].append(site.values(first, second))
        return {site.name: np.stack(found[site.name]).astype(site.layout.value.dtype) for site in self.sites}

    def aligned(self, name: str, tables: jax.Array) -> jax.Array:
        """A conditional's log-densities, with one leading axis, then one for each of `sizes`: 1 where it has none."""
        layout = self.layouts[name]
        tables = tables.reshape(-1, *layout.shape).sum([1 + i for i, axis in enumerate(layout.axes) if axis is None])
        left = [axis for axis in layout.axes if axis is not None]
        tables = jnp.transpose(tables, [0, *(1 + left.index(label) for label in self.sizes if label in left)])
        return tables.reshape(-1, *(size if label in left else 1 for label, size in self.sizes.items()))

    def arranged(self, tables: Tables) -> Tables:
        """Tables with one axis for each of `grid`, then one for each of `sizes`; of size 1 where they do not vary."""
        found = {}
        for name, table in tables.items():
            table = self.aligned(name, table)
            table = table.reshape([size for _, size in self.grid] + list(table.shape[1:]))
            found[name] = table[tuple(slice(None) if site in self.scopes[name] else slice(1) for site, _ in self.grid)]
        return found

    def log_sum(self, tables: Tables) -> jax.Array:
        """Log of the sum over all sites of the product of the given conditionals, in nats."""
        factors = [(self.scopes[name], table) for name, table in self.arranged(tables).items()]
        for group in self.order():
            names = frozenset(site.name for site in group)
            involved = [(scope, table) for scope, table in factors if scope & names]
            factors = [(scope, table) for scope, table in factors if not scope & names]
            kept = {len(self.grid) + list(self.sizes).index(axis) for axis in group[0].axes}
            over = [i for i in range(len(self.grid), len(self.grid) + len(self.sizes)) if i not in kept]
            product = sum((table.sum(over, keepdims=True) for _, table in involved), jnp.zeros(()))
            scope = frozenset().union(*(scope for scope, _ in involved)) - names
            factors.append((scope, self._summed(group, product)))
        return sum((table.sum() for _, table in factors), jnp.zeros(()))

    def read(self, tables: Tables, values: Mapping[str, jax.Array]) -> Tables:
        """Each conditional's log-density at given values of the sites, read off its table, as `aligned`."""
        labels = list(self.sizes)
        indices: list[jax.Array] = []
        for site in self.sites:
            found = site.positions(values[site.name])
            order = [site.axes.index(label) for label in labels if label in site.axes]
            found = jnp.transpose(found, order)
            found = found.reshape([self.sizes[label] if label in site.axes else 1 for label in labels])
            if site.chain:
                axis = labels.index(TIME)
                times = np.arange(self.sizes[TIME])
                even = times - times % 2
                odd = np.maximum(times - 1 + times % 2, 0)
                indices += [jnp.take(found, even, axis), jnp.take(found, odd, axis)]
            else:
                indices.append(found)
        result = {}
        for name, table in self.arranged(tables).items():
            shape = table.shape[len(self.grid) :]
            places = [
                jnp.arange(size).reshape([-1 if i == j else 1 for j in range(len(shape))])
                for i, size in enumerate(shape)
            ]
            at = [
                index if site in self.scopes[name] else 0 for (site, _), index in zip(self.grid, indices, strict=True)
            ]
            result[name] = jnp.broadcast_to(table[(*at, *places)], shape)
        return result

    def order(self) -> Iterator[tuple[SummedSite, ...]]:
        """Sites with the most axes first; chains with the same axes together."""
        left = sorted(self.sites, key=lambda site: -len(site.axes))
        while left:
            first = left[0]
            group = [site for site in left if site.chain and site.axes == first.axes] if first.chain else [first]
            left = [site for site in left if site not in group]
            yield tuple(group)

    def _summed(self, group: Sequence[SummedSite], product: jax.Array) -> jax.Array:
        names = [name for name, _ in self.grid]
        if not group[0].chain:
            return logsumexp(product, axis=names.index(group[0].name), keepdims=True)
        even = [names.index(site.name) for site in group]
        odd = [i + 1 for i in even]
        time = len(self.grid) + list(self.sizes).index(TIME)
        rest = [i for i in range(product.ndim) if i not in (*even, *odd, time)]
        shape = list(product.shape)
        for i, (_, size) in enumerate(self.grid):
            if i in (*even, *odd):
                shape[i] = size
        product = jnp.broadcast_to(product, shape)
        count = int(np.prod([shape[i] for i in even]))
        moved = jnp.transpose(product, [time, *even, *odd, *rest])
        steps = moved.reshape(shape[time], count, count, *(shape[i] for i in rest))
        # Rows are the state before, columns the state now: at even times the state now is on the first axis.
        is_even = (np.arange(shape[time]) % 2 == 0).reshape(-1, *[1] * (steps.ndim - 1))
        steps = jnp.where(is_even, jnp.swapaxes(steps, 1, 2), steps)

        def step(before: jax.Array, transition: jax.Array) -> tuple[jax.Array, None]:
            return logsumexp(before[:, None] + transition, axis=0), None

        last, _ = jax.lax.scan(step, steps[0, 0], steps[1:])
        total = logsumexp(last, axis=0)
        return total.reshape([1 if i in (*even, *odd, time) else shape[i] for i in range(product.ndim)])
