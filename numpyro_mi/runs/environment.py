"""Where a run took place."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version

import jax

_FIRST_HANGING, _LAST_HANGING = (0, 10, 0), (0, 11, 0)
_ENOUGH_THREADS = 16


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


def refuse_hanging_jaxlib() -> None:
    """Refuse a jaxlib whose batched Cholesky factorisations wait for one another for ever on few threads.

    In jaxlib 0.10.0 to 0.11.0 a factorisation waits for a thread of the pool that it runs in. With more factorisations
    at a time than the pool can hold none of them ends. A pool of one thread does not start a second one, and a large
    pool has threads to spare.

    Raises
    ------
    ImportError
        If such a version is installed and the default backend is a CPU with 2 to 15 threads.
    """
    installed = _release(_version("jaxlib"))
    if not _FIRST_HANGING <= installed <= _LAST_HANGING or jax.default_backend() != "cpu":
        return
    threads = _threads()
    if 1 < threads < _ENOUGH_THREADS:
        raise ImportError(
            f"jaxlib {_version('jaxlib')} can wait for ever on a CPU with {threads} threads, in batched Cholesky "
            "factorisations (a fault of jaxlib 0.10.0 to 0.11.0). Install another one: pip install --upgrade "
            "'jax!=0.10.*,!=0.11.0' 'jaxlib!=0.10.*,!=0.11.0'. Or start Python with the environment variable "
            f"NPROC={_ENOUGH_THREADS}, which gives XLA more threads."
        )


def _threads() -> int:
    """Number of threads in XLA's pool on a CPU."""
    wanted = os.environ.get("NPROC", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _release(version: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a source tree without metadata
        return "unknown"
