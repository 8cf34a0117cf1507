"""What a direct bound is: trained on joint draws, then scored on fresh ones."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from numpyro_mi.direct.critics import FittedCritic, TrainedCritic
from numpyro_mi.guides.base import FittedGuide, Guide
from numpyro_mi.guides.callables import FittedFunction
from numpyro_mi.guides.laplace import FittedLaplace
from numpyro_mi.guides.regression import FittedRegression, RegressionGuide, marginal
from numpyro_mi.training.pairs import Pairs
from numpyro_mi.training.training import Objective, Training, train

Report = Callable[[str], None]


class Supply(NamedTuple):
    """What a direct bound is fitted on; nothing of it is scored.

    Attributes
    ----------
    training, pilots
        Joint draws, disjoint.
    num_negatives
        How many scores of independent pairs all terms together will hold.
    log_prior
        `u -> log p(u)`, nats; None where it is not known.
    sample_prior
        `rng_key -> u`; None where it is not known.
    """

    training: Pairs
    pilots: Pairs
    num_negatives: int
    log_prior: Any = None
    sample_prior: Any = None


class Scorer(Protocol):
    """A direct bound ready to be scored; a pytree."""

    def terms(self, u: jax.Array, x: jax.Array, rng_key: jax.Array) -> dict[str, jax.Array]:
        """One term.

        Parameters
        ----------
        u
            Latents, shape `(K, d)`: the first m belong to `x`, the others are independent of it.
        x
            Data, shape `(m, p)`.
        rng_key
            For what else is drawn.

        Returns
        -------
        dict
            "lower", nats: on average at or below the mutual information; and its parts by name.
        """


class DirectMethod(Protocol):
    """A method that bounds the mutual information from joint draws, without a likelihood.

    Attributes
    ----------
    needs_prior
        Whether it evaluates `log p(z)`.
    num_latents
        Latents that one term looks at.
    num_particles
        Points that one term computes at the same time, by which blocks are sized.
    critic
        A configuration, a trained critic, or a user's function.
    """

    needs_prior: bool

    @property
    def critic(self) -> Any: ...  # noqa: D102

    @property
    def num_latents(self) -> int: ...  # noqa: D102

    @property
    def num_particles(self) -> int: ...  # noqa: D102

    def fit(self, supply: Supply, rng_key: jax.Array, report: Report) -> Scorer:
        """Train on joint draws."""


class Fitted(NamedTuple):
    """A guide (None: the prior), and the two regressions that whiten a critic's inputs."""

    guide: FittedGuide | None
    base: FittedRegression
    regression: FittedRegression


def fit_parts(
    method: Any,
    guide: Guide | None,
    objective: Objective,
    context: Callable[[Fitted], Any],
    supply: Supply,
    rng_key: jax.Array,
    report: Report,
) -> tuple[FittedGuide | None, FittedCritic]:
    """The guide and the critic of a direct bound, trained on the same draws.

    A critic that is already trained, or is a user's function, is used as it is, and nothing is fitted for it.

    Parameters
    ----------
    method
        Whose `critic` and `training` they are.
    guide
        Its guide; None: the prior.
    objective, context
        What the critic is trained by, and what that needs besides the critic.
    supply, rng_key, report
        As in `DirectMethod.fit`.
    """
    name, critic, training = type(method).__name__, method.critic, method.training
    if getattr(guide, "needs_likelihood", False):
        raise TypeError(
            f"{name} needs a guide that is fitted to joint draws alone, and {type(guide).__name__} searches the "
            "likelihood: use RegressionGuide()."
        )
    if isinstance(critic, TrainedCritic):
        critic.check(supply.training)
    guide_key, whitening_key, start_key, train_key = jax.random.split(rng_key, 4)
    fitted_guide = None if guide is None else guide.fit(supply.training, guide_key, report)
    if not hasattr(critic, "initial"):
        return fitted_guide, critic
    fitted = _whitened(fitted_guide, supply.training, training, whitening_key, report)
    start: Any = critic.initial(fitted.base, fitted.regression, start_key)
    if not hasattr(start, "with_params"):
        return fitted_guide, start
    best = train(objective, start.params, (start, context(fitted)), supply.training, training, train_key, report)
    return fitted_guide, start.with_params(best)


def _whitened(guide: FittedGuide | None, pairs: Pairs, training: Training, key: jax.Array, report: Report) -> Fitted:
    """A guide with the regressions that go with it; its own, where it is one."""
    if isinstance(guide, FittedRegression) and guide.scale.ndim == 2:
        return Fitted(guide, guide, guide)
    regression = RegressionGuide(num_draws=training.num_draws).fit(pairs, key, report)
    if guide is None:
        return Fitted(guide, marginal(regression, pairs), regression)
    return Fitted(guide, guide if isinstance(guide, FittedRegression) else regression, regression)


def is_fitted(part: Any) -> bool:
    """Whether it is a fitted guide or a trained critic of the package."""
    return hasattr(part, "with_params") or isinstance(part, FittedRegression | FittedLaplace | FittedFunction)
