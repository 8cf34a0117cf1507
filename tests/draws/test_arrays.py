"""Joint samples of every accepted kind become the same columns; what cannot is refused by name."""

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from jax import numpy as jnp

from numpyro_mi.draws.arrays import as_columns, paired

VALUES = np.arange(24.0).reshape(2, 3, 4)  # chain, draw, item
ROWS = VALUES.reshape(6, 4)


def dataset():
    return xr.Dataset({"b": (("chain", "draw", "item"), VALUES), "a": (("chain", "draw"), -VALUES[..., 0])})


DATASET_ROWS = np.column_stack([ROWS, -ROWS[:, 0]])


def same(value, expected):
    columns = as_columns("z", value)
    assert columns.dtype == np.float64 and isinstance(columns, np.ndarray)
    np.testing.assert_array_equal(columns, expected)
    assert columns.shape == np.shape(expected)


class TestArrays:
    @pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
    def test_shapes(self, convert):
        same(convert(ROWS), ROWS)
        same(convert(ROWS[:, 0]), ROWS[:, :1])
        same(convert(VALUES), VALUES.reshape(2, 12))

    @pytest.mark.parametrize("dtype", [bool, np.int8, np.uint32, np.float16, np.float32, np.longdouble])
    def test_dtypes(self, dtype):
        values = (ROWS % 2).astype(dtype)
        same(values, ROWS % 2)

    def test_jax_half_precision(self):
        same(jnp.asarray(ROWS, jnp.bfloat16), ROWS)

    def test_the_argument_is_not_aliased(self):
        values = ROWS.copy()
        as_columns("z", values)[:] = 0
        np.testing.assert_array_equal(values, ROWS)

    @pytest.mark.parametrize("dtype", [complex, object, str, "datetime64[s]", "timedelta64[s]"])
    def test_refused_dtypes(self, dtype):
        with pytest.raises(TypeError, match="z needs real numbers or booleans, got dtype"):
            as_columns("z", np.arange(6).astype(dtype))

    def test_refused_jax_dtypes(self):
        with pytest.raises(TypeError, match="got dtype complex64"):
            as_columns("z", jnp.ones(3, complex))
        with pytest.raises(TypeError, match="got dtype key<fry>"):
            as_columns("z", jax.random.split(jax.random.key(0), 3))

    def test_other_types(self):
        for value in ([1.0, 2.0], {"a": ROWS}, None, 3.0):
            with pytest.raises(TypeError, match=f"z must be a NumPy or JAX array, .*, got {type(value).__name__}"):
                as_columns("z", value)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, bad):
        values = ROWS.copy()
        values[2, 1] = values[2, 3] = values[4, 0] = bad
        with pytest.raises(ValueError, match="z needs finite values, got NaN or infinity in 2 of 6 rows, .* at row 2"):
            as_columns("z", values)

    def test_masked(self):
        masked = np.ma.masked_equal(ROWS.astype(int), 9)
        with pytest.raises(ValueError, match="in 1 of 6 rows, the first at row 2"):
            as_columns("z", masked)

    def test_too_small(self):
        with pytest.raises(ValueError, match="z needs a leading axis of draws, got a scalar"):
            as_columns("z", jnp.asarray(1.0))
        with pytest.raises(ValueError, match="at least 2 rows .* got 1 rows and 4 columns"):
            as_columns("z", ROWS[:1])
        for empty in (np.empty((0, 4)), np.empty((5, 0)), np.empty((0, 0, 2))):
            with pytest.raises(ValueError, match="at least 2 rows"):
                as_columns("z", empty)


