"""How data reach a model: in arguments of any form, through closures, and in values that are given to obs=."""

import collections
import dataclasses
import enum
import functools
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from numpyro_mi import (
    StructuredInfoNCE,
    evidence_bounds,
    expected_information_gain,
    information_gain_gradient,
    information_table,
    mi_bounds,
)
from numpyro_mi.model.joint.elements import split_one
from numpyro_mi.model.joint.resemblance import is_made_of
from numpyro_mi.model.joint.trace import joint_model

pytestmark = pytest.mark.compile_fast

sample, Normal = numpyro.sample, dist.Normal
Y = np.array([0.31, -1.27, 0.84, 2.16, -0.53, 1.71, 0.05, -0.92, 1.13, 0.47])
X = np.array([1.3, 0.2, -0.8, 0.6, 2.5, -1.7, 0.9, 0.4, -0.1, 1.9])
FRAME = pd.DataFrame({"y": Y, "x": X, "who": list("abcdefghij")})
READS = "reads its data argument {} outside obs="
CLOSES_OVER = "reads the data that it gives to site 'x' by obs= elsewhere too.*pass the data as an argument"


def autoregression(y):
    z = sample("z", Normal(0, 1))
    y = jnp.asarray(y)
    sample("x", Normal(z * y[:-1], 1).to_event(1), obs=y[1:])


def regression(y, x):
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z * jnp.asarray(x), 1).to_event(1), obs=jnp.asarray(y))


def of(get, model=autoregression):
    """A model of what is taken out of one argument."""
    return lambda data: model(*get(data)) if model is regression else model(get(data))


def level(k):
    """I = log(1 + k^2) / 2 with data read as a constant k, whatever is simulated."""
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z * k, 1), obs=k)


@dataclasses.dataclass(frozen=True)
class Record:
    y: object
    x: object = None


class Own:
    def __init__(self, y, x=None):
        self.y, self.x, self.me, self.lock = y, x, self, threading.Lock()

    @property
    def both(self):
        return self.y, self.x

    def model(self):
        autoregression(self.y)

    @functools.cached_property
    def lag(self):
        return self.y[:-1]

    def __call__(self):
        return self.y


class Slots:
    __slots__ = ("x", "y")

    def __init__(self, y, x=None):
        self.y, self.x = y, x


class Strict(Own):
    """Takes no other values by assignment."""

    def __init__(self, y, x=None):
        vars(self).update(y=y, x=x)

    def __setattr__(self, name, value):
        raise TypeError(name)


class Uncopied(Own):
    def __reduce_ex__(self, protocol):
        raise TypeError("no copies")


class Registered(Own):
    """A copy is not the object that is looked up."""

    known: dict = {}

    def __init__(self, y, x=None):
        super().__init__(y, x)
        self.name = "registered"
        self.known[self.name] = self

    @property
    def both(self):
        return self.known[self.name].y, self.known[self.name].x


Pair = collections.namedtuple("Pair", "y x")

