"""Models that once gave a wrong bound without a word: each is now right, or refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints, transforms

from numpyro_mi import AIS, IWAE, StructuredInfoNCE, mi_bounds

pytestmark = pytest.mark.compile_fast

sample, Normal = numpyro.sample, dist.Normal
METHOD = AIS(num_temperatures=30, num_particles=4)


def bounds(model, latent="z", data="x", **options):
    return mi_bounds(model, latent, data, **{"method": METHOD, "num_samples": 1000, **options})


def noisy(fn, noise=0.3):
    def model():
        z = sample("z", fn)
        x = Normal(z, noise)
        sample("x", x.to_event(1) if fn.event_dim else x)

    return model


def transformed(base, *parts):
    return dist.TransformedDistribution(base, list(parts))


# A latent whose transform does not know its domain declares a support that is wider than the true one.
WIDER = {
    "shifted exponential": (transformed(dist.Exponential(1.0), transforms.AffineTransform(1.0, 1.0)), 1.038),
    "scaled uniform": (transformed(dist.Uniform(0.0, 1.0), transforms.AffineTransform(0.0, 2.0)), 0.749),
    "exp of uniform": (transformed(dist.Uniform(0.0, 1.0), transforms.ExpTransform()), 0.631),
    "square of uniform": (transformed(dist.Uniform(0.0, 1.0), transforms.PowerTransform(2.0)), 0.336),
    "negative half-normal": (transformed(dist.HalfNormal(1.0), transforms.AffineTransform(0.0, -1.0)), 0.760),
    "pair": (
        transformed(
            dist.Exponential(1.0).expand([2]).to_event(1), transforms.LowerCholeskyAffine(jnp.zeros(2), jnp.eye(2))
        ),
        2.077,
    ),
}


@pytest.mark.parametrize("name", WIDER)
def test_declared_support_wider_than_the_true_one(name):
    fn, truth = WIDER[name]
    low, high = bounds(noisy(fn)).interval(0.999)
    assert low <= truth <= high


def total_count(make):
    def model():
        z = sample("z", Normal(0, 1))
        sample("x", make(jnp.where(z > 0, 3, 2)))

    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda total: dist.Multinomial(total, jnp.array([0.3, 0.7]), total_count_max=3),
        lambda total: dist.DirichletMultinomial(jnp.array([1.0, 2.0]), total, total_count_max=3),
    ],
)
def test_totals_that_are_computed(make):
    """NumPyro 0.22 draws total_count_max counts here, whatever the total; the total tells the sign of z."""
    low, high = bounds(total_count(make), method=StructuredInfoNCE(200)).interval(0.999)
    assert low <= np.log(2) <= high and high - low < 0.1


def test_two_models_that_differ_in_names_only():
    def first():
        z = sample("z", Normal(0, 1))
        sample("x", Normal(z, 0.5))

    def renamed():
        z = sample("z2", Normal(0, 1))
        sample("x2", Normal(z, 0.5))

    results = bounds(first), bounds(renamed, "z2", "x2")
    np.testing.assert_array_equal(results[0].lower_i, results[1].lower_i)


def backwards():
    def step(carry, _):
        h = sample("z", Normal(carry, 1.0))
        sample("x", Normal(h, 0.5))
        return h, None

    scan(step, 0.0, None, length=5, reverse=True)


def unrepeatable():
    loadings = np.random.default_rng().normal(size=5)
    z = sample("z", Normal(0, 1))
    sample("x", Normal(2 * loadings * z, 1).to_event(1))


def own_key():
    z = sample("z", Normal(0, 1))
    sample("x", Normal(z, 1), rng_key=jax.random.key(7))


def seeded_inside():
    z = sample("z", Normal(0, 1))
    with handlers.seed(rng_seed=0):
        sample("x", Normal(z, 1))


def shared_key():
    key = numpyro.prng_key()
    z = sample("z", Normal(0, 1), rng_key=key)
    sample("x", Normal(z, 1), rng_key=key)


def censored():
    z = sample("z", Normal(0, 1))
    sample("x", dist.RightCensoredDistribution(Normal(z, 1), censored=jnp.array([1, 1, 1])))


def clipped():
    z = sample("z", dist.Beta(1.0, 0.1))
    sample("x", Normal(-jnp.log1p(-z), 0.3))


def coarse():
    z = sample("z", Normal(1e6, 1.0))
    sample("x", dist.Uniform(z, z + 1))


REFUSED = {
    "reversed scan": (backwards, r"'z', 'x' are inside scan\(\.\.\., reverse=True\).*flipped sequence"),
    "numpy.random": (unrepeatable, "'x' are computed with other numbers every time the model is called.*numpy.random"),
    "own key": (own_key, "'x' bring a key of their own"),
    "seeded inside": (seeded_inside, "'x' bring a key of their own"),
    "shared key": (shared_key, "'z', 'x' bring a key of their own"),
    "censored": (censored, "site 'x' .*[Cc]ensored"),
    "clipped": (clipped, "of the draws of latent 'z' have one and the same value.*jax.enable_x64"),
    "coarse": (coarse, "of the draws of latent 'z' have one and the same value.*nearer its location"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    model, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        bounds(model)


def test_boolean_data_are_no_mask():
    def model(b, y):
        z = sample("z", Normal(0, 1))
        sample("b", dist.Bernoulli(logits=4 * z).expand([3]).to_event(1), obs=b)
        sample("y", Normal(3.0 * b, 1).to_event(1), obs=y)

    with pytest.raises(ValueError, match="reads its data argument 'b' outside obs="):
        bounds(model, data=["b", "y"], model_args=(np.array([True, False, True]), np.ones(3)))


def test_a_key_of_another_kind():
    with pytest.raises(TypeError, match="rng_key is of type .*rbg.*pass a key of the default kind"):
        bounds(noisy(Normal(0, 1)), rng_key=jax.random.key(1, impl="rbg"))


def test_a_domain_that_is_declared_needs_no_check():
    fn = transformed(dist.HalfNormal(1.0), transforms.AffineTransform(0.0, -1.0, domain=constraints.positive))
    low, high = bounds(noisy(fn)).interval(0.999)
    assert low <= 0.760 <= high


def test_room_for_rounding_is_no_wider_support():
    """At a location of 1e5 the distance of the bounds is a hundred units in the last place."""

    def model():
        z = sample("z", Normal(0.0, 1.0))
        sample("x", dist.Uniform(1e5 + z, 1e5 + z + 1))

    result = bounds(model, method=AIS(1, 256))
    assert result.lower - 4 * result.lower_se < 1.459 < result.upper + 4 * result.upper_se
    assert result.lower > 1.3


def test_latents_too_coarse_for_single_precision():
    """At 1e5 the distance of two floats is .008, eight times the noise: z and x are on one lattice."""

    def model(x=None):
        z = numpyro.sample("z", dist.Normal(1e5, 1))
        numpyro.sample("x", dist.Normal(z, 1e-3), obs=x)

    with pytest.raises(ValueError, match="'z' take only .* distinct values in 4,096.*jax.enable_x64"):
        mi_bounds(model, "z", "x", method=IWAE(), progress_bar=False)
