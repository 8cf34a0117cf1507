"""Warnings that a method's own numbers give away."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi import (
    GIWAE,
    IWAE,
    MINE,
    BarberAgakov,
    EvidenceBounds,
    GuideFunction,
    InfoNCE,
    InformationGain,
    InformationTable,
    LaplaceGuide,
    MIBounds,
    RegressionGuide,
    StructuredInfoNCE,
    mi_bounds,
    tasks,
)
from numpyro_mi.direct.contrastive import MINEScorer, cap_and_normaliser
from numpyro_mi.direct.critics import FixedCritic
from numpyro_mi.results.estimation import PILOT_ROWS, num_pilot_negatives, variational_limit
from numpyro_mi.results.text import diagnostics
from numpyro_mi.results.text.diagnostics import method_warnings
from numpyro_mi.results.text.report import warnings_of

pytestmark = pytest.mark.compile_fast


def linear10(method, num_samples=300):
    task = tasks.linear10()
    return mi_bounds(task.model, task.latent, task.data, method=method, num_samples=num_samples)


def weak(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(z, 2.0), obs=x)


def density_ratio(x, z):
    """Optimal at any number of negatives: the log-likelihood of `linear10`, up to a function of x."""
    r = np.random.default_rng(0)
    gain = 1.0766816 * jnp.asarray(r.standard_normal((100, 10)), jnp.float32)
    return -0.5 * ((x - gain @ z) ** 2).sum()


@pytest.mark.parametrize("method", [StructuredInfoNCE(50), InfoNCE(density_ratio, 50)])
def test_a_contrastive_bound_near_its_cap(method):
    found = method_warnings(linear10(method))
    assert len(found) == 1 and "within 1 nat of log 50 = 3.91, which it never exceeds" in found[0]


def test_giwae_near_its_cap():
    result = linear10(GIWAE(RegressionGuide("diagonal", num_draws=14), density_ratio, 4), 100)
    assert any("the contrastive term is within 1 nat of log 4" in text for text in method_warnings(result))


def test_a_capped_variational_bound():
    result = linear10(MINE(density_ratio), 200)
    assert "the critic is capped in 100% of the pairs" in method_warnings(result)[0]
    assert "no bound of this kind from 4,000 negatives" in method_warnings(result)[0]
    assert "not a bound" in repr(result)


def test_too_few_weights_that_count():
    task = tasks.mlp10()
    result = mi_bounds(task.model, task.latent, task.data, method=IWAE(num_particles=100), num_samples=200)
    found = " ".join(method_warnings(result))
    assert "fewer than 5 of 100 weights count in 100% of the joint draws" in found
    assert "the median Pareto k of the weights" in found


def outliers(x=None):
    """One datum in ten is hardly about z, so that all draws of the prior explain it about equally well."""
    z = numpyro.sample("z", dist.Normal(0, 1).expand([20]).to_event(1))
    parts = [dist.Normal(z, 0.01).to_event(1), dist.Normal(0.2 * z, 1.0).to_event(1)]
    numpyro.sample("x", dist.MixtureGeneral(dist.Categorical(jnp.array([0.9, 0.1])), parts), obs=x)


def prior_draws(data):
    """A guide that does not look at the data."""
    numpyro.sample("z", dist.Normal(0, 1).expand([20]).to_event(1))


def weights(result):
    """Of the drawn latents alone, and with the simulated one in place of the first."""
    own, drawn = (result.stats[0][f"{name}_log_weight"] for name in ("reverse", "forward"))
    return drawn, np.hstack([own, drawn[:, 1:]])


def test_only_the_own_draw_sees_a_mode_that_the_guide_misses():
    """Measured: an ESS of at least 5 in all joint draws by the drawn weights, below 5 in 89 % with the own one."""
    result = mi_bounds(outliers, "z", "x", method=IWAE(GuideFunction(prior_draws), 100), num_samples=200)
    drawn, both = weights(result)
    assert result.gap > 50 and (diagnostics._ess(drawn) > 20).mean() > 0.95
    assert (diagnostics._ess(both) < 5).mean() > 0.8
    found = method_warnings(result)
    assert re.search("fewer than 5 of 100 weights count in 0% of the joint draws, or in [89].% if the s", found[0])


def test_khat_alone_misleads_where_the_guide_misses_a_mode():
    """Measured: a median k of 0.33 at a gap of 79 nats, for the weights that are seen resemble one another."""
    result = mi_bounds(outliers, "z", "x", method=StructuredInfoNCE(100), num_samples=200)
    drawn, both = weights(result)
    assert result.gap > 50 and np.median(diagnostics._pareto_k(drawn)) < 0.5
    assert (diagnostics._ess(both) < 5).mean() > 0.8


@pytest.mark.parametrize("num_particles", [100, 1000])
def test_khat_sees_draws_of_a_prior_that_is_far_too_wide(num_particles):
    """Measured: a median k of 149 and 113 at gaps of 290 and 174 nats; ESS is below 5 in all joint draws."""
    result = linear10(StructuredInfoNCE(num_particles), 100)
    assert result.gap > 100
    for values in weights(result):
        assert np.median(diagnostics._pareto_k(values)) > 50 and (diagnostics._ess(values) < 5).all()


@pytest.mark.parametrize("shape", [0.3, 0.9, 1.5, 5.0, 100.0, 500.0])
@pytest.mark.parametrize("count", [100, 1000])
def test_pareto_k_is_the_shape_of_the_upper_tail(shape, count):
    """The prior of the fit draws it to 0.5, the more so the shorter the tail."""
    log_values = shape * np.random.default_rng(0).exponential(size=(100, count))
    found = np.median(diagnostics._pareto_k(log_values))
    tail = min(count // 5, 3 * count**0.5)
    expected = shape if shape > 50 and count == 1000 else (tail * shape + 5) / (tail + 10)
    assert found == pytest.approx(expected, rel=0.25 if shape < 50 else 0.5)


def test_pareto_k_of_bounded_weights_is_negative():
    """The lower tail, which is heavy here, does not enter."""
    log_values = -1.5 * np.random.default_rng(0).exponential(size=(100, 1000))
    assert (diagnostics._pareto_k(log_values) < 0).all()


def test_pareto_k_of_weights_all_alike():
    alike = np.full((2, 100), -3.0)
    alike[1, 50:] = -np.inf
    assert (diagnostics._pareto_k(alike) == -np.inf).all()


def saturated(x=None):
    """The posterior is Cauchy wherever the data say nothing."""
    z = numpyro.sample("z", dist.Cauchy(0, 1))
    numpyro.sample("x", dist.Normal(jnp.tanh(z), 1.0), obs=x)


def test_light_tails_of_a_guide():
    """Of a normal guide the own weight is exp(z^2 / 2) too large, whose logarithm has tails of shape 2."""
    guide = GuideFunction(lambda data: numpyro.sample("z", dist.Normal(0, 2)))
    found = method_warnings(mi_bounds(saturated, "z", "x", method=IWAE(guide, 100), num_samples=1000))
    assert any("the tails of the guide are lighter than the posterior's" in text for text in found), found


def test_tails_of_a_heavy_guide_are_not_light():
    guide = LaplaceGuide(degrees_of_freedom=1.0)
    assert method_warnings(mi_bounds(saturated, "z", "x", method=IWAE(guide, 100), num_samples=1000)) == []


def test_one_weight_says_nothing_of_the_tails():
    """Its logarithm estimates no evidence: where it is tiny, that is the upper bound's trouble alone."""

    def model(x=None):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(jnp.sinh(3 * z), 1.0), obs=x)

    result = mi_bounds(model, "z", "x", method=BarberAgakov(), num_samples=1000)
    assert result.upper > 1e4 and 0 < result.lower < 3 and method_warnings(result) == []


