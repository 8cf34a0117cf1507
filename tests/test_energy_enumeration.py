"""MINE-AIS, GIWAE and InfoNCE on the three-state model of `test_enumeration`, by exact enumeration.

The scorers are the package's own; only their randomness is enumerated. The base q is uniform, the
energy `r = q e^T` for a table T, and the chains have the targets `q e^{bT}`.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_enumeration import (
    BETAS,
    EVIDENCE,
    LIKELIHOOD,
    POSTERIOR,
    PRIOR,
    TableKernel,
    chain_noise,
    evidence,
    expect,
    starts,
)

from numpyro_mi import CR, IM, IWAE, BarberAgakov, StructuredInfoNCE
from numpyro_mi.annealing import Path
from numpyro_mi.bounds.contrastive import InfoNCEScorer
from numpyro_mi.bounds.giwae import GIWAEScorer
from numpyro_mi.bounds.mine_ais import EnergyIntegral, MINEAISScorer
from numpyro_mi.critics import FixedCritic
from numpyro_mi.guides.base import Conditional
from numpyro_mi.kernels.base import StepSettings
from numpyro_mi.targets import AnnealedTarget

JOINT = LIKELIHOOD * PRIOR  # [x, z], as everything below
INFORMATION = (JOINT * np.log(LIKELIHOOD / EVIDENCE[:, None])).sum()
UNIFORM = np.full((2, 3), 1 / 3)
CRITIC = np.array([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
RANDOM = np.random.default_rng(0).standard_normal((3, 2, 3))
KEY = jax.random.key(0)  # asked for, and looked at by nothing


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


class TableGuide(NamedTuple):
    """q(z|x) from a table; `drawn` is its only draw, an enumerated one."""

    table: np.ndarray
    drawn: jax.Array = 0.0

    def fit(self, pairs, rng_key, report):
        return self

    def condition(self, target, x, rng_key):
        return Conditional(jnp.zeros(1), jnp.ones(1), x)

    def sample(self, conditional, rng_key):
        return jnp.asarray(self.drawn, float)[None]

    def log_prob(self, conditional, v):
        return at(np.log(self.table), conditional.extra, v)


class Enumerated(NamedTuple):
    """Stands in for `AIS`: the package's scheme with given noise."""

    scheme: object
    particles: int
    given: dict

    def evidence(self, target, path, exact, rng_key):
        return evidence(self.scheme, (target, path, None), particles=self.particles, exact=exact[0], **self.given)


def at(table, x, z):
    """Entry of a table `[x, z]` at two vectors of length one."""
    return jnp.asarray(table)[x[0].astype(int), z[0].astype(int)]


def log_prior(u):
    return jnp.log(jnp.asarray(PRIOR))[u[0].astype(int)]


def critic_of(table):
    return FixedCritic(lambda x, z: at(table, x, z))


def matrices(critic, x, kind="reversible"):
    """Forward and backward transition matrices at the two inner temperatures, shape (2, 2, 3, 3)."""
    result = []
    for beta in BETAS[1:-1]:
        pi = UNIFORM[x] * np.exp(beta * critic[x])
        pi /= pi.sum()
        forward = 0.5 * np.eye(3) + 0.5 * np.tile(pi, (3, 1))
        if kind == "reversed":
            flow = 0.5 * (pi * np.diag(forward)).min()
            for i in range(3):
                forward[i, (i + 1) % 3] += flow / pi[i]
                forward[i, i] -= flow / pi[i]
        np.testing.assert_allclose(pi @ forward, pi)
        result.append((forward, forward.T * pi / pi[:, None]))
    return np.array(result)


def path_of(tables):
    return Path(
        jnp.asarray(np.diff(BETAS)), StepSettings(jnp.asarray(BETAS[1:-1]), jnp.arange(1.0, 3.0), jnp.asarray(tables))
    )


