"""Arguments that several verbs share: methods and sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from numpyro_mi.direct.contrastive import MINE, NWJ, InfoNCE
from numpyro_mi.direct.giwae import GIWAE
from numpyro_mi.direct.mine_ais import MINEAIS
from numpyro_mi.direct.nearest_neighbors import KSG
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.importance import IWAE, BarberAgakov, StructuredInfoNCE
from numpyro_mi.evidence.smc import AnnealedSMC
from numpyro_mi.options import shown

DEFAULT_NUM_SAMPLES = 1000
METHODS = (AIS, AnnealedSMC, IWAE, BarberAgakov, StructuredInfoNCE)
DIRECT_METHODS = (MINEAIS, GIWAE, InfoNCE, MINE, NWJ)


def lower_alone(names: Sequence[str]) -> str:
    """What to say of data without a density, for which no method was named."""
    return f"{', '.join(names)} can be simulated but has no density: a lower bound alone, by MINEAIS()."


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