def test_several_integrals_have_a_cap_each():
    """Two pairs that are independent of one another: the sum of two bounds is at most twice log K."""

    def model(a=None, b=None):
        for name, value in (("a", a), ("b", b)):
            z = numpyro.sample(f"z_{name}", dist.Normal(0, 1))
            numpyro.sample(name, dist.Normal(z, 0.02), obs=value)

    result = mi_bounds(model, ["z_a", "z_b"], ["a", "b"], method=StructuredInfoNCE(50), num_samples=200)
    assert len(result.stats) == 2 and result.lower > np.log(50) + 1
    assert method_warnings(result) == []


def rare_labels(x=None):
    """Forty rare labels, whose own likelihood is a hundred times the mean over the labels."""
    z = numpyro.sample("z", dist.Normal(0, 1))
    k = numpyro.sample("k", dist.Categorical(jnp.array([0.01] * 40 + [0.6])))
    numpyro.sample("x", dist.Normal(z + 10.0 * k, 0.05), obs=x)


def test_the_cap_is_on_the_contrastive_term_where_labels_are_summed():
    """The bound itself exceeds it: 3.6 nats from five particles."""
    result = mi_bounds(rare_labels, ["z", "k"], "x", method=StructuredInfoNCE(5), num_samples=500)
    assert result.lower > np.log(5) + 1
    found = method_warnings(result)
    assert len(found) == 1 and found[0].startswith("the contrastive term is within 1 nat of log 5 = 1.61, which it ne")


