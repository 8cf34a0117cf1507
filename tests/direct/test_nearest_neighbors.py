"""The nearest-neighbour estimate: closed forms, a brute-force reference, ties and its own warning sign."""

import dataclasses

import numpy as np
import pytest
from scipy.special import digamma

from numpyro_mi.direct.nearest_neighbors import KSG, count_ties, growth, ksg_terms

BOTH = pytest.mark.parametrize("algorithm", [1, 2])
RHO, TRUTH = 0.75, 0.413340


def correlated(count, rho=RHO, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, 1))
    return z, rho * z + np.sqrt(1 - rho**2) * rng.normal(size=(count, 1))


def grown(z, x, num_neighbors=5, algorithm=1):
    return growth(z, x, KSG(num_neighbors, algorithm), ksg_terms(z, x, num_neighbors, algorithm))


def grouped(count, seed=0):
    """Two columns against three, dependent."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, 2)) * [1.0, 30.0]
    noise = rng.normal(size=(count, 3))
    return z, np.column_stack([z[:, 0] + noise[:, 0], np.exp(z[:, 1] / 30) + noise[:, 1], noise[:, 2]])


def gaussian_channel(count, information=20.0, dim=10, seed=0):
    """`x = z + noise`, whose mutual information is `information` nats, shared evenly by the dimensions."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, dim))
    return z, z + rng.normal(size=(count, dim)) / np.sqrt(np.expm1(2 * information / dim))


def brute_force(z, x, k, algorithm):
    """The two formulas of the paper, one pair at a time."""
    z, x = ((group - group.mean(axis=0)) / group.std(axis=0) for group in (z, x))
    count = len(z)
    terms = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        in_z = {j: max(abs(z[i] - z[j])) for j in others}
        in_x = {j: max(abs(x[i] - x[j])) for j in others}
        nearest = sorted(others, key=lambda j: max(in_z[j], in_x[j]))[:k]
        if algorithm == 1:
            radius = max(in_z[nearest[-1]], in_x[nearest[-1]])
            inner_z = sum(in_z[j] < radius for j in others)
            inner_x = sum(in_x[j] < radius for j in others)
            terms.append(digamma(k) + digamma(count) - digamma(inner_z + 1) - digamma(inner_x + 1))
        else:
            inner_z = sum(in_z[j] <= max(in_z[m] for m in nearest) for j in others)
            inner_x = sum(in_x[j] <= max(in_x[m] for m in nearest) for j in others)
            terms.append(digamma(k) - 1 / k + digamma(count) - digamma(inner_z) - digamma(inner_x))
    return np.array(terms)


