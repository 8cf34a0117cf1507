"""A bad model gives one clear error before anything compiles: what was passed, what is needed, how to mend it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints, transforms
from numpyro.infer.reparam import LocScaleReparam

from numpyro_mi import AIS, IR, InfoNCE, mi_bounds
from numpyro_mi.model.joint.checks import ModelError
from numpyro_mi.model.joint.trace import joint_model

pytestmark = pytest.mark.compile_fast

sample, Normal = numpyro.sample, dist.Normal
DATA = np.arange(1.0, 4.0)
TINY = AIS(num_temperatures=20, num_particles=2)


class Reached(Exception):
    """All checks passed and the run was about to start."""


def bounds(model, latent="z", data="x", **options):
    return mi_bounds(model, latent, data, progress_bar=False, **options)


@pytest.fixture
def no_run(monkeypatch):
    def run(*args):
        raise Reached

    monkeypatch.setattr("numpyro_mi.runs.evidence.run", run)


def pair(x=None):
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z, 1), obs=x)


def in_turn(*sites):
    """A model of sites given by name and distribution, each a function of the sum of what was drawn before."""

    def model():
        drawn = 0.0
        for name, distribution in sites:
            drawn = drawn + jnp.sum(sample(name, distribution(drawn)))

    return model


def prior(distribution):
    return in_turn(("z", lambda _: distribution), ("x", lambda z: Normal(z, 1)))


def positive_size(x=None):
    size = sample("s", dist.HalfNormal(1))
    sample("x", Normal(size * sample("z", Normal(0, 1)), 1), obs=x)


def in_scan(latent, data=lambda h: Normal(h, 1), feedback=False):
    def model():
        def step(carry, _):
            h = sample("z", latent(carry))
            x = sample("x", data(h))
            return (x if feedback else jnp.asarray(h, float)), None

        scan(step, 0.0, None, length=3)

    return model


def reparametrised():
    with handlers.reparam(config={"z": LocScaleReparam(0)}):
        z = sample("z", Normal(0, 2))
    sample("x", Normal(z, 1))


def deterministic_data():
    numpyro.deterministic("x", sample("z", Normal(0, 1)))


def evidence(x=None, y=None):
    z = sample("z", Normal(0, 1))
    sample("y", Normal(z, 1), obs=y)
    sample("x", Normal(z, 1), obs=x)


def long_sum():
    z = sample("z", Normal(0, 1))
    with numpyro.plate("N", 20):
        k = sample("k", dist.Bernoulli(0.5))
    sample("x", Normal(z + k.sum(), 1))


def moving_support():
    k = sample("k", dist.Bernoulli(0.5))
    z = sample("z", dist.Uniform(0, 1 + k))
    sample("x", Normal(z, 1))


def nuisance(x=None):
    z, w = sample("z", Normal(0, 1)), sample("w", Normal(0, 1))
    sample("x", Normal(z + w, 1), obs=x)


def subsampled():
    z = sample("z", Normal(0, 1))
    with numpyro.plate("N", 10, subsample_size=3):
        sample("x", Normal(z, 1))


def with_factor():
    numpyro.factor("prior", -(sample("z", Normal(0, 1)) ** 2))
    sample("x", Normal(0, 1))


def masked(chosen=lambda z: np.array([True, False]), child=False):
    def model():
        z = sample("z", Normal(0, 1))
        with handlers.mask(mask=chosen(z)):
            x = sample("x", Normal(z, 1).expand([2]))
        if child:
            sample("y", Normal(x.sum(), 1))

    return model


def obs_mask(x=None):
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z, 1).expand([3]), obs=x, obs_mask=np.array([True, False, True]))


def autoregression(x):
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z * x[:-1], 1).to_event(1), obs=x[1:])


def numpy_autoregression(x):
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z * x[:-1], 1).to_event(1), obs=np.log(x)[1:])


def pandas_autoregression(x):
    autoregression(jnp.asarray(x.values))


def hidden_randomness():
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z + jax.random.normal(numpyro.prng_key()), 1))


def with_param(x=None):
    w = numpyro.param("weight", 1.0)
    z = sample("z", Normal(0, 1))
    sample("x", Normal(w * z, 1), obs=x)


def raises():
    sample("z", Normal(0, 1))
    raise KeyError("the model's own words")


def no_gradient():
    z = sample("z", Normal(0, 1))
    sample("x", Normal(jax.lax.while_loop(lambda v: v < 1, lambda v: v + 0.5, z), 1))


def scoped_scan():
    with handlers.scope(prefix="s"):
        in_scan(lambda carry: Normal(carry, 1))()


BOUGHT = dist.TransformedDistribution(dist.Delta(0.0), transforms.AffineTransform(0, 1))
POINT_MASS = "'z', which has to be integrated out, has a point mass.*It is fine as data"
NO_DENSITY, NO_NORMAL = "'z' has a Delta distribution, which has no density: use", "is no density that can be simulated"
# By name: a model, options of mi_bounds, and what the ValueError says.
BAD_MODELS = {
    "typo": (pair, {"latent": "zz"}, r"latent names 'zz', which is not a site.*did you mean 'z'\?.*are 'z', 'x'"),
    "missing_data": (pair, {"data": "y"}, "data names 'y', which is not a site of the model.*are 'z', 'x'"),
    "plate": (subsampled, {"data": "N"}, "data names 'N', which is a plate and not a random site"),
    "reparam": (reparametrised, {}, "'z' is deterministic here, a function of 'z_decentered'.*pass the model without"),
    "reparam_outside": (
        handlers.reparam(prior(Normal(0, 2)), config={"z": LocScaleReparam(0)}),
        {},
        "'z' is deterministic here.*another quantity unless location and scale are constants",
    ),
    "empty": (pair, {"latent": []}, "latent is empty: name at least one site"),
    "empty_name": (pair, {"data": ""}, "data is empty: name at least one site"),
    "overlap": (pair, {"data": ["x", "z"]}, "'z' are in both latent and data: a site belongs to one group"),
    "repeated": (pair, {"latent": ["z", "z"]}, "latent names a site twice"),
    "deterministic": (deterministic_data, {}, "'x' are a function of the latents without any noise.*infinite"),
    "evidence": (
        evidence,
        {"model_kwargs": {"y": 1.0}},
        "'y' is observed, is not in data, and depends on 'z'.*Name it in data or in given, or call the model",
    ),
    "delta": (prior(dist.Delta(0.0)), {}, NO_DENSITY),
    "delta_expanded": (prior(dist.Delta(0.0).expand([3])), {}, NO_DENSITY),
    "delta_event": (prior(dist.Delta(jnp.zeros(3)).to_event(1)), {}, NO_DENSITY),
    "delta_inside": (prior(BOUGHT), {}, NO_DENSITY),
    "delta_in_scan": (in_scan(dist.Delta), {}, NO_DENSITY),
    "censored": (
        in_turn(("z", lambda _: Normal(0, 1)), ("x", lambda z: dist.LeftCensoredDistribution(Normal(z, 1), 1))),
        {},
        "'x' has a LeftCensoredDistribution, whose draws do not follow its log_prob.*the distribution inside",
    ),
    "polya_gamma": (prior(dist.TruncatedPolyaGamma()), {}, "'z' has a TruncatedPolyaGamma.*do not follow its log_prob"),
    "improper": (
        prior(dist.ImproperUniform(constraints.real, (), ())),
        {},
        "'z' is improper.*must be a proper distribution",
    ),
    "improper_in_scan": (in_scan(lambda _: dist.ImproperUniform(constraints.real, (), ())), {}, "'z' is improper"),
    "discrete": (
        prior(dist.Poisson(3.0)),
        {},
        r"'z', which has .*, is discrete \(Poisson\).*cannot be listed",
    ),
    "zero_inflated": (
        prior(dist.ZeroInflatedPoisson(0.5, 3.0)),
        {},
        POINT_MASS,
    ),
    "hurdle": (prior(dist.HurdleGamma(0.5, 2.0, 1.0)), {}, POINT_MASS),
    "sphere": (
        prior(dist.ProjectedNormal(jnp.ones(3))),
        {},
        "'z', which has .*, has a ProjectedNormal.*no biject_to",
    ),
    "subsampled": (subsampled, {}, r"plate 'N' is subsampled \(3 of 10\).*without subsample_size"),
    "factor": (with_factor, {}, r"'prior' is a numpyro.factor.*Write the term as numpyro.sample\(..., obs=...\)"),
    "scale": (handlers.scale(pair, 2.0), {}, f"site 'z' is scaled.*{NO_NORMAL}"),
    "scale_in_scan": (handlers.scale(in_scan(lambda c: Normal(c, 1)), 2.0), {}, f"site 'z' is scaled.*{NO_NORMAL}"),
    "masked_latent": (handlers.mask(pair, mask=False), {}, "latent 'z' is masked.*not the one it is drawn from"),
    "mask_by_latent": (masked(lambda z: jnp.stack([z > 0, z < 0])), {}, "the mask depends on 'z'.*Use a mask that is"),
    "mask_with_child": (masked(child=True), {"data": ["x", "y"]}, "'y' is computed from its values"),
    "mask_in_walk": (
        handlers.mask(in_scan(lambda x: Normal(x, 1), feedback=True), mask=False),
        {"latent": "x", "data": "z"},
        "masked",
    ),
    "obs_mask": (obs_mask, {"model_args": (DATA,)}, "'x' is split by obs_mask=.*use handlers.mask to leave cells out"),
    "reads_data": (autoregression, {"model_args": (DATA,)}, "reads its data argument 'x' outside obs=.*scan on the"),
    "reads_keyword": (autoregression, {"model_kwargs": {"x": DATA}}, "reads its data argument 'x' outside obs="),
    "reads_pandas": (pandas_autoregression, {"model_args": (pd.Series(DATA),)}, "reads its data argument 'x'"),
    "reads_in_numpy": (numpy_autoregression, {"model_args": (DATA,)}, "reads its data argument 'x' outside obs="),
    "too_many_values": (pair, {"model_args": (DATA,)}, r"'x' is given values of shape \(3,\), but one draw.*plate"),
    "seeded": (handlers.seed(pair, 0), {}, "'z', 'x' have the same value in every simulation.*handlers.seed"),
    "substituted": (handlers.substitute(pair, {"z": 1.0}), {}, "'z' have the same value.*handlers.condition"),
    "scan_in_scope": (scoped_scan, {"latent": "s/z", "data": "s/x"}, "site.s. 's/z' depends.*handlers.scope around"),
    "prng_key": (hidden_randomness, {"method": AIS()}, "that of 'x' does not exist.*random numbers that are no site"),
    "hidden_site": (handlers.block(nuisance, hide=["w"]), {"method": AIS()}, "'x' does not exist.*handlers.block"),
    "no_parameter": (with_param, {}, "'weight' of the model have no value, only an initial one: pass the fitted"),
    "wrong_parameter": (
        with_param,
        {"params": {"weigth": 1.0}},
        r"params holds 'weigth'.*did you mean 'weight'\?.*pass those only",
    ),
    "parameters_of_none": (pair, {"params": {"w": 1.0}}, "params holds 'w'.*It has no parameters"),
    "given_twice": (nuisance, {"given": ["w", "z"]}, "'z' are in both latent and given"),
    "given_unknown": (nuisance, {"given": "v"}, "given names 'v', which is not a site"),
    "given_downstream": (
        nuisance,
        {"data": "w", "given": {"x": 1.0}},
        "its parent 'w' depends on.*given='x'",
    ),
    "given_outside": (
        positive_size,
        {"given": {"s": -1.0}},
        "given holds site 's' at -1.0, which is outside the support of its distribution",
    ),
    "given_shape": (nuisance, {"given": {"w": jnp.ones(3)}}, r"'w' is given values of shape \(3,\)"),
    "given_sampled": (
        nuisance,
        {"given": "w", "method": InfoNCE()},
        "InfoNCE bounds no conditional.*given=.name",
    ),
    "long_sum": (long_sum, {}, "sum over discrete site.s. 'k' takes more than 1,024 configurations.*'x' is not in the"),
    "moving_support": (moving_support, {}, "support of site 'z' depends on discrete site.s. 'k'"),
    "two_posteriors": (
        nuisance,
        {"method": AIS(scheme=IR(lambda key, data: {}))},
        "serves one integral, but .* has 2",
    ),
    "raises": (raises, {}, 'the model raised KeyError while it was traced: "the model\'s own words"'),
    "no_gradient": (no_gradient, {}, "no gradient with respect to 'z'.*while_loop"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(name, no_run):
    model, options, message = BAD_MODELS[name]
    with pytest.raises(ValueError, match=message) as caught:
        bounds(model, **options)
    assert isinstance(caught.value, ModelError) == (name in ("raises", "no_gradient"))


def regression(covariate, y):
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z * covariate, 1).to_event(1), obs=(y - y.mean()) / y.std())


def missing_values(x, present):
    z = sample("z", Normal(0, 1))
    with handlers.mask(mask=present):
        sample("x", Normal(z, 1).expand([3]), obs=jnp.where(present, x, 0))


def sized_by_an_array(code, x):
    with numpyro.plate("groups", len(np.unique(code))):
        z = sample("z", Normal(0, 1))
    sample("x", Normal(z[code], 1).to_event(1), obs=np.log(x))


GOOD_MODELS = {
    "pair": (pair, {}),
    "swapped": (in_turn(("x", lambda _: Normal(0, 1)), ("z", lambda x: Normal(x, 1))), {"latent": "x", "data": "z"}),
    "regression": (regression, {"model_args": (DATA,), "model_kwargs": {"y": DATA}}),
    "missing_values": (missing_values, {"model_args": (DATA, DATA > 1)}),
    "size_from_an_array": (sized_by_an_array, {"model_args": (np.array([0, 1, 1]), DATA)}),
    "a_value_for_many": (masked(), {"model_args": ()}),
    "constant_site": (handlers.condition(nuisance, {"w": 1.0}), {}),
    "evidence_as_data": (evidence, {"data": ["x", "y"], "model_kwargs": {"y": 1.0}}),
    "parameter": (with_param, {"params": {"weight": 2.0}}),
    "discrete_nuisance_below": (
        in_turn(
            ("z", lambda _: Normal(0, 1)), ("x", lambda z: Normal(z, 1)), ("n", lambda x: dist.Poisson(jnp.exp(x)))
        ),
        {},
    ),
    "data_upstream": (in_turn(("x", lambda _: Normal(0, 1)), ("z", lambda x: Normal(x, 1))), {}),
    "feedback": (in_scan(lambda x: Normal(x, 1), feedback=True), {}),
    "nuisance": (nuisance, {}),
    "discrete": (prior(dist.Bernoulli(0.5)), {}),
    "discrete_event": (prior(dist.Bernoulli(0.5).expand([3]).to_event(1)), {}),
    "discrete_in_scan": (in_scan(lambda _: dist.Bernoulli(0.5)), {}),
    "given": (nuisance, {"given": "w"}),
    "given_at_a_value": (nuisance, {"given": {"w": 1.0}}),
    "full_subsample": (lambda: (numpyro.plate("N", 3, subsample_size=3), pair()), {}),
}


@pytest.mark.parametrize("name", GOOD_MODELS)
def test_good_model(name, no_run):
    model, options = GOOD_MODELS[name]
    with pytest.raises(Reached):
        bounds(model, **options)


def flawed(z):
    """A density that is NaN at some prior draws, though at none of the model's own."""

    class Flawed(dist.Normal):
        def log_prob(self, value, *args):
            return jnp.where(jnp.abs(value - self.loc) > 3, jnp.nan, super().log_prob(value))

        def sample(self, key, sample_shape=()):
            return self.loc + jnp.clip(super().sample(key, sample_shape) - self.loc, -2, 2)

    return Flawed(z, 1.0)


