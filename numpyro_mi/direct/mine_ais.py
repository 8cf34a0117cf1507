"""MINE-AIS: an energy-based posterior, its partition function bounded by annealing."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from numpyro_mi.annealing.chains import Path
from numpyro_mi.annealing.kernels.base import StepSettings
from numpyro_mi.annealing.kernels.hmc import AnnealedHMC
from numpyro_mi.annealing.start import begin
from numpyro_mi.annealing.tuning import NUM_PILOT_DRAWS, Pilot, tune
from numpyro_mi.direct.base import Fitted, Report, Supply, fit_parts
from numpyro_mi.direct.critics import FittedCritic, FixedCritic, MLPCritic, as_critic
from numpyro_mi.direct.giwae import GuideContrast, variational_term
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.schemes.coupled_reverse import CR
from numpyro_mi.evidence.schemes.independent import IM
from numpyro_mi.guides.base import Conditional, FittedGuide, Guide, check_guide
from numpyro_mi.guides.regression import RegressionGuide
from numpyro_mi.options import integer, shown
from numpyro_mi.targets import AnnealedTarget
from numpyro_mi.training.training import Training, check_training

_LEAPFROG = 3


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class EnergyIntegral:
    """`Z(x) = integral of base(u | x) exp T(x, u) du` as an annealed integral; held is x.

    Attributes
    ----------
    guide
        The base, in whose coordinates chains run; None: the prior.
    critic
        T.
    log_prior, sample_prior
        The prior.
    """

    guide: FittedGuide | None
    critic: FittedCritic
    log_prior: Any
    sample_prior: Any

    def condition(self, held: jax.Array, rng_key: jax.Array) -> tuple[Conditional | None, Any]:
        """The guide at x, and the critic's part of x."""
        guide = None if self.guide is None else self.guide.condition(None, held, rng_key)
        return guide, self.critic.context(held)

    def target(self, held: jax.Array, conditional: tuple[Conditional | None, Any]) -> AnnealedTarget:
        """From the base to the energy-based posterior."""
        at, context = conditional
        guide = self.guide
        if guide is None or at is None:
            return AnnealedTarget(self.sample_prior, self.log_prior, lambda u: self.critic.score(context, u))
        return AnnealedTarget(
            lambda rng_key: guide.sample(at, rng_key),
            lambda v: guide.log_prob(at, v),
            lambda v: self.critic.score(context, at.unwhiten(v)),
        )

    def coordinates(self, held: jax.Array, conditional: tuple[Conditional | None, Any], u: jax.Array) -> jax.Array:
        """`u`, or `v` of the guide."""
        return u if conditional[0] is None else conditional[0].whiten(u)


@dataclass(frozen=True)
class _ContrastiveDivergence:
    """Energy of the simulated latents against that of where short chains from there have gone."""

    num_transitions: int

    def loss(self, trained, fixed, u, x, rng_key):
        critic, (integral, whitener) = fixed
        critic = critic.with_params(trained)
        frozen = jax.lax.stop_gradient(critic)
        moved = jax.vmap(lambda u, x, key: self._moved(frozen, integral, whitener, u, x, key))(
            u, x, jax.random.split(rng_key, len(u))
        )
        moved = jax.lax.stop_gradient(moved)

        def energy(u, x):
            return critic.score(critic.context(x), u)

        return (jax.vmap(energy)(moved, x) - jax.vmap(energy)(u, x)).mean()

    def _moved(self, critic, integral, whitener, u, x, rng_key):
        """The end of a short chain in the regression's coordinates, where steps of one size fit."""
        kernel = AnnealedHMC(num_steps=_LEAPFROG)
        whitener_key, guide_key, move_key = jax.random.split(rng_key, 3)
        at = whitener.condition(None, x, whitener_key)
        context = critic.context(x)
        guide = None if integral.guide is None else integral.guide.condition(None, x, guide_key)

        def log_density(v):
            u = at.unwhiten(v)
            if guide is None:
                return integral.log_prior(u) + critic.score(context, u)
            return integral.guide.log_prob(guide, guide.whiten(u)) + critic.score(context, u)

        target = AnnealedTarget(lambda key: key, log_density, lambda v: jnp.zeros(()))
        ones = jnp.ones_like(u)
        settings = StepSettings(jnp.ones(()), jnp.asarray(0.9 * u.size**-0.25), ones)

        def move(state, key):
            return kernel.forward(target, state, settings, kernel.sample_noise(key, u))[0], None

        keys = jax.random.split(move_key, self.num_transitions)
        return at.unwhiten(jax.lax.scan(move, kernel.init(target, at.whiten(u)), keys)[0].u)

    def bound(self, trained, fixed, u, x, rng_key):
        """A contrastive bound with the same energy, relative to the regression."""
        critic, (integral, whitener) = fixed
        critic = critic.with_params(trained)
        return GuideContrast().bound(None, (_Relative(critic, integral, whitener), whitener), u, x, rng_key)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Relative:
    """The critic as an energy relative to the regression, instead of to its own base."""

    critic: FittedCritic
    integral: EnergyIntegral
    whitener: FittedGuide

    def with_params(self, params: Any) -> "_Relative":
        return self

    def context(self, x: jax.Array) -> jax.Array:
        return x

    def score(self, x: jax.Array, u: jax.Array) -> jax.Array:
        key = jax.random.key(0)
        at = self.whitener.condition(None, x, key)
        energy = self.critic.score(self.critic.context(x), u) - self.whitener.log_prob(at, at.whiten(u))
        guide = self.integral.guide
        if guide is None:
            return energy + self.integral.log_prior(u)
        base = guide.condition(None, x, key)
        return energy + guide.log_prob(base, base.whiten(u))


