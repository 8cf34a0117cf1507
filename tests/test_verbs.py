"""Information tables, designs and model evidence against closed forms."""

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
    InfoNCE,
    InformationTable,
    MIBounds,
    StructuredInfoNCE,
    evidence_bounds,
    expected_information_gain,
    information_table,
    mi_bounds,
    tasks,
)

pytestmark = pytest.mark.usefixtures("compile_fast")
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

    def test_needs_both_sides(self):
        method, passed = InfoNCE(lambda x, z: -x @ x, num_particles=5), {"design": designs([4, 5])}
        with pytest.raises(ValueError, match="needs both sides"):
            expected_information_gain(ab_test, passed, "w", "x", method=method, num_samples=10, **QUIET)


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
        from numpyro_mi.decomposition import evidence
        from numpyro_mi.keys import Role, role_key
        from numpyro_mi.model.densities import stage_model
        from numpyro_mi.model.trace import joint_model
        from numpyro_mi.simulation import joint_draws

        joint = joint_model(linear, ["z", "w", "aside"], "x")
        draw = stage_model(joint, evidence(joint)).draw
        draws = joint_draws(draw, role_key(jax.random.key(0), Role.JOINT), 500)
        exact = np.asarray(self.truth(draws.values["x"]), np.float64)
        for above in (exact - result.lower_i, result.upper_i - exact):
            assert above.mean() > -4 * above.std(ddof=1) / np.sqrt(above.size)
