"""From one term a draw to a mean, its standard error and a confidence limit."""

from typing import NamedTuple

import numpy as np


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
    return Mean(float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(terms.size)))


def spoil(terms: np.ndarray, side: int) -> np.ndarray:
    """Terms of the upper (+1) or lower (-1) bound, float64. One that is not finite makes its side infinite."""
    terms = np.asarray(terms, np.float64)
    return np.where(np.isfinite(terms), terms, side * np.inf)


def confidence_limit(terms: np.ndarray, side: int, level: float) -> float:
    """One-sided confidence limit of the mean of independent terms.

    The limit of Student's t, or that of Hall's skewness-corrected t where it lies further out:
    terms of an upper bound have a heavy right tail, which makes the plain limit too short.

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
