"""Parameters that their distribution does not allow are refused by name; samplers return whatever they are."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from distribution_cases import CASES, wrong
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import transforms

from numpyro_mi import (
    IWAE,
    GuideFunction,
    InfoNCE,
    StructuredInfoNCE,
    Training,
    evidence_bounds,
    expected_information_gain,
    information_gain_gradient,
    mi_bounds,
)
from numpyro_mi.model.sites.draws import drawable
from numpyro_mi.model.sites.parameters import verdict
from numpyro_mi.model.sites.ranges import INSIDE, OUTSIDE

pytestmark = pytest.mark.compile_fast

sample, Normal = numpyro.sample, dist.Normal
TINY = {"method": StructuredInfoNCE(4), "num_samples": 64, "progress_bar": False}
SUM = r"parameter 'probs' of the CategoricalProbs of site 'x' must be probabilities that sum to 1, and is not at "


def found(build, *values, outcome=0.0):
    """Verdicts at one set of parameters, which are computed: all of a kind in one dict, by parameter."""

    def at(*values):
        return {(key.depth, key.parameter): code for key, code in verdict(build(*values), jnp.asarray(outcome)).items()}

    return {key[1]: int(code) for key, code in reversed(jax.jit(at)(*map(jnp.asarray, values)).items())}


def first_wrong(name, **changed):
    """The first parameter of a case that is not allowed; constants are held against the same ranges."""
    build, given = CASES[name]
    with numpyro.validation_enabled(False):
        codes = verdict(build(**{key: jnp.asarray(value) for key, value in (given | changed).items()}), jnp.nan)
    return next((key.parameter for key, code in sorted(codes.items()) if code != INSIDE), None)


@pytest.mark.parametrize("name", CASES)
def test_allowed_parameters_pass_and_a_wrong_one_is_named(name):
    assert first_wrong(name) is None
    for parameter, value in CASES[name][1].items():
        bad = wrong(parameter, value, name).astype(np.asarray(value).dtype)
        alias = {"weights": "probs", "low": "high", "covariance_matrix": "scale_tril"}.get(parameter)
        assert first_wrong(name, **{parameter: bad}) in (parameter, alias), parameter


INNOCENT = {
    "softmax of 50,000": (lambda z: dist.Categorical(probs=jax.nn.softmax(z * jnp.arange(50_000.0) / 5e4)), 3.0),
    "an impossible category": (lambda z: dist.Categorical(logits=jnp.stack([z, -jnp.inf])), 1.0),
    "unnormalised weights": (
        lambda z: dist.MixtureSameFamily(dist.Categorical(probs=jnp.stack([z, 2.0])), Normal(jnp.zeros(2), 1.0)),
        5.0,
    ),
    "a computed covariance": (
        lambda z: dist.MultivariateNormal(
            jnp.zeros(9), jnp.linalg.inv(z * jnp.eye(9) + jnp.outer(jnp.arange(9.0), jnp.arange(9.0)))
        ),
        0.1,
    ),
    "a chance that rounds past 1": (lambda z: dist.Bernoulli(probs=z * (1 - 0.3) + 0.3 + 1e-7), 1.0),
    "a rate of zero": (lambda z: dist.ZeroInflatedPoisson(0.3, z), 0.0),
    "no chance at all": (lambda z: dist.Binomial(5, probs=z), 0.0),
    "an angle beyond the circle": (lambda z: dist.SineBivariateVonMises(z, z, 1.0, 1.0, 0.1), 4.0),
    "nothing to count": (lambda z: dist.Multinomial(z, jnp.ones(2) / 2, total_count_max=4), 0),
    "junk behind a mask": (
        lambda z: Normal(0.0, jnp.stack([z, -z])).mask(jnp.array([True, False])),
        1.0,
    ),
    "junk behind a mask inside": (
        lambda z: Normal(0.0, jnp.stack([z, -z])).mask(jnp.array([True, False])).expand([3, 2]).to_event(1),
        1.0,
    ),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_innocent_parameters_pass(name):
    build, value = INNOCENT[name]
    assert all(code == INSIDE for code in found(build, value).values())


INSIDE_OTHERS = {
    "expand and to_event": (lambda z: Normal(0.0, z).expand([2, 3]).to_event(1), "scale"),
    "mask": (lambda z: Normal(0.0, jnp.stack([z, 1.0])).mask(jnp.array([True, False])), "scale"),
    "base": (lambda z: dist.TransformedDistribution(Normal(0.0, z), transforms.ExpTransform()), "scale"),
    "two bases deep": (
        lambda z: dist.TransformedDistribution(dist.FoldedDistribution(Normal(0.0, z)), transforms.ExpTransform()),
        "scale",
    ),
    "component": (
        lambda z: dist.MixtureSameFamily(dist.Categorical(probs=jnp.ones(2) / 2), Normal(0.0, jnp.stack([z, 1.0]))),
        "scale",
    ),
    "component of another kind": (
        lambda z: dist.MixtureGeneral(dist.Categorical(probs=jnp.ones(2) / 2), [Normal(0.0, 1.0), dist.Gumbel(0.0, z)]),
        "scale",
    ),
    "truncated": (lambda z: dist.TruncatedNormal(0.0, z, low=0.0), "scale"),
    "factor of an affine map": (
        lambda z: dist.TransformedDistribution(
            Normal(jnp.zeros(2), 1.0).to_event(1),
            transforms.LowerCholeskyAffine(jnp.zeros(2), jnp.stack([jnp.stack([1.0, z]), jnp.array([0.0, 1.0])])),
        ),
        "scale_tril",
    ),
    "asymmetric": (
        lambda z: dist.MultivariateNormal(jnp.zeros(2), jnp.stack([jnp.stack([2.0, z / 2]), jnp.array([0.1, 2.0])])),
        "covariance_matrix",
    ),
    "part of a number": (lambda z: dist.Binomial(z / 2, probs=0.3), "total_count"),
    "beyond the most": (lambda z: dist.Multinomial(z, jnp.ones(2) / 2, total_count_max=4), "total_count"),
    "beyond the most, elsewhere": (
        lambda z: dist.DirichletMultinomial(jnp.ones(2), z, total_count_max=4),
        "total_count",
    ),
    "a base that is zero": (lambda z: dist.HurdleDistribution(dist.Binomial(3, probs=0 * z), gate=0.3), "base_dist"),
}


@pytest.mark.parametrize("name", INSIDE_OTHERS)
def test_parameters_inside_others_are_found(name):
    build, parameter = INSIDE_OTHERS[name]
    value = {"total_count": 5, "scale_tril": 0.3, "covariance_matrix": 0.9}.get(parameter, -1.0)
    codes = found(build, value)
    assert codes[parameter] == OUTSIDE and sum(code == OUTSIDE for code in codes.values()) == 1


def test_an_edge_is_wrong_where_the_density_is_not_finite():
    assert found(dist.HalfNormal, 0.0) == {"scale": INSIDE}
    assert found(dist.HalfNormal, 0.0, outcome=jnp.inf)["scale"] != INSIDE
    assert found(dist.HalfNormal, jnp.inf, outcome=-jnp.inf)["scale"] != INSIDE


class TestDraws:
    BAD = np.array([-1.5, 0.3, 2.5, np.nan, 1e9, np.inf, 1.0 + 1.2e-7])

    @pytest.mark.parametrize(
        "build",
        [
            lambda p: dist.Binomial(20, probs=p),
            lambda p: dist.ZeroInflatedDistribution(dist.Binomial(20, probs=p), gate=0.3),
            lambda p: dist.Binomial(20, probs=p).expand([3]).to_event(1).mask(True),
            lambda p: dist.HurdlePoisson(0.3, jnp.where(p == 0.3, p, 0.0)),
        ],
        ids=["binomial", "zero_inflated", "wrapped", "hurdle"],
    )
    def test_samplers_return_and_draws_of_allowed_parameters_are_the_same(self, build):
        keys = jax.random.split(jax.random.key(0), len(self.BAD))
        draws = jax.jit(jax.vmap(lambda p, key: drawable(build(p))(rng_key=key)))(jnp.asarray(self.BAD), keys)
        alone = jax.jit(jax.vmap(lambda p, key: build(p).sample(key)))(jnp.full(2, 0.3), keys[:2])
        assert np.array_equal(draws[1], alone[1]) and np.isfinite(draws).all()

    @pytest.mark.parametrize("of", ["probs", "logits", "concentration"])
    def test_counts_of_a_total_that_is_computed(self, of):
        """NumPyro draws `total_count_max` where the total is a scalar that is computed."""
        own = {"probs": dist.MultinomialProbs, "logits": dist.MultinomialLogits}.get(of, dist.DirichletMultinomial)

        def draw(total, key):
            return drawable(own(jnp.array([0.2, 0.8]), total, total_count_max=9))(rng_key=key)

        totals = jnp.arange(10).repeat(50)
        draws = jax.jit(jax.vmap(draw))(totals, jax.random.split(jax.random.key(0), 500))
        assert np.array_equal(draws.sum(-1), totals) and (draws >= 0).all()
        if of == "probs":
            share = draws[:, 1].sum() / totals.sum()
            assert abs(share - 0.8) < 4 * np.sqrt(0.16 / totals.sum())


def unnormalised(x=None):
    p = jax.nn.sigmoid(sample("z", Normal(0, 1)))
    sample("x", dist.Categorical(probs=jnp.stack([p, p / 2, p / 10])), obs=x)


def beyond_one(width=0.3, x=None):
    z = sample("z", Normal(0.5, 1))
    sample("x", dist.Binomial(5, probs=0.5 + width * (z - 0.5)), obs=x)


def total(most, x=None):
    n = sample("n", dist.DiscreteUniform(0, 4))
    sample("x", dist.Multinomial(n, jnp.array([0.3, 0.7]), total_count_max=most), obs=x)


def in_time(x=None):
    def step(level, _):
        level = sample("z", Normal(level, 1))
        return level, sample("x", Normal(level, level))

    scan(step, 0.0, None, length=3)


def in_parts(x=None):
    with numpyro.plate("N", 3):
        z = sample("z", Normal(0, 1))
        sample("x", Normal(0, jnp.where(jnp.arange(3) == 1, z, 1.0)), obs=x)


class TestRefusals:
    def test_probabilities_that_do_not_sum_to_one(self):
        with pytest.raises(ValueError, match=SUM + r"4,096 of 4,096 .*\(100.00%\).*'x' is computed from 'z'"):
            mi_bounds(unnormalised, "z", "x", **TINY)

    def test_probabilities_beyond_one(self):
        share = "'probs' of the BinomialProbs of site 'x' must be between 0 and 1, and is not at (3|4)[0-9]{2} of 4,096"
        with pytest.raises(ValueError, match=share):
            mi_bounds(beyond_one, "z", "x", **TINY)

    def test_totals_beyond_the_most(self):
        message = "'total_count' of the MultinomialProbs of site 'x' must be at most total_count_max, 3, and is not at"
        with pytest.raises(ValueError, match=message):
            mi_bounds(total, "n", "x", model_args=(3,), **TINY)

    def test_sites_of_a_scan(self):
        with pytest.raises(ValueError, match="'scale' of the Normal of site 'x' must be positive.*'z'"):
            mi_bounds(in_time, "z", "x", **TINY)

    def test_elements(self):
        with pytest.raises(ValueError, match=r"'scale' of the Normal of site 'x\[1\]' must be positive"):
            mi_bounds(in_parts, "z", ("x[0]", "x[1]"), **TINY)

    def test_methods_without_a_likelihood(self):
        with pytest.raises(ValueError, match=SUM):
            mi_bounds(unnormalised, "z", "x", **{**TINY, "method": InfoNCE()})

    def test_evidence(self):
        with pytest.raises(ValueError, match=SUM):
            evidence_bounds(unnormalised, "x", **TINY)

    def test_observed_values(self):
        def chain(x=None, y=None):
            z = sample("z", Normal(0, 1))
            x = sample("x", dist.Poisson(jnp.exp(jnp.clip(z, -1, 0))), obs=x)
            sample("y", dist.Bernoulli(probs=x / 40), obs=y)

        with pytest.raises(
            ValueError, match="'probs' of the BernoulliProbs of site 'y' .* at the observed values.*'x'"
        ):
            evidence_bounds(chain, ("x", "y"), observed={"x": 50, "y": 1}, **TINY)

    @pytest.mark.parametrize("posterior", [False, True])
    def test_one_design_of_several(self, posterior):
        designs = {"width": jnp.array([1e-3, 0.3])}
        samples = {"z": np.random.default_rng(0).normal(0.5, 1, 400)} if posterior else None
        with pytest.raises(ValueError, match="'probs' of the BinomialProbs of site 'x'"):
            expected_information_gain(beyond_one, designs, "z", "x", posterior_samples=samples, **TINY)

    def test_gradients(self):
        def model(design, x=None):
            z = sample("z", Normal(0, 1))
            sample("x", Normal(z, design * z), obs=x)

        with pytest.raises(ValueError, match="'scale' of the Normal of site 'x' must be positive"):
            information_gain_gradient(model, {"design": 1.0}, "z", "x", num_samples=64)

    @pytest.mark.parametrize("how", ["validation is off", "not validated"])
    def test_constants_before_anything_compiles(self, how, monkeypatch):
        monkeypatch.setattr("numpyro_mi.runs.evidence.run", None)

        def model(x=None):
            z = sample("z", Normal(0, 1))
            sample("x", Normal(z, -1.0, validate_args=False if how == "not validated" else None), obs=x)

        with numpyro.validation_enabled(how != "validation is off"):
            with pytest.raises(ValueError, match="site 'x' has a parameter .*'scale' of Normal must be positive"):
                mi_bounds(model, "z", "x", **TINY)


def test_the_total_of_a_multinomial_is_known_from_it():
    """The counts say the total: the information is the entropy of that, at every draw."""
    result = mi_bounds(total, "n", "x", model_args=(7,), **TINY)
    assert np.allclose(result.lower_i, np.log(5), atol=1e-4) and np.allclose(result.upper_i, np.log(5), atol=1e-4)


@pytest.mark.parametrize(
    "method", [StructuredInfoNCE(4), InfoNCE(num_particles=20, training=Training(2000, 20))], ids=["likelihood", "none"]
)
def test_scored_draws_stand_for_nothing(method, monkeypatch):
    """Past the checks, a parameter that is wrong in scored draws alone makes both sides infinite."""
    monkeypatch.setattr("numpyro_mi.model.sites.parameters.check", lambda *_: None)
    monkeypatch.setattr("numpyro_mi.draws.preflight._check_finite", lambda *_: None)
    monkeypatch.setattr("numpyro_mi.draws.preflight._check_legitimate", lambda *_: None)
    result = mi_bounds(beyond_one, "z", "x", **{**TINY, "method": method})
    assert result.lower == -np.inf and result.upper in (None, np.inf)


def test_a_guide_with_a_factor_that_is_none():
    """Its draws would not follow its density, which NumPyro computes of the lower triangle alone."""

    def model(x=None):
        z = sample("z", Normal(0, 1).expand([2]).to_event(1))
        sample("x", Normal(z.sum(), 1), obs=x)

    def guide(data):
        corner = 0.5 + 0 * data["x"]
        factor = jnp.eye(2).at[0, 1].set(corner)
        sample("z", dist.MultivariateNormal(jnp.zeros(2), scale_tril=factor))

    with pytest.raises(ValueError, match="log-density of the guide is not a finite number at 100% .* check the param"):
        mi_bounds(model, "z", "x", **{**TINY, "method": IWAE(GuideFunction(guide), 4)})


def test_handlers_of_the_user_change_nothing():
    """Sites that the model observes, or that a handler of its own draws, are held against the same ranges."""
    scaled = handlers.reparam(beyond_one, config={})
    with pytest.raises(ValueError, match="'probs' of the BinomialProbs of site 'x'"):
        mi_bounds(scaled, "z", "x", **TINY)
