"""The public verbs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from numpyro_mi.arrays import paired, repeated_rows
from numpyro_mi.bounds.base import DirectMethod
from numpyro_mi.bounds.contrastive import MINE, NWJ, InfoNCE
from numpyro_mi.bounds.giwae import GIWAE
from numpyro_mi.bounds.mine_ais import MINEAIS
from numpyro_mi.bounds.nearest_neighbors import KSG, ksg_terms, notes_on
from numpyro_mi.config import describe
from numpyro_mi.decomposition import check_fixed, decompose
from numpyro_mi.environment import environment
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.evidence.importance import IWAE, BarberAgakov, StructuredInfoNCE
from numpyro_mi.evidence.smc import AnnealedSMC
from numpyro_mi.keys import as_key, key_record
from numpyro_mi.model import integral_checks
from numpyro_mi.model.joint_model import JointModel
from numpyro_mi.model.samples import StagedSamples, stage_samples
from numpyro_mi.model.trace import joint_model
from numpyro_mi.options import shown
from numpyro_mi.results import MIBounds
from numpyro_mi.rows import Rows, require_likelihood
from numpyro_mi.sample_driver import RawTerms, run_on_arrays, run_on_model
from numpyro_mi.timing import Stopwatch

DEFAULT_NUM_SAMPLES = 1000
_ARRAY_BLOCK = 100
METHODS = (AIS, AnnealedSMC, IWAE, BarberAgakov, StructuredInfoNCE)
DIRECT_METHODS = (MINEAIS, GIWAE, InfoNCE, MINE, NWJ)


def mi_bounds(
    model: Callable,
    latent: str | Sequence[str],
    data: str | Sequence[str],
    given: str | Sequence[str] | Mapping[str, Any] = (),
    *,
    method: EvidenceMethod | DirectMethod | None = None,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    rng_key: jax.Array | int | None = None,
    params: Mapping[str, Any] | None = None,
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress_bar: bool = True,
) -> MIBounds:
    """Lower and upper bounds on the mutual information I(latent; data | given) of a NumPyro model, in nats.

    The joint distribution is simulated from the model (data that the model is called with are not
    used), so every simulated latent is an exact posterior draw given its simulated data. That makes
    both sides of `log p(data)` accessible: from below by chains annealed from the prior, from above
    by chains annealed backwards from the simulated latent. Sites in none of the groups are integrated
    out, on both sides of both bounds: discrete ones are summed, and terms that are exact or cancel are
    not annealed. Where the terms depend on nothing but discrete sites of few values, they are summed over all
    of these instead of averaged over draws, and the result has no sampling error.

    Parameters
    ----------
    model
        A NumPyro model, written with or without `obs=`. Data must enter through `obs=` only: arguments are
        checked for that, and what the model closes over as far as values can tell.
    latent, data
        Name or names of the sites of the two groups: any random sites of the model, or elements of those in
        plates, such as "theta[2]" or "theta[0,1]".
    given
        Sites to condition on: a name or names, whose values are averaged over, or a mapping from names to
        values to hold them at, for sites that the latent and the data depend on.
    method
        With the densities of all sites `AIS(...)`, `AnnealedSMC(...)`, `IWAE(...)`, `BarberAgakov(...)` or
        `StructuredInfoNCE(...)`; without a likelihood `MINEAIS(...)` or `GIWAE(...)`; from joint draws alone
        `InfoNCE(...)`, `MINE(...)` or `NWJ(...)`. None means `AIS()`, or `MINEAIS()` if the data can be
        simulated and have no density, as in `numpyro.deterministic("x", simulate(numpyro.prng_key(), z))`.
    num_samples
        Joint draws to score, fixed beforehand; the standard errors fall as its root. An event of probability p that
        matters takes more than 30 / p of them.
    rng_key
        A JAX key of either style, or an integer; None means key 0, so that a run is reproducible.
    params
        Values of the model's `numpyro.param` sites, as in `Predictive`.
    model_args, model_kwargs
        Arguments of the model. An argument that holds data matters by its shape only.
    batch_size
        Joint draws in one compiled block; None chooses. Joint draws do not depend on it.
    progress_bar
        Whether to show one; silent under `CI`.

    Returns
    -------
    MIBounds
        The bounds that the method has, with standard errors; on average `lower <= I <= upper`. On Ctrl-C,
        the finished blocks, marked partial.

    Raises
    ------
    TypeError, ValueError
        For a model or an argument that would give a wrong answer: before anything compiles where the
        model itself shows it, before anything is tuned or scored where only its draws do.

    References
    ----------
    Brekelmans et al., Improving Mutual Information Estimation with Annealed and Energy-Based Bounds,
    ICLR 2022.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> from numpyro_mi import mi_bounds
    >>> def model(x=None):
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("x", dist.Normal(z, 0.5), obs=x)
    >>> result = mi_bounds(model, latent="z", data="x", progress_bar=False)
    >>> result.interval(0.95)  # doctest: +SKIP
    (0.76, 0.85)
    """
    num_samples, batch_size = check_run(method, num_samples, batch_size)
    key = as_key(rng_key)
    joint = joint_model(model, latent, data, model_args, model_kwargs, params, given)
    notes = joint.notes
    if method is None:
        method = MINEAIS() if joint.without_density else AIS()
        if joint.without_density:
            notes += (lower_alone(joint.without_density),)
    if isinstance(method, DIRECT_METHODS):
        terms = run_on_model(direct_samples(joint, method), method, key, num_samples, batch_size, progress_bar)
        return direct_result(joint.latent, joint.data, method, key, terms, notes, tuple(joint.fixed))
    evidence_method = cast(EvidenceMethod, method)
    require_likelihood(joint, evidence_method)
    rows = Rows(joint, (decompose(joint),), evidence_method, key)
    return rows.result(rows.run(num_samples, batch_size, progress_bar), 0)


def direct_samples(model: JointModel, method: DirectMethod) -> StagedSamples:
    """Joint samples of a model for a method without a likelihood.

    Raises
    ------
    ValueError
        If the method cannot condition on what is given, or needs a prior that cannot be evaluated.
    """
    if model.given:
        integral_checks.given_needs_likelihood(model.given, type(method).__name__)
    check_fixed(model)
    return stage_samples(model, method.needs_prior)


def lower_alone(names: Sequence[str]) -> str:
    """What to say of data without a density, for which no method was named."""
    return f"{', '.join(names)} can be simulated but has no density: a lower bound alone, by MINEAIS()."


def mi_bounds_from_samples(
    z: Any,
    x: Any,
    *,
    method: DirectMethod | KSG | None = None,
    log_prior: Callable[[jax.Array], jax.Array] | None = None,
    rng_key: jax.Array | int | None = None,
    progress_bar: bool = True,
) -> MIBounds:
    """A lower bound on the mutual information I(z; x) from joint samples alone, or an estimate, in nats.

    Rows are split by the key into disjoint parts: half of them train, a tenth are pilots, and the rest is
    scored, one term a disjoint block of rows. No method that knows joint samples only can certify much
    more than the log of their number.

    Parameters
    ----------
    z, x
        Joint draws, a row each, independent of one another: NumPy or JAX arrays of shape `(N, ...)`, pandas
        frames, or xarray objects with dimensions `chain` and `draw`, such as variables of an ArviZ DataTree.
    method
        `InfoNCE(...)` (None: with blocks of 100), `MINE(...)`, `NWJ(...)`; `KSG(...)` for an estimate that
        bounds nothing; with `log_prior` also `GIWAE(...)` and `MINEAIS(...)`.
    log_prior
        For `GIWAE(...)` and `MINEAIS(...)` alone: the log-density of z in nats, a function of one row, a
        vector with its columns, that JAX can differentiate; -inf where z cannot be. It is checked against the rows,
        and the result has a note if they cannot tell whether it is their density.
    rng_key
        A JAX key of either style, or an integer; None means key 0.
    progress_bar
        Whether to show one; silent under `CI`.

    Returns
    -------
    MIBounds
        With a lower bound and no upper one, or for `KSG` with neither and an `estimate`.

    Raises
    ------
    TypeError, ValueError
        For arrays or arguments that will not do: before anything compiles.

    Examples
    --------
    >>> import numpy as np
    >>> from numpyro_mi import KSG, mi_bounds_from_samples
    >>> z, noise = np.random.default_rng(0).standard_normal((2, 5000))
    >>> mi_bounds_from_samples(z, z + noise, method=KSG()).estimate  # doctest: +SKIP
    0.35
    """
    method = InfoNCE(num_particles=_ARRAY_BLOCK) if method is None else method
    if not isinstance(method, (*DIRECT_METHODS, KSG)):
        needed = ", ".join(f"{cls.__name__}(...)" for cls in (InfoNCE, MINE, NWJ, KSG, GIWAE, MINEAIS))
        raise TypeError(
            f"method must be one of {needed}, or None for InfoNCE, got {shown(method)}: samples have no likelihood."
        )
    needs_prior = not isinstance(method, KSG) and method.needs_prior
    if log_prior is not None and not needs_prior:
        raise TypeError(
            f"{type(method).__name__} does not evaluate the density of z, and got log_prior={log_prior!r}: leave it "
            "out, or use MINEAIS(...) or GIWAE(...), which do."
        )
    z, x = paired(z, x)
    key = as_key(rng_key)
    if isinstance(method, KSG):
        return _neighbor_result(z, x, method, key)
    if needs_prior and log_prior is None:
        raise ValueError(
            f"{type(method).__name__} evaluates the prior density of z: pass log_prior=, a function of one row of z, "
            "or use InfoNCE(), which needs joint samples only."
        )
    if log_prior is not None and not callable(log_prior):
        raise TypeError(f"log_prior must be a function of one row of z, got {shown(log_prior)}.")
    notes = repeated_rows(z, x)
    raw = run_on_arrays(z, x, log_prior, method, key, progress_bar)
    return direct_result(("z",), ("x",), method, key, raw, notes + raw.notes)


def _neighbor_result(z: np.ndarray, x: np.ndarray, method: KSG, key: jax.Array) -> MIBounds:
    watch = Stopwatch()
    terms = ksg_terms(z, x, method.num_neighbors, method.algorithm)
    notes = notes_on(z, x, method, terms)
    seconds = {"scoring": watch.lap(), "compiling": watch.compiling}
    raw = RawTerms({"estimate": terms}, None, {}, seconds, len(terms))
    return direct_result(("z",), ("x",), method, key, raw, notes)


def direct_result(
    latent: tuple[str, ...],
    data: tuple[str, ...],
    method: DirectMethod | KSG,
    key: jax.Array,
    raw: RawTerms,
    notes: tuple[str, ...],
    fixed: tuple[str, ...] = (),
) -> MIBounds:
    """The result of a method without a likelihood."""
    parts = dict(raw.parts)
    return MIBounds(
        lower_i=parts.pop("lower", None),
        upper_i=None,
        latent=latent,
        data=data,
        fixed=fixed,
        notes=notes,
        method=describe(method),
        parts=parts,
        trained=raw.scorer,
        cost=raw.cost,
        seconds=raw.seconds,
        key=key_record(key),
        environment=environment(),
        num_requested=raw.num_requested,
    )


def check_run(method: Any, num_samples: Any, batch_size: Any, with_likelihood: bool = False) -> tuple[int, int | None]:
    """Refuse what is no method, or no number of draws; the numbers as integers."""
    classes = METHODS if with_likelihood else METHODS + DIRECT_METHODS
    if method is not None and not isinstance(method, classes):
        names = ", ".join(f"{cls.__name__}(...)" for cls in classes)
        default = "None for AIS()" if with_likelihood else "None for AIS() (or MINEAIS())"
        hint = " KSG takes samples: mi_bounds_from_samples(z, x, method=KSG())." if isinstance(method, KSG) else ""
        raise TypeError(f"method must be one of {names}, or {default}, got {shown(method)}.{hint}")
    size = None if batch_size is None else integer("batch_size", batch_size, at_least=1)
    return integer("num_samples", num_samples, at_least=2), size


def integer(name: str, value: Any, at_least: int) -> int:
    """Refuse what is no integer, or too small a one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {shown(value)}.")
    return int(value)
