"""From sites of a model to staged simulations and log-densities on the unconstrained space.

Everything here is written for one draw. `H(u; held)` below means: the integrated sites at the
unconstrained point `u`, the other sites of the integrand held at given values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpyro
from jax import random
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import biject_to

from numpyro_mi.model.integrals.decomposition import Decomposition, LogMarginal, PieceKey
from numpyro_mi.model.integrals.laws import Laws, stage_laws
from numpyro_mi.model.integrals.pieces import Piece
from numpyro_mi.model.joint import checks
from numpyro_mi.model.joint.checks import listed
from numpyro_mi.model.joint.joint_model import JointModel, Values
from numpyro_mi.model.joint.told import blamed_on
from numpyro_mi.model.sites.coordinates import STANDARDISED, standardise
from numpyro_mi.model.sites.logits import drawn_point
from numpyro_mi.model.sites.parameters import Verdict, check_observed, spoil, verdict
from numpyro_mi.model.sites.support import JACOBIAN, known_value, site_log_probs
from numpyro_mi.model.staging import Staged, stage
from numpyro_mi.targets import AnnealedTarget

Shapes = tuple[tuple[str, jax.ShapeDtypeStruct], ...]


class JointDraw(NamedTuple):
    """One ancestral simulation.

    Attributes
    ----------
    values
        The random sites by name, on their own (constrained) space.
    log_probs
        Log-density of each random site given its parents, in nats.
    drift
        For each site, that minus its log-density in the trace that drew it, nats.
    points
        For each integral, its continuous integrated sites in unconstrained coordinates: an exact draw of
        the normalised integrand.
    sums
        For each sum over discrete sites alone, its log, in nats.
    invalid
        For each site whose parameters are computed, what is to be said of these. Where one is not allowed, all
        log-densities are NaN.
    """

    values: Values
    log_probs: Values
    drift: Values
    points: tuple[Values, ...]
    sums: tuple[jax.Array, ...]
    invalid: dict[str, Verdict]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Integrand:
    """The integrand of one integral, staged: functions of `u` (or a key) and of the held values.

    Attributes
    ----------
    sample_base, sample_target
        `(rng_key, held) -> u`: an exact draw of the conditionals of the integrated sites, and of the
        normalised integrand where the user gave a posterior sampler.
    log_base, log_ratio
        `(u, held) -> nats`: their log-density, and that of the other factors.
    site_log_probs
        `(u, held)`: each factor by name, for checks; of those that depend on summed sites the largest over their
        values.
    restate
        `(u, held) -> u`: from the coordinates of the sites' supports to those that are asked for; None where
        standardised coordinates are no others.
    """

    sample_base: Staged
    log_base: Staged
    log_ratio: Staged
    sample_target: Staged | None
    site_log_probs: Staged
    restate: Staged | None

    @property
    def loops(self) -> bool:
        """Whether the density has a loop whose length may depend on the point, such as an adaptive ODE solver."""
        return self.log_base.uses("while") or self.log_ratio.uses("while")

    def held(self, values: Values, standardised: jax.Array | bool = False) -> Values:
        """Held values as these functions take them, with the choice of coordinates where there is one."""
        return values if self.restate is None else {**values, STANDARDISED: jnp.asarray(standardised)}

    def point(self, u: jax.Array, values: Values, standardised: jax.Array | bool) -> jax.Array:
        """A point given in the coordinates of the sites' supports."""
        return u if self.restate is None else self.restate(u, self.held(values, standardised))

    def target(self, values: Values, standardised: jax.Array | bool = False) -> AnnealedTarget:
        """The pivot type at one set of held values."""
        held = self.held(values, standardised)

        def at(function: Staged) -> Callable:
            return lambda first: function(first, held)

        sampler = None if self.sample_target is None else at(self.sample_target)
        return AnnealedTarget(at(self.sample_base), at(self.log_base), at(self.log_ratio), sampler)


