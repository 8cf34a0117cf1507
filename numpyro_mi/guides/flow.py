"""A conditional normalising flow around the regression; needs FlowJAX."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.guides.base import Conditional, check_fitted
from numpyro_mi.guides.regression import FittedRegression, RegressionGuide
from numpyro_mi.options import integer
from numpyro_mi.targets import AnnealedTarget
from numpyro_mi.training.pairs import Pairs
from numpyro_mi.training.training import Training, check_training, train

_KNOTS, _INTERVAL = 8, 5.0  # of the splines, in regression standard deviations


@dataclass(frozen=True)
class FlowGuide:
    """q(z|x) by a conditional normalising flow: rational-quadratic splines, coupled or (one latent) alone.

    Works in the coordinates whitened by a `RegressionGuide`, and is trained by maximum likelihood. For skewed,
    curved or several-peaked posteriors that no mixture of few Gaussians fits. Needs `pip install flowjax`.

    Parameters
    ----------
    num_layers
        Layers of the flow.
    width, depth
        Size and number of the hidden layers of each layer's network.
    training
        How it is trained, on draws that are never scored.

    References
    ----------
    Durkan et al., NeurIPS 2019 (neural spline flows); Ward, FlowJAX.
    """

    num_layers: int = 6
    width: int = 64
    depth: int = 2
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        for name in ("num_layers", "width", "depth"):
            object.__setattr__(self, name, integer("FlowGuide", name, getattr(self, name)))
        check_training("FlowGuide", self.training)

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> "FittedFlow":
        """Fit the regression, then train the flow."""
        start_key, fit_key, train_key = jax.random.split(rng_key, 3)
        params, arrays = _initial(self, pairs.dimension, pairs.num_features, start_key)
        regression = RegressionGuide().fit(pairs, fit_key, report)
        start = FittedFlow(params, arrays, regression, self).fit(pairs, fit_key, report)
        best = train(_Likelihood(), params, (start, pairs.target), pairs, self.training, train_key, report)
        return start.with_params(best)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FittedFlow:
    """A fitted `FlowGuide`.

    Attributes
    ----------
    params
        Trained: the real arrays of the flow.
    arrays
        Its other arrays, such as permutations.
    regression
        In whose coordinates the flow works.
    config
        The guide that was trained.
    """

    params: list[jax.Array]
    arrays: list[jax.Array]
    regression: FittedRegression
    config: FlowGuide = field(metadata={"static": True})

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> "FittedFlow":
        """Itself, if it is a guide for such draws."""
        check_fitted(self, len(self.regression.bias), len(self.regression.x_loc), pairs)
        self._structure()
        return self

    def with_params(self, params: list[jax.Array]) -> "FittedFlow":
        """The same guide with other parameters."""
        return replace(self, params=params)

    def condition(self, target: AnnealedTarget | None, x: jax.Array, rng_key: jax.Array) -> Conditional:
        """The guide at one x, in the coordinates of the regression."""
        return self.regression.condition(target, x, rng_key)._replace(extra=self.regression.features(x))

    def sample(self, conditional: Conditional, rng_key: jax.Array) -> jax.Array:
        """A draw of v."""
        return self._flow().sample(rng_key, condition=conditional.extra)

    def log_prob(self, conditional: Conditional, v: jax.Array) -> jax.Array:
        """Its log-density."""
        return self._flow().log_prob(v, condition=conditional.extra)

    def _flow(self) -> Any:
        return self._structure().flow(self.params, self.arrays)

    def _structure(self) -> "_Structure":
        # Built outside compiled programs, by `fit`, and then remembered: FlowJAX cannot be built inside them.
        sizes = len(self.regression.bias), len(self.regression.x_loc)
        return _structure(self.config, *sizes, jnp.result_type(float))


class _Structure:
    """What is left of a flow without its arrays."""

    def __init__(self, flow: Any):
        leaves, self.tree = jax.tree.flatten(flow)
        self.kinds = [_kind(leaf) for leaf in leaves]
        self.rest = [leaf for leaf, kind in zip(leaves, self.kinds, strict=True) if kind == "rest"]

    def flow(self, params: list[jax.Array], arrays: list[jax.Array]) -> Any:
        """The flow with these arrays."""
        supply = {"params": iter(params), "arrays": iter(arrays), "rest": iter(self.rest)}
        return jax.tree.unflatten(self.tree, [next(supply[kind]) for kind in self.kinds])


def _kind(leaf: Any) -> str:
    if not isinstance(leaf, jax.Array | np.ndarray):
        return "rest"
    return "params" if jnp.issubdtype(leaf.dtype, jnp.floating) else "arrays"


@lru_cache
def _structure(config: FlowGuide, dimension: int, num_features: int, precision: np.dtype) -> _Structure:
    """The same object for all flows of a shape: functions inside are compared by identity."""
    return _Structure(_build(config, dimension, num_features, jax.random.key(0)))


def _initial(
    config: FlowGuide, dimension: int, num_features: int, rng_key: jax.Array
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Arrays of a flow before training: those to be trained, and the others."""
    leaves = jax.tree.leaves(_build(config, dimension, num_features, rng_key))
    params, arrays = ([jnp.asarray(leaf) for leaf in leaves if _kind(leaf) == kind] for kind in ("params", "arrays"))
    return params, arrays


def _build(config: FlowGuide, dimension: int, num_features: int, rng_key: jax.Array) -> Any:
    """A flow before training: the identity, with random parameters up to the last layers."""
    try:
        import equinox as eqx
        import flowjax.flows
        from flowjax.bijections import RationalQuadraticSpline
        from flowjax.distributions import Normal
    except ImportError as error:
        raise ImportError("FlowGuide is built with FlowJAX, which is not installed: pip install flowjax") from error
    flows = flowjax.flows
    make = flows.masked_autoregressive_flow if dimension == 1 else flows.coupling_flow
    flow = make(
        rng_key,
        base_dist=Normal(jnp.zeros(dimension)),
        transformer=RationalQuadraticSpline(knots=_KNOTS, interval=_INTERVAL),
        cond_dim=num_features,
        flow_layers=config.num_layers,
        nn_width=config.width,
        nn_depth=config.depth,
        nn_activation=jax.nn.silu,
    )

    def still(network: Any) -> Any:
        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if _kind(leaf) == "params" else leaf, network.layers[-1])
        return eqx.tree_at(lambda network: network.layers[-1], network, zeros)

    def is_network(node: Any) -> bool:
        return isinstance(node, eqx.nn.MLP)

    return jax.tree.map(lambda node: still(node) if is_network(node) else node, flow, is_leaf=is_network)


@dataclass(frozen=True)
class _Likelihood:
    """Maximum likelihood on joint draws."""

    def bound(self, trained: Any, fixed: Any, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> jax.Array:
        """The Barber-Agakov bound; the log-density where there is no prior."""
        target = fixed[1]
        value = -self.loss(trained, fixed, u, x, rng_key)
        return value if target is None else value - jax.vmap(lambda u, x: target(x).log_base(u))(u, x).mean()

    def loss(self, trained: Any, fixed: Any, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> jax.Array:
        """The negative log-density."""
        guide = fixed[0].with_params(trained)

        def one(u, x):
            conditional = guide.condition(None, x, rng_key)
            return guide.log_prob(conditional, conditional.whiten(u)) - conditional.log_det()

        return -jax.vmap(one)(u, x).mean()