HOLDERS = {
    "dict": (lambda y, x: {"y": y, "x": x}, lambda d: (d["y"], d["x"]), "\"d['y']\""),
    "proxy": (lambda y, x: types.MappingProxyType({"y": y, "x": x}), lambda d: (d["y"], d["x"]), "\"d['y']\""),
    "user dict": (lambda y, x: collections.UserDict(y=y, x=x), lambda d: (d["y"], d["x"]), "\"d.data['y']\""),
    "named tuple": (Pair, tuple, r"'d\[0\]'"),
    "namespace": (lambda y, x: types.SimpleNamespace(y=y, x=x), lambda d: (d.y, d.x), "'d.y'"),
    "dataclass": (Record, lambda d: (d.y, d.x), "'d.y'"),
    "own class": (Own, lambda d: d.both, "'d.y'"),
    "nested": (lambda y, x: [{"d": Own(y, x)}], lambda d: d[0]["d"].both, r"\"d\[0\]\['d'\].y\""),
    "slots": (Slots, lambda d: (d.y, d.x), "'d.y'"),
    "strict": (Strict, lambda d: (d.y, d.x), "'d.y'"),
    "frame": (lambda y, x: pd.DataFrame({"y": y, "x": x}), lambda d: (d["y"].values, d["x"].values), "\"d['y']\""),
    "frame with text": (lambda y, x: FRAME.assign(y=y, x=x), lambda d: (d["y"], d["x"]), "\"d['y']\""),
    "records": (
        lambda y, x: pd.DataFrame({"y": y, "x": x}).to_records(),
        lambda d: (d.y, d["x"]),
        "\"d['y']\"",
    ),
    "dataset": (
        lambda y, x: xr.Dataset({"y": ("t", y), "x": ("t", x)}),
        lambda d: (d["y"].values, d["x"].values),
        "\"d._variables\\['y'\\]\"",
    ),
    "partial": (lambda y, x: functools.partial(lambda y, x: (y, x), y, x=x), lambda d: d(), r"'d.args\[0\]'"),
    "bound method": (lambda y, x: Pair(Own(y).__call__, x), lambda d: (d.y(), d.x), r"'d\[0\].__self__.y'"),
    "callable": (lambda y, x: Pair(Own(y), x), lambda d: (d.y(), d.x), r"'d\[0\].y'"),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_data_in_any_container_are_not_read_and_covariates_may_be(name):
    make, get, label = HOLDERS[name]

    def lagged(d):
        autoregression(get(d)[0])

    def model(d):
        regression(*get(d))

    with pytest.raises(ValueError, match=READS.format(label.replace("['y']", r"\['y'\]"))):
        joint_model(lagged, "z", "x", (make(Y, X),))
    assert joint_model(model, "z", "x", (make(Y, X),)).simulated == {"x"}


def test_what_an_object_computes_once_is_computed_from_its_data():
    def model(d):
        z = sample("z", Normal(0, 1))
        sample("x", Normal(z * d.lag, 1).to_event(1), obs=d.y[1:])

    data = Own(Y)
    with pytest.raises(ValueError, match=READS.format("'d.y'")):
        joint_model(model, "z", "x", (data,))
    assert data.lag is vars(data)["lag"] and data.y is Y  # nothing is left behind


@pytest.mark.parametrize("cls", [Uncopied, Registered])
def test_objects_that_cannot_be_looked_into_are_compared_by_their_values(cls):
    with pytest.raises(ValueError, match=CLOSES_OVER):
        joint_model(lambda d: autoregression(d.both[0]), "z", "x", (cls(Y, X),))
    joint_model(lambda d: regression(*d.both), "z", "x", (cls(Y, X),))


@pytest.mark.parametrize(
    "value", [7, np.int64(7), np.uint8(200), np.array(7), jnp.array(7), True, np.bool_(True), jnp.array(True), 1.5]
)
def test_a_single_number_that_is_data_is_not_read(value):
    with pytest.raises(ValueError, match=READS.format("'k'")):
        joint_model(level, "z", "x", (value,))
    with pytest.raises(ValueError, match=READS.format("\"d\\['k'\\]\"")):
        joint_model(lambda d: level(d["k"]), "z", "x", ({"k": value, "n": 3},))

    def fine(k, n):
        z = sample("z", Normal(0, n))
        sample("x", Normal(z, 1), obs=k)

    joint_model(fine, "z", "x", (value, 3))


def standardised(y):
    return (y - y.mean()) / y.std()


NAN = np.array([0.5, np.nan, 1.5])
NUMBERS = {
    "cast": (lambda k: (int(k), float(k)), 5),
    "logarithm": (lambda k: (np.log(k), k), 1),
    "beside missing values": (lambda k: (jnp.concatenate([jnp.array([k]), NAN]), k), 5),
    "standardised among others": (lambda k: (standardised(jnp.concatenate([jnp.array([k]), Y])), k), 5.0),
    "a square": (lambda k: (k**2, k), 1),
    "a negative square": (lambda k: (k**2, k), np.int8(-2)),
    "a difference": (lambda k: (k - 3, k), 5),
    "in a range": (lambda k: (k, [1, 2, 4, 8, 16, 32][k]), 5),
    "in a vector": (lambda k: (jnp.concatenate([jnp.array([k]), Y]), k), 5),
    "which": (lambda b: (jnp.where(b, 1.0, 0.0), 1 + b), True),
    "if": (lambda b: (1 if b else 0, 4.0 if b else 1.0), True),
    "flags": (lambda b: (1.0 * jnp.array(b), 1 + jnp.array(b)), [True, False, True]),
    "lists": (lambda y: (np.array(y), np.array(y)), collections.deque([1.0, 4.0, 6.0])),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_computed_with_is_data(name):
    get, value = NUMBERS[name]

    def model(d):
        obs, scale = get(d)
        z = sample("z", Normal(0, 1))
        sample("x", Normal(z * scale, 1).expand(jnp.shape(obs)).to_event(jnp.ndim(obs)), obs=obs)

    with pytest.raises(ValueError, match=READS.format("'d'")):
        joint_model(model, "z", "x", (value,))


class Kind(enum.IntEnum):
    A = 1


def seeded(seed):
    key = jax.random.key(seed)
    return jax.random.normal(key, (3,)), jax.random.normal(jax.random.fold_in(key, 1), (3,))


def shuffled(seed):
    return np.random.default_rng(seed).normal(size=(2, 3))


SORTED = np.sort(Y)
CODES = {name: i for i, name in enumerate("abcdefghij")}
ROWS = np.array([4, 2, 7])
UNITS = types.SimpleNamespace(y=Y, loc=1.5, scale=10)
COUNTS = np.array([3, 11, 7, 0, 24, 13, 8, 2, 17, 5, 40, 9])
SELECTED = types.SimpleNamespace(y=Y, x=X, rows=ROWS)
INNOCENT = {
    "size": (lambda n, y: (y[:n], jnp.ones(n)), (10, Y)),
    "shape": (lambda s, y: (y.reshape(s), jnp.ones(s)), ((5, 2), Y)),
    "index": (lambda i, y, x: (y[i], x[i]), (3, Y, X)),
    "index of data that are closed over": (lambda i: (SORTED[i], X[i]), (3,)),
    "the same in JAX": (lambda i: (jnp.asarray(SORTED)[i], jnp.asarray(X)[i]), (3,)),
    "name": (lambda codes, y: (y[codes["d"]], X[codes["d"]]), (CODES, Y)),
    "rows": (lambda rows, y, x: (jnp.asarray(y)[rows], jnp.asarray(x)[rows]), (ROWS, Y, X)),
    "rows in an object": (lambda d: (d.y[d.rows], d.x[d.rows]), (SELECTED,)),
    "switch": (lambda log, y: (np.log(y), 1.0) if log else (y, 3.0), (True, np.abs(Y))),
    "switch in JAX": (lambda b: (jnp.where(b, Y, X), 1.0 if b else 3.0), (True,)),
    "unit": (lambda y, scale: (y / scale, 1 / scale), (Y, 2.0)),
    "unit in an object": (lambda d: ((d.y - d.loc) / d.scale, d.loc / d.scale), (UNITS,)),
    "total": (lambda counts, total: (counts / total, 1 / total), (COUNTS, 50)),
    "total of one count": (lambda count, total: (count / total, 1 / total), (7, 50)),
    "seed": (seeded, (5,)),
    "seed of NumPy": (shuffled, (5,)),
    "limit": (lambda limit, y: (np.minimum(y, limit), limit), (1, Y)),
    "window": (lambda w, y: (np.convolve(y, np.ones(w) / w, "same"), 1.0 * w), (2, Y)),
    "kind": (lambda kind: (1.5 * kind, 1.0 * kind), (Kind.A,)),
    "mask": (lambda m, y: (jnp.where(jnp.array(m), y, 0.0), 1.0 + jnp.array(m)), ([True, False, True], Y[:3])),
    "stand-in for data": (lambda x, y: (y, x), (X, X)),
    "query": (lambda d: (d.query("x > 0")["y"].to_numpy(), d.query("x > 0")["x"].to_numpy()), (FRAME,)),
    "numbers of a frame": (lambda d: tuple(d[["y", "x"]].to_numpy().T), (FRAME,)),
    "nullable": (
        lambda d: (d["y"].to_numpy(float, na_value=0.0), d["x"].to_numpy()),
        (
            pd.DataFrame(
                {"y": pd.array([1, 2, None], dtype="Int64"), "x": X[:3], "t": pd.date_range("2020", periods=3)}
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_sizes_indices_switches_and_covariates_may_be_read(name):
    get, args = INNOCENT[name]

    def model(*args):
        obs, scale = get(*args)
        z = sample("z", Normal(0, 1))
        sample("x", Normal(z * scale, 1).expand(jnp.shape(obs)).to_event(jnp.ndim(obs)), obs=obs)

    assert joint_model(model, "z", "x", args).simulated == {"x"}


def test_arguments_of_many_kinds():
    everything = (Y, dist.Gamma(jnp.ones(3), 2.0), jax.random.key(0), "text", None, object, {1, 2}, lambda: 1)
    others = (np.datetime64("2020"), np.array(["a"]), pd.Series(list("abc")), pd.Categorical(["a"]), Own)

    def model(y, prior, key, *others):
        z = sample("z", prior.to_event(1))
        sample("x", Normal(z[0], 1 + jax.random.normal(key) ** 2).expand([10]).to_event(1), obs=y)

    joint_model(model, "z", "x", (*everything, *others))


def keyword(*, y=Y):
    autoregression(y)


def positional(y=Y, n=10):
    autoregression(y)


def options(y, n=10, scale=1.0, *, flag=False, more=types.MappingProxyType({"a": 1})):
    z = sample("z", Normal(0, scale))
    sample("x", Normal(z, 1 if flag else more["a"]).expand([n]).to_event(1), obs=y)


@functools.wraps(options)
def wrapped(y):
    options(y, n=10)


def second(x, y):
    autoregression(y)


CALLS = {
    "default": (positional, (), "'y'"),
    "keyword default": (keyword, (), "'y'"),
    "partial": (functools.partial(autoregression, Y), (), "'y'"),
    "partial keyword": (functools.partial(autoregression, y=Y), (), "'y'"),
    "partial of partial": (functools.partial(functools.partial(second, X), y=Y), (), "'y'"),
    "partial in a handler": (
        handlers.condition(functools.partial(autoregression, Y), data={}),
        (),
        r"'model.fn.args\[0\]'",
    ),
    "method": (Own(Y).model, (), "'model.__self__.y'"),
    "several": (lambda *ys: autoregression(ys[1]), (X, Y), r"'ys\[1\]'"),
}


@pytest.mark.parametrize("name", CALLS)
def test_data_that_are_bound_to_a_model_are_not_read(name):
    model, args, label = CALLS[name]
    with pytest.raises(ValueError, match=READS.format(label)):
        joint_model(model, "z", "x", args)


@pytest.mark.parametrize("model", [options, wrapped, functools.partial(options, flag=True)])
def test_options_and_their_defaults_may_be_read(model):
    joint_model(model, "z", "x", (Y,))


def closure(get):
    def model():
        z = sample("z", Normal(0, 1))
        obs, loc = get()
        sample("x", Normal(z * loc, 1).to_event(1), obs=obs)

    return model


def scanned(start, values):
    def model():
        z = sample("z", Normal(0, 1))

        def step(last, row):
            x = sample("x", Normal(z * last + row[1:].sum(), 1), obs=row[0])
            return x, None

        scan(step, start, values)

    return model


TABLE = jnp.stack([jnp.asarray(Y), jnp.asarray(X)], 1)
WIDE = jnp.concatenate([TABLE, TABLE[:, 1:] ** 2], 1)
READ_IN_CLOSURE = {
    "NumPy": closure(lambda: (Y[1:], Y[:-1])),
    "JAX": closure(lambda: (jnp.asarray(Y)[1:], jnp.asarray(Y)[:-1])),
    "itself": closure(lambda: (Y, Y)),
    "a lag of a table": closure(lambda: (TABLE[2:, 0], TABLE[:-2, 0])),
    "counts": closure(lambda: (COUNTS[1:], COUNTS[:-1])),
    "in a compiled function": closure(lambda: (Y[1:], jax.jit(lambda y: y[:-1])(Y))),
    "by handlers.condition": handlers.condition(closure(lambda: (None, Y)), data={"x": Y}),
}
FINE_IN_CLOSURE = {
    "covariates": closure(lambda: (Y, X)),
    "columns": closure(lambda: (TABLE[:, 0], TABLE[:, 1])),
    "columns in a compiled function": closure(lambda: (TABLE[:, 0], jax.jit(lambda t: t[:, 1])(TABLE))),
    "rows of scan": scanned(0.0, WIDE),
    "start of the series": scanned(jnp.asarray(Y)[0], WIDE[1:]),
    "mean": closure(lambda: (Y, Y.mean() * np.ones(10))),
    "zeros": closure(lambda: (np.zeros(10), np.zeros(10))),
    "labels": closure(lambda: (np.arange(12) % 3, np.arange(12) % 3)),
    "grid": closure(lambda: (np.linspace(0, 1, 20), np.linspace(0, 1, 20))),
}


@pytest.mark.parametrize("name", READ_IN_CLOSURE)
def test_data_that_a_model_closes_over_are_not_read(name):
    with pytest.raises(ValueError, match=CLOSES_OVER):
        joint_model(READ_IN_CLOSURE[name], "z", "x")


@pytest.mark.parametrize("name", FINE_IN_CLOSURE)
def test_what_else_a_model_closes_over_may_be_read(name):
    assert joint_model(FINE_IN_CLOSURE[name], "z", "x").simulated == {"x"}


def test_coarse_values_are_not_taken_for_one_another():
    """Measurements of two digits, as those of flowers, have many values in common."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        first, other = np.round(rng.normal(5.8, 0.8, (2, 150)), 1)
        assert not is_made_of(first, other)
        assert is_made_of(first[:-1], first[1:])


def test_the_index_of_an_element_is_no_data():
    def model():
        with numpyro.plate("N", 3):
            theta = sample("theta", Normal(0, 1), obs=jnp.asarray(Y[:3]))
            sample("x", Normal(theta, 1), obs=jnp.asarray(X[:3]))

    split, name = split_one(model, "theta", (1,))
    joint_model(split, name, "x")
    joint_model(model, "theta[1]", "x")


def test_what_data_may_be_read_for_is_said():
    def classes(label):
        z = sample("z", Normal(0, 1).expand([int(np.max(label)) + 1]).to_event(1))
        sample("x", dist.Categorical(logits=z).expand([5]).to_event(1), obs=label)

    with pytest.raises(ValueError, match="a number that is computed from the data, such as that of classes"):
        joint_model(classes, "z", "x", (np.array([0, 2, 1, 1, 0]),))

    def table(data):
        regression(data[:, 0], data[:, 1])

    with pytest.raises(ValueError, match="covariates .as arguments, or in a dict of arrays, not in one array"):
        joint_model(table, "z", "x", (np.stack([Y, X], 1),))


MISSING = np.arange(3) == 1


def imputed(y=Y[:3]):
    z = sample("z", Normal(0, 1))
    filled = sample("filled", Normal(z, 1).expand([3]).to_event(1))
    sample("x", Normal(z, 1).expand([3]).to_event(1), obs=jnp.where(MISSING, filled, y))


def masked(y=Y[:3]):
    z = sample("z", Normal(0, 1))
    with handlers.mask(mask=~MISSING):
        sample("x", Normal(z, 1).expand([3]), obs=jnp.where(MISSING, 0, y))


def two(value, given=None):
    def model():
        z = sample("z", Normal(0, 1))
        x = sample("x", Normal(z, 1), obs=given)
        sample("w", Normal(z, 1), obs=value(z, x))

    return model


def in_scan(value):
    def model():
        z = sample("z", Normal(0, 1))

        def step(carry, y):
            h = sample("h", Normal(carry, 1))
            sample("x", Normal(h, 1), obs=value(y, h, carry))
            return h, None

        scan(step, z, jnp.asarray(Y))

    return model


def own_carry():
    z = sample("z", Normal(0, 1))

    def step(last, y):
        change = sample("x", Normal(z * last, 1), obs=y - last)
        return last + change, None

    scan(step, 0.0, jnp.asarray(Y))


def elements():
    z = sample("z", Normal(0, 1))
    with numpyro.plate("N", 3):
        sample("x", Normal(z, 1), obs=z + jnp.zeros(3))


def hides():
    z = sample("z", Normal(0, 1))
    with handlers.block():
        w = sample("w", Normal(0, 1))
    sample("x", Normal(z, 1), obs=w)


def latent_value():
    g = sample("g", Normal(0, 1))
    z = sample("z", Normal(g, 1), obs=g + 1)
    sample("x", Normal(z, 1))


def noise(*_):
    return jax.random.normal(numpyro.prng_key())


def drawn_by_handler(msg):
    return msg["fn"].sample(numpyro.prng_key()) if msg["name"] == "w" else None


DRAWN = {
    "imputation": (imputed, {}, "'x' is given by obs= is computed from site 'filled'.*handlers.mask.mask=~missing"),
    "latent": (two(lambda z, x: z + 1), {"data": ["x", "w"]}, "'w' is given by obs= is computed from site 'z'"),
    "data": (two(lambda z, x: x**2), {"data": ["x", "w"]}, "'w' is given by obs= is computed from site 'x'"),
    "data with a value": (two(lambda z, x: x**2, 1.0), {"data": ["x", "w"]}, "'w' is given .* from site 'x'"),
    "both": (two(lambda z, x: x * z), {"data": ["x", "w"]}, "'w' is given by obs= is computed from sites 'x', 'z'"),
    "key": (two(noise), {"data": ["x", "w"]}, "'w' is given by obs= is computed from random numbers"),
    "NumPy": (
        two(lambda *_: np.random.normal()),  # noqa: NPY002
        {"data": ["x", "w"]},
        "'w' is given .* random numbers .*numpy.random",
    ),
    "hidden": (hides, {}, "'x' is given by obs= is computed from random numbers .*handlers.block hides"),
    "in no group": (two(lambda z, x: z), {}, "'w' is given by obs= is computed from site 'z'"),
    "key in no group": (two(noise), {}, "'w' is given by obs= is computed from random numbers"),
    "site of a scan": (in_scan(lambda y, h, c: y + h), {}, "'x' is given by obs= is computed from site 'h'"),
    "carry of a scan": (in_scan(lambda y, h, c: y + c), {}, "'x' is given by obs= is computed from sites 'h', 'z'"),
    "value of a latent": (latent_value, {}, "'z' is given by obs= is computed from site 'g'"),
    "value of given": (latent_value, {"latent": "g", "given": "z"}, "'z' is given by obs= is computed from site 'g'"),
    "held": (two(lambda z, x: z), {"given": {"w": 1.0}}, "'w' is given by obs= is computed from site 'z'"),
    "element": (elements, {"data": "x[0]"}, "'x' is given by obs= is computed from site 'z'"),
    "condition": (
        handlers.condition(two(lambda z, x: x**2), data={"x": 1.0}),
        {"data": ["x", "w"]},
        "'w' is given by obs= is computed from site 'x'",
    ),
    "condition_fn": (
        handlers.condition(two(lambda *_: None), condition_fn=drawn_by_handler),
        {"data": ["x", "w"]},
        "'w' is given by obs= is computed from sites? .*'z'",
    ),
    "do": (
        handlers.do(two(lambda z, x: x**2), data={"z": 1.0}),
        {"latent": "x", "data": "w"},
        "'w' is given by obs= is computed from site 'x'",
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_value_that_is_computed_from_what_is_drawn_is_refused(name):
    model, options, message = DRAWN[name]
    with pytest.raises(ValueError, match=message):
        joint_model(model, **{"latent": "z", "data": "x", **options})


def broadcast(value, step=None):
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z, 1).expand([4]).to_event(1), obs=1.0)
    return value, None


class NoDensity(dist.Normal):
    def log_prob(self, value, *args):
        raise NotImplementedError


def no_density(y=1.5):
    z = sample("z", Normal(0, 1))
    sample("x", NoDensity(z, 1), obs=y)


FINE = {
    "fixed mask": (masked, "x"),
    "constants": (two(lambda *_: 1.0, 2.0), ["x", "w"]),
    "own carry": (own_carry, "x"),
    "a number for a vector": (lambda: broadcast(1.0), "x"),
    "a number for a vector in a scan": (lambda: scan(broadcast, None, jnp.arange(3.0)), "x"),
    "without a density": (no_density, "x"),
    "standardised": (lambda y=Y, m=1.0, s=2.0: regression((y - m) / s, X), "x"),
    "condition": (handlers.condition(two(lambda *_: None), data={"x": 1.0, "w": 2.0}), ["x", "w"]),
}


@pytest.mark.parametrize("name", FINE)
def test_values_of_arguments_and_constants_are_accepted(name):
    model, data = FINE[name]
    joint_model(model, "z", data)


def impute_design(design, y=Y[:3]):
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z * design, 1).expand([3]).to_event(1), obs=jnp.where(MISSING, z, y))


def read_design(design, k=3):
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z * design * k, 1), obs=k)


@pytest.mark.parametrize(
    "model, message", [(impute_design, "'x' is given by obs= is computed from site 'z'"), (read_design, "argument 'k'")]
)
@pytest.mark.parametrize(
    "verb",
    [
        lambda model: mi_bounds(model, "z", "x", model_args=(1.0,)),
        lambda model: evidence_bounds(model, "x", model_args=(1.0,)),
        lambda model: information_table(model, "x", model_args=(1.0,)),
        lambda model: expected_information_gain(model, {"design": np.ones(2)}, "z", "x"),
        lambda model: expected_information_gain(
            model, {"design": np.ones(2)}, "z", "x", posterior_samples={"z": np.zeros(500)}
        ),
        lambda model: information_gain_gradient(model, {"design": 1.0}, "z", "x"),
    ],
    ids=["mi_bounds", "evidence_bounds", "information_table", "gain", "posterior", "gradient"],
)
def test_every_verb_refuses(verb, model, message):
    with pytest.raises(ValueError, match=message):
        verb(model)


def test_missing_cells_by_a_fixed_mask():
    """Two observed cells of three: I = log(3) / 2."""
    result = mi_bounds(masked, "z", "x", method=StructuredInfoNCE(256), num_samples=2000, progress_bar=False)
    truth = np.log(3) / 2
    assert result.lower - 4 * result.lower_se < truth < result.upper + 4 * result.upper_se
    assert result.gap < 0.05


def test_what_is_refused_would_be_another_number():
    """Reading the argument k = 7 gives (log(2) + log(1 + 7^2 / 2)) / 2 = 1.966 in the place of 0.6133."""

    def model(k, reads):
        z = sample("z", Normal(0, 1))
        x = sample("x", Normal(z, 1), obs=k)
        sample("y", Normal(z * (k if reads else x), 1))

    with pytest.raises(ValueError, match=READS.format("'k'")):
        mi_bounds(model, "z", ["x", "y"], model_args=(7, True))
    result = mi_bounds(
        model,
        "z",
        ["x", "y"],
        model_args=(7, False),
        method=StructuredInfoNCE(512),
        num_samples=2000,
        progress_bar=False,
    )
    points, weights = np.polynomial.hermite_e.hermegauss(200)
    truth = np.log(2) / 2 + np.sum(weights * np.log1p(points**2)) / np.sum(weights) / 2  # given x, z has variance 1/2
    assert abs(truth - 0.6133) < 1e-3
    assert result.lower - 4 * result.lower_se < truth < result.upper + 4 * result.upper_se
    assert result.upper < 0.9
