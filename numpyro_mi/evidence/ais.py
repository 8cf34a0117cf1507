"""Annealed importance sampling: configuration, and the estimate for one draw."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import jax

from numpyro_mi.annealing.chains import Path, Randomness, keyed_randomness
from numpyro_mi.annealing.kernels.base import Kernel
from numpyro_mi.annealing.kernels.hmc import AnnealedHMC
from numpyro_mi.annealing.schedules import PowerSchedule
from numpyro_mi.evidence.annealed import AnnealedMethod
from numpyro_mi.evidence.base import Evidence
from numpyro_mi.evidence.schemes.independent import IM
from numpyro_mi.guides.base import Guide
from numpyro_mi.options import shown
from numpyro_mi.targets import AnnealedTarget

DEFAULT_NUM_TEMPERATURES = 400


class Scheme(Protocol):
    """How several chains make up one weight."""

    def evidence(
        self,
        target: AnnealedTarget,
        kernel: Kernel,
        path: Path,
        exact: jax.Array,
        num_particles: int,
        randomness: Randomness,
    ) -> Evidence:
        """Bounds on `log Z`, given one exact draw of the target."""


@dataclass(frozen=True)
class AIS(AnnealedMethod):
    """Annealed importance sampling from the prior, or a guide, to the posterior of each simulated data set.

    Gives both sides: forward chains from the base for the upper bound on mutual information,
    reverse chains from the simulated latent, an exact posterior draw, for the lower.

    Parameters
    ----------
    num_temperatures
        Number of weight increments T; a chain makes T-1 transitions. None: 400, or what an array
        schedule says. 1 is importance sampling from the prior.
    num_particles
        K chains a bound. K=1 is single-chain AIS, whichever the scheme.
    kernel
        `AnnealedHMC(...)`, or a NumPyro `HMC` or `NUTS` object, whose settings are honoured (its
        model plays no part).
    schedule
        A rule such as `PowerSchedule(4)`, or an array of T+1 temperatures from 0 to 1.
    scheme
        `IM()`, `CR()` or `IR(posterior_sampler)`.
    base
        Where the path starts: None for the prior, or a guide such as `RegressionGuide()`, in whose
        coordinates the chains then run. A fitted guide is used as it is.
    start
        "base"; or "chosen": with a guide, each data set starts from the guide or from the prior, whichever its own
        pilot chains show to be better, if the pilots' gaps show that this pays.
    coordinates
        Of chains from the prior. "model": those of the sites' supports. "standardised": sites with a location and a
        scale, or a covariance, are measured from it and in it, which unbends the funnels of hierarchical models;
        where rounding keeps these from leading back to the same densities, a warning says that they were not taken.
        "chosen": what has the smallest gap on pilot draws, which may be to leave the choice to each data set's own
        pilot chains.
    settings
        Step sizes and masses. "shared": tuned on pilot draws, one for all data sets. "own": each data set has pilot
        chains, which adapt, and their settings; they cost 400 transitions a data set and start. "chosen": shared,
        unless pilot draws show that they leave a gap and own ones make it smaller; not tried where
        `num_temperatures * num_particles` is below 800. Other coordinates are chosen together with own settings.

    References
    ----------
    Brekelmans et al., ICLR 2022; Neal, Statistics and Computing 2001; Grosse et al., 2015 (both
    directions).
    """

    num_temperatures: int | None = None
    num_particles: int = 8
    kernel: Any = field(default_factory=AnnealedHMC)
    schedule: Any = field(default_factory=PowerSchedule)
    scheme: Scheme = field(default_factory=IM)
    # What follows is settled outside the compiled programs, which take it as arguments.
    base: Guide | None = field(default=None, compare=False)
    start: str = field(default="base", compare=False)
    coordinates: str = field(default="chosen", compare=False)
    settings: str = field(default="chosen", compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.scheme, type) or not callable(getattr(self.scheme, "evidence", None)):
            raise TypeError(f"scheme must be IM(), CR() or IR(posterior_sampler), got {shown(self.scheme)}.")
        self._settle(DEFAULT_NUM_TEMPERATURES)

    def evidence(self, target: AnnealedTarget, path: Path, exact: jax.Array, rng_key: jax.Array) -> Evidence:
        """Bounds on `log Z` of one target, given `exact`, one exact draw of it."""
        randomness = keyed_randomness(target, self.kernel, rng_key, exact)
        return self.scheme.evidence(target, self.kernel, path, exact, self.num_particles, randomness)
