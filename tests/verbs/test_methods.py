"""What every method must do, by one register: a new method is one line here, and gets every test.

Budgets are small: a bound is valid however wide it is.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from numpyro_mi import (
    AIS,
    CR,
    GIWAE,
    IM,
    IWAE,
    MINE,
    MINEAIS,
    NWJ,
    AnnealedSMC,
    BarberAgakov,
    InfoNCE,
    MLPCritic,
    RegressionGuide,
    SeparableCritic,
    StructuredInfoNCE,
    Training,
    mi_bounds,
    tasks,
)
from numpyro_mi.draws import simulation
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.views.samples import stage_samples
from numpyro_mi.results.files.methods import describe, rebuild
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.verbs.arguments import DIRECT_METHODS, METHODS

pytestmark = pytest.mark.compile_fast

LOWER, BOTH = ("lower",), ("lower", "upper")
NUISANCE = {"hierarchical_normal": "the density of z alone has no closed form: mu is integrated out"}
SHORT: dict[str, Any] = dict(num_temperatures=10, num_particles=4)
TRAINED: dict[str, Any] = dict(
    critic=SeparableCritic((32,), 8), training=Training(4096, max_steps=100, batch_size=64, learning_rate=3e-3)
)
ENERGY: dict[str, Any] = dict(TRAINED, critic=MLPCritic((32, 32)), annealing=AIS(8, 2), num_transitions=3)


class Entry(NamedTuple):
    """A method with a small budget.

    Attributes
    ----------
    make
        Builds it anew.
    sides
        The bounds that it has.
    monotone
        Whether theory says that both sides tighten with `num_particles`, in expectation.
    num_fast
        Tasks in every run, the first ones; the others with -m slow.
    skip
        Tasks that it must refuse, with the reason.
    twin
        Whether an entry before it compiles nearly the same programs.
    """

    make: Callable[[], Any]
    sides: tuple[str, ...]
    monotone: bool = False
    num_fast: int = 2
    skip: dict[str, str] = {}
    twin: bool = False


REGISTRY = {
    "AIS, IM": Entry(lambda: AIS(**SHORT, scheme=IM()), BOTH, True, 1),
    "AIS, CR": Entry(lambda: AIS(**SHORT, scheme=CR()), BOTH, False, 1, twin=True),
    "AIS, guide": Entry(lambda: AIS(**SHORT, base=RegressionGuide()), BOTH, True, 1, twin=True),
    "AnnealedSMC": Entry(lambda: AnnealedSMC(**SHORT), BOTH, False, 1),
    "AnnealedSMC, guide": Entry(lambda: AnnealedSMC(**SHORT, base=RegressionGuide()), BOTH, False, 1, twin=True),
    "IWAE": Entry(lambda: IWAE(num_particles=4), BOTH, True),
    "BarberAgakov": Entry(BarberAgakov, BOTH),
    "StructuredInfoNCE": Entry(lambda: StructuredInfoNCE(num_particles=16), BOTH, True),
    "InfoNCE": Entry(lambda: InfoNCE(**TRAINED, num_particles=32), LOWER),
    "MINE": Entry(lambda: MINE(**TRAINED), LOWER, twin=True),
    "NWJ": Entry(lambda: NWJ(**TRAINED), LOWER, twin=True),
    "GIWAE": Entry(lambda: GIWAE(**TRAINED, num_particles=16), LOWER, skip=NUISANCE),
    "MINEAIS": Entry(lambda: MINEAIS(**ENERGY), LOWER, False, 1, NUISANCE),
    "MINEAIS, prior": Entry(lambda: MINEAIS(base=None, **ENERGY), LOWER, False, 1, NUISANCE, True),
}
# From 0.05 to 4.2 nats.
TASKS = (
    "multivariate_normal",
    "gamma_exponential",
    "hierarchical_normal",
    "correlated_normal_weak",
    "beta_binomial",
    "correlated_normal_z_normalcdf",
    "dirichlet_multinomial",
    "noisy_channel",
    "poisson_gamma",
    "correlated_normal_x_asinh",
)
COUNT = 400


def pairs():
    """Method and task; heavy ones marked."""
    for name, entry in REGISTRY.items():
        for i, task in enumerate(task for task in TASKS if task not in entry.skip):
            yield pytest.param(name, task, marks=[pytest.mark.slow] if i >= entry.num_fast else [], id=f"{name}-{task}")


@functools.cache
def task_of(name):
    return tasks.TASKS[name]()


def run(name, task=TASKS[0], **options):
    task, entry = task_of(task), REGISTRY[name]
    settings = {"method": entry.make(), "num_samples": COUNT, "progress_bar": False, **options}
    return mi_bounds(task.model, task.latent, task.data, **settings)


@functools.cache
def result_of(name, task=TASKS[0]):
    return run(name, task)


@pytest.fixture(scope="module")
def known():
    """Pointwise truths by task."""
    return {}


def standard_error(terms):
    return terms.std(ddof=1) / np.sqrt(len(terms))


def test_register_is_complete():
    assert {type(entry.make()) for entry in REGISTRY.values()} == {*METHODS, *DIRECT_METHODS}
    for entry in REGISTRY.values():
        assert len([task for task in TASKS if task not in entry.skip]) >= 8


@pytest.mark.parametrize(("name", "task"), list(pairs()))
def test_valid(name, task, known, exact_pointwise):
    """On the side of the truth that it claims, within four standard errors, paired over draws."""
    result = result_of(name, task)
    if task not in known:
        known[task] = exact_pointwise(task_of(task), 0, COUNT)
    for side, sign in (("lower", 1), ("upper", -1)):
        terms = getattr(result, f"{side}_i")
        assert (terms is not None) == (side in REGISTRY[name].sides)
        if terms is not None:
            beyond = sign * (terms - known[task])
            assert np.isfinite(terms).all()
            assert beyond.mean() <= 4 * standard_error(beyond) + 1e-5
    low, high = result.interval(0.999)
    assert low <= task_of(task).mutual_information <= high


@pytest.mark.parametrize(("name", "task"), [(name, task) for name, entry in REGISTRY.items() for task in entry.skip])
def test_refused_tasks_are_refused(name, task):
    with pytest.raises(ValueError, match=r"p\(.*\) is an integral over"):
        run(name, task)


@pytest.mark.parametrize("name", REGISTRY)
def test_configuration(name):
    make = REGISTRY[name].make
    method = make()
    assert dataclasses.is_dataclass(method)
    assert method == make() and hash(method) == hash(make()) and method is not make()
    for field in dataclasses.fields(method):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, getattr(method, field.name))
    assert repr(method).startswith(f"{type(method).__name__}(") and repr(method) == repr(make())
    assert isinstance(method, METHODS) != isinstance(method, DIRECT_METHODS)
    description = json.loads(json.dumps(describe(method)))
    again = rebuild(description)
    assert type(again) is type(method) and again == method and hash(again) == hash(method)
    assert describe(again) == description == describe(method)


@pytest.mark.parametrize("name", REGISTRY)
def test_result_says_what_was_run(name):
    result, entry = result_of(name), REGISTRY[name]
    assert result.method == describe(entry.make())
    assert result.num_samples == result.num_requested == COUNT and not result.partial
    low, high = result.interval()
    for side, limit in (("lower", low), ("upper", high)):
        has = side in entry.sides
        assert (getattr(result, side) is not None) == (getattr(result, f"{side}_se") is not None) == has
        assert np.isfinite(limit) == has
    assert (result.gap is not None) == (result.estimate is not None) == (entry.sides == BOTH)
    assert type(entry.make()).__name__ in repr(result)


@pytest.mark.parametrize("name", REGISTRY)
def test_same_key_same_numbers(name):
    again, other = run(name), run(name, rng_key=1)
    for side in REGISTRY[name].sides:
        terms = getattr(result_of(name), f"{side}_i")
        np.testing.assert_array_equal(getattr(again, f"{side}_i"), terms)
        assert not np.isin(getattr(other, f"{side}_i"), terms).any()


@pytest.mark.parametrize("name", REGISTRY)
def test_batch_size_does_not_matter(name):
    """Rounding flips an accept now and then; all else is equal."""
    found = run(name, batch_size=37)
    for side in REGISTRY[name].sides:
        terms = getattr(result_of(name), f"{side}_i")
        difference = np.abs(getattr(found, f"{side}_i") - terms)
        assert (difference < 1e-3).mean() >= 0.999
        assert difference.mean() < 0.01 * standard_error(terms)


@pytest.mark.parametrize("kind", ["with a likelihood", "without"])
def test_joint_draws_are_bit_equal_in_any_batch(kind):
    task = task_of(TASKS[0])
    model = joint_model(task.model, task.latent, task.data)
    staged = stage_model(model, decompose(model)) if kind == "with a likelihood" else stage_samples(model, True)
    key = jax.random.key(5)
    whole = jax.device_get(simulation.joint_draws(staged.draw, key, 300))
    for size in (1, 37, 300):
        found = [jax.device_get(block) for _, block in simulation.blocks(staged.draw, key, 300, size)]
        stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:300], *found)
        jax.tree.map(np.testing.assert_array_equal, stacked, whole)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * REGISTRY[name].twin) for name in REGISTRY]
)
def test_double_precision_agrees(name):
    with jax.enable_x64(True):
        double = run(name)
    single = result_of(name)
    for side in REGISTRY[name].sides:
        assert getattr(double, f"{side}_i").dtype == np.float64
        error = np.hypot(getattr(double, f"{side}_se"), getattr(single, f"{side}_se"))
        assert abs(getattr(double, side) - getattr(single, side)) <= 4 * error


def same(left, right):
    """Equality of plain data with arrays in it."""
    if isinstance(left, np.ndarray):
        return np.array_equal(left, right) and left.dtype == right.dtype
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.mark.parametrize("name", REGISTRY)
def test_saved_and_read_back(name, tmp_path):
    result = result_of(name)
    result.to_netcdf(tmp_path / "result.nc")
    found = MIBounds.from_netcdf(tmp_path / "result.nc")
    for field in dataclasses.fields(MIBounds):
        if field.name not in ("guides", "trained"):  # not saved
            assert same(getattr(result, field.name), getattr(found, field.name)), field.name
    assert repr(found) == repr(result)
    assert rebuild(found.method) == REGISTRY[name].make()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * entry.twin) for name, entry in REGISTRY.items() if entry.monotone],
)
def test_more_particles_tighten_both_sides(name):
    task = "gamma_exponential"
    method, few = REGISTRY[name].make(), result_of(name, task)
    many = run(name, task, method=dataclasses.replace(method, num_particles=8 * method.num_particles))
    for gain in (many.lower_i - few.lower_i, few.upper_i - many.upper_i):
        assert gain.mean() >= -4 * standard_error(gain)
    assert few.gap > 0.002 and many.gap < few.gap / 2