def unsure(z):
    """A density that is NaN at some of the model's own draws, whatever the parameters."""

    class Unsure(dist.Normal):
        def log_prob(self, value, *args):
            return jnp.where(jnp.abs(value - self.loc) > 2, jnp.nan, super().log_prob(value))

    return Unsure(z, 1.0)


@pytest.mark.parametrize(
    "model, message",
    [
        (
            prior(dist.Gamma(0.01, 1.0)),
            "of site 'z' is not finite at .* own draws .above 1 in 1,000.*Use jax.enable_x64",
        ),
        (
            in_turn(("z", lambda _: Normal(0, 1)), ("x", lambda z: Normal(0, jnp.sqrt(z)))),
            "parameter 'scale' of the Normal of site 'x' must be positive and finite, and is not at",
        ),
        (
            in_turn(("z", lambda _: Normal(0, 1)), ("x", unsure)),
            "of site 'x' is not finite at .* its parameters are all in range.*or its log_prob fails",
        ),
        (in_turn(("z", lambda _: Normal(0, 1)), ("x", flawed)), "of site 'x' is NaN or .inf at .* prior draws"),
    ],
    ids=["own_point", "own_parameter", "own_density", "prior_draw"],
)
def test_bad_draws(model, message):
    with pytest.raises(ValueError, match=message):
        bounds(model, method=TINY, num_samples=64)


