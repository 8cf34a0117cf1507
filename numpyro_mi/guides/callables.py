"""A user's guide function as a guide."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.guides.base import Conditional, check_fitted
from numpyro_mi.guides.regression import FittedRegression, RegressionGuide
from numpyro_mi.model.sites.identities import WRONG, mean_of, vector_terms
from numpyro_mi.model.views.callables import StagedGuide, stage_guide
from numpyro_mi.options import shown
from numpyro_mi.targets import AnnealedTarget
from numpyro_mi.training.pairs import Pairs

_CHECKED = 4096
_NUM_FRESH = 64  # draws of the guide at one x that a normal is fitted to
_LARGEST_SHARE = 0.01  # of draws that may be infinite in single precision, at the edge of a support


@dataclass(frozen=True)
class GuideFunction:
    """A NumPyro guide of your own, with its parameters, used as it is.

    The guide is called as `guide(data)`, with `data` a dict of the values that are conditioned on, by site
    name, one draw each. It draws exactly the latents that are integrated out, by `numpyro.sample`, each on
    its own space and from a density that can be evaluated; its `numpyro.param` sites, and modules of Flax
    and Equinox, take their values from `params`. A guide that was trained with SVI on one data set and does
    not look at `data` is allowed, and poor.

    Parameters
    ----------
    guide
        The guide. Annealed chains run in the coordinates of a regression that is fitted alongside.
    params
        Values of its parameters, as in `Predictive`; NNX and Equinox modules carry their own.
    guide_args, guide_kwargs
        What it is called with after `data`.
    """

    guide: Callable
    # Compiled programs take what follows as arguments, so it does not tell two programs apart.
    params: Mapping[str, Any] | None = field(default=None, compare=False)
    guide_args: tuple = field(default=(), compare=False)
    guide_kwargs: Mapping[str, Any] | None = field(default=None, compare=False)

    needs_gradient = False

    def __post_init__(self) -> None:
        if type(self.guide).__module__.startswith("numpyro.infer.autoguide"):
            raise TypeError(
                f"GuideFunction got {type(self.guide).__name__}: an AutoGuide is fitted to one data set, and the "
                "guide must be a function of the data. Use RegressionGuide() or LaplaceGuide()."
            )
        if not callable(self.guide):
            raise TypeError(f"GuideFunction needs guide, a function of a dict of data, got {shown(self.guide)}.")
        if not isinstance(self.guide_args, tuple | list):
            raise TypeError(f"GuideFunction needs guide_args, a tuple, got {shown(self.guide_args)}.")
        for name in ("params", "guide_kwargs"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(f"GuideFunction needs {name}, a dict by name or None, got {type(value).__name__}.")

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> "FittedFunction":
        """Stage the guide for this model, check it, and fit the regression."""
        if pairs.coordinates is None:
            raise ValueError(
                "GuideFunction draws sites of a model by name, and here there are joint draws without names: use "
                "RegressionGuide() or NeuralGuide()."
            )
        regression = RegressionGuide().fit(pairs, rng_key, report)
        report("checking the guide")
        staged = stage_guide(
            self.guide,
            dict(self.params or {}),
            tuple(self.guide_args),
            dict(self.guide_kwargs or {}),
            pairs.coordinates(),
        )
        _check_draws(staged, regression, pairs, rng_key)
        return FittedFunction(staged, regression, replace(self, params=None, guide_args=(), guide_kwargs=None))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FittedFunction:
    """A `GuideFunction`, staged.

    Attributes
    ----------
    staged
        Draws and log-density, with the values of the parameters.
    regression
        In whose coordinates chains run.
    config
        The guide that was staged, without its parameters.
    """

    staged: StagedGuide
    regression: FittedRegression
    config: GuideFunction = field(metadata={"static": True})

    def fit(self, pairs: Pairs, rng_key: jax.Array, report: Callable[[str], None]) -> "FittedFunction":
        """Itself, if it is a guide for such draws."""
        check_fitted(self, len(self.regression.bias), len(self.regression.x_loc), pairs)
        return self

    def condition(self, target: AnnealedTarget | None, x: jax.Array, rng_key: jax.Array) -> Conditional:
        """The guide at one x, in the coordinates of the regression."""
        return self.regression.condition(target, x, rng_key)._replace(extra=x)

    def sample(self, conditional: Conditional, rng_key: jax.Array) -> jax.Array:
        """A draw of v."""
        return conditional.whiten(self.staged.sample(rng_key, conditional.extra))

    def log_prob(self, conditional: Conditional, v: jax.Array) -> jax.Array:
        """Its log-density."""
        return self.staged.log_prob(conditional.unwhiten(v), conditional.extra) + conditional.log_det()


def _check_draws(staged: StagedGuide, regression: FittedRegression, pairs: Pairs, rng_key: jax.Array) -> None:
    """Refuse a guide that draws outside the model's support, or does not draw from its own density."""
    u, x = (jnp.asarray(part[:_CHECKED]) for part in pairs.first(_CHECKED))
    drawn, at_own, at_joint, terms = jax.device_get(_evaluated(staged, regression, u, x, rng_key))
    outside = (~np.isfinite(drawn)).any(1).mean()
    if outside > _LARGEST_SHARE:
        raise ValueError(
            f"{outside:.0%} of the guide's draws are no numbers, or not inside the support of the model's latents: "
            "each site of the guide needs a distribution with the support that it has in the model, and parameters in "
            "range for all data."
        )
    wrong = np.isnan(at_joint) | np.isposinf(at_joint) | (~np.isfinite(at_own) & np.isfinite(drawn).all(1))
    if wrong.mean() > _LARGEST_SHARE:
        raise ValueError(
            f"the log-density of the guide is not a finite number at {wrong.mean():.0%} of its own draws or of those "
            "of the model: check the parameters of its distributions over the whole range of the data."
        )
    for wrong_how, values in zip(WRONG.values(), terms, strict=True):
        mean = mean_of(values)
        if mean.fails:
            raise ValueError(
                f"draws of the guide do not follow its density: {wrong_how} (an identity of exact draws is off by "
                f"{mean.value:.2g}, and chance explains {mean.allowed:.2g}). Both bounds would be wrong. Check that "
                "sample and log_prob of its distributions belong together."
            )


@jax.jit
def _evaluated(staged, regression, u, x, rng_key):
    def one(u, x, key):
        draw_key, fresh_key, other_key = jax.random.split(key, 3)
        drawn = staged.sample(draw_key, x)
        conditional = regression.condition(None, x, fresh_key)
        keys = jax.random.split(fresh_key, _NUM_FRESH)
        fresh = jax.vmap(lambda key: conditional.whiten(staged.sample(key, x)))(keys)

        def log_density(v):
            return staged.log_prob(conditional.unwhiten(v), x) + conditional.log_det()

        terms = vector_terms(log_density, conditional.whiten(drawn), fresh, other_key)
        return drawn, staged.log_prob(drawn, x), staged.log_prob(u, x), terms

    return jax.vmap(one)(u, x, jax.random.split(rng_key, len(u)))
