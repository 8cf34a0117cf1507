"""MINE-AIS, GIWAE and InfoNCE on the three-state model of `test_enumeration`, by exact enumeration.

The scorers are the package's own; only their randomness is enumerated. The base q is uniform, the
energy `r = q e^T` for a table T, and the chains have the targets `q e^{bT}`. Tables are `[x, z]`.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from three_states import BETAS, EVIDENCE, LIKELIHOOD, POSTERIOR, PRIOR, cells, evidence

from numpyro_mi import CR, IM, IWAE, BarberAgakov, StructuredInfoNCE
from numpyro_mi.annealing.chains import Path
from numpyro_mi.annealing.kernels.base import StepSettings
from numpyro_mi.direct.contrastive import InfoNCEScorer
from numpyro_mi.direct.critics import FixedCritic
from numpyro_mi.direct.giwae import GIWAEScorer
from numpyro_mi.direct.mine_ais import EnergyIntegral, MINEAISScorer
from numpyro_mi.guides.base import Conditional
from numpyro_mi.targets import AnnealedTarget

JOINT = LIKELIHOOD * PRIOR
INFORMATION = (JOINT * np.log(LIKELIHOOD / EVIDENCE[:, None])).sum()
UNIFORM = np.full((2, 3), 1 / 3)
PRIORS = np.tile(PRIOR, (2, 1))
GUIDE = np.array([[0.55, 0.3, 0.15], [0.2, 0.45, 0.35]])
OFFSET = np.array([[0.7], [-1.9]])  # a function of x, which no contrast sees
MATCHING = np.array([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
CRITICS = {"matching": MATCHING, "overconfident": 3 * MATCHING, "wrong": -MATCHING} | {
    f"random {i}": table for i, table in enumerate(np.random.default_rng(0).standard_normal((2, 2, 3)))
}
SCHEMES = {"IM": IM(), "CR": CR()}
KEY = jax.random.key(0)  # asked for, and looked at by nothing


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


class TableGuide(NamedTuple):
    """q(z|x) from a table; all its draws are `drawn`, an enumerated one."""

    table: Any
    drawn: Any = 0.0

    def fit(self, pairs, rng_key, report):
        return self

    def condition(self, target, x, rng_key):
        return Conditional(jnp.zeros(1), jnp.ones(1), x)

    def sample(self, conditional, rng_key):
        return jnp.asarray(self.drawn, float)[None]

    def log_prob(self, conditional, v):
        return at(jnp.log(self.table), conditional.extra, v)


class Enumerated(NamedTuple):
    """Stands in for `AIS`: the package's scheme with given noise."""

    scheme: Any
    particles: int
    given: dict

    def evidence(self, target, path, exact, rng_key):
        return evidence(self.scheme, (target, path, None), particles=self.particles, exact=exact[0], **self.given)


def at(table, x, z):
    """The entry of a table at two vectors of length one."""
    return jnp.asarray(table)[x[0].astype(int), z[0].astype(int)]


def log_prior(u):
    return jnp.log(jnp.asarray(PRIOR))[u[0].astype(int)]


def critic_of(table):
    return FixedCritic(lambda x, z: at(table, x, z))


def row(value):
    """A number as a batch of one vector of length one."""
    return jnp.asarray(value, float).reshape(1, 1)


def every(function, *tables):
    """Values of `function(x, *values)` at all combinations, and their probabilities.

    A variable is a table `[x, state]` of probabilities given x, or a pair of its values and them.
    """
    jitted = jax.jit(jax.vmap(function))
    values, probabilities = [], []
    for x in (0, 1):
        variables = [table if isinstance(table, tuple) else (np.arange(3.0), table) for table in tables]
        variables = [(support[x] if support.ndim == 3 else support, table[x]) for support, table in variables]
        index = np.indices([len(table) for _, table in variables]).reshape(len(variables), -1)
        columns = [support[i] for (support, _), i in zip(variables, index, strict=True)]
        values.append(jitted(np.full(index.shape[1], float(x)), *columns))
        weights = [table[i] for (_, table), i in zip(variables, index, strict=True)]
        probabilities.append(EVIDENCE[x] * np.prod(weights, axis=0))
    probabilities = np.concatenate(probabilities)
    np.testing.assert_allclose(probabilities.sum(), 1)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *values), probabilities


