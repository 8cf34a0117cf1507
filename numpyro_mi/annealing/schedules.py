"""Annealing schedules: temperatures that rise from 0 (the base) to 1 (the target)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from numpyro_mi.options import shown


class Schedule(Protocol):
    """A rule that places the temperatures."""

    def __call__(self, num_temperatures: int) -> np.ndarray:
        """`num_temperatures + 1` values from 0 to 1, float64."""


@dataclass(frozen=True)
class PowerSchedule:
    """`b_t = (t / T) ** exponent`: dense near the base, where a likelihood first bites.

    From the prior, linear temperatures need a number that grows exponentially with the information
    in each direction; a power of about 4 grows polynomially.

    Parameters
    ----------
    exponent
        Positive; 1 is linear.
    """

    exponent: float = 4.0

    def __post_init__(self) -> None:
        if not self.exponent > 0 or not np.isfinite(self.exponent):
            raise ValueError(f"PowerSchedule needs a positive finite exponent, got {shown(self.exponent)}.")

    def __call__(self, num_temperatures: int) -> np.ndarray:
        """Temperatures, shape `(num_temperatures + 1,)`."""
        return np.linspace(0.0, 1.0, num_temperatures + 1) ** self.exponent


@dataclass(frozen=True)
class LinearSchedule:
    """`b_t = t / T`."""

    def __call__(self, num_temperatures: int) -> np.ndarray:
        """Temperatures, shape `(num_temperatures + 1,)`."""
        return np.linspace(0.0, 1.0, num_temperatures + 1)


@dataclass(frozen=True)
class SigmoidSchedule:
    """Temperatures dense at both ends: a logistic curve over `[-radius, radius]`, rescaled to 0..1.

    Parameters
    ----------
    radius
        Positive; the larger, the denser the ends.
    """

    radius: float = 4.0

    def __post_init__(self) -> None:
        if not self.radius > 0 or not np.isfinite(self.radius):
            raise ValueError(f"SigmoidSchedule needs a positive finite radius, got {shown(self.radius)}.")

    def __call__(self, num_temperatures: int) -> np.ndarray:
        """Temperatures, shape `(num_temperatures + 1,)`."""
        logits = self.radius * np.linspace(-1.0, 1.0, num_temperatures + 1)
        curve = 1.0 / (1.0 + np.exp(-logits))
        return (curve - curve[0]) / (curve[-1] - curve[0])


@dataclass(frozen=True)
class FixedSchedule:
    """Temperatures given one by one.

    Parameters
    ----------
    values
        Rising from exactly 0 to exactly 1.
    """

    values: tuple[float, ...]

    def __call__(self, num_temperatures: int) -> np.ndarray:
        """The given temperatures; their number must agree."""
        if num_temperatures + 1 != len(self.values):
            raise ValueError(
                f"the schedule has {len(self.values)} values, so num_temperatures must be "
                f"{len(self.values) - 1} (the number of steps between them), got {num_temperatures}."
            )
        return np.asarray(self.values, np.float64)


def as_schedule(schedule: Schedule | Sequence[float] | np.ndarray) -> Schedule:
    """A schedule from a rule or from an array of temperatures."""
    if callable(schedule) and not isinstance(schedule, type):
        return schedule
    try:
        if schedule is None:
            raise TypeError
        values = np.asarray(schedule, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"schedule must be a rule such as PowerSchedule(4) or an array of temperatures from 0 to 1, "
            f"got {shown(schedule)}."
        ) from None
    if values.ndim != 1 or values.size < 2:
        raise ValueError(
            f"an array schedule needs one dimension and at least the two values 0 and 1, got shape {values.shape}."
        )
    _check_rising(values)
    return FixedSchedule(tuple(values.tolist()))


def temperatures(schedule: Schedule, num_temperatures: int) -> np.ndarray:
    """The checked values of a schedule, shape `(num_temperatures + 1,)`, float64."""
    values = np.asarray(schedule(num_temperatures), np.float64)
    if values.shape != (num_temperatures + 1,):
        raise ValueError(
            f"a schedule must return num_temperatures + 1 = {num_temperatures + 1} values, got shape {values.shape}."
        )
    _check_rising(values)
    return values


def _check_rising(values: np.ndarray) -> None:
    # In float32 as in float64: a weight increment that rounds to zero would hide an infinite ratio.
    steps = np.diff(values)
    if not (values[0] == 0.0 and values[-1] == 1.0 and (steps.astype(np.float32) > 0).all()):
        raise ValueError(
            "a schedule must rise strictly from exactly 0 to exactly 1; "
            f"got values from {values[0]:g} to {values[-1]:g} with smallest step {steps.min():g}."
        )
