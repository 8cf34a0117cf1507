"""The nearest-neighbour estimate of mutual information of Kraskov, Stögbauer and Grassberger (KSG)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numpyro_mi.options import integer, shown

# Draws in single precision repeat by rounding: about 1 row in 1,000 of 10,000 normal pairs, 1 in 100 of
# 80,000. The -1/k of algorithm 2 is out of place in a tied row, so that these cost about 0.02 / k nats at most.
MAX_TIED_SHARE = 0.02
_LEAST_GROWTH = 0.02  # nats; less is none, nor is less than this many standard errors:
_GROWTH_ERRORS = 4


@dataclass(frozen=True)
class KSG:
    """A nearest-neighbour estimate of mutual information from joint samples; it bounds nothing.

    Its error has either sign. Where the mutual information or the dimension is large, it lies far
    too low, and no number of draws in reach repairs that; `growth` detects some such cases.

    Parameters
    ----------
    num_neighbors
        k, the neighbours whose distance sets the scale at each draw: a smaller k has less bias and
        more variance.
    algorithm
        1: a cube around each draw, strict counts; also takes one discrete and one continuous
        variable. 2: a rectangle, inclusive counts; continuous variables only.

    References
    ----------
    A. Kraskov, H. Stögbauer, P. Grassberger, Estimating mutual information, Physical Review E 69,
    066138 (2004).
    """

    num_neighbors: int = 5
    algorithm: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_neighbors", integer("KSG", "num_neighbors", self.num_neighbors))
        number = self.algorithm
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number not in (1, 2):
            raise ValueError(f"KSG needs algorithm 1 or 2, got {shown(number)}.")
        object.__setattr__(self, "algorithm", int(number))


class Growth(NamedTuple):
    """How far the estimate at all draws exceeds that at a quarter of them, and its standard error."""

    difference: float
    standard_error: float


def ksg_terms(z: np.ndarray, x: np.ndarray, num_neighbors: int = 5, algorithm: int = 1) -> np.ndarray:
    """Pointwise terms whose mean is the KSG estimate of the mutual information of `z` and `x`, in nats.

    Columns are standardised; distances are maximum norms. The terms share neighbours, so that the
    standard error of their mean is approximate.

    Parameters
    ----------
    z, x
        Shapes `(N, dz)` and `(N, dx)`, finite; row i of both is one joint draw, and rows are independent.
    num_neighbors, algorithm
        As in `KSG`.

    Returns
    -------
    numpy.ndarray
        Shape `(N,)`, float64.

    Raises
    ------
    ValueError
        Constant columns, too few rows, more than `num_neighbors` identical joint rows, or, for
        algorithm 2, values that repeat.
    """
    method = KSG(num_neighbors, algorithm)
    return _terms(*_prepared(z, x, method), method)


def count_ties(z: np.ndarray, x: np.ndarray) -> int:
    """Number of rows whose whole `z` row or whole `x` row occurs again elsewhere.

    Draws of continuous variables have none, but for a few that rounding makes; a variable that is
    discrete, censored or zero-inflated has many. One discrete column beside continuous ones makes none.

    Parameters
    ----------
    z, x
        Shapes `(N, dz)` and `(N, dx)`.
    """
    return int((_repeats(z) | _repeats(x)).sum())


def notes_on(z: np.ndarray, x: np.ndarray, method: KSG, terms: np.ndarray) -> tuple[str, ...]:
    """What speaks against the estimate whose terms `ksg_terms` gave: values that repeat, and growth."""
    notes = []
    tied = count_ties(z, x)
    if tied > MAX_TIED_SHARE * len(z):
        notes.append(
            f"{tied:,} of {len(z):,} rows repeat values of z or of x: nearest neighbours are made for continuous "
            "variables."
        )
    grown = growth(z, x, method, terms)
    if grown is not None and grown.difference > max(_LEAST_GROWTH, _GROWTH_ERRORS * grown.standard_error):
        notes.append(
            f"the estimate is still growing with the number of draws (by {grown.difference:.2f} nats from a quarter of "
            "them to all): it lies too low, and by how much is not known."
        )
    return tuple(notes)


def growth(z: np.ndarray, x: np.ndarray, method: KSG, terms: np.ndarray) -> Growth | None:
    """Whether the estimate still grows with the number of draws, which shows that it lies too low.

    The estimate at all N draws less its mean over four disjoint quarters of them (every fourth row),
    each estimated by itself. No growth does not show that the estimate is right: in many dimensions a
    small mutual information can be missed for the most part, and the growth be lost in the noise.

    Parameters
    ----------
    z, x
        As in `ksg_terms`.
    method, terms
        The estimate at all draws, and what `ksg_terms` gave for it.

    Returns
    -------
    Growth or None
        The standard error treats the two estimates as independent; the spread of the quarters enters
        it, or that of their terms where this is larger. None where a quarter has fewer than
        `num_neighbors + 2` rows.
    """
    if len(z) // 4 < method.num_neighbors + 2:
        return None
    z, x = (_standardized(name, np.asarray(rows, np.float64)) for name, rows in (("z", z), ("x", x)))
    quarters = [_terms(z[start::4], x[start::4], method) for start in range(4)]
    values = np.array([quarter.mean() for quarter in quarters])
    floor = np.mean([quarter.var(ddof=1) / quarter.size for quarter in quarters])
    variance = terms.var(ddof=1) / terms.size + max(values.var(ddof=1), floor) / 4
    return Growth(float(terms.mean() - values.mean()), float(np.sqrt(variance)))


def _prepared(z: np.ndarray, x: np.ndarray, method: KSG) -> tuple[np.ndarray, np.ndarray]:
    """Both groups checked and standardised."""
    z, x = np.asarray(z, np.float64), np.asarray(x, np.float64)
    if z.ndim != 2 or x.ndim != 2 or len(z) != len(x):
        raise ValueError(f"KSG needs z and x of shapes (N, dz) and (N, dx), got {z.shape} and {x.shape}.")
    needed = method.num_neighbors + 2
    if len(z) < needed:
        raise ValueError(f"KSG with num_neighbors={method.num_neighbors} needs at least {needed} rows, got {len(z)}.")
    z, x = _standardized("z", z), _standardized("x", x)
    ties = count_ties(z, x) if method.algorithm == 2 else 0
    if ties > MAX_TIED_SHARE * len(z):
        raise ValueError(
            f"KSG algorithm 2 needs continuous variables, but values of z or x repeat in {ties} of {len(z)} rows: use "
            f"algorithm=1, whose counts allow them, or a method for discrete variables (noise is never added silently)."
        )
    return z, x


def _standardized(name: str, columns: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and standard deviation 1."""
    constant = np.flatnonzero(columns.max(axis=0) == columns.min(axis=0))
    if constant.size:
        raise ValueError(
            f"KSG needs columns that vary, but column {constant[0]} of {name} is constant at "
            f"{columns[0, constant[0]]:g}: leave it out, since it carries no information."
        )
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        centered = columns - columns.mean(axis=0)
        scale = centered.std(axis=0)
    bad = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))
    if bad.size:
        raise ValueError(
            f"KSG needs columns with a finite positive standard deviation, but that of column {bad[0]} of {name} "
            f"is {scale[bad[0]]:g} in float64: rescale the column."
        )
    return centered / scale