class TestPandas:
    def test_series(self):
        same(pd.Series(ROWS[:, 0], index=list("abcdef")), ROWS[:, :1])
        same(pd.Series([True, False, True]), [[1], [0], [1]])

    def test_frame(self):
        frame = pd.DataFrame({"b": ROWS[:, 1], "a": ROWS[:, 0].astype(int), "c": ROWS[:, 0] > 3})
        same(frame, np.column_stack([ROWS[:, 1], ROWS[:, 0], ROWS[:, 0] > 3]))

    def test_nullable_and_repeated_columns(self):
        frame = pd.concat([pd.Series([1, 2], dtype="Int64", name="a"), pd.Series([True, False], name="a")], axis=1)
        same(frame, [[1, 1], [2, 0]])

    @pytest.mark.parametrize(
        "column",
        [
            pd.Series(["u", "v"]),
            pd.Series(["u", "v"], dtype=object),
            pd.Series([1, 2], dtype=object),
            pd.Series([1, 2], dtype="category"),
            pd.Series([1j, 2]),
            pd.to_datetime(pd.Series(["2020-01-01", "2020-01-02"])),
            pd.to_timedelta(pd.Series([1, 2]), unit="s"),
        ],
        ids=lambda column: str(column.dtype),
    )
    def test_refused_columns(self, column):
        with pytest.raises(TypeError, match="column 'bad' of z needs real numbers or booleans, got dtype"):
            as_columns("z", pd.DataFrame({"good": [1.0, 2.0], "bad": column}))
        with pytest.raises(TypeError, match="z needs real numbers"):
            as_columns("z", column)

    def test_missing(self):
        for column in (pd.Series([1, None, 3], dtype="Int64"), pd.Series([1.0, None, 3.0])):
            with pytest.raises(ValueError, match="in 1 of 3 rows, the first at row 1"):
                as_columns("z", pd.DataFrame({"a": column}))

    def test_no_columns(self):
        with pytest.raises(ValueError, match="got 3 rows and 0 columns"):
            as_columns("z", pd.DataFrame(index=range(3)))


class TestXarray:
    def test_data_array(self):
        same(dataset()["b"], ROWS)
        same(dataset()["b"].transpose("item", "draw", "chain"), ROWS)
        same(dataset()["a"].isel(chain=0), -VALUES[0, :, :1])
        same(dataset()["b"].isel(chain=1), VALUES[1])

    def test_dataset_in_order(self):
        same(dataset(), DATASET_ROWS)
        same(dataset()[["a", "b"]], np.column_stack([-ROWS[:, 0], ROWS]))

    def test_stacked(self):
        stacked = dataset().stack(sample=("chain", "draw"))
        assert stacked["b"].dims == ("item", "sample")
        same(stacked, DATASET_ROWS)
        same(xr.DataArray(ROWS, dims=("sample", "item")), ROWS)

    def test_arviz(self):
        from arviz_base import extract, from_dict

        tree = from_dict({"posterior": {"b": VALUES}, "prior": {"b": -VALUES}})
        same(tree["prior"], -ROWS)
        same(tree["posterior"].to_dataset(), ROWS)
        drawn = extract(tree, keep_dataset=True)
        same(drawn, drawn["b"].transpose("sample", ...).values)

    def test_tree(self):
        tree = xr.DataTree.from_dict({"/posterior": dataset()})
        same(tree, DATASET_ROWS)
        same(tree["posterior"], DATASET_ROWS)
        tree["prior"] = xr.DataTree(dataset())
        with pytest.raises(ValueError, match=r"z needs one group.*tree\[\"posterior\"\]; .*: 'posterior', 'prior'"):
            as_columns("z", tree)
        with pytest.raises(ValueError, match="groups with variables here: none"):
            as_columns("z", xr.DataTree())

    def test_refused_dtypes(self):
        bad = dataset().assign(word=(("chain", "draw"), np.full((2, 3), "u")))
        with pytest.raises(TypeError, match="variable 'word' of z needs real numbers or booleans, got dtype <U1"):
            as_columns("z", bad)

    def test_dimensions(self):
        with pytest.raises(ValueError, match=r"z needs dimensions 'chain' and 'draw', .* got \('row', 'item'\)"):
            as_columns("z", xr.DataArray(ROWS, dims=("row", "item")))
        with pytest.raises(ValueError, match=r"z needs dimensions 'chain' and 'draw', .* got \('chain',\)"):
            as_columns("z", dataset()["a"].isel(draw=0))
        with pytest.raises(ValueError, match=r"Variable 'scale' of z needs the dimension 'chain', got \('draw',\)"):
            as_columns("z", dataset().assign(scale=("draw", np.ones(3))))

    def test_no_variables(self):
        with pytest.raises(ValueError, match="at least 2 rows"):
            as_columns("z", dataset()[[]])


class TestPaired:
    def test_kinds_mix(self):
        z, x = paired(dataset(), pd.Series(range(6)))
        np.testing.assert_array_equal(z, DATASET_ROWS)
        np.testing.assert_array_equal(x, np.arange(6.0)[:, None])

    def test_rows_must_agree(self):
        with pytest.raises(ValueError, match="z and x need the same number of rows, one a joint draw, got 6 and 5"):
            paired(ROWS, ROWS[:5])

    def test_errors_name_the_group(self):
        with pytest.raises(TypeError, match="x must be"):
            paired(ROWS, None)
        with pytest.raises(TypeError, match="z must be"):
            paired(None, ROWS)
