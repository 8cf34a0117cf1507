"""GIWAE: a guide's variational bound and a contrastive term, for latents with a known prior."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from numpyro_mi.direct.base import Report, Supply, fit_parts
from numpyro_mi.direct.critics import FittedCritic, MLPCritic, as_critic
from numpyro_mi.evidence.base import log_mean_exp
from numpyro_mi.guides.base import Conditional, FittedGuide, Guide, check_guide
from numpyro_mi.guides.regression import RegressionGuide
from numpyro_mi.options import integer
from numpyro_mi.training.training import Training, check_training

_TRAINING_PARTICLES = 32
_CHUNK = 256


@dataclass(frozen=True)
class GuideContrast:
    """The bound on a batch: own latent against guide draws."""

    num_particles: int = _TRAINING_PARTICLES

    def bound(self, trained, fixed, u, x, rng_key):
        """Variational term left out: it does not depend on the critic."""
        critic, guide = fixed
        critic = critic.with_params(trained)

        def one(u, x, key):
            condition_key, draw_key = jax.random.split(key)
            conditional = guide.condition(None, x, condition_key)
            return contrast(guide, conditional, critic, u, x, self.num_particles, draw_key)

        return jax.vmap(one)(u, x, jax.random.split(rng_key, len(u))).mean()

    def loss(self, *args):
        """Its negative."""
        return -self.bound(*args)


def contrast(
    guide: FittedGuide,
    conditional: Conditional,
    critic: FittedCritic,
    u: jax.Array,
    x: jax.Array,
    num_particles: int,
    rng_key: jax.Array,
) -> jax.Array:
    """`T(x, u) - log mean exp T` over the own latent and K-1 guide draws, nats."""
    context = critic.context(x)

    def drawn(particle):
        v = guide.sample(conditional, jax.random.fold_in(rng_key, particle))
        return critic.score(context, conditional.unwhiten(v))

    own = critic.score(context, u)
    others = jax.lax.map(drawn, jnp.arange(1, num_particles), batch_size=_CHUNK)
    return own - log_mean_exp(jnp.concatenate([own[None], others]))


def variational_term(guide: FittedGuide, conditional: Conditional, log_prior: Any, u: jax.Array) -> jax.Array:
    """`log q(u | x) - log p(u)`, nats."""
    return guide.log_prob(conditional, conditional.whiten(u)) - conditional.log_det() - log_prior(u)


@dataclass(frozen=True)
class GIWAE:
    """Lower bound for a known prior and an unknown likelihood: a guide, and a critic that resamples it.

    The variational (Barber-Agakov) bound of the guide plus a contrastive term of at most `log K`, both of
    them reported. With the best critic it is the lower bound of `IWAE`.

    Parameters
    ----------
    guide
        q(z|x) that is fitted to joint draws, such as `RegressionGuide()`, or a fitted one.
    critic
        `MLPCritic()`, `SeparableCritic()`, a trained one, or a function of x and z, two vectors: for a model
        the flattened data and the unconstrained latents, for arrays the columns of a row.
    num_particles
        K latents a term, the own one included.
    training
        How the critic is trained, on draws that are never scored.

    References
    ----------
    Brekelmans et al., ICLR 2022 (generalised IWAE).
    """

    guide: Guide = field(default_factory=RegressionGuide, compare=False)
    critic: Any = field(default_factory=MLPCritic, compare=False)
    num_particles: int = 100
    training: Training = field(default_factory=Training)

    needs_prior = True
    num_latents = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_particles", integer("GIWAE", "num_particles", self.num_particles))
        check_training("GIWAE", self.training)
        check_guide("GIWAE", "guide", self.guide)
        object.__setattr__(self, "critic", as_critic("GIWAE", self.critic))

    def fit(self, supply: Supply, rng_key: jax.Array, report: Report) -> "GIWAEScorer":
        """Fit the guide, then train the critic on its draws."""
        guide, critic = fit_parts(
            self, self.guide, GuideContrast(), lambda fitted: fitted.guide, supply, rng_key, report
        )
        assert guide is not None
        return GIWAEScorer(guide, critic, supply.log_prior, self.num_particles)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class GIWAEScorer:
    """A trained `GIWAE`."""

    guide: FittedGuide
    critic: FittedCritic
    log_prior: Any
    num_particles: int = field(metadata={"static": True})

    def terms(self, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> dict[str, jax.Array]:
        """One term of one pair, and its two parts."""
        condition_key, draw_key = jax.random.split(rng_key)
        conditional = self.guide.condition(None, x[0], condition_key)
        variational = variational_term(self.guide, conditional, self.log_prior, u[0])
        contrastive = contrast(self.guide, conditional, self.critic, u[0], x[0], self.num_particles, draw_key)
        return {"lower": variational + contrastive, "variational": variational, "contrastive": contrastive}
