"""A network that maps the data to a Gaussian, or to a mixture of Gaussians, around the regression."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp

from numpyro_mi.guides.base import Conditional, check_fitted, normal_log_prob, normal_sample
from numpyro_mi.guides.regression import FittedRegression, RegressionGuide
from numpyro_mi.options import integer, shown
from numpyro_mi.targets import AnnealedTarget
from numpyro_mi.training.networks import apply_network, check_hidden, dense_layers
from numpyro_mi.training.pairs import Pairs
from numpyro_mi.training.training import Training, check_training, train

_ELBO_WEIGHTS = {"forward": 0.0, "symmetric": 0.5, "reverse": 1.0}
_NEAREST, _FARTHEST = 0.3, 0.7  # regression standard deviations that components start from its mean
_IMPOSSIBLE = -1e4  # nats, in training alone, for a guide draw at which the model has no density


@dataclass(frozen=True)
class NeuralGuide:
    """Gaussian q(z|x), or a mixture of them, whose means and covariances a network computes from the data.

    Works in the coordinates whitened by a `RegressionGuide`, at which it starts. Costs a training, once for
    all data sets. Where the posterior is far from the regression the gain is large: it is the guide for
    likelihoods that cannot be searched, and for models with many data sets.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers.
    num_components
        Gaussians, each with a full covariance; more than one for posteriors with several modes.
    objective
        "forward" is maximum likelihood on joint draws: it covers the posterior, and raises the lower bound on
        mutual information. "reverse" is the ELBO, which needs the likelihood and narrows the upper one; it may
        miss a mode. "symmetric" takes half of each: the gap of a path that starts from the guide is
        proportional to their sum.
    training
        How it is trained, on draws that are never scored.

    References
    ----------
    Barber and Agakov, NeurIPS 2003; Papamakarios and Murray, NeurIPS 2016.
    """

    hidden: tuple[int, ...] = (128, 128)
    num_components: int = 1
    objective: Literal["forward", "reverse", "symmetric"] = "forward"
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", check_hidden("NeuralGuide", self.hidden))
        object.__setattr__(self, "num_components", integer("NeuralGuide", "num_components", self.num_components))
        if self.objective not in _ELBO_WEIGHTS:
            raise ValueError(
                f'NeuralGuide needs objective "forward", "reverse" or "symmetric", got {shown(self.objective)}.'
            )
        check_training("NeuralGuide", self.training)

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> "FittedNeural":
        """Fit the regression, then train the network from there."""
        if self.objective != "forward" and pairs.target is None:
            raise ValueError(
                f'NeuralGuide(objective="{self.objective}") evaluates the likelihood, and here there are joint draws '
                'alone: use objective="forward".'
            )
        regression = RegressionGuide().fit(pairs, rng_key, report)
        start_key, train_key = jax.random.split(rng_key)
        start = FittedNeural(self._initial(pairs, start_key), regression, self)
        fixed = start, pairs.target
        best = train(_Objective(self.objective), start.params, fixed, pairs, self.training, train_key, report)
        return start.with_params(best)

    def _initial(self, pairs: Pairs, rng_key: jax.Array) -> dict[str, Any]:
        """The regression: the network is zero, and components lie a little to either side of the mean."""
        d, count = pairs.dimension, self.num_components
        sizes = count * np.array([1, d, d, d * (d - 1) // 2])
        layers_key, spread_key = jax.random.split(rng_key)
        number = -(-count // 2)
        apart = jax.random.normal(spread_key, (number, d), float)
        apart *= (jnp.linspace(_NEAREST, _FARTHEST, number) / jnp.linalg.norm(apart, axis=1))[:, None]
        means = jnp.stack([apart, -apart], axis=1).reshape(-1, d)[:count] * (count > 1)
        return {
            "layers": dense_layers(layers_key, (pairs.num_features, *self.hidden, int(sizes.sum()))),
            "means": means,
        }


class Components(NamedTuple):
    """Gaussians: `inverses[k] (v - means[k])` is standard normal.

    Attributes
    ----------
    log_weights
        Normalised, shape `(M,)`.
    means
        Shape `(M, d)`.
    inverses
        Of their factors: lower triangular, shape `(M, d, d)`.
    log_dets
        Of `inverses`.
    """

    log_weights: jax.Array
    means: jax.Array
    inverses: jax.Array
    log_dets: jax.Array

    def log_prob(self, v: jax.Array) -> jax.Array:
        """Log-density of the mixture."""
        noise = jnp.einsum("kij,kj->ki", self.inverses, v - self.means)
        return logsumexp(self.log_weights + self.log_dets + jax.vmap(normal_log_prob)(noise))

    def at(self, noise: jax.Array) -> jax.Array:
        """A point of each component from standard normals `(M, d)`."""
        return self.means + jax.vmap(lambda inverse, e: solve_triangular(inverse, e, lower=True))(self.inverses, noise)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FittedNeural:
    """A fitted `NeuralGuide`.

    Attributes
    ----------
    params
        Trained.
    regression
        In whose coordinates the network works.
    config
        The guide that was trained.
    """

    params: dict[str, Any]
    regression: FittedRegression
    config: NeuralGuide = field(metadata={"static": True})

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> "FittedNeural":
        """Itself, if it is a guide for such draws."""
        check_fitted(self, len(self.regression.bias), len(self.regression.x_loc), pairs)
        return self

    def with_params(self, params: dict[str, Any]) -> "FittedNeural":
        """The same guide with other parameters."""
        return replace(self, params=params)

    def components(self, x: jax.Array) -> Components:
        """The mixture at x, in the coordinates of the regression."""
        means = self.params["means"]
        count, d = means.shape
        output = apply_network(self.params["layers"], self.regression.features(x)).reshape(count, -1)
        logits, moved, logs, below = jnp.split(output, np.cumsum([1, d, d]), axis=1)
        # One at zero, never negative, and growing no faster than its argument.
        diagonal = jnp.where(logs > 0, 1 + logs, jnp.exp(jnp.minimum(logs, 0.0)))
        log_dets = jnp.where(logs > 0, jnp.log1p(jnp.maximum(logs, 0.0)), logs).sum(1)
        inverses = jax.vmap(jnp.diag)(diagonal).at[:, *np.tril_indices(d, -1)].set(below)
        return Components(jax.nn.log_softmax(logits[:, 0]), means + moved, inverses, log_dets)

    def condition(self, target: AnnealedTarget | None, x: jax.Array, rng_key: jax.Array) -> Conditional:
        """The guide at one x."""
        base = self.regression.condition(target, x, rng_key)
        components = self.components(x)
        if self.config.num_components == 1:
            scale = solve_triangular(components.inverses[0], jnp.eye(base.loc.size, dtype=base.loc.dtype), lower=True)
            return Conditional(base.unwhiten(components.means[0]), base.scale @ scale)
        mean, scale = _moments(components)
        moved = Components(
            components.log_weights,
            solve_triangular(scale, (components.means - mean).T, lower=True).T,
            components.inverses @ scale,
            components.log_dets + jnp.log(jnp.diagonal(scale)).sum(),
        )
        return Conditional(base.unwhiten(mean), base.scale @ scale, moved)

    def sample(self, conditional: Conditional, rng_key: jax.Array) -> jax.Array:
        """A draw of v."""
        if self.config.num_components == 1:
            return normal_sample(rng_key, conditional.loc)
        components = conditional.extra
        which_key, noise_key = jax.random.split(rng_key)
        which = jax.random.categorical(which_key, components.log_weights)
        noise = normal_sample(noise_key, conditional.loc)
        return components.means[which] + solve_triangular(components.inverses[which], noise, lower=True)

    def log_prob(self, conditional: Conditional, v: jax.Array) -> jax.Array:
        """Its log-density."""
        return normal_log_prob(v) if self.config.num_components == 1 else conditional.extra.log_prob(v)


def _moments(components: Components) -> tuple[jax.Array, jax.Array]:
    """Mean and Cholesky factor of the covariance of a mixture; by QR, which cannot fail by rounding."""
    weights = jnp.exp(components.log_weights)
    mean = weights @ components.means
    identity = jnp.eye(mean.size, dtype=mean.dtype)
    within = jax.vmap(lambda inverse: solve_triangular(inverse, identity, lower=True).T)(components.inverses)
    rows = jnp.concatenate([within, (components.means - mean)[:, None]], axis=1) * jnp.sqrt(weights)[:, None, None]
    root = jnp.linalg.qr(rows.reshape(-1, mean.size), mode="r")
    return mean, (root * jnp.where(jnp.diagonal(root) < 0, -1, 1)[:, None]).T


@dataclass(frozen=True)
class _Objective:
    """Maximum likelihood, the ELBO, or half of each."""

    kind: str

    def bound(self, trained: Any, fixed: Any, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> jax.Array:
        """The Barber-Agakov bound (where there is no prior: the log-density), the ELBO, or minus half their gap."""
        guide, target = fixed
        return self._mean(guide.with_params(trained), target, u, x, rng_key, watched=True)

    def loss(self, trained: Any, fixed: Any, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> jax.Array:
        """The negative of what depends on the parameters."""
        guide, target = fixed
        return -self._mean(guide.with_params(trained), target, u, x, rng_key, watched=False)

    def _mean(self, guide, target, u, x, rng_key, watched):
        weight = _ELBO_WEIGHTS[self.kind]

        def one(u, x, key):
            base, components = guide.regression.condition(None, x, key), guide.components(x)
            value = jnp.zeros(())
            if weight < 1:
                value += (1 - weight) * (components.log_prob(base.whiten(u)) - base.log_det())
                if watched and target is not None:
                    density = target(x)
                    value -= (1 - weight) * (density.log_base(u) + (density.log_ratio(u) if weight else 0.0))
            if weight > 0:
                value += weight * _elbo(base, components, target(x), key)
            return value

        return jax.vmap(one)(u, x, jax.random.split(rng_key, len(u))).mean()


def _elbo(base: Conditional, components: Components, target: AnnealedTarget, rng_key: jax.Array) -> jax.Array:
    """An unbiased ELBO of one x: one draw of each component."""

    def log_joint(u):
        return target.log_base(u) + target.log_ratio(u)

    def term(v):
        # To first order around the draw: a point without density or slope then leaves the other draws theirs.
        u = base.unwhiten(v)
        value, slope = jax.value_and_grad(log_joint)(jax.lax.stop_gradient(u))
        usable = jnp.isfinite(value) & jnp.isfinite(slope).all()
        slope = jnp.where(usable, slope, 0.0)
        value = jnp.where(usable, value, _IMPOSSIBLE) + slope @ (u - jax.lax.stop_gradient(u))
        return value + base.log_det() - components.log_prob(v)

    noise = jax.random.normal(rng_key, components.means.shape, components.means.dtype)
    return jnp.exp(components.log_weights) @ jax.vmap(term)(components.at(noise))
