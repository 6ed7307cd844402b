"""Closed forms behind the posterior: a law given its search coordinates u and the kind of noise.

y_t = law(C_t) + s_t e_t with e stationary AR(1), correlation rho, scale sigma, and s_t known relative errors; or e white and a drift
beside the law (`scaling.fitting.drift`). Given u and the noise a law is linear in its one or two coefficients, so these and sigma
integrate out (normal-inverse-gamma, coefficients confined to their bounds by Student-t probabilities). Moments are linear in a few
sums over the data, three lagged ones and one along each direction of a drift: a further noise costs no pass over the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.drift import DriftBasis
from scaling.fitting.prior import Noises, Prior
from scaling.fitting.tails import interval_probability
from scaling.laws import Law
from scaling.rise import Rise

__all__ = [
    "Cells",
    "Problem",
    "Series",
    "beyond_window",
    "cells",
    "complete",
    "log_sum_exp",
    "moments",
    "second_coefficient",
]

Array = NDArray[np.float64]
_CHUNK = 250_000  # numbers in the largest temporary


@dataclass(frozen=True, eq=False)
class Series:
    """One curve as the solver sees it: centred log compute, score, relative error, all of shape ``(n,)``.

    Attributes:
        x: ln C - x_ref.
        y: score.
        s: relative error, of geometric mean 1.
        x_ref: mean of ln C.
    """

    x: Array
    y: Array
    s: Array
    x_ref: float

    @cached_property
    def even(self) -> bool:
        """Whether all errors are the same."""
        return bool((self.s == 1.0).all())

    @cached_property
    def weight(self) -> Array:
        """Reciprocal of the relative errors."""
        return 1.0 / self.s

    @cached_property
    def drift(self) -> DriftBasis:
        """The drift among these scores."""
        return DriftBasis.of(self.x, self.weight)

    @cached_property
    def floor(self) -> float:
        """Smallest noise scale believed: 1e-4 of the score's range."""
        return 1e-4 * max(float(np.ptp(self.y)), 1e-6)


@dataclass(frozen=True, eq=False)
class Problem:
    """A law to be fitted to a series.

    Attributes:
        law: the law.
        series: the curve.
        prior: the prior.
        bounds: parameter -> (low, high), all of the law's.
        fixed: coefficient -> known value.
        soft: coefficient -> (value, weight), known with an error; weight is (noise scale / error)^2.
    """

    law: type[Law]
    series: Series
    prior: Prior
    bounds: dict[str, tuple[float, float]]
    fixed: dict[str, float] = field(default_factory=dict)
    soft: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def free(self) -> list[int]:
        """Positions of the coefficients that are fitted."""
        return [i for i, name in enumerate(self.law.linear) if name not in self.fixed]

    def limits(self, position: int) -> tuple[float, float]:
        """Bounds of the coefficient at ``position``."""
        return self.bounds[self.law.linear[position]]


@dataclass(frozen=True, eq=False)
class Cells:
    """Results on (g, r) pairs of search coordinates and noise.

    Attributes:
        log_post: log posterior density of (u, noise), unnormalised.
        center: conditional centre of the free coefficients, (p, g, r).
        cov: their covariance at unit noise, (p, p, g, r).
        rss: whitened residual sum of squares at the centre.
        log_second: log probability that the second coefficient is inside its bounds, at the first's best value.
        log_amplitude: the amplitude's part of the volume, at the coefficients' best values.
        log_volume: the rest of the volume, (g,).
    """

    log_post: Array
    center: Array
    cov: Array
    rss: Array
    log_second: Array
    log_amplitude: Array
    log_volume: Array


