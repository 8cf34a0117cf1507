"""Rows that depend on a few discrete sites alone are summed over all values of these: nothing is sampled."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import sample
from numpyro.contrib.control_flow import scan

import numpyro_mi.runs.evidence
from numpyro_mi import (
    AIS,
    IWAE,
    InfoNCE,
    InformationTable,
    MIBounds,
    StructuredInfoNCE,
    evidence_bounds,
    expected_information_gain,
    information_table,
    mi_bounds,
    plot_bounds,
    plot_information_gain,
    tasks,
)
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.exact import MOST_CONFIGURATIONS, exact_tables
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.results.files.datatree import from_datatree
from numpyro_mi.results.text.report import report, verdict, warnings_of
from numpyro_mi.verbs.compare import compare

pytestmark = pytest.mark.compile_fast

ACCURACY = 1e-5  # nats, in single precision


def information(joint):
    """Mutual information of the axes of a table."""
    joint = np.asarray(joint, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = joint * np.log(joint / (joint.sum(0, keepdims=True) * joint.sum(1, keepdims=True)))
    return float(np.nansum(terms))


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log1p(-p)


def channel(flip, x=None):
    z = sample("z", dist.Bernoulli(0.5))
    sample("x", dist.Bernoulli(jnp.where(z == 1, 1 - flip, flip)), obs=x)


def of_channel(flip):
    return math.log(2) - entropy(flip)


def counts(total, probs, x=None):
    z = sample("z", dist.Bernoulli(0.4))
    sample("x", dist.Binomial(total, jnp.asarray(probs)[z]), obs=x)


def of_counts(total, probs):
    from scipy.stats import binom

    return information(np.array([[0.6], [0.4]]) * [binom.pmf(np.arange(total + 1), total, p) for p in probs])


DOSES = np.linspace(0.1, 2.0, 12)


def trials(doses, y=None):
    level = sample("level", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    with numpyro.plate("trials", len(doses)):
        sample("y", dist.Bernoulli(logits=(level - 1.0) * doses), obs=y)


def of_trials(doses):
    outcomes = np.array(list(itertools.product((0, 1), repeat=len(doses))))
    likelihoods = [np.prod(1 / (1 + np.exp(-(2 * outcomes - 1) * (z - 1) * doses)), axis=1) for z in range(3)]
    return information(np.array([[0.2], [0.5], [0.3]]) * likelihoods)


def impossible(x=None):
    """A state that never occurs, whose own data have no density."""
    z = sample("z", dist.Categorical(jnp.array([0.5, 0.5, 0.0])))
    sample("x", dist.Categorical(jnp.array([[1.0, 0.0], [0.5, 0.5], [jnp.nan, jnp.nan]])[z]), obs=x)


def copied(x=None):
    z = sample("z", dist.DiscreteUniform(2, 9))
    sample("x", dist.Categorical(probs=jnp.eye(8)[z - 2]), obs=x)


def nuisance_in_plate(x=None):
    z = sample("z", dist.Bernoulli(0.5))
    with numpyro.plate("items", 6):
        k = sample("k", dist.Bernoulli(0.3))
        sample("x", dist.Bernoulli(0.1 + 0.4 * z + 0.4 * k), obs=x)


def of_nuisance_in_plate():
    rates = [0.7 * (0.1 + 0.4 * z) + 0.3 * (0.5 + 0.4 * z) for z in (0, 1)]
    likelihoods = [[math.comb(6, c) * r**c * (1 - r) ** (6 - c) for c in range(7)] for r in rates]
    return information(0.5 * np.array(likelihoods))


def switched(x=None):
    """c decides whether x says anything of z."""
    c = sample("c", dist.Bernoulli(0.3))
    z = sample("z", dist.Bernoulli(0.5))
    sample("x", dist.Bernoulli(jnp.where(c == 1, jnp.where(z == 1, 0.9, 0.2), 0.5)), obs=x)


def with_continuous_condition(x=None):
    c = sample("c", dist.Beta(2.0, 2.0))
    z = sample("z", dist.Bernoulli(c))
    sample("x", dist.Bernoulli(jnp.where(z == 1, 0.9, 0.2)), obs=x)


OF_SWITCHED = entropy(0.55) - 0.5 * (entropy(0.9) + entropy(0.2))
CASES = {  # model, its arguments, groups, joint values, truth
    "rare_flips": (channel, (1e-4,), ("z", "x"), 4, of_channel(1e-4)),
    "rarer_flips": (channel, (1e-7,), ("x", "z"), 4, of_channel(1e-7)),
    "counts": (counts, (20, (0.3, 0.6)), ("z", "x"), 42, of_counts(20, (0.3, 0.6))),
    "many_counts": (counts, (1000, (0.3, 0.31)), ("z", "x"), 2002, of_counts(1000, (0.3, 0.31))),
    "trials": (trials, (jnp.asarray(DOSES),), ("level", "y"), 3 * 4096, of_trials(DOSES)),
    "impossible": (impossible, (), ("z", "x"), 6, entropy(0.25) - 0.5 * math.log(2)),
    "copied": (copied, (), ("z", "x"), 64, math.log(8)),
    "nuisance_in_plate": (nuisance_in_plate, (), ("z", "x"), 128, of_nuisance_in_plate()),
    "averaged": (switched, (), ("z", "x", "c"), 8, 0.3 * OF_SWITCHED),
    "held": (switched, (), ("z", "x", {"c": 1}), 4, OF_SWITCHED),
    "held_where_nothing_is_said": (switched, (), ("z", "x", {"c": 0}), 4, 0.0),
    "held_continuous": (with_continuous_condition, (), ("z", "x", {"c": 0.5}), 4, OF_SWITCHED),
}


@pytest.mark.parametrize(("model", "args", "groups", "count", "truth"), CASES.values(), ids=CASES)
def test_closed_forms(model, args, groups, count, truth):
    result = mi_bounds(model, *groups, model_args=args, num_samples=50, progress_bar=False)
    assert abs(result.lower - truth) < ACCURACY
    assert len(result.lower_i) == len(result.upper_i) == 50
    assert (result.lower_i == result.lower).all() and (result.upper_i == result.lower).all()
    assert (result.lower_se, result.upper_se, result.gap, result.gap_se) == (0.0, 0.0, 0.0, 0.0)
    low, high = result.interval(0.999)
    assert low <= truth <= high and high - low < 4 * ACCURACY
    assert result.num_configurations == count and result.stats == ()
    assert verdict(result) == "exact." and warnings_of(result) == []
    assert f"exact, a sum over {count:,} joint values" in repr(result)
    assert len(result.notes) == 1 and f"summed over all {count:,} joint values of" in result.notes[0]


@pytest.mark.parametrize("task", [tasks.binary_channel(), tasks.hidden_markov()], ids=lambda task: task.name)
def test_tasks(task):
    result = mi_bounds(task.model, task.latent, task.data, progress_bar=False)
    assert abs(result.lower - task.mutual_information) < ACCURACY and result.num_configurations


def network(seed, num_sites=5):
    """Binary sites, each with a table of its own over up to three of those before it; and their joint table."""
    rng = np.random.default_rng(seed)
    names = "abcde"[:num_sites]
    parents = {name: sorted(rng.permutation(list(names[:i]))[: rng.integers(1, 4)]) for i, name in enumerate(names)}
    tables = {name: rng.beta(0.5, 0.5, (2,) * len(parents[name])) for name in names}

    def model():
        values = {}
        for name in names:
            at = tuple(values[parent] for parent in parents[name])
            values[name] = sample(name, dist.Bernoulli(jnp.asarray(tables[name], float)[at]))

    joint = np.ones((2,) * num_sites)
    for values in itertools.product((0, 1), repeat=num_sites):
        at = dict(zip(names, values, strict=True))
        for name in names:
            p = tables[name][tuple(at[parent] for parent in parents[name])]
            joint[values] *= p if at[name] else 1 - p
    return model, names, joint


def conditional_information(joint, names, groups):
    """I(A; B | C) of a table with one axis a site, by entropies."""

    def minus_entropy(kept):
        left = joint.sum(tuple(i for i, name in enumerate(names) if name not in kept))
        return float((left[left > 0] * np.log(left[left > 0])).sum())

    a, b, c = map(set, groups)
    return minus_entropy(a | b | c) + minus_entropy(c) - minus_entropy(a | c) - minus_entropy(b | c)


@pytest.mark.parametrize(
    ("seed", "groups"),
    [(0, ("a", "e", "")), (1, ("b", "de", "")), (2, ("e", "a", "c")), (3, ("ac", "d", "e")), (4, ("d", "b", "ae"))],
)
def test_networks_of_binary_sites(seed, groups):
    model, names, joint = network(seed)
    result = mi_bounds(model, *(list(group) for group in groups), num_samples=2, progress_bar=False)
    assert abs(result.lower - conditional_information(joint, names, groups)) < ACCURACY
    assert result.num_configurations or result.lower == 0.0


def test_nothing_is_sampled():
    """Neither the key nor the number of draws matters to the value."""
    options = {"model_args": (1e-3,), "progress_bar": False}
    first = mi_bounds(channel, "z", "x", num_samples=2, rng_key=1, **options)
    second = mi_bounds(channel, "z", "x", num_samples=1000, rng_key=2, method=IWAE(num_particles=3), **options)
    assert first.lower == second.lower and first.interval() == second.interval(0.5) and len(second.lower_i) == 1000
    assert not second.partial and second.cost == {}


def test_double_precision():
    with jax.enable_x64(True):
        result = mi_bounds(channel, "z", "x", model_args=(1e-4,), num_samples=2, progress_bar=False)
    assert abs(result.lower - of_channel(1e-4)) < 1e-14


class Unnormalised(dist.BernoulliProbs):
    def log_prob(self, value, *args):
        return super().log_prob(value) + 0.01


class Shortened(dist.CategoricalProbs):
    def enumerate_support(self, expand=True):
        return super().enumerate_support(expand=False)[:-1]


def observed_by(cls, probs):
    def model(x=None):
        z = sample("z", dist.Bernoulli(0.3))
        sample("x", cls(probs=jnp.asarray(probs, float)[z]), obs=x)

    return model


REFUSED = {
    "unnormalised": (observed_by(Unnormalised, [0.2, 0.6]), r"all 4 joint values of 'z', 'x' sum to 1\.01005, and not"),
    "rarely shortened": (
        observed_by(Shortened, [[0.4, 0.6 - 8e-5, 8e-5], [0.4, 0.6, 0.0]]),
        r"'z', 'x' sum to 0\.99994.*, and not to 1|of another element of the plate",
    ),
    "shortened": (observed_by(Shortened, [[0.2, 0.8, 0.0], [0.3, 0.3, 0.4]]), r"'z', 'x' sum to 0\.88, and not to 1"),
}


@pytest.mark.parametrize(("model", "match"), REFUSED.values(), ids=REFUSED)
def test_probabilities_that_do_not_sum_to_one(model, match):
    with pytest.raises(ValueError, match=match):
        mi_bounds(model, "z", "x", progress_bar=False)


def test_a_density_that_is_not_a_number_where_no_pilot_draw_is():
    def model(x=None):
        z = sample("z", dist.Bernoulli(1e-6))
        sample("x", dist.Bernoulli(jnp.where(z == 1, jnp.nan, 0.3)), obs=x)

    with pytest.raises(ValueError, match="NaN or infinite at 2 of the 4 joint values of 'z', 'x', without"):
        mi_bounds(model, "z", "x", progress_bar=False)


def test_a_parameter_that_is_not_allowed_where_no_pilot_draw_is():
    def model(x=None):
        z = sample("z", dist.Bernoulli(1e-6))
        sample("x", dist.Bernoulli(probs=jnp.where(z == 1, 1.3, 0.3)), obs=x)

    with pytest.raises(ValueError, match="NaN or infinite at .* of the 4 joint values of 'z', 'x', without"):
        mi_bounds(model, "z", "x", progress_bar=False)


def tables_of(model, *groups, args=()):
    joint = joint_model(model, *groups[:2], args, None, None, *groups[2:])
    return exact_tables(joint, [decompose(joint)])


def with_continuous_nuisance(x=None):
    z = sample("z", dist.Bernoulli(0.5))
    w = sample("w", dist.Normal(0, 1))
    sample("x", dist.Bernoulli(logits=z + w), obs=x)


def with_continuous_data(x=None):
    z = sample("z", dist.Bernoulli(0.5))
    sample("x", dist.Normal(z, 1.0), obs=x)


def with_total_of_its_own(x=None):
    z = sample("z", dist.DiscreteUniform(1, 5))
    sample("x", dist.Binomial(z, 0.5), obs=x)


def without_end(x=None):
    z = sample("z", dist.Bernoulli(0.5))
    sample("x", dist.Poisson(1.0 + z), obs=x)


NOT_SUMMED = {
    "continuous_nuisance": (with_continuous_nuisance, "z", "x"),
    "continuous_data": (with_continuous_data, "z", "x"),
    "continuous_condition": (with_continuous_condition, "z", "x", "c"),
    "support_that_moves": (with_total_of_its_own, "z", "x"),
    "no_end": (without_end, "z", "x"),
}


@pytest.mark.parametrize("case", NOT_SUMMED.values(), ids=NOT_SUMMED)
def test_what_is_no_finite_sum_is_sampled(case):
    assert tables_of(*case) == []


def test_too_many_values_are_sampled():
    (table,) = tables_of(trials, "level", "y", args=(jnp.asarray(DOSES),))
    assert table.count() == 3 * 2**12 <= MOST_CONFIGURATIONS
    assert tables_of(trials, "level", "y", args=(jnp.ones(13),)) == []

    def at_the_limit(x=None):
        z = sample("z", dist.DiscreteUniform(0, 3))
        sample("x", dist.Bernoulli(0.1 + 0.2 * z).expand([12]).to_event(1), obs=x)

    (table,) = tables_of(at_the_limit, "z", "x")
    assert table.count() == MOST_CONFIGURATIONS == 2**14
    assert tables_of(trials, "level", "y", args=(jnp.ones(100_000),)) == []


def test_continuous_parts_that_do_not_matter():
    """w is above neither z nor x, so that nothing of it is needed."""

    def model(x=None):
        z = sample("z", dist.Bernoulli(0.5))
        sample("x", dist.Bernoulli(jnp.where(z == 1, 0.9, 0.2)), obs=x)
        sample("w", dist.Normal(z, 1.0))

    (table,) = tables_of(model, "z", "x")
    assert table.sites == ("z", "x")
    assert tables_of(model, "z", ["x", "w"]) == []


def test_a_chain_is_summed_over_its_hidden_states():
    """A table of z and x alone: the states are summed inside."""
    task = tasks.hidden_markov(10)
    (table,) = tables_of(task.model, task.latent, task.data)
    assert table.sites == ("z", "x") and table.count() == 2**11


def test_values_that_are_held_in_the_wrong_place():
    """All probabilities sum to one here, and still it is refused."""

    def model(x=None):
        def step(before, value):
            h = sample("h", dist.Bernoulli(jnp.where(before == 1, 0.9, 0.2)))
            sample("x", dist.Bernoulli(jnp.where(h == 1, 0.8, 0.3)), obs=value)
            return h, None

        scan(step, jnp.zeros((), jnp.result_type(int)), x, length=3, reverse=True)

    with pytest.raises(ValueError, match="inside scan.*reverse=True.*scan forwards over the flipped sequence"):
        mi_bounds(model, "h", "x", progress_bar=False)


def two_pairs(x=None, y=None):
    """z is seen through x, which is discrete, and w through y, which is not."""
    z = sample("z", dist.Bernoulli(0.3))
    w = sample("w", dist.Normal(0, 1))
    sample("x", dist.Bernoulli(jnp.where(z == 1, 0.9, 0.1)), obs=x)
    sample("y", dist.Normal(w, 1.0), obs=y)


def items(x=None):
    with numpyro.plate("items", 3):
        z = sample("z", dist.Bernoulli(jnp.array([0.2, 0.5, 0.7])))
    c = sample("c", dist.Bernoulli(0.5))
    sample("x", dist.Bernoulli(logits=z @ jnp.array([1.0, -2.0, 3.0]) - c), obs=x)


def of_items(kept):
    """Of some of z[0], z[1], z[2], c, from the table of all and x."""
    joint = np.zeros((2,) * 5)
    for *z, c, x in itertools.product((0, 1), repeat=5):
        p = np.prod([q if on else 1 - q for on, q in zip(z, (0.2, 0.5, 0.7), strict=True)])
        joint[(*z, c, x)] = 0.5 * p / (1 + math.exp(-(2 * x - 1) * (z[0] - 2 * z[1] + 3 * z[2] - c)))
    left = joint.sum(tuple(i for i in range(4) if i not in kept))
    return information(left.reshape(-1, 2))


class TestTable:
    def test_rows_that_are_summed_beside_rows_that_are_sampled(self, monkeypatch):
        options = {"method": IWAE(num_particles=10), "num_samples": 100, "progress_bar": False}
        table = information_table(two_pairs, ["x", "y"], ["z", "w"], **options)
        truth = information([[0.7 * 0.9, 0.7 * 0.1], [0.3 * 0.1, 0.3 * 0.9]])
        assert abs(table.rows["z"].lower - truth) < ACCURACY and table.rows["z"].num_configurations == 4
        assert table.rows["w"].num_configurations == table.joint.num_configurations == 0
        assert "exact  z: summed over all values, without sampling error." in repr(table)
        assert "100 joint draws" in repr(table)
        # What is sampled is what it is where nothing is summed.
        monkeypatch.setattr(numpyro_mi.runs.evidence, "exact_tables", lambda model, rows: [])
        sampled = information_table(two_pairs, ["x", "y"], ["z", "w"], **options)
        for name in ("w", "all latents"):
            for side in ("lower_i", "upper_i"):
                np.testing.assert_array_equal(getattr(table.results[name], side), getattr(sampled.results[name], side))
        assert sampled.rows["z"].lower_se > 0
        assert abs(sampled.rows["z"].lower - truth) < 4 * sampled.rows["z"].lower_se

    def test_elements(self):
        table = information_table(items, "x", elements="z", num_samples=2, progress_bar=False)
        kept = {"z": [0, 1, 2], "c": [3], "z[0]": [0], "z[1]": [1], "z[2]": [2], "all latents": [0, 1, 2, 3]}
        assert set(table.results) == set(kept)
        for name, result in table.results.items():
            assert abs(result.lower - of_items(kept[name])) < ACCURACY and result.num_configurations
            low, high = result.interval(table.level())
            assert low < of_items(kept[name]) < high < low + 4 * ACCURACY
        assert "Information about each latent in x: exact, nats" in repr(table)
        assert list(table.to_frame().index)[-1] == "all latents"

    def test_one_program_for_all_rows(self):
        joint = joint_model(items, ["z", "c"], "x")
        rows = [decompose(dataclasses.replace(joint, latent=group)) for group in (("z", "c"), ("z",), ("c",))]
        (table,) = exact_tables(joint, rows)
        assert sorted(table.rows) == [0, 1, 2] and table.sites == ("z", "c", "x")

    def test_rows_alike_up_to_rounding_keep_their_order(self):
        def made(value):
            return MIBounds(np.full(2, value), np.full(2, value), latent=("z",), data=("x",), method={})

        values = {"b": 0.1, "a": 0.1 + 1e-8, "d": 0.1 - 1e-8, "c": 0.2}
        table = InformationTable({name: made(value) for name, value in values.items()}, made(0.3), {}, {})
        assert list(table.rows) == ["c", "b", "a", "d"]


class TestGains:
    DESIGNS = {"flip": jnp.array([0.1, 0.01, 0.3, 0.01])}

    @pytest.mark.parametrize("looks", [(), (100, 200)])
    def test_designs(self, looks):
        gain = expected_information_gain(channel, self.DESIGNS, "z", "x", looks=looks, progress_bar=False)
        for flip, result in zip(self.DESIGNS["flip"], gain.results, strict=True):
            assert abs(result.lower - of_channel(float(flip))) < ACCURACY
        assert gain.best()[0] in (1, 3) and not gain.best()[1]  # which are the same
        assert gain.dropped == ((0, 2) if looks else ())
        assert "of 4 designs: exact" in repr(gain) and repr(gain).count("  note") == 1
        assert (gain.to_frame()[["lower_se", "upper_se"]] == 0).all(axis=None)
        assert (gain.differences()["high"] - gain.differences()["low"] < 8 * ACCURACY).all()
        plot_information_gain(gain, backend="none")

    def test_the_best_is_separated_by_more_than_rounding(self):
        designs = {"flip": jnp.array([0.2, 0.1])}
        gain = expected_information_gain(channel, designs, "z", "x", num_samples=2, progress_bar=False)
        assert gain.best(0.999) == (1, True)

        def padded(shift, x=None):
            """The same up to rounding, whatever the shift."""
            z = sample("z", dist.Bernoulli(0.5))
            sample("x", dist.Bernoulli(logits=(3.0 + shift - shift) * (2 * z - 1)), obs=x)

        shifts = {"shift": jnp.array([0.0, 3.3])}
        alike = expected_information_gain(padded, shifts, "z", "x", num_samples=2, progress_bar=False)
        assert not alike.best()[1]


def test_evidence_is_of_single_data_sets():
    def model(x=None):
        z = sample("z", dist.Bernoulli(0.3))
        sample("x", dist.Bernoulli(jnp.where(z == 1, 0.9, 0.2)), obs=x)

    result = evidence_bounds(model, "x", num_samples=200, progress_bar=False)
    probs = np.array([0.59, 0.41])
    assert set(np.round(np.exp(result.lower_i), 4)) == set(probs)
    assert abs(result.lower + entropy(0.41)) < 4 * result.lower_se and result.lower_se > 0


@pytest.fixture(scope="module")
def exact():
    return mi_bounds(channel, "z", "x", model_args=(0.01,), num_samples=200, progress_bar=False)


@pytest.fixture(scope="module")
def contrastive():
    method = InfoNCE(lambda x, z: jnp.where(x[0] == z[0], jnp.log(0.99), jnp.log(0.01)), 20)
    return mi_bounds(channel, "z", "x", model_args=(0.01,), method=method, num_samples=200, progress_bar=False)


class TestResult:
    def test_round_trip(self, exact, tmp_path):
        exact.to_netcdf(tmp_path / "exact.nc")
        again = MIBounds.from_netcdf(tmp_path / "exact.nc")
        assert report(again) == report(exact) and again.num_configurations == 4
        np.testing.assert_array_equal(again.lower_i, exact.lower_i)

    def test_files_without_the_field(self, exact):
        """Those of earlier versions."""
        tree = exact.to_datatree()
        record = json.loads(tree.attrs["numpyro_mi"])
        del record["num_configurations"]
        tree.attrs["numpyro_mi"] = json.dumps(record)
        assert from_datatree(tree).num_configurations == 0

    def test_tables_and_plots(self, exact):
        assert exact.summary().loc["lower", "se"] == 0
        assert (exact.to_frame() == exact.lower).all(axis=None)
        plot_bounds(exact, backend="none")
        plot_bounds({"one": exact, "other": exact}, true_value=of_channel(0.01), backend="none")

    def test_differences(self, exact, contrastive):
        other = mi_bounds(channel, "z", "x", model_args=(0.1,), num_samples=200, progress_bar=False)
        difference = exact - other
        low, high = difference.interval()
        assert difference.exact and low < of_channel(0.01) - of_channel(0.1) < high < low + 8 * ACCURACY
        assert difference.lower == difference.upper == exact.lower - other.lower
        assert repr(difference).startswith("Difference of mutual information: exact\n")
        assert "warning" not in repr(difference)
        plot_bounds({"difference": difference}, backend="none")
        beyond = exact - contrastive
        assert not beyond.exact and beyond.upper_se == pytest.approx(contrastive.lower_se) and beyond.lower is None

    def test_comparison(self, exact, contrastive):
        found = compare({"exact": exact, "contrastive": contrastive})
        assert found.interval() == exact.interval()
        row = found.differences().loc[("contrastive", "exact", "lower")]
        assert row["se"] == pytest.approx(contrastive.lower_se) and row["simultaneous_high"] > row["simultaneous_low"]
        methods = {"AIS": AIS(20), "StructuredInfoNCE": StructuredInfoNCE(2)}
        same = compare(methods, channel, "z", "x", model_args=(0.01,), num_samples=200, progress_bar=False)
        assert same.interval() == exact.interval() and "warning" not in repr(same)
        plot_bounds(same, backend="none")
