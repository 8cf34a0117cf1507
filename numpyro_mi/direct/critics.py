"""Critics T(x, z): energies that tell a latent that belongs to x from one that does not."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp

from numpyro_mi.guides.base import check_fitted
from numpyro_mi.guides.regression import FittedRegression
from numpyro_mi.options import integer, shown
from numpyro_mi.training.networks import apply_layers, apply_network, check_hidden, dense_layers
from numpyro_mi.training.pairs import Pairs


class Context(NamedTuple):
    """What a critic needs of one x, computed once a chain.

    Attributes
    ----------
    base_loc, loc
        Locations of the base and of the regression, shape `(d,)`.
    first
        The part of the first layer that x makes (or its embedding).
    """

    base_loc: jax.Array
    loc: jax.Array
    first: jax.Array


class FittedCritic(Protocol):
    """A critic ready for use; a pytree."""

    def context(self, x: jax.Array) -> Any:
        """What depends on x alone."""

    def score(self, context: Any, u: jax.Array) -> jax.Array:
        """`T(x, u)`, nats."""


class Critic(Protocol):
    """The configuration of a critic."""

    def initial(self, base: FittedRegression, regression: FittedRegression, rng_key: jax.Array) -> FittedCritic:
        """The critic before training."""


@dataclass(frozen=True, eq=False)
class TrainedCritic:
    """What trained critics share; a pytree.

    Attributes
    ----------
    params
        Trained.
    base, regression
        What whitens the latent.
    base_whitening, regression_whitening
        Inverse scales as matrices, so that no chain solves a triangular system.
    """

    params: dict[str, Any]
    base: FittedRegression
    regression: FittedRegression
    base_whitening: jax.Array
    regression_whitening: jax.Array

    def with_params(self, params: dict[str, Any]) -> Self:
        """The same critic with other parameters."""
        return replace(self, params=params)

    def check(self, pairs: Pairs) -> None:
        """Refuse draws of another size than those that it was trained on."""
        check_fitted(self, len(self.regression.bias), len(self.regression.x_loc), pairs)

    def _whitened(self, context: Context, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The latent whitened by the base and by the regression, and the log-ratio of the two."""
        from_base = (u - context.base_loc) @ self.base_whitening
        from_regression = (u - context.loc) @ self.regression_whitening
        ratio = 0.5 * (from_base @ from_base - from_regression @ from_regression)
        return jnp.concatenate([from_base, from_regression]), self.params["ratio"] * ratio


