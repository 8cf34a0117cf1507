"""Elements of a plate as sites of their own: against closed forms, enumeration, and the model as it was."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from example_models import EFFECTS, eight_schools
from jax import random
from numpyro.contrib.control_flow import scan

from numpyro_mi import AIS, IWAE, InfoNCE, evidence_bounds, information_table, mi_bounds
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.elements import split_one
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.sites.slices import Element, WholeDraw
from numpyro_mi.results.files.datatree import from_datatree

pytestmark = pytest.mark.compile_fast
QUIET = {"progress_bar": False}
NORMAL = IWAE(num_particles=50)
SCALES = jnp.array([0.5, 1.0, 2.0])


def means(x=None):
    """Group means given a global one, measured with errors of their own."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("groups", 3):
        theta = numpyro.sample("theta", dist.Normal(mu, 1))
        numpyro.sample("x", dist.Normal(theta, SCALES), obs=x)


def of_means(asked, given=()):
    """I(theta of some groups; x | theta of others)."""
    theta = np.ones((3, 3)) + np.eye(3)
    cov = np.block([[theta, theta], [theta, theta + np.diag(np.square(SCALES))]])

    def log_det(rows):
        rows = list(rows)
        return np.linalg.slogdet(cov[np.ix_(rows, rows)])[1] if rows else 0.0

    both, data = [*asked, *given], [3, 4, 5]
    return 0.5 * (log_det(both) + log_det([*given, *data]) - log_det([*both, *data]) - log_det(given))


def switches(x=None):
    """Independent switches with odds of their own, seen together."""
    with numpyro.plate("switches", 3):
        on = numpyro.sample("on", dist.Bernoulli(jnp.array([0.2, 0.5, 0.7])))
    numpyro.sample("x", dist.Bernoulli(logits=on @ jnp.array([1.0, -2.0, 3.0])), obs=x)


def of_switches(place):
    """I(on[place]; x) by enumeration."""
    joint = np.zeros((2, 2))
    for on in itertools.product([0, 1], repeat=3):
        weight = np.prod(np.where(on, [0.2, 0.5, 0.7], [0.8, 0.5, 0.3]))
        p = 1 / (1 + np.exp(-np.dot(on, [1.0, -2.0, 3.0])))
        joint[on[place]] += weight * np.array([1 - p, p])
    product = joint.sum(1, keepdims=True) * joint.sum(0)
    return (joint * np.log(joint / product)).sum()


def covers(result, truth, width=0.02):
    low, high = result.interval(0.99)
    return low <= truth <= high and -1e-6 - 4 * result.gap_se < result.gap < width


