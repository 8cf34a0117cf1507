"""Where a run took place."""

import platform
from importlib.metadata import PackageNotFoundError, version

import jax


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


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a source tree without metadata
        return "unknown"
