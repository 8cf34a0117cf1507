"""Fitted guides and trained critics as files: arrays, and plain data that say what they are; no pickles."""

import dataclasses
import json
import os
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.direct.critics import FittedMLPCritic, FittedSeparableCritic
from numpyro_mi.guides.flow import FittedFlow
from numpyro_mi.guides.laplace import FittedLaplace
from numpyro_mi.guides.neural import FittedNeural
from numpyro_mi.guides.regression import FittedRegression
from numpyro_mi.results.files.methods import describe, rebuild

_CLASSES = {
    cls.__name__: cls
    for cls in (FittedRegression, FittedLaplace, FittedNeural, FittedFlow, FittedMLPCritic, FittedSeparableCritic)
}
_STRUCTURE = "structure"


def save_fitted(fitted: Any, path: str | os.PathLike) -> None:
    """Save a fitted guide or a trained critic, such as `result.guides[0]` or `result.trained.critic`.

    Parameters
    ----------
    fitted
        The guide or critic.
    path
        A file, by convention `.npz`.

    Raises
    ------
    TypeError
        For what is no fitted guide or trained critic of the package: functions of a user's are not saved.
    """
    arrays: dict[str, np.ndarray] = {}
    structure = _encode(fitted, arrays)
    with open(path, "wb") as file:
        np.savez(file, **{_STRUCTURE: np.array(json.dumps(structure))}, **arrays)  # type: ignore[arg-type]


def load_fitted(path: str | os.PathLike) -> Any:
    """The fitted guide or trained critic that `save_fitted` saved, to be passed to a method of `mi_bounds`.

    Not to one of `mi_bounds_from_samples`, which might score the very rows that it was fitted to.

    Raises
    ------
    ValueError
        If the file is none of this kind.
    """
    with open(path, "rb") as stream:
        try:
            file = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:  # a pickle or another file, an empty or broken one
            raise ValueError(f"{_no_guide(path)} NumPy cannot read it: {error}") from error
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError(f"{_no_guide(path)} It is a single array.")
        if _STRUCTURE not in file:
            raise ValueError(f"{_no_guide(path)} It holds {', '.join(file) or 'nothing'}.")
        return _decode(json.loads(str(file[_STRUCTURE])), file)


def _no_guide(path: str | os.PathLike) -> str:
    return f"{path} holds no fitted guide or critic: pass a file that save_fitted wrote."


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, jax.Array | np.ndarray):
        name = f"array_{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {"array": name}
    if isinstance(value, dict):
        return {"dict": {name: _encode(item, arrays) for name, item in value.items()}}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, arrays) for item in value]}
    if _CLASSES.get(type(value).__name__) is type(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        config = describe(fields.pop("config"))
        return {
            "fitted": type(value).__name__,
            "config": config,
            "fields": {name: _encode(item, arrays) for name, item in fields.items()},
        }
    raise TypeError(f"save_fitted needs a fitted guide or a trained critic of the package, got {value!r}.")


def _decode(structure: Any, arrays: Any) -> Any:
    if "array" in structure:
        return jnp.asarray(arrays[structure["array"]])
    if "dict" in structure:
        return {name: _decode(item, arrays) for name, item in structure["dict"].items()}
    if "list" in structure:
        return [_decode(item, arrays) for item in structure["list"]]
    if "tuple" in structure:
        return tuple(_decode(item, arrays) for item in structure["tuple"])
    fields = {name: _decode(item, arrays) for name, item in structure["fields"].items()}
    return _CLASSES[structure["fitted"]](**fields, config=rebuild(structure["config"]))