@dataclass(frozen=True)
class MINEAIS:
    """Lower bound for a known prior and an unknown likelihood: an energy-based posterior, annealed.

    A critic T tilts the base q(z|x) to the posterior `q exp T / Z`. It is trained by contrastive
    divergence, with HMC chains that start at the simulated latents, and `log Z` is bounded by annealed
    importance sampling with the reverse chain from the simulated latent. The result bounds the mutual
    information from below, whatever the critic. The forward chains bound IBAL, the bound that this very
    energy has in the limit, from above; that says how well the annealing did, and nothing about the mutual
    information.

    Parameters
    ----------
    base
        A guide that is fitted to joint draws, such as `RegressionGuide()`, or None for the prior.
    critic
        `MLPCritic()`, `SeparableCritic()`, a trained one, or a function of x and z, two vectors: for a model
        the flattened data and the unconstrained latents, for arrays the columns of a row.
    annealing
        `AIS(...)` without a base of its own.
    num_transitions
        Transitions of the chains that the critic is trained with.
    training
        How the critic is trained, on draws that are never scored.

    References
    ----------
    Brekelmans et al., ICLR 2022.
    """

    base: Guide | None = field(default_factory=RegressionGuide, compare=False)
    critic: Any = field(default_factory=MLPCritic, compare=False)
    annealing: AIS = field(default_factory=lambda: AIS(num_temperatures=100, num_particles=4))
    num_transitions: int = 5
    training: Training = field(default_factory=Training)

    needs_prior = True
    num_latents = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_transitions", integer("MINEAIS", "num_transitions", self.num_transitions))
        check_training("MINEAIS", self.training)
        check_guide("MINEAIS", "base", self.base, optional=True)
        if not isinstance(self.annealing, AIS) or self.annealing.base is not None:
            raise TypeError(f"MINEAIS needs annealing=AIS(...) without base, got {shown(self.annealing)}.")
        if not isinstance(self.annealing.scheme, IM | CR):
            raise TypeError(f"MINEAIS needs annealing with scheme IM() or CR(), got {shown(self.annealing.scheme)}.")
        object.__setattr__(self, "critic", as_critic("MINEAIS", self.critic))

    @property
    def num_particles(self) -> int:
        """Chains a term."""
        return self.annealing.num_particles

    def fit(self, supply: Supply, rng_key: jax.Array, report: Report) -> "MINEAISScorer":
        """Fit the base, train the critic, then choose step sizes on pilot draws."""
        if self.base is None and supply.sample_prior is None:
            raise ValueError("MINEAIS(base=None) samples the prior, and arrays have none: use a guide as base.")
        fit_key, pilot_key = jax.random.split(rng_key)

        def context(fitted: Fitted) -> tuple[EnergyIntegral, FittedGuide]:
            base_only = EnergyIntegral(fitted.guide, FixedCritic(_nothing), supply.log_prior, supply.sample_prior)
            return base_only, fitted.regression

        objective = _ContrastiveDivergence(self.num_transitions)
        guide, critic = fit_parts(self, self.base, objective, context, supply, fit_key, report)
        integral = EnergyIntegral(guide, critic, supply.log_prior, supply.sample_prior)
        u, x = (jnp.asarray(array) for array in supply.pilots.first(NUM_PILOT_DRAWS))
        keys = jax.random.split(pilot_key, 2 * len(u)).reshape(2, -1)
        conditional, exact = begin(integral, keys[0], x, u)
        pilot = Pilot(keys[1], x, conditional, exact)
        plan, *_ = tune(integral, self.annealing.kernel, self.annealing.betas(), pilot, report)
        return MINEAISScorer(integral, plan.path(), self.annealing)


def _nothing(x: jax.Array, u: jax.Array) -> jax.Array:
    """The energy of the base itself."""
    return jnp.zeros(())


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class MINEAISScorer:
    """A trained `MINEAIS`."""

    integral: EnergyIntegral
    path: Path
    annealing: AIS = field(metadata={"static": True})

    def terms(self, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> dict[str, jax.Array]:
        """One term of one pair; "ibal_upper" bounds IBAL from above, and not the mutual information."""
        condition_key, chains_key = jax.random.split(rng_key)
        integral, latent, held = self.integral, u[0], x[0]
        conditional = integral.condition(held, condition_key)
        exact = integral.coordinates(held, conditional, latent)
        target = integral.target(held, conditional)
        evidence = self.annealing.evidence(target, self.path, exact, chains_key)
        energy = target.log_ratio(exact)
        if integral.guide is not None and conditional[0] is not None:
            energy = energy + variational_term(integral.guide, conditional[0], integral.log_prior, latent)
        stats = evidence.stats
        return {
            "lower": energy - evidence.eubo,
            "ibal_upper": energy - evidence.elbo,
            "forward_accept_prob": stats["forward_accept_prob"].mean(),
            "reverse_accept_prob": stats["reverse_accept_prob"].mean(),
            "num_grad": stats["forward_num_grad"] + stats["reverse_num_grad"],
        }
