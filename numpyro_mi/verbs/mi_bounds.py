"""Bounds on the mutual information of a NumPyro model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax

from numpyro_mi.direct.base import DirectMethod
from numpyro_mi.direct.mine_ais import MINEAIS
from numpyro_mi.draws.keys import as_key
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.runs.direct import direct_result, direct_samples, run_on_model
from numpyro_mi.runs.evidence import Rows, require_likelihood
from numpyro_mi.verbs.arguments import DEFAULT_NUM_SAMPLES, DIRECT_METHODS, check_run, lower_alone


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
