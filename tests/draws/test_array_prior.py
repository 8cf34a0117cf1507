"""A user's log-density of z against rows of z: what did not draw them is refused, what did is not."""

from math import lgamma

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from numpyro_mi import GIWAE, Training, mi_bounds_from_samples
from numpyro_mi.draws.array_prior import NOT_NORMALISED, NOTE, check_prior, staged_prior
from numpyro_mi.draws.array_split import standardised


def check(z, log_prior):
    z = np.asarray(z, np.float64).reshape(len(z), -1)
    columns = standardised(z, np.arange(len(z)))
    return check_prior(staged_prior(log_prior, columns), columns, np.arange(len(z)))


def total(distribution):
    return lambda z: distribution.log_prob(z).sum()


def rng(seed=0):
    return np.random.default_rng(seed)


NORMAL = total(dist.Normal(0, 1))


@pytest.mark.parametrize("width", [1, 10, 20, 30, 100])
@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_the_wrong_scale_in_any_number_of_columns(width, scale):
    z = rng().standard_normal((600, width))
    with pytest.raises(ValueError, match="log_prior is not the log-density of these rows of z"):
        check(z, total(dist.Normal(0, scale)))
    assert NOTE not in check(z, NORMAL)


def twice(d):
    return lambda z: dist.Normal(0, 1).log_prob(z[1:]).sum() + dist.Normal(0, 2).log_prob(z[0])


def mixed(z, weight=0.6):
    z = z.copy()
    z[:, 0] = weight * z[:, 1] + np.sqrt(1 - weight**2) * z[:, 0]
    return z


@pytest.mark.parametrize("width", [2, 30, 100])
@pytest.mark.parametrize(
    ("rows", "log_prior", "match"),
    [
        (lambda z: z, twice(0), "factor|slope in column 0 does not fit their scale"),
        (lambda z: z, total(dist.Normal(0.5, 1)), "factor|does not fit their location"),
        (mixed, NORMAL, "factor|does not fit their relation to column"),
        (lambda z: z, lambda z: -0.5 * (z**2).sum(), "factor"),
        (np.exp, lambda z: dist.Normal(0, 1).log_prob(jnp.log(z)).sum(), "factor|location"),
        (lambda z: np.hstack([z, z[::-1]]), total(dist.StudentT(3.0)), "factor|slopes do not fit their scale"),
    ],
    ids=["one_scale", "location", "correlation", "constant", "no_jacobian", "tails"],
)
def test_what_else_is_wrong(width, rows, log_prior, match):
    with pytest.raises(ValueError, match=match):
        check(rows(rng().standard_normal((2400, width))), log_prior)


def step(z):
    return jnp.where(z < 1, jnp.log(0.8), jnp.log(0.2)).sum()


def funnel(z):
    return dist.Normal(0, 1.5).log_prob(z[0]) + dist.Normal(0, jnp.exp(z[0] / 2)).log_prob(z[1:]).sum()


def funnel_rows(r, shape):
    first = 1.5 * r.standard_normal((shape[0], 1))
    return np.hstack([first, np.exp(first / 2) * r.standard_normal((shape[0], shape[1] - 1))])


def simplex(z):
    inside = (z > 0).all() & (z.sum() < 1)
    return jnp.where(inside, lgamma(len(z) + 1.0), -jnp.inf)


RIGHT = {
    "uniform": (lambda r, shape: r.uniform(size=shape), lambda z: 0.0 * z.sum()),
    "exponential": (lambda r, shape: r.exponential(size=shape), lambda z: -z.sum()),
    "student": (lambda r, shape: r.standard_t(3, shape), total(dist.StudentT(3.0))),
    "step": (lambda r, shape: r.uniform(size=shape) + (r.uniform(size=shape) < 0.2), step),
    "simplex": (lambda r, shape: r.dirichlet(np.ones(shape[1] + 1), shape[0])[:, :-1], simplex),
    "funnel": (funnel_rows, funnel),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("width", [2, 30])
@pytest.mark.parametrize("count", [100, 2400])
def test_what_is_right_stays(name, width, count):
    """Edges, tails and jumps, where one identity or the other does not hold as it stands."""
    draw, log_prior = RIGHT[name]
    for seed in range(3):
        check(draw(rng(seed), (count, width)), log_prior)


def test_a_right_prior_in_few_columns_needs_no_note():
    for name in ("uniform", "exponential", "student", "simplex"):
        draw, log_prior = RIGHT[name]
        assert check(draw(rng(), (2400, 2)), log_prior) == ()


def test_what_cannot_be_told_is_said():
    assert check(rng().standard_normal((60, 30)), NORMAL) == (NOTE,)
    # Slopes know nothing of a constant.
    assert check(rng().standard_normal((600, 100)), NORMAL) == (NOT_NORMALISED,)
    assert check(rng().uniform(size=(600, 100)), lambda z: z.sum() - z.sum() - 70.0) == (NOT_NORMALISED,)


@pytest.mark.compile_fast
def test_the_note_is_in_the_result():
    r = rng()
    z = r.standard_normal((300, 30))
    method = GIWAE(
        critic=lambda x, z: jnp.zeros(()), num_particles=2, training=Training(num_draws=100, max_steps=5, batch_size=32)
    )
    result = mi_bounds_from_samples(
        z, z + r.standard_normal(z.shape), method=method, log_prior=NORMAL, progress_bar=False
    )
    assert any("log_prior" in note and "could not be checked" in note for note in result.notes)
    assert "could not be checked" in repr(result)