def moments(problem: Problem, u: Array, noises: Noises, *, paired: bool = False) -> tuple[Array, Array]:
    """Whitened Gram matrix of [target, free columns], (k, k, g, r), and the unwhitened one of [free columns, tangent], (g, m, m).

    ``paired``: one noise for each row of ``u``, and r is 1.
    """
    k = len(problem.free) + 1
    chunk = max(8, _CHUNK // ((2 * k + len(problem.law.nonlinear)) * problem.series.x.size))
    along = problem.series.drift.directions if noises.drift.any() else None
    parts = [_sums(problem, u[a : a + chunk], along) for a in range(0, len(u), chunk)]
    sums, plain = parts[0] if len(parts) == 1 else (np.concatenate(z, axis=a) for z, a in zip(zip(*parts), (2, 0)))
    shares = [np.ones_like(noises.rho), noises.rho**2, -noises.rho]
    if along is not None:
        spread = problem.series.drift.variance(noises.drift)
        shares += list(-spread / (1.0 + spread))
    weights = np.stack(shares)
    return ((sums * weights.T).sum(-1)[..., None] if paired else sums @ weights), plain


def _noise_log_det(series: Series, noises: Noises) -> Array:
    """Log determinant of each noise's covariance at unit innovations, but for the relative errors, (r,)."""
    out = -np.log1p(-(noises.rho**2))
    if noises.drift.any():
        out += np.log1p(series.drift.variance(noises.drift)).sum(0)
    return out


def _sums(problem: Problem, u: Array, along: Array | None) -> tuple[Array, Array]:
    """What the whitened Gram matrix has before 1, rho^2, -rho and the drift's directions, (k, k, g, 3 + m), and the unwhitened one."""
    law, data, free = problem.law, problem.series, problem.free
    g, k, m, n = len(u), len(free) + 1, len(free) + 1 + len(law.nonlinear), data.x.size
    basis, tangent = law.design(data.x, u)
    z = np.empty((g, m + k, n))  # target, free columns, tangent; then target and free columns one place ahead
    target = data.y - law.offset(data.x, u)
    for i, name in enumerate(law.linear):
        if name in problem.fixed:
            target = target - problem.fixed[name] * basis[:, i]
    columns = [target, *(basis[:, i] for i in free), *(tangent[:, i] for i in range(tangent.shape[1]))]
    for at, column in enumerate(columns):
        if data.even:
            z[:, at] = column
        else:  # weighted on the way: a pass less
            np.multiply(column, data.weight, out=z[:, at])
    z[:, m:, :-1], z[:, m:, -1] = z[:, :k, 1:], 0.0
    product = z[:, :m] @ z.transpose(0, 2, 1)  # one product of all: of a matrix with itself it would be slower
    plain, lag = product[:, :k, :k].transpose(1, 2, 0), product[:, :k, m:].transpose(1, 2, 0)
    ends = z[:, :k, [0, -1]].transpose(2, 1, 0)
    sums = np.empty((k, k, g, 3 + (0 if along is None else along.shape[1])))
    sums[..., 0] = plain
    sums[..., 1] = plain - (ends[:, :, None] * ends[:, None]).sum(0)
    sums[..., 2] = lag + lag.transpose(1, 0, 2)
    if along is not None:
        part = (z[:, :k] @ along).transpose(1, 0, 2)
        np.multiply(part[:, None], part[None], out=sums[..., 3:])
    return sums, product[:, 1:m, 1:m]


def cells(problem: Problem, u: Array, noises: Noises, *, paired: bool = False) -> Cells:
    """Marginal posterior of (u, noise) and the conditional of the coefficients; ``paired`` as in `moments`."""
    law, data, prior = problem.law, problem.series, problem.prior
    gram, plain = moments(problem, u, noises, paired=paired)
    free = problem.free
    p, q, n = len(free), len(law.nonlinear), data.x.size
    total, rhs, rows = gram[0, 0], gram[0, 1:], gram[1:, 1:]
    for k, i in enumerate(free):  # a coefficient known with an error is one more observation of it
        if law.linear[i] in problem.soft:
            value, weight = problem.soft[law.linear[i]]
            rows[k, k] += weight
            rhs[k] += weight * value
            total += weight * value * value
    cov, det = _inverse(rows)
    center = (cov * rhs).sum(1)
    rss = np.maximum(total - (center * rhs).sum(0), 0.0) + n * data.floor**2
    nu = max(n - p, 1)
    scale = np.sqrt(rss / nu * cov[0, 0])
    low, high = problem.limits(free[0])
    log_post = np.log(interval_probability((low - center[0]) / scale, (high - center[0]) / scale, nu))
    first = np.clip(center[0], low, high)
    second, log_second = None, np.zeros_like(det)
    if p == 2:
        loc, _, (low2, high2), log_second = second_coefficient(problem, first, center, cov, rss)
        second = np.clip(loc, low2, high2)
        log_post += log_second
    log_amplitude = np.zeros_like(det)
    if prior.volume and q:
        amplitude = law.amplitude(complete(problem, first, second))
        log_amplitude = prior.volume * q * np.log(np.maximum(np.abs(amplitude), 1e-6))
        log_post += log_amplitude
    bent = [k for k, i in enumerate(free) if law.linear[i] not in prior.flat] + [p + k for k in range(q)]
    log_volume = prior.volume * 0.5 * _log_det(plain if len(bent) == p + q else plain[:, bent][:, :, bent])
    if prior.onset:
        log_volume[~beyond_window(problem, u)] = -np.inf
    log_post -= 0.5 * np.log(det)
    log_post -= 0.5 * nu * np.log(rss)
    own = noises.log_mass - 0.5 * _noise_log_det(data, noises)
    log_post += own[:, None] if paired else own
    log_post += log_volume[:, None]
    log_post[~np.isfinite(log_post)] = -np.inf
    return Cells(log_post, center, cov, rss, log_second, log_amplitude, log_volume)


def beyond_window(problem: Problem, u: Array) -> NDArray[np.bool_]:
    """Whether C_mid lies beyond the last evaluation at search coordinates ``u`` of a law that rises."""
    law = problem.law
    assert issubclass(law, Rise)
    return np.exp(u[:, 0]) * problem.series.x.max() + u[:, 1] < law.half


def second_coefficient(problem: Problem, first: Array, center: Array, cov: Array, rss: Array):
    """Conditional of the second coefficient given the first: centre, scale, bounds, log probability of the bounds."""
    nu = max(problem.series.x.size - 2, 1)
    ratio = cov[0, 1] / cov[0, 0]
    off = first - center[0]
    loc = center[1] + ratio * off
    left = np.maximum(cov[1, 1] - ratio * cov[0, 1], 1e-300)
    scale = np.sqrt(left * (rss + off * off / cov[0, 0]) / (nu + 1))  # so 1 + t^2 / (nu + 1) is the growth of the rss
    low, high = problem.limits(problem.free[1])
    high = np.minimum(high, first) if problem.law.ordered else np.broadcast_to(high, loc.shape)  # r_0 stays below A
    log_p = np.log(interval_probability((low - loc) / scale, (high - loc) / scale, nu + 1))
    return loc, scale, (np.minimum(low, high), high), log_p


def complete(problem: Problem, first: Array, second: Array | None) -> Array:
    """All coefficients of the law, fixed ones included, shape (..., len(linear))."""
    out = np.empty((len(problem.law.linear), *first.shape))
    for i, name in enumerate(problem.law.linear):
        out[i] = problem.fixed.get(name, np.nan)
    out[problem.free[0]] = first
    if second is not None:
        out[problem.free[1]] = second
    return np.moveaxis(out, 0, -1)


def log_sum_exp(a: Array, axis: int = -1) -> Array:
    """Log sum exp along an axis."""
    top = np.max(a, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.squeeze(np.log(np.sum(np.exp(a - top), axis=axis, keepdims=True)) + top, axis=axis)


def _inverse(rows: Array) -> tuple[Array, Array]:
    """Inverse and determinant of 1 x 1 or 2 x 2 matrices of arrays, kept positive."""
    if len(rows) == 1:
        det = np.maximum(rows[0, 0], 1e-300)
        return (1.0 / det)[None, None], det
    a, b, c = rows[0, 0], rows[0, 1], rows[1, 1]
    det = np.maximum(a * c - b * b, 1e-12 * np.maximum(a * c, 1e-280))
    cov = np.empty((2, 2, *det.shape))
    cov[0, 0], cov[1, 1] = c / det, a / det
    cov[0, 1] = cov[1, 0] = -b / det
    return cov, det


def _log_det(gram: Array) -> Array:
    """Log determinants of matrices (g, k, k), by elimination with a floor on the pivots."""
    a = gram.transpose(1, 2, 0)
    floor = 1e-13 * np.maximum(np.einsum("iig->ig", a), 1e-280)
    out = np.zeros(len(gram))
    for least in floor:
        pivot = np.maximum(a[0, 0], least)
        out += np.log(pivot)
        a = a[1:, 1:] - (a[1:, 0] / pivot)[:, None] * a[0, 1:]
    return out
