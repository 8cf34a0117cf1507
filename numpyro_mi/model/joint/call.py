"""How a model is called: its arguments, parameters and data, refused before anything compiles."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from numpyro_mi.labels import refuse_reordered
from numpyro_mi.model.joint.checks import close, listed, short
from numpyro_mi.model.sites.site import Site


def arguments(
    model: Callable, args: tuple, kwargs: Mapping[str, Any] | None, params: Mapping[str, Any] | None
) -> tuple[tuple, dict, dict]:
    """Normalise what the model is called with; refuse what it does not take."""
    if not callable(model):
        raise TypeError(f"model must be a NumPyro model (a callable), got {type(model).__name__}.")
    if not isinstance(args, tuple | list):
        raise TypeError(
            f"model_args must be a tuple of positional arguments, got {type(args).__name__}: for one "
            "argument, write model_args=(argument,)."
        )
    for name, value, holds in (("model_kwargs", kwargs, "argument"), ("params", params, "parameter")):
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a dict by {holds} name, got {type(value).__name__}.")
    args, kwargs = tuple(args), dict(kwargs or {})
    named = {f"model_args[{i}]": value for i, value in enumerate(args)}
    refuse_reordered({**named, **{f"model_kwargs[{name!r}]": value for name, value in kwargs.items()}})
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        signature = None
    try:
        if signature is not None:
            signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"the model cannot be called with model_args={short(args)} and model_kwargs={short(kwargs)}: {error}. "
            f"Its signature is {signature}; an argument that holds data may be any array of the right shape."
        ) from None
    return args, kwargs, dict(params or {})


def observed_values(
    observed: Mapping[str, Any], sites: Mapping[str, Site], data: Sequence[str]
) -> dict[str, np.ndarray]:
    """Values of the data sites by name, each of the shape of one draw."""
    if not isinstance(observed, Mapping) or set(observed) != set(data):
        got = sorted(observed) if isinstance(observed, Mapping) else type(observed).__name__
        raise ValueError(f"observed must map each data site to its value: {listed(sorted(data))}, got {got}.")
    refuse_reordered({f"observed[{name!r}]": value for name, value in observed.items()})
    found = {name: np.asarray(value) if not np.ma.isMaskedArray(value) else value for name, value in observed.items()}
    for name, value in found.items():
        if value.shape != sites[name].drawn:
            raise ValueError(
                f"observed holds {name!r} with shape {value.shape}, but one draw of it has shape {sites[name].drawn}."
            )
    return found


def parameters(
    sites: Mapping[str, Site], params: Mapping[str, Any], used: Collection[str], keyed: Collection[str]
) -> None:
    """Require a value for every `numpyro.param` that matters; modules that carry their values are fine."""
    declared = [name for name, site in sites.items() if site.kind == "param"]
    missing = [
        name
        for name in declared
        if name in used and name not in params and (not name.endswith("$params") or name in keyed)
    ]
    if missing:
        raise ValueError(
            f"parameter(s) {listed(missing)} of the model have no value, only an initial one: pass the fitted values "
            f"as params={{{missing[0]!r}: ...}}, for example params=svi_result.params."
        )


def centering(name: str, site: str, sources: Sequence[str], valued: bool, known: Sequence[Collection[str]]) -> None:
    """Refuse a site of LocScaleReparam whose meaning depends on a parameter without a value.

    Parameters
    ----------
    name, site
        The parameter, and the site that was reparametrised.
    sources
        The random sites that this one is computed from.
    valued
        Whether the value itself of the random site behind it matters: it is held, or has a density of its own.
    known
        If that site is named: the sites that are known with it.
    """
    if not valued and all(set(sources) <= set(group) for group in known):
        return
    together = "" if valued else f", or name {listed(sources)} together in one group"
    raise ValueError(
        f"parameter {name!r} of LocScaleReparam has no value, and what the random site {site + '_decentered'!r} stands "
        f"for depends on it: pass the model without handlers.reparam and name {site!r}, or pass the fitted value as "
        f"params={{{name!r}: ...}}{together}."
    )


def known_parameters(sites: Mapping[str, Site], params: Mapping[str, Any]) -> None:
    """Refuse values for what is no parameter of the model."""
    declared = [name for name, site in sites.items() if site.kind == "param"]
    unknown = [name for name in params if name not in sites or sites[name].kind not in ("param", "mutable")]
    if unknown:
        own = f"Its parameters are {listed(declared)}: pass those only." if declared else "It has no parameters."
        raise ValueError(
            f"params holds {listed(unknown)}, which the model has no numpyro.param for"
            f"{close(unknown[0], declared)}. {own}"
        )


def refuse_data_within(site: str) -> NoReturn:
    """Refuse a model that closes over its data and reads them outside `obs=`."""
    raise ValueError(
        f"the model reads the data that it gives to site {site!r} by obs= elsewhere too: an array that the simulation "
        "is computed from has the same values. The real data would leak into the simulated ones. Write an "
        "autoregression with numpyro.contrib.control_flow.scan on the sampled values, or pass the data as an argument."
    )