def expectation(function, *tables):
    values, probabilities = every(function, *tables)
    return probabilities @ values


# MINE-AIS: chains enumerated.


def matrices(critic, kind="reversible"):
    """Forward and backward transition matrices by x and inner temperature, shape (2, 2, 2, 3, 3)."""
    result = np.empty((2, 2, 2, 3, 3))
    for x, (t, beta) in itertools.product((0, 1), enumerate(BETAS[1:-1])):
        pi = UNIFORM[x] * np.exp(beta * critic[x])
        pi /= pi.sum()
        forward = 0.5 * np.eye(3) + 0.5 * np.tile(pi, (3, 1))
        if kind == "reversed":
            flow = 0.5 * (pi * np.diag(forward)).min()
            for i in range(3):
                forward[i, (i + 1) % 3] += flow / pi[i]
                forward[i, i] -= flow / pi[i]
        np.testing.assert_allclose(pi @ forward, pi)
        result[x, t] = forward, forward.T * pi / pi[:, None]
    return result


def noise(tables, direction):
    """Noise of the two transitions of a chain by x, and probabilities, filled up to the same number of cells."""
    values, weights = np.full((2, 49, 2), 0.5), np.zeros((2, 49))
    for x in (0, 1):
        pairs = itertools.product(cells(tables[x, 0, direction]), cells(tables[x, 1, direction]))
        for i, ((a, p), (b, q)) in enumerate(pairs):
            values[x, i], weights[x, i] = (a, b), p * q
    return values, weights


def path_of(tables):
    """Path with the matrices of one x, as the kernel of `test_enumeration` takes them."""
    return Path(jnp.asarray(np.diff(BETAS)), StepSettings(jnp.asarray(BETAS[1:-1]), jnp.arange(1.0, 3.0), tables))


def energy_terms(critic, path, scheme, particles, x, z, **given):
    """The term of a trained `MINEAIS` for the pair (x, z)."""
    integral = EnergyIntegral(TableGuide(UNIFORM), critic_of(critic), log_prior, None)
    return MINEAISScorer(integral, path, Enumerated(scheme, particles, given)).terms(row(z), row(x), KEY)


@functools.cache
def mine_ais(name, which="matching", particles=1, kind="reversible"):
    """Expected term, nats: "IM" and "CR" for the lower bound, "upper" for the upper end for IBAL."""
    return _mine_ais(name, CRITICS[which], particles, kind)


def _mine_ais(name, critic, particles, kind="reversible"):
    tables = matrices(critic, kind)
    ahead, back, nothing = noise(tables, 0), noise(tables, 1), jnp.full(2, 0.5)

    def term(x, z, **given):
        path = path_of(jnp.asarray(tables)[x.astype(int)])
        found = energy_terms(critic, path, SCHEMES.get(name, IM()), particles, x, z, **given)
        return found["ibal_upper" if name == "upper" else "lower"]

    if name == "upper" and particles == 1:
        return expectation(lambda x, z, y, f: term(x, z, base=(y,), forward=(f,)), POSTERIOR, UNIFORM, ahead)
    if name == "upper":
        return expectation(
            lambda x, z, y, f, y2, f2: term(x, z, base=(y, y2), forward=(f, f2)),
            POSTERIOR,
            UNIFORM,
            ahead,
            UNIFORM,
            ahead,
        )
    if particles == 1:
        return expectation(lambda x, z, r: term(x, z, reverse=(r,)), POSTERIOR, back)
    if name == "CR":
        return expectation(lambda x, z, r, r2: term(x, z, reverse=(r, r2)), POSTERIOR, back, back)
    # The forward particle that joins the reverse chain is particle 1.
    return expectation(
        lambda x, z, r, y, f: term(x, z, reverse=(r,), base=(jnp.zeros(()), y), forward=(nothing, f)),
        POSTERIOR,
        back,
        UNIFORM,
        ahead,
    )


