"""Standardised coordinates of sites, and settings and starts of each data set."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from example_models import EFFECTS, ERRORS, eight_schools
from jax.scipy.special import logsumexp
from numpyro.contrib.control_flow import scan
from numpyro.distributions import biject_to

from numpyro_mi import AIS, RegressionGuide, evidence_bounds, mi_bounds
from numpyro_mi.annealing.kernels.hmc import AnnealedHMC
from numpyro_mi.draws.keys import Role, role_key
from numpyro_mi.draws.simulation import joint_draws
from numpyro_mi.model.integrals.decomposition import decompose, evidence
from numpyro_mi.model.integrals.densities import flatten, stage_model
from numpyro_mi.model.joint.trace import joint_model, latents_of
from numpyro_mi.model.sites.coordinates import frame, place, standardise
from numpyro_mi.model.sites.slices import Element, WholeDraw
from numpyro_mi.runs.planning import _worth_a_choice

pytestmark = pytest.mark.compile_fast
ON, OFF = jnp.asarray(True), jnp.asarray(False)
TRIL = jnp.array([[2.0, 0.0, 0.0], [0.5, 1.5, 0.0], [-1.0, 0.3, 0.7]])
SCALES = jnp.array([0.5, 1.0, 4.0])
# Each distribution beside the one that its standardised coordinate follows.
FRAMES = {
    "normal": (dist.Normal(SCALES, 3.0), dist.Normal(0, 1)),
    "expanded": (dist.Normal(2.0, 3.0).expand((4, 3)), dist.Normal(0, 1)),
    "to_event": (dist.Normal(jnp.ones((2, 3)), SCALES).to_event(1), dist.Normal(0, 1)),
    "student": (dist.StudentT(3.0, 1.0, SCALES), dist.StudentT(3.0, 0, 1)),
    "cauchy": (dist.Cauchy(1.0, SCALES), dist.Cauchy(0, 1)),
    "laplace": (dist.Laplace(1.0, SCALES), dist.Laplace(0, 1)),
    "logistic": (dist.Logistic(1.0, SCALES), dist.Logistic(0, 1)),
    "gumbel": (dist.Gumbel(1.0, SCALES), dist.Gumbel(0, 1)),
    "soft_laplace": (dist.SoftLaplace(1.0, SCALES), dist.SoftLaplace(0, 1)),
    "asymmetric_laplace": (dist.AsymmetricLaplace(1.0, SCALES, 2.0), dist.AsymmetricLaplace(0, 1, 2.0)),
    "lognormal": (dist.LogNormal(1.0, SCALES), dist.Normal(0, 1)),
    "half_normal": (dist.HalfNormal(SCALES), "log", dist.HalfNormal(1.0)),
    "half_cauchy": (dist.HalfCauchy(SCALES).expand((2, 3)).to_event(1), "log", dist.HalfCauchy(1.0)),
    "exponential": (dist.Exponential(SCALES), "log", dist.Exponential(1.0)),
    "weibull": (dist.Weibull(SCALES, 1.5), "log", dist.Weibull(1.0, 1.5)),
    "multivariate_normal": (dist.MultivariateNormal(SCALES, scale_tril=TRIL), dist.Normal(0, 1)),
    "batch_of_vectors": (dist.MultivariateNormal(jnp.ones((2, 3)), scale_tril=TRIL).to_event(1), dist.Normal(0, 1)),
    "walk": (dist.GaussianRandomWalk(SCALES, 5), dist.Normal(0, 1)),
    "multivariate_student": (
        dist.MultivariateStudentT(4.0, SCALES, TRIL),
        dist.MultivariateStudentT(4.0, jnp.zeros(3), jnp.eye(3)),
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frame(name):
    fn, *_, standard = FRAMES[name]
    value = fn.sample(jax.random.key(1))
    u = standardise(fn, biject_to(fn.support).inv(value), ON)
    back, log_det = place(fn, u, ON)
    np.testing.assert_allclose(back, value, rtol=1e-4, atol=1e-4)
    assert log_det.shape == fn.batch_shape
    # The density in these coordinates is the standard one, whatever location and scale are.
    wanted = standard.log_prob(jnp.exp(u)) + u if len(FRAMES[name]) == 3 else standard.log_prob(u)
    np.testing.assert_allclose((fn.log_prob(value) + log_det).sum(), wanted.sum(), rtol=1e-4, atol=1e-4)
    jacobian = jax.jacfwd(lambda flat: place(fn, flat.reshape(u.shape), ON)[0].ravel())(u.ravel())
    np.testing.assert_allclose(log_det.sum(), jnp.linalg.slogdet(jacobian)[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FRAMES)
def test_frame_that_is_switched_off(name):
    """Exactly the coordinates of the support."""
    fn = FRAMES[name][0]
    value, support = fn.sample(jax.random.key(1)), biject_to(fn.support)
    u = support.inv(value)
    np.testing.assert_array_equal(standardise(fn, u, OFF), u)
    placed, log_det = place(fn, u, OFF)
    np.testing.assert_array_equal(placed, support(u))
    np.testing.assert_allclose(log_det.sum(), jnp.sum(support.log_abs_det_jacobian(u, placed)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "fn",
    [
        dist.Gamma(jnp.array([0.3, 2.0, 50.0]), SCALES),
        dist.InverseGamma(jnp.array([0.7, 2.0, 50.0]), SCALES),
        dist.Beta(jnp.array([0.5, 4.0, 90.0]), jnp.array([0.7, 20.0, 3.0])),
    ],
)
def test_frame_by_moments(fn):
    """Where there is no location and scale, those of the unconstrained value: mean 0 and standard deviation 1."""
    values = fn.sample(jax.random.key(0), (100_000,))
    inner = biject_to(fn.support).inv(values)
    u = jax.vmap(lambda point: standardise(fn, point, ON))(inner)
    np.testing.assert_allclose(u.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(u.std(0), 1, atol=0.02)
    back, log_det = place(fn, u[0], ON)
    np.testing.assert_allclose(back, values[0], rtol=1e-4)
    slopes = jnp.diagonal(jax.jacfwd(lambda u: place(fn, u, ON)[0])(u[0]))
    np.testing.assert_allclose(log_det, jnp.log(slopes), rtol=1e-4, atol=1e-4)


def test_what_has_no_frame():
    for fn in (dist.Pareto(1.0, 3.0), dist.Uniform(0.0, 1.0), dist.Dirichlet(jnp.ones(3)), dist.VonMises(0.0, 1.0)):
        assert frame(fn) is None


def hierarchy(x=None):
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    with numpyro.plate("J", 4):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("x", dist.Normal(theta, jnp.array([0.5, 1, 1, 3.0])), obs=x)


def process(x=None):
    times = jnp.arange(6.0)
    length = numpyro.sample("length", dist.LogNormal(0.5, 0.3))
    cov = jnp.exp(-0.5 * ((times[:, None] - times) / length) ** 2) + 0.05 * jnp.eye(6)
    f = numpyro.sample("f", dist.MultivariateNormal(0.0, cov))
    numpyro.sample("x", dist.Bernoulli(logits=2 * f).to_event(1), obs=x)


def chain(x=None):
    sigma = numpyro.sample("sigma", dist.LogNormal(-1, 0.5))

    def step(h, xt):
        with numpyro.plate("two", 2):
            h = numpyro.sample("h", dist.Normal(0.9 * h, sigma))
            numpyro.sample("x", dist.Poisson(jnp.exp(h)), obs=xt)
        return h, None

    scan(step, jnp.zeros(2), x, length=5)


def averages(x=None):
    kappa = numpyro.sample("kappa", dist.LogNormal(2, 1))
    with numpyro.plate("J", 5):
        phi = numpyro.sample("phi", dist.Beta(0.3 * kappa, 0.7 * kappa))
        numpyro.sample("x", dist.Binomial(20, phi), obs=x)


def walk(x=None):
    sigma = numpyro.sample("sigma", dist.Exponential(5.0))
    nu = numpyro.sample("nu", dist.Exponential(0.1))
    s = numpyro.sample("s", dist.GaussianRandomWalk(sigma, 8))
    numpyro.sample("x", dist.StudentT(1 + nu, 0, jnp.exp(s)).to_event(1), obs=x)


def constant(x=None):
    z = numpyro.sample("z", dist.Normal(3, 2))
    numpyro.sample("x", dist.Normal(z, 1), obs=x)


def labelled(x=None):
    """Its theta has no frame of its own: location and scale move with the label, which is summed."""
    with numpyro.plate("J", 3):
        label = numpyro.sample("label", dist.Bernoulli(0.4))
        theta = numpyro.sample("theta", dist.Normal(label * 4.0, 1 + label))
        numpyro.sample("x", dist.Normal(theta, 1), obs=x)


@pytest.mark.parametrize("model", [hierarchy, process, chain, walk, averages])
def test_both_coordinates_are_of_one_integral(model):
    """The weight at a point does not depend on its coordinates, and neither does a draw of the base."""
    joint = joint_model(model, latents_of(model, "x"), "x")
    staged = stage_model(joint, evidence(joint))
    (integral,) = staged.integrals
    integrand = integral.integrand
    assert integrand.restate is not None

    def compare(key, draw):
        held, u = {name: draw.values[name] for name in integral.held}, flatten(draw.points[0])
        plain, standard = integrand.target(held, OFF), integrand.target(held, ON)
        moved = integrand.point(u, held, ON)
        drawn = integrand.point(plain.sample_base(key), held, ON), standard.sample_base(key)
        # What the coordinates change is a log-determinant, that of the map between them.
        jacobian = jax.jacfwd(lambda u: integrand.point(u, held, ON))(u)
        log_det = jnp.linalg.slogdet(jacobian)[1]
        return (
            (plain.log_ratio(u), standard.log_ratio(moved)),
            drawn,
            (
                plain.log_base(u),
                standard.log_base(moved) + log_det,
            ),
        )

    draws = joint_draws(staged.draw, jax.random.key(2), 20)
    for found, wanted in jax.jit(jax.vmap(compare))(jax.random.split(jax.random.key(3), 20), draws):
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


def offsets(x=None):
    """Locations and scales that differ within the batch."""
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 0.5))
    with numpyro.plate("J", 3):
        theta = numpyro.sample("theta", dist.Normal(sigma * jnp.arange(3.0), sigma))
        phi = numpyro.sample("phi", dist.Beta(sigma * (1 + jnp.arange(3.0)), sigma))
        loc, tril = sigma * jnp.ones((3, 2)), sigma * jnp.arange(1, 4.0)[:, None, None] * jnp.eye(2)
        pair = numpyro.sample("pair", dist.MultivariateNormal(loc, scale_tril=tril))
        walk = numpyro.sample("walk", dist.GaussianRandomWalk(sigma * jnp.arange(1, 4.0), 2))
        numpyro.sample("x", dist.Normal(theta + phi + pair.sum(-1) + walk.sum(-1), 1), obs=x)


def test_elements_of_a_batch():
    """The frame of an element is its own part of that of the batch."""
    whole = joint_model(offsets, latents_of(offsets, "x"), "x")
    values = whole.simulate(jax.random.key(0))
    trace = numpyro.handlers.trace(whole.held_at(values)).get_trace()
    for name in ("theta", "phi", "pair", "walk"):
        joint = joint_model(offsets, f"{name}[1]", "x")
        (*_, everything) = stage_model(joint, evidence(joint)).integrals
        assert everything.integrand.restate is not None
        fn, u = trace[name]["fn"], biject_to(trace[name]["fn"].support).inv(values[name])
        one = Element(fn.expand(fn.batch_shape), (1,), WholeDraw(fn))
        np.testing.assert_allclose(standardise(one, u[1], ON), standardise(fn, u, ON)[1], rtol=1e-5, atol=1e-6)
        for found, wanted in zip(place(one, u[1], ON), place(fn, u, ON), strict=True):
            np.testing.assert_allclose(found, wanted[1], rtol=1e-5, atol=1e-6)


def test_where_there_is_no_choice():
    """Constant locations and scales change units only, which masses take care of."""
    for model in (constant, labelled):
        joint = joint_model(model, [name for name in latents_of(model, "x") if name != "label"], "x")
        for integral in stage_model(joint, decompose(joint)).integrals:
            assert integral.integrand.restate is None


METHODS = {
    "model": AIS(coordinates="model"),
    "standardised": AIS(coordinates="standardised"),
    "chosen": AIS(),
    "own": AIS(coordinates="model", settings="own"),
    "guide": AIS(base=RegressionGuide(), settings="own"),
    "chosen_start": AIS(base=RegressionGuide(), start="chosen"),
}


def normals(x=None):
    """Group means around a global mean, whose spread is known: I is that of jointly normal vectors."""
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    with numpyro.plate("J", 3):
        theta = numpyro.sample("theta", dist.Normal(mu, 0.7))
        numpyro.sample("x", dist.Normal(theta, jnp.array([0.5, 1, 2.0])), obs=x)


def normals_truth():
    prior = 9 * np.ones((3, 3)) + 0.49 * np.eye(3)
    noise = np.diag([0.25, 1, 4.0])
    return 0.5 * (np.linalg.slogdet(prior + noise)[1] - np.linalg.slogdet(noise)[1])


SLOW = ("model", "own", "guide", "standardised")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in METHODS])
def test_truth(name):
    method = METHODS[name]
    result = mi_bounds(normals, ["mu", "theta"], "x", method=method, num_samples=200, progress_bar=False)
    low, high = result.interval(0.99)
    assert low <= normals_truth() <= high
    assert -4 * result.gap_se < result.gap < (0.3 if name in ("model", "own") else 0.05)
    stats = result.stats[0]
    if name in ("chosen", "own", "guide", "chosen_start"):
        assert set(np.unique(stats["start_standardised"])) <= {0, 1}
        assert result.cost["scored_start"] == stats["start_num_grad"].sum() > 0
    else:
        assert "start_num_grad" not in stats


def log_evidence(y):
    """By quadrature over log tau; mu and theta in closed form."""
    t = np.linspace(-20, 40, 60_001)
    tau = np.exp(t)[:, None]
    precision = 1 / (ERRORS**2 + tau**2)
    # y ~ N(0, D + 25 1 1'), D diagonal with the inverse of `precision`.
    total = 1 / 25 + precision.sum(1)
    quadratic = (precision * y**2).sum(1) - (precision * y).sum(1) ** 2 / total
    log_det = -np.log(precision).sum(1) + np.log(25) + np.log(total)
    log_density = -0.5 * (quadratic + log_det + 8 * np.log(2 * np.pi))
    log_prior = np.log(2 / (5 * np.pi)) - np.log1p((np.exp(t) / 5) ** 2) + t
    return logsumexp(log_density + log_prior) + np.log(t[1] - t[0])


@pytest.mark.parametrize(
    ("method", "count"),
    [(AIS(100), 100), pytest.param(AIS(), 200, marks=pytest.mark.slow)],
    ids=["quick", "default"],
)
def test_eight_schools(method, count):
    """Real data within 0.05 of the quadrature, and simulated data on either side of it."""
    exact = log_evidence(EFFECTS)
    assert abs(exact + 31.311347) < 1e-5
    settings = {"num_samples": count, "model_args": (EFFECTS,), "progress_bar": False}
    result = evidence_bounds(eight_schools, "y", method=method, **settings)
    assert exact - 0.05 < result.observed < exact + 3 * result.observed_se
    assert result.limit(0.99) < exact
    joint = joint_model(eight_schools, ["mu", "tau", "theta"], "y")
    draw = stage_model(joint, evidence(joint)).draw
    draws = joint_draws(draw, role_key(jax.random.key(0), Role.JOINT), count)
    wanted = np.array([log_evidence(y) for y in np.asarray(draws.values["y"], np.float64)])
    for error in (wanted - result.lower_i, result.upper_i - wanted):
        assert error.mean() > -3 * error.std(ddof=1) / np.sqrt(count)
    assert np.median(result.upper_i - result.lower_i) < 0.05


def test_coordinates_that_do_not_lead_back_are_said_to_be_left(monkeypatch):
    monkeypatch.setattr("numpyro_mi.runs.planning.standardisable", lambda *_: False)
    method = AIS(3, 2, coordinates="standardised")
    with pytest.warns(UserWarning, match="was not followed for the integral over 'mu', 'theta'.*Use jax.enable_x64"):
        result = mi_bounds(normals, "theta", "x", method=method, num_samples=50, progress_bar=False)
    assert np.isfinite(result.lower)


def test_what_is_refused():
    with pytest.raises(ValueError, match="AIS needs coordinates to be 'chosen' or 'model' or 'standardised', got 'no'"):
        AIS(coordinates="no")
    with pytest.raises(ValueError, match="AIS needs settings to be 'chosen' or 'shared' or 'own', got None"):
        AIS(settings=None)
    with pytest.raises(
        ValueError, match='start="chosen" chooses between a guide and the prior .* pass the guide as base='
    ):
        AIS(start="chosen")
    with pytest.raises(ValueError, match='start="chosen" tunes the chains .* leave these to the pilots'):
        AIS(base=RegressionGuide(), start="chosen", kernel=AnnealedHMC(step_size=0.1))
    with pytest.raises(ValueError, match='settings="own" tunes the chains of each data set, and its kernel has'):
        AIS(settings="own", kernel=AnnealedHMC(inverse_mass_matrix=(1.0,)))
    with pytest.raises(ValueError, match='coordinates="standardised" changes the units .* leave these to the pilots'):
        AIS(coordinates="standardised", kernel=AnnealedHMC(step_size=0.1))
    with pytest.raises(ValueError, match='start="chosen" .* so settings="shared" is not possible'):
        AIS(base=RegressionGuide(), start="chosen", settings="shared")


def test_units_of_the_users_own_are_kept():
    """Pilots of each data set would replace them, where data sets differ."""
    uneven = np.array([0.0, 0.0, 0.0, 100.0])
    for kernel, wanted in ((AnnealedHMC(), True), (AnnealedHMC(inverse_mass_matrix=(1.0,)), False)):
        assert _worth_a_choice(AIS(kernel=kernel), uneven, 1) is wanted
