"""A model as a smooth function of some of its arguments, along the draws of its sites."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import jax
from jax import random
from numpyro.distributions.distribution import Distribution, TransformedDistribution

from numpyro_mi.model.joint.checks import ModelError, listed
from numpyro_mi.model.joint.joint_model import JointModel
from numpyro_mi.model.joint.told import plain
from numpyro_mi.model.sites.site import ingredients, unwrapped
from numpyro_mi.model.sites.support import bounds_of, kept_cells
from numpyro_mi.model.staging import KEY, depends_on

_DESIGN = "<design>"  # no site is named like this

AtDesign = Callable[[Any], JointModel]
"""The model at one design."""


def called_with(joint: JointModel, args: tuple, kwargs: dict[str, Any]) -> JointModel:
    """The same model, which holds no sites, with other arguments, maybe traced ones; nothing is checked again."""
    assert isinstance(joint.run, partial) and not joint.fixed
    return replace(joint, run=partial(joint.run.func, *args, **kwargs))


@contextmanager
def differentiable_in_design() -> Iterator[None]:
    """Say what a design must be, where JAX cannot differentiate with respect to it."""
    try:
        yield
    except (ModelError, jax.errors.JAXTypeError) as error:
        reason = error.__cause__ if isinstance(error, ModelError) else error
        if not isinstance(reason, jax.errors.JAXTypeError):
            raise
        raise TypeError(
            "the model cannot be traced as a function of the design: a value of it is a size, or decides something in "
            "Python (an `if`), and has no gradient. Pass it in model_args or model_kwargs, and compare its values by "
            f"expected_information_gain. JAX says: {plain(str(reason)).splitlines()[0]}"
        ) from error


def check_smooth(at_design: AtDesign, design: Any, data: Sequence[str]) -> None:
    """Refuse sites whose draws, or whose support, do not move smoothly with the design.

    Raises
    ------
    ValueError
        Naming the site.
    """
    smooth: dict[str, bool] = {}

    def values(inputs):
        trace = at_design(inputs[_DESIGN]).drawing_trace(inputs[KEY])
        names = at_design(inputs[_DESIGN]).sites
        smooth.update({name: bool(trace[name]["fn"].has_rsample) for name in names})
        return {name: trace[name]["value"] for name in names}

    def edges(inputs):
        trace = at_design(inputs[_DESIGN]).drawing_trace(inputs[KEY])
        return {name: list(_edges(trace[name]["fn"])) for name in data}

    def masks(inputs):
        trace = at_design(inputs[_DESIGN]).drawing_trace(inputs[KEY])
        return {name: kept_cells(trace[name]["fn"]) for name in masked}

    masked = [name for name in at_design(design).sites if at_design(design).traced[name].masked]
    inputs = {_DESIGN: design, KEY: random.key(0)}
    with differentiable_in_design():
        moved = [name for name, used in depends_on(values, inputs).items() if _DESIGN in used]
        moving = [name for name, used in depends_on(edges, inputs).items() if used]
        jumping = [name for name, used in depends_on(masks, inputs).items() if _DESIGN in used]
    for name in moved:
        if not smooth[name]:
            _refuse_draws(name)
    if moving:
        _refuse_support(moving)
    if jumping:
        _refuse_mask(jumping)


def _edges(fn: Distribution) -> Iterator[Any]:
    """Arrays that the edges of a support are computed from, those of what a distribution is made of included."""
    yield from jax.tree.leaves(fn.support)
    if isinstance(fn, TransformedDistribution) and bounds_of(unwrapped(fn.base_dist).support) != (None, None):
        yield from jax.tree.leaves(fn.transforms)
    for _, value in ingredients(fn):
        for part in value if isinstance(value, list | tuple) else [value]:
            yield from _edges(part)


def _refuse_draws(name: str) -> NoReturn:
    raise ValueError(
        f"the draws of site {name!r} depend on the design and are not reparametrised (a discrete site, a mixture, or a "
        "distribution without has_rsample), so that no gradient passes through them: compare several designs by "
        "expected_information_gain."
    )


def _refuse_support(names: Sequence[str]) -> NoReturn:
    raise ValueError(
        f"the support of data {listed(names)} moves with other sites or with the design, so that weights jump to zero "
        "at its edge and the pathwise gradient is biased: compare several designs by expected_information_gain."
    )


def _refuse_mask(names: Sequence[str]) -> NoReturn:
    raise ValueError(
        f"which cells of data {listed(names)} are masked depends on the design, so that the gain jumps with it: "
        "compare several designs by expected_information_gain."
    )
