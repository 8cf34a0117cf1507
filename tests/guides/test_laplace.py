"""The Laplace guide: its density, what it may depend on, and the cases in which such guides are known to fail."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from numpyro_mi import AIS, IWAE, mi_bounds, tasks
from numpyro_mi.guides.laplace import FittedLaplace, LaplaceGuide
from numpyro_mi.guides.regression import FittedRegression, RegressionGuide
from numpyro_mi.targets import AnnealedTarget
from numpyro_mi.training.pairs import Pairs

pytestmark = pytest.mark.compile_fast

SEED = 11


def fitted(guide, d=1, scale=None, mean=0.0):
    """A guide whose regression is constant."""
    scale = jnp.eye(d) if scale is None else scale
    weights = (jnp.zeros(1), jnp.ones(1), jnp.zeros((1, d)), jnp.full(d, mean))
    return FittedLaplace(FittedRegression(*weights, scale, RegressionGuide()), guide)


def problem(log_likelihood, d=1):
    """A target with a standard normal prior."""
    return AnnealedTarget(
        lambda rng_key: jax.random.normal(rng_key, (d,)),
        lambda u: dist.Normal(0, 1).log_prob(u).sum(),
        log_likelihood,
    )


@functools.cache
def squares(dof):
    """The guide for x = z^2 + noise, and its compiled `condition(x, rng_key)`."""
    guide = fitted(LaplaceGuide(degrees_of_freedom=dof))
    return guide, jax.jit(lambda x, rng_key: guide.condition(square(x), jnp.atleast_1d(x), rng_key))


def square(x):
    return problem(lambda u: dist.Normal(u**2, 0.3).log_prob(x).sum())


def conditioned(guide, target, x, key=0):
    return jax.jit(lambda x, rng_key: guide.condition(target, x, rng_key))(jnp.atleast_1d(x), jax.random.key(key))


def log_density(guide, conditional, u):
    """Of u itself."""
    return guide.log_prob(conditional, conditional.whiten(u)) - conditional.log_det()


def mass(guide, conditional, grid):
    """The integral of the density over a line."""
    log_densities = jax.jit(jax.vmap(lambda u: log_density(guide, conditional, u[None])))(grid)
    return np.trapezoid(np.exp(np.asarray(log_densities, np.float64)), grid)


# The density.


@pytest.mark.parametrize("dof", [None, 5.0, 1.0])
@pytest.mark.parametrize("x, modes", [(1.5, 2), (0.0, 1), (-1.0, 1)])
def test_mixture_normalises(dof, x, modes):
    guide, condition = squares(dof)
    conditional = condition(x, jax.random.key(0))
    assert conditional.stats["modes"] == modes and conditional.stats["fallback"] == 0
    grid = np.concatenate([-np.geomspace(1e4, 5, 3000), np.linspace(-5, 5, 8001)[1:-1], np.geomspace(5, 1e4, 3000)])
    assert mass(guide, conditional, grid) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("dof", [None, 5.0, 1.0, 2.5])
def test_samples_follow_the_density(dof):
    guide, condition = squares(dof)
    conditional = condition(0.7, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: guide.sample(conditional, key)))(keys), np.float64)[:, 0]
    grid = np.concatenate([-np.geomspace(1e4, 9, 3000), np.linspace(-9, 9, 20001)[1:-1], np.geomspace(9, 1e4, 3000)])
    log_density = jax.jit(jax.vmap(lambda v: guide.log_prob(conditional, v[None])))(grid)
    density = np.exp(np.asarray(log_density, np.float64))
    cdf = np.append(0.0, np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid)))
    assert stats.kstest(draws, lambda v: np.interp(v, grid, cdf)).pvalue > 1e-3


def test_mirrored_modes_are_in_proportion():
    guide = fitted(LaplaceGuide(degrees_of_freedom=None))
    tilted = problem(lambda u: dist.Normal(u**2, 0.2).log_prob(1.0).sum() + 0.5 * u.sum())
    conditional = conditioned(guide, tilted, 1.0)
    weights = np.sort(np.exp(conditional.extra.log_weights))[-2:]
    assert conditional.stats["modes"] == 2
    # The Laplace approximation of int_{u > 0} f over int f, by quadrature.
    grid = np.linspace(-4, 4, 4001)
    f = np.exp(-0.5 * grid**2 - 0.5 * ((1 - grid**2) / 0.2) ** 2 + 0.5 * grid)
    assert weights[1] == pytest.approx(f[grid > 0].sum() / f.sum(), abs=0.02)


def test_mixture_has_standard_moments_in_v():
    guide = fitted(LaplaceGuide(degrees_of_freedom=None), d=2)
    target = problem(lambda u: dist.Normal(u**2, 0.3).log_prob(jnp.array([1.0, 0.5])).sum(), d=2)
    conditional = conditioned(guide, target, 0.0)
    draws = jax.vmap(lambda key: guide.sample(conditional, key))(jax.random.split(jax.random.key(2), 50_000))
    np.testing.assert_allclose(draws.mean(0), 0.0, atol=0.02)
    np.testing.assert_allclose(np.cov(draws.T), np.eye(2), atol=0.03)


@pytest.mark.parametrize("dof", [None, 5.0])
def test_one_component_is_standard(dof):
    d, rng = 4, np.random.default_rng(3)
    root = np.linalg.cholesky(np.cov(rng.standard_normal((d, 20)))).astype(np.float32)
    precision, mean = jnp.asarray(np.linalg.inv(root @ root.T)), jnp.arange(1.0, d + 1)
    guide = fitted(
        LaplaceGuide(degrees_of_freedom=dof, inflation=1.0), d, jnp.tril(0.3 * jnp.ones((d, d))) + jnp.eye(d)
    )
    target = AnnealedTarget(
        lambda rng_key: jax.random.normal(rng_key, (d,)),
        lambda u: dist.Normal(0, 1).log_prob(u).sum(),
        lambda u: -0.5 * (u - mean) @ precision @ (u - mean) - dist.Normal(0, 1).log_prob(u).sum(),
    )
    conditional = conditioned(guide, target, 0.0)
    assert conditional.stats["modes"] == 1 and conditional.stats["regression_weight"] == 0
    np.testing.assert_allclose(conditional.loc, mean, atol=1e-3)
    np.testing.assert_allclose(conditional.scale @ conditional.scale.T, root @ root.T, rtol=1e-3, atol=1e-4)
    v, log_prob = jnp.linspace(-2, 2, d), jax.jit(lambda v: guide.log_prob(conditional, v))
    expected = stats.multivariate_normal(np.zeros(d)) if dof is None else stats.multivariate_t(np.zeros(d), df=dof)
    assert log_prob(v) == pytest.approx(expected.logpdf(v), abs=1e-3)
    numeric = [(log_prob(v + h) - log_prob(v - h)) / 0.02 for h in 0.01 * jnp.eye(d)]
    np.testing.assert_allclose(jax.grad(log_prob)(v), numeric, atol=2e-3)


def test_no_mode_falls_back_to_the_regression():
    guide = fitted(LaplaceGuide(degrees_of_freedom=5.0), d=2, mean=0.5)
    flat = AnnealedTarget(
        lambda rng_key: jax.random.normal(rng_key, (2,)), lambda u: 0.0 * u.sum(), lambda u: u[0] - 0.5 * u[1] ** 2
    )
    conditional = conditioned(guide, flat, 0.0)
    assert conditional.stats["fallback"] == 1 and conditional.stats["modes"] == 0
    np.testing.assert_allclose(conditional.loc, 0.5, atol=1e-6)
    v = jnp.array([0.3, -2.0])
    assert log_density(guide, conditional, 0.5 + v) == pytest.approx(
        stats.multivariate_t(np.zeros(2), df=5).logpdf(v), abs=1e-3
    )


def test_not_finite_everywhere_falls_back():
    guide = fitted(LaplaceGuide())
    conditional = conditioned(guide, problem(lambda u: jnp.where(u > 1e9, 0.0, -jnp.inf).sum()), 0.0)
    assert conditional.stats["fallback"] == 1
    assert np.isfinite(ravel_pytree(conditional._replace(extra=conditional.extra[1:]))[0]).all()


# What it depends on: x and its own noise.


def test_guide_never_sees_the_simulated_latent():
    arguments = inspect.signature(FittedLaplace.condition).parameters
    assert list(arguments) == ["self", "target", "x", "rng_key"]
    guide, simulated = fitted(LaplaceGuide()), jnp.array([-1.0, 1.0])

    def conditional(z):
        target = square(1.0)._replace(sample_target=lambda rng_key: z[None])  # where a latent could leak in
        return ravel_pytree(guide.condition(target, jnp.ones(1), jax.random.key(0)))[0]

    first, second = jax.jit(jax.vmap(conditional))(simulated)
    np.testing.assert_array_equal(first, second)


def test_other_noise_finds_the_same_modes():
    first, second = (squares(5.0)[1](1.5, jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_allclose(first.loc, second.loc, atol=1e-3)
    np.testing.assert_allclose(first.scale, second.scale, rtol=1e-3)


# Configuration.


@pytest.mark.parametrize(
    "options, message",
    [
        ({"degrees_of_freedom": 0}, "degrees_of_freedom between"),
        ({"degrees_of_freedom": "five"}, "or None for a normal density"),
        ({"degrees_of_freedom": True}, "degrees_of_freedom between"),
        ({"inflation": 0.0}, "finite inflation above 0"),
        ({"inflation": np.inf}, "finite inflation above 0"),
        ({"num_pilots": -1}, "num_pilots, an integer of at least 0"),
        ({"max_iterations": 0}, "max_iterations, an integer of at least 1"),
        ({"max_iterations": 2.0}, "max_iterations, an integer of at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LaplaceGuide(**options)


def pairs(d):
    """Draws of independent normals."""

    def blocks(count):
        draws = np.random.default_rng(4).standard_normal((count, d + 1)).astype(np.float32)
        yield draws[:, :d], draws[:, d:]

    return Pairs(blocks, d, 1)


def ignore(stage):
    """Nobody watches the stages of a fit."""


def test_many_latents_are_refused():
    """Rather than be given the regression under the name of this guide."""
    message = r"up to 200 latents, and here there are 201: use RegressionGuide\(\)"
    with pytest.raises(ValueError, match=message):
        LaplaceGuide().fit(pairs(201), jax.random.key(0), ignore)
    assert isinstance(LaplaceGuide().fit(pairs(200), jax.random.key(0), ignore), FittedLaplace)


def test_many_latents_are_refused_before_anything_is_scored():
    def model(x=None):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([201]).to_event(1))
        numpyro.sample("x", dist.Normal(z.mean(), 1.0), obs=x)

    with pytest.raises(ValueError, match="here there are 201"):
        bounds(model, "z", IWAE(LaplaceGuide(), 10), 100)


def test_fitted_is_for_draws_of_its_kind():
    guide = LaplaceGuide().fit(pairs(2), jax.random.key(0), ignore)
    assert isinstance(guide, FittedLaplace) and guide.fit(pairs(2), jax.random.key(0), ignore) is guide
    with pytest.raises(ValueError, match="this FittedLaplace was fitted to 1 values of data and 2 "):
        guide.fit(pairs(3), jax.random.key(0), ignore)


def test_needs_the_joint_density():
    with pytest.raises(ValueError, match="LaplaceGuide looks for modes of the joint density"):
        fitted(LaplaceGuide()).condition(None, jnp.zeros(1), jax.random.key(0))


# The public call, on models in which such guides are known to fail.


def squared(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(z**2, 0.3), obs=x)


def centred_hierarchy(x=None):
    tau, mu = numpyro.sample("tau", dist.HalfNormal(1.0)), numpyro.sample("mu", dist.Normal(0, 1))
    z = numpyro.sample("z", dist.Normal(mu, tau).expand([5]).to_event(1))
    numpyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def log_normal_hierarchy(x=None):
    log_tau, mu = numpyro.sample("log_tau", dist.Normal(0, 1)), numpyro.sample("mu", dist.Normal(0, 1))
    z = numpyro.sample("z", dist.Normal(mu, jnp.exp(log_tau)).expand([5]).to_event(1))
    numpyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def saturated(x=None):
    z = numpyro.sample("z", dist.Cauchy(0, 1))
    numpyro.sample("x", dist.Normal(jnp.tanh(z), 0.3), obs=x)


def quadrature(prior, mean, noise, low, high):
    """I(z; x) for x ~ N(mean(z), noise), with z at the quantiles of its prior."""
    z = prior.ppf((np.arange(4000) + 0.5) / 4000)
    x = np.linspace(low, high, 4001)
    given = stats.norm.pdf(x, mean(z)[:, None], noise)
    marginal = given.mean(0)
    entropy = -np.trapezoid(np.where(marginal > 0, marginal * np.log(np.maximum(marginal, 1e-300)), 0.0), x)
    return entropy - stats.norm(0, noise).entropy()


def bounds(model, latent, method, num_samples=400):
    return mi_bounds(model, latent, "x", method=method, num_samples=num_samples, rng_key=SEED, progress_bar=False)


def covers(result, truth):
    low, high = result.interval(0.99)
    return low < truth < high


TRUTH_SQUARED = quadrature(stats.norm(), np.square, 0.3, -3, 25)
TRUTH_SATURATED = quadrature(stats.cauchy(), np.tanh, 0.3, -3, 3)


def test_mirrored_modes():
    result = bounds(squared, "z", IWAE(LaplaceGuide(), 100))
    stats = result.stats[0]
    assert 0 <= result.gap < 0.02 and covers(result, TRUTH_SQUARED)
    assert stats["guide_fallback"].sum() == 0 and set(np.unique(stats["guide_modes"])) <= {1, 2}
    assert (stats["guide_modes"] == 2).mean() > 0.6  # the rest have x near or below 0, and one mode
    assert stats["guide_num_grad"].mean() < 300 and result.cost["scored_guide"] == stats["guide_num_grad"].sum()


def test_no_finite_mode():
    result = bounds(centred_hierarchy, ["tau", "mu", "z"], IWAE(LaplaceGuide(), 100))
    assert result.stats[0]["guide_fallback"].mean() > 0.5
    assert np.isfinite(result.lower_i).all() and np.isfinite(result.upper_i).all()
    assert result.lower < result.upper


def test_skewed_posterior():
    task = tasks.poisson_gamma(concentration=0.5, rate=0.5)
    result = bounds(task.model, "z", IWAE(LaplaceGuide(), 100))
    assert 0 <= result.gap < 0.02 and covers(result, task.mutual_information)
    assert result.stats[0]["guide_fallback"].sum() == 0


def test_normal_posterior_exactly():
    task = tasks.linear_vae(num_latents=3, num_data=4, scale=3.0)
    result = bounds(task.model, "z", IWAE(LaplaceGuide(degrees_of_freedom=None, inflation=1.0), 10), 200)
    assert abs(result.gap) < 1e-3
    assert (result.stats[0]["guide_modes"] == 1).all() and (result.stats[0]["guide_regression_weight"] == 0).all()


@pytest.mark.slow
def test_heavy_tails_need_heavy_tails():
    task = tasks.poisson_gamma(concentration=0.5, rate=0.5)
    normal, student = (bounds(task.model, "z", IWAE(LaplaceGuide(degrees_of_freedom=dof), 100)) for dof in (None, 5.0))
    assert student.gap < 0.3 * normal.gap


@pytest.mark.slow
@pytest.mark.parametrize("dof, gap", [(5.0, 0.1), (1.0, 0.02)])
def test_saturated_cauchy(dof, gap):
    result = bounds(saturated, "z", IWAE(LaplaceGuide(degrees_of_freedom=dof), 100))
    assert 0 <= result.gap < gap and covers(result, TRUTH_SATURATED)


@pytest.mark.slow
def test_narrow_mode_of_a_hierarchy():
    """A finite mode that holds hardly any mass: the regression joins the mixture."""
    result = bounds(log_normal_hierarchy, ["log_tau", "mu", "z"], IWAE(LaplaceGuide(), 100))
    assert np.isfinite(result.lower_i).all() and np.isfinite(result.upper_i).all() and result.gap < 2
    assert result.stats[0]["guide_regression_weight"].mean() > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("dof, inflation, gap", [(5.0, 1.1, 0.02), (None, 1.0, 1e-3)])
def test_linear10(dof, inflation, gap):
    guide = LaplaceGuide(degrees_of_freedom=dof, inflation=inflation)
    result = bounds(tasks.linear10().model, "z", IWAE(guide, 100))
    assert abs(result.gap) < gap and covers(result, tasks.linear10().mutual_information)
    assert (result.stats[0]["guide_modes"] == 1).all()


@pytest.mark.slow
def test_annealed_from_the_guide():
    result = bounds(squared, "z", AIS(base=LaplaceGuide(), num_temperatures=20, num_particles=4))
    assert 0 <= result.gap < 0.1 and covers(result, TRUTH_SQUARED)


@pytest.mark.slow
def test_annealed_from_tails_that_are_too_light():
    """Of a Cauchy latent: valid with every guide, and closer with its own tails."""
    guides = [LaplaceGuide(degrees_of_freedom=dof) for dof in (1.0, 5.0, "auto")]
    methods = [AIS(base=guide, num_temperatures=20, num_particles=4) for guide in guides]
    own, light, chosen = (bounds(saturated, "z", method) for method in methods)
    assert all(covers(result, TRUTH_SATURATED) for result in (own, light, chosen))
    assert own.gap + 4 * own.gap_se < light.gap and chosen.gap < light.gap + 4 * light.gap_se


@pytest.mark.slow
def test_mlp10_annealed():
    method = AIS(base=LaplaceGuide(degrees_of_freedom=None), num_temperatures=30, num_particles=1)
    result = bounds(tasks.mlp10().model, "z", method)
    assert -0.01 < result.gap < 0.05 and covers(result, tasks.mlp10().mutual_information)