def test_the_cap_is_on_the_bound_where_a_nuisance_is_summed():
    """Then the likelihood is a sum over the labels, and the weights are too."""
    result = mi_bounds(rare_labels, "z", "x", method=StructuredInfoNCE(20), num_samples=200)
    assert result.lower < np.log(20)
    assert method_warnings(result)[0].startswith("the lower bound is within 1 nat of log 20")


def test_no_cap_where_nothing_is_sampled():
    def copied(x=None):
        z = numpyro.sample("z", dist.DiscreteUniform(0, 7))
        numpyro.sample("x", dist.Normal(z, 1e-3), obs=x)

    result = mi_bounds(copied, "z", "x", method=StructuredInfoNCE(5), num_samples=200)
    assert result.stats == () and result.num_configurations == 0
    assert result.lower > np.log(5) and method_warnings(result) == []


def test_negatives_are_those_that_were_scored():
    """A block of K rows of arrays has K (K - 1) of them."""
    result = linear10(MINE(density_ratio), 200)
    arrays = dataclasses.replace(result, cost={**result.cost, "scored_negatives": 76_000})
    expected = "no bound of this kind from 76,000 negatives and 126,976 in pilots can certify much more than 6.63"
    assert expected in method_warnings(arrays)[0]


def test_pilots_limit_what_any_number_of_negatives_can_certify():
    """A tenth of the pilots' number is where the cap is, and what the warning says of arrays and of models."""
    result = linear10(MINE(density_ratio), 200)
    for rows, limit in ((None, "9.45"), (1000, "8.03")):  # 4,096 rows in groups of 32, or 31 groups of them
        cost = {**result.cost, "scored_negatives": 10**9, **({} if rows is None else {"pilot_rows": rows})}
        text = method_warnings(dataclasses.replace(result, cost=cost))[0]
        assert f"can certify much more than {limit} nats" in text
        pilots = np.random.default_rng(0).normal(0, 6, num_pilot_negatives(PILOT_ROWS if rows is None else rows))
        cap, log_normaliser = cap_and_normaliser(pilots, 10**9)
        assert f"{cap - log_normaliser:.2f}" == limit


QUIET = [IWAE(num_particles=100), BarberAgakov(), StructuredInfoNCE(100), MINE(lambda x, z: x[0] * z[0] / 5, 50)]


@pytest.mark.parametrize("method", QUIET, ids=lambda method: type(method).__name__)
def test_silence_where_all_is_well(method):
    result = mi_bounds(weak, "z", "x", method=method, num_samples=1000)
    assert warnings_of(result) == []


def test_the_cap_solves_its_equation():
    scores = np.random.default_rng(0).normal(0, 4, 20_000)
    cap, log_normaliser = cap_and_normaliser(scores, 10_000)
    assert np.log(np.exp(np.minimum(scores, cap)).mean()) == pytest.approx(log_normaliser)
    assert cap - log_normaliser == pytest.approx(np.log(100), abs=1e-6)
    assert cap_and_normaliser(np.zeros(10_000), 10_000) == pytest.approx((np.log(100), 0.0))


def rarely(count, num_samples=1000, noise=0.0):
    """Terms of which some are far below the others."""
    terms = 0.693 + noise * np.random.default_rng(0).uniform(-1, 1, num_samples)
    terms[:count] = -8.5
    return terms


def made(lower_i, upper_i, **fields):
    return MIBounds(lower_i, upper_i, **{"latent": ("z",), "data": ("x",), "method": {}, **fields})


