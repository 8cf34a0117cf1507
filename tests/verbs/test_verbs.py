"""Information tables, designs and model evidence against closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import logsumexp

from numpyro_mi import (
    AIS,
    IR,
    IWAE,
    MINEAIS,
    BarberAgakov,
    EvidenceBounds,
    InfoNCE,
    InformationTable,
    MIBounds,
    StructuredInfoNCE,
    evidence_bounds,
    expected_information_gain,
    information_table,
    mi_bounds,
    runs,
    tasks,
)
from numpyro_mi.results.estimation import confidence_limit
from numpyro_mi.results.gain import InformationGain, worse

pytestmark = pytest.mark.compile_fast
QUIET = {"progress_bar": False}
NUM_PEOPLE = 10


def linear(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    w = numpyro.sample("w", dist.Normal(0, 0.5))
    numpyro.sample("aside", dist.Normal(0, 1))
    with numpyro.plate("N", 3):
        numpyro.sample("x", dist.Normal(z + w, 1), obs=x)


def log_ratio(prior_variance, noise_variance):
    """Half the log of the ratio of determinants for three observations of one sum."""
    return 0.5 * np.log((1 + 3 * (prior_variance + noise_variance)) / (1 + 3 * noise_variance))


@pytest.fixture(scope="module")
def table():
    return information_table(linear, "x", method=IWAE(num_particles=50), num_samples=2000, **QUIET)


class TestInformationTable:
    TRUTHS = {"z": log_ratio(1, 0.25), "w": log_ratio(0.25, 1), "aside": 0.0}

    def test_rows_hold_their_truths(self, table):
        assert set(table.rows) == set(self.TRUTHS) and list(table.rows)[0] == "z"
        frame = table.to_frame(0.99)
        for name, truth in self.TRUTHS.items():
            assert frame.loc[name, "low"] <= truth <= frame.loc[name, "high"]
        assert frame.loc["all latents", "low"] <= log_ratio(1.25, 0) <= frame.loc["all latents", "high"]
        assert (frame["upper"] - frame["lower"]).max() < 0.05

    def test_a_latent_that_says_nothing_is_exactly_zero(self, table):
        assert table.rows["aside"].lower == table.rows["aside"].upper == 0.0

    def test_rows_are_those_of_single_calls(self, table):
        """The same draws: paired with a run of its own, the bounds differ by their algorithmic noise alone."""
        alone = mi_bounds(linear, "z", "x", method=IWAE(num_particles=50), num_samples=2000, **QUIET)
        assert abs((table.rows["z"].lower_i - alone.lower_i).mean()) < 0.01

    def test_pieces_are_shared(self, table):
        integrals = {
            tuple(part["integrated"])
            for row in table.rows.values()
            for part in row.decomposition
            if part["kind"] == "integral"
        }
        assert integrals == {("z",), ("w",), ("z", "w")}
        # A table of one row costs two integrals, the joint one and one more.
        one = information_table(linear, "x", ["z"], method=AIS(5, 2), num_samples=50, **QUIET)
        assert set(one.rows) == {"z"} and one.cost["scored_forward"] > 0

    def test_intervals_hold_together_or_alone(self, table):
        frame, level = table.to_frame(0.9), 1 - 0.1 / 4
        assert (frame["level"] == level).all() and table.level(0.9) == level
        for name, result in table.results.items():
            assert tuple(frame.loc[name, ["low", "high"]]) == result.interval(level)
            assert tuple(frame.loc[name, ["marginal_low", "marginal_high"]]) == result.interval(0.9)
        text = repr(table)
        assert "Intervals hold for all 4 rows together with probability 95%, each at 98.75%." in text
        assert "98.75% interval" in text and text.splitlines()[-1].startswith("  Shares do not add to one")
        with pytest.raises(ValueError, match="a probability between 0 and 1, got 95"):
            table.to_frame(95)

    def test_shares(self, table):
        frame, joint = table.to_frame(), table.joint
        assert table.share("z") == (table.rows["z"].lower / joint.upper, table.rows["z"].upper / joint.lower)
        assert frame.loc["aside", "share_high"] == 0.0 and np.isnan(frame.loc["all latents", "share_low"])
        shares = frame["share_high"].drop("all latents")
        assert shares.sum() < 0.95  # z and w are told apart by nothing: alone, each says less than its part

    def test_rows_that_are_not_finite(self):
        """A row whose upper bound is infinite has a place by its lower one; its share may be all."""
        lost = MIBounds(np.ones(5), np.array([1.0, np.inf, 1, 1, 1]), ("lost",), ("x",), {})
        clear = MIBounds(np.full(5, 0.5), np.full(5, 0.6), ("clear",), ("x",), {})
        empty = MIBounds(np.zeros(5), np.zeros(5), ("empty",), ("x",), {})
        table = InformationTable({"empty": empty, "clear": clear, "lost": lost}, lost, {}, {})
        assert list(table.rows) == ["lost", "clear", "empty"]
        assert table.share("lost") == (0.0, 1.0) and table.share("clear") == (0.0, 0.6)
        assert "warning  not all terms of lost, all latents are finite" in repr(table)
        none = InformationTable({"empty": empty}, empty, {}, {})
        assert np.isnan(none.share("empty")).all() and "%" not in repr(none).splitlines()[2]

    def test_groups_make_rows(self):
        latents = {"both": ["z", "w"], "z alone": "z"}
        table = information_table(linear, "x", latents, method=IWAE(num_particles=10), num_samples=200, **QUIET)
        np.testing.assert_allclose(table.rows["both"].lower_i, table.joint.lower_i)
        assert "share of the joint" in repr(table) and "Shares do not add to one" in repr(table)

    @pytest.mark.parametrize(
        ("latents", "match"),
        [([], "at least one row"), ({"row": []}, "at least one site"), ({"all latents": "z"}, "name of the joint row")],
    )
    def test_rows_that_are_none(self, latents, match):
        with pytest.raises(ValueError, match=match):
            information_table(linear, "x", latents)

    def test_needs_a_likelihood(self):
        with pytest.raises(TypeError, match="method must be one of AIS.*None for AIS"):
            information_table(linear, "x", method=MINEAIS())


def ab_test(design, x=None):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), jnp.array([10.0, 1 / 0.55])).to_event(1))
    with numpyro.plate("people", NUM_PEOPLE):
        numpyro.sample("x", dist.Normal(design @ w, 1.0), obs=x)


def designs(counts):
    first = np.arange(NUM_PEOPLE) < np.array(counts)[:, None]
    return np.stack([first, ~first], axis=-1).astype(float)


@pytest.fixture(scope="module")
def gain():
    passed = {"design": designs(range(11))}
    return expected_information_gain(
        ab_test, passed, "w", "x", method=IWAE(num_particles=50), num_samples=10_000, **QUIET
    )


class TestDesigns:
    def test_all_designs_of_the_ab_test(self, gain):
        truths = [tasks.ab_test(n).mutual_information for n in range(11)]
        frame = gain.to_frame(0.99)
        assert ((frame["low"] <= truths) & (truths <= frame["high"])).all()
        assert (frame["upper"] - frame["lower"]).max() < 0.004
        assert gain.best()[0] == 5 == int(np.argmax(truths))

    def test_differences_are_paired(self, gain):
        """Of designs 5 and 4 the gains differ by .0249, which is far less than the error of either."""
        row = gain.differences(0.95).loc[(5, 4)]
        unpaired = np.hypot(gain.results[5].lower_se, gain.results[4].upper_se)
        assert row["lower"] > 3 * row["lower_se"] and row["lower_se"] < 0.5 * unpaired
        assert abs(row["lower"] - 0.0249) < 4 * row["lower_se"]

    def test_programs_are_shared(self, gain):
        assert all(
            result.seconds["compiling"] < 0.05 * gain.results[0].seconds["compiling"] for result in gain.results[2:]
        )

    def test_text(self, gain):
        text = repr(gain)
        assert "Expected information gain I(w; x) of 11 designs: 10,000 joint draws each" in text
        assert "design 5 has the highest bounds and is not separated from all others at 95%" in text

    def test_clear_cases_are_separated(self):
        passed = (designs([0, 5, 10]),)
        gain = expected_information_gain(ab_test, passed, "w", "x", method=IWAE(), num_samples=1000, **QUIET)
        assert gain.best() == (1, True)

    def test_an_infinite_upper_bound_ranks_by_the_lower_one(self):
        lost, known = np.full(200, np.inf), np.linspace(2.0, 2.2, 200)
        results = tuple(
            MIBounds(lower, upper, latent=("z",), data=("x",), method={})
            for lower, upper in ((known - 1, known), (known + 1, lost), (known, lost))
        )
        assert InformationGain((np.ones(3),), results, 3).best() == (1, False)
        assert worse(dict(enumerate(results)), 3, 1) == [0]

    def test_sizes_are_lists(self):
        def model(num_people):
            w = numpyro.sample("w", dist.Normal(0, 1))
            with numpyro.plate("people", num_people):
                numpyro.sample("x", dist.Normal(w, 1))

        sizes = {"num_people": [1, 4]}
        gain = expected_information_gain(model, sizes, "w", "x", method=IWAE(), num_samples=500, **QUIET)
        for result, size in zip(gain.results, (1, 4), strict=True):
            low, high = result.interval(0.99)
            assert low < 0.5 * np.log(1 + size) < high
        assert gain.num_programs == 2 and "2 programs: designs differ in shape" in repr(gain)

    def test_programs_are_counted(self):
        """An array of numbers goes into one program, a list of them makes one each."""

        def model(size, scale):
            w = numpyro.sample("w", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(w, scale).expand([size]).to_event(1))

        def run(**passed):
            return expected_information_gain(model, passed, "w", "x", method=IWAE(), num_samples=10, **QUIET)

        array = run(size=[1, 3, 1], scale=np.array([1.0, 2.0, 3.0]))
        assert array.num_programs == 2
        assert array.results[2].seconds["compiling"] < 0.1 * array.results[0].seconds["compiling"]
        assert run(size=[1, 3, 1], scale=[1.0, 2.0, 3.0]).num_programs == 3
        alike = run(size=[1, 1], scale=np.array([1.0, 2.0]))
        assert alike.num_programs == 1 and "program" not in repr(alike)

    @pytest.mark.parametrize(
        ("passed", "error", "match"),
        [
            ({"design": np.ones((1, 10, 2))}, ValueError, "at least two designs"),
            ({"a": np.ones(3), "b": np.ones(4)}, ValueError, "same leading axis.*'a': 3, 'b': 4"),
            ({"a": 1.0}, ValueError, "same leading axis"),
            (np.ones(3), TypeError, "dict of keyword arguments"),
            ({}, TypeError, "dict of keyword arguments"),
        ],
    )
    def test_designs_that_are_none(self, passed, error, match):
        with pytest.raises(error, match=match):
            expected_information_gain(ab_test, passed, "w", "x")

    @pytest.mark.parametrize(
        ("looks", "error", "match"),
        [
            (250, TypeError, "sequence of numbers of joint draws, such as .250, 500., got 250"),
            ((50,), ValueError, "each of looks must be an integer of at least 100, got 50"),
            ((500, 250), ValueError, "looks must increase and end below num_samples, 1000"),
            ((500, 1000), ValueError, "looks must increase and end below num_samples, 1000"),
        ],
    )
    def test_looks_that_are_none(self, looks, error, match):
        with pytest.raises(error, match=match):
            expected_information_gain(ab_test, {"design": designs([4, 5])}, "w", "x", looks=looks)


def simulator(dose, x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.deterministic("x", dose * z + jax.random.normal(numpyro.prng_key()))


DOSES = np.array([0.5, 1.0, 2.0])


def near(x, z):
    return -0.5 * (x[0] - z[0]) ** 2


@pytest.fixture(scope="module")
def lower_gain():
    options = {"method": InfoNCE(near, num_particles=100), "num_samples": 400, **QUIET}
    return expected_information_gain(simulator, {"dose": DOSES}, "z", "x", **options)


class TestLowerSideAlone:
    """Simulators without a likelihood: what each design gains at least, and not which is best."""

    TRUTHS = 0.5 * np.log(1 + DOSES**2)

    def test_bounds(self, lower_gain):
        frame = lower_gain.to_frame(0.99)
        assert lower_gain.one_sided and frame["upper"].isna().all() and np.isposinf(frame["high"]).all()
        assert (frame["low"] <= self.TRUTHS).all() and (frame["lower"] <= self.TRUTHS + 4 * frame["lower_se"]).all()
        assert frame.loc[1, "lower"] > 0.7 * self.TRUTHS[1] and lower_gain.num_programs == 1

    def test_no_design_is_best(self, lower_gain):
        with pytest.raises(ValueError, match="best.. needs both sides, and these are lower bounds alone"):
            lower_gain.best()
        with pytest.raises(ValueError, match="differences.. needs both sides.*give the data a density"):
            lower_gain.differences()
        text = repr(lower_gain)
        assert "  best" not in text and "dropped" not in text and " is separated" not in text
        assert text.splitlines()[-1].strip().startswith("these are lower bounds alone")

    def test_the_same_as_alone(self, lower_gain):
        alone = mi_bounds(
            simulator,
            "z",
            "x",
            method=InfoNCE(near, num_particles=100),
            num_samples=400,
            model_args=(jnp.asarray(1.0),),
            **QUIET,
        )
        np.testing.assert_allclose(lower_gain.results[1].lower_i, alone.lower_i, rtol=1e-4, atol=1e-4)

    def test_plot(self, lower_gain):
        from numpyro_mi import plot_information_gain

        plot_information_gain(lower_gain, backend="none")

    def test_refusals_end_the_search(self):
        passed = {"dose": DOSES}
        with pytest.raises(ValueError, match="looks=.200,. drop designs.*MINEAIS has no upper bound: leave looks out"):
            expected_information_gain(simulator, passed, "z", "x", looks=(200,), **QUIET)
        with pytest.raises(ValueError, match="AIS evaluates the density of every site, but that of 'x' does not exist"):
            expected_information_gain(simulator, passed, "z", "x", method=AIS(), **QUIET)

    @pytest.mark.slow
    def test_the_default(self):
        gain = expected_information_gain(simulator, {"dose": DOSES}, "z", "x", num_samples=300, **QUIET)
        assert (gain.to_frame(0.99)["low"] <= self.TRUTHS).all() and "by MINEAIS()" in repr(gain)


COUNTS, LOOKS = (0, 2, 4, 5), (120, 300)


def looked_at(looks):
    options = {"method": IWAE(num_particles=20), "num_samples": 600, **QUIET}
    return expected_information_gain(ab_test, (designs(COUNTS),), "w", "x", looks=looks, **options)


@pytest.fixture(scope="module")
def pruned():
    return looked_at(LOOKS)


@pytest.fixture(scope="module")
def whole():
    return looked_at(())


class TestLooks:
    def test_only_what_is_worse_is_dropped(self, pruned):
        truths = [tasks.ab_test(n).mutual_information for n in COUNTS]
        assert 0 in pruned.dropped and 3 not in pruned.dropped and pruned.best()[0] == 3
        assert all(truths[i] < max(truths) for i in pruned.dropped)
        assert pruned.results[0].num_samples == 120 and not pruned.results[0].partial

    def test_nothing_else_changes(self, pruned, whole):
        """The same draws and plans: results to the bit, those that are dropped up to where they are."""
        for found, wanted in zip(pruned.results, whole.results, strict=True):
            count = found.num_samples
            assert count in (*LOOKS, 600)
            np.testing.assert_array_equal(found.lower_i, wanted.lower_i[:count])
            np.testing.assert_array_equal(found.upper_i, wanted.upper_i[:count])
            assert found.guides and found.num_requested == count

    def test_levels_count_looks(self, pruned, whole):
        low, high = pruned.results[3].interval(1 - 0.05 / (4 * 3))
        row = pruned.to_frame(0.95).loc[3]
        assert (row["low"], row["high"], row["num_samples"]) == (low, high, 600)
        assert whole.to_frame(0.95).loc[3, "low"] == whole.results[3].interval(1 - 0.05 / 4)[0] > low
        first = [result.lower_i[:120] for result in pruned.results], [result.upper_i[:120] for result in pruned.results]
        row = pruned.differences(0.95).loc[(3, 0)]
        assert row["lower"] == pytest.approx((first[0][3] - first[1][0]).mean())
        assert row["low"] == confidence_limit(first[0][3] - first[1][0], -1, 1 - 0.05 / (6 * 3) / 2)
        reverse = pruned.differences(0.95).loc[(0, 3)]
        assert (reverse["low"], reverse["high"]) == pytest.approx((-row["high"], -row["low"]))

    def test_text(self, pruned, whole):
        assert "4 designs: 600 joint draws at most" in repr(pruned)
        assert "dropped after 120 draws" in repr(pruned) and "all designs and looks together" in repr(pruned)
        assert "dropped" not in repr(whole) and "all designs together" in repr(whole)

    def test_what_is_dropped_is_separated(self):
        """At the level of dropping, that is: beyond it, only if what it kept says so."""
        first, noise = np.random.default_rng(0).standard_normal((2, 200))
        noise = noise[:100] - noise[:100].mean()
        terms = (first, first[:100] - 0.15 + noise / noise.std(ddof=1))  # 1.5 standard errors apart
        better, other = (MIBounds(own, own, ("z",), ("x",), {}) for own in terms)
        gain = InformationGain((np.ones(2),), (better, other), 2, 200, (100,), (1,))
        assert gain.best(0.95) == (0, True) and gain.best(0.9999) == (0, False)
        kept = dataclasses.replace(gain, dropped=())
        assert kept.best(0.95) == (0, False)

    def test_interrupted_at_a_look(self, monkeypatch, pruned):
        """What is complete stays, up to the last look that each design has reached."""
        calls, run = [], runs.evidence.run

        def interrupted(*args):
            calls.append(args)
            if len(calls) == 4 + 2:
                raise KeyboardInterrupt
            return run(*args)

        monkeypatch.setattr(runs.evidence, "run", interrupted)
        gain = looked_at(LOOKS)
        left = [i for i in range(4) if pruned.results[i].num_samples > 120]
        assert [gain.results[i].num_samples for i in left] == [300, *[120] * (len(left) - 1)]
        assert f"interrupted  {len(left)} designs have 120 draws or more" in repr(gain)
        np.testing.assert_array_equal(gain.results[left[0]].lower_i, pruned.results[left[0]].lower_i[:300])

    def test_the_best_is_rarely_dropped(self):
        """Of five designs that are all equal, looked at four times, each is dropped in at most 5 % of the runs."""
        rng, looks, lost = np.random.default_rng(1), (100, 200, 400), 0
        for _ in range(300):
            terms = rng.standard_normal((5, 400)) + 0.5 * rng.standard_normal(400)
            left = dict(enumerate(terms))
            for look in looks:
                made = {i: MIBounds(own[:look], own[:look], ("z",), ("x",), {}) for i, own in left.items()}
                left = {i: own for i, own in left.items() if i not in worse(made, 5, len(looks) + 1)}
            lost += 0 not in left
        assert lost / 300 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


class TestEvidence:
    X = jnp.array([0.3, -1.0, 0.4])

    @staticmethod
    def truth(x):
        return dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3) + 1.25).log_prob(x)

    @pytest.mark.parametrize("method", [IWAE(num_particles=50), AIS(50, 4)], ids=["IWAE", "AIS"])
    def test_of_a_normal_model(self, method):
        result = evidence_bounds(linear, "x", model_args=(self.X,), method=method, num_samples=1000, **QUIET)
        low, high = result.interval(0.99)
        entropy = dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3) + 1.25).entropy()
        assert low < -entropy < high and result.gap < 0.1
        truth = float(self.truth(self.X))
        assert result.observed < truth + 4 * result.observed_se and abs(result.observed - truth) < 0.05
        assert result.limit(0.95) < truth
        assert result.reliability()[0.5] <= result.reliability()[1.0]
        assert "32 replicates, which lies below log p(x)" in repr(result)

    def test_observed_data_may_be_passed_or_missing(self):
        options = {"method": BarberAgakov(), "num_samples": 50, **QUIET}
        passed = evidence_bounds(linear, "x", observed={"x": self.X}, **options)
        called = evidence_bounds(linear, "x", model_args=(self.X,), **options)
        np.testing.assert_array_equal(passed.observed_i, called.observed_i)
        without = evidence_bounds(linear, "x", **options)
        assert without.observed is None and "replicates" not in repr(without)
        with pytest.raises(ValueError, match="called without its data"):
            without.limit()

    def test_weights_of_zero_are_kept(self):
        """Half of the data sets and more lose all their chains; nothing of that is NaN, and the limit holds."""
        task = tasks.uniform_noise()
        options = {"method": AIS(5, 2), "num_samples": 100, "num_replicates": 8, **QUIET}
        result = evidence_bounds(task.model, "x", observed={"x": jnp.array(0.3)}, **options)
        assert result.lower == -np.inf and np.isfinite(result.upper)
        assert result.reliability() == {0.5: np.inf, 0.9: np.inf, 1.0: np.inf}
        assert result.observed == -np.inf and result.limit(0.9) < task.log_marginal({"x": 0.3})
        assert "nan" not in repr(result)

    def test_weights_that_are_not_a_number_are_none(self, monkeypatch):
        monkeypatch.setattr("numpyro_mi.verbs.evidence_bounds.replicates", lambda *_: [np.array([np.nan, -2.0])])
        result = evidence_bounds(linear, "x", observed={"x": self.X}, method=IWAE(), num_samples=50, num_replicates=2)
        np.testing.assert_array_equal(result.observed_i, [-np.inf, -2.0])

    def test_quantiles_of_the_gap_are_gaps(self):
        upper = np.array([1.0, 3.0, np.inf])
        assert EvidenceBounds(np.zeros(3), upper, ("x",)).reliability() == {0.5: 3.0, 0.9: np.inf, 1.0: np.inf}

    def test_of_a_mixture_is_exact(self):
        def mixture(x=None):
            k = numpyro.sample("k", dist.Categorical(jnp.array([0.3, 0.7])))
            numpyro.sample("x", dist.Normal(3.0 * k, 1), obs=x)

        result = evidence_bounds(mixture, "x", model_args=(1.0,), num_samples=50, **QUIET)
        truth = logsumexp(jnp.log(jnp.array([0.3, 0.7])) + dist.Normal(jnp.array([0.0, 3.0]), 1).log_prob(1.0))
        np.testing.assert_allclose(result.observed_i, truth, rtol=1e-6)
        assert (result.lower_i == result.upper_i).all()

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"observed": {"y": 1.0}}, "observed must map each data site.*got .'y'."),
            ({"observed": {"x": 1.0}}, r"observed holds 'x' with shape \(\), but one draw of it has shape \(3,\)"),
            ({"num_replicates": 1}, "num_replicates must be an integer of at least 2"),
            (
                {"model_args": (X,), "method": AIS(scheme=IR(lambda key, data: {}))},
                "observed data have none of: use IM",
            ),
        ],
    )
    def test_refusals(self, options, match):
        with pytest.raises(ValueError, match=match):
            evidence_bounds(linear, "x", **options)

    def test_both_sides_on_the_same_data_sets(self):
        """On simulated data sets, mean lower <= mean exact <= mean upper, within paired errors."""
        result = evidence_bounds(linear, "x", method=StructuredInfoNCE(20), num_samples=500, **QUIET)
        from numpyro_mi.draws.keys import Role, role_key
        from numpyro_mi.draws.simulation import joint_draws
        from numpyro_mi.model.integrals.decomposition import evidence
        from numpyro_mi.model.integrals.densities import stage_model
        from numpyro_mi.model.joint.trace import joint_model

        joint = joint_model(linear, ["z", "w", "aside"], "x")
        draw = stage_model(joint, evidence(joint)).draw
        draws = joint_draws(draw, role_key(jax.random.key(0), Role.JOINT), 500)
        exact = np.asarray(self.truth(draws.values["x"]), np.float64)
        for above in (exact - result.lower_i, result.upper_i - exact):
            assert above.mean() > -4 * above.std(ddof=1) / np.sqrt(above.size)
