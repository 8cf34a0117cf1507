"""Guides as bases of the path and as importance samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.autoguide import AutoNormal

from numpyro_mi import (
    AIS,
    IWAE,
    MINEAIS,
    AnnealedSMC,
    BarberAgakov,
    RegressionGuide,
    StructuredInfoNCE,
    mi_bounds,
    tasks,
)
from numpyro_mi.guides.base import student_log_prob, student_sample
from numpyro_mi.guides.regression import standard
from numpyro_mi.training.pairs import Pairs

pytestmark = pytest.mark.compile_fast

GAIN = np.array([[1.0, 0.5], [0.0, 2.0], [1.0, -1.0]])
PRECISION = np.eye(2) + GAIN.T @ GAIN


def linear(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("x", dist.Normal(GAIN @ z, 1.0).to_event(1), obs=x)


def rows(u, x):
    return Pairs(lambda count: iter([(u[:count], x[:count])]), u.shape[1], x.shape[1])


def linear_rows(count, seed=0):
    r = np.random.default_rng(seed)
    z = r.standard_normal((count, 2))
    return rows(z, z @ GAIN.T + r.standard_normal((count, 3)))


def fit(guide, pairs):
    return guide.fit(pairs, jax.random.key(0), lambda stage: None)


class TestRegression:
    def test_is_the_posterior_of_a_linear_model(self):
        fitted = fit(RegressionGuide(num_draws=40_000), linear_rows(40_000))
        x = jnp.array([1.0, -2.0, 0.5])
        at = fitted.condition(None, x, jax.random.key(0))
        np.testing.assert_allclose(at.loc, np.linalg.solve(PRECISION, GAIN.T @ x), atol=0.03)
        np.testing.assert_allclose(at.scale @ at.scale.T, np.linalg.inv(PRECISION), atol=0.01)

    def test_diagonal_is_the_residual_variance(self):
        fitted = fit(RegressionGuide("diagonal", num_draws=40_000), linear_rows(40_000))
        np.testing.assert_allclose(fitted.scale**2, np.diag(np.linalg.inv(PRECISION)), rtol=0.03)

    def test_whitening_inverts(self):
        for covariance in ("full", "diagonal"):
            at = fit(RegressionGuide(covariance), linear_rows(5000)).condition(None, jnp.ones(3), jax.random.key(0))
            u = jnp.array([0.3, -1.2])
            np.testing.assert_allclose(at.unwhiten(at.whiten(u)), u, rtol=1e-5)
            jacobian = jax.jacobian(at.unwhiten)(u)
            np.testing.assert_allclose(at.log_det(), np.linalg.slogdet(jacobian)[1], rtol=1e-5)

    def test_survives_heavy_tails_constants_and_copies_in_the_data(self):
        r = np.random.default_rng(0)
        z = r.standard_normal((5000, 1))
        x = np.hstack([z + r.standard_cauchy((5000, 1)), np.ones((5000, 1)), z, z, 1e6 + 0 * z])
        fitted = fit(RegressionGuide(), rows(z, x))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(fitted))
        np.testing.assert_allclose(fitted.mean(jnp.asarray([0.0, 1.0, 0.7, 0.7, 1e6])), [0.7], atol=0.01)

    def test_takes_as_many_draws_as_the_fit_needs(self):
        asked = []

        def blocks(count):
            asked.append(count)
            return iter([next(linear_rows(count).blocks(count))])

        fit(RegressionGuide(), Pairs(blocks, 2, 3))
        fit(RegressionGuide(num_draws=500), Pairs(blocks, 2, 3))
        assert asked == [4096, 500]  # 11 coefficients would do with 550; and as many as are said
        many = np.random.default_rng(0).standard_normal((131_072, 40)).astype(np.float32)

        def wide(count):
            asked.append(count)
            return iter([(many[:count, :20], many[:count])])

        fit(RegressionGuide(), Pairs(wide, 20, 40))
        assert asked[-1] == round((41 * 20 + 210) / 0.02)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"covariance": "block"}, 'needs covariance "full" or "diagonal", got \'block\''),
            ({"num_draws": 1}, "needs num_draws, an integer of at least 2 or None, got 1"),
            ({"num_draws": True}, "needs num_draws, an integer"),
        ],
    )
    def test_bad_options(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            RegressionGuide(**arguments)

    def test_too_few_draws(self):
        with pytest.raises(ValueError, match="has 3 finite draws for 2 latents: it needs more num_draws"):
            fit(RegressionGuide(num_draws=3), linear_rows(3))

    def test_standard_units_of_a_column_that_is_mostly_one_value(self):
        loc, scale = standard(np.array([[0.0]] * 95 + [[1.0]] * 5))
        assert loc == 0 and scale > 0


def test_student_density_is_normalised_and_is_that_of_the_draws():
    grid = jnp.linspace(-400, 400, 400_001)
    for dof in (1.0, 5.0):
        density = jnp.exp(jax.vmap(lambda v, dof=dof: student_log_prob(v[None], dof))(grid))
        mass = jnp.trapezoid(density, grid)
        assert mass == pytest.approx(1, abs=2e-3 if dof == 1 else 1e-4)
        draws = jax.vmap(lambda key, dof=dof: student_sample(key, jnp.zeros(1), dof))(
            jax.random.split(jax.random.key(0), 20_000)
        )
        inside = float((jnp.abs(draws) < 1).mean())
        expected = float(jnp.trapezoid(jnp.where(jnp.abs(grid) < 1, density, 0), grid))
        assert inside == pytest.approx(expected, abs=0.015)


BASES = {
    "IWAE": IWAE(num_particles=20),
    "BarberAgakov": BarberAgakov(),
    "AIS": AIS(10, 2, base=RegressionGuide()),
    "AIS diagonal": AIS(10, 2, base=RegressionGuide("diagonal")),
    "AnnealedSMC": AnnealedSMC(6, 8, base=RegressionGuide()),
}


@pytest.mark.parametrize("name", BASES)
def test_bounds_from_a_guide_hold_draw_by_draw(name, exact_pointwise):
    truth = 0.5 * np.linalg.slogdet(PRECISION)[1]
    task = tasks.Task(
        "linear",
        linear,
        "z",
        "x",
        truth,
        log_marginal=lambda v: dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3) + GAIN @ GAIN.T).log_prob(v["x"]),
    )
    result = mi_bounds(linear, "z", "x", method=BASES[name], num_samples=600)
    exact = exact_pointwise(task, 0, 600)
    for terms, sign in ((result.lower_i, -1), (result.upper_i, 1)):
        beyond = sign * (terms - exact)
        assert beyond.mean() > -4 * beyond.std(ddof=1) / 600**0.5
    assert result.gap < 0.3
    low, high = result.interval(0.99)
    assert low < truth < high


def test_a_fitted_guide_is_used_as_it_is():
    first = mi_bounds(linear, "z", "x", method=IWAE(num_particles=5), num_samples=50)
    again = mi_bounds(linear, "z", "x", method=IWAE(first.guides[0], 5), num_samples=50)
    np.testing.assert_array_equal(again.lower_i, first.lower_i)
    assert again.method["guide"] == {"fitted": first.method["guide"]}


def test_the_split_of_iwae():
    result = mi_bounds(linear, "z", "x", method=IWAE(RegressionGuide("diagonal"), 50), num_samples=300)
    np.testing.assert_allclose(result.parts["variational"] + result.parts["contrastive"], result.lower_i, rtol=1e-6)
    assert (result.parts["contrastive"] <= np.log(50) + 1e-5).all()
    single = mi_bounds(
        linear, "z", "x", method=BarberAgakov(result.guides[0]), num_samples=300
    )  # the same guide on the same draws
    np.testing.assert_allclose(single.lower_i, result.parts["variational"], atol=1e-3)


def test_structured_infonce_is_at_most_log_k():
    result = mi_bounds(linear, "z", "x", method=StructuredInfoNCE(10), num_samples=100)
    assert result.lower_i.max() <= np.log(10) + 1e-5


@pytest.mark.parametrize("make", [IWAE, BarberAgakov, MINEAIS, lambda guide: AIS(base=guide)])
def test_an_autoguide_is_refused(make):
    with pytest.raises(TypeError, match="AutoNormal.*fitted to one data set.*amortised.*RegressionGuide"):
        make(AutoNormal(linear))


def test_what_is_no_guide_is_refused():
    with pytest.raises(TypeError, match=r"IWAE needs guide, a guide such as RegressionGuide\(\), got 3"):
        IWAE(3)
    with pytest.raises(
        TypeError, match=r"AIS needs base, a guide, got the class RegressionGuide: write RegressionGuide\(\)"
    ):
        AIS(base=RegressionGuide)


def test_particles_are_checked():
    with pytest.raises(ValueError, match="IWAE needs num_particles, a positive integer, got 0"):
        IWAE(num_particles=0)
