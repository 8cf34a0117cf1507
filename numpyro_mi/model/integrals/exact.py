"""Expected terms as finite sums: where the sites that they depend on are discrete, their law is a table.

Sampling shows an event of probability p about N p times in N draws, and one below 3 / N perhaps never. A sum over all
values of the sites leaves nothing out, and has no sampling error.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro import handlers

from numpyro_mi.model.integrals.decomposition import Decomposition, PieceKey, ancestors, joint_law
from numpyro_mi.model.integrals.pieces import Piece
from numpyro_mi.model.joint.joint_model import JointModel, Values
from numpyro_mi.model.sites.parameters import spoil, verdict
from numpyro_mi.model.sites.support import site_log_probs
from numpyro_mi.model.staging import Staged, stage

MOST_CONFIGURATIONS = 16_384
"""The largest table."""
_UNITS = 4  # in the last place that a log-density may be off by
_BLOCK = 256  # configurations at a time
_MANY_ELEMENTS = 100  # of two values or more, whose joint values are far too many
_SINGLE = 32  # bits
_LARGEST_ERROR = {64: 1e-5, _SINGLE: 1e-3}
"""Of the sum of all probabilities. In single precision those of a binomial with a total of 1,000 err by 4e-4."""


class ExactTerms(NamedTuple):
    """The mutual information of one row as a finite sum.

    Attributes
    ----------
    value
        In nats.
    sites
        The sites whose values were gone through.
    num_configurations
        How many joint values these have.
    rounding
        What the value may be off by, nats.
    """

    value: float
    sites: tuple[str, ...]
    num_configurations: int
    rounding: float


class _Values(NamedTuple):
    """What was found at each configuration: log-densities of sites, and logs of sums over other sites, in nats."""

    log_probs: dict[str, np.ndarray]
    log_sums: dict[PieceKey, np.ndarray]


@dataclass(frozen=True, eq=False)
class ExactTable:
    """All values of some sites of a model, and what the terms of some rows are at each.

    Attributes
    ----------
    model
        The model.
    shapes
        Shapes of the sites' values, in model order.
    law
        Their joint density, as conditionals and sums.
    rows
        The decompositions to be averaged, by their place.
    """

    model: JointModel
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    law: Decomposition
    rows: Mapping[int, Decomposition]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites."""
        return tuple(self.shapes)

    def count(self) -> int:
        """How many configurations there are; of very many, fewer."""
        total = 1
        for name, shape in self.shapes.items():
            total *= len(self.model.traced[name].choices or ()) ** min(shape.size, _MANY_ELEMENTS)
        return total

    def configurations(self) -> Values:
        """Every joint value of the sites, with a leading axis."""
        own = {}
        for name, shape in self.shapes.items():
            values = list(product(self.model.traced[name].choices or (), repeat=shape.size))
            own[name] = np.array(values, shape.dtype).reshape(len(values), *shape.shape)
        places = np.indices([len(values) for values in own.values()]).reshape(len(own), -1)
        return {name: values[place] for (name, values), place in zip(own.items(), places, strict=True)}

    def program(self) -> Staged:
        """The log-densities at one configuration."""
        decompositions = (self.law, *self.rows.values())
        names = tuple(dict.fromkeys(name for own in decompositions for _, name in own.exact))
        pieces = {piece.key: Piece(self.model, piece) for own in decompositions for piece in own.sums}

        def at(values: Values) -> tuple[Values, tuple[jax.Array, ...]]:
            trace = handlers.trace(self.model.held_at(values)).get_trace()
            found = site_log_probs(trace, names)
            sums = tuple(piece.log_total({}, {**self.model.fixed, **values}) for piece in pieces.values())
            # NaN, and so refused, where a parameter is not allowed.
            sound = {name: spoil({name: verdict(trace[name]["fn"], found[name])}, found[name]) for name in names}
            return sound, sums

        return stage(at, dict(self.shapes))

    def evaluated(self) -> _Values:
        """The log-densities at every configuration."""
        configurations = self.configurations()
        count = len(next(iter(configurations.values())))
        blocks = -(-count // _BLOCK)
        size = -(-count // blocks)
        places = np.minimum(np.arange(blocks * size), count - 1).reshape(blocks, size)
        log_probs, sums = jax.device_get(
            _evaluated(self.program(), {name: values[places] for name, values in configurations.items()})
        )

        def flat(values: Any) -> np.ndarray:
            return np.asarray(values, np.float64).reshape(-1)[:count]

        keys = dict.fromkeys(piece.key for own in (self.law, *self.rows.values()) for piece in own.sums)
        return _Values(
            {name: flat(values) for name, values in log_probs.items()},
            {key: flat(values) for key, values in zip(keys, sums, strict=True)},
        )

    def exact(self) -> dict[int, ExactTerms]:
        """The mean of each row's terms; in double precision where single precision does not do.

        Raises
        ------
        ValueError
            If the probabilities of all configurations do not sum to one, or a term is not finite.
        """
        precision = jnp.finfo(jnp.result_type(float))
        largest = _LARGEST_ERROR[precision.bits]
        probs, total, found = self._law()
        if _LARGEST_ERROR[64] < abs(total - 1) <= largest:
            # A model may insist on single precision.
            with contextlib.suppress(Exception), jax.enable_x64(True):
                probs, total, found = self._law()
                largest = _LARGEST_ERROR[64]
        if not abs(total - 1) <= largest:
            _refuse_sum(self.sites, total, len(probs))
        possible = probs > 0
        result = {}
        for place, row in self.rows.items():
            parts = [values[possible] for values in _signed(row, found)]
            terms = sum(parts)
            wrong = ~np.isfinite(terms)
            if wrong.any():
                _refuse_not_finite(self.sites, int(wrong.sum()), len(probs))
            value = float(probs[possible] @ terms / total)
            size = float(sum(probs[possible] @ np.abs(values) for values in parts))
            rounding = _of_missing(abs(total - 1)) + _UNITS * float(precision.eps) * (1 + size)
            result[place] = ExactTerms(value, self.sites, len(probs), rounding)
        return result

    def _law(self) -> tuple[np.ndarray, float, _Values]:
        """The probability of each configuration, their sum, and what the terms are made of."""
        found = self.evaluated()
        factors = _signed(self.law, found)
        impossible = np.any([np.isneginf(values) for values in factors], axis=0)
        with np.errstate(invalid="ignore"):
            log_probs = np.where(impossible, -np.inf, sum(factors))
        bad = np.isnan(log_probs) | np.isposinf(log_probs)
        if bad.any():
            _refuse_not_finite(self.sites, int(bad.sum()), len(bad))
        probs = np.exp(log_probs)
        return probs, float(probs.sum()), found


def _of_missing(prob: float) -> float:
    """What a value of a small probability, were it missing in a table, could add to a mutual information, in nats."""
    return prob * (2 - np.log(prob)) if prob > 0 else 0.0


def exact_tables(model: JointModel, rows: Sequence[Decomposition]) -> list[ExactTable]:
    """What can be summed of some rows: those without integrals, of few discrete sites.

    Rows share a table where that is small enough.
    """
    summed = {piece.key for row in rows for piece in row.sums}
    needed = {i: _needed(model, row, summed) for i, row in enumerate(rows) if row.dependent and not row.integrals}
    finite = {i: sites for i, sites in needed.items() if sites is not None}
    if not finite:
        return []
    example = jax.eval_shape(model.simulate, random.key(0))

    def table(sites: frozenset[str], rows: Mapping[int, Decomposition]) -> ExactTable:
        shapes = {name: example[name] for name in model.sites if name in sites}
        return ExactTable(model, shapes, joint_law(model, sites), rows)

    tables: list[ExactTable] = []
    for i, sites in sorted(finite.items(), key=lambda item: -len(item[1])):
        own = table(sites, {i: rows[i]})
        if own.count() > MOST_CONFIGURATIONS:
            continue
        merged = [table(sites.union(other.sites), {**other.rows, i: rows[i]}) for other in tables]
        # Only sums of rows are checked against the model's own draws.
        fits = [
            both.count() <= MOST_CONFIGURATIONS and all(piece.key in summed for piece in both.law.sums)
            for both in merged
        ]
        place = fits.index(True) if any(fits) else None
        if place is None:
            tables.append(own)
        else:
            tables[place] = merged[place]
    return tables


def _needed(model: JointModel, row: Decomposition, summed: Collection[PieceKey]) -> frozenset[str] | None:
    """The sites whose values the terms of a row are computed from; None if their law is no finite sum.

    With those beside them over which the law would need a sum that no row has: only the sums of rows are checked
    against the model's own draws.
    """
    read: set[str] = set()
    for factors, integrated in [((name,), ()) for _, name in row.exact] + [
        (piece.factors, piece.integrated) for piece in row.sums
    ]:
        read |= set().union(*({name} | model.parents[name] for name in factors)) - set(integrated)
    free = {name: frozenset() if name in model.fixed else model.parents[name] for name in model.sites}
    if any(model.traced[name].choices is None for name in ancestors(read, free) - set(model.fixed)):
        return None
    while True:
        read -= set(model.fixed)
        missing = [piece for piece in joint_law(model, read).sums if piece.key not in summed]
        if not missing:
            return frozenset(read)
        read = read.union(*(piece.integrated for piece in missing))


def _signed(row: Decomposition, found: _Values) -> list[np.ndarray]:
    """The terms of a row at each configuration, one by one."""
    return [sign * found.log_probs[name] for sign, name in row.exact] + [
        piece.sign * found.log_sums[piece.key] for piece in row.sums
    ]


@jax.jit
def _evaluated(program, configurations):
    return jax.lax.map(jax.vmap(program), configurations)


def _refuse_sum(sites: Sequence[str], total: float, count: int) -> NoReturn:
    """Refuse a model whose densities are not normalised."""
    raise ValueError(
        f"the probabilities of all {count:,} joint values of {', '.join(map(repr, sites))} sum to {total:.6g}, and not "
        "to 1: the log_prob of one of their distributions is not normalised, or enumerate_support leaves out some of "
        "its values. Check distributions of your own, and handlers that change a log_prob."
    )


def _refuse_not_finite(sites: Sequence[str], bad: int, count: int) -> NoReturn:
    """Refuse NaN where a probability should be."""
    raise ValueError(
        f"the log-density is NaN or infinite at {bad} of the {count:,} joint values of {', '.join(map(repr, sites))}, "
        "without being that of an impossible one: check the parameters of their distributions at all these values."
    )