def _repeats(rows: np.ndarray) -> np.ndarray:
    """Which rows occur more than once."""
    order = np.lexsort(rows.T)
    ordered = rows[order]
    equal = (ordered[1:] == ordered[:-1]).all(axis=1)
    repeated = np.zeros(len(rows), bool)
    repeated[order[1:]] |= equal
    repeated[order[:-1]] |= equal
    return repeated


def _terms(z: np.ndarray, x: np.ndarray, method: KSG) -> np.ndarray:
    """KSG terms of standardised columns: equation (8) of the paper, or (9) for algorithm 2."""
    from scipy.spatial import cKDTree
    from scipy.special import digamma

    k = method.num_neighbors
    joint = np.hstack([z, x])
    distances, neighbors = cKDTree(joint).query(joint, k + 1, p=np.inf)
    radius = distances[:, -1]
    if not radius.all():
        raise ValueError(
            f"KSG with num_neighbors={k} needs at most {k} identical joint rows, but {(radius == 0).sum()} of {len(z)} "
            f"rows have {k} or more copies: use a method for discrete variables, or drop repeated draws of a chain."
        )
    constant = digamma(k) + digamma(len(z))
    if method.algorithm == 1:
        # A point counts itself, which makes n + 1 of the n strictly inside.
        inside = np.nextafter(radius, 0.0)
        return constant - digamma(_within(z, inside)) - digamma(_within(x, inside))
    in_z = _within(z, _half_width(z, neighbors)) - 1
    in_x = _within(x, _half_width(x, neighbors)) - 1
    return constant - 1 / k - digamma(in_z) - digamma(in_x)


def _within(rows: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Number of rows no further than `radius` from each row, itself included."""
    from scipy.spatial import cKDTree

    return cKDTree(rows).query_ball_point(rows, radius, p=np.inf, return_length=True)


def _half_width(rows: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Largest distance of each row to its neighbours, in this group of columns alone."""
    width = np.zeros(len(rows))
    for others in neighbors.T:
        np.maximum(width, np.abs(rows - rows[others]).max(axis=1), out=width)
    return width
