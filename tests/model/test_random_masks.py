"""Masks that other data choose, as in censoring and hurdle models: a masked cell is absent, and says nothing itself."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from scipy import special, stats

from numpyro_mi import (
    AIS,
    IWAE,
    InfoNCE,
    StructuredInfoNCE,
    Training,
    evidence_bounds,
    expected_information_gain,
    information_gain_gradient,
    information_table,
    mi_bounds,
)
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.views.samples import stage_samples

pytestmark = pytest.mark.compile_fast

sample, Normal = numpyro.sample, dist.Normal
METHOD = StructuredInfoNCE(num_particles=512)
BOTH = ["event", "y"]
NOISE = 0.5


def bounds(model, latent="z", data=BOTH, **options):
    return mi_bounds(model, latent, data, progress_bar=False, **{"method": METHOD, "num_samples": 1000, **options})


def contains(result, truth):
    low, high = result.interval(0.999)
    return low <= truth <= high


def chosen_by(slope):
    """An event that depends on z by a logistic curve, and y, which is there if it happens."""

    def model(event=None, y=None):
        z = sample("z", Normal(0, 1))
        event = sample("event", dist.Bernoulli(logits=slope * z), obs=event)
        with handlers.mask(mask=event == 1):
            sample("y", Normal(z, NOISE), obs=y)

    return model


def truths(slope):
    """I(z; event, y) and I(z; event) by quadrature: E log p(x | z) - E log p(x), for an event, and for none."""
    z, y = np.linspace(-8, 8, 1601), np.linspace(-11, 11, 2201)
    weight = stats.norm.pdf(z) * (z[1] - z[0])
    happens = special.expit(slope * z)
    share = weight @ happens
    of_event = weight @ (special.xlogy(happens, happens) + special.xlogy(1 - happens, 1 - happens))
    marginal = (weight * happens) @ stats.norm.pdf(y, z[:, None], NOISE)
    joint = special.xlogy(1 - share, 1 - share) + special.xlogy(marginal, marginal).sum() * (y[1] - y[0])
    entropy = special.xlogy(share, share) + special.xlogy(1 - share, 1 - share)
    return of_event - share * 0.5 * math.log(2 * math.pi * math.e * NOISE**2) - joint, of_event - entropy


def at_random(event=None, y=None):
    z = sample("z", Normal(0, 1))
    event = sample("event", dist.Bernoulli(0.5), obs=event)
    with handlers.mask(mask=event == 1):
        sample("y", Normal(z, NOISE), obs=y)


SELECTED = chosen_by(2.0)
OF_Y = 0.5 * math.log(1 + NOISE**-2)


def hurdle(present=None, count=None):
    """In each of three places something is present or not, and counted if it is."""
    z = sample("z", Normal(0, 1))
    with numpyro.plate("places", 3):
        present = sample("present", dist.Bernoulli(logits=z - 0.3), obs=present)
        with handlers.mask(mask=present == 1):
            sample("count", dist.Poisson(jnp.exp(0.5 * z + 0.5)), obs=count)


def truth_of_hurdle():
    z = np.linspace(-7, 7, 701)
    weight = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    present, rate = special.expit(z - 0.3), np.exp(0.5 * z + 0.5)
    cell = np.stack([1 - present, *(present * stats.poisson.pmf(k, rate) for k in range(60))])
    three = np.einsum("ag,bg,cg,g->abc", cell, cell, cell, weight, optimize=True)
    return 3 * weight @ special.xlogy(cell, cell).sum(0) - special.xlogy(three, three).sum()


def dropout():
    """A walk that is observed until a subject drops out, at a rate that its own level sets."""

    def step(carry, _):
        level, stays = carry
        stays = stays * sample("stays", dist.Bernoulli(logits=1 + level))
        with handlers.mask(mask=stays == 1):
            sample("x", Normal(level, 1))
        return (level, stays), None

    scan(step, (sample("z", Normal(0, 1)), 1), None, length=3)


def truth_of_dropout():
    """Stays are drawn whether or not a subject has left; x_t is there for the first T of them that are all 1."""
    z = np.linspace(-7, 7, 701)
    weight = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    stay, total = special.expit(1 + z), 0.0
    for pattern in np.ndindex(2, 2, 2):
        seen = int(np.cumprod(pattern).sum())
        likelihood = np.prod([stay if stays else 1 - stay for stays in pattern], 0)
        # Of `seen` measurements their mean is sufficient; its law given z is normal.
        if seen == 0:
            marginal = weight @ likelihood
            total += weight @ special.xlogy(likelihood, likelihood) - special.xlogy(marginal, marginal)
            continue
        width = seen**-0.5
        mean = np.linspace(-11, 11, 1101)
        marginal = (weight * likelihood) @ stats.norm.pdf(mean, z[:, None], width)
        entropy = 0.5 * math.log(2 * math.pi * math.e * width**2)
        total += weight @ (special.xlogy(likelihood, likelihood) - likelihood * entropy)
        total -= special.xlogy(marginal, marginal).sum() * (mean[1] - mean[0])
    return total


FORMS = {
    "an event at random": (at_random, BOTH, 0.5 * OF_Y),
    "an event that z chooses": (SELECTED, BOTH, truths(2.0)[0]),
    "a hurdle": (hurdle, ["present", "count"], truth_of_hurdle()),
    "dropout": (dropout, ["stays", "x"], truth_of_dropout()),
}


@pytest.mark.parametrize("name", FORMS)
def test_both_sides_hold(name):
    model, data, truth = FORMS[name]
    result = bounds(model, data=data)
    assert contains(result, truth)
    assert -4 * result.gap_se <= result.gap < 0.05


def test_quadrature_agrees_with_the_closed_form():
    assert truths(0.0) == pytest.approx((0.5 * OF_Y, 0.0), abs=1e-6)


@pytest.mark.parametrize("method", [AIS(num_temperatures=30, num_particles=4), IWAE(num_particles=64)])
def test_annealed_and_with_a_guide(method):
    result = bounds(SELECTED, method=method, num_samples=500)
    assert contains(result, truths(2.0)[0]) and result.gap < 0.1


def test_averaged_over_the_event():
    """I(z; y | event) = I(z; event, y) - I(z; event)."""
    both, event = truths(2.0)
    result = bounds(SELECTED, data="y", given="event")
    assert contains(result, both - event) and result.gap < 0.05


@pytest.mark.parametrize("event, truth", [(1, OF_Y), (0, 0.0)])
def test_event_held_at_a_value(event, truth):
    result = bounds(at_random, data="y", given={"event": event})
    assert contains(result, truth) or (abs(result.lower) < 1e-4 > abs(result.upper) and truth == 0.0)


def test_masked_site_in_given():
    """I(z; w | event, y), with w = z plus noise of its own: 0.5 log 2 without y, and less with it."""

    def model():
        z = sample("z", Normal(0, 1))
        event = sample("event", dist.Bernoulli(0.5))
        sample("y", Normal(z, NOISE).mask(event == 1))
        sample("w", Normal(z, 1))

    with_y = 0.5 * math.log((1 + NOISE**-2 + 1) / (1 + NOISE**-2))
    assert contains(bounds(model, data="w", given=BOTH), 0.25 * math.log(2) + 0.5 * with_y)


def test_masked_site_in_no_group_says_nothing():
    """Whatever its mask, a site that is integrated out and that nothing depends on integrates to one."""

    def model():
        z = sample("z", Normal(0, 1))
        event = sample("event", dist.Bernoulli(logits=z))
        sample("y", Normal(z, 0.1).mask((event == 1) & (z > 0)))
        sample("x", Normal(z, 1))

    assert contains(bounds(model, data="x"), 0.5 * math.log(2))


def test_nested_masks_are_all_looked_at():
    def model(chooser):
        def run():
            z = sample("z", Normal(0, 1))
            event = sample("event", dist.Bernoulli(0.5))
            inner = z > 0 if chooser == "z" else event == 1
            fn = Normal(z, jnp.array([NOISE, 0.1])).mask(inner)
            with handlers.mask(mask=jnp.array([True, False])):
                sample("y", fn)

        return run

    with pytest.raises(ValueError, match="mask depends on 'z', which is in latent"):
        joint_model(model("z"), "z", BOTH)
    assert contains(bounds(model("event")), 0.5 * OF_Y)


def test_a_masked_cell_reaches_neither_critics_nor_guides():
    """Draws of data are the same constant in all cells that are absent, for each method."""
    joint = joint_model(SELECTED, "z", BOTH)
    keys = jax.random.split(jax.random.key(0), 200)
    features = np.asarray(jax.vmap(stage_samples(joint, False).draw)(keys).x)
    values = jax.vmap(stage_model(joint, decompose(joint)).draw)(keys).values
    for event, y in (features.T, (np.asarray(values["event"]), np.asarray(values["y"]))):
        assert len(set(y[event == 0])) == 1 and len(set(y[event == 1])) == (event == 1).sum() > 50


@pytest.mark.slow
def test_the_bound_of_a_critic_is_that_of_the_cells_observed():
    """y says nearly all of z, and is there in one case of ten."""

    def model():
        z = sample("z", Normal(0, 1))
        event = sample("event", dist.Bernoulli(0.1))
        sample("y", Normal(z, 1e-3).mask(event == 1))

    result = bounds(model, method=InfoNCE(num_particles=50, training=Training(2000, 200)), num_samples=500)
    assert result.lower < 0.1 * 0.5 * math.log(1 + 1e6) + 4 * result.lower_se


def test_rows_of_a_table():
    def model():
        sample("other", Normal(0, 1))
        at_random()

    table = information_table(model, BOTH, method=METHOD, num_samples=500, progress_bar=False)
    assert contains(table.results["z"], 0.5 * OF_Y) and table.results["other"].upper == 0.0


def test_elements_of_a_latent():
    def model():
        with numpyro.plate("N", 2):
            z = sample("z", Normal(0, 1))
            event = sample("event", dist.Bernoulli(0.5))
            sample("y", Normal(z, NOISE).mask(event == 1))

    assert contains(bounds(model, latent="z[0]", num_samples=500), 0.5 * OF_Y)


def test_discrete_latent():
    """A sign, which a precise y tells and the event does not."""

    def model():
        k = sample("k", dist.Bernoulli(0.5))
        event = sample("event", dist.Bernoulli(0.3))
        sample("y", Normal(20.0 * k, 1).mask(event == 1))

    result = bounds(model, latent="k")
    assert contains(result, 0.3 * math.log(2)) and result.gap == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("absent", [0.0, 1e6, np.nan])
def test_real_data_may_hold_anything_where_nothing_is_observed(absent):
    observed = {"present": np.array([0, 1, 0]), "count": np.array([absent, 2, absent])}

    def model(present=None, count=None):
        z = sample("z", Normal(0, 1))
        with numpyro.plate("places", 3):
            present = sample("present", dist.Bernoulli(0.5), obs=present)
            sample("count", Normal(z, NOISE).mask(present == 1), obs=count)

    found = evidence_bounds(
        model, ["present", "count"], method=METHOD, num_samples=100, observed=observed, progress_bar=False
    )
    truth = 3 * math.log(0.5) + stats.norm.logpdf(2.0, 0, math.hypot(1, NOISE))
    assert abs(found.observed - truth) < 4 * found.observed_se + 0.02


def test_design():
    """The event is twice as frequent under the second design, and so is what is learnt."""

    def model(share, noise):
        z = sample("z", Normal(0, 1))
        event = sample("event", dist.Bernoulli(share))
        sample("y", Normal(z, noise).mask(event == 1))

    gain = expected_information_gain(
        model,
        {"share": jnp.array([0.4, 0.8])},
        "z",
        BOTH,
        method=METHOD,
        num_samples=500,
        model_kwargs={"noise": NOISE},
        progress_bar=False,
    )
    assert contains(gain.results[0], 0.4 * OF_Y) and contains(gain.results[1], 0.8 * OF_Y)
    slope = information_gain_gradient(
        model,
        {"noise": NOISE},
        "z",
        BOTH,
        method=StructuredInfoNCE(200),
        model_kwargs={"share": 0.4},
        num_samples=2000,
    )
    truth = -0.4 / (NOISE**3 * (1 + NOISE**-2))
    assert abs(slope.gradient["noise"] - truth) < 4 * slope.gradient_se["noise"] + 0.02


def test_after_a_real_history():
    samples = {"z": np.random.default_rng(0).normal(size=2000)}

    def model(share):
        z = sample("z", Normal(0, 1))
        event = sample("event", dist.Bernoulli(share))
        sample("y", Normal(z, NOISE).mask(event == 1))

    gain = expected_information_gain(
        model,
        {"share": jnp.array([0.4, 0.8])},
        "z",
        BOTH,
        posterior_samples=samples,
        num_samples=500,
        progress_bar=False,
    )
    assert contains(gain.results[0], 0.4 * OF_Y) and contains(gain.results[1], 0.8 * OF_Y)


def masked_by(choose):
    def model():
        z = sample("z", Normal(0, 1))
        with numpyro.plate("N", 2):
            event = sample("event", dist.Bernoulli(logits=z))
            sample("y", Normal(z, 1).mask(choose(z, event)))
        sample("w", Normal(z, 1))

    return model


def chain_of_masks():
    z = sample("z", Normal(0, 1))
    first = sample("event", dist.Bernoulli(logits=z))
    second = sample("second", dist.Bernoulli(logits=z).mask(first == 1))
    sample("y", Normal(z, 1).mask(second == 1))


def by_its_own_values():
    def step(last, _):
        x = sample("y", Normal(z, 1).mask(last < 1))
        return x, None

    z = sample("z", Normal(0, 1))
    scan(step, 0.0, None, length=3)


def by_an_argument(event, y):
    z = sample("z", Normal(0, 1))
    with numpyro.plate("N", 2):
        sample("event", dist.Bernoulli(logits=z), obs=event)
        sample("y", Normal(z, 1).mask(event == 1), obs=y)


EVENT = masked_by(lambda z, event: event == 1)
REFUSED = {
    "latent": (
        masked_by(lambda z, event: z > 0),
        {},
        "mask depends on 'z', which is in latent.*sites of the same group",
    ),
    "both": (masked_by(lambda z, event: (z > 0) & (event == 1)), {}, "mask depends on 'z', which is in latent, so"),
    "integrated": (
        EVENT,
        {"data": "y"},
        "mask depends on 'event', which is integrated out.*group as 'y', or on sites in",
    ),
    "other_group": (EVENT, {"latent": ["z", "event"], "data": "y"}, "mask depends on 'event', which is in latent"),
    "masked_given": (
        EVENT,
        {"data": ["event", "w"], "given": "y"},
        "'y' is masked.*mask depends on 'event', which is in data",
    ),
    "element": (EVENT, {"data": ["event[0]", "y"]}, r"mask depends on 'event.others.', which is integrated out"),
    "masked_chooser": (chain_of_masks, {"data": ["event", "second", "y"]}, "'second' is masked.*'y' is computed from"),
    "own_values": (by_its_own_values, {"data": "y"}, "'y' is masked.*'y' is computed from its values"),
    "masked_latent": (EVENT, {"latent": BOTH, "data": "z"}, "latent 'y' is masked.*masked site can be in data"),
    "argument": (
        by_an_argument,
        {"model_args": (np.array([1, 0]), np.array([0.3, 0.0]))},
        "reads its data argument 'event'.*computed from what numpyro.sample returns",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_masks_that_are_refused(name):
    model, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        bounds(model, **options)


def test_a_held_value_is_outside_its_support_where_it_is_observed_only():
    def model():
        z = sample("z", Normal(0, 1))
        sample("y", dist.Exponential(jnp.ones(2)).mask(np.array([True, False])))
        sample("x", Normal(z, 1))

    assert joint_model(model, "z", "x", given={"y": jnp.array([1.0, -1.0])}).fixed
    with pytest.raises(ValueError, match="'y' at .*outside the support"):
        joint_model(model, "z", "x", given={"y": jnp.array([-1.0, 1.0])})
