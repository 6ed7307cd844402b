"""Student-t probabilities of, and draws from, an interval, safe in the far tails."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

__all__ = ["interval_probability", "sample_between"]

Array = NDArray[np.float64]
_TINY = 1e-290


def interval_probability(low: Array, high: Array, nu: float) -> Array:
    """P(low < T < high) of Student's t with ``nu`` degrees of freedom, never below a tiny positive number."""
    flip = low > 0  # work in the lower tail, where the distribution function keeps its digits
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    return np.maximum(_cdf(b, nu) - _cdf(a, nu), _TINY)


def _cdf(t: Array, nu: float) -> Array:
    """The distribution function, evaluated only where it is neither 0 nor 1 to ten digits (upper end) or at all (lower)."""
    high = float(stdtrit(nu, 1.0 - 1e-12))
    out = (t > 0).astype(float)
    inside = (t < high) & (t > -1e6)
    out[inside] = stdtr(nu, t[inside])
    return out


def sample_between(
    loc: Array, scale: Array, low: Array | float, high: Array | float, nu: float, uniform: Array
) -> Array:
    """Draws of loc + scale * T confined to (low, high), by inversion of ``uniform``."""
    a, b = (low - loc) / scale, (high - loc) / scale
    flip = a > 0
    lo, hi = np.where(flip, -b, a), np.where(flip, -a, b)
    f_lo = np.where(np.isneginf(lo), 0.0, stdtr(nu, np.where(np.isneginf(lo), 0.0, lo)))
    f_hi = np.where(np.isposinf(hi), 1.0, stdtr(nu, np.where(np.isposinf(hi), 0.0, hi)))
    level = f_lo + uniform * (f_hi - f_lo)
    t = stdtrit(nu, np.clip(level, 1e-300, 1.0 - 1e-16))
    t = np.clip(t, lo, hi)  # where the interval's probability vanishes, its nearer end
    return loc + scale * np.where(flip, -t, t)