def terms(critic, x, z, scheme, particles, path, **given):
    """The term of a trained `MINEAIS` for the pair (x, z)."""
    integral = EnergyIntegral(TableGuide(UNIFORM), critic_of(critic), log_prior, None)
    scorer = MINEAISScorer(integral, path, Enumerated(scheme, particles, given))
    return scorer.terms(jnp.asarray(z, float)[None, None], jnp.full((1, 1), float(x)), KEY)


def expected(name, critic, x, particles, kind):
    """Expectation at one x over all that the term depends on."""
    tables = matrices(critic, x, kind)
    ahead, back = chain_noise(tables, 0), chain_noise(tables, 1)
    base, exact, nothing = starts(UNIFORM[x]), starts(POSTERIOR[x]), jnp.full(2, 0.5)
    score = functools.partial(terms, critic, x, particles=particles, path=path_of(tables))
    if name == "upper":
        if particles == 1:
            return expect(lambda z, y, f: score(z, IM(), base=(y,), forward=(f,))["ibal_upper"], exact, base, ahead)
        return expect(
            lambda z, y, f, y2, f2: score(z, IM(), base=(y, y2), forward=(f, f2))["ibal_upper"],
            exact,
            base,
            ahead,
            base,
            ahead,
        )
    if particles == 1:
        return expect(lambda z, r: score(z, SCHEMES[name], reverse=(r,))["lower"], exact, back)
    if name == "CR":
        return expect(lambda z, r, r2: score(z, CR(), reverse=(r, r2))["lower"], exact, back, back)
    # The forward particle that joins the reverse chain is particle 1.
    return expect(
        lambda z, r, y, f: score(z, IM(), reverse=(r,), base=(jnp.zeros(()), y), forward=(nothing, f))["lower"],
        exact,
        back,
        base,
        ahead,
    )


SCHEMES = {"IM": IM(), "CR": CR()}
CRITICS = {"matching": CRITIC, **{f"random {i}": table for i, table in enumerate(RANDOM)}}


@functools.cache
def bound(name, scale=1.0, particles=1, kind="reversible", which="matching"):
    """Expected term of MINE-AIS, nats: "IM", "CR", or "upper", the upper end for IBAL."""
    with jax.enable_x64(True):
        return sum(EVIDENCE[x] * expected(name, scale * CRITICS[which], x, particles, kind) for x in (0, 1))


def ibal(critic):
    """What the bound is in the limit: the variational bound of the guide `q e^T / Z`."""
    return (JOINT * np.log(tilted(critic) / PRIOR)).sum()


def tilted(critic):
    """`q e^T / Z`."""
    r = UNIFORM * np.exp(critic)
    return r / r.sum(1, keepdims=True)


def path_divergence(critic, kind):
    """`E_x KL(P || Q)` over the 27 paths of a chain: P reverse from the posterior, Q forward from q."""
    total = 0.0
    for x in (0, 1):
        (forward_1, back_1), (forward_2, back_2) = matrices(critic, x, kind)
        p = np.einsum("c,cb,ba->abc", POSTERIOR[x], back_2, back_1)
        q = np.einsum("a,ab,bc->abc", UNIFORM[x], forward_1, forward_2)
        np.testing.assert_allclose([p.sum(), q.sum()], 1)
        total += EVIDENCE[x] * (p * np.log(p / q)).sum()
    return total


VALUES = {  # by scale of the critic: single chain, IM K=2, CR K=2, IBAL, upper end K=1, K=2
    1.0: (0.022285, 0.114008, 0.042736, 0.202047, 0.401114, 0.300733),
    3.0: (-0.109911, -0.186907, -0.008707, -0.281293, 0.849908, 0.243879),
}


@pytest.mark.parametrize("scale", VALUES)
def test_values_in_nats(scale):
    found = [
        bound("IM", scale),
        bound("IM", scale, 2),
        bound("CR", scale, 2),
        ibal(scale * CRITIC),
        bound("upper", scale),
        bound("upper", scale, 2),
    ]
    np.testing.assert_allclose(found, VALUES[scale], atol=5.1e-7)