def ibal(critic):
    """What the bound is in the limit: the variational bound of the guide `q e^T / Z`."""
    tilted = UNIFORM * np.exp(critic)
    return (JOINT * np.log(tilted / tilted.sum(1, keepdims=True) / PRIOR)).sum()


def path_divergence(critic, kind):
    """`E_x KL(P || Q)` over the 27 paths of a chain: P reverse from the posterior, Q forward from q."""
    total = 0.0
    for x, tables in enumerate(matrices(critic, kind)):
        (forward_1, back_1), (forward_2, back_2) = tables
        p = np.einsum("c,cb,ba->abc", POSTERIOR[x], back_2, back_1)
        q = np.einsum("a,ab,bc->abc", UNIFORM[x], forward_1, forward_2)
        np.testing.assert_allclose([p.sum(), q.sum()], 1)
        total += EVIDENCE[x] * (p * np.log(p / q)).sum()
    return total


VALUES = {  # single chain, IM K=2, CR K=2, IBAL, upper end K=1, K=2
    "matching": (0.022285, 0.114008, 0.042736, 0.202047, 0.401114, 0.300733),
    "overconfident": (-0.109911, -0.186907, -0.008707, -0.281293, 0.849908, 0.243879),
}


@pytest.mark.parametrize("which", VALUES)
def test_values_in_nats(which):
    found = [
        mine_ais("IM", which),
        mine_ais("IM", which, 2),
        mine_ais("CR", which, 2),
        ibal(CRITICS[which]),
        mine_ais("upper", which),
        mine_ais("upper", which, 2),
    ]
    np.testing.assert_allclose(found, VALUES[which], atol=5.1e-7)


@pytest.mark.parametrize("kind", ["reversible", "reversed"])
@pytest.mark.parametrize("which", CRITICS)
def test_shortfall_is_the_divergence_of_the_paths(which, kind):
    found = INFORMATION - path_divergence(CRITICS[which], kind)
    np.testing.assert_allclose(mine_ais("IM", which, 1, kind), found, rtol=0, atol=1e-14)


def test_may_exceed_ibal_and_fall_with_more_chains():
    """An overconfident critic: neither is a defect, and all stay below the truth."""
    limit = ibal(CRITICS["overconfident"])
    assert mine_ais("IM", "overconfident") > limit + 0.1
    assert mine_ais("CR", "overconfident", 2) > limit + 0.2
    assert mine_ais("IM", "overconfident", 2) < mine_ais("IM", "overconfident") - 0.05


@pytest.mark.parametrize("which", CRITICS)
def test_nothing_exceeds_the_truth(which):
    np.testing.assert_allclose(INFORMATION, 0.276144, atol=5e-7)
    single, limit = mine_ais("IM", which), ibal(CRITICS[which])
    np.testing.assert_allclose(mine_ais("CR", which), single, atol=1e-14)
    assert max(single, mine_ais("IM", which, 2), mine_ais("CR", which, 2), limit) < INFORMATION
    assert limit < mine_ais("upper", which, 2) < mine_ais("upper", which)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_best_critic_leaves_the_annealing_gap_only(name):
    """r is proportional to the posterior: IBAL is the truth, and the bound exceeds that of the base."""
    best = np.log(JOINT / UNIFORM) + OFFSET
    np.testing.assert_allclose(ibal(best), INFORMATION, atol=1e-14)
    base, found = (JOINT * np.log(UNIFORM / PRIOR)).sum(), [_mine_ais(name, best, k) for k in (1, 2)]
    assert base < found[0] < found[1] < INFORMATION


# GIWAE and InfoNCE: draws enumerated.


def giwae(guide, critic, particles, x, z, drawn=0.0):
    scorer = GIWAEScorer(TableGuide(guide, drawn), critic_of(critic), log_prior, particles)
    return scorer.terms(row(z), row(x), KEY)


def importance(method, guide, x, z, drawn=0.0):
    """The lower bound of an importance sampler whose draws are all `drawn`."""
    x, exact, ratio = row(x)[0], row(z)[0], jnp.log(JOINT / guide)
    target = AnnealedTarget(lambda key: row(drawn)[0], None, lambda u: at(ratio, x, u))
    return at(jnp.log(LIKELIHOOD), x, exact) - method.evidence(target, None, exact, KEY).eubo


