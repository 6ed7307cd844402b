"""The drift of a curve about its law: integrated Brownian motion in ln C, expanded in cosines.

A law is an idealisation. A run bends and rises again, or levels off early, and its distance from every law is no noise of
evaluations: it is smooth, and beyond the window it goes on (the discrepancy of Kennedy and O'Hagan 2001,
doi:10.1111/1467-9868.00294; the prior behind a smoothing spline, Wahba 1978). Its slope in ln C is a Brownian motion that starts
at the first evaluation, of standard deviation tau after an e-fold of compute. After Karhunen and Loeve, over a window of L e-folds,

    slope(t) = tau sqrt(2 L) sum_k w_k sin(a_k t) / a_k,   drift(t) = tau sqrt(2 L) L sum_k w_k (1 - cos(a_k t)) / a_k^2,

t = (ln C - ln C_1) / L, a_k = (k + 1/2) pi, w_k independent standard normals. So a drift is a handful of coefficients with a
normal prior, given a law's residuals they are normal again, and neither costs a matrix of the evaluations' own size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.law import FAR

__all__ = ["DriftBasis", "sample_drift"]

Array = NDArray[np.float64]
_TERMS = 16  # the slope's variance beyond them is 1.3 % of the whole
_KNOT = 0.25  # e-folds between knots beyond the window


@dataclass(frozen=True, eq=False)
class DriftBasis:
    """A drift of tau = 1 among weighted scores, in the directions in which its coefficients are independent given them.

    Attributes:
        directions: unit vectors among the weighted scores, shape ``(n, m)``.
        size: standard deviation of the drift along each, shape ``(m,)``.
        rotation: coefficients w of each, shape ``(terms, m)``.
        start: ln C of the first evaluation at compute above zero.
        length: e-folds of compute from there to the last.
    """

    directions: Array
    size: Array
    rotation: Array
    start: float
    length: float

    def variance(self, ratio: Array) -> Array:
        """Variance along each direction to that of the noise, for tau^2 / sigma^2 = ``ratio``, shape ``(m, len(ratio))``."""
        return ratio * self.size[:, None] ** 2

    @classmethod
    def of(cls, x: Array, weight: Array) -> DriftBasis:
        """The basis for evaluations at ln C ``x`` with ``weight`` each; at zero compute there is no drift yet."""
        seen = x[x > -FAR]
        start = float(seen.min(initial=0.0))
        length = max(float(seen.max(initial=0.0)) - start, 1e-9)
        value, _ = _expansion(x, start, length, min(_TERMS, x.size))
        directions, size, rotation = np.linalg.svd(value * weight[:, None], full_matrices=False)
        return cls(directions, size, rotation.T, start, length)


def sample_drift(
    basis: DriftBasis, residual: Array, sigma: Array, drift: Array, x: Array, rng: np.random.Generator
) -> Array:
    """Drift of every draw at ``x``, given its residuals, shape ``(draws, m)``.

    Args:
        basis: of the evaluations.
        residual: weighted scores less the draw's law, shape ``(draws, n)``.
        sigma: standard deviation of the noise of each draw, shape ``(draws,)``.
        drift: tau of each draw, shape ``(draws,)``.
        x: ln C, shape ``(m,)``; where it is infinite the law is left alone.
        rng: source of randomness.
    """
    ratio = ((drift / sigma) ** 2)[:, None]
    share = ratio * basis.size / (1.0 + ratio * basis.size**2)
    mean = share * (residual @ basis.directions)
    spread = drift[:, None] / np.sqrt(1.0 + ratio * basis.size**2)
    w = (mean + spread * rng.standard_normal(mean.shape)) @ basis.rotation.T
    terms, end = basis.rotation.shape[0], basis.start + basis.length
    value, _ = _expansion(np.minimum(x, end), basis.start, basis.length, terms)
    out = w @ value.T
    ahead = np.where(np.isfinite(x), x - end, 0.0)
    if (beyond := ahead > 0).any():
        now, slope = (w @ part[0] for part in _expansion(np.array([end]), basis.start, basis.length, terms))
        out[:, beyond] = _onwards(now, slope, drift, ahead[beyond], rng)
    return out


def _onwards(now: Array, slope: Array, drift: Array, ahead: Array, rng: np.random.Generator) -> Array:
    """The drift as it goes on, ``ahead`` e-folds beyond the window, shape ``(draws, m)``.

    Value and slope are drawn at knots that do not depend on the places asked for, with a cubic between them: what is left out
    is a drift of tau^2 h^3 / 192 in variance.
    """
    knots = int(np.ceil(ahead.max() / _KNOT)) + 1
    values, slopes = np.empty((knots, now.size)), np.empty((knots, now.size))
    values[0], slopes[0] = now, slope
    for j in range(1, knots):
        turn, bend = drift * rng.standard_normal((2, now.size))
        turn *= np.sqrt(_KNOT)
        values[j] = values[j - 1] + (slopes[j - 1] + turn / 2.0) * _KNOT + bend * np.sqrt(_KNOT**3 / 12.0)
        slopes[j] = slopes[j - 1] + turn
    left = np.minimum((ahead / _KNOT).astype(int), knots - 2)
    t = (ahead / _KNOT - left)[:, None]
    level = values[left] * (1 + 2 * t) * (1 - t) ** 2 + values[left + 1] * t**2 * (3 - 2 * t)
    return (level + _KNOT * (slopes[left] * t * (1 - t) ** 2 - slopes[left + 1] * t**2 * (1 - t))).T


def _expansion(x: Array, start: float, length: float, terms: int) -> tuple[Array, Array]:
    """Value and slope of each term at ln C ``x`` for tau = 1, shape ``(n, terms)`` each."""
    a = (np.arange(terms) + 0.5) * np.pi
    at = np.clip((x - start) / length, 0.0, 1.0)[:, None] * a
    scale = np.sqrt(2.0 * length)
    return scale * length * (1.0 - np.cos(at)) / a**2, scale * np.sin(at) / a
