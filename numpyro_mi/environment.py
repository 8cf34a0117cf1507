"""Where a run took place."""

import os
import platform
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import jax

_FEW_CORES = 8


def environment() -> dict[str, str]:
    """Device and versions, for the record of a result."""
    device = jax.devices()[0]
    packages = ("numpyro-mi", "numpyro", "jax", "jaxlib", "numpy")
    found = {"device": f"{device.platform} ({device.device_kind})", "python": platform.python_version()}
    return {
        **found,
        **{name: _version(name) for name in packages},
        "x64": str(jax.dtypes.canonicalize_dtype("float64") == "float64"),
    }


def warn_of_waiting(uses_cholesky: Callable[[], bool]) -> None:
    """Warn of a batch of Cholesky factors on few cores, for which XLA may wait for ever.

    Seen with jaxlib 0.10.2 on two cores: its threads wait inside the batched factorisation for a thread of the same
    pool. More threads than factorisations at a time avoid that.
    """
    cores = os.cpu_count() or 1
    exposed = cores <= _FEW_CORES and jax.default_backend() == "cpu" and "NPROC" not in os.environ
    if exposed and uses_cholesky():
        warnings.warn(
            f"the model factorises matrices (as for a multivariate normal by its covariance), and on {cores} CPU cores "
            "XLA can wait for ever when it does that for many draws at once. If this run does not move, start Python "
            "with the environment variable NPROC=16, which gives XLA more threads, or pass the factor as scale_tril.",
            RuntimeWarning,
            stacklevel=4,
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a source tree without metadata
        return "unknown"