class TestTruth:
    @pytest.mark.parametrize(
        ("latent", "given", "places"),
        [
            ("theta[0]", (), ([0], [])),
            (["theta[2]", "theta[1]"], (), ([2, 1], [])),
            ("theta[1]", "theta[0]", ([1], [0])),
            (["theta[0]", "theta[1]", "theta[2]"], (), ([0, 1, 2], [])),
        ],
        ids=["one", "two", "given", "all"],
    )
    def test_normal(self, latent, given, places):
        result = mi_bounds(means, latent, "x", given, method=NORMAL, num_samples=1000, **QUIET)
        assert covers(result, of_means(*places))

    def test_elements_of_the_data(self):
        """What the first two measurements say of the third."""
        cov = 1 + np.diag(1 + np.square(SCALES))
        truth = 0.5 * np.log(np.linalg.det(cov[:2, :2]) * cov[2, 2] / np.linalg.det(cov))
        result = mi_bounds(means, "x[2]", ["x[0]", "x[1]"], method=NORMAL, num_samples=1000, **QUIET)
        assert covers(result, truth)
        bounds = evidence_bounds(means, ["x[0]", "x[1]"], method=NORMAL, num_samples=300, **QUIET)
        low, high = bounds.interval(0.99)
        assert low < -dist.MultivariateNormal(jnp.zeros(2), cov[:2, :2]).entropy() < high

    def test_chain_rule(self):
        """I(theta[0], theta[1]; x) = I(theta[0]; x) + I(theta[1]; x | theta[0])."""
        asked = [(["theta[0]", "theta[1]"], ()), ("theta[0]", ()), ("theta[1]", "theta[0]")]
        both, one, rest = (
            mi_bounds(means, latent, "x", given, method=NORMAL, num_samples=500, rng_key=i, **QUIET)
            for i, (latent, given) in enumerate(asked)
        )
        error = 4 * np.sqrt(both.lower_se**2 + one.lower_se**2 + rest.lower_se**2)
        assert abs(both.middle - one.middle - rest.middle) < error

    def test_discrete_elements_are_summed(self):
        table = information_table(switches, "x", elements="on", num_samples=1000, **QUIET)
        for place in range(3):
            row = table.rows[f"on[{place}]"]
            assert (row.lower_i == row.upper_i).all() and not row.stats
            assert row.interval(0.99)[0] <= of_switches(place) <= row.interval(0.99)[1]

    def test_many_discrete_elements_are_summed_one_by_one(self):
        """Two to the power of 40 configurations, of a plate."""

        def model():
            with numpyro.plate("plate", 40):
                k = numpyro.sample("k", dist.Bernoulli(0.3))
                numpyro.sample("x", dist.Normal(k, 1.0))

        one = mi_bounds(model, "k[7]", "x", num_samples=300, **QUIET)
        assert (one.lower_i == one.upper_i).all() and 0 < one.lower < 0.2

    def test_nested_plates(self):
        def model():
            with numpyro.plate("rows", 2, dim=-2), numpyro.plate("columns", 3, dim=-1):
                z = numpyro.sample("z", dist.Normal(0, jnp.arange(1.0, 7.0).reshape(2, 3)))
                numpyro.sample("x", dist.Normal(z, 1))

        result = mi_bounds(model, "z[1,2]", "x", method=NORMAL, num_samples=500, **QUIET)
        assert covers(result, 0.5 * np.log(37))

    def test_vector_elements(self):
        def model():
            with numpyro.plate("plate", 3):
                z = numpyro.sample("z", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
                numpyro.sample("x", dist.Normal(z, 1).to_event(1))

        assert covers(mi_bounds(model, "z[1]", "x", method=NORMAL, num_samples=500, **QUIET), np.log(2))

    def test_bounds_of_the_support_are_those_of_the_element(self):
        """z[j] is uniform up to j + 1, and seen through noise: by quadrature."""

        def model():
            with numpyro.plate("plate", 3):
                z = numpyro.sample("z", dist.Uniform(0, jnp.array([1.0, 2.0, 3.0])))
                numpyro.sample("x", dist.Normal(z, 0.5))

        z, x = np.linspace(0, 3, 601), np.linspace(-3, 6, 1801)
        density = np.exp(-0.5 * ((x - z[:, None]) / 0.5) ** 2) / np.sqrt(2 * np.pi * 0.25)
        marginal = np.trapezoid(density, z, axis=0) / 3
        inner = np.trapezoid(np.where(density > 0, density * np.log(density / marginal), 0), x, axis=1)
        truth = np.trapezoid(inner, z) / 3
        result = mi_bounds(model, "z[2]", "x", method=IWAE(num_particles=100), num_samples=500, **QUIET)
        assert covers(result, truth, width=0.1)


@pytest.fixture(scope="module")
def table():
    return information_table(means, "x", elements="theta", method=NORMAL, num_samples=1000, **QUIET)


class TestTable:
    def test_rows(self, table):
        assert set(table.rows) == {"mu", "theta", "theta[0]", "theta[1]", "theta[2]"}
        for place in range(3):
            row = table.rows[f"theta[{place}]"]
            assert covers(row, of_means([place])) and row.latent == (f"theta[{place}]",)
            assert "[i]" not in repr(row) and f"theta[{place}]" in str(row.decomposition)
        assert covers(table.rows["theta"], of_means([0, 1, 2]))

    def test_what_the_table_has_bounded_is_not_bounded_again(self, table):
        """The evidence of all data: the same numbers in the row of an element."""
        row, joint = table.rows["theta[1]"], table.joint
        pieces = [piece for piece in row.decomposition if piece["kind"] == "integral"]
        (place,) = (i for i, piece in enumerate(pieces) if {"theta[1]", "theta[others]"} <= set(piece["integrated"]))
        assert len(pieces) == len(row.stats) == len(row.guides) == len(row.plan) == 3
        evidence = [result.stats[i] for result, i in ((row, place), (joint, 0))]
        np.testing.assert_array_equal(*(stats["forward_log_evidence"] for stats in evidence))
        ends = [
            sum(p["sign"] * stats[side if p["sign"] < 0 else other] for p, stats in zip(pieces, row.stats, strict=True))
            for side, other in itertools.permutations(["forward_log_evidence", "reverse_log_evidence"])
        ]
        np.testing.assert_allclose(row.upper_i, ends[0], atol=1e-6)
        np.testing.assert_allclose(row.lower_i, ends[1], atol=1e-6)
        assert from_datatree(row.to_datatree()).upper == row.upper and "% of the gap" in repr(row)

    @pytest.mark.slow
    def test_annealed(self):
        """More temperatures than draws, and locations that differ within the plate, where coordinates may be chosen."""

        def model(x=None):
            scale = numpyro.sample("scale", dist.LogNormal(0, 0.5))
            with numpyro.plate("groups", 2):
                theta = numpyro.sample("theta", dist.Normal(scale * jnp.array([1.0, 2.0]), scale))
                numpyro.sample("x", dist.Normal(theta, 1), obs=x)

        method = AIS(num_temperatures=30, num_particles=4, coordinates="standardised", settings="shared")
        table = information_table(model, "x", "scale", "theta", method=method, num_samples=20, **QUIET)
        row = table.rows["theta[1]"]
        for stats, plan in zip(row.stats, row.plan, strict=True):
            assert stats["forward_accept_prob"].shape == plan["step_size"].shape == (29,)
        assert from_datatree(row.to_datatree()).upper == row.upper

    @pytest.mark.parametrize("shape", [(1,), (2, 2)])
    def test_other_plates(self, shape):
        """A plate of one, and nested ones, of vectors with scales of their own."""
        scales = jnp.arange(1.0, 1 + np.prod(shape)).reshape(*shape, 1)

        def model():
            with numpyro.plate_stack("plates", list(shape)):
                z = numpyro.sample("z", dist.Normal(0, scales * jnp.ones(2)).to_event(1))
                numpyro.sample("x", dist.Normal(z, 1).to_event(1))

        table = information_table(model, "x", elements="z", method=NORMAL, num_samples=500, **QUIET)
        for cell in np.ndindex(shape):
            row = table.rows[f"z[{','.join(map(str, cell))}]"]
            assert covers(row, np.log(1 + float(scales[cell][0]) ** 2))
        assert covers(table.joint, np.log(1 + np.square(scales)).sum())

    def test_chosen_elements(self):
        latents = {"first": "theta[0]", "two": ["theta[0]", "theta[2]"]}
        table = information_table(means, "x", latents, method=NORMAL, num_samples=300, **QUIET)
        assert covers(table.rows["first"], of_means([0])) and covers(table.rows["two"], of_means([0, 2]))

    def test_the_draws_are_those_of_the_model(self):
        """So that rows are paired with one another, and with runs of other rows."""

        def drawn(model, latent):
            joint = joint_model(model, latent, "x")
            return stage_model(joint, decompose(joint)).draw(random.key(3)).values

        plain = drawn(means, "theta")
        for place in range(3):
            split, name = split_one(means, "theta", (place,))
            for model, latent in ((split, name), (means, f"theta[{place}]")):
                values = drawn(model, latent)
                np.testing.assert_array_equal(values["x"], plain["x"])
                np.testing.assert_array_equal(values[latent], plain["theta"][place])
                others = np.asarray(values["theta[others]"] == plain["theta"])
                assert others.sum() == 2 and not others[place]
        values = drawn(means, [f"theta[{place}]" for place in range(3)])
        np.testing.assert_array_equal(values["x"], plain["x"])

    def test_what_stands_in_the_place_of_an_element_is_independent_of_it(self):
        joint = joint_model(means, "theta[0]", "x")
        values = jax.vmap(stage_model(joint, decompose(joint)).draw)(random.split(random.key(0), 1000)).values
        parts = np.stack([values["theta[0]"], *values["theta[others]"].T]) - values["mu"]
        np.testing.assert_allclose(np.corrcoef(parts), np.eye(4), atol=0.13)  # four standard errors

    @pytest.mark.slow
    def test_eight_schools(self):
        found = information_table(
            eight_schools,
            "y",
            elements="theta",
            method=IWAE(num_particles=5),
            num_samples=20,
            model_args=(EFFECTS,),
            **QUIET,
        )
        assert set(found.rows) == {"mu", "tau", "theta", *(f"theta[{i}]" for i in range(8))}
        assert "Intervals hold for all 12 rows" in repr(found)

    def test_methods_that_know_draws_alone(self):
        method = InfoNCE(lambda x, z: -jnp.square(x[0] - z[0]), num_particles=10)
        result = mi_bounds(means, "theta[0]", "x", method=method, num_samples=200, **QUIET)
        assert 0 < result.lower < of_means([0]) + 4 * result.lower_se

    def test_elements_of_data_that_the_model_is_called_with(self):
        """They are simulated; what is left of them would be evidence that is ignored."""
        call = {"model_kwargs": {"x": jnp.ones(3)}, "method": NORMAL, "num_samples": 200, **QUIET}
        result = mi_bounds(means, "theta[0]", [f"x[{i}]" for i in range(3)], **call)
        assert covers(result, of_means([0]))
        with pytest.raises(ValueError, match=r"site 'x\[others\]' is observed, is not in data, and depends on"):
            mi_bounds(means, "theta[0]", "x[0]", **call)

    def test_elements_share_their_programs(self):
        def draw(place):
            split, name = split_one(means, "theta", (place,))
            joint = joint_model(split, name, "x")
            return stage_model(joint, decompose(joint))

        first, second = draw(0), draw(2)
        assert first.draw.program == second.draw.program
        for one, other in zip(first.integrals, second.integrals, strict=True):
            assert one.integrand.log_ratio.program == other.integrand.log_ratio.program

    def test_an_interruption_keeps_what_is_there(self, monkeypatch):
        from numpyro_mi.runs.evidence import Rows

        run, calls = Rows.run, itertools.count()

        def interrupted(self, *args):
            if next(calls) == 2:
                raise KeyboardInterrupt
            return run(self, *args)

        monkeypatch.setattr(Rows, "run", interrupted)
        table = information_table(means, "x", elements="theta", method=NORMAL, num_samples=50, **QUIET)
        assert set(table.rows) == {"mu", "theta", "theta[0]"} and table.interrupted == ("theta[1]", "theta[2]")
        assert "no result for theta[1], theta[2]" in repr(table) and table.level(0.94) == pytest.approx(0.99)


@pytest.mark.parametrize(
    "fn",
    [
        dist.Normal(jnp.arange(3.0), 2.0),
        dist.Uniform(jnp.arange(3.0), 5.0),
        dist.LogNormal(0.0, jnp.array([0.1, 1.0, 2.0])),
        dist.TruncatedNormal(jnp.arange(3.0), 1.0, low=jnp.array([-1.0, 0.0, 1.0])),
        dist.Dirichlet(jnp.ones((3, 4)) * jnp.arange(1.0, 4.0)[:, None]),
        dist.Uniform(jnp.zeros((3, 2)), jnp.arange(1.0, 4.0)[:, None]).to_event(1),
        dist.Gamma(2.0, 1.0).expand([3]),
        dist.Multinomial(jnp.array([2, 5, 3]), jnp.ones(4) / 4, total_count_max=5),
        dist.Categorical(jnp.ones((3, 4)) / 4),
        dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.ones((3, 2)), 1.0)),
        dist.TransformedDistribution(dist.Gamma(2.0), dist.transforms.AffineTransform(jnp.arange(3.0), 2.0)),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_any_distribution(fn):
    """Draws, densities, supports and gradients of each element are those of the batch."""
    value = fn.sample(random.key(0))
    whole, total = WholeDraw(fn), fn.log_prob(value)
    for place in range(3):
        one = Element(fn, (place,), whole)
        assert one.batch_shape == () and one.event_shape == fn.event_shape
        np.testing.assert_array_equal(one.sample(random.key(0)), value[place])
        np.testing.assert_allclose(one.log_prob(value[place]), total[place], rtol=1e-6)
        assert one.support(value[place]).all() and one.sample(random.key(1), (5,)).shape == (5, *fn.event_shape)
        if not one.support.is_discrete:
            np.testing.assert_allclose(
                jax.grad(one.log_prob)(value[place]),
                jax.grad(lambda value, place=place: fn.log_prob(value)[place])(value)[place],
                rtol=1e-5,
            )
            to = dist.biject_to(one.support)
            np.testing.assert_allclose(to(to.inv(value[place])), value[place], rtol=1e-4, atol=1e-5)


def test_the_others_do_not_spoil_a_gradient():
    """At a value that is far outside the support of another element, where the logarithm of its density ends."""
    fn = dist.TruncatedNormal(jnp.array([0.0, 100.0]), 0.01, low=jnp.array([-1.0, 99.0]))
    assert np.isfinite(jax.grad(Element(fn, (0,), WholeDraw(fn)).log_prob)(0.001))


class TestRefusals:
    @pytest.mark.parametrize(
        ("latent", "match"),
        [
            ("theta[3]", r"latent names 'theta\[3\]', but 'theta' has the elements 'theta\[0\]' to 'theta\[2\]'"),
            ("theta[0,1]", r"has the elements 'theta\[0\]' to"),
            ("mu[0]", "latent asks for elements of 'mu', which is a number.*Name the whole site, or write it in a"),
            (["theta", "theta[1]"], r"latent names 'theta', and 'theta\[1\]', which is part of it"),
            (
                ["theta[0]", "theta[others]"],
                r"'theta\[others\]', which is no group: name elements one by one, as 'theta",
            ),
            ("tau[0]", r"'tau\[0\]', which is not a site"),
        ],
    )
    def test_names(self, latent, match):
        with pytest.raises(ValueError, match=match):
            mi_bounds(means, latent, "x")

    def test_events(self):
        def model():
            z = numpyro.sample("z", dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3)))
            numpyro.sample("x", dist.Normal(z, 1).to_event(1))

        with pytest.raises(ValueError, match=r"'z', which is one event of shape \(3,\): only elements of a batch"):
            mi_bounds(model, "z[0]", "x")
        with pytest.raises(ValueError, match="elements asks for elements of 'z', which is one event"):
            information_table(model, "x", elements="z")

    def test_scan(self):
        def model():
            def step(before, _):
                z = numpyro.sample("z", dist.Normal(before, 1))
                numpyro.sample("x", dist.Normal(z, 1))
                return z, None

            scan(step, 0.0, jnp.arange(3))

        with pytest.raises(ValueError, match="site 'z' cannot be sites of their own, since it is inside scan"):
            mi_bounds(model, "z[0]", "x")

    def test_masks_deterministic_values_and_unknown_names(self):
        def model():
            with numpyro.plate("plate", 3):
                z = numpyro.sample("z", dist.Normal(0, 1))
                numpyro.deterministic("twice", 2 * z)
                numpyro.sample("x", dist.Normal(z, 1).mask(jnp.array([True, False, True])))

        with pytest.raises(ValueError, match="latent asks for elements of 'twice', which is a deterministic"):
            mi_bounds(model, "twice[0]", "x")
        with pytest.raises(ValueError, match="data asks for elements of 'x', which is masked"):
            mi_bounds(model, "z", "x[0]")
        with pytest.raises(ValueError, match="elements names 'zz', which is not a site of the model .did you mean 'z'"):
            information_table(model, "x", elements="zz")

    def test_elements_of_the_data_make_no_rows(self):
        with pytest.raises(ValueError, match=r"elements names 'x', which is in data"):
            information_table(means, "x", elements="x")

    def test_a_name_with_an_index_that_is_a_site(self):
        """Then it is that site."""

        def model():
            values = [numpyro.sample(f"z[{i}]", dist.Normal(0, 1)) for i in range(2)]
            numpyro.sample("x", dist.Normal(values[0], 1))

        assert mi_bounds(model, "z[1]", "x", num_samples=10, **QUIET).upper == 0
