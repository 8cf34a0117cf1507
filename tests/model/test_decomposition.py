"""The signed pieces of a mutual information, checked by enumeration; no Monte Carlo."""

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from numpyro_mi.model.integrals.decomposition import Decomposition, LogMarginal, _split, decompose
from numpyro_mi.model.joint.trace import joint_model

NUM_SITES = 6
SITES = tuple("abcdef")


class BinaryGraph:
    """Random parents among the earlier sites, random conditional probabilities, random groups."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        edges = np.tril(rng.random((NUM_SITES, NUM_SITES)) < rng.uniform(0.15, 0.6), -1)
        self.parents = {site: frozenset(np.array(SITES)[edges[i]].tolist()) for i, site in enumerate(SITES)}
        shuffled, (first, second) = rng.permutation(SITES).tolist(), sorted(rng.integers(1, NUM_SITES, 2))
        second = max(second, first + 1)
        self.latent, self.data = tuple(shuffled[:first]), tuple(shuffled[first:second])
        # Of every other graph, some of the rest are given.
        count = int(rng.integers(0, NUM_SITES - second + 1)) if seed % 2 else 0
        self.given = tuple(shuffled[second : second + count])
        # p[i] is p(site i | its parents) as a table over all six sites.
        self.p = {}
        for i, site in enumerate(SITES):
            shape = [2 if j == i or edges[i, j] else 1 for j in range(NUM_SITES)]
            table = rng.uniform(0.05, 1, shape)
            self.p[site] = table / table.sum(i, keepdims=True)

    def log_sum(self, factors, integrated):
        """Log of the sum over some sites of a product of conditionals, as a table over the others."""
        product = np.ones([1] * NUM_SITES)
        for name in factors:
            product = product * self.p[name]
        axes = tuple(SITES.index(name) for name in integrated)
        return np.log(np.broadcast_to(product, [2] * NUM_SITES).sum(axes, keepdims=True) if axes else product)

    def log_marginal(self, held):
        return self.log_sum(SITES, set(SITES) - set(held))

    def pointwise(self):
        """What the pieces must add up to."""
        latent, data, given = self.latent, self.data, self.given
        both = self.log_marginal(latent + data + given) + self.log_marginal(given)
        return both - self.log_marginal(latent + given) - self.log_marginal(data + given)

    def ancestors(self, names):
        found = set(names)
        for name in reversed(SITES):
            found |= self.parents[name] if name in found else set()
        return found

    def separated(self):
        """Whether the groups are d-separated: in the moral graph of the ancestors of all, no path avoids the given."""
        known = self.ancestors(self.latent + self.data + self.given)
        families = [self.parents[name] | {name} for name in known]
        reached, frontier = set(), set(self.latent)
        while frontier:
            reached |= frontier
            near = set().union(*(family for family in families if family & frontier))
            frontier = near - reached - set(self.given)
        return not reached & set(self.data)


@pytest.mark.parametrize("seed", range(200))
def test_pieces_add_up(seed):
    graph = BinaryGraph(seed)
    pieces = _split(SITES, graph.parents, graph.latent, graph.data, graph.given)
    total = np.zeros([1] * NUM_SITES)
    for sign, name in pieces.exact:
        total = total + sign * graph.log_sum([name], [])
    for sign, integrated, factors in pieces.integrals:
        # The others, at their values, are the ones that the piece is conditioned on.
        assert sign and not set(integrated) & set(graph.given)
        total = total + sign * graph.log_sum(factors, integrated)
    wanted = graph.pointwise()
    np.testing.assert_allclose(*np.broadcast_arrays(total, wanted), rtol=0, atol=1e-12)

    information = (np.exp(graph.log_sum(SITES, [])) * wanted).sum()
    assert pieces.dependent != graph.separated()
    assert graph.separated() == (abs(information) < 1e-12)


def test_discrete_pieces_are_sums():
    """Whether a piece is annealed or summed changes nothing else."""
    for seed in range(50):
        graph = BinaryGraph(seed)
        integrals = _split(SITES, graph.parents, graph.latent, graph.data, graph.given)
        sums = _split(SITES, graph.parents, graph.latent, graph.data, graph.given, lambda name: True)
        assert sums == integrals._replace(integrals=(), sums=integrals.integrals)


def test_random_graphs_are_of_all_kinds():
    graphs = [BinaryGraph(seed) for seed in range(200)]
    assert 20 < sum(graph.separated() for graph in graphs) < 160
    assert sum(bool(graph.given) for graph in graphs) > 50


def split(edges, latent="z", data="x"):
    """Pieces of a graph such as `"h>z z>x"`, whose sites are in order of appearance."""
    pairs = [tuple(edge.split(">")) for edge in edges.split()]
    sites = tuple(dict.fromkeys(itertools.chain(*pairs)))
    parents = {site: frozenset(a for a, *b in pairs if b == [site]) for site in sites}
    return _split(sites, parents, tuple(latent), tuple(data))._replace(cancelled=())


def integral(sign, integrated, factors):
    return LogMarginal(sign, tuple(integrated), tuple(factors))


@pytest.mark.parametrize(
    "edges, latent, data, exact, integrals",
    [
        ("z>x", "z", "x", [(1, "x")], [integral(-1, "z", "zx")]),
        # A latent further up is integrated with z; p(z) itself is never needed.
        ("h>z z>x", "z", "x", [(1, "x")], [integral(-1, "hz", "hzx")]),
        ("g>h h>z z>x", "z", "x", [(1, "x")], [integral(-1, "ghz", "ghzx")]),
        # A latent beside z makes the likelihood an integral as well.
        ("z>x w>x", "z", "x", [], [integral(1, "w", "xw"), integral(-1, "zw", "zxw")]),
        ("z>h h>x", "z", "x", [], [integral(1, "h", "hx"), integral(-1, "zh", "zhx")]),
        # What is below both is not needed.
        ("z>x x>n z>n", "z", "x", [(1, "x")], [integral(-1, "z", "zx")]),
        ("z>c x>c", "z", "x", [], []),
        # The other way round: x is upstream, and integrated.
        ("x>z", "z", "x", [(1, "z")], [integral(-1, "x", "xz")]),
        # Independent parts stay apart, and cancel where they say nothing.
        ("z>x y>w", "zy", "xw", [(1, "x"), (1, "w")], [integral(-1, "z", "zx"), integral(-1, "y", "yw")]),
        ("z>x y>w", "zy", "x", [(1, "x")], [integral(-1, "z", "zx")]),
        ("z>x z>y", "z", "xy", [(1, "x"), (1, "y")], [integral(-1, "z", "zxy")]),
        ("h>z h>x", "z", "x", [], [integral(1, "h", "hzx"), integral(-1, "h", "hz"), integral(-1, "h", "hx")]),
    ],
)
def test_known_pieces(edges, latent, data, exact, integrals):
    pieces = split(edges, latent, data)
    assert sorted(pieces.exact) == sorted(exact) and sorted(pieces.integrals) == sorted(integrals)


def test_pieces_are_in_model_order_whatever_the_order_of_the_groups():
    """Also from one process to the next, where sets of names are in another order."""
    for seed in range(50):
        graph = BinaryGraph(seed)
        pieces = _split(SITES, graph.parents, graph.latent, graph.data, graph.given)
        assert pieces == _split(SITES, graph.parents, graph.data[::-1], graph.latent[::-1], graph.given[::-1])
        assert list(pieces.exact) == sorted(pieces.exact, key=lambda piece: piece[1])
        assert list(pieces.integrals) == sorted(pieces.integrals, key=lambda piece: piece[1:])


def decomposed(model, latent="z", data="x"):
    return decompose(joint_model(model, latent, data))


def test_hierarchy():
    def model(x=None):
        top = numpyro.sample("top", dist.Normal(0, 1))
        scale = numpyro.deterministic("scale", jnp.exp(top))
        with numpyro.plate("N", 3):
            z = numpyro.sample("z", dist.Normal(0, scale))
            numpyro.sample("x", dist.Normal(z, 1), obs=x)
            numpyro.sample("prediction", dist.Normal(z, 1))

    expected = Decomposition(((1, "x"),), (LogMarginal(-1, ("top", "z"), ("top", "z", "x")),))
    cancelled = (LogMarginal(0, ("top",), ("top", "z")),)  # p(z), which is never needed
    assert decomposed(model) == expected._replace(cancelled=cancelled)
    assert decomposed(model, ["z", "top"]) == expected
    # Given the top, nothing but z is integrated.
    above = Decomposition(((1, "x"),), (LogMarginal(-1, ("z",), ("z", "x")),))
    assert decompose(joint_model(model, "z", "x", given="top")) == above


def test_order_of_groups_does_not_matter():
    def model():
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(a + b, 1))
        numpyro.sample("y", dist.Normal(b, 1))

    assert decomposed(model, ["b", "a"], ["y", "x"]) == decomposed(model, ["a", "b"], ["x", "y"])


def test_state_space_model():
    """A state depends on the state before it, and on no observation."""

    def model():
        z = numpyro.sample("z", dist.Gamma(2.0, 1.0))

        def step(state, _):
            state = numpyro.sample("h", dist.Normal(state, z))
            numpyro.sample("x", dist.Normal(state, 1))
            return state, None

        scan(step, 0.0, None, length=3)

    assert joint_model(model, "h", "x").parents == {"z": frozenset(), "h": frozenset("z"), "x": frozenset("h")}
    integral, cancelled = LogMarginal(-1, ("z", "h"), ("z", "h", "x")), LogMarginal(0, ("z",), ("z", "h"))
    assert decomposed(model, "h") == Decomposition(((1, "x"),), (integral,), (), (cancelled,))


def test_feedback_in_scan_is_seen():
    def model():
        def step(x, _):
            h = numpyro.sample("h", dist.Normal(x, 1))
            return numpyro.sample("x", dist.Normal(h, 1)), None

        scan(step, 0.0, None, length=2)

    assert joint_model(model, "h", "x").parents == {"h": frozenset("x"), "x": frozenset("h")}


def test_independent_groups_leave_nothing():
    def model():
        numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(0, 1))

    assert decomposed(model) == Decomposition((), ())
