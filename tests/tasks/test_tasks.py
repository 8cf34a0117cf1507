"""The tasks carry the mutual information they claim."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.util import log_density
from scipy import integrate, special, stats

from numpyro_mi import tasks

pytestmark = pytest.mark.filterwarnings("error")

NUM_DRAWS = 4000
REGISTRY = pytest.mark.parametrize("name", sorted(tasks.TASKS))
WARPED = [name for name, make in sorted(tasks.TASKS.items()) if "_warped" in make().latent + make().data]
TRANSFORMS = {
    "asinh": (tasks.Asinh(), (6,), 3.0),
    "cube": (tasks.Cube(), (6,), 2.0),
    "normalcdf": (tasks.NormalCDF(), (6,), 1.0),
    "spiral": (tasks.Spiral(), (6, 3), 2.0),
    "spiral_pair": (tasks.Spiral(speed=0.5), (6, 2), 2.0),
}


def as_tuple(names):
    return (names,) if isinstance(names, str) else tuple(names)


def draw(task, key):
    return handlers.trace(handlers.seed(task.model, key)).get_trace()


@functools.cache
def first_trace(name):
    return draw(tasks.TASKS[name](), jax.random.key(0))


@functools.cache
def pointwise(name):
    """Return log p(x|z) - log p(x) on joint draws of the model."""
    task = tasks.TASKS[name]()

    def one(key):
        trace = draw(task, key)
        sites = [trace[site] for site in as_tuple(task.data)]
        log_likelihood = sum(site["fn"].log_prob(site["value"]).sum() for site in sites)
        return log_likelihood - task.log_marginal({site["name"]: site["value"] for site in sites})

    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)
    return np.asarray(jax.jit(jax.vmap(one))(keys), dtype=np.float64)


def assert_mean(values, truth, num_se=4.0):
    """Assert that `truth` lies within `num_se` standard errors of the mean of `values`."""
    assert np.all(np.isfinite(values))
    standard_error = values.std(ddof=1) / math.sqrt(values.size)
    assert abs(values.mean() - truth) <= num_se * standard_error + 1e-6


@REGISTRY
def test_model_traces_and_sites_exist(name):
    task = tasks.TASKS[name]()
    assert task.name == name
    trace = first_trace(name)
    for site in as_tuple(task.latent) + as_tuple(task.data):
        assert trace[site]["type"] == "sample"
        assert not trace[site]["is_observed"]
        assert np.all(np.isfinite(trace[site]["value"]))
    data = {site: trace[site]["value"] for site in as_tuple(task.data)}
    model = handlers.seed(handlers.condition(task.model, data), jax.random.key(1))
    conditioned = handlers.trace(model).get_trace()
    for site, value in data.items():
        assert conditioned[site]["is_observed"]
        np.testing.assert_array_equal(conditioned[site]["value"], value)


@REGISTRY
def test_model_takes_observed_data(name):
    task = tasks.TASKS[name]()
    site = as_tuple(task.data)[0]
    old_value = first_trace(name)["x"]["value"]
    trace = handlers.trace(handlers.seed(task.model, jax.random.key(1))).get_trace(x=old_value)
    assert trace[site]["is_observed"]
    np.testing.assert_allclose(trace["x"]["value"], old_value, rtol=1e-4, atol=1e-5)


@REGISTRY
def test_support_of_latent_has_a_bijection(name):
    task = tasks.TASKS[name]()
    trace = first_trace(name)
    for site in as_tuple(task.latent):
        bijection = biject_to(trace[site]["fn"].support)
        value = trace[site]["value"]
        np.testing.assert_allclose(bijection(bijection.inv(value)), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(tasks.TASKS) - {"mlp10", *WARPED}))
def test_truth_is_the_mean_of_the_pointwise_values(name):
    assert_mean(pointwise(name), tasks.TASKS[name]().mutual_information)


def test_assert_mean_detects_a_wrong_truth():
    with pytest.raises(AssertionError):
        assert_mean(pointwise("correlated_normal"), 0.413339 + 0.1)


def test_only_mlp10_has_no_exact_truth():
    for name, make in tasks.TASKS.items():
        task = make()
        assert (task.log_marginal is None) == (name == "mlp10")
        assert (task.mutual_information_se > 0.0) == (name == "mlp10")


def test_known_values():
    truth = {name: make().mutual_information for name, make in tasks.TASKS.items()}
    assert truth["correlated_normal"] == pytest.approx(0.413339, abs=1e-6)
    assert truth["correlated_normal_weak"] == pytest.approx(0.05, abs=1e-12)
    assert truth["linear10"] == pytest.approx(23.22, abs=1e-4)
    assert truth["linear200"] == pytest.approx(200.0, abs=1e-6)
    assert min(truth.values()) == pytest.approx(0.05)
    assert max(truth.values()) == pytest.approx(200.0)


def test_linear10_and_mlp10_use_the_stated_weights():
    weights = 1.0766816 * np.random.default_rng(0).standard_normal((100, 10))
    rng = np.random.default_rng(0)
    first = rng.standard_normal((64, 10)) / np.sqrt(10)
    second = rng.standard_normal((100, 64)) / np.sqrt(64)
    z = np.linspace(-1.0, 1.0, 10)
    for task, loc, scale in [
        (tasks.linear10(), weights @ z, 1.0),
        (tasks.mlp10(), second @ np.tanh(first @ z), 0.1),
    ]:
        model = handlers.seed(handlers.condition(task.model, {"z": jnp.asarray(z)}), jax.random.key(0))
        fn = handlers.trace(model).get_trace()["x"]["fn"].base_dist
        np.testing.assert_allclose(fn.loc, loc, atol=1e-5)
        np.testing.assert_allclose(fn.scale, scale, rtol=1e-6)
    assert np.linalg.slogdet(np.eye(10) + weights.T @ weights)[1] / 2 == pytest.approx(23.22, abs=1e-4)


@pytest.mark.parametrize("concentration", [0.7, 2.0, 5.0])
def test_gamma_exponential_against_quadrature(concentration):
    lomax = stats.lomax(concentration)
    entropy = integrate.quad(lambda x: -lomax.pdf(x) * lomax.logpdf(x), 0.0, np.inf, limit=500)[0]
    gamma = stats.gamma(concentration)
    # In u = log z the integrand is smooth at the lower end.
    conditional = integrate.quad(lambda u: gamma.pdf(np.exp(u)) * np.exp(u) * (1.0 - u), -60.0, 6.0, limit=500)[0]
    truth = tasks.gamma_exponential(concentration).mutual_information
    assert truth == pytest.approx(entropy - conditional, abs=1e-6)


def test_beta_binomial_against_quadrature_and_dirichlet_multinomial():
    alpha, beta, n = 1.5, 2.5, 20
    x = np.arange(n + 1)
    log_marginal = stats.betabinom(n, alpha, beta).logpmf(x)

    def integrand(z):
        log_likelihood = stats.binom(n, z).logpmf(x)
        divergence = np.sum(np.exp(log_likelihood) * (log_likelihood - log_marginal))
        return stats.beta(alpha, beta).pdf(z) * divergence

    truth = tasks.beta_binomial(alpha, beta, n).mutual_information
    assert truth == pytest.approx(integrate.quad(integrand, 0.0, 1.0)[0], abs=1e-6)
    assert truth == pytest.approx(tasks.dirichlet_multinomial((alpha, beta), n).mutual_information, abs=1e-12)


def test_poisson_gamma_against_quadrature():
    a, b, n = 2.0, 0.5, 3
    t = np.arange(400)
    log_marginal = stats.nbinom(a, b / (b + n)).logpmf(t)

    def integrand(z):
        log_likelihood = special.xlogy(t, n * z) - n * z - special.gammaln(t + 1)
        divergence = np.sum(np.exp(log_likelihood) * (log_likelihood - log_marginal))
        return stats.gamma(a, scale=1 / b).pdf(z) * divergence

    truth = tasks.poisson_gamma(a, b, n).mutual_information
    assert truth == pytest.approx(integrate.quad(integrand, 0.0, 80.0, limit=200)[0], abs=1e-6)


@pytest.mark.parametrize("width", [0.1, 0.5, 1.5])
def test_uniform_noise_marginal(width):
    task = tasks.uniform_noise(width)
    x = np.linspace(-width, 1.0 + width, 20001)
    p = np.exp(np.asarray(task.log_marginal({"x": x}), dtype=np.float64))
    assert integrate.trapezoid(p, x) == pytest.approx(1.0, abs=1e-4)
    entropy = integrate.trapezoid(special.entr(p), x)
    assert task.mutual_information == pytest.approx(entropy - math.log(2.0 * width), abs=1e-3)
    assert task.log_marginal({"x": -2.0 * width - 0.1}) == -np.inf


def test_uniform_noise_has_a_hard_support():
    task = tasks.uniform_noise()

    def log_joint(z):
        return log_density(task.model, (), {"x": jnp.asarray(0.5)}, {"z": z})[0]

    values = jax.vmap(log_joint)(jnp.array([0.3, 0.45, 0.7]))
    assert np.isneginf(values[0]) and np.isfinite(values[1]) and np.isneginf(values[2])


@pytest.mark.parametrize("reroll, truth", [(0.0, math.log(8)), (1.0, 0.0)])
def test_noisy_channel_at_the_ends(reroll, truth):
    assert tasks.noisy_channel(8, reroll).mutual_information == pytest.approx(truth, abs=1e-12)


def test_hierarchical_normal_against_the_dense_determinant():
    task = tasks.hierarchical_normal(num_groups=4, noise=0.5, hyper_scale=2.0, group_scale=1.5)
    prior = 1.5**2 * np.eye(4) + 2.0**2
    information = 0.5 * np.linalg.slogdet(np.eye(4) + prior / 0.5**2)[1]
    assert task.mutual_information == pytest.approx(information, abs=1e-10)
    x = np.array([1.0, -2.0, 0.5, 3.0])
    exact = stats.multivariate_normal(np.zeros(4), prior + 0.25 * np.eye(4)).logpdf(x)
    assert float(task.log_marginal({"x": jnp.asarray(x)})) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tasks.correlated_normal(rho=1.0),
        lambda: tasks.multivariate_normal((0.5, 1.0)),
        lambda: tasks.hierarchical_normal(noise=0.0),
        lambda: tasks.linear_vae(noise=-1.0),
        lambda: tasks.gamma_exponential(0.0),
        lambda: tasks.beta_binomial(alpha=0.0),
        lambda: tasks.dirichlet_multinomial((1.0,)),
        lambda: tasks.poisson_gamma(rate=0.0),
        lambda: tasks.noisy_channel(reroll=1.5),
        lambda: tasks.uniform_noise(0.0),
        lambda: tasks.Task("", lambda: None, "z", "x", math.nan),
    ],
)
def test_bad_parameters_are_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_inverts_and_has_the_right_jacobian(name):
    transform, shape, scale = TRANSFORMS[name]
    x = scale * jax.random.normal(jax.random.key(3), shape)
    y = transform(x)
    assert np.all(transform.codomain(y))
    np.testing.assert_allclose(transform.inv(y), x, rtol=1e-4, atol=1e-5)
    jacobian = jax.vmap(jax.jacfwd(transform))(x)
    if transform.domain.event_dim == 0:
        log_det = jnp.log(jnp.abs(jacobian))
    else:
        log_det = jnp.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(transform.log_abs_det_jacobian(x, y), log_det, rtol=1e-4, atol=1e-5)
    leaves, structure = jax.tree.flatten(transform)
    assert jax.tree.unflatten(structure, leaves) == transform
    jax.jit(lambda t, x: t(x))(transform, x)
    assert transform != dist.transforms.ExpTransform()


def test_transforms_with_other_parameters_differ():
    assert tasks.Spiral(1.0) != tasks.Spiral(2.0)
    assert tasks.Cube() != tasks.Asinh()


def test_normal_cdf_stays_inside_the_unit_interval():
    transform = tasks.NormalCDF()
    x = jnp.array([-200.0, -12.0, 0.0, 5.0, 200.0])
    y = transform(x)
    assert np.all((y > 0.0) & (y < 1.0))
    assert np.all(np.isfinite(transform.inv(jnp.array([0.0, 1.0]))))
    np.testing.assert_allclose(transform.inv(y)[1:4], x[1:4], rtol=3e-2, atol=1e-6)


def test_spiral_has_a_derivative_at_zero():
    np.testing.assert_allclose(jax.jacrev(tasks.Spiral())(jnp.zeros(3)), np.eye(3))
    with pytest.raises(ValueError, match="two or more"):
        tasks.Spiral()(jnp.zeros(1))


@pytest.mark.parametrize("name", WARPED)
def test_warped_density_is_the_original_one_up_to_the_jacobian(name):
    """The pointwise values, from log_prob at both sites, are those of the original at the same point."""
    task = tasks.TASKS[name]()
    original = tasks.TASKS[name.rsplit("_", 2)[0]]()
    assert task.mutual_information == original.mutual_information
    site = "z" if task.latent == "z_warped" else "x"

    def one(key):
        trace = draw(task, key)
        new = {name: trace[name]["value"] for name in (task.latent, task.data)}
        old = {name: trace[name]["value"] for name in ("z", "x")}
        transform = trace[f"{site}_warped"]["fn"].transforms[-1]
        jacobian = transform.log_abs_det_jacobian(old[site], new[f"{site}_warped"]).sum()
        joint = log_density(task.model, (), {}, new)[0] + jacobian
        pointwise = trace[task.data]["fn"].log_prob(new[task.data]).sum() - task.log_marginal(new)
        with handlers.seed(rng_seed=0), handlers.condition(data=old):
            original_trace = handlers.trace(original.model).get_trace()
        original_likelihood = original_trace["x"]["fn"].log_prob(old["x"]).sum()
        original_pointwise = original_likelihood - original.log_marginal({"x": old["x"]})
        return joint, log_density(original.model, (), {}, old)[0], pointwise, original_pointwise

    joint, original_joint, values, original_values = jax.jit(jax.vmap(one))(
        jax.random.split(jax.random.key(4), NUM_DRAWS)
    )
    np.testing.assert_allclose(joint, original_joint, atol=0.02)
    assert np.median(np.abs(joint - original_joint)) < 1e-5
    np.testing.assert_allclose(values, original_values, atol=0.02)
    assert_mean(np.asarray(values, dtype=np.float64), original.mutual_information)


def test_support_of_warped_sites():
    for name, site, support in [
        ("correlated_normal_z_asinh", "z_warped", constraints.real),
        ("correlated_normal_z_normalcdf", "z_warped", constraints.unit_interval),
        ("multivariate_normal_x_spiral", "x_warped", constraints.real_vector),
    ]:
        assert first_trace(name)[site]["fn"].support == support


@pytest.mark.parametrize("site", ["z", "x"])
def test_warped_in_a_plate_and_twice(site):
    task = tasks.warped(tasks.hierarchical_normal(), tasks.Asinh(), site)
    task = tasks.warped(task, tasks.NormalCDF(), f"{site}_warped")
    trace = draw(task, jax.random.key(0))
    new = f"{site}_warped_warped"
    assert trace[new]["fn"].batch_shape == (8,)
    assert [frame.name for frame in trace[new]["cond_indep_stack"]] == ["groups"]
    with numpyro.plate("outer", 3, dim=-2), handlers.seed(rng_seed=0):
        expanded = handlers.trace(task.model).get_trace()
    assert expanded[new]["value"].shape == (3, 8)
    assert expanded[new]["fn"].log_prob(expanded[new]["value"]).shape == (3, 8)


def test_warped_vector_site_with_coordinatewise_transform():
    task = tasks.warped(tasks.linear_vae(), tasks.Cube(), "z")
    fn = draw(task, jax.random.key(0))["z_warped"]["fn"]
    assert (fn.batch_shape, fn.event_shape) == ((), (5,))


def test_warped_renames_in_tuples():
    def model(x=None):
        a = numpyro.sample("a", dist.Normal())
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    task = tasks.Task("sum", model, ("a", "b"), "x", 0.5 * math.log(3.0))
    new = tasks.warped(task, tasks.Asinh(), "b")
    assert (new.latent, new.data, new.log_marginal) == (("a", "b_warped"), "x", None)
    trace = draw(new, jax.random.key(0))
    assert (trace["b"]["type"], trace["b_warped"]["type"]) == ("deterministic", "sample")


def test_warped_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="not a latent"):
        tasks.warped(tasks.correlated_normal(), tasks.Asinh(), "nothing")
    for task, transform, site in [
        (tasks.gamma_exponential(), tasks.Asinh(), "z"),
        (tasks.hierarchical_normal(), tasks.Spiral(), "z"),
        (tasks.beta_binomial(), tasks.Cube(), "x"),
    ]:
        with pytest.raises(ValueError, match="choose a transform"):
            draw(tasks.warped(task, transform, site), jax.random.key(0))
