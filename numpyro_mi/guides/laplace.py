"""Laplace's approximation of each data set's posterior: modes by Newton's method, tails of a Student-t."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from numpyro_mi.guides.base import (
    Conditional,
    FittedGuide,
    check_fitted,
    normal_log_prob,
    normal_sample,
    student_log_prob,
    student_sample,
)
from numpyro_mi.guides.mixture import mixture_of_modes
from numpyro_mi.guides.modes import FLAT, Mode, expand, expansion_cost, find_mode, new_mode
from numpyro_mi.guides.regression import FittedRegression, RegressionGuide
from numpyro_mi.options import shown
from numpyro_mi.targets import AnnealedTarget
from numpyro_mi.training.pairs import Pairs

_MOST_LATENTS = 200
_POOL = 64  # draws of the prior, and as many of the regression, that pilot starts are chosen from
_JITTER = 0.1  # regression standard deviations: no start lies exactly on a saddle
_UNCOVERED = 3.0  # nats by which the joint density exceeds the mixture: a draw that the modes miss
_LITTLE = math.log(1e-3)  # share of the evidence not worth a search
_TAILS = (5.0, None, 1.0)  # degrees of freedom that pilots try
_DOF_RANGE = (0.5, 1000.0)


@dataclass(frozen=True)
class LaplaceGuide:
    """A mixture of Student-t densities at the posterior modes of each data set.

    For each x, damped Newton steps climb `log p(z, x)` from several starts: the mean of a
    `RegressionGuide`, one of its standard deviations to either side along the direction of least
    curvature if that is negative or the first search fails, and draws of the prior and the regression,
    by importance weight, as long as some lie where the modes so far leave mass uncovered. Each distinct
    mode becomes a component with the inverse curvature as scale matrix, weighted by its Laplace
    evidence. What remains uncovered is the weight of the regression, with the same tails; where no
    search ends at a mode, it is all of the guide (counted in the result's `stats` as `guide_fallback`).

    Very good where posteriors are near normal, however nonlinear the model; weak for posteriors that
    are skewed, or have more modes than the draws find. It costs a hundred gradients a data set or more
    (`guide_num_grad`), and 2d a step in d latent dimensions: more than 200 of them are refused.

    Parameters
    ----------
    degrees_of_freedom
        Of the Student-t: 5 for moderately heavy tails, 1 for very heavy ones, None for a normal density.
        "auto": the one of these three with the smallest gap of importance sampling on pilot draws.
    inflation
        Factor of the inverse curvature, above 0.
    num_pilots
        At most so many starts from draws.
    max_iterations
        Newton steps from each start.

    References
    ----------
    Tierney and Kadane, JASA 1986; Marquardt, 1963 (damping).
    """

    degrees_of_freedom: float | None | Literal["auto"] = "auto"
    inflation: float = 1.1
    num_pilots: int = 4
    max_iterations: int = 30

    needs_likelihood: ClassVar[bool] = True

    def __post_init__(self) -> None:
        dof, (low, high) = self.degrees_of_freedom, _DOF_RANGE
        if dof is not None and dof != "auto" and not (_is_real(dof) and low <= dof <= high):
            raise ValueError(
                f"LaplaceGuide needs degrees_of_freedom between {low} and {high}, or None for a normal density, "
                f'or "auto", got {shown(dof)}.'
            )
        if not (_is_real(self.inflation) and 0 < self.inflation < math.inf):
            raise ValueError(f"LaplaceGuide needs a finite inflation above 0, got {shown(self.inflation)}.")
        for name, least in (("num_pilots", 0), ("max_iterations", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"LaplaceGuide needs {name}, an integer of at least {least}, got {shown(value)}.")

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> FittedGuide:
        """Fit the regression that mode searches start from."""
        if pairs.dimension > _MOST_LATENTS:
            raise ValueError(
                f"LaplaceGuide needs a Hessian at each step, worth its cost for up to {_MOST_LATENTS} latents, and "
                f"here there are {pairs.dimension}: use RegressionGuide(), from which its searches start."
            )
        return FittedLaplace(RegressionGuide().fit(pairs, rng_key, report), self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FittedLaplace:
    """A `LaplaceGuide` with its fitted regression.

    Attributes
    ----------
    regression
        Where mode searches start, and in whose coordinates they run.
    config
        The guide that was fitted.
    """

    regression: FittedRegression
    config: LaplaceGuide = field(metadata={"static": True})

    needs_likelihood: ClassVar[bool] = True

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> "FittedLaplace":
        """Itself, if it is a guide for such draws."""
        check_fitted(self, len(self.regression.bias), len(self.regression.x_loc), pairs)
        return self

    @property
    def dof(self) -> float | None:
        """Degrees of freedom; 5 until pilots have chosen."""
        dof = self.config.degrees_of_freedom
        return _TAILS[0] if isinstance(dof, str) else dof

    def variants(self) -> tuple["FittedLaplace", ...]:
        """The guides that pilots choose from by their measured gaps: other tails on the same modes."""
        if self.config.degrees_of_freedom != "auto":
            return (self,)
        return tuple(replace(self, config=replace(self.config, degrees_of_freedom=dof)) for dof in _TAILS)

    def condition(self, target: AnnealedTarget | None, x: jax.Array, rng_key: jax.Array) -> Conditional:
        """The mixture at one x."""
        if target is None:
            raise ValueError(
                "LaplaceGuide looks for modes of the joint density of latents and data, which this method does not "
                "know: use RegressionGuide() or NeuralGuide(), which are fitted to draws."
            )
        base = self.regression.condition(target, x, rng_key)

        def log_joint(v):
            u = base.unwhiten(v)
            return target.log_base(u) + target.log_ratio(u)

        start_key, pilot_key, choice_key = jax.random.split(rng_key, 3)
        starts, saddle = _near_regression(log_joint, start_key, base.loc)
        pilots = _draw_pilots(target, base, log_joint, pilot_key)
        modes, num_grad, missed = self._modes(log_joint, starts, saddle, pilots, choice_key)
        count = (modes.log_evidence > -jnp.inf).sum()
        log_weights = jnp.append(modes.log_evidence, jnp.where(count > 0, missed, 0.0))
        log_weights = log_weights - logsumexp(log_weights)
        stats = {
            "num_grad": num_grad + expansion_cost(base.loc.size) + _POOL,
            "fallback": (count == 0).astype(int),
            "modes": count,
            "regression_weight": jnp.exp(log_weights[-1]),
        }
        return mixture_of_modes(base, modes, log_weights, stats)

    def _modes(
        self, log_joint: Callable, starts: jax.Array, saddle: jax.Array, pilots: "Pilots", rng_key: jax.Array
    ) -> tuple[Mode, jax.Array, jax.Array]:
        """Distinct modes, one slot a start; gradients; and the log-evidence of the pilot draws that they miss.

        Searches follow one another. Those beside the regression mean are for saddles; pilot starts are drawn
        from the mass that the modes so far leave uncovered, and there is no search where that is little.
        """
        config, (beside, d) = self.config, starts.shape

        def search(carry, inputs):
            modes, covered = carry
            slot, key = inputs
            known = logsumexp(modes.log_evidence)
            weights = jnp.where(pilots.log_joint - covered > _UNCOVERED, pilots.log_weight, -jnp.inf)
            start = pilots.v[jax.random.categorical(key, weights)]
            start = jnp.where(slot < beside, starts[jnp.minimum(slot, beside - 1)], start)
            failed = (slot > 0) & (saddle | (modes.log_evidence[0] == -jnp.inf))
            wanted = jnp.where(slot < beside, (slot == 0) | failed, logsumexp(weights) - known > _LITTLE)
            end = find_mode(log_joint, start, jnp.where(wanted, config.max_iterations, 0))
            mode = new_mode(end, modes, config.inflation)
            modes = jax.tree.map(lambda all, one: all.at[slot].set(one), modes, mode)
            return (modes, jnp.logaddexp(covered, self._log_density(mode, pilots.v))), end.num_grad

        slots = beside + config.num_pilots
        none = jnp.full(slots, -jnp.inf, starts.dtype)
        empty = Mode(none, jnp.zeros((slots, d)), jnp.ones((slots, d)), jnp.tile(jnp.eye(d), (slots, 1, 1)))
        carry = empty, jnp.full(len(pilots.v), -jnp.inf, starts.dtype)
        inputs = jnp.arange(slots), jax.random.split(rng_key, slots)
        (modes, covered), num_grad = jax.lax.scan(search, carry, inputs)
        missed = jnp.where(pilots.log_joint - covered > _UNCOVERED, pilots.log_weight, -jnp.inf)
        return modes, num_grad.sum(), logsumexp(missed)

    def _log_density(self, mode: Mode, v: jax.Array) -> jax.Array:
        """Of one mode's component at the rows of v, times its evidence."""
        noise = ((v - mode.v) @ mode.axes) / mode.widths
        return mode.log_evidence - jnp.log(mode.widths).sum() + self._log_standard(noise)

    def _log_standard(self, noise: jax.Array) -> jax.Array:
        """The standard log-density at each row."""
        dof = self.dof
        return jax.vmap(normal_log_prob if dof is None else lambda e: student_log_prob(e, dof))(noise)

    def sample(self, conditional: Conditional, rng_key: jax.Array) -> jax.Array:
        """A draw of the mixture."""
        mixture, dof = conditional.extra, self.dof
        which_key, noise_key = jax.random.split(rng_key)
        which = jax.random.categorical(which_key, mixture.log_weights)
        loc = conditional.loc
        noise = normal_sample(noise_key, loc) if dof is None else student_sample(noise_key, loc, dof)
        return mixture.means[which] + mixture.factors[which] @ noise

    def log_prob(self, conditional: Conditional, v: jax.Array) -> jax.Array:
        """Its log-density."""
        mixture = conditional.extra
        noise = jnp.einsum("kij,kj->ki", mixture.inverses, v - mixture.means)
        return logsumexp(mixture.log_weights + mixture.log_dets + self._log_standard(noise))


class Pilots(NamedTuple):
    """Draws of the prior and of the regression, `v` in whitened coordinates.

    Attributes
    ----------
    v
        Shape `(n, d)`.
    log_joint, log_weight
        `log p` there, and its importance weight: the exponentials of the latter sum to the evidence on average.
    """

    v: jax.Array
    log_joint: jax.Array
    log_weight: jax.Array


def _near_regression(log_joint: Callable, rng_key: jax.Array, origin: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The regression mean, a deviation to either side along its flattest axis, and whether the curvature is below 0."""
    _, _, curvatures, axes = expand(log_joint, jnp.zeros_like(origin))
    starts = jnp.array([[0.0], [1.0], [-1.0]], origin.dtype) * axes[:, 0]
    return starts + _JITTER * jax.random.normal(rng_key, starts.shape, origin.dtype), curvatures[0] < FLAT


def _draw_pilots(target: AnnealedTarget, base: Conditional, log_joint: Callable, rng_key: jax.Array) -> Pilots:
    """As many draws of the prior as of the regression, weighted by the mixture of the two."""

    def draw(rng_key):
        prior_key, base_key = jax.random.split(rng_key)
        return jnp.stack([base.whiten(target.sample_base(prior_key)), normal_sample(base_key, base.loc)])

    def weigh(v):
        log_prior = target.log_base(base.unwhiten(v)) + base.log_det()
        value = log_joint(v)
        log_weight = value - jnp.logaddexp(log_prior, normal_log_prob(v)) - math.log(_POOL)
        usable = jnp.isfinite(log_weight)
        return jnp.where(usable, value, -jnp.inf), jnp.where(usable, log_weight, -jnp.inf)

    v = jax.vmap(draw)(jax.random.split(rng_key, _POOL)).reshape(2 * _POOL, -1)
    return Pilots(v, *jax.vmap(weigh)(v))


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
