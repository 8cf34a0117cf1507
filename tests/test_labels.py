"""Rows with labels go together by label, and what cannot is refused; rows without go by position."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

from numpyro_mi import KSG, evidence_bounds, expected_information_gain, mi_bounds, mi_bounds_from_samples
from numpyro_mi.draws.arrays import paired
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.views.likelihood import posterior_arrays
from numpyro_mi.verbs.expected_information_gain import _arrays

VALUES = np.arange(6.0)
MIXED = [3, 0, 5, 1, 4, 2]
Z = pd.Series(VALUES, index=list("abcdef"))
CHAINS = xr.DataArray(
    VALUES.reshape(2, 3), dims=("chain", "draw"), coords={"chain": [0, 1], "draw": [10, 11, 12]}, name="z"
)
PAIRS = pd.MultiIndex.from_product([[0, 1], [10, 11, 12]], names=["chain", "draw"])


def together(z, x):
    z, x = paired(z, x)
    np.testing.assert_array_equal(z[:, 0], VALUES)
    np.testing.assert_array_equal(x[:, 0], 10 * VALUES)


@pytest.mark.parametrize(
    ("z", "x"),
    [
        (Z, 10 * Z),
        (Z, 10 * Z.iloc[MIXED]),
        (Z.to_frame(), 10 * Z.iloc[MIXED].to_frame()),
        (pd.Series(VALUES), 10 * pd.Series(VALUES).iloc[MIXED]),
        (pd.Series(VALUES, PAIRS), 10 * pd.Series(VALUES, PAIRS).iloc[MIXED]),
        (pd.Series(VALUES, PAIRS), 10 * pd.Series(VALUES, PAIRS).iloc[MIXED].swaplevel()),
        (CHAINS, 10 * CHAINS),
        (CHAINS, 10 * CHAINS.isel(chain=[1, 0], draw=[2, 0, 1])),
        (CHAINS.to_dataset(), 10 * CHAINS.isel(draw=[2, 0, 1]).to_dataset().transpose("draw", "chain")),
        (xr.DataTree.from_dict({"/posterior": CHAINS.to_dataset()}), 10 * CHAINS.isel(draw=[2, 0, 1])),
        (CHAINS, 10 * pd.Series(VALUES, PAIRS).iloc[MIXED]),
        (CHAINS, 10 * CHAINS.stack(sample=("chain", "draw")).isel(sample=MIXED)),
    ],
)
def test_the_same_labels_in_any_order(z, x):
    together(z, x)


@pytest.mark.parametrize(
    ("z", "x"),
    [
        (Z, 10 * VALUES),
        (jnp.asarray(VALUES), 10 * Z.iloc[:]),
        (pd.Series(VALUES), 10 * VALUES),
        (CHAINS, 10 * VALUES),
        (CHAINS, 10 * pd.Series(VALUES)),  # counted rows against pairs of chain and draw
        (CHAINS.drop_vars(["chain", "draw"]), 10 * Z),
        (Z.set_axis(list("aabbcc")), 10 * Z.set_axis(list("aabbcc"))),  # the same rows of one frame
    ],
)
def test_by_position(z, x):
    together(z, x)


@pytest.mark.parametrize(
    ("z", "x", "match"),
    [
        (
            Z,
            Z.set_axis(list("abcdeg")),
            "x and z have rows with different labels: x has 1 of 6 that z has not, such as",
        ),
        (pd.Series(VALUES), Z, "different labels"),
        (pd.Series(VALUES), pd.Series(VALUES, index=range(6, 12)), "x has 6 of 6 that z has not, such as 6"),
        (Z.set_axis(list("aabbcc")), Z.set_axis(list("abcabc")), "occur more than once.*pass arrays"),
        (Z.set_axis(list("aabcde")), Z.set_axis(list("abcdef")), "occur more than once"),
        (CHAINS, CHAINS.assign_coords(draw=[0, 1, 2]), r"different labels.*\(0, 0\)"),
        (CHAINS, CHAINS.assign_coords(chain=[2, 3]), "different labels"),
        (pd.Series(VALUES, PAIRS), Z, "different labels"),
    ],
)
def test_other_labels(z, x, match):
    with pytest.raises(ValueError, match=match):
        paired(z, x)


def test_the_information_of_shuffled_rows():
    rng = np.random.default_rng(0)
    z, noise = rng.standard_normal((2, 4000))
    one, other = pd.Series(z), pd.Series(z + noise).sample(frac=1, random_state=0)
    expected = mi_bounds_from_samples(z, z + noise, method=KSG(), progress_bar=False).estimate
    assert mi_bounds_from_samples(one, other, method=KSG(), progress_bar=False).estimate == pytest.approx(expected)
    assert mi_bounds_from_samples(one, other.to_numpy(), method=KSG(), progress_bar=False).estimate < 0.1 < expected


def dose_model(dose, scale=1.0, x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(z * dose, scale), obs=x)


DOSE = pd.Series([0.5, 1.0, 2.0], index=["low", "middle", "high"])


class TestDesigns:
    @pytest.mark.parametrize(
        "convert", [lambda s: s, lambda s: s.to_frame(), xr.DataArray, lambda s: s.reset_index(drop=True)]
    )
    def test_rows_are_designs(self, convert):
        made = _arrays({"dose": convert(DOSE)})
        np.testing.assert_array_equal(np.ravel(made["dose"]), DOSE)

    def test_several_go_together(self):
        scale = 10 * DOSE.iloc[[2, 0, 1]]
        for passed in ({"dose": DOSE, "scale": scale}, {"dose": DOSE, "scale": xr.DataArray(scale, dims="design")}):
            made = _arrays(passed)
            np.testing.assert_array_equal(10 * made["dose"], made["scale"])
        first, (nested, *_) = _arrays((DOSE, ({"scale": scale},)))[0], _arrays((DOSE, {"scale": scale}))[1:]
        np.testing.assert_array_equal(10 * first, nested["scale"])

    def test_integers_stay(self):
        assert _arrays({"dose": pd.Series([1, 2], index=[4, 5])})["dose"].dtype.kind == "i"
        assert _arrays({"dose": pd.Series([1, 2], dtype="Int64")})["dose"].dtype.kind == "i"

    @pytest.mark.parametrize(
        ("other", "error", "match"),
        [
            (
                DOSE.set_axis(list("abc")),
                ValueError,
                r"designs\['scale'\] and designs\['dose'\] have rows with different",
            ),
            (DOSE.iloc[[0, 0, 1]], ValueError, "occur more than once"),
            (pd.Series(["u", "v", "w"], index=DOSE.index), TypeError, r"designs\['scale'\] needs numbers or booleans"),
            (xr.Dataset({"a": ("b", [1.0, 2.0, 3.0])}), TypeError, "pass its variables one by one"),
        ],
    )
    def test_refused(self, other, error, match):
        with pytest.raises(error, match=match):
            _arrays({"dose": DOSE, "scale": other})

    @pytest.mark.compile_fast
    def test_results_belong_to_their_designs(self):
        from numpyro_mi import IWAE

        options = {"method": IWAE(num_particles=5), "num_samples": 100, "progress_bar": False}
        wanted = expected_information_gain(dose_model, {"dose": DOSE.to_numpy()}, "z", "x", **options)
        for index in ([2, 1, 0], [5, 6, 7]):
            found = expected_information_gain(dose_model, {"dose": DOSE.set_axis(index)}, "z", "x", **options)
            for one, other in zip(found.results, wanted.results, strict=True):
                np.testing.assert_array_equal(one.lower_i, other.lower_i)
            np.testing.assert_array_equal(found.axis()[1], DOSE)


def people(a, b, x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    with numpyro.plate("people", 3):
        numpyro.sample("x", dist.Normal(z * jnp.asarray(a) + jnp.asarray(b), 1), obs=x)


def test_arguments_of_a_model():
    with pytest.raises(ValueError, match=r"model_args\[1\] and model_args\[0\] have the same labels in another order"):
        mi_bounds(people, "z", "x", model_args=(DOSE, DOSE.iloc[[2, 0, 1]]))
    with pytest.raises(ValueError, match=r"model_kwargs\['x'\] and model_args\[0\] have the same labels in another"):
        evidence_bounds(people, "x", model_args=(DOSE, DOSE), model_kwargs={"x": DOSE.iloc[[2, 0, 1]]})


def test_observed_values_of_two_sites():
    def two():
        z = numpyro.sample("z", dist.Normal(0, 1))
        for name in ("x", "y"):
            numpyro.sample(name, dist.Normal(z, 1).expand([3]).to_event(1))

    with pytest.raises(ValueError, match=r"observed\['y'\] and observed\['x'\] have the same labels in another order"):
        evidence_bounds(two, ["x", "y"], observed={"x": DOSE, "y": DOSE.iloc[[2, 0, 1]]})


def test_posterior_samples():
    def model():
        a, b = (numpyro.sample(name, dist.Normal(0, 1)) for name in "ab")
        numpyro.sample("x", dist.Normal(a + b, 1))

    joint = joint_model(model, ["a", "b"], "x")
    rows = pd.Series(np.arange(300.0))
    mixed = 10 * rows.sample(frac=1, random_state=0)
    found = posterior_arrays(joint, {"a": rows, "b": mixed})
    np.testing.assert_array_equal(10 * found["a"], found["b"])
    assert not np.array_equal(10 * rows, posterior_arrays(joint, {"a": rows, "b": mixed.to_numpy()})["b"])
    with pytest.raises(
        ValueError, match=r"posterior_samples\['b'\] and posterior_samples\['a'\] have rows with differ"
    ):
        posterior_arrays(joint, {"a": rows, "b": rows.set_axis(range(1, 301))})
