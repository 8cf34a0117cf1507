"""Bounds on mutual information from joint samples alone."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from numpyro_mi.direct.base import DirectMethod
from numpyro_mi.direct.contrastive import MINE, NWJ, InfoNCE
from numpyro_mi.direct.giwae import GIWAE
from numpyro_mi.direct.mine_ais import MINEAIS
from numpyro_mi.direct.nearest_neighbors import KSG, ksg_terms, notes_on
from numpyro_mi.draws.arrays import paired, repeated_rows
from numpyro_mi.draws.keys import as_key
from numpyro_mi.options import shown
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.runs.direct import RawTerms, direct_result, run_on_arrays
from numpyro_mi.runs.timing import Stopwatch
from numpyro_mi.verbs.arguments import DIRECT_METHODS

_ARRAY_BLOCK = 100


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
