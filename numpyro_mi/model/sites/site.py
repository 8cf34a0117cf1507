"""What the checks need to know of a model's sites; no arrays, so that nothing outlives its trace."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import biject_to
from numpyro.distributions.distribution import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    Unit,
)

from numpyro_mi.model.sites.slices import Element, Others

WRAPPERS = (Element, ExpandedDistribution, Independent, MaskedDistribution, Others)


_MIXTURES = (dist.MixtureGeneral, dist.MixtureSameFamily)


class Site(NamedTuple):
    """One message of a model.

    Attributes
    ----------
    kind
        "sample", "param", "plate", "deterministic" or "mutable".
    value
        Shapes and types of its value (of samples and parameters).
    subsample
        Of a plate, how many of how many.
    drawn, event_dim
        Shape of one draw, and how many of its last axes are one event; these and what follows are of samples.
    observed, masked, scaled
        Whether it has a value of its own, cells left out, a factor on its log-density.
    flaw
        Why it cannot be part of a joint density, or None.
    obstacle
        Why it cannot be annealed, or None.
    choices
        The values of one element, if it is discrete and they can be listed; else None.
    points, counts
        Whether a Delta is mixed into its distribution, and a distribution of counts.
    """

    kind: str
    value: Any = None
    subsample: tuple[int, int] | None = None
    drawn: tuple[int, ...] = ()
    event_dim: int = 0
    observed: bool = False
    masked: bool = False
    scaled: bool = False
    flaw: str | None = None
    obstacle: str | None = None
    choices: tuple[int, ...] | None = None
    points: bool = False
    counts: bool = False

    @property
    def auxiliary(self) -> bool:
        """Whether it is a `numpyro.factor`."""
        return self.kind == "sample" and self.flaw == _FACTOR


def site(msg: dict) -> Site:
    """Read a message, inside the trace that it belongs to."""
    if msg["type"] == "plate":
        size, *rest = msg["args"]
        taken = rest[0] if rest and rest[0] is not None else size
        return Site("plate", subsample=(taken, size))
    if msg["type"] == "param":
        return Site("param", _shapes(msg["value"]))
    if msg["type"] != "sample":
        return Site(msg["type"])
    fn = msg["fn"]
    return Site(
        "sample",
        _shapes(msg["value"]),
        None,
        (*msg["kwargs"]["sample_shape"], *fn.shape()),
        fn.event_dim,
        msg["is_observed"],
        mask_of(fn) is not None,
        not _is_one(msg["scale"]),
        _flaw(fn),
        _obstacle(fn),
        _choices(fn),
        _has_delta(fn),
        any(map(_discrete, _parts(fn))),
    )


def _is_one(scale: Any) -> bool:
    """Whether a factor on a log-density is known to be exactly 1; None is no factor."""
    return scale is None or not isinstance(scale, jax.core.Tracer) and bool(np.all(np.asarray(scale) == 1))


def unwrapped(fn: Distribution) -> Distribution:
    """The distribution inside expand, to_event and mask."""
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return fn


def ingredients(fn: Distribution) -> Iterator[tuple[str, Any]]:
    """The attributes that hold the distributions that `fn` is made of, one or a sequence of them."""
    for name, value in vars(fn).items():
        several = isinstance(value, list | tuple) and value and all(isinstance(item, Distribution) for item in value)
        if isinstance(value, Distribution) or several:
            yield name, value


def mask_of(fn: Distribution) -> Any:
    """The mask of a distribution; None if there is none, or if it leaves nothing out."""
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, MaskedDistribution) and fn._mask is not True:
            return fn._mask
        fn = fn.base_dist
    return None


_FACTOR = (
    "is a numpyro.factor: the joint density is then not normalised and cannot be simulated. Write the term "
    "as numpyro.sample(..., obs=...) of a distribution."
)
_DELTA = (
    "has a Delta distribution, which has no density: use numpyro.deterministic for a value that is computed, or "
    "a distribution with a width."
)
_MIXED_MEASURES = (
    "mixes points ({points}) with a density ({densities}), and its log_prob adds a probability to a density, which its "
    "draws do not follow. If the point is 0, use dist.HurdleDistribution. Or draw which part it is as a site of its "
    "own, event = numpyro.sample(..., dist.Bernoulli(...)), and the density under handlers.mask(mask=event == 1), and "
    "name both in data."
)
_MOVING_POINT = (
    "is a mixture with a Delta that other sites move, or that is at no whole number beside counts, which has no "
    "density: use a Delta at a constant, or a distribution with a width."
)
_OTHER_DRAWS = (
    "has a {}, whose draws do not follow its log_prob ({}), so that the joint distribution cannot be simulated: {}."
)
_NOT_ITS_DRAWS = {
    "Censored": (
        "that one is for given censoring indicators",
        "use the distribution inside it, or one of your own that draws the clipped value and has its log_prob",
    ),
    "PolyaGamma": ("both are approximations", "write the site through another distribution"),
}


MOST_CHOICES = 1024
"""The longest sum."""


def _choices(fn: Distribution) -> tuple[int, ...] | None:
    base = unwrapped(fn)
    discrete = base.event_dim == 0 and base.support is not None and base.support.is_discrete
    if not discrete or not base.has_enumerate_support or mask_of(fn) is not None:
        return None
    try:
        # A support of Python numbers and shapes is known while the model is traced; one that depends on another
        # site is not, and is no list.
        with jax.ensure_compile_time_eval():
            values = np.asarray(base.enumerate_support(expand=False)).reshape(-1)
    except Exception:
        return None
    return tuple(values.tolist()) if len(values) <= MOST_CHOICES else None


def _shapes(value: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)), value)


def _flaw(fn: Distribution) -> str | None:
    if isinstance(unwrapped(fn), Unit):
        return _FACTOR
    if isinstance(fn, dist.Delta):
        return _DELTA
    if isinstance(fn, _MIXTURES):
        return _mixture_flaw(fn)
    if not isinstance(fn, WRAPPERS) and _has_delta(fn):
        return _DELTA
    # NumPyro's own; a class of the user's may be right under the same name.
    own = " ".join(cls.__name__ for cls in type(fn).__mro__ if cls.__module__.startswith("numpyro."))
    for part, words in _NOT_ITS_DRAWS.items():
        if part in own:
            return _OTHER_DRAWS.format(type(fn).__name__, *words)
    parts = [part for _, value in ingredients(fn) for part in (value if isinstance(value, list | tuple) else [value])]
    return next((flaw for flaw in map(_flaw, parts) if flaw), None)


def _components(fn: Distribution) -> list[Distribution]:
    """The distributions that a mixture mixes."""
    found = getattr(fn, "component_distributions", None)
    return list(found) if found is not None else [fn.component_distribution]


def _mixture_flaw(fn: Distribution) -> str | None:
    """Points may be mixed with points: then log_prob is the log of a probability everywhere."""
    parts = _components(fn)
    flaw = next((flaw for part in parts if not isinstance(unwrapped(part), dist.Delta) and (flaw := _flaw(part))), None)
    points = [part for part in parts if _has_delta(part) or _discrete(part)]
    densities = [part for part in parts if part not in points]
    if flaw or not points or not densities:
        return flaw
    kinds = [dict.fromkeys(type(unwrapped(part)).__name__ for part in group) for group in (points, densities)]
    return _MIXED_MEASURES.format(points=", ".join(kinds[0]), densities=", ".join(kinds[1]))


def _has_delta(fn: Distribution) -> bool:
    return any(isinstance(part, dist.Delta) for part in _parts(fn))


def _discrete(fn: Distribution) -> bool:
    return fn.support is not None and bool(fn.support.is_discrete)


def _parts(fn: Distribution) -> Iterator[Distribution]:
    """A distribution and all that it is made of."""
    yield fn
    for _, value in ingredients(fn):
        for part in value if isinstance(value, list | tuple) else [value]:
            yield from _parts(part)


def points_of(fn: Distribution) -> list[tuple[Any, Any]]:
    """Where the Deltas in a distribution are, and their `log_density`."""
    return [(part.v, part.log_density) for part in _parts(fn) if isinstance(part, dist.Delta)]


def with_points(own: Site, found: list[tuple[Any, Any]] | None) -> Site:
    """A site with Deltas in it, refused if these are not at constants, as None says, or not what counts can have."""
    if found is not None:
        values, log_densities = ([np.asarray(value) for value in values] for values in zip(*found, strict=True))
        whole = not own.counts or all(np.all(value == np.round(value)) for value in values)
        if whole and all(np.all(value == 0) for value in log_densities):
            return own
    return own._replace(flaw=own.flaw or _MOVING_POINT)


def _obstacle(fn: Distribution) -> str | None:
    """A latent must be continuous, with a map onto the real line."""
    name = type(unwrapped(fn)).__name__
    if mask_of(fn) is not None:
        return (
            "is masked (handlers.mask): a masked prior is not the one it is drawn from. A masked site can be in data, "
            "if nothing else depends on it."
        )
    if "ZeroInflated" in name or "Hurdle" in name or _has_delta(fn):
        return f"has a point mass ({name}), so it cannot be moved along a gradient. It is fine as data."
    if fn.support is not None and fn.support.is_discrete:
        return f"is discrete ({name}), so that it cannot be moved along a gradient."
    try:
        biject_to(fn.support)
    except NotImplementedError:
        return (
            f"has a {name} distribution, whose support {type(fn.support).__name__.strip('_')} NumPyro cannot map "
            "to the real line (no biject_to): write it through a distribution that can be."
        )
    return None