@pytest.mark.parametrize("kind", ["reversible", "reversed"])
@pytest.mark.parametrize(("which", "scale"), [("matching", 1.0), ("matching", 3.0), *((name, 1.0) for name in CRITICS)])
def test_shortfall_is_the_divergence_of_the_paths(which, scale, kind):
    shortfall = path_divergence(scale * CRITICS[which], kind)
    np.testing.assert_allclose(bound("IM", scale, 1, kind, which), INFORMATION - shortfall, rtol=0, atol=1e-14)
    assert bound("IM", scale, 1, kind, which) == bound("CR", scale, 1, kind, which)


def test_may_exceed_ibal_and_fall_with_more_chains():
    """An overconfident critic: neither is a defect, and both stay below the truth."""
    assert bound("IM", 3.0) > ibal(3.0 * CRITIC) + 0.1
    assert bound("IM", 3.0, 2) < bound("IM", 3.0) - 0.05
    assert bound("CR", 3.0, 2) > ibal(3.0 * CRITIC) + 0.2


@pytest.mark.parametrize("which", CRITICS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", SCHEMES)
def test_nothing_exceeds_the_truth(name, scale, which):
    for particles in (1, 2):
        assert bound(name, scale, particles, "reversible", which) < INFORMATION
    critic = scale * CRITICS[which]
    assert ibal(critic) < INFORMATION
    assert ibal(critic) < bound("upper", scale, 2, "reversible", which) < bound("upper", scale, 1, "reversible", which)


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("name", SCHEMES)
def test_best_critic_leaves_only_the_annealing_gap(name, particles):
    """`r` proportional to the posterior: IBAL is the truth, and the bound lies between that of the base and it."""
    best = np.log(JOINT / UNIFORM)
    np.testing.assert_allclose(ibal(best), INFORMATION, atol=1e-14)
    base = (JOINT * np.log(UNIFORM / PRIOR)).sum()
    with jax.enable_x64(True):
        found = sum(EVIDENCE[x] * expected(name, best, x, particles, "reversible") for x in (0, 1))
    assert base < found < INFORMATION


# GIWAE and InfoNCE: pairs and guide draws enumerated.

GUIDE = np.array([[0.55, 0.3, 0.15], [0.2, 0.45, 0.35]])
BEST = np.log(JOINT / GUIDE) + np.array([[0.7], [-1.9]])  # up to a function of x


def average(function, *independent):
    """Exact expectation over (x, z) and further variables, of which each is a table `[x, value]`."""
    total = 0.0
    for x in (0, 1):
        rest = [starts(table[x]) for table in independent]
        total += EVIDENCE[x] * expect(functools.partial(function, x), starts(POSTERIOR[x]), *rest)
    return total


def giwae(critic, particles, x, z, drawn=0.0):
    scorer = GIWAEScorer(TableGuide(GUIDE, drawn), critic_of(critic), log_prior, particles)
    return scorer.terms(jnp.asarray(z, float)[None, None], jnp.full((1, 1), float(x)), KEY)


def importance(method, x, z, drawn=0.0):
    """The lower bound of an importance sampler whose draws are all `drawn`."""
    guide = UNIFORM * 0 + PRIOR if isinstance(method, StructuredInfoNCE) else GUIDE
    target = AnnealedTarget(
        lambda key: jnp.asarray(drawn, float)[None], None, lambda u: at(np.log(JOINT / guide), jnp.full(1, x), u)
    )
    exact = jnp.asarray(z, float)[None]
    return at(np.log(LIKELIHOOD), jnp.full(1, x), exact) - method.evidence(target, None, exact, KEY).eubo


@pytest.mark.parametrize("which", CRITICS)
def test_giwae_of_one_particle_is_barber_agakov(which):
    expected_value = (JOINT * np.log(GUIDE / PRIOR)).sum()
    for x, z in itertools.product((0, 1), range(3)):
        found = giwae(CRITICS[which], 1, x, z)
        assert found["contrastive"] == 0
        reference = importance(BarberAgakov(TableGuide(GUIDE)), x, z)
        np.testing.assert_allclose([found["lower"], found["variational"]], reference, atol=1e-14)
    np.testing.assert_allclose(
        average(lambda x, z: giwae(CRITICS[which], 1, x, z)["lower"]), expected_value, atol=1e-14
    )


def test_giwae_with_the_best_critic_is_iwae():
    for x, z, drawn in itertools.product((0, 1), range(3), range(3)):
        found = giwae(BEST, 2, x, z, drawn)["lower"]
        np.testing.assert_allclose(found, importance(IWAE(TableGuide(GUIDE), 2), x, z, drawn), atol=1e-14)


@pytest.mark.parametrize("which", CRITICS)
def test_giwae_is_at_most_iwae(which):
    iwae = average(lambda x, z, drawn: importance(IWAE(TableGuide(GUIDE), 2), x, z, drawn), GUIDE)
    found = average(lambda x, z, drawn: giwae(CRITICS[which], 2, x, z, drawn)["lower"], GUIDE)
    variational = (JOINT * np.log(GUIDE / PRIOR)).sum()
    assert found < iwae < INFORMATION
    assert variational < iwae < variational + np.log(2)


@pytest.mark.parametrize("which", CRITICS)
def test_mine_ais_of_one_temperature_is_giwae(which):
    """Without a transition the chains are draws of the base: IM is GIWAE, and CR the bound of the base itself."""
    path = Path(jnp.ones(1), jax.tree.map(lambda leaf: leaf[:0], path_of(matrices(CRITIC, 0)).settings))
    critic = CRITICS[which]
    for x, z, drawn in itertools.product((0, 1), range(3), range(3)):
        unused = dict(forward=(jnp.full(2, 0.5),) * 2, reverse=(jnp.full(2, 0.5),) * 2)
        found = terms(critic, x, z, IM(), 2, path, base=(0.0, drawn), **unused)["lower"]
        scorer = GIWAEScorer(TableGuide(UNIFORM, drawn), critic_of(critic), log_prior, 2)
        reference = scorer.terms(jnp.full((1, 1), float(z)), jnp.full((1, 1), float(x)), KEY)
        np.testing.assert_allclose(found, reference["lower"], atol=1e-14)
        coupled = terms(critic, x, z, CR(), 2, path, base=(0.0, drawn), **unused)["lower"]
        np.testing.assert_allclose(coupled, reference["variational"], atol=1e-14)


def info_nce(critic, x, *latents):
    """The term of (x, first latent) among all of them."""
    u = jnp.stack([jnp.asarray(z, float) for z in latents])[:, None]
    return InfoNCEScorer(critic_of(critic)).terms(u, jnp.full((1, 1), float(x)), KEY)["lower"]


@pytest.mark.parametrize("which", [*CRITICS, "best", "sharp"])
@pytest.mark.parametrize("particles", [2, 3])
def test_info_nce_is_at_most_log_k_and_the_truth(which, particles):
    critic = {**CRITICS, "best": np.log(LIKELIHOOD), "sharp": 60 * CRITIC}[which]
    priors = [np.tile(PRIOR, (2, 1))] * (particles - 1)
    for x in (0, 1):
        for latents in itertools.product(range(3), repeat=particles):
            assert info_nce(critic, x, *latents) <= np.log(particles) + 1e-12
    assert average(functools.partial(info_nce, critic), *priors) < INFORMATION


def test_info_nce_with_the_best_critic_is_structured_info_nce():
    for x, z, drawn in itertools.product((0, 1), range(3), range(3)):
        found = info_nce(np.log(LIKELIHOOD) + np.array([[0.7], [-1.9]]), x, z, drawn)
        np.testing.assert_allclose(found, importance(StructuredInfoNCE(2), x, z, drawn), atol=1e-14)
