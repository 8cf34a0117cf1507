"""Mutual information between groups of sites as a signed sum of log-marginals.

For disjoint groups A and B of a model's sites, `I(A;B) = E[ l(AB) - l(A) - l(B) ]` with `l(S)` the
log-density of the sites in S, all others integrated out. Each `l(S)` splits into the conditionals
that need no integral and one integral a connected piece of what is left; equal pieces cancel, and
that is all of d-separation. For the usual case, a latent z and data x, two terms remain:
`log p(x | z)`, exact, and `log p(x)`, an integral over z and over every other latent that x
depends on through z.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from numpyro_mi.model import checks
from numpyro_mi.model.trace import JointModel


class LogMarginal(NamedTuple):
    """One integral: the log of the sum or integral of `factors` over `integrated`.

    Attributes
    ----------
    sign
        +1 or -1 (or a multiple): how it enters the mutual information.
    integrated
        Sites integrated out, in model order.
    factors
        Sites whose conditional densities make up the integrand, in model order.
    """

    sign: int
    integrated: tuple[str, ...]
    factors: tuple[str, ...]


class Decomposition(NamedTuple):
    """`I = E[ sum of sign * log p(site | parents) + sum of sign * log-marginal ]`."""

    exact: tuple[tuple[int, str], ...]
    integrals: tuple[LogMarginal, ...]


def decompose(model: JointModel) -> Decomposition:
    """Split I(latent; data) into exact conditionals and integrals, cancelling what is equal.

    Raises
    ------
    ValueError
        If the likelihood of the data is itself an integral, if data are upstream of a latent, or
        if a latent to be integrated cannot be annealed.
    """
    decomposition = _split(model.sites, model.parents, model.latent, model.data)
    _check(model, decomposition.integrals)
    return decomposition


def _split(
    sites: Sequence[str], parents: Mapping[str, frozenset[str]], latent: Sequence[str], data: Sequence[str]
) -> Decomposition:
    order = {name: i for i, name in enumerate(sites)}
    pieces: Counter[tuple[frozenset[str], frozenset[str]]] = Counter()
    for sign, held in ((1, {*latent, *data}), (-1, latent), (-1, data)):
        for piece in _pieces(frozenset(held), parents):
            pieces[piece] += sign

    def in_order(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=order.__getitem__))

    # In model order throughout: the order of a set of names differs from one process to the next, and
    # random numbers are keyed by the place of an integral.
    left = [(sign, in_order(integrated), in_order(factors)) for (integrated, factors), sign in pieces.items() if sign]
    left.sort(key=lambda piece: [[order[name] for name in names] for names in piece[1:]])
    return Decomposition(
        tuple((sign, factors[0]) for sign, integrated, factors in left if not integrated),
        tuple(LogMarginal(*piece) for piece in left if piece[1]),
    )


def _check(model: JointModel, integrals: Sequence[LogMarginal]) -> None:
    for integral in integrals:
        for name in integral.integrated:
            checks.annealable(name, model.traced[name], "data site" if name in model.data else "latent")
    swapping_helps = not any(set(integral.integrated) & set(model.latent) for integral in integrals)
    for integral in integrals:
        upstream = [site for site in integral.integrated if site in model.data]
        if upstream:
            checks.data_upstream(upstream[0], model.latent, swapping_helps)
        fed = _ancestors(integral.integrated, model.parents) - set(integral.integrated)
        if fed & set(model.data) and integral.sign < 0:
            checks.data_upstream(min(fed & set(model.data)), integral.integrated, swapping_helps)
    for integral in integrals:
        if integral.sign > 0:
            checks.needs_integral(integral.integrated, model.data, model.latent)


def _pieces(
    held: frozenset[str], parents: Mapping[str, frozenset[str]]
) -> Iterable[tuple[frozenset[str], frozenset[str]]]:
    """The independent pieces of `log p(held)`, each as (integrated sites, factors)."""
    kept = _ancestors(held, parents)
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


def _ancestors(names: Iterable[str], parents: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The sites and everything upstream of them."""
    found: set[str] = set()
    frontier = set(names)
    while frontier:
        found |= frontier
        frontier = set().union(*(parents[name] for name in frontier)) - found
    return frozenset(found)
