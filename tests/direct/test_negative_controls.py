"""Estimators that must fail: each wrong one lies beyond the truth, and the package's right one does not."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from numpyro_mi import GIWAE, InfoNCE, MLPCritic, RegressionGuide, Training, tasks
from numpyro_mi.direct.base import Supply
from numpyro_mi.direct.contrastive import InfoNCEScorer, MINEScorer, cap_and_normaliser, scores
from numpyro_mi.direct.critics import FixedCritic
from numpyro_mi.draws.simulation import joint_draws
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.views.samples import stage_samples
from numpyro_mi.results.estimation import confidence_limit, mean
from numpyro_mi.training.pairs import Pairs

pytestmark = pytest.mark.compile_fast


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


# A critic that is scored on the pairs it was trained on.

NUM_PAIRS = 500


@functools.cache
def decoder():
    """5 latents through a nonlinear decoder of 20 noisy data, with a known mutual information."""
    return tasks.warped(tasks.linear_vae(5, 20, noise=6.0), tasks.Asinh(), "x")


@functools.cache
def drawn():
    """Staged model, 500 pairs to train on, and fresh ones."""
    task = decoder()
    samples = stage_samples(joint_model(task.model, task.latent, task.data), True)
    found = joint_draws(samples.draw, jax.random.key(0), 5 * NUM_PAIRS)
    u, x = np.asarray(found.u), np.asarray(found.x)
    return samples, (u[:NUM_PAIRS], x[:NUM_PAIRS]), (u[NUM_PAIRS:], x[NUM_PAIRS:])


def reused(u, x):
    """The same rows over and over, so that even the held-out part was trained on."""

    def blocks(count):
        copies = -(-count // len(u))
        yield np.tile(u, (copies, 1))[:count], np.tile(x, (copies, 1))[:count]

    return Pairs(blocks, u.shape[1], x.shape[1])


@functools.cache
def trained(method):
    samples, seen, _ = drawn()
    supply = Supply(reused(*seen), reused(*seen), NUM_PAIRS, samples.log_prior, samples.sample_prior)
    return method.fit(supply, jax.random.key(1), lambda text: None)


def scored(method, u, x):
    """Terms of pairs, with fresh latents of the prior where the method compares with some."""
    samples, scorer = drawn()[0], trained(method)

    @jax.jit
    @jax.vmap
    def terms(u, x, key):
        negatives_key, own_key = jax.random.split(key)
        others = jax.vmap(samples.sample_prior)(jax.random.split(negatives_key, method.num_latents - 1))
        return scorer.terms(jnp.concatenate([u[None], others.reshape(-1, len(u))]), x[None], own_key)["lower"]

    return np.asarray(terms(u, x, jax.random.split(jax.random.key(2), len(u))), np.float64)


OVERFITTED = dict(
    critic=MLPCritic((64, 64)), training=Training(10 * NUM_PAIRS, max_steps=300, batch_size=64, learning_rate=3e-3)
)
REUSED = {
    "InfoNCE": InfoNCE(**OVERFITTED, num_particles=100),
    "GIWAE": GIWAE(**OVERFITTED, guide=RegressionGuide(), num_particles=100),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REUSED)
def test_scoring_on_the_training_pairs(name):
    truth = decoder().mutual_information
    _, seen, fresh = drawn()
    wrong, right = mean(scored(REUSED[name], *seen)), mean(scored(REUSED[name], *fresh))
    assert wrong.value > truth + 8 * wrong.se
    assert right.value < truth + 4 * right.se


# Contrastive bounds with the best critic there is, on jointly normal vectors.


class Normal(NamedTuple):
    """`dimension` independent pairs of normals with one correlation, `information` nats together."""

    information: float
    dimension: int

    def draw(self, rng_key, shape, num_others):
        """Data `(*shape, 1, d)`, and latents `(*shape, 1 + num_others, d)` of which the first belong to them."""
        rho, scale = self.moments()
        latent_key, noise_key = jax.random.split(rng_key)
        u = jax.random.normal(latent_key, (*shape, 1 + num_others, self.dimension))
        x = rho * u[..., :1, :] + scale * jax.random.normal(noise_key, (*shape, 1, self.dimension))
        return x, u

    def moments(self):
        variance = np.exp(-2 * self.information / self.dimension)
        return np.sqrt(1 - variance), np.sqrt(variance)

    def critic(self):
        """The best one, `log p(x|z) / p(x)`, as a user's function."""
        rho, scale = self.moments()
        return FixedCritic(lambda x, z: (0.5 * x**2 - 0.5 * ((x - rho * z) / scale) ** 2 - np.log(scale)).sum())


@jax.jit
def terms_of(scorer, x, u):
    """Terms of many pairs."""
    return jax.vmap(lambda x, u: scorer.terms(u, x, None))(x, u)


NUM_RUNS, NUM_TERMS, NUM_NEGATIVES, NUM_PILOTS = 100, 1000, 20, 30_000


