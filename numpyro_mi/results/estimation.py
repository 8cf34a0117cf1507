"""From one term per draw to a mean, its standard error and a confidence limit; what a number of draws can certify."""

from typing import NamedTuple

import numpy as np

PILOT_ROWS, PILOT_GROUP = 4096, 32
"""Pilot draws of a variational bound, and how many of them are compared with one another."""
_SCORED_SHARE, _PILOT_SHARE = 100.0, 10.0
_CARRIED = 0.9
_ROUNDING = 1e-5  # relative, of log-densities in single precision


class Mean(NamedTuple):
    """Sample mean and its standard error; infinite where a term is."""

    value: float
    se: float


def mean(terms: np.ndarray) -> Mean:
    """Mean of independent terms, float64. A non-finite term is never dropped: it spoils the mean."""
    terms = np.asarray(terms, np.float64)
    if not np.isfinite(terms).all():
        bad = terms[~np.isfinite(terms)]
        value = bad[0] if (bad == bad[0]).all() and not np.isnan(bad[0]) else np.nan
        return Mean(float(value), float("inf"))
    if terms.size < 2:
        return Mean(float(terms.mean()), float("inf"))
    if (terms == terms[0]).all():  # whose sum would round
        return Mean(float(terms[0]), 0.0)
    return Mean(float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(terms.size)))


def spoil(terms: np.ndarray, side: int) -> np.ndarray:
    """Terms of the upper (+1) or lower (-1) bound, float64. One that is not finite makes its side infinite."""
    terms = np.asarray(terms, np.float64)
    return np.where(np.isfinite(terms), terms, side * np.inf)


def carriers(terms: np.ndarray) -> int:
    """The fewest terms that make up nine tenths of the spread of all, which are finite; 0 if all are alike.

    The spread is the sum of squared deviations from the mean. Of the terms of smooth models a quarter or more carry it;
    where it comes from rare events, as many as there are among the draws.
    """
    terms = np.asarray(terms, np.float64)
    if np.ptp(terms) <= _ROUNDING * max(1.0, float(np.abs(terms).max())):
        return 0
    squares = np.sort((terms - terms.mean()) ** 2)[::-1]
    return 1 + int((np.cumsum(squares) < (_CARRIED - 1e-9) * squares.sum()).sum())


def confidence_limit(terms: np.ndarray, side: int, level: float) -> float:
    """One-sided confidence limit of the mean of independent terms.

    The limit of Student's t, or that of Hall's skewness-corrected t where it lies further out:
    terms of an upper bound have a heavy right tail, which makes the plain limit too short. Neither knows of
    events that the terms do not show; see `carriers`.

    Parameters
    ----------
    terms
        Shape `(N,)`.
    side
        +1: a limit above the mean; -1: below.
    level
        Coverage of this one limit, for example 0.975.

    References
    ----------
    P. Hall, On the removal of skewness by transformation, JRSS B 54 (1992).
    """
    from scipy.stats import t as student

    terms = np.asarray(terms, np.float64)
    value, se = mean(terms)
    if not np.isfinite(se):
        return side * float("inf")
    if se == 0.0:
        return value
    n = terms.size
    quantile = float(student.ppf(level, n - 1))
    skewness = side * float(np.mean(((terms - value) / terms.std()) ** 3))
    plain = quantile
    corrected = plain
    if skewness > 0:
        # Invert g(T) = T + c T^2 / 3 + c^2 T^3 / 27 + c / (6 n) at -q / sqrt(n), c the skewness.
        inner = 1 - skewness * (quantile / np.sqrt(n) + skewness / (6 * n))
        corrected = -np.sqrt(n) * 3 / skewness * (np.cbrt(inner) - 1)
    return value + side * se * max(plain, corrected)


def variational_limit(num_negatives: float, num_pilots: float) -> float:
    """What a capped variational bound can certify at most, up to its sampling error, nats.

    With a cap this far above the normaliser, one negative is at most 1 % of the sum over all that are scored, and
    10 % of the sum over the pilots, so that either sum shows what the scores at the cap amount to.
    """
    return float(np.log(max(min(num_negatives / _SCORED_SHARE, num_pilots / _PILOT_SHARE), 1.0)))


def num_pilot_negatives(num_rows: int) -> int:
    """Independent pairs among pilot rows that are compared in groups."""
    rows = min(num_rows, PILOT_ROWS)
    size = max(min(PILOT_GROUP, rows), 1)
    return rows // size * size * (size - 1)
