"""Configuration objects as plain data, so that a saved run can be repeated."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from numpyro_mi.annealing import schedules
from numpyro_mi.annealing.kernels.hmc import AnnealedHMC
from numpyro_mi.annealing.kernels.numpyro_kernels import NumPyroKernel
from numpyro_mi.direct.base import is_fitted
from numpyro_mi.direct.contrastive import MINE, NWJ, InfoNCE
from numpyro_mi.direct.critics import MLPCritic, SeparableCritic
from numpyro_mi.direct.giwae import GIWAE
from numpyro_mi.direct.mine_ais import MINEAIS
from numpyro_mi.direct.nearest_neighbors import KSG
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.importance import IWAE, BarberAgakov, StructuredInfoNCE
from numpyro_mi.evidence.schemes.coupled_reverse import CR
from numpyro_mi.evidence.schemes.independent import IM
from numpyro_mi.evidence.schemes.independent_reverse import IR
from numpyro_mi.evidence.smc import AnnealedSMC
from numpyro_mi.guides.callables import GuideFunction
from numpyro_mi.guides.flow import FlowGuide
from numpyro_mi.guides.laplace import LaplaceGuide
from numpyro_mi.guides.neural import NeuralGuide
from numpyro_mi.guides.regression import RegressionGuide
from numpyro_mi.training.training import Training

_CLASSES: dict[str, Callable] = {
    cls.__name__: cls
    for cls in (
        AIS,
        AnnealedSMC,
        IM,
        CR,
        IR,
        IWAE,
        BarberAgakov,
        StructuredInfoNCE,
        RegressionGuide,
        LaplaceGuide,
        NeuralGuide,
        FlowGuide,
        GuideFunction,
        MINEAIS,
        GIWAE,
        KSG,
        InfoNCE,
        MINE,
        NWJ,
        MLPCritic,
        SeparableCritic,
        Training,
        AnnealedHMC,
        NumPyroKernel,
        schedules.PowerSchedule,
        schedules.LinearSchedule,
        schedules.SigmoidSchedule,
        schedules.FixedSchedule,
    )
}


def describe(value: Any) -> Any:
    """Plain data (numbers, strings, lists, dicts) that says all there is to a configuration object.

    Dataclasses become `{"class": name, field: ...}` (those from outside the package with their
    qualified name), other callables their qualified name.

    Parameters
    ----------
    value
        A configuration object such as `AIS(...)`, or any part of one.
    """
    if is_fitted(value):
        return {"fitted": describe(value.config)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        cls = type(value)
        own = _CLASSES.get(cls.__name__) is cls
        return {"class": cls.__name__ if own else f"{cls.__module__}.{cls.__qualname__}", **fields}
    if isinstance(value, tuple | list | np.ndarray):
        return [describe(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        module, name = getattr(value, "__module__", "?"), getattr(value, "__qualname__", type(value).__name__)
        return {"callable": f"{module}.{name}"}
    return {"repr": repr(value)}


def rebuild(description: Any) -> Any:
    """The configuration object that `describe` described, such as the method of a saved result.

    Parameters
    ----------
    description
        What `describe` gave, for example `result.method`.

    Raises
    ------
    ValueError
        If it holds a callable or a class of the user's, which stand there only by name.
    """
    if isinstance(description, list):
        return tuple(rebuild(item) for item in description)
    if not isinstance(description, dict):
        return description
    if description.get("class") in _CLASSES:
        fields = {name: rebuild(value) for name, value in description.items() if name != "class"}
        return _CLASSES[description["class"]](**fields)
    raise ValueError(f"{description} was saved by name only: build it yourself and pass it to the method.")
