"""The package's own estimators on a three-state model, by exact enumeration: no Monte Carlo error.

z in {0,1,2}, x in {0,1}, three temperatures, so two transitions. A transition draws its next state
by inverting the row of its matrix at a uniform; the uniform is cut into the cells on which nothing
changes, so that a finite sum over cells is the exact expectation over the noise.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from three_states import (
    EVIDENCE,
    EXPECTED_LOG_LIKELIHOOD,
    POSTERIOR,
    PRIOR,
    TableKernel,
    cells,
    evidence,
    problem,
    starts,
)

from numpyro_mi.annealing.chains import Path, forward_chain, reverse_chain
from numpyro_mi.evidence.schemes.coupled_reverse import CR
from numpyro_mi.evidence.schemes.independent import IM
from numpyro_mi.evidence.schemes.independent_reverse import IR


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def chain_noise(tables, direction):
    """All noises (cell of transition 1, cell of transition 2) of one chain, with probabilities."""
    pairs = itertools.product(cells(tables[0, direction]), cells(tables[1, direction]))
    return [((a, b), p * q) for (a, p), (b, q) in pairs]


def expect(function, *independent):
    """Exact expectation of `function(*values)` over independent finite variables."""
    values = [jnp.asarray([value for value, _ in variable], float) for variable in independent]
    weights = [np.array([weight for _, weight in variable]) for variable in independent]
    grid = np.meshgrid(*[np.arange(len(w)) for w in weights], indexing="ij")
    index = [axis.ravel() for axis in grid]
    probability = np.prod([w[i] for w, i in zip(weights, index, strict=True)], axis=0)
    np.testing.assert_allclose(probability.sum(), 1)
    out = jax.jit(jax.vmap(function))(*[v[i] for v, i in zip(values, index, strict=True)])
    return float(probability @ np.asarray(out))


def elbo_expectation(scheme, x, kind, transform):
    """E[transform(elbo)] with two particles, over every variable that the elbo depends on."""
    setup = problem(x, kind)
    prior, posterior = starts(PRIOR), starts(POSTERIOR[x])
    ahead, back = chain_noise(setup[2], 0), chain_noise(setup[2], 1)
    if isinstance(scheme, IM):
        return expect(
            lambda y, f, y2, f2: transform(evidence(scheme, setup, base=(y, y2), forward=(f, f2)).elbo),
            prior,
            ahead,
            prior,
            ahead,
        )
    if isinstance(scheme, CR):  # reverse particles 0, 1 start at the exact draw, particle 2 at the forward end
        return expect(
            lambda y, f, r: transform(
                evidence(scheme, setup, base=(y,), forward=(f,), reverse=(jnp.full(2, 0.5), jnp.full(2, 0.5), r)).elbo
            ),
            prior,
            ahead,
            back,
        )
    return expect(
        lambda y, f, z, r: transform(
            evidence(
                scheme, setup, base=(y,), forward=(f,), target=(jnp.zeros(()), z), reverse=(jnp.full(2, 0.5), r)
            ).elbo
        ),
        prior,
        ahead,
        posterior,
        back,
    )


def eubo_expectation(scheme, x, kind, transform):
    """E[transform(eubo)] with two particles."""
    setup = problem(x, kind)
    prior, posterior = starts(PRIOR), starts(POSTERIOR[x])
    ahead, back = chain_noise(setup[2], 0), chain_noise(setup[2], 1)
    if isinstance(scheme, IM):  # the forward particle that joins the reverse chain is particle 1
        return expect(
            lambda z, r, y, f: transform(
                evidence(
                    scheme, setup, exact=z, reverse=(r,), base=(jnp.zeros(()), y), forward=(jnp.full(2, 0.5), f)
                ).eubo
            ),
            posterior,
            back,
            prior,
            ahead,
        )
    if isinstance(scheme, CR):
        return expect(
            lambda z, r, r2: transform(evidence(scheme, setup, exact=z, reverse=(r, r2)).eubo), posterior, back, back
        )
    return expect(
        lambda z, r, z2, r2: transform(
            evidence(scheme, setup, exact=z, target=(jnp.zeros(()), z2), reverse=(r, r2)).eubo
        ),
        posterior,
        back,
        posterior,
        back,
    )


def single_chain(x, kind, transform_forward=None, transform_reverse=None, kernel=None):
    setup = problem(x, kind)
    if transform_forward is not None:
        return expect(
            lambda y, f: transform_forward(
                evidence(IM(), setup, particles=1, base=(y,), forward=(f,), kernel=kernel).elbo
            ),
            starts(PRIOR),
            chain_noise(setup[2], 0),
        )
    return expect(
        lambda z, r: transform_reverse(evidence(IM(), setup, particles=1, exact=z, reverse=(r,), kernel=kernel).eubo),
        starts(POSTERIOR[x]),
        chain_noise(setup[2], 1),
    )


def bounds(lower_evidence, upper_evidence):
    """Mutual information bounds from E[elbo] and E[eubo] by x."""
    return (
        EXPECTED_LOG_LIKELIHOOD - sum(EVIDENCE[x] * upper_evidence(x) for x in (0, 1)),
        EXPECTED_LOG_LIKELIHOOD - sum(EVIDENCE[x] * lower_evidence(x) for x in (0, 1)),
    )


SCHEMES = {"IM": IM(), "CR": CR(), "IR": IR(lambda key, data: {})}
VALUES = {
    ("reversible", "AIS"): (0.091098, 0.527594),
    ("reversible", "IM"): (0.186903, 0.383583),
    ("reversible", "CR"): (0.113450, 0.495529),
    ("reversible", "IR"): (0.151049, 0.431788),
    ("reversed", "AIS"): (0.139825, 0.446262),
    ("reversed", "IM"): (0.209743, 0.350983),
    ("reversed", "CR"): (0.164900, 0.413652),
    ("reversed", "IR"): (0.190669, 0.376343),
}


def test_truth():
    information = EXPECTED_LOG_LIKELIHOOD - (EVIDENCE * np.log(EVIDENCE)).sum()
    np.testing.assert_allclose(information, 0.276144, atol=5e-7)


@pytest.mark.parametrize("kind", ["reversible", "reversed"])
@pytest.mark.parametrize("x", [0, 1])
@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_unbiased(name, x, kind):
    scheme, z = SCHEMES[name], EVIDENCE[x]
    np.testing.assert_allclose(elbo_expectation(scheme, x, kind, jnp.exp) / z, 1, rtol=1e-13)
    np.testing.assert_allclose(eubo_expectation(scheme, x, kind, lambda v: jnp.exp(-v)) * z, 1, rtol=1e-13)


@pytest.mark.parametrize("kind", ["reversible", "reversed"])
@pytest.mark.parametrize("x", [0, 1])
def test_single_chain_is_unbiased(x, kind):
    np.testing.assert_allclose(single_chain(x, kind, jnp.exp) / EVIDENCE[x], 1, rtol=1e-13)
    np.testing.assert_allclose(single_chain(x, kind, None, lambda v: jnp.exp(-v)) * EVIDENCE[x], 1, rtol=1e-13)


@pytest.mark.parametrize(("kind", "name"), VALUES)
def test_values_in_nats(kind, name):
    if name == "AIS":
        found = bounds(lambda x: single_chain(x, kind, lambda v: v), lambda x: single_chain(x, kind, None, lambda v: v))
    else:
        found = bounds(
            lambda x: elbo_expectation(SCHEMES[name], x, kind, lambda v: v),
            lambda x: eubo_expectation(SCHEMES[name], x, kind, lambda v: v),
        )
    np.testing.assert_allclose(found, VALUES[kind, name], atol=5.1e-7)


@pytest.mark.parametrize("name", SCHEMES)
def test_one_particle_is_the_single_chain(name):
    setup = problem(0)
    args = dict(particles=1, exact=2.0, base=(1.0,), forward=(jnp.array([0.3, 0.7]),), reverse=(jnp.array([0.1, 0.6]),))
    one, single = evidence(SCHEMES[name], setup, **args), evidence(IM(), setup, **args)
    np.testing.assert_allclose([one.elbo, one.eubo], [single.elbo, single.eubo], rtol=1e-14)


def ends_at(setup, z, y, f):
    """Whether the forward chain from y ends at z."""
    target, path, _ = setup
    return forward_chain(target, TableKernel(), path, y[None], lambda t: f[t - 1]).u[0] == z


def inverse_weight(setup, z, r):
    """1/w of the reverse chain from z."""
    return jnp.exp(-evidence(IM(), setup, particles=1, exact=z, reverse=(r,)).eubo)


def test_coupled_reverse_limit():
    """K to infinity: the harmonic mean becomes E[1/w | end point], by the law of large numbers."""
    lower, upper = EXPECTED_LOG_LIKELIHOOD, EXPECTED_LOG_LIKELIHOOD
    for x in (0, 1):
        setup = problem(x)
        tables = setup[2]
        inverse = np.array([expect(partial(inverse_weight, setup, z), chain_noise(tables, 1)) for z in range(3)])
        ends = [expect(partial(ends_at, setup, z), starts(PRIOR), chain_noise(tables, 0)) for z in range(3)]
        lower += EVIDENCE[x] * POSTERIOR[x] @ np.log(inverse)
        upper += EVIDENCE[x] * np.array(ends) @ np.log(inverse)
    np.testing.assert_allclose((lower, upper), (0.146409, 0.457619), atol=5.1e-7)


def test_one_temperature_from_the_prior():
    """T = K = 1: the lower bound is 0 and the upper I plus the Lautum information; no transition is made."""
    lower, upper = EXPECTED_LOG_LIKELIHOOD, EXPECTED_LOG_LIKELIHOOD
    for x in (0, 1):
        target, path, _ = problem(x)
        path = Path(jnp.ones(1), jax.tree.map(lambda leaf: leaf[:0], path.settings))
        for z in range(3):
            start, noise = jnp.array([float(z)]), lambda t: jnp.asarray(0.5)  # no transition is made
            upper -= EVIDENCE[x] * PRIOR[z] * forward_chain(target, TableKernel(), path, start, noise).log_weight
            lower -= EVIDENCE[x] * POSTERIOR[x, z] * reverse_chain(target, TableKernel(), path, start, noise).log_weight
    np.testing.assert_allclose((lower, upper), (0.0, 0.685562), atol=5.1e-7)


# Negative controls: invalid kernels, each failing its identity by exactly the stated amount.

OWN_DIRECTION = {  # expected by x; what stays 1 needs no reversal
    ("IM", "eubo"): (0.996936, 1.003897),
    ("CR", "elbo"): (1.002529, 0.995737),
    ("IR", "elbo"): (1.003228, 0.995535),
    ("CR", "eubo"): (1.0, 1.0),
    ("IR", "eubo"): (1.0, 1.0),
    ("IM", "elbo"): (1.0, 1.0),
}


@pytest.mark.parametrize(("name", "side"), OWN_DIRECTION)
@pytest.mark.parametrize("x", [0, 1])
def test_control_kernel_in_its_own_direction(name, side, x):
    if side == "elbo":
        found = elbo_expectation(SCHEMES[name], x, "own direction", jnp.exp) / EVIDENCE[x]
    else:
        found = eubo_expectation(SCHEMES[name], x, "own direction", lambda v: jnp.exp(-v)) * EVIDENCE[x]
    np.testing.assert_allclose(found, OWN_DIRECTION[name, side][x], atol=5.1e-7)


def test_control_single_reverse_chain_needs_no_reversal():
    for x in (0, 1):
        found = single_chain(x, "own direction", None, lambda v: jnp.exp(-v)) * EVIDENCE[x]
        np.testing.assert_allclose(found, 1, rtol=1e-13)


HISTORY = {
    "only if step 1 moved": (lambda previous, current: (previous != current)[0], (1.008720, 0.993685)),
    "only if step 1 stayed": (lambda previous, current: (previous == current)[0], (0.991280, 1.006315)),
    "only at state 0": (lambda previous, current: current[0] == 0, (0.946678, 1.075517)),
    "only at state 1": (lambda previous, current: current[0] == 1, (1.030395, 0.984183)),
}


@pytest.mark.parametrize("name", HISTORY)
@pytest.mark.parametrize("x", [0, 1])
def test_control_adaptation_on_the_scored_chain(name, x):
    applies, expected = HISTORY[name]
    found = single_chain(x, "reversible", jnp.exp, kernel=TableKernel(applies)) / EVIDENCE[x]
    np.testing.assert_allclose(found, expected[x], atol=5.1e-7)
