"""Values that sites are held at: of their type, inside their supports, or refused by site and number of entries."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from numpyro_mi import IWAE, StructuredInfoNCE, evidence_bounds, mi_bounds
from numpyro_mi.model.joint.observed import observed_data
from numpyro_mi.model.joint.trace import joint_model

QUICK = {"method": StructuredInfoNCE(5), "num_samples": 20, "num_replicates": 2, "progress_bar": False}


def model_of(distribution, mask=None):
    def model(x=None):
        z = numpyro.sample("z", dist.Normal(0, 1))
        fn = distribution(z)
        numpyro.sample("x", fn if mask is None else fn.mask(mask), obs=x)

    return model


def four(fn):
    return lambda z: fn(z).expand([4])


FAMILIES = {
    "bernoulli": four(lambda z: dist.Bernoulli(logits=z)),
    "pixels": lambda z: dist.Bernoulli(logits=z).expand([2, 2]).to_event(2),
    "categorical": four(lambda z: dist.Categorical(logits=jnp.stack([z, -z, 0.0 * z]))),
    "poisson": four(lambda z: dist.Poisson(jnp.exp(z))),
    "binomial": lambda z: dist.Binomial(jnp.array([1, 2, 3, 4]), logits=z),
    "gamma": four(lambda z: dist.Gamma(jnp.exp(z), 1.0)),
    "beta": four(lambda z: dist.Beta(jnp.exp(z), 1.0)),
    "normal": four(lambda z: dist.Normal(z, 1.0)),
    "truncated": four(lambda z: dist.TruncatedNormal(z, 1.0, low=jnp.exp(0.0))),
    "dirichlet": lambda z: dist.Dirichlet(jnp.exp(z) * jnp.ones(4)),
    "multinomial": lambda z: dist.Multinomial(4, probs=jnp.ones(4) / 4 + 0.0 * z),
    "log_normal": four(lambda z: dist.TransformedDistribution(dist.Normal(z, 1.0), dist.transforms.ExpTransform())),
    "moves": four(lambda z: dist.Uniform(0.0, jnp.exp(z))),
    "counts_move": four(lambda z: dist.Binomial(jnp.round(3 + jnp.exp(z)).astype(int), 0.5)),
}


def held(family, value, mask=None):
    joint = joint_model(model_of(FAMILIES[family], mask), "z", "x")
    return observed_data(joint, {"x": np.asarray(value)})["x"]


@pytest.mark.parametrize(
    ("family", "value", "count"),
    [
        ("bernoulli", [0, 1, 2, 1], 1),
        ("bernoulli", [0.5, 1, 0, 0.2], 2),
        ("pixels", [[0.5, 1], [0.1, 0.2]], 3),
        ("categorical", [0, 1, 2, 3], 1),
        ("poisson", [1.5, 0, 2.5, 1], 2),
        ("poisson", [-1, 0, 1, 2], 1),
        ("binomial", [2, 2, 3, 4], 1),
        ("gamma", [0.0, 1, 2, -1], 2),
        ("beta", [0.5, 1.5, 0.2, 0.1], 1),
        ("normal", [np.nan, 0, np.inf, 1], 2),
        ("truncated", [0.5, 2, 2, 2], 1),  # its bound is computed
        ("log_normal", [-1.0, 1, 1, 1], 1),
        ("moves", [0.1, np.nan, 0.1, 0.1], 1),
        ("counts_move", [0.5, 1, 2, 3], 1),
        ("categorical", np.array([0, 1, 2, 2**31 + 1]), 1),
    ],
)
def test_entries_outside_the_support(family, value, count):
    with pytest.raises(ValueError, match=f"observed data 'x': {count} of 4 entries, such as .* outside the support"):
        held(family, value)


@pytest.mark.parametrize("value", [[0.5, 0.5, 0.5, 0.5], [1.5, 0.5, 1, 1], [2, 2, 2, 0]])
def test_whole_vectors(value):
    family = "dirichlet" if value[0] == 0.5 else "multinomial"
    with pytest.raises(ValueError, match="observed data 'x': 1 of 1 entries are outside the support"):
        held(family, value)


@pytest.mark.parametrize(
    ("family", "value"),
    [
        ("bernoulli", [0, 1, 1, 0]),
        ("pixels", [[0, 1], [1, 0]]),
        ("categorical", [0, 1, 2, 1]),
        ("poisson", [0, 1, 7, 0]),
        ("normal", [0, 1, 1, 0]),
        ("gamma", [1, 1, 1, 1]),
        ("multinomial", [0, 1, 3, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int64, np.float16, np.float32, np.float64])
def test_other_types_of_the_same_values(family, value, dtype):
    if dtype is bool and np.max(value) > 1:
        return
    found = held(family, np.array(value, dtype))
    wanted = held(family, np.array(value, float))
    assert found.dtype == wanted.dtype and (found.dtype == jnp.float32) == (family in ("normal", "gamma"))
    np.testing.assert_array_equal(found, value)


def test_rounding_is_no_fault():
    parts = np.random.default_rng(0).dirichlet(np.ones(5000)).astype(np.float32) * np.float32(1 + 4e-6)
    joint = joint_model(model_of(lambda z: dist.Dirichlet(jnp.exp(z) * jnp.ones(5000))), "z", "x")
    observed_data(joint, {"x": parts})
    edge = np.nextafter(np.float32(0.3), np.float32(0))
    joint = joint_model(model_of(lambda z: dist.Pareto(0.3, jnp.exp(z))), "z", "x")
    observed_data(joint, {"x": edge})


def test_supports_that_move_are_left():
    """The values may be outside or not: the density knows."""
    np.testing.assert_array_equal(held("moves", [0.1, 0.2, 5.0, -1.0]), np.float32([0.1, 0.2, 5.0, -1.0]))


@pytest.mark.parametrize("family", ["normal", "bernoulli", "poisson", "gamma"])
@pytest.mark.parametrize("junk", [np.nan, -7.5, 1e30])
def test_masked_cells_hold_anything(family, junk):
    mask = jnp.array([True, True, False, True])
    found = held(family, [1.0, 1.0, junk, 1.0], mask)
    assert np.isfinite(found).all() and (np.delete(found, 2) == 1).all()
    with pytest.raises(ValueError, match="1 of 4 entries"):
        held(family, [1.0, -7.5 if family != "normal" else np.nan, junk, 1.0], mask)


@pytest.mark.compile_fast
def test_evidence_with_a_masked_nan():
    mask = jnp.array([True, True, False, True])
    model = model_of(FAMILIES["normal"], mask)
    options = {"method": IWAE(num_particles=20), "num_samples": 20, "num_replicates": 4, "progress_bar": False}
    found, wanted = (
        evidence_bounds(model, "x", observed={"x": np.array([0.1, 0.2, junk, 0.3])}, **options)
        for junk in (np.nan, 0.0)
    )
    assert np.isfinite(wanted.observed)
    np.testing.assert_allclose(found.observed_i, wanted.observed_i, rtol=1e-5)


@pytest.mark.compile_fast
def test_data_of_the_call_and_data_passed():
    model = model_of(FAMILIES["bernoulli"])
    for value, match in (([0, 1, 2, 1], "1 of 4"), ([0.5, 0.2, 0, 1], "2 of 4")):
        for passed in ({"observed": {"x": value}}, {"model_args": (np.asarray(value),)}):
            with pytest.raises(ValueError, match=f"observed data 'x': {match} entries"):
                evidence_bounds(model, "x", **passed, **QUICK)
    right = [
        evidence_bounds(model, "x", observed={"x": np.array([0, 1, 1, 0], dtype)}, **QUICK).observed_i
        for dtype in (bool, float, np.uint8, int)
    ]
    for other in right[1:]:
        np.testing.assert_array_equal(other, right[0])


def test_what_is_no_number():
    joint = joint_model(model_of(FAMILIES["normal"]), "z", "x")
    for bad in (np.array(list("abcd")), np.array([1j, 0, 0, 0]), np.array([None] * 4)):
        with pytest.raises(TypeError, match="observed data 'x' must be an array of real numbers or booleans"):
            observed_data(joint, {"x": bad})
    found = observed_data(joint, {"x": np.ma.masked_invalid([1.0, 2.0, 3.0, 4.0])})
    np.testing.assert_array_equal(found["x"], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="1 of 4 entries, such as nan"):
        observed_data(joint, {"x": np.ma.masked_equal([1, 2, 3, 4], 2)})


def test_supports_that_depend_on_other_data():
    """What is held decides: a total that is data bounds the counts."""

    def model(total=None, x=None):
        z = numpyro.sample("z", dist.Normal(0, 1))
        total = numpyro.sample("total", dist.Poisson(jnp.exp(z)), obs=total)
        numpyro.sample("x", dist.Binomial(total, 0.5), obs=x)

    joint = joint_model(model, "z", ["total", "x"])
    observed_data(joint, {"total": 3, "x": 2})
    with pytest.raises(ValueError, match="observed data 'x': 1 of 1 entries, such as 4, are outside"):
        observed_data(joint, {"total": 3, "x": 4})


def levels(x=None):
    k = numpyro.sample("k", dist.Categorical(jnp.ones(3) / 3))
    scale = numpyro.sample("scale", dist.LogNormal(0, 1))
    shift = numpyro.sample("shift", dist.Normal(jnp.zeros(2), 1).to_event(1))
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(z + jnp.arange(3.0)[k] + shift.sum(), scale), obs=x)


class TestGiven:
    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"k": 1.5}, "given holds site 'k' at 1.5, which is outside the support"),
            ({"k": 3}, "site 'k' at 3, which is outside"),
            ({"scale": 0}, "site 'scale' at 0, which is outside"),
            ({"scale": np.nan}, "site 'scale' at nan, which is outside"),
            ({"shift": [np.nan, 0.0]}, r"at \[nan, 0.0\].*\(1 of 2 entries\): pass a value that the site can have"),
        ],
    )
    def test_outside(self, given, match):
        with pytest.raises(ValueError, match=match):
            joint_model(levels, "z", "x", given=given)

    def test_other_types(self):
        values = [1.0, True, np.uint8(1), np.int64(1), np.float64(1)]
        found = [joint_model(levels, "z", "x", given={"k": value, "scale": 1}) for value in values]
        for joint in found:
            drawn = joint.simulate(0)
            assert drawn["k"] == 1 and drawn["k"].dtype == jnp.int32 and drawn["scale"].dtype == jnp.float32

    def test_another_shape_keeps_its_message(self):
        def model():
            p = numpyro.sample("p", dist.Uniform(np.zeros(2), np.array([1.0, 2.0])))
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(z + p.sum(), 1))

        with pytest.raises(ValueError, match=r"'p' is given values of shape \(3,\)"):
            joint_model(model, "z", "x", given={"p": jnp.ones(3)})
        with pytest.raises(ValueError, match="'p' at .*1 of 2 entries"):
            joint_model(model, "z", "x", given={"p": jnp.array([1.5, 1.5])})

    def test_inside_a_handler(self):
        """Data that the model holds itself are none of the call's."""
        model = handlers.condition(levels, data={"scale": jnp.array(2.0)})
        result = mi_bounds(
            model,
            "z",
            "x",
            {"k": 1.0, "shift": [0, 1]},
            method=IWAE(num_particles=5),
            num_samples=20,
            progress_bar=False,
        )
        assert result.fixed == ("k", "shift")
