"""A model of three states, and a kernel of tables, on which estimators are enumerated without Monte Carlo error."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.annealing.chains import FORWARD, REVERSE, Path, Randomness
from numpyro_mi.annealing.kernels.base import StepInfo, StepSettings
from numpyro_mi.targets import AnnealedTarget

PRIOR = np.array([0.5, 0.3, 0.2])
LIKELIHOOD = np.array([[0.9, 0.4, 0.05], [0.1, 0.6, 0.95]])  # [x, z]
BETAS = np.array([0.0, 0.15, 0.5, 1.0])
EVIDENCE = LIKELIHOOD @ PRIOR
POSTERIOR = LIKELIHOOD * PRIOR / EVIDENCE[:, None]  # [x, z]
EXPECTED_LOG_LIKELIHOOD = (LIKELIHOOD * PRIOR * np.log(LIKELIHOOD)).sum()


class State(NamedTuple):
    u: jax.Array
    log_ratio: jax.Array
    previous: jax.Array


class TableKernel:
    """Moves by the matrices in `settings.inverse_mass_matrix` (forward, backward); `step_size` is t.

    `applies(previous, current)` says whether the second transition is carried out: True in a
    valid kernel, a function of the chain's own history in an invalid one.
    """

    def __init__(self, applies=None):
        self.applies = applies

    def init(self, target, u):
        return State(u, target.log_ratio(u), u)

    def sample_noise(self, rng_key, u):
        raise AssertionError("noise is enumerated, never drawn")

    def _move(self, target, state, matrix, settings, noise):
        row = matrix[state.u[0].astype(int)]
        new = jnp.sum(noise > jnp.cumsum(row)[:-1]).astype(float)[None]
        if self.applies is not None:
            new = jnp.where((settings.step_size == 1) | self.applies(state.previous, state.u), new, state.u)
        return State(new, target.log_ratio(new), state.u), StepInfo(jnp.ones(()), jnp.asarray(0))

    def forward(self, target, state, settings, noise):
        return self._move(target, state, settings.inverse_mass_matrix[0], settings, noise)

    def reverse(self, target, state, settings, noise):
        return self._move(target, state, settings.inverse_mass_matrix[1], settings, noise)


def tempered(x):
    """pi_t for t = 0..3, shape (4, 3)."""
    unnormalised = PRIOR * LIKELIHOOD[x] ** BETAS[:, None]
    return unnormalised / unnormalised.sum(1, keepdims=True)


def matrices(x, kind):
    """Forward and backward transition matrices at the two inner temperatures, shape (2, 2, 3, 3)."""
    result = []
    for pi in tempered(x)[1:3]:
        forward = 0.5 * np.eye(3) + 0.5 * np.tile(pi, (3, 1))
        if kind != "reversible":
            flow = 0.5 * (pi * np.diag(forward)).min()
            for i in range(3):
                forward[i, (i + 1) % 3] += flow / pi[i]
                forward[i, i] -= flow / pi[i]
        backward = forward.T * pi / pi[:, None]
        if kind == "own direction":
            backward = forward
        result.append((forward, backward))
        np.testing.assert_allclose(forward.sum(1), 1)
        np.testing.assert_allclose(pi @ forward, pi)
    return np.array(result)


def problem(x, kind="reversible"):
    """Target and path for one value of x."""
    log_prior, log_likelihood = jnp.log(PRIOR), jnp.log(LIKELIHOOD[x])
    target = AnnealedTarget(None, lambda u: log_prior[u[0].astype(int)], lambda u: log_likelihood[u[0].astype(int)])
    tables = matrices(x, kind)
    settings = StepSettings(jnp.asarray(BETAS[1:-1]), jnp.arange(1.0, 3.0), jnp.asarray(tables))
    return target, Path(jnp.asarray(np.diff(BETAS)), settings), tables


def cells(matrix):
    """Midpoints and widths of the pieces of (0, 1) on which every row picks one state."""
    edges = np.unique(np.concatenate([[0, 1], np.cumsum(matrix, axis=1)[:, :-1].ravel()]))
    return [(0.5 * (a + b), b - a) for a, b in itertools.pairwise(edges)]


def starts(probabilities):
    return list(enumerate(probabilities))


def evidence(scheme, problem, *, particles=2, exact=0.0, base=(), target=(), forward=(), reverse=(), kernel=None):
    """Run a scheme of the package with given noise; what is not given is never looked at by the bound asked for."""
    annealed, path, _ = problem
    filler = jnp.full((2 * particles, 2), 0.5)

    def table(rows):
        return filler if not len(rows) else jnp.concatenate([jnp.stack(list(rows)), filler])[: 2 * particles]

    noises = {FORWARD: table(forward), REVERSE: table(reverse)}
    bases = jnp.concatenate([jnp.asarray(base, float).ravel(), jnp.zeros(particles)])
    targets = jnp.concatenate([jnp.asarray(target, float).ravel(), jnp.zeros(particles)])
    randomness = Randomness(lambda k: bases[k][None], lambda k: targets[k][None], lambda d, k, t: noises[d][k, t - 1])
    return scheme.evidence(
        annealed, kernel or TableKernel(), path, jnp.asarray(exact, float)[None], particles, randomness
    )
