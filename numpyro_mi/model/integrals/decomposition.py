"""Mutual information between groups of sites as a signed sum of log-marginals.

For disjoint groups A, B and C of a model's sites, `I(A;B|C) = E[ l(ABC) + l(C) - l(AC) - l(BC) ]`
with `l(S)` the log-density of the sites in S, all others integrated out. Each `l(S)` splits into the
conditionals that need no integral and one integral a connected piece of what is left; equal pieces
cancel, and that is all of d-separation. For the usual case, a latent z and data x, two terms remain:
`log p(x | z)`, exact, and `log p(x)`, an integral over z and over every other latent that x depends
on through z. A piece whose integrated sites are all discrete is a sum, and exact too.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

from numpyro_mi.model.joint.joint_model import JointModel
from numpyro_mi.model.sites.site import MOST_CHOICES, Site

PieceKey = tuple[tuple[str, ...], tuple[str, ...]]
"""What makes two log-marginals the same: the sites integrated out, and the factors."""


class LogMarginal(NamedTuple):
    """One integral: the log of the sum or integral of `factors` over `integrated`.

    Attributes
    ----------
    sign
        +1 or -1 (or a multiple): how it enters the mutual information. 0 of a piece that cancels.
    integrated
        Sites integrated out, in model order.
    factors
        Sites whose conditional densities make up the integrand, in model order.
    """

    sign: int
    integrated: tuple[str, ...]
    factors: tuple[str, ...]

    @property
    def key(self) -> PieceKey:
        """The log-marginal without its sign."""
        return self.integrated, self.factors


class Decomposition(NamedTuple):
    """`I = E[ sum of sign * log p(site | parents) + sum of sign * log-marginal ]`.

    Attributes
    ----------
    exact
        Conditionals that need no integral, as (sign, site).
    integrals
        Integrals over continuous sites, and sums over the discrete ones among them.
    sums
        Sums over discrete sites alone: exact.
    cancelled
        Integrals and sums that are in several of the log-marginals and cancel; their sign is 0.
    """

    exact: tuple[tuple[int, str], ...]
    integrals: tuple[LogMarginal, ...]
    sums: tuple[LogMarginal, ...] = ()
    cancelled: tuple[LogMarginal, ...] = ()

    def pieces(self) -> tuple[LogMarginal, ...]:
        """Its integrals and sums."""
        return (*self.integrals, *self.sums)

    @property
    def dependent(self) -> bool:
        """Whether anything is left; else the groups are independent."""
        return bool(self.exact or self.integrals or self.sums)


def decompose(model: JointModel) -> Decomposition:
    """Split I(latent; data | given) into exact conditionals, sums and integrals, cancelling what is equal.

    Raises
    ------
    ValueError
        If a site to be integrated can be neither annealed nor summed, or if `given` is held at values
        that simulating the model forwards does not condition on.
    """
    check_fixed(model)
    given = (*model.given, *model.fixed)
    found = _split(model.sites, model.parents, model.latent, model.data, given, partial(_is_summed, model))
    _check_integrable(model, found)
    return found


def evidence(model: JointModel) -> Decomposition:
    """Split log p(data) into exact conditionals, sums and integrals.

    Raises
    ------
    ValueError
        If a site to be integrated can be neither annealed nor summed.
    """
    found = _collected(model.sites, model.parents, [(1, model.data)], partial(_is_summed, model))
    _check_integrable(model, found)
    return found


def joint_law(model: JointModel, names: Iterable[str]) -> Decomposition:
    """Split the log-density of some sites, given those held at values, into conditionals, sums and integrals."""
    fixed = set(model.fixed)
    parents = {name: frozenset() if name in fixed else model.parents[name] for name in model.sites}
    found = _collected(model.sites, parents, [(1, {*names, *fixed})], partial(_is_summed, model))
    return found._replace(exact=tuple((sign, name) for sign, name in found.exact if name not in fixed))


def _is_summed(model: JointModel, name: str) -> bool:
    return model.traced[name].choices is not None


def _check_integrable(model: JointModel, found: Decomposition) -> None:
    for integral in found.pieces():
        for name in integral.integrated:
            _integrable(name, model.traced[name])


def described(decomposition: Decomposition, parents: Mapping[str, frozenset[str]]) -> tuple[dict[str, Any], ...]:
    """The decomposition as plain data: sign, integrated sites, and each factor with its parents."""
    conditionals = tuple(LogMarginal(sign, (), (name,)) for sign, name in decomposition.exact)
    kinds = {
        "exact": conditionals,
        "sum": decomposition.sums,
        "integral": decomposition.integrals,
        "cancelled": decomposition.cancelled,
    }
    return tuple(
        {
            "kind": kind,
            "sign": piece.sign,
            "integrated": list(piece.integrated),
            "factors": {name: sorted(parents[name]) for name in piece.factors},
        }
        for kind, pieces in kinds.items()
        for piece in pieces
    )


def union(rows: Sequence[Decomposition]) -> Decomposition:
    """The integrals and sums of several decompositions, each once, with sign 1."""

    def each(pieces: Iterable[LogMarginal]) -> tuple[LogMarginal, ...]:
        return tuple(dict.fromkeys(piece._replace(sign=1) for piece in pieces))

    return Decomposition(
        (), each(piece for row in rows for piece in row.integrals), each(piece for row in rows for piece in row.sums)
    )


def check_fixed(model: JointModel) -> None:
    """Require that simulating a model with sites held at values is conditioning on these values.

    It is, if what the sites are drawn from says nothing more of the groups.

    Raises
    ------
    ValueError
        Naming a site and its parent.
    """
    asked, given = (*model.latent, *model.data), (*model.given, *model.fixed)
    for site in model.fixed:
        for parent in sorted(model.parents[site] - set(given)):
            if parent in asked or _split(model.sites, model.parents, (parent,), asked, given).dependent:
                _refuse_fixed(site, parent)


def _split(
    sites: Sequence[str],
    parents: Mapping[str, frozenset[str]],
    latent: Sequence[str],
    data: Sequence[str],
    given: Sequence[str] = (),
    summed: Callable[[str], bool] = lambda name: False,
) -> Decomposition:
    groups = ((1, {*latent, *data, *given}), (1, given), (-1, {*latent, *given}), (-1, {*data, *given}))
    return _collected(sites, parents, groups, summed)


def _collected(
    sites: Sequence[str],
    parents: Mapping[str, frozenset[str]],
    groups: Iterable[tuple[int, Iterable[str]]],
    summed: Callable[[str], bool],
) -> Decomposition:
    """The pieces of a signed sum of log-marginals, each of the sites in its group."""
    order = {name: i for i, name in enumerate(sites)}
    pieces: Counter[tuple[frozenset[str], frozenset[str]]] = Counter()
    for sign, held in groups:
        for piece in _pieces(frozenset(held), parents):
            pieces[piece] += sign

    def in_order(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=order.__getitem__))

    # In model order throughout: the order of a set of names differs from one process to the next, and
    # random numbers are keyed by the place of an integral.
    found = [LogMarginal(sign, in_order(piece[0]), in_order(piece[1])) for piece, sign in pieces.items()]
    found.sort(key=lambda piece: [[order[name] for name in names] for names in piece[1:]])
    left = [piece for piece in found if piece.integrated and piece.sign]
    return Decomposition(
        tuple((piece.sign, piece.factors[0]) for piece in found if piece.sign and not piece.integrated),
        tuple(piece for piece in left if not all(map(summed, piece.integrated))),
        tuple(piece for piece in left if all(map(summed, piece.integrated))),
        tuple(piece for piece in found if piece.integrated and not piece.sign),
    )


def _pieces(
    held: frozenset[str], parents: Mapping[str, frozenset[str]]
) -> Iterable[tuple[frozenset[str], frozenset[str]]]:
    """The independent pieces of `log p(held)`, each as (integrated sites, factors)."""
    kept = ancestors(held, parents)
    free = kept - held
    scopes = {name: ({name} | parents[name]) & free for name in kept}
    unvisited = set(free)
    while unvisited:
        component, frontier = set(), {unvisited.pop()}
        while frontier:
            component |= frontier
            frontier = set().union(*(scope for scope in scopes.values() if scope & frontier)) - component
        unvisited -= component
        yield frozenset(component), frozenset(name for name in kept if scopes[name] & component)
    for name in kept:
        if not scopes[name]:
            yield frozenset(), frozenset({name})


def ancestors(names: Iterable[str], parents: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The sites and everything upstream of them."""
    found: set[str] = set()
    frontier = set(names)
    while frontier:
        found |= frontier
        frontier = set().union(*(parents[name] for name in frontier)) - found
    return frozenset(found)


def _refuse_fixed(site: str, parent: str) -> NoReturn:
    """Refuse values of a given site that the model would have to be conditioned on backwards."""
    raise ValueError(
        f"given holds site {site!r} at a value, but its parent {parent!r} depends on the latent or the data: "
        f"simulating forwards from the value would not be conditioning on it. Average over it instead, as "
        f"given={site!r}, or name {parent!r} in given too."
    )


def _integrable(name: str, site: Site) -> None:
    """Require a site that can be annealed, or summed."""
    if site.obstacle and site.choices is None:
        advice = (
            f" Its values cannot be listed either (at most {MOST_CHOICES:,}, not depending on other sites): bound it, "
            "as by a Categorical or Binomial distribution, or name it in given."
            if "is discrete" in site.obstacle
            else ""
        )
        raise ValueError(f"site {name!r}, which has to be integrated out, {site.obstacle}{advice}")
