"""The type of a task: a NumPyro model together with its mutual information."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """A NumPyro model whose mutual information between two sets of sites is known.

    Attributes
    ----------
    name : str
        Name of the task.
    model : callable
        NumPyro model that can be called without arguments; the keyword ``x``, if given, is the observed data.
    latent, data : str or tuple of str
        Names of the sample sites whose mutual information is asked for.
    mutual_information : float
        The true value in nats.
    mutual_information_se : float
        Standard error of the true value: 0 unless it is itself an estimate.
    given : str or tuple of str
        Names of the sites that it is conditioned on, averaged over.
    pointwise : callable, optional
        Maps a dict with the values of all sites of one draw to the scalar pointwise mutual information
        log p(data | latent, given) - log p(data | given), exactly; for tasks whose likelihood is no product of
        conditionals of the model.
    log_marginal : callable, optional
        Maps a dict with the data values of one draw to the scalar log density log p(data), exactly; it may be
        traced by JAX. None where there is no closed form.
    note : str
        What a user of the task should know, for example a hard support.
    """

    name: str
    model: Callable[..., Any]
    latent: str | tuple[str, ...]
    data: str | tuple[str, ...]
    mutual_information: float
    mutual_information_se: float = 0.0
    log_marginal: Callable[[Mapping[str, Any]], Any] | None = None
    given: str | tuple[str, ...] = ()
    pointwise: Callable[[Mapping[str, Any]], Any] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a truth that cannot be a mutual information."""
        if not (math.isfinite(self.mutual_information) and self.mutual_information >= 0.0):
            raise ValueError(
                f"Task {self.name!r} has mutual information {self.mutual_information}, which must be finite "
                "and not negative; check the parameters of the task."
            )