class StagedIntegral(NamedTuple):
    """One integral, staged.

    `key` says which log-marginal it is, `held` names the sites it is conditioned on, `by_logit` those integrated sites
    whose logits go beyond what their values can tell, and `dimension` is that of the unconstrained space. `flat_target`
    and `coordinates()` are for guides, which know the held values as one vector, and the coordinates of the sites'
    supports alone.
    """

    key: PieceKey
    integrand: Integrand
    held: tuple[str, ...]
    by_logit: tuple[str, ...]
    dimension: int
    flat_target: "FlatTarget"
    coordinates: Callable[[], "Coordinates"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FlatTarget:
    """`x -> p(u, x)` with the held values as one vector x.

    Attributes
    ----------
    integrand
        The integral.
    held
        Shapes of the held values, by name.
    """

    integrand: Integrand
    held: Shapes = field(metadata={"static": True})

    def __call__(self, x: jax.Array) -> AnnealedTarget:
        """The target at one x."""
        return self.integrand.target(held_values(x, self.held))


class Coordinates(NamedTuple):
    """Between the integrated sites of one integral and their unconstrained coordinates.

    Attributes
    ----------
    constrain
        `(u, held) -> (values, log_det)`: the sites on their own space, and `log |d values / d u|`.
    unconstrain
        `(values, held) -> u`.
    integrated, held
        Shapes of the sites, by name.
    """

    constrain: Staged
    unconstrain: Staged
    integrated: Shapes
    held: Shapes


class StagedModel(NamedTuple):
    """All that a run needs of a model.

    The simulation, the integrals, the pieces behind the sums in each draw, the sites that each site is computed from,
    and what checks the draws against the densities.
    """

    draw: Staged
    integrals: tuple[StagedIntegral, ...]
    sums: tuple[PieceKey, ...]
    parents: Mapping[str, frozenset[str]]
    laws: Callable[[], Laws]


def stage_model(
    model: JointModel,
    decomposition: Decomposition,
    gradients: bool = True,
    posterior_sampler: Callable | None = None,
) -> StagedModel:
    """Stage the simulation and every integral of a model; with `gradients` require that they have them."""
    if posterior_sampler is not None and len(decomposition.integrals) != 1:
        _refuse_sampler([integral.integrated for integral in decomposition.integrals])
    pieces = [Piece(model, integral) for integral in decomposition.integrals]
    sums = [Piece(model, integral) for integral in decomposition.sums]
    draw = partial(_joint_draw, model, pieces, sums)
    example = jax.eval_shape(draw, random.key(0))
    integrals = tuple(
        _stage_integral(own, example.values, point, gradients, posterior_sampler)
        for own, point in zip(pieces, example.points, strict=True)
    )
    keys = tuple(own.integral.key for own in sums)
    points = {name: point for found in example.points for name, point in found.items()}
    laws = partial(stage_laws, model, (*pieces, *sums), example.values, points)
    return StagedModel(stage(draw, random.key(0)), integrals, keys, model.parents, laws)


def fixed_log_probs(model: JointModel, exact: Sequence[str], sums: Sequence[LogMarginal], values: Values) -> float:
    """Sum of exact conditionals and sums over discrete sites at values of the sites that they hold, nats."""
    trace = handlers.trace(model.held_at(values)).get_trace()
    total = sum(float(value) for name, value in site_log_probs(trace, exact).items() if name in exact)
    return total + sum(piece.sign * float(Piece(model, piece).log_total({}, values)) for piece in sums)


def check_parameters_at(model: JointModel, values: Values) -> None:
    """Refuse values at which the parameters of sites that depend on nothing else are not allowed."""
    with numpyro.validation_enabled(False):  # which names no site
        trace = handlers.trace(model.held_at(values)).get_trace()
        known = [name for name in model.sites if model.parents[name] <= set(values)]
        check_observed({name: verdict(trace[name]["fn"], jnp.zeros(())) for name in known}, model.parents)


def flatten(point: Values) -> jax.Array:
    """Unconstrained sites as one vector, in the alphabetical order that NumPyro's kernels use."""
    return ravel_pytree(point)[0]


def features(held: Values) -> jax.Array:
    """Held values as one vector of floats, sites alphabetically."""
    return flatten({name: jnp.asarray(value, float) for name, value in held.items()}) if held else jnp.zeros(0)


def held_values(x: jax.Array, shapes: Shapes) -> Values:
    """The inverse of `features`."""
    values, start = {}, 0
    for name, shape in shapes:
        part = x[start : start + shape.size].reshape(shape.shape)
        # Through a float and back: integers are whole again.
        whole = part if jnp.issubdtype(shape.dtype, jnp.floating) else jnp.round(part)
        values[name] = whole.astype(shape.dtype)
        start += shape.size
    return values


def _shapes(values: Values) -> Shapes:
    return tuple((name, jax.ShapeDtypeStruct(values[name].shape, values[name].dtype)) for name in sorted(values))


def _joint_draw(model: JointModel, integrals: Sequence[Piece], sums: Sequence[Piece], rng_key: jax.Array) -> JointDraw:
    drawing = model.drawing_trace(rng_key)
    values = {name: known_value(drawing[name]) for name in model.sites}
    trace = handlers.trace(model.held_at(values)).get_trace()
    held, drawn = site_log_probs(trace, model.sites), site_log_probs(drawing, model.sites)
    invalid = {name: verdict(drawing[name]["fn"], held[name] + drawn[name]) for name in model.sites}
    log_probs = {name: spoil(invalid, held[name]) for name in model.sites}
    drift = {name: held[name] - drawn[name] for name in model.sites}
    points = tuple(_unconstrain(trace, values, own, drawing) for own in integrals)
    log_sums = tuple(own.log_total({}, values) for own in sums)
    return JointDraw(values, log_probs, drift, points, log_sums, invalid)


def _unconstrain(
    trace: Mapping[str, dict],
    values: Values,
    own: Piece,
    drawing: Mapping[str, dict] | None = None,
    standardised: Any = None,
) -> Values:
    """Integrated sites on the real line; the transform is the one of this draw's own support, or frame.

    `drawing` is the trace that drew them, if one did.
    """
    points = {}
    for name in own.continuous:
        fn = trace[name]["fn"]
        point = biject_to(fn.support).inv(values[name])
        point = point if drawing is None else drawn_point(drawing[name], point)
        moves = standardised is not None and name in own.standard
        points[name] = standardise(fn, point, standardised) if moves else point
    return points


def _stage_integral(
    own: Piece, values: Values, point: Values, gradients: bool, posterior_sampler: Callable | None
) -> StagedIntegral:
    model, names = own.model, own.continuous
    values_held = {name: values[name] for name in own.held}
    held = {**values_held, STANDARDISED: jnp.asarray(False)} if own.choosable else values_held
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), point)
    u, unravel = ravel_pytree(zeros)

    def unconstrained(values, drawing=None):
        known = {name: value for name, value in values.items() if name != STANDARDISED}
        trace = handlers.trace(model.held_at(known)).get_trace()
        return flatten(_unconstrain(trace, known, own, drawing, values.get(STANDARDISED)))

    def sample_base(rng_key, held):
        known = {name: held[name] for name in own.held}
        run = handlers.seed(handlers.condition(model.joint(), data=known), rng_key)
        trace = handlers.trace(run).get_trace()
        return unconstrained({**held, **{name: trace[name]["value"] for name in own.integral.integrated}}, trace)

    def sample_target(rng_key, held):
        assert posterior_sampler is not None
        with blamed_on("posterior_sampler(rng_key, data)"):
            drawn = posterior_sampler(rng_key, {name: held[name] for name in own.held})
        _check_posterior_draw(drawn, {name: values[name] for name in names})
        return unconstrained({**held, **drawn})

    def restate(u, held):
        points, known = unravel(u), {name: held[name] for name in own.held}
        trace = own.trace_at(points, known)
        moved = {name: standardise(trace[name]["fn"], points[name], held[STANDARDISED]) for name in own.standard}
        return flatten({**points, **moved})

    def density(function):
        return lambda u, held: function(unravel(u), held)

    by_site = stage(density(own.by_site), u, held)
    base = stage(sample_base, random.key(0), held)
    sampler = None if posterior_sampler is None else stage(sample_target, random.key(0), held)
    with checks.differentiable(names):
        log_base, log_ratio = (
            stage(density(function), u, held, differentiable=gradients) for function in (own.log_base, own.log_ratio)
        )
    mover = stage(restate, u, held) if own.choosable else None
    integrand = Integrand(base, log_base, log_ratio, sampler, by_site, mover)

    def coordinates():
        def constrain(u, held):
            trace = own.trace_at(unravel(u), held)
            return {name: trace[name]["value"] for name in names}, site_log_probs(trace, ())[JACOBIAN]

        integrated = {name: values[name] for name in names}
        back = stage(lambda own, held: unconstrained({**held, **own}), integrated, values_held)
        return Coordinates(stage(constrain, u, values_held), back, _shapes(integrated), _shapes(values_held))

    flat_target = FlatTarget(integrand, _shapes(values_held))
    return StagedIntegral(own.integral.key, integrand, own.held, own.by_logit, u.size, flat_target, coordinates)


def _check_posterior_draw(drawn: Any, expected: Values) -> None:
    if not isinstance(drawn, dict) or set(drawn) != set(expected):
        got = sorted(drawn) if isinstance(drawn, dict) else type(drawn).__name__
        raise ValueError(
            f"posterior_sampler(rng_key, data) must return a dict of the latents {sorted(expected)}, got {got}."
        )
    for name, value in drawn.items():
        if jnp.shape(value) != expected[name].shape:
            raise ValueError(
                f"posterior_sampler returned {name!r} with shape {jnp.shape(value)}, "
                f"one draw of it has shape {expected[name].shape}."
            )


def _refuse_sampler(integrated: Sequence[Sequence[str]]) -> NoReturn:
    """Refuse a posterior sampler where there is not one posterior."""
    found = " and ".join(listed(names) for names in integrated) or "none"
    raise ValueError(
        f"IR(posterior_sampler) serves one integral, but this mutual information has {len(integrated)} (over {found}): "
        "use IM() or CR(), which need no sampler."
    )