def info_nce(critic, x, *latents):
    """The term of x and the first latent among all of them."""
    u = jnp.concatenate([row(z) for z in latents])
    return InfoNCEScorer(critic_of(critic)).terms(u, row(x), KEY)["lower"]


@pytest.mark.parametrize("which", CRITICS)
def test_giwae_of_one_particle_is_barber_agakov(which):
    found, probabilities = every(lambda x, z: giwae(GUIDE, CRITICS[which], 1, x, z), POSTERIOR)
    reference, _ = every(functools.partial(importance, BarberAgakov(TableGuide(GUIDE)), GUIDE), POSTERIOR)
    assert (found["contrastive"] == 0).all()
    np.testing.assert_allclose(found["lower"], reference, atol=1e-14)
    np.testing.assert_allclose(probabilities @ found["lower"], (JOINT * np.log(GUIDE / PRIOR)).sum(), atol=1e-14)


def iwae_terms():
    return every(functools.partial(importance, IWAE(TableGuide(GUIDE), 2), GUIDE), POSTERIOR, GUIDE)


def test_giwae_with_the_best_critic_is_iwae():
    best = np.log(JOINT / GUIDE) + OFFSET
    found, _ = every(lambda x, z, drawn: giwae(GUIDE, best, 2, x, z, drawn)["lower"], POSTERIOR, GUIDE)
    np.testing.assert_allclose(found, iwae_terms()[0], atol=1e-14)


@pytest.mark.parametrize("which", CRITICS)
def test_giwae_is_at_most_iwae(which):
    values, probabilities = iwae_terms()
    variational, iwae = (JOINT * np.log(GUIDE / PRIOR)).sum(), probabilities @ values
    assert variational < iwae < min(INFORMATION, variational + np.log(2))
    assert expectation(lambda x, z, v: giwae(GUIDE, CRITICS[which], 2, x, z, v)["lower"], POSTERIOR, GUIDE) < iwae


@pytest.mark.parametrize("which", CRITICS)
def test_mine_ais_of_one_temperature_is_giwae(which):
    """Without a transition the chains are draws of the base: IM is GIWAE, and CR the bound of the base itself."""
    critic, unused = CRITICS[which], dict(forward=(jnp.full(2, 0.5),) * 2, reverse=(jnp.full(2, 0.5),) * 2)
    path = Path(jnp.ones(1), jax.tree.map(lambda leaf: leaf[:0], path_of(jnp.zeros((2, 2, 3, 3))).settings))

    def both(x, z, drawn):
        given = dict(base=(jnp.zeros(()), drawn), **unused)
        found = [energy_terms(critic, path, scheme, 2, x, z, **given)["lower"] for scheme in (IM(), CR())]
        reference = giwae(UNIFORM, critic, 2, x, z, drawn)
        return jnp.stack(found), jnp.stack([reference["lower"], reference["variational"]])

    (found, reference), _ = every(both, POSTERIOR, UNIFORM)
    np.testing.assert_allclose(found, reference, atol=1e-14)


@pytest.mark.parametrize("which", [*CRITICS, "best", "sharp"])
@pytest.mark.parametrize("particles", [2, 3])
def test_info_nce_is_at_most_log_k_and_the_truth(which, particles):
    critic = {**CRITICS, "best": np.log(LIKELIHOOD), "sharp": 60 * MATCHING}[which]
    values, probabilities = every(
        lambda x, *latents: info_nce(critic, x, *latents), POSTERIOR, *[PRIORS] * (particles - 1)
    )
    assert (values <= np.log(particles) + 1e-12).all()
    assert probabilities @ values < INFORMATION
    if which == "best":
        assert probabilities @ values > 0


def test_info_nce_with_the_best_critic_is_structured_info_nce():
    found, _ = every(functools.partial(info_nce, np.log(LIKELIHOOD) + OFFSET), POSTERIOR, PRIORS)
    reference, _ = every(functools.partial(importance, StructuredInfoNCE(2), PRIORS), POSTERIOR, PRIORS)
    np.testing.assert_allclose(found, reference, atol=1e-14)
