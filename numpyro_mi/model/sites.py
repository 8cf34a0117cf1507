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

from numpyro_mi.model.slices import Element, Others

WRAPPERS = (Element, ExpandedDistribution, Independent, MaskedDistribution, Others)


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
        msg["scale"] is not None,
        _flaw(fn),
        _obstacle(fn),
        _choices(fn),
    )


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
    # NumPyro's own; a class of the user's may be right under the same name.
    own = " ".join(cls.__name__ for cls in type(fn).__mro__ if cls.__module__.startswith("numpyro."))
    for part, words in _NOT_ITS_DRAWS.items():
        if part in own:
            return _OTHER_DRAWS.format(type(fn).__name__, *words)
    parts = [part for _, value in ingredients(fn) for part in (value if isinstance(value, list | tuple) else [value])]
    return next((flaw for flaw in map(_flaw, parts) if flaw), None)


def _obstacle(fn: Distribution) -> str | None:
    """A latent must be continuous, with a map onto the real line."""
    name = type(unwrapped(fn)).__name__
    if mask_of(fn) is not None:
        return "is masked (handlers.mask): a masked prior is not the one it is drawn from."
    if "ZeroInflated" in name or "Hurdle" in name:
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