@functools.cache
def variational_runs(normal, capped):
    """Parts of the terms of 100 runs, each with its own pilots, shape `(runs, terms)`."""
    draw_key, pilot_key = jax.random.split(jax.random.key(0))
    x, u = normal.draw(draw_key, (NUM_RUNS, NUM_TERMS), NUM_NEGATIVES)
    pilot_x, pilot_u = normal.draw(pilot_key, (NUM_RUNS, NUM_PILOTS), 1)
    critic = normal.critic()
    pilots = np.asarray(jax.vmap(jax.vmap(critic.score))(pilot_x[:, :, 0], pilot_u[:, :, 1]))
    if capped:
        cap, log_normaliser = np.transpose([cap_and_normaliser(row, NUM_TERMS * NUM_NEGATIVES) for row in pilots])
    else:
        cap, log_normaliser = np.full(NUM_RUNS, np.inf), logsumexp(pilots, axis=1) - np.log(NUM_PILOTS)
    scorers = MINEScorer(critic, jnp.asarray(cap), jnp.asarray(log_normaliser))
    return {name: np.asarray(value) for name, value in jax.vmap(terms_of)(scorers, x, u).items()}


def share_of_false_claims(normal, capped):
    """How often the 97.5 % lower limit lies above the truth."""
    terms = variational_runs(normal, capped)["lower"]
    return np.mean([confidence_limit(row, -1, 0.975) > normal.information for row in terms])


@pytest.mark.usefixtures("double_precision")
def test_variational_bound_without_a_cap():
    """Its expectation is a bound, but a mean of few terms never sees what makes it one."""
    normal = Normal(10.0, 1)
    assert share_of_false_claims(normal, capped=False) > 0.15
    assert share_of_false_claims(normal, capped=True) == 0
    assert variational_runs(normal, True)["lower"].mean() > 4, "the cap must not make the bound useless"


@pytest.mark.usefixtures("double_precision")
def test_capped_bound_where_nothing_is_in_its_way():
    """At 2 nats the bound is all but the truth, so that its limit lies above that as often as it says: 2.5 %."""
    normal = Normal(2.0, 2)
    assert variational_runs(normal, True)["lower"].mean() > 1.95
    assert share_of_false_claims(normal, capped=True) <= 0.08


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("normal", [Normal(2.0, 2), Normal(4.0, 1), Normal(10.0, 1)], ids=lambda normal: normal[0])
def test_capped_bound_on_blocks_of_rows(normal):
    """Arrays compare all rows of a block with one another; such negatives share rows."""
    draw_key, pilot_key = jax.random.split(jax.random.key(0))
    num_terms, size = 200, 1 + NUM_NEGATIVES
    x, u = (part[..., 0, :] for part in normal.draw(draw_key, (NUM_RUNS, num_terms, size), 0))
    pilot_x, pilot_u = normal.draw(pilot_key, (NUM_PILOTS,), 1)
    critic = normal.critic()
    pilots = np.asarray(jax.vmap(critic.score)(pilot_x[:, 0], pilot_u[:, 1]))
    cap, log_normaliser = cap_and_normaliser(pilots, num_terms * size * (size - 1))
    scorer = MINEScorer(critic, jnp.asarray(cap), jnp.asarray(log_normaliser))
    terms = np.stack([terms_of(scorer, *run)["lower"] for run in zip(x, u, strict=True)])
    assert np.mean([confidence_limit(row, -1, 0.975) > normal.information for row in terms]) <= 0.08
    assert terms.mean() < normal.information + 4 * terms.mean(1).std() / np.sqrt(NUM_RUNS)


@pytest.mark.usefixtures("double_precision")
def test_log_of_a_minibatch_mean():
    """The Donsker-Varadhan bound with the log of a sample mean lies above the truth; the scored form does not."""
    parts = variational_runs(Normal(15.0, 3), True)
    plug_in = parts["own_score"].mean(1) - (logsumexp(parts["log_mean_exp_score"], axis=1) - np.log(NUM_TERMS))
    assert (plug_in > 15 + 1).mean() > 0.95
    assert (parts["lower"].mean(1) < 15).all()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("num_particles", [100, 1000])
def test_info_nce_without_its_own_latent(num_particles):
    normal = Normal(6.0, 8)
    x, u = normal.draw(jax.random.key(0), (2000,), num_particles - 1)
    critic = normal.critic()

    @jax.jit
    @jax.vmap
    def without(x, u):
        table = scores(critic, x, u)[0]
        return table[0] - logsumexp(table[1:]) + jnp.log(num_particles - 1)

    wrong, right = mean(without(x, u)), mean(terms_of(InfoNCEScorer(critic), x, u)["lower"])
    assert wrong.value > normal.information + 4 * wrong.se
    assert right.value < min(normal.information, np.log(num_particles)) + 4 * right.se
    assert right.value > 4, "and says something"
