"""Exact draws pass the identities of their density; draws of another law, and laws that change, are refused by name."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from example_models import EXAMPLES
from jax.scipy.stats import norm
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints, transforms

from numpyro_mi import GuideFunction, tasks
from numpyro_mi.draws.consistency import Differences
from numpyro_mi.draws.preflight import preflight
from numpyro_mi.draws.simulation import joint_pairs
from numpyro_mi.draws.values import atoms
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.sites.conditionals import is_own, terms
from numpyro_mi.model.sites.identities import balance, bridge, drift, mean_of, vector_terms

pytestmark = pytest.mark.compile_fast

sample, Normal = numpyro.sample, dist.Normal


def staged(model, latent="z", data="x", args=(), kwargs=None, given=()):
    joint = joint_model(model, latent, data, args, kwargs or {}, None, given or ())
    return stage_model(joint, decompose(joint))


def check(model, key=0, **groups):
    preflight(staged(model, **groups), jax.random.key(key))


class TestIdentities:
    """By enumeration, without any draw."""

    density = np.array([0.0, 0.1, 0.3, 0.0, 0.25, 0.05, 0.3, 0.0])
    other = np.array([0.2, 0.0, 0.2, 0.1, 0.1, 0.1, 0.1, 0.2])

    def ratio(self, f, g):
        with np.errstate(divide="ignore", invalid="ignore"):
            return jnp.asarray(np.log(g) - np.log(f))

    def moved(self, scored, step):
        return self.ratio(scored, np.roll(scored, -step)), self.ratio(scored, np.roll(scored, step))

    @pytest.mark.parametrize("step", range(1, 8))
    @pytest.mark.parametrize("identity", [balance, drift])
    def test_moves(self, identity, step):
        drawn = self.density > 0
        means = [
            float(np.where(drawn, self.density * identity(*self.moved(scale * self.density, step)), 0.0).sum())
            for scale in (1, 5)
        ]
        np.testing.assert_allclose(means, 0.0, atol=1e-7)

    def test_bridge(self):
        def mean(scored):
            ratio = self.ratio(scored, self.other)
            pairs = itertools.product(np.nonzero(self.density)[0], np.nonzero(self.other)[0])
            return sum(self.density[i] * self.other[j] * float(bridge(ratio[i], ratio[j])) for i, j in pairs)

        assert abs(mean(self.density)) < 1e-7
        assert abs(mean(2 * self.density)) > 0.05

    @pytest.mark.parametrize("share", [1e-4, 1e-3, 0.01, 0.1])
    def test_no_false_alarm_where_terms_are_rare(self, share):
        """A t-statistic of such terms fails on most samples that hold none of the rare ones."""
        rng = np.random.default_rng(0)
        for _ in range(300):
            rare = rng.random(4096) < share
            assert not mean_of(np.where(rare, 1.0, -share / (1 - share)) + 1e-9 * rng.standard_normal(4096)).fails

    def test_means_that_are_not_zero(self):
        assert mean_of(0.1 * np.random.default_rng(0).standard_normal(4096) + 0.03).fails
        assert mean_of(np.full(4096, np.nan)).fails


class Lying(dist.Normal):
    """Draws of one normal, the density of another."""

    def __init__(self, loc, scale, widen=1.0, shift=0.0, offset=0.0):
        self.widen, self.shift, self.offset = widen, shift, offset
        super().__init__(loc, scale)

    def log_prob(self, value, *args):
        other = Normal(self.loc + self.shift * self.scale, self.widen * self.scale)
        return other.log_prob(value) + self.offset


LIES = {
    "wider": {"widen": 1.4},
    "narrower": {"widen": 1 / 1.4},
    "shifted": {"shift": 0.5},
    "too large": {"offset": np.log(2.0)},
    "too small": {"offset": -np.log(2.0)},
}
COUNT = 4096


@pytest.fixture(scope="module")
def conditional_means():
    """The three means of a distribution with a location of its own in each draw, for all cases at once."""

    def normal(size, lie):
        return lambda z: Lying(z * jnp.ones(size), 0.5 * jnp.ones(size), **lie).to_event(1)

    cases = {(name, size): normal(size, lie) for name, lie in {"true": {}, **LIES}.items() for size in (1, 10, 784)}
    cases |= {
        ("vector", 10): lambda z: dist.MultivariateNormal(z * jnp.ones(10), jnp.eye(10) + 0.5),
        ("counts", 1): lambda z: dist.Poisson(jnp.exp(z)),
        ("bits", 10): lambda z: dist.Bernoulli(logits=z * jnp.ones(10)).to_event(1),
        ("totals", 3): lambda z: dist.Multinomial(5, jax.nn.softmax(z * jnp.arange(3))),
        ("bounded", 1): lambda z: dist.Uniform(z, z + 2),
        ("spike", 1): lambda z: dist.Gamma(0.3, jnp.exp(z)),
        ("heavy", 1): lambda z: dist.Cauchy(z, 1.0),
        ("own simplex", 3): lambda z: OwnDirichlet(jnp.exp(z) * jnp.ones(3)),
    }

    @jax.jit
    def means(key):
        def one(key):
            z_key, draw_key, own_key = jax.random.split(key, 3)
            z, found = jax.random.normal(z_key), {}
            for case, make in cases.items():
                fn = make(z)
                found[str(case)] = terms(fn, fn.sample(draw_key), own_key)
            return found

        return jax.vmap(one)(jax.random.split(key, COUNT))

    found = jax.device_get(means(jax.random.key(0)))

    def of_case(terms):
        return [mean_of(values, int(terms.num_cells[0])) for values in terms[:3]]

    return {case: of_case(found[str(case)]) for case in cases}


class OwnDirichlet(dist.Dirichlet):
    """The same as NumPyro's, but of the user's own making."""


@pytest.mark.parametrize("size", [1, 10, 784])
@pytest.mark.parametrize("name", LIES)
def test_conditionals_that_lie(conditional_means, name, size):
    assert any(mean.fails for mean in conditional_means[name, size])


def test_conditionals_that_do_not(conditional_means):
    for case, means in conditional_means.items():
        if case[0] not in LIES:
            assert not any(mean.fails for mean in means), case


def test_cells_make_small_lies_large():
    """Of 784 cells the mean has little noise: a twentieth wider, an error of two nats, is found."""

    @jax.jit
    def means(key):
        def one(key):
            fn = Lying(jnp.zeros(784), jnp.ones(784), widen=1.05)
            return terms(fn, fn.sample(key), jax.random.fold_in(key, 1)).balance

        return jax.vmap(one)(jax.random.split(key, COUNT))

    assert mean_of(means(jax.random.key(0)), 784).fails


def test_what_is_the_users_own():
    base = Normal(0, 1)
    assert not any(map(is_own, [base, base.expand([3]).to_event(1), dist.Gamma(1.0, 1.0), base.mask(False)]))
    assert not is_own(dist.TransformedDistribution(base, [transforms.AffineTransform(0.0, 2.0)]))
    assert is_own(Lying(0.0, 1.0).expand([3]).to_event(1))
    assert is_own(dist.TransformedDistribution(base, [tasks.transforms.Cube()]))
    assert is_own(dist.MixtureGeneral(dist.Categorical(jnp.ones(2) / 2), [base, Lying(0.0, 1.0)]))


def lying_data():
    z = sample("z", Normal(0, 1))
    sample("x", Lying(z, 0.5, offset=np.log(2.0)))


def lying_prior():
    z = sample("z", Lying(jnp.zeros(5), jnp.ones(5), widen=1.5).to_event(1))
    sample("x", Normal(z, 1).to_event(1))


class WrongJacobian(transforms.ExpTransform):
    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return 0.5 * x


def wrong_jacobian():
    z = sample("z", dist.TransformedDistribution(Normal(0, 1), [WrongJacobian()]))
    sample("x", Normal(z, 1))


def shared_field(size, strength):
    """Elements of a plate whose means share a field of all of them."""
    weights = 0.1 * np.random.default_rng(0).standard_normal((20, size)).astype(np.float32)

    def model():
        with numpyro.plate("elements", 20):
            z = sample("z", dist.Bernoulli(0.5))
            on = z.astype(float)
            sample("x", Normal(weights * on[:, None] + strength * on.mean(), 1).to_event(1))

    return model


def coarse():
    z = sample("z", Normal(0, 1))
    sample("x", Normal(1e7 + z, 0.1))


def coarse_but_distinct():
    z = sample("z", Normal(0, 1e4))
    sample("x", Normal(1e6 + z, 0.01))


def constant_by_rounding():
    z = sample("z", Normal(0, 1))
    sample("x", Normal(1e9 + z, 0.1))


def too_few_digits():
    z = sample("z", Normal(0, 1))
    sample("x", dist.Gamma(1e7 * jnp.exp(1e-3 * z), 1.0))


FALSE = {
    "data that lie": (lying_data, "draws of site 'x' do not follow its log_prob: the density does not integrate"),
    "prior that lies": (lying_prior, "draws of site 'z' do not follow its log_prob"),
    "wrong Jacobian": (wrong_jacobian, "draws of site 'z' do not follow its log_prob"),
    "shared field": (shared_field(10, 0.05), "site 'x' depends on other elements.*Name the discrete site in given"),
    "coarse": (coarse, "log-density of site 'x' changes by .* nats from one number of float32.*jax.enable_x64"),
    "coarse but distinct": (coarse_but_distinct, "log-density of site 'x' changes by .*nearer its location"),
    "constant by rounding": (constant_by_rounding, "log-density of site 'x' changes by"),
    "too few digits": (too_few_digits, "log-density of site 'x' changes by"),
}


@pytest.mark.parametrize("name", FALSE)
def test_refused_by_name(name):
    model, message = FALSE[name]
    with pytest.raises(ValueError, match=message):
        check(model)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "strength"), [(784, 0.02), (784, 0.004), (10_000, 0.002)])
def test_a_shared_field_of_many_coordinates(size, strength):
    """Errors of a nat or less per element, of a log-density of a thousand."""
    with pytest.raises(ValueError, match="site 'x' depends on other elements"):
        check(shared_field(size, strength))


class Limited(dist.Distribution):
    """A normal variable, or the limit where it is above: a density, with a probability at the limit."""

    support = constraints.real

    def __init__(self, loc):
        self.loc = loc
        super().__init__(jnp.shape(loc), ())

    def sample(self, key, sample_shape=()):
        return jnp.minimum(Normal(self.loc, 1).sample(key, sample_shape), 0.5)

    def log_prob(self, value):
        return jnp.where(value >= 0.5, norm.logsf(0.5, self.loc), norm.logpdf(value, self.loc))


class Rounded(dist.Distribution):
    """A normal variable in steps of a tenth, with the probability of each."""

    support = constraints.real

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale
        super().__init__(jnp.shape(loc), ())

    def sample(self, key, sample_shape=()):
        return jnp.round(10 * Normal(self.loc, self.scale).sample(key, sample_shape)) / 10

    def log_prob(self, value):
        ends = (jax.scipy.special.ndtr((value + step - self.loc) / self.scale) for step in (0.05, -0.05))
        return jnp.log(next(ends) - next(ends))


def many_true_sites():
    z = sample("z", Normal(0, 1))
    sample("limited", Limited(z))
    sample("inflated", dist.ZeroInflatedPoisson(0.3, rate=jnp.exp(z)))
    sample("far", Normal(1e7 + 10 * z, 30.0))
    sample("rounded", Rounded(z, 1.0))
    sample("rounded far", Rounded(10 * z, 10.0))
    sample("spike", dist.Gamma(0.2, jnp.exp(z)))
    with numpyro.plate("p", 4):
        sample("moving", dist.Uniform(z, z + 1))


def test_point_masses_and_coarse_numbers_that_do_no_harm():
    for key in range(3):
        check(many_true_sites, key, data=("limited", "inflated", "far", "rounded", "rounded far", "spike", "moving"))


MISSING = np.arange(20) % 3 == 0


def masked_answers():
    z = sample("z", Normal(0, 1))
    with numpyro.plate("n", 20), numpyro.handlers.mask(mask=~MISSING):
        sample("x", dist.Bernoulli(logits=z * np.linspace(-1, 1, 20)))


def follow_up():
    z = sample("z", dist.Bernoulli(0.4))
    asked = sample("asked", dist.Bernoulli(0.3 + 0.4 * z))
    with numpyro.handlers.mask(mask=asked == 1):
        sample("x", dist.Bernoulli(0.2 + 0.5 * z))


def masked_nuisance():
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z, 1))
    with numpyro.handlers.mask(mask=z > 0):
        sample("n", Normal(0, 0.01))


@pytest.mark.parametrize(
    ("model", "data"), [(masked_answers, "x"), (follow_up, ("asked", "x")), (masked_nuisance, "x")]
)
def test_masked_cells_hold_constants_that_break_no_law(model, data):
    for key in range(3):
        check(model, key, data=data)


def test_a_site_that_is_held_is_not_drawn():
    """Its value has a probability of its own, which no draw follows."""

    def model():
        c = sample("c", Normal(0, 1))
        z = sample("z", Normal(c, 1))
        sample("x", Normal(z, 1))

    for value in (0.0, 2.5):
        check(model, given={"c": value})


def test_atoms():
    rng = np.random.default_rng(0)
    lattice = np.round(1e7 + rng.standard_normal(1000)).astype(np.float32)
    mass = np.minimum(rng.standard_normal(1000), 0.3).astype(np.float32)
    found = atoms(np.stack([lattice, mass, rng.standard_normal(1000).astype(np.float32)], 1))
    assert not found[:, 0].any() and not found[:, 2].any()
    np.testing.assert_array_equal(found[:, 1], mass == np.float32(0.3))
    grid = (np.round(100 * rng.standard_normal(1000)) / 10).astype(np.float32)[:, None]
    assert atoms(grid).mean() > 0.5


@pytest.mark.parametrize("size", [10, 784, 10_000])
class TestModelsThatChange:
    """Seen while the model is traced."""

    def refused(self, model, message):
        with pytest.raises(ValueError, match=message):
            joint_model(model, "z", "x")

    def test_numpy_random(self, size):
        def model():
            factors = np.ones(size)
            factors[3] += 1e-3 * np.random.default_rng().random()  # one coordinate, by a thousandth
            z = sample("z", Normal(0, 1))
            sample("x", Normal(factors * z, 1).to_event(1))

        self.refused(model, "site\\(s\\) 'x' are computed with other numbers every time")

    def test_state(self, size):
        calls = []

        def model():
            calls.append(0)
            z = sample("z", Normal(0.01 * len(calls), 1))
            sample("x", Normal(z * jnp.ones(size), 1).to_event(1))

        self.refused(model, "site\\(s\\) 'z', 'x' are computed with other numbers")

    def test_scan_backwards(self, size):
        def model():
            def step(carry, _):
                h = sample("z", Normal(carry, 1))
                sample("x", Normal(h * jnp.ones(size), 1).to_event(1))
                return h, None

            scan(step, 0.0, None, length=20, reverse=True)

        self.refused(model, "'z', 'x' are inside scan.*reverse=True.*flipped sequence")


def test_scans_that_hold_no_sites_may_go_backwards():
    def model():
        z = sample("z", Normal(jnp.zeros(3), 1).to_event(1))
        _, sums = scan(lambda carry, term: (carry + term, carry + term), 0.0, z, reverse=True)
        unused = np.random.default_rng().random()
        numpyro.deterministic("unused", unused)
        sample("x", Normal(sums, 1).to_event(1))

    joint_model(model, "z", "x")


@pytest.mark.parametrize("size", [10, 784, 10_000])
def test_differences_are_read_in_nats(size):
    rng, log_prob = np.random.default_rng(0), np.full(4096, -1.4 * size)

    def differ(values):
        found = Differences()
        found.add("x", values, log_prob)
        found.check()

    differ(1e-6 * np.abs(log_prob) * rng.standard_normal(4096))
    for wrong in (0.02 + 1e-4 * rng.standard_normal(4096), 3e-4 * size + rng.standard_normal(4096)):
        with pytest.raises(ValueError, match="site 'x' is not the same where the model draws it"):
            differ(wrong)


class TestGuides:
    """Draws and densities of a user's guide."""

    @staticmethod
    def model(size):
        z = sample("z", Normal(jnp.zeros(size), 1).to_event(1))
        sample("x", Normal(z, 1).to_event(1))

    def fit(self, size, lie):
        def guide(data):
            sample("z", Lying(0.5 * data["x"], jnp.full(size, 0.7), **lie).to_event(1))

        pairs = joint_pairs(staged(partial(self.model, size)), jax.random.key(0), 0)
        return GuideFunction(guide).fit(pairs, jax.random.key(1), lambda _: None)

    @pytest.mark.parametrize("name", LIES)
    def test_guides_that_lie(self, name):
        with pytest.raises(ValueError, match="draws of the guide do not follow its density"):
            self.fit(2, LIES[name])

    def test_guides_that_do_not(self):
        self.fit(2, {})
        self.fit(30, {})

    @pytest.mark.parametrize("size", [4, 30, 100])
    def test_normalisers_in_many_dimensions(self, size):
        def means(offset):
            def one(key):
                keys = jax.random.split(key)
                fresh = jax.random.normal(keys[0], (65, size))
                return vector_terms(lambda v: norm.logpdf(v).sum() + offset, fresh[0], fresh[1:], keys[1])

            return [mean_of(values) for values in jax.vmap(one)(jax.random.split(jax.random.key(0), COUNT))]

        assert not any(mean.fails for mean in means(0.0))
        assert means(np.log(2.0))[2].fails


MODELS = {
    **{name: (task, None) for name, task in {**tasks.TASKS, **tasks.GROUP_TASKS}.items()},
    **{name: (None, example) for name, example in EXAMPLES.items()},
}


def model_of(name):
    make, example = MODELS[name]
    if example is not None:
        return staged(*example[:3], example.model_args, example.model_kwargs, example.given)
    task = make()
    return staged(task.model, task.latent, task.data, given=task.given)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_silence(name):
    """Twenty keys of every task and example."""
    model = model_of(name)
    for key in range(20):
        preflight(model, jax.random.key(key))


@pytest.mark.parametrize("name", ["correlated_normal_x_cube", "mixture_labels"])
def test_silence_of_a_few(name):
    preflight(model_of(name), jax.random.key(0))
