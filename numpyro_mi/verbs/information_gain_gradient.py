"""Gradient of the expected information gain with respect to a design."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.draws.keys import Role, as_key, role_key
from numpyro_mi.draws.preflight import preflight
from numpyro_mi.evidence.importance import ImportanceMethod, StructuredInfoNCE
from numpyro_mi.guides.flow import FittedFlow, FlowGuide
from numpyro_mi.guides.neural import FittedNeural, NeuralGuide
from numpyro_mi.guides.regression import FittedRegression, RegressionGuide
from numpyro_mi.model.integrals.decomposition import Decomposition, decompose
from numpyro_mi.model.joint.joint_model import JointModel
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.views.pathwise import called_with, check_smooth, differentiable_in_design
from numpyro_mi.options import shown
from numpyro_mi.results.estimation import mean, spoil
from numpyro_mi.results.gradient import GainGradient
from numpyro_mi.runs.blocks import block_size
from numpyro_mi.runs.evidence import Rows, require_likelihood
from numpyro_mi.runs.gradient import means, score_gradients, stage_gradient
from numpyro_mi.runs.planning import fit_guides
from numpyro_mi.verbs.arguments import DEFAULT_NUM_SAMPLES, integer

_GUIDES = (RegressionGuide, FittedRegression, NeuralGuide, FittedNeural, FlowGuide, FittedFlow)
_DEFAULT_PARTICLES = 100
_NEAR = 1.0  # nats below log K


def information_gain_gradient(
    model: Callable,
    design: Mapping[str, Any] | tuple,
    latent: str | Sequence[str],
    data: str | Sequence[str],
    *,
    method: ImportanceMethod | None = None,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    rng_key: jax.Array | int | None = None,
    params: Mapping[str, Any] | None = None,
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
) -> GainGradient:
    """Lower bound on the expected information gain of one design, and its gradient with respect to the design.

    The gradient is taken along the simulation of latents and data, with all random numbers held. So these must move
    smoothly with the design: sites that depend on it need reparametrised draws, and the model must not jump where it
    compares or rounds what depends on the design (`jnp.where(z > design, ...)`), which cannot be seen from outside. A
    guide is held fixed: what is differentiated is the bound with this guide.

    The bound itself, as `mi_bounds` gives it with the same method and key, is no better for its gradient: compare
    the designs that an ascent ends at by `expected_information_gain` with a fresh key.

    Parameters
    ----------
    model
        A NumPyro model that takes the design as arguments.
    design
        A dict of keyword arguments, or a tuple of positional ones: arrays of floats, and pytrees of them.
    latent, data
        As in `mi_bounds`; p(data | latent) must be exact, without other latents to integrate out.
    method
        `StructuredInfoNCE(...)` (None: with 100 particles), which never exceeds the log of its particles, or
        `IWAE(...)` or `BarberAgakov(...)` with a regression, a neural (of one component) or a flow guide.
    num_samples, rng_key, params
        As in `mi_bounds`.
    model_args, model_kwargs
        The other arguments of the model. Positional designs come first.

    Returns
    -------
    GainGradient

    Raises
    ------
    TypeError, ValueError
        For what has no pathwise gradient, before anything compiles; and whatever `mi_bounds` refuses.

    References
    ----------
    Foster et al., A unified stochastic gradient approach to designing Bayesian-optimal experiments, AISTATS 2020.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from numpyro_mi import information_gain_gradient
    >>> def model(angle, y=None):
    ...     w = numpyro.sample("w", dist.Normal(jnp.zeros(2), jnp.array([2.0, 1.0])).to_event(1))
    ...     direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    ...     numpyro.sample("y", dist.Normal(direction @ w, 1), obs=y)
    >>> information_gain_gradient(model, {"angle": 0.5}, "w", "y").gradient  # doctest: +SKIP
    """
    method = StructuredInfoNCE(_DEFAULT_PARTICLES) if method is None else method
    _check_method(method)
    num_samples = integer("num_samples", num_samples, at_least=2)
    design, key = _floats(design), as_key(rng_key)

    def arguments(design: Any) -> tuple[tuple, dict[str, Any]]:
        if isinstance(design, Mapping):
            return tuple(model_args), {**(model_kwargs or {}), **design}
        return (*design, *model_args), dict(model_kwargs or {})

    with differentiable_in_design():
        joint = joint_model(model, latent, data, *arguments(design), params)
    require_likelihood(joint, method)
    decomposition = decompose(joint)
    _check_decomposition(joint, decomposition)

    def at_design(design: Any) -> JointModel:
        return called_with(joint, *arguments(design))

    check_smooth(at_design, design, joint.data)
    staged = Rows(joint, (decomposition,), method, key).staged
    pilots = preflight(staged, role_key(key, Role.PILOT_JOINT))
    (guide,) = fit_guides(staged, method, pilots, key, lambda stage: None)
    function = stage_gradient(at_design, design, decomposition, method, guide)
    values, gradients = score_gradients(
        function, design, key, num_samples, block_size(num_samples, method.num_particles)
    )
    lower = mean(spoil(values, -1))
    gradient, gradient_se = (jax.tree.map(lambda leaf, part=part: means(leaf)[part], gradients) for part in (0, 1))
    return GainGradient(*lower, gradient, gradient_se, num_samples, (*joint.notes, *_notes(method, lower.value)))


def _notes(method: ImportanceMethod, lower: float) -> tuple[str, ...]:
    if not isinstance(method, StructuredInfoNCE) or not lower > np.log(method.num_particles) - _NEAR:
        return ()
    return (
        f"the bound is within {_NEAR:g} nat of log {method.num_particles:,}, which it never exceeds, and its gradient "
        "is smaller than that of the gain: more num_particles, or IWAE().",
    )


def _check_method(method: Any) -> None:
    if isinstance(method, ImportanceMethod):
        guide = method.base
        several = getattr(getattr(guide, "config", guide), "num_components", 1) > 1
        if guide is None or isinstance(guide, _GUIDES) and not several:
            return
        raise TypeError(
            f"the draws of {type(guide).__name__}{' with several components' if several else ''} are not "
            "reparametrised, so that no gradient passes through them: use RegressionGuide(), NeuralGuide() with one "
            "component, or FlowGuide()."
        )
    if getattr(method, "kernel", None) is not None:
        raise TypeError(
            f"{type(method).__name__} is annealed, and through Metropolis accept steps the pathwise gradient is "
            "biased: use StructuredInfoNCE(...), or IWAE(...) with a guide."
        )
    raise TypeError(
        "method must be one of StructuredInfoNCE(...), IWAE(...), BarberAgakov(...), or None for "
        f"StructuredInfoNCE({_DEFAULT_PARTICLES}), got {shown(method)}."
    )


def _floats(design: Any) -> Any:
    """The design as arrays of floats."""
    if not isinstance(design, Mapping | tuple) or not jax.tree.leaves(design):
        raise TypeError(
            "design must be a dict of keyword arguments of the model, or a tuple of positional ones, one design "
            f"without an axis over designs, got {shown(design)}."
        )
    for path, leaf in jax.tree_util.tree_flatten_with_path(design)[0]:
        known = isinstance(leaf, float | np.floating | np.ndarray | jax.Array)
        if not known or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"design{jax.tree_util.keystr(path)} must be a float or an array of floats, which have a gradient, got "
                f"{shown(leaf)}: write whole numbers as 2.0; sizes and indices belong in model_args or model_kwargs."
            )
    design = dict(design) if isinstance(design, Mapping) else design
    return jax.tree.map(jnp.asarray, design)


def _check_decomposition(joint: JointModel, decomposition: Decomposition) -> None:
    """Refuse whatever is not `log p(data | latent)`, exact, minus one integral."""
    integrals = decomposition.integrals
    sites = [name for piece in decomposition.pieces() for name in piece.integrated]
    summed = sorted({name for name in sites if joint.traced[name].choices})
    if summed:
        raise ValueError(
            f"site(s) {summed} are discrete and summed over, and the gradient is that of one integral over continuous "
            "latents: compare several designs by expected_information_gain."
        )
    if len(integrals) != 1 or integrals[0].sign != -1:
        pieces = [", ".join(piece.integrated) for piece in integrals]
        raise ValueError(
            "the gradient needs an exact p(data | latent) and one integral, over the latents, and here are "
            f"{len(integrals)} integrals ({'; '.join(pieces) or 'the groups are independent'}): name every latent "
            "that the data depend on in latent, or compare several designs by expected_information_gain."
        )
