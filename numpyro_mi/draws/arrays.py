"""Joint samples from NumPy, JAX, pandas and xarray, as float64 columns."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from numpyro_mi.labels import draw_dims, index_of, order_like

_ACCEPTED = "a NumPy or JAX array, a pandas Series or DataFrame, or an xarray DataArray, Dataset or DataTree"


_LARGEST_REPEATED = 0.02


def as_columns(name: str, value: Any) -> np.ndarray:
    """Draws of one group of variables, a row a draw.

    Rows must be independent draws. Those of a Markov chain are not: thin them until they nearly are,
    or take everything that is computed from them as if it came from fewer draws.

    Parameters
    ----------
    name
        What errors call the group, for example `"z"`.
    value
        An array of shape `(N,)` or `(N, ...)`; a pandas Series or DataFrame with numeric or boolean
        columns; or an xarray DataArray, Dataset or DataTree with dimensions `chain` and `draw`,
        `draw`, or `sample`, which become the rows, chain by chain. A DataTree, as ArviZ returns it,
        must hold one group with variables.

    Returns
    -------
    numpy.ndarray
        Shape `(N, d)`, float64, finite; variables are concatenated in their order.
    """
    if not isinstance(value, np.ndarray | jax.Array):
        value = _from_labelled(name, value)
    elif value.ndim == 0:
        raise ValueError(f"{name} needs a leading axis of draws, got a scalar.")
    columns = _as_float(name, value)
    columns = columns.reshape(len(columns), int(np.prod(columns.shape[1:], dtype=int)))
    rows, width = columns.shape
    if rows < 2 or width < 1:
        raise ValueError(f"{name} needs at least 2 rows (draws) and 1 column, got {rows} rows and {width} columns.")
    bad = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{name} needs finite values, got NaN or infinity in {bad.size} of {rows} rows, the first at row {bad[0]}: "
            f"find their cause, since dropping them changes the joint distribution."
        )
    return columns


def repeated_rows(z: np.ndarray, x: np.ndarray) -> tuple[str, ...]:
    """What to say of joint rows that occur more than once, if they are more than a few."""
    count = len(z) - len(np.unique(np.hstack([z, x]), axis=0))
    if count <= _LARGEST_REPEATED * len(z):
        return ()
    return (
        f"{count:,} of {len(z):,} rows repeat another one. If they are copies (of a resampled or a Metropolis chain), "
        "rows that train come back among those that are scored, and the bound is too high: pass distinct draws.",
    )


def paired(z: Any, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Columns of both groups of joint draws; row i of `z` goes with row i of `x`.

    Where both have labels, a pandas index or the coordinates of the draws of xarray, rows are paired by label, in the
    order of `z`: the labels must be the same ones. Otherwise they are paired by position. Rows must be independent
    joint draws; those of a Markov chain are not.

    Parameters
    ----------
    z, x
        As in `as_columns`.

    Raises
    ------
    TypeError, ValueError
        As `as_columns`; and if the numbers of rows or the labels differ.
    """
    columns_z, columns_x = as_columns("z", z), as_columns("x", x)
    if len(columns_z) != len(columns_x):
        raise ValueError(
            f"z and x need the same number of rows, one a joint draw, got {len(columns_z)} and {len(columns_x)}."
        )
    order = order_like("x", _draw_labels("x", x), "z", _draw_labels("z", z))
    return columns_z, columns_x if order is None else columns_x[order]


def _draw_labels(name: str, value: Any) -> Any:
    """Labels of the rows that `as_columns` makes, or None."""
    if type(value).__name__ == "DataTree":
        value = _only_group(name, value)
    return index_of(value, draw_dims(value))


def _as_float(name: str, value: Any) -> np.ndarray:
    """Float64 values of a real or boolean array."""
    kind = value.dtype
    # JAX knows its own bfloat16 and keys; NumPy counts time differences as numbers.
    number = jnp.issubdtype(kind, jnp.number) and kind.kind != "m" and not jnp.issubdtype(kind, jnp.complexfloating)
    if not number and kind != np.bool_:
        raise TypeError(f"{name} needs real numbers or booleans, got dtype {kind}: convert it to numbers first.")
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(np.float64), np.nan)
    return np.asarray(value).astype(np.float64)


def _from_labelled(name: str, value: Any) -> np.ndarray:
    """Values of a pandas or xarray object, rows first."""
    import pandas as pd
    import xarray as xr

    if isinstance(value, pd.Series):
        return _series(name, value)
    if isinstance(value, pd.DataFrame):
        parts = [_series(f"column {label!r} of {name}", value.iloc[:, i]) for i, label in enumerate(value.columns)]
        return np.column_stack(parts) if parts else np.empty((len(value), 0))
    if isinstance(value, xr.DataTree):
        value = _only_group(name, value)
    if isinstance(value, xr.DataArray):
        value = xr.Dataset({"values": value.variable})
    if isinstance(value, xr.Dataset):
        parts = list(_variables(name, value)) if value.data_vars else []
        return np.hstack(parts) if parts else np.empty((0, 0))
    raise TypeError(f"{name} must be {_ACCEPTED}, got {type(value).__name__}.")


def _series(name: str, series: Any) -> np.ndarray:
    """Values of one pandas column, a missing one as NaN."""
    from pandas.api.types import is_complex_dtype, is_numeric_dtype

    kind = series.dtype
    if not is_numeric_dtype(kind) or is_complex_dtype(kind):
        raise TypeError(
            f"{name} needs real numbers or booleans, got dtype {kind}: encode it as numbers or leave it out."
        )
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def _only_group(name: str, tree: Any) -> Any:
    """Dataset of the one group of a DataTree that holds variables."""
    groups = [node for node in tree.subtree if node.data_vars]
    if len(groups) != 1:
        found = ", ".join(repr(node.relative_to(tree)) for node in groups) or "none"
        raise ValueError(
            f'{name} needs one group of a DataTree, for example tree["posterior"]; groups with variables here: {found}.'
        )
    return groups[0].to_dataset()


def _variables(name: str, dataset: Any) -> Iterator[np.ndarray]:
    """Each variable of a Dataset, its draws stacked to the first axis and the rest flattened."""
    for leading in (("chain", "draw"), ("draw",), ("sample",)):
        if set(leading) <= set(dataset.dims):
            break
    else:
        found = tuple(map(str, dataset.dims))
        raise ValueError(
            f"{name} needs dimensions 'chain' and 'draw', or 'draw', or 'sample', for its draws, got {found}: "
            f"rename one, or pass the values as an array whose first axis is the draws."
        )
    for label, variable in dataset.data_vars.items():
        missing = [dim for dim in leading if dim not in variable.dims]
        if missing:
            raise ValueError(f"Variable {label!r} of {name} needs the dimension {missing[0]!r}, got {variable.dims}.")
        draws = variable.transpose(*leading, ...)
        rows = int(np.prod(draws.shape[: len(leading)]))
        values = _as_float(f"variable {label!r} of {name}", draws.values)
        yield values.reshape(rows, int(np.prod(draws.shape[len(leading) :], dtype=int)))