def test_a_likelihood_of_zero_is_legitimate():
    """Where every particle misses the support, the upper bound is infinite; neither is ever wrong."""
    method = AIS(num_temperatures=1, num_particles=64)
    wide = in_turn(("z", lambda _: dist.Uniform(0, 1)), ("x", lambda z: dist.Uniform(z, z + 1)))
    result = bounds(wide, method=method, num_samples=500)
    assert abs(result.lower - 0.5) < 4 * result.lower_se and result.upper >= result.lower
    narrow = in_turn(("z", lambda _: Normal(0, 1)), ("x", lambda z: dist.Uniform(z - 0.1, z + 0.1)))
    result = bounds(narrow, method=method, num_samples=500)
    assert 2.5 < result.lower < 3.03 and result.upper == np.inf


def autoregression(x):
    z = numpyro.sample("z", Normal(0, 1))
    x = jnp.asarray(x)
    numpyro.sample("x", Normal(z * x[:-1], 1).to_event(1), obs=x[1:])


def level(x):
    z = numpyro.sample("z", Normal(0, 1))
    numpyro.sample("x", Normal(z * x, 1), obs=x)


def numpy_only(x):
    assert np.max(x) <= 10
    z = numpyro.sample("z", Normal(0, 1))
    numpyro.sample("x", Normal(z * float(np.mean(x)), 1).expand([3]).to_event(1), obs=np.asarray(x))


@pytest.mark.parametrize(
    "model, value",
    [
        (autoregression, [1.0, 4.0, 6.0]),
        (autoregression, (1.0, 4.0, 6.0)),
        (level, 1.5),
        (level, jnp.asarray(1.5)),
        (numpy_only, np.array([9.5, 1.0, 2.0])),
        (numpy_only, [9.5, 1.0, 2.0]),
    ],
)
def test_data_in_any_form_are_not_read(model, value):
    with pytest.raises(ValueError, match="reads its data argument 'x' outside obs="):
        mi_bounds(model, "z", "x", model_args=(value,))


@pytest.mark.parametrize("value", [[1.0, 2.0, 3.0], np.array([1.0, 2.0, 3.0])])
def test_data_in_any_form_are_accepted_in_obs(value):
    def model(x, scale):
        z = numpyro.sample("z", Normal(0, scale))
        numpyro.sample("x", Normal(z, 1).expand([3]).to_event(1), obs=jnp.asarray(x))

    assert joint_model(model, "z", "x", (value, 2.0)).simulated == {"x"}
