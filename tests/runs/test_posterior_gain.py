"""The gain of the next observation after a real history, from posterior samples."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_mi import AIS, IWAE, MIBounds, StructuredInfoNCE, expected_information_gain

pytestmark = pytest.mark.compile_fast
QUIET = {"progress_bar": False}
PRIOR_SD, NOISE_SD = np.array([2.0, 1.0]), 0.5
FIRST, OBSERVED = np.array([1.0, 0.3]), 1.7  # the history: one design, and what was seen
DESIGNS = np.array([[1.0, 0.3], [-0.3, 1.0], [1.0, -1.0], [0.3, 0.1]])
PASSED = {"x": jnp.asarray(DESIGNS, float)}


def model(x, y=None):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), jnp.asarray(PRIOR_SD, float)).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, NOISE_SD), obs=y)


def two_steps(x):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), jnp.asarray(PRIOR_SD, float)).to_event(1))
    numpyro.sample("y1", dist.Normal(jnp.asarray(FIRST, float) @ w, NOISE_SD))
    numpyro.sample("y2", dist.Normal(x @ w, NOISE_SD))


def posterior(count, seed=0):
    """Exact draws after the history."""
    cov = np.linalg.inv(np.diag(PRIOR_SD**-2.0) + np.outer(FIRST, FIRST) / NOISE_SD**2)
    mean = cov @ FIRST * OBSERVED / NOISE_SD**2
    return np.random.default_rng(seed).multivariate_normal(mean, cov, count), cov


SAMPLES, COV = posterior(4000)
TRUTHS = 0.5 * np.log1p(np.einsum("ni,ij,nj->n", DESIGNS, COV, DESIGNS) / NOISE_SD**2)


def after_history(samples=SAMPLES, designs=PASSED, of=model, latent="w", **options):
    draws = samples if isinstance(samples, dict) else {"w": samples}
    return expected_information_gain(of, designs, latent, "y", posterior_samples=draws, **QUIET, **options)


@pytest.fixture(scope="module")
def gain():
    return after_history(num_samples=2000)


class TestBounds:
    def test_sides_and_coverage(self, gain):
        for result, truth in zip(gain.results, TRUTHS, strict=True):
            low, high = result.interval(0.99)
            assert low < truth < high
            assert result.lower < truth + 4 * result.lower_se and result.upper > truth - 4 * result.upper_se
            assert 0 < result.gap + 4 * result.gap_se and result.gap < 0.01
            assert result.method == {"class": "StructuredInfoNCE", "num_particles": 1000}

    def test_best_and_differences(self, gain):
        assert gain.best() == (int(np.argmax(TRUTHS)), True)
        row = gain.differences(0.95).loc[(2, 0)]
        assert abs(row["lower"] - (TRUTHS[2] - TRUTHS[0])) < 4 * row["lower_se"]
        assert gain.num_programs == 1

    def test_average_over_the_history_is_the_same_here(self, gain):
        """Of a linear Gaussian model the gain does not depend on what was observed."""
        averaged = expected_information_gain(
            two_steps, PASSED, "w", "y2", "y1", method=IWAE(num_particles=20), num_samples=1000, **QUIET
        )
        for one, other, truth in zip(gain.results, averaged.results, TRUTHS, strict=True):
            low, high = other.interval(0.99)
            assert low < truth < high
            assert abs(one.estimate - other.estimate) < 4 * np.hypot(one.upper_se, other.upper_se) + one.gap + other.gap

    def test_few_particles_widen_both_sides(self):
        for result, truth in zip(after_history(method=StructuredInfoNCE(4)).results, TRUTHS, strict=True):
            assert result.lower < min(truth, np.log(4)) + 4 * result.lower_se
            assert result.upper > truth - 4 * result.upper_se

    def test_exact_terms(self):
        """Of a discrete latent whose halves hold the posterior exactly, each upper term is log p(y | k) / p(y)."""
        probs, posterior_probs = np.array([0.9, 0.4, 0.1]), np.array([0.25, 0.5, 0.25])

        def coin(shift, y=None):
            k = numpyro.sample("k", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
            numpyro.sample("y", dist.Bernoulli(jnp.asarray(probs, float)[k] * shift), obs=y)

        samples = {"k": np.tile([0, 1, 1, 2], 100)}
        found = after_history(samples, {"shift": np.array([1.0, 0.5])}, coin, "k", num_samples=200)
        for result, shift in zip(found.results, (1.0, 0.5), strict=True):
            table = np.stack([1 - probs * shift, probs * shift])
            exact = np.log(table / (table @ posterior_probs)[:, None])
            np.testing.assert_allclose(np.abs(result.upper_i[:, None] - exact.ravel()).min(1), 0, atol=1e-5)
            truth = (table * exact) @ posterior_probs
            assert abs(result.upper - truth.sum()) < 4 * result.upper_se
            assert result.lower < truth.sum() + 4 * result.lower_se

    def test_repeated_draws_void_neither_side(self):
        """A chain that hardly moves: copies of the own draw among the others would pull the upper bound down."""
        samples = np.repeat(np.random.default_rng(1).standard_normal(400), 10)

        def sharp(sd, y=None):
            w = numpyro.sample("w", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(w, sd), obs=y)

        sds = np.array([0.03, 0.1])
        truths = 0.5 * np.log1p(sds**-2.0)
        found = after_history(samples, {"sd": jnp.asarray(sds, float)}, sharp, num_samples=1000)
        for result, truth in zip(found.results, truths, strict=True):
            assert result.upper > truth - 4 * result.upper_se and result.lower < truth + 4 * result.lower_se
        rng = np.random.default_rng(2)
        rows = np.stack([rng.choice(4000, 1001, replace=False) for _ in range(1000)])
        own, others = samples[rows[:, 0]], samples[rows[:, 1:]]
        residuals = sds[0] * rng.standard_normal(1000)
        squares = ((own + residuals)[:, None] - others) ** 2 - residuals[:, None] ** 2
        wrong = -np.log(np.exp(-0.5 * squares / sds[0] ** 2).mean(1))  # random others
        assert wrong.mean() < truths[0] - 4 * wrong.std() / np.sqrt(1000)

    def test_several_latents_and_parents_that_do_not_matter(self):
        """A hyperparameter is neither asked for nor sampled where the data depend on its child alone."""

        def deep(scale, y=None):
            mu = numpyro.sample("mu", dist.Normal(0, 5))
            a = numpyro.sample("a", dist.Normal(mu, 1))
            b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
            numpyro.sample("y", dist.Normal(scale * (a + b.sum()), 1), obs=y)

        a, *b = np.random.default_rng(2).standard_normal((3, 1000)).astype(np.float32)
        found = after_history(
            {"b": np.stack(b, 1), "a": a}, {"scale": jnp.array([0.5, 1.0])}, deep, ["a", "b"], num_samples=500
        )
        for result, scale in zip(found.results, (0.5, 1.0), strict=True):
            low, high = result.interval(0.99)
            assert low < 0.5 * np.log1p(3 * scale**2) < high


class TestRunning:
    def test_text_says_what_it_is_given(self, gain):
        text = repr(gain)
        assert "I(w; y | history fixed) of 4 designs" in text
        assert text.count("given the posterior samples: both bounds are as exact as the run") == 1
        assert "not in the standard errors" in repr(gain.results[0])
        assert "log of the integral of p(w | history) p(y | w) over w" in repr(gain.results[0])

    def test_batch_size_and_looks_change_nothing_else(self):
        options = {"num_samples": 300, "method": StructuredInfoNCE(50)}
        whole, looked = after_history(**options), after_history(**options, looks=(110,), batch_size=40)
        assert 3 in looked.dropped and looked.results[3].num_samples == 110
        for one, other in zip(whole.results, looked.results, strict=True):
            count = other.num_samples
            np.testing.assert_allclose(one.lower_i[:count], other.lower_i, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(one.upper_i[:count], other.upper_i, rtol=1e-5, atol=1e-5)

    def test_saved_and_read_back(self, gain, tmp_path):
        gain.results[0].to_netcdf(tmp_path / "gain.nc")
        found = MIBounds.from_netcdf(tmp_path / "gain.nc")
        np.testing.assert_array_equal(found.lower_i, gain.results[0].lower_i)
        assert repr(found) == repr(gain.results[0])

    def test_same_key_same_numbers(self):
        one, other, third = (after_history(num_samples=10, rng_key=key).results[0].lower_i for key in (3, 3, 4))
        np.testing.assert_array_equal(one, other)
        assert (one != third).all()


def nuisance(x, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(x @ w, sd), obs=y)


def backwards(x):
    y = numpyro.sample("y", dist.Normal(x[0], 1))
    numpyro.sample("w", dist.Normal(y, 1).expand([2]).to_event(1))


def spoiled():
    draws = SAMPLES.copy()
    draws[7, 1] = np.nan
    return draws


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"samples": {}}, ValueError, "holds no draws of latent 'w'"),
            ({"samples": {"ww": SAMPLES}}, ValueError, "no draws of latent 'w'.*did you mean 'ww'"),
            ({"samples": {"w": SAMPLES, "mu": SAMPLES}}, ValueError, "holds 'mu', and latent is 'w'.*latents alone"),
            ({"samples": SAMPLES[:, 0]}, ValueError, r"shape \(4000,\), and \(M, 2\) is needed"),
            (
                {"samples": SAMPLES.reshape(4, 1000, 2)},
                ValueError,
                r"looks like \(chains, draws, ...\).*group_by_chain",
            ),
            ({"samples": spoiled()}, ValueError, r"posterior_samples\['w'\] holds 1 values that are not finite"),
            ({"samples": SAMPLES[:150]}, ValueError, "holds 150 draws, and at least 200"),
            ({"samples": {"w": [["a", "b"]]}}, TypeError, "must be an array of numbers"),
            ({"given": {"w": np.zeros(2)}}, ValueError, "stand for one history"),
            ({"method": AIS()}, TypeError, r"must be StructuredInfoNCE\(num_particles=...\) or None"),
            ({"method": StructuredInfoNCE(3000)}, ValueError, "there are 4000: at most num_particles=2000"),
            ({"num_samples": 2001}, ValueError, "at most half the number of posterior samples, 2000, got 2001"),
            ({"of": nuisance}, ValueError, r"integral over 'sd'.*latent=\['w', 'sd'\]"),
            ({"of": backwards}, ValueError, "latent 'w' is drawn from data 'y'"),
        ],
    )
    def test_before_anything_compiles(self, options, error, match):
        with pytest.raises(error, match=match):
            after_history(**options)

    def test_no_mapping(self):
        with pytest.raises(TypeError, match="must map each latent to an array"):
            expected_information_gain(model, PASSED, "w", "y", posterior_samples=SAMPLES)

    def test_unequal_numbers_of_draws(self):
        samples = {"w": SAMPLES, "sd": np.ones(3000)}
        with pytest.raises(ValueError, match="same number of draws.*'w': 4000, 'sd': 3000"):
            after_history(samples, of=nuisance, latent=["w", "sd"])

    def test_draws_outside_the_support(self):
        samples = {"w": SAMPLES, "sd": np.log(np.linspace(0.5, 2, 4000))}
        with pytest.raises(ValueError, match=r"posterior_samples\['sd'\] holds \d+ of 4000 draws outside the support"):
            after_history(samples, of=nuisance, latent=["w", "sd"])

    def test_broken_whole_numbers(self):
        def coin(x, y=None):
            k = numpyro.sample("k", dist.Poisson(3))
            numpyro.sample("y", dist.Normal(k * x[0], 1), obs=y)

        with pytest.raises(ValueError, match="none of int"):
            after_history({"k": np.linspace(0, 3, 400)}, of=coin, latent="k")
