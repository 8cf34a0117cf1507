"""What a direct bound is: trained on joint draws, then scored on fresh ones."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from numpyro_mi.critics import FittedCritic
from numpyro_mi.guides.base import FittedGuide, Guide
from numpyro_mi.guides.regression import FittedRegression, RegressionGuide, marginal
from numpyro_mi.pairs import Pairs
from numpyro_mi.training import Objective, Training, train

Report = Callable[[str], None]


class Supply(NamedTuple):
    """What a direct bound is fitted on; nothing of it is scored.

    Attributes
    ----------
    training, pilots
        Joint draws, disjoint.
    num_terms
        How many terms will be scored.
    log_prior
        `u -> log p(u)`, nats; None where it is not known.
    sample_prior
        `rng_key -> u`; None where it is not known.
    """

    training: Pairs
    pilots: Pairs
    num_terms: int
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
    """

    needs_prior: bool

    @property
    def num_latents(self) -> int: ...  # noqa: D102

    def fit(self, supply: Supply, rng_key: jax.Array, report: Report) -> Scorer:
        """Train on joint draws."""


class Fitted(NamedTuple):
    """A guide (None: the prior), and the two regressions that whiten a critic's inputs."""

    guide: FittedGuide | None
    base: FittedRegression
    regression: FittedRegression


def fit_guide(method: str, guide: Guide | None, supply: Supply, training: Training, key: Any, report: Report) -> Fitted:
    """The guide of a direct bound, on the draws that its critic is trained on."""
    if getattr(guide, "needs_likelihood", False):
        raise TypeError(
            f"{method} needs a guide that is fitted to joint draws alone, and {type(guide).__name__} searches the "
            "likelihood: use RegressionGuide()."
        )
    fitted = None if guide is None else guide.fit(supply.training, key, report)
    if isinstance(fitted, FittedRegression) and fitted.scale.ndim == 2:
        return Fitted(fitted, fitted, fitted)
    regression = RegressionGuide(num_draws=training.num_draws).fit(supply.training, key, report)
    base = fitted if isinstance(fitted, FittedRegression) else regression
    return Fitted(fitted, marginal(regression, supply.training) if guide is None else base, regression)


def fit_critic(
    critic: Any,
    fitted: Fitted,
    objective: Objective,
    context: Any,
    supply: Supply,
    training: Training,
    rng_key: jax.Array,
    report: Report,
) -> FittedCritic:
    """The trained critic; one that is already trained, or is a user's function, is used as it is."""
    if not hasattr(critic, "initial"):
        return critic
    start_key, train_key = jax.random.split(rng_key)
    start: Any = critic.initial(fitted.base, fitted.regression, start_key)
    if not hasattr(start, "with_params"):
        return start
    best = train(objective, start.params, (start, context), supply.training, training, train_key, report)
    return start.with_params(best)


def check_count(method: str, name: str, value: Any, least: int) -> int:
    """Require an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{method} needs {name}, an integer of at least {least}, got {value!r}.")
    return int(value)


def check_training(method: str, training: Any) -> None:
    """Refuse what is no training configuration."""
    if not isinstance(training, Training):
        raise TypeError(f"{method} needs training=Training(...), got {training!r}.")