class TestTerms:
    @BOTH
    def test_correlated_normal(self, algorithm):
        terms = ksg_terms(*correlated(10_000), 5, algorithm)
        assert terms.shape == (10_000,) and terms.dtype == np.float64
        assert terms.mean() == pytest.approx(TRUTH, abs=0.03)

    @BOTH
    @pytest.mark.parametrize("k", [1, 2, 5])
    @pytest.mark.parametrize("draw", [correlated, grouped])
    def test_brute_force(self, draw, k, algorithm):
        z, x = draw(60)
        np.testing.assert_allclose(ksg_terms(z, x, k, algorithm), brute_force(z, x, k, algorithm), rtol=0, atol=1e-12)

    def test_brute_force_with_ties(self):
        """Tied distances, on which strict and inclusive counts differ."""
        z, x = correlated(60)
        x = (x > 0).astype(float)
        np.testing.assert_allclose(ksg_terms(z, x, 3, 1), brute_force(z, x, 3, 1), rtol=0, atol=1e-12)
        lattice = np.array([(i, j) for i in range(6) for j in range(10)], float)
        z, x = lattice[:, :1], lattice[:, 1:]
        np.testing.assert_allclose(ksg_terms(z, x, 3, 1), brute_force(z, x, 3, 1), rtol=0, atol=1e-12)

    @BOTH
    def test_affine_maps_change_nothing(self, algorithm):
        z, x = grouped(500)
        mapped = ksg_terms(-3.0 * z + [5.0, -70.0], x * [1e-6, 40.0, -2.0] + 1.0, 5, algorithm)
        np.testing.assert_allclose(mapped, ksg_terms(z, x, 5, algorithm), rtol=0, atol=1e-12)

    @BOTH
    def test_rows_permute_with_their_terms(self, algorithm):
        z, x = grouped(500)
        order = np.random.default_rng(1).permutation(500)
        permuted = ksg_terms(z[order], x[order], 5, algorithm)
        np.testing.assert_allclose(permuted, ksg_terms(z, x, 5, algorithm)[order], rtol=0, atol=1e-12)

    @BOTH
    def test_symmetric_in_the_groups(self, algorithm):
        z, x = grouped(500)
        np.testing.assert_allclose(ksg_terms(x, z, 5, algorithm), ksg_terms(z, x, 5, algorithm), rtol=0, atol=1e-12)

    @BOTH
    def test_independence(self, algorithm):
        assert ksg_terms(*correlated(4_000, rho=0.0), 5, algorithm).mean() == pytest.approx(0.0, abs=0.03)

    @BOTH
    def test_far_too_low_at_20_nats(self, algorithm):
        assert ksg_terms(*gaussian_channel(2_000), 5, algorithm).mean() < 8

    def test_discrete_against_continuous(self):
        """A fair coin seen through a normal of standard deviation 1, means 0 and 2: 0.33683 nats by quadrature."""
        rng = np.random.default_rng(0)
        x = rng.integers(0, 2, (10_000, 1))
        assert ksg_terms(rng.normal(size=(10_000, 1)) + 2 * x, x).mean() == pytest.approx(0.33683, abs=0.02)


class TestTies:
    @BOTH
    def test_single_precision_is_no_tie(self, algorithm):
        z, x = (group.astype(np.float32) for group in correlated(10_000))
        assert 0 < count_ties(z, x) < 100
        assert ksg_terms(z, x, 5, algorithm).mean() == pytest.approx(TRUTH, abs=0.03)

    def test_counted(self):
        z = np.array([[0.0, 1], [0, 1], [0, 2], [3, 4], [5, 6]])
        x = np.array([[1.0], [2], [3], [4], [4]])
        assert count_ties(z, np.arange(5.0)[:, None]) == 2
        assert count_ties(z, x) == 4
        assert count_ties(z[2:], x[:3]) == 0
        assert count_ties(np.array([[0.0], [-0.0]]), np.array([[1.0], [2.0]])) == 2

    def test_refused_by_algorithm_2(self):
        z, x = correlated(200)
        x[:50] = 0.0
        with pytest.raises(ValueError, match=r"repeat in 50 of 200 rows: use algorithm=1.*noise is never added"):
            ksg_terms(z, x, 5, 2)
        assert count_ties(z, x) == 50
        assert np.isfinite(ksg_terms(z, x, 5, 1)).all()

    def test_identical_joint_rows(self):
        z, x = correlated(100)
        z[:6], x[:6] = 0.0, 0.0
        assert np.isfinite(ksg_terms(z, x, 6, 1)).all()
        with pytest.raises(ValueError, match="at most 5 identical joint rows, but 6 of 100 rows have 5 or more copies"):
            ksg_terms(z, x, 5, 1)


