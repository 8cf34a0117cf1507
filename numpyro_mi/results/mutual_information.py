"""Bounds on mutual information, and everything behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_mi.results.estimation import mean
from numpyro_mi.results.numbers import Bounds, freeze

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False, repr=False)
class MIBounds(Bounds):
    """Certified bounds on the mutual information between two groups of sites, in nats.

    In expectation over joint draws and all algorithmic randomness, `lower <= I <= upper`.

    Attributes
    ----------
    lower_i, upper_i
        Terms of the two bounds, one a joint draw, shape `(N,)`, float64; None for a side that the
        method does not have. Independent and identically distributed over draws.
    latent, data
        Names of the two groups.
    given, fixed
        Sites that the information is conditioned on: averaged over, and held at one value. `history` is fixed where
        posterior samples stand for it.
    method
        Configuration of the method as plain data; `numpyro_mi.results.files.methods.rebuild` gives the object.
    plan
        For each annealed integral, its frozen `betas`, `step_size` and `inverse_mass_matrix`.
    stats
        For each integral and direction ("forward", "reverse", and "guide" for what a guide reports of each
        draw): log-weights `(N, K)`, the evidence bound made of them `(N,)`, mean acceptance by draw `(N,)` and by
        transition `(T-1,)`, gradient evaluations `(N,)`.
    guides
        The fitted guide of each integral, if the method has one: it can be passed to a later call. Not saved
        with the result.
    parts
        What the terms of a direct bound, or the lower ones of IWAE, are made of, by name, one value a term.
    trained
        Of a direct bound, the trained method; its `critic` and `guide` can be passed to a later call. Not
        saved with the result.
    cost
        Gradient evaluations: pilot and scored, forward, reverse and by the guide; those of training are not
        counted. Of arrays, the rows of each part.
    seconds
        Wall-clock by stage: "tuning" or "training", and "scoring"; "compiling" is part of both.
    key
        Data of the random key.
    environment
        Device and versions.
    num_requested
        Joint draws asked for; more than N if the run was interrupted.
    notes
        What the run has to say about its numbers.
    decomposition
        The signed log-marginals that the mutual information is the mean of: for each its kind ("exact":
        a conditional; "sum": over discrete sites, exact; "integral": annealed; "cancelled": with sign 0),
        its sign, the sites integrated out, and its factors with their parents. Nothing left but what
        cancels: the groups are independent.
    num_configurations
        Where the terms depend on a few discrete sites alone, the number of joint values of these that they were
        summed over: every term is then the mutual information itself, up to rounding, and the standard errors are
        zero. 0 where joint draws were scored.
    rounding
        Of such a sum, the most that it may be off by, nats; the interval includes it.
    """

    latent: tuple[str, ...]
    data: tuple[str, ...]
    method: dict[str, Any]
    plan: tuple[dict[str, np.ndarray], ...] = ()
    stats: tuple[dict[str, np.ndarray], ...] = ()
    guides: tuple[Any, ...] = ()
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    trained: Any = None
    notes: tuple[str, ...] = ()
    cost: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    key: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    num_requested: int = 0
    given: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    decomposition: tuple[dict[str, Any], ...] = ()
    num_configurations: int = 0
    rounding: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for arrays in (*self.stats, *self.plan, self.parts):
            freeze(*arrays.values())

    @property
    def estimate(self) -> float | None:
        """Midpoint of the two bounds, or what a method that bounds nothing says: an estimate, not a bound."""
        return mean(self.parts["estimate"]).value if "estimate" in self.parts else super().estimate

    @property
    def num_samples(self) -> int:
        """Terms scored: one a joint draw, or one a block of them."""
        return len(self.parts["estimate"]) if "estimate" in self.parts else super().num_samples

    @property
    def partial(self) -> bool:
        """Whether the run was interrupted; the finished blocks are complete and unbiased."""
        return self.num_samples < self.num_requested

    def to_datatree(self) -> xr.DataTree:
        """Everything as an ArviZ `DataTree`: bounds, log-weights, acceptance, plan, and attributes."""
        from numpyro_mi.results.files.datatree import to_datatree

        return to_datatree(self)

    def to_netcdf(self, path: Any) -> None:
        """Save to a netCDF file; `from_netcdf` reads back exactly the same result."""
        self.to_datatree().to_netcdf(path, engine="h5netcdf")

    @classmethod
    def from_netcdf(cls, path: Any) -> MIBounds:
        """Read a result that `to_netcdf` wrote.

        Raises
        ------
        ValueError
            If the file is none of this kind.
        """
        import xarray as xr

        from numpyro_mi.results.files.datatree import from_datatree

        try:
            tree = xr.load_datatree(path, engine="h5netcdf")
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            raise ValueError(f"{path} is no netCDF file that MIBounds.to_netcdf wrote: {error}") from error
        return from_datatree(tree)

    def __sub__(self, other: MIBounds) -> MIDifference:
        """Difference of two mutual informations, paired by common random numbers.

        The same `rng_key` and number of draws give the same joint draws for the same model, and
        correlated ones for two designs, so that the difference is more precise than either part.

        Raises
        ------
        ValueError
            If the key, the number of draws or the precision differs, or if neither end of the difference is bounded.
        """
        if not isinstance(other, MIBounds):
            return NotImplemented
        mine, theirs = _pairing(self), _pairing(other)
        unlike = [f"{name}: {mine[name]} and {theirs[name]}" for name in mine if mine[name] != theirs[name]]
        if (self.lower_i is None or other.upper_i is None) and (self.upper_i is None or other.lower_i is None):
            raise ValueError(
                "a difference is bounded by a lower bound of one result and an upper bound of the other, and here is "
                "neither (KSG bounds nothing, MINEAIS and the contrastive methods from below only): compare(...) "
                "shows paired differences of the lower bounds themselves."
            )
        if unlike:
            raise ValueError(
                "a difference is paired by common random numbers (the same joint draws for the same model, correlated "
                "ones for two designs), which needs two results with the same rng_key, num_samples and precision; "
                f"got {'; '.join(unlike)}."
            )
        lower_i = None if self.lower_i is None or other.upper_i is None else self.lower_i - other.upper_i
        upper_i = None if self.upper_i is None or other.lower_i is None else self.upper_i - other.lower_i
        from numpyro_mi.results.text.decomposition import is_exact

        return MIDifference(lower_i, upper_i, is_exact(self) and is_exact(other), self.rounding + other.rounding)

    def __repr__(self) -> str:
        from numpyro_mi.results.text.report import report

        return report(self)


@dataclass(frozen=True, eq=False, repr=False)
class MIDifference(Bounds):
    """Bounds on the difference `I_a - I_b` of two mutual informations, nats.

    Paired by common random numbers: the same joint draws for the same model, correlated ones for
    two designs.

    Attributes
    ----------
    lower_i, upper_i
        `lower_a - upper_b` and `upper_a - lower_b`, one a draw; None where a side is missing.
    exact
        Whether neither of the two has a sampling error.
    rounding
        As in `MIBounds`, of both.
    """

    exact: bool = False
    rounding: float = 0.0

    def __repr__(self) -> str:
        from numpyro_mi.results.text.report import report_difference

        return report_difference(self)


def _pairing(result: MIBounds) -> dict[str, Any]:
    """What two results must share for their draws to be paired."""
    return {"rng_key": result.key, "num_samples": result.num_samples, "x64": result.environment.get("x64")}
