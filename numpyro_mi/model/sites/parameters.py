"""Parameters held against what their distribution allows.

NumPyro does not validate parameters that are computed from other sites, and some of its densities are finite where
the parameters are not allowed: for probabilities that do not sum to one, or that exceed one.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints, transforms
from numpyro.distributions.distribution import (
    Distribution,
    FoldedDistribution,
    MaskedDistribution,
    TransformedDistribution,
)

from numpyro_mi.model.sites import ranges
from numpyro_mi.model.sites.draws import COUNTS, HURDLES, MOST_ZEROS, listed, stuck, traced
from numpyro_mi.model.sites.ranges import AT_EDGE, INSIDE, OUTSIDE, Codes
from numpyro_mi.model.sites.site import WRAPPERS, Site, ingredients
from numpyro_mi.model.sites.slices import Element


class Requirement(NamedTuple):
    """What a distribution asks of one of its parameters.

    Attributes
    ----------
    depth
        How far inside the site's distribution this one is; what a user wrote comes first.
    distribution, parameter
        Their names.
    needs
        What the parameter must do, as in "must be positive".
    """

    depth: int
    distribution: str
    parameter: str
    needs: str


Verdict = dict[Requirement, Codes]
"""By requirement, INSIDE, AT_EDGE or OUTSIDE; requirements that constants meet are left out."""

_MIXTURES = dist.MixtureSameFamily | dist.MixtureGeneral
_WISHARTS = dist.WishartCholesky | dist.InverseWishartCholesky
_COMPUTED_FROM = {
    "scale_tril": frozenset({"covariance_matrix", "precision_matrix", "scale_matrix", "rate_matrix"}),
    "covariance_rfft": frozenset({"covariance_row"}),
}


def verdict(fn: Distribution, outcome: jax.Array) -> Verdict:
    """One verdict per requirement on a site's distribution, over all of its elements that no mask leaves out.

    A parameter at the edge of an open range is wrong only where what comes of it, a log-density, is not finite.
    """
    found = {key: codes.max(initial=INSIDE) for key, codes in _tables(fn).items()}
    fine = jnp.isfinite(outcome).all()
    return {key: jnp.where((code == AT_EDGE) & fine, INSIDE, code).astype(jnp.int8) for key, code in found.items()}


def spoil(verdicts: Mapping[str, Verdict], terms: Any) -> Any:
    """Terms of draws, NaN at each draw that has a parameter which is not allowed."""
    codes = [code for found in verdicts.values() for code in found.values()]
    if not codes:
        return terms
    xp = np if isinstance(terms, np.ndarray) else jnp
    return xp.where(xp.stack(codes).max(0) == OUTSIDE, xp.nan, terms)


def with_flaw(site: Site, msg: Mapping[str, Any]) -> Site:
    """The site of a message, with a flaw if a constant parameter is not allowed; inside the trace that it is of."""
    if site.kind != "sample" or site.flaw is not None:
        return site
    for (_, owner, parameter, needs), codes in _tables(msg["fn"]).items():
        if not isinstance(codes, jax.core.Tracer) and int(np.asarray(codes).max()) == OUTSIDE:
            flaw = f"has a parameter that its distribution does not allow: {parameter!r} of {owner} must {needs}."
            return site._replace(flaw=flaw)
    return site


def check(
    blocks: Sequence[Mapping[str, Verdict]],
    parents: Mapping[str, Collection[str]],
    overflowing: Collection[str] = (),
) -> None:
    """Refuse a model with parameters that their distributions do not allow, at draws of its own.

    Parameters
    ----------
    blocks
        Verdicts of blocks of draws, by site.
    parents
        By site, the sites that its distribution is computed from.
    overflowing
        Sites with draws that are infinite or NaN themselves: what is computed from these is not at fault.

    Raises
    ------
    ValueError
        Naming the site, the parameter and the sites that it may be computed from.
    """
    for name, found in blocks[0].items():
        for requirement in sorted(found) if not set(overflowing) & set(parents[name]) else ():
            codes = np.concatenate([np.asarray(block[name][requirement]) for block in blocks])
            outside, wrong = int((codes == OUTSIDE).sum()), int((codes != INSIDE).sum())
            if outside or wrong > len(codes) / 1000:
                share = f"at {wrong:,} of {len(codes):,} of the model's own draws ({wrong / len(codes):.2%})"
                _refuse(name, requirement, share, sorted(parents[name]))


def check_observed(verdicts: Mapping[str, Verdict], parents: Mapping[str, Collection[str]]) -> None:
    """Refuse observed values at which a parameter that is computed from them is not allowed.

    Raises
    ------
    ValueError
        Naming the site, the parameter and the sites that it may be computed from.
    """
    for name, found in verdicts.items():
        for requirement in sorted(found):
            if int(found[requirement]) == OUTSIDE:
                _refuse(name, requirement, "at the observed values", sorted(parents[name]))


def _refuse(name: str, requirement: Requirement, where: str, parents: Sequence[str]) -> NoReturn:
    _, owner, parameter, needs = requirement
    sources = ", ".join(repr(parent) for parent in parents)
    verb = "is" if needs.startswith("be ") else "does"
    origin = f"is computed from {sources}" if parents else "is computed from no other site"
    raise ValueError(
        f"parameter {parameter!r} of the {owner} of site {name!r} must {needs}, and {verb} not {where}. "
        f"The distribution of {name!r} {origin}. NumPyro does not validate parameters that are computed: compute it so "
        "that it is always allowed (by jax.nn.softmax, jax.nn.sigmoid, jnp.exp), or give what it is computed from a "
        "distribution that stays in range."
    )


def _tables(fn: Distribution, normalised: bool = False) -> dict[Requirement, Codes]:
    """Verdicts with the batch shape of a distribution, those on what it is made of included.

    With `normalised` the sum of probabilities does not matter.
    """
    if isinstance(fn, WRAPPERS):
        return {key: _through(fn, codes) for key, codes in _tables(fn.base_dist).items()}
    found: dict[Requirement, Codes] = {}
    for parameter, needs, test in _own(fn, normalised):
        codes = test()
        if isinstance(codes, jax.core.Tracer) or np.any(codes):
            key = Requirement(parameter == "base_dist", type(fn).__name__, parameter, needs)
            found[key] = _fitted(codes, fn.batch_shape)
    for name, value in ingredients(fn):
        if name.startswith("_") and not isinstance(fn, _MIXTURES):
            continue  # computed from the parameters, to be used inside
        for part in listed(value):
            for inner, codes in _tables(part, name == "_mixing_distribution").items():
                key, new = inner._replace(depth=inner.depth + 1), _fitted(codes, fn.batch_shape)
                found[key] = _library(found[key], new).maximum(found[key], new) if key in found else new
    return found


def _own(fn: Distribution, normalised: bool) -> Iterator[tuple[str, str, Callable[[], Codes]]]:
    """Each parameter that a distribution itself has: its name, what it must do, and the test."""
    for parameter, constraint in fn.arg_constraints.items():
        value = _value(fn, parameter)
        if value is None or constraints.is_dependent(constraint) or (fn._validate_args and not traced(value)):
            continue  # constants NumPyro has validated itself, where it was not told otherwise
        if _COMPUTED_FROM.get(parameter, frozenset()) & set(vars(fn)):
            continue
        if parameter not in vars(fn):
            # Computed back from others, it may be NaN where these are at an edge: then it is theirs to be wrong.
            value = jnp.where(jnp.isnan(value), constraint.feasible_like(value), value)
        yield parameter, *_requirement(fn, constraint, value, normalised)
    yield from _between_parameters(fn)
    if isinstance(fn, TransformedDistribution) and not isinstance(fn, FoldedDistribution):
        for part in _parts(fn.transforms):
            if isinstance(part, transforms.LowerCholeskyAffine):
                yield "scale_tril", *_requirement(fn, constraints.lower_cholesky, part.scale_tril, False)


def _requirement(fn: Any, constraint: Any, value: Any, normalised: bool) -> tuple[str, Callable[[], Codes]]:
    if normalised and isinstance(constraint, type(constraints.simplex)):
        return "be probabilities", lambda: _constant(ranges.weights, value)
    if isinstance(constraint, type(constraints.positive_definite)) and "scale_tril" in vars(fn):
        return ranges.words(constraint), lambda: _constant(ranges.factorised, value, fn.scale_tril)
    return ranges.words(constraint), lambda: _constant(lambda value: ranges.code(constraint, value), value)


def _between_parameters(fn: Any) -> Iterator[tuple[str, str, Callable[[], Codes]]]:
    """What parameters owe each other, which NumPyro does not write down."""
    low, high, most = _value(fn, "low"), _value(fn, "high"), getattr(fn, "total_count_max", None)
    if low is not None and high is not None:
        whole = fn.support is not None and fn.support.is_discrete
        yield "high", "lie above 'low'", lambda: _constant(lambda a, b: ranges.ordered(a, b, whole), low, high)
    if isinstance(fn, COUNTS) and most is not None:
        above = lambda total: jnp.where(total > most, OUTSIDE, INSIDE)  # noqa: E731
        yield "total_count", f"be at most total_count_max, {most}", lambda: _constant(above, fn.total_count)
    if isinstance(fn, _WISHARTS):
        least = fn.event_shape[-1] - 1
        bound = constraints.greater_than(float(least))
        yield "concentration", *_requirement(fn, bound, fn.concentration, False)
    if isinstance(fn, dist.GaussianCopula):
        needs, factor = ranges.words(constraints.corr_matrix), fn.base_dist.scale_tril
        yield "correlation_matrix", needs, _requirement(fn, constraints.corr_cholesky, factor, False)[1]
    if isinstance(fn, HURDLES) and fn._is_discrete:
        needs = f"be zero with a probability below 1 - {MOST_ZEROS:g}, or drawing it never ends"
        leaves, tree = jax.tree.flatten(fn.base_dist)
        certain = lambda *leaves: jnp.where(stuck(jax.tree.unflatten(tree, leaves)), OUTSIDE, INSIDE)  # noqa: E731
        yield "base_dist", needs, lambda: _constant(certain, *leaves)


def _value(fn: Distribution, parameter: str) -> Any:
    """A parameter as an array; None if it was not passed, or is no number."""
    known = vars(fn).get(parameter)
    if known is None and isinstance(getattr(type(fn), parameter, None), property):
        known = getattr(fn, parameter)
    is_number = isinstance(known, bool | int | float | np.ndarray | np.generic | jax.Array)
    return known if is_number else None


def _constant(test: Callable, *values: Any) -> Codes:
    """A test of arrays, computed at once if all of them are known."""
    arrays = [value if isinstance(value, jax.Array) else np.asarray(value) for value in values]
    if any(map(traced, arrays)):
        return test(*arrays)
    with jax.ensure_compile_time_eval():
        return np.asarray(test(*map(jnp.asarray, arrays)))


def _through(fn: Any, codes: Codes) -> Codes:
    """Verdicts on what a wrapper holds, as those on the wrapper."""
    if isinstance(fn, Element):
        return jnp.asarray(codes)[fn.cell]
    if isinstance(fn, MaskedDistribution):
        xp = _library(codes, fn._mask)
        return xp.where(xp.broadcast_to(fn._mask, fn.batch_shape), codes, INSIDE)
    return _fitted(codes, fn.batch_shape)


def _fitted(codes: Codes, shape: tuple[int, ...]) -> Codes:
    """Verdicts in a batch shape: the worst over further axes, and over all of them if they do not fit."""
    if codes.ndim > len(shape):
        codes = codes.max(tuple(range(len(shape), codes.ndim)), initial=INSIDE)
    fits = all(a in (1, b) for a, b in zip(codes.shape[::-1], shape[::-1], strict=False))
    return _library(codes).broadcast_to(codes if fits else codes.max(initial=INSIDE), shape)


def _parts(found: Sequence[Any]) -> list[Any]:
    return [part for one in found for part in (one.parts if isinstance(one, transforms.ComposeTransform) else [one])]


def _library(*values: Any) -> Any:
    """Where constants stay constants inside a trace."""
    return np if not any(isinstance(value, jax.Array) for value in values) else jnp