class TestGrowth:
    @BOTH
    def test_flags_20_nats(self, algorithm):
        difference, se = grown(*gaussian_channel(2_000), 5, algorithm)
        assert difference > 0.02 and difference > 4 * se

    @BOTH
    @pytest.mark.parametrize("seed", range(3))
    def test_passes_the_correlated_normal(self, seed, algorithm):
        difference, se = grown(*correlated(10_000, seed=seed), 5, algorithm)
        assert not (difference > 0.02 and difference > 4 * se)

    @BOTH
    def test_by_hand(self, algorithm):
        z, x = correlated(403)
        z, x = ((group - group.mean(axis=0)) / group.std(axis=0) for group in (z, x))
        total = ksg_terms(z, x, 5, algorithm)
        quarters = [ksg_terms(z[i::4], x[i::4], 5, algorithm) for i in range(4)]
        values = [quarter.mean() for quarter in quarters]
        floor = sum(np.var(quarter, ddof=1) / len(quarter) for quarter in quarters) / 4
        spread = np.var(total, ddof=1) / 403 + max(np.var(values, ddof=1), floor) / 4
        difference, se = grown(z, x, 5, algorithm)
        # A quarter standardised anew differs slightly, by ratios of standard deviations.
        assert difference == pytest.approx(total.mean() - np.mean(values), abs=0.02)
        assert se == pytest.approx(np.sqrt(spread), rel=0.1)

    def test_needs_rows_in_every_quarter(self):
        z, x = correlated(28)
        assert grown(z[:27], x[:27]) is None
        assert np.isfinite(grown(z, x)).all()

    def test_a_column_constant_in_a_quarter(self):
        z, x = correlated(100)
        x = np.column_stack([x, np.arange(100) == 2])
        assert np.isfinite(grown(z, x)).all()


class TestErrors:
    def test_configuration_is_frozen(self):
        assert KSG() == KSG(np.int64(5), np.int64(1)) and type(KSG(np.int64(3)).num_neighbors) is int
        with pytest.raises(dataclasses.FrozenInstanceError):
            KSG().num_neighbors = 3

    @pytest.mark.parametrize("bad", [0, -1, 2.0, True, "5", None])
    def test_num_neighbors(self, bad):
        with pytest.raises(ValueError, match="KSG needs num_neighbors, a positive integer, got"):
            KSG(num_neighbors=bad)
        with pytest.raises(ValueError, match="KSG needs num_neighbors, a positive integer, got"):
            ksg_terms(*correlated(20), bad, 1)

    @pytest.mark.parametrize("bad", [0, 3, 1.0, True, "1", None])
    def test_algorithm(self, bad):
        with pytest.raises(ValueError, match="KSG needs algorithm 1 or 2, got"):
            KSG(algorithm=bad)
        with pytest.raises(ValueError, match="KSG needs algorithm 1 or 2, got"):
            ksg_terms(*correlated(20), 5, bad)

    def test_constant_column(self):
        z, x = grouped(50)
        x[:, 1] = 0.1
        with pytest.raises(ValueError, match="column 1 of x is constant at 0.1: leave it out"):
            ksg_terms(z, x)
        with pytest.raises(ValueError, match="column 1 of z is constant"):
            ksg_terms(x, z)

    def test_spread_out_of_range(self):
        z, x = correlated(50)
        with pytest.raises(
            ValueError, match="standard deviation, but that of column 0 of x is inf in float64: rescale"
        ):
            ksg_terms(z, x * 1e200)
        with pytest.raises(ValueError, match="standard deviation, but that of column 0 of z is 0 in float64: rescale"):
            ksg_terms(z * 1e-200, x)

    def test_rows(self):
        z, x = correlated(7)
        assert ksg_terms(z, x).shape == (7,)
        with pytest.raises(ValueError, match="num_neighbors=5 needs at least 7 rows, got 6"):
            ksg_terms(z[:6], x[:6])

    def test_shapes(self):
        z, x = correlated(20)
        with pytest.raises(ValueError, match=r"of shapes \(N, dz\) and \(N, dx\), got \(20,\) and \(20, 1\)"):
            ksg_terms(z[:, 0], x)
        with pytest.raises(ValueError, match=r"got \(20, 1\) and \(19, 1\)"):
            ksg_terms(z, x[:19])
