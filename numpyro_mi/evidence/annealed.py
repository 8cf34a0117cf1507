"""What annealed methods share: temperatures, particles, transitions and the base of the path."""

from typing import Any

import numpy as np

from numpyro_mi.guides.base import Guide, check_guide
from numpyro_mi.kernels.numpyro_kernels import as_kernel
from numpyro_mi.options import integer
from numpyro_mi.schedules import FixedSchedule, as_schedule, temperatures


class AnnealedMethod:
    """Base class of frozen dataclasses with these fields."""

    num_temperatures: int | None
    num_particles: int
    kernel: Any
    schedule: Any
    base: Guide | None

    def _settle(self, default_num_temperatures: int) -> None:
        """Check the fields, and put them into their final form."""
        name, schedule, count = type(self).__name__, as_schedule(self.schedule), self.num_temperatures
        if count is None:
            count = len(schedule.values) - 1 if isinstance(schedule, FixedSchedule) else default_num_temperatures
        count = integer(name, "num_temperatures", count)
        num_particles = integer(name, "num_particles", self.num_particles)
        check_guide(name, "base", self.base, optional=True)
        temperatures(schedule, count)
        object.__setattr__(self, "num_temperatures", count)
        object.__setattr__(self, "num_particles", num_particles)
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "kernel", as_kernel(self.kernel))

    def betas(self) -> np.ndarray:
        """Temperatures, shape `(T+1,)`, float64."""
        return temperatures(self.schedule, self.num_temperatures or 0)
