"""What annealed methods share: temperatures, particles, transitions and the base of the path."""

from typing import Any

import numpy as np

from numpyro_mi.annealing.kernels.numpyro_kernels import as_kernel
from numpyro_mi.annealing.schedules import FixedSchedule, as_schedule, temperatures
from numpyro_mi.guides.base import Guide, check_guide
from numpyro_mi.options import integer, shown

COORDINATES = ("chosen", "model", "standardised")
STARTS = ("base", "chosen")
SETTINGS = ("chosen", "shared", "own")


def has_own_units(kernel: Any) -> bool:
    """Whether the user chose a step size or a mass."""
    return any(getattr(kernel, name, None) is not None for name in ("step_size", "inverse_mass_matrix"))


class AnnealedMethod:
    """Base class of frozen dataclasses with these fields."""

    num_temperatures: int | None
    num_particles: int
    kernel: Any
    schedule: Any
    base: Guide | None
    coordinates: str
    start: str
    settings: str

    def _settle(self, default_num_temperatures: int) -> None:
        """Check the fields, and put them into their final form."""
        name, schedule, count = type(self).__name__, as_schedule(self.schedule), self.num_temperatures
        if count is None:
            count = len(schedule.values) - 1 if isinstance(schedule, FixedSchedule) else default_num_temperatures
        count = integer(name, "num_temperatures", count)
        num_particles = integer(name, "num_particles", self.num_particles)
        check_guide(name, "base", self.base, optional=True)
        for field, choices in (("coordinates", COORDINATES), ("start", STARTS), ("settings", SETTINGS)):
            if getattr(self, field) not in choices:
                wanted = " or ".join(map(repr, choices))
                raise ValueError(f"{name} needs {field} to be {wanted}, got {shown(getattr(self, field))}.")
        if self.start == "chosen" and self.base is None:
            raise ValueError(
                f'{name} with start="chosen" chooses between a guide and the prior for each data set: pass the guide '
                "as base=, such as RegressionGuide() or LaplaceGuide()."
            )
        kernel = as_kernel(self.kernel)
        if self.start == "chosen" and self.settings == "shared":
            raise ValueError(
                f'{name} with start="chosen" tunes the chains of each start for each data set, so settings="shared" is '
                'not possible: pass "chosen" or "own".'
            )
        if has_own_units(kernel):
            self._refuse_units(name)
        temperatures(schedule, count)
        object.__setattr__(self, "num_temperatures", count)
        object.__setattr__(self, "num_particles", num_particles)
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "kernel", kernel)

    def _refuse_units(self, name: str) -> None:
        """Refuse what a step size or mass of the user's, the same for all data sets, rules out."""
        for field, asked, why in (
            ("start", "chosen", "tunes the chains of each start for each data set"),
            ("settings", "own", "tunes the chains of each data set"),
            ("coordinates", "standardised", "changes the units of the coordinates"),
        ):
            if getattr(self, field) == asked:
                raise ValueError(
                    f'{name} with {field}="{asked}" {why}, and its kernel has a step size or mass of its own: leave '
                    "these to the pilots (None)."
                )

    def betas(self) -> np.ndarray:
        """Temperatures, shape `(T+1,)`, float64."""
        return temperatures(self.schedule, self.num_temperatures or 0)