class TestRareEvents:
    @pytest.mark.parametrize("noise", [0.0, 1e-7])
    @pytest.mark.parametrize("count", [0, 1, 9])
    def test_few_terms_carry_the_spread(self, count, noise):
        terms = rarely(count, noise=noise)
        (found,) = warnings_of(made(terms, terms))
        start = {
            0: "the terms of both bounds are all alike",
            1: "1 of 1,000 terms of both bounds carries 90% of the spread",
            9: "9 of 1,000 terms of both bounds carry 90% of the spread",
        }
        assert found.startswith(
            f"{start[count]}: an event of probability below 3/N = 0.003 would not show in N = 1,000"
        )

    def test_of_one_side(self):
        honest = np.random.default_rng(0).normal(size=200)
        (found,) = warnings_of(made(honest, rarely(4, 200)))
        assert "4 of 200 terms of the upper bound carry" in found and "3/N = 0.015" in found

    def test_of_blocks_of_rows(self):
        (found,) = warnings_of(made(rarely(0, 200), None, cost={"scored_rows": 20_000}))
        assert "the terms of the lower bound are all alike" in found and "3/N = 0.00015" in found

    def test_silence(self):
        honest = np.random.default_rng(0).normal(size=200)
        assert warnings_of(made(honest, honest)) == []
        labels = np.repeat([0.2, -0.2], 100)
        assert warnings_of(made(labels, labels)) == []
        assert warnings_of(made(rarely(0), rarely(0), num_configurations=4)) == []

    def test_terms_that_are_not_finite_are_left_to_their_own_warning(self):
        terms = rarely(0)
        terms[0] = np.inf
        found = warnings_of(made(rarely(0), terms))
        assert len(found) == 2 and "1 of 1000 terms of the upper bound are not finite" in found[0]
        assert "the terms of the lower bound are all alike" in found[1]

    def test_differences(self):
        one, other = (made(rarely(count), rarely(count)) for count in (1, 0))
        assert "1 of 1,000 terms of both bounds carries" in repr(one - other)
        assert "the terms of both bounds are all alike" in repr(other - other)
        both = dataclasses.replace(other, num_configurations=4)
        assert "warning" not in repr(both - both)
        assert "the terms of both bounds are all alike" in repr(other - both)

    def test_tables(self):
        honest = np.random.default_rng(0).normal(1.0, 1.0, 1000)
        rows = {"a": made(rarely(1), rarely(1)), "b": made(honest, honest)}
        text = repr(InformationTable(rows, made(honest, honest), {}, {}))
        assert "warning  few terms, or none, carry the spread of the rows a: an event of probability below 3/N" in text
        quiet = InformationTable({"b": rows["b"]}, made(honest, honest), {}, {})
        assert "warning" not in repr(quiet)

    def test_gains(self):
        honest = np.random.default_rng(0).normal(1.0, 1.0, 1000)
        results = (made(honest, honest), made(rarely(1), rarely(1)), made(rarely(0), rarely(0)))
        gain = InformationGain({"dose": np.arange(3.0)}, results, 3, 1000)
        assert "warning  few terms, or none, carry the spread of designs 1, 2: an event of probability" in repr(gain)

    def test_evidence(self):
        assert "1 of 1,000 terms of both bounds carries" in repr(EvidenceBounds(rarely(1), rarely(1), ("x",)))


def test_flips_that_do_not_show():
    """Too many values to sum, and no flip among the draws: the width is nothing, and is said to say nothing."""

    def model(x=None):
        z = numpyro.sample("z", dist.Bernoulli(0.5).expand([9]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(jnp.where(z == 1, 1 - 1e-5, 1e-5)).to_event(1), obs=x)

    result = mi_bounds(model, "z", "x", num_samples=200)
    assert result.num_configurations == 0
    assert result.lower_se < 1e-6 and result.lower == pytest.approx(9 * np.log(2 * (1 - 1e-5)), abs=1e-5)
    assert any("the terms of both bounds are all alike" in text for text in warnings_of(result))
    assert result.lower > 9 * (np.log(2) + 1e-5 * np.log(1e-5) + (1 - 1e-5) * np.log1p(-1e-5)) + 1e-4


def test_a_rare_label_of_continuous_data():
    def model(x=None):
        z = numpyro.sample("z", dist.Bernoulli(0.01))
        numpyro.sample("x", dist.Normal(4.0 * z, 1.0), obs=x)

    result = mi_bounds(model, "z", "x", num_samples=100)
    assert re.search(r"\d of 100 terms of both bounds carr(y|ies) 90%", warnings_of(result)[0])


@pytest.mark.parametrize("count", [20_000, 12_600_000, 12_800_000, 10**10])
def test_rare_scores_do_not_spoil_or_make_a_bound(count):
    """Scores of 40 nats that the pilots never see: of own pairs they claim the limit, of one negative they cost little.

    Without a cap the first would be a claim of 40 nats, and the second a bound of minus e^40 / 21.
    """
    cap, log_normaliser = cap_and_normaliser(np.zeros(126_976), count)
    scorer = MINEScorer(FixedCritic(lambda x, z: 40.0 * (x[0] == z[0])), jnp.asarray(cap), jnp.asarray(log_normaliser))
    u = jnp.arange(21.0)[:, None]
    own = scorer.terms(u, jnp.zeros((1, 1)), None)["lower"]
    assert own == pytest.approx(variational_limit(count, 126_976), abs=1e-4) and own < 9.5
    other = scorer.terms(u.at[0].set(-1.0), jnp.ones((1, 1)), None)["lower"]
    assert other == pytest.approx(1 - (19 + np.exp(own)) / 20, rel=1e-4) and other > -1000