@dataclass(frozen=True)
class MLPCritic:
    """A dense network on x and z together.

    Its inputs are the standardised data, the latent whitened by the base of the bound and the latent
    whitened by a regression on the data. The network is a correction to the log-ratio of the regression
    to the base, so that an untrained critic already knows what a linear-Gaussian model has to say.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers.
    """

    hidden: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", check_hidden("MLPCritic", self.hidden))

    def initial(self, base: FittedRegression, regression: FittedRegression, rng_key: jax.Array) -> "FittedMLPCritic":
        """The critic before training: the log-ratio of the regression to the base."""
        d, p, width = len(regression.bias), len(regression.x_loc), self.hidden[0]
        first_key, rest_key = jax.random.split(rng_key)
        sizes = (p + 2 * d, width)
        first = jax.random.normal(first_key, sizes, float) / jnp.sqrt(sizes[0])
        params = {
            "first": (first, jnp.zeros(width)),
            "rest": dense_layers(rest_key, (*self.hidden, 1)),
            "ratio": jnp.ones(()),
        }
        return FittedMLPCritic(params, base, regression, whitening(base), whitening(regression), self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FittedMLPCritic(TrainedCritic):
    """An `MLPCritic` with its parameters."""

    config: MLPCritic = field(metadata={"static": True})

    def context(self, x: jax.Array) -> Context:
        """Locations, and x's part of the first layer."""
        weights, bias = self.params["first"]
        features = self.regression.features(x)
        return Context(self.base.mean(x), self.regression.mean(x), features @ weights[: len(features)] + bias)

    def score(self, context: Context, u: jax.Array) -> jax.Array:
        """`T(x, u)`, nats."""
        latent, ratio = self._whitened(context, u)
        hidden = context.first + latent @ self.params["first"][0][-len(latent) :]
        return ratio + apply_layers(self.params["rest"], hidden)[0]


@dataclass(frozen=True)
class SeparableCritic:
    """An inner product of two embeddings, one of x and one of z, added to the regression's log-ratio.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers of both networks.
    num_features
        Length of the embeddings.
    """

    hidden: tuple[int, ...] = (128, 128)
    num_features: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", check_hidden("SeparableCritic", self.hidden))
        object.__setattr__(self, "num_features", integer("SeparableCritic", "num_features", self.num_features))

    def initial(
        self, base: FittedRegression, regression: FittedRegression, rng_key: jax.Array
    ) -> "FittedSeparableCritic":
        """The critic before training: the log-ratio of the regression to the base."""
        d, p = len(regression.bias), len(regression.x_loc)
        x_key, u_key, start_key = jax.random.split(rng_key, 3)
        start = jax.random.normal(start_key, (self.num_features,), float)
        x_layers, u_layers = (
            dense_layers(key, (size, *self.hidden, self.num_features)) for key, size in ((x_key, p), (u_key, d))
        )
        # One embedding starts at zero, the other does not: at two zeros neither would get a gradient.
        weights, bias = u_layers[-1]
        params = {"x": x_layers, "u": [*u_layers[:-1], (weights, bias + start)], "ratio": jnp.ones(())}
        return FittedSeparableCritic(params, base, regression, whitening(base), whitening(regression), self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FittedSeparableCritic(TrainedCritic):
    """A `SeparableCritic` with its parameters."""

    config: SeparableCritic = field(metadata={"static": True})

    def context(self, x: jax.Array) -> Context:
        """Locations, and the embedding of x."""
        embedding = apply_network(self.params["x"], self.regression.features(x))
        return Context(self.base.mean(x), self.regression.mean(x), embedding)

    def score(self, context: Context, u: jax.Array) -> jax.Array:
        """`T(x, u)`, nats."""
        _, ratio = self._whitened(context, u)
        # Of the latent alone: its distance from the mean regression, not from that of this x.
        embedding = apply_network(self.params["u"], (u - self.regression.bias) @ self.base_whitening)
        return ratio + embedding @ context.first / jnp.sqrt(embedding.size)


def whitening(regression: FittedRegression) -> jax.Array:
    """The matrix that `u - mean` is multiplied with from the right."""
    if regression.scale.ndim == 1:
        return jnp.diag(1 / regression.scale)
    identity = jnp.eye(len(regression.scale))
    return jax.scipy.linalg.solve_triangular(regression.scale, identity, lower=True).T


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FixedCritic:
    """A user's function `T(x, z)` of two vectors; not trained.

    For a model they are the flattened data and the unconstrained latents, for arrays the columns of a row.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array] = field(metadata={"static": True})

    def context(self, x: jax.Array) -> jax.Array:
        """X itself."""
        return x

    def score(self, context: jax.Array, u: jax.Array) -> jax.Array:
        """`T(x, u)`, nats."""
        value = jnp.asarray(self.function(context, u))
        if value.shape:
            raise ValueError(
                f"a critic function takes one x and one z, two vectors, and returns a scalar score in nats; this one "
                f"returned shape {value.shape}."
            )
        return value


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class RescaledCritic:
    """A user's critic, in the coordinates of standardised columns: it sees its own units.

    Attributes
    ----------
    critic
        The user's.
    x_loc, x_scale, z_loc, z_scale
        What columns were standardised with.
    """

    critic: FittedCritic
    x_loc: jax.Array
    x_scale: jax.Array
    z_loc: jax.Array
    z_scale: jax.Array

    def context(self, x: jax.Array) -> Any:
        """What depends on x alone."""
        return self.critic.context(x * self.x_scale + self.x_loc)

    def score(self, context: Any, u: jax.Array) -> jax.Array:
        """`T(x, u)`, nats."""
        return self.critic.score(context, u * self.z_scale + self.z_loc)


def as_critic(method: str, critic: Any) -> Critic | FittedCritic:
    """A critic from a configuration, a trained critic, or a function; refuse what is none of them."""
    if not isinstance(critic, type):
        if callable(getattr(critic, "initial", None)) or callable(getattr(critic, "score", None)):
            return critic
        if callable(critic):
            return FixedCritic(critic)
    raise TypeError(
        f"{method} needs critic, such as MLPCritic(), a trained one or a function (x, z), got {shown(critic)}."
    )
