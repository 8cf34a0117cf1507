"""Bounds from joint draws alone: InfoNCE, MINE and NWJ."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from numpyro_mi.direct.base import Report, Supply, fit_parts
from numpyro_mi.direct.critics import FittedCritic, MLPCritic, as_critic
from numpyro_mi.evidence.base import log_mean_exp
from numpyro_mi.options import integer
from numpyro_mi.results.estimation import PILOT_GROUP, PILOT_ROWS, variational_limit
from numpyro_mi.training.training import Training, check_training

_MOST_SCORES = 16_384  # at once, for memory


def scores(critic: FittedCritic, x: jax.Array, u: jax.Array) -> jax.Array:
    """`T(x_i, u_j)`, shape `(m, K)`."""
    contexts = jax.vmap(critic.context)(x)

    def row(context: Any) -> jax.Array:
        return jax.vmap(lambda one: critic.score(context, one))(u)

    if len(x) * len(u) <= _MOST_SCORES:
        return jax.vmap(row)(contexts)
    return jax.lax.map(row, contexts, batch_size=max(1, _MOST_SCORES // len(u)))


@dataclass(frozen=True)
class _InfoNCEObjective:
    """In-batch negatives, the own latent among them."""

    def bound(self, trained, fixed, u, x, rng_key):
        table = scores(fixed[0].with_params(trained), x, u)
        return (jnp.diagonal(table) - jax.vmap(log_mean_exp)(table)).mean()

    def loss(self, *args):
        return -self.bound(*args)


@dataclass(frozen=True)
class _MINEObjective:
    """The variational bounds on in-batch negatives, the own latent left out; `nwj_loss` for that with e^-1."""

    nwj_loss: bool

    def bound(self, trained, fixed, u, x, rng_key):
        table = scores(fixed[0].with_params(trained), x, u)
        own, size = jnp.diagonal(table).mean(), len(table)
        others = logsumexp(jnp.where(jnp.eye(size, dtype=bool), -jnp.inf, table)) - jnp.log(size * (size - 1))
        return own - jnp.exp(jnp.minimum(others - 1, 50.0)) if self.nwj_loss else own - others

    def loss(self, *args):
        return -self.bound(*args)


@dataclass(frozen=True)
class InfoNCE:
    """Contrastive lower bound from joint draws alone, at most `log K`.

    A critic picks the latent that belongs to x among K, the own one included (without it there would be
    no bound).

    Parameters
    ----------
    critic
        `MLPCritic()`, `SeparableCritic()`, a trained one, or a function of x and z, two vectors: for a model
        the flattened data and the unconstrained latents, for arrays the columns of a row.
    num_particles
        K latents a term, the own one included: K - 1 negatives.
    training
        How the critic is trained, on draws that are never scored.

    References
    ----------
    van den Oord, Li and Vinyals, 2018; Poole et al., ICML 2019.
    """

    critic: Any = field(default_factory=MLPCritic, compare=False)
    num_particles: int = 1000
    training: Training = field(default_factory=Training)

    needs_prior = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_particles", integer("InfoNCE", "num_particles", self.num_particles, 2))
        check_training("InfoNCE", self.training)
        object.__setattr__(self, "critic", as_critic("InfoNCE", self.critic))

    @property
    def num_latents(self) -> int:
        """K."""
        return self.num_particles

    def fit(self, supply: Supply, rng_key: jax.Array, report: Report) -> "InfoNCEScorer":
        """Train the critic."""
        _, critic = fit_parts(self, None, _InfoNCEObjective(), lambda fitted: (), supply, rng_key, report)
        return InfoNCEScorer(critic)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class InfoNCEScorer:
    """A trained `InfoNCE`."""

    critic: FittedCritic

    def terms(self, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> dict[str, jax.Array]:
        """One term: the mean over the rows of x, each against all of u."""
        table = scores(self.critic, x, u)
        return {"lower": (jnp.diagonal(table) - jax.vmap(log_mean_exp)(table)).mean()}


class _Variational:
    """What MINE and NWJ share: they differ in the loss that the critic is trained by."""

    critic: Any
    num_negatives: int
    training: Training

    needs_prior = False
    _nwj_loss = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "num_negatives", integer(name, "num_negatives", self.num_negatives))
        check_training(name, self.training)
        object.__setattr__(self, "critic", as_critic(name, self.critic))

    @property
    def num_latents(self) -> int:
        """The own latent and the negatives."""
        return self.num_negatives + 1

    @property
    def num_particles(self) -> int:
        """As `num_latents`."""
        return self.num_latents

    def fit(self, supply: Supply, rng_key: jax.Array, report: Report) -> "MINEScorer":
        """Train the critic; freeze cap and normaliser on pilot draws."""
        objective = _MINEObjective(self._nwj_loss)
        _, critic = fit_parts(self, None, objective, lambda fitted: (), supply, rng_key, report)
        u, x = supply.pilots.first(PILOT_ROWS)
        size = min(PILOT_GROUP, len(u))
        groups = [jnp.asarray(array[: len(u) // size * size].reshape(-1, size, array.shape[1])) for array in (x, u)]
        tables = np.asarray(jax.jit(jax.vmap(scores, (None, 0, 0)))(critic, *groups), np.float64)
        negatives = tables[:, ~np.eye(size, dtype=bool)].ravel()
        cap, log_normaliser = cap_and_normaliser(negatives, supply.num_negatives)
        return MINEScorer(critic, jnp.asarray(cap, float), jnp.asarray(log_normaliser, float))


@dataclass(frozen=True)
class MINE(_Variational):
    """Variational lower bound from joint draws alone, in the form whose confidence interval holds.

    The critic is trained by the Donsker-Varadhan objective. Scored is the unbiased form
    `E T_c - E e^{T_c} / a - log a + 1`, in which the cap c on the critic and the normaliser a are frozen on
    pilot draws; the cap keeps a single negative from carrying the mean, and limits the bound to about the
    log of a hundredth of the number of negatives, and of a tenth of those among the pilots: 9.4 nats with
    any number of negatives. The log of a sample mean in place of a would be biased upwards, and not a bound.

    The bound holds for any frozen cap. On arrays the negatives of a term are all pairs of two different rows
    of its block; they share rows, so that they count for less than as many independent ones.

    Parameters
    ----------
    critic
        `MLPCritic()`, `SeparableCritic()`, a trained one, or a function of x and z, two vectors: for a model
        the flattened data and the unconstrained latents, for arrays the columns of a row.
    num_negatives
        Fresh latents a pair; on arrays, a block has one row more, and each row is compared with all others.
    training
        How the critic is trained, on draws that are never scored.

    References
    ----------
    Belghazi et al., ICML 2018; Poole et al., ICML 2019; McAllester and Stratos, AISTATS 2020.
    """

    critic: Any = field(default_factory=MLPCritic, compare=False)
    num_negatives: int = 20
    training: Training = field(default_factory=Training)


@dataclass(frozen=True)
class NWJ(_Variational):
    """The variational lower bound of Nguyen, Wainwright and Jordan, also known as MINE-f.

    As `MINE`, scored in the same form, with the critic trained by `E T - e^-1 E e^T`.

    Parameters
    ----------
    critic
        `MLPCritic()`, `SeparableCritic()`, a trained one, or a function of x and z, two vectors: for a model
        the flattened data and the unconstrained latents, for arrays the columns of a row.
    num_negatives
        Fresh latents a pair; on arrays, a block has one row more, and each row is compared with all others.
    training
        How the critic is trained, on draws that are never scored.

    References
    ----------
    Nguyen, Wainwright and Jordan, IEEE Transactions on Information Theory 2010.
    """

    critic: Any = field(default_factory=MLPCritic, compare=False)
    num_negatives: int = 20
    training: Training = field(default_factory=Training)

    _nwj_loss = True


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class MINEScorer:
    """A trained `MINE` or `NWJ`.

    Attributes
    ----------
    critic
        Trained.
    cap, log_normaliser
        Frozen on pilot draws.
    """

    critic: FittedCritic
    cap: jax.Array
    log_normaliser: jax.Array

    def terms(self, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> dict[str, jax.Array]:
        """One term: own scores against those of all other latents."""
        table = scores(self.critic, x, u)
        own = jnp.diagonal(table)
        others = jnp.arange(len(u)) != jnp.arange(len(x))[:, None]
        capped = jnp.minimum(table, self.cap)
        mean = jnp.where(others, jnp.exp(capped - self.log_normaliser), 0.0).sum() / others.sum()
        log_mean = logsumexp(jnp.where(others, table, -jnp.inf)) - jnp.log(others.sum())
        return {
            "lower": jnp.diagonal(capped).mean() - mean - self.log_normaliser + 1,
            "own_score": own.mean(),
            "log_mean_exp_score": log_mean,
            "capped": (own > self.cap).mean(),
        }


def cap_and_normaliser(negatives: np.ndarray, count: int) -> tuple[float, float]:
    """Cap c with `c - log mean e^{min(T, c)} = variational_limit(count, len(negatives))`, and the log of that mean.

    It is finite even where no pilot score comes near it: scores that are rarer than the pilots could show, of which
    the normaliser knows nothing, may come among those that are scored.

    Parameters
    ----------
    negatives
        Scores of independent pairs.
    count
        How many negatives will be scored.
    """
    ordered = np.sort(negatives[np.isfinite(negatives)])
    if not len(ordered):
        raise ValueError("no score of the pilot draws is finite: the critic has diverged; lower its learning_rate.")
    allowed = max(variational_limit(count, len(negatives)), 1e-6)

    def log_mean(cap: float) -> float:
        capped = np.minimum(ordered, cap)
        return float(capped.max() + np.log(np.exp(capped - capped.max()).mean()))

    if ordered[-1] - log_mean(np.inf) <= allowed:
        return log_mean(np.inf) + allowed, log_mean(np.inf)
    low, high = ordered[0], ordered[-1]  # the excess over the log-mean grows with the cap, from zero
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if middle - log_mean(middle) < allowed else (low, middle)
    return low, log_mean(low)
