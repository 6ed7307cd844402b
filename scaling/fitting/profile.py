"""Profile-likelihood intervals at a given autocorrelation: the frequentist check beside the posterior.

For a quantity f that is linear in a law's coefficients given the search coordinates u (the asymptote; the score at any
compute), the residual sum of squares minimised over the rest is a quadratic along the line f = const, clipped to the bounds.
The interval is where n ln RSS exceeds its minimum by less than n ln(1 + F / (n - k)), F the quantile of F(1, n - k).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

from scaling.fitting.marginal import Problem, Series, moments
from scaling.fitting.prior import Prior
from scaling.fitting.quadrature import find_frame
from scaling.laws import Law

__all__ = ["profile_interval"]

Array = NDArray[np.float64]


def profile_interval(
    law: type[Law],
    series: Series,
    *,
    at: float = np.inf,
    rho: float = 0.0,
    level: float = 0.9,
    bounds: dict[str, tuple[float, float]] | None = None,
    points: int = 121,
) -> tuple[float, float]:
    """Profile interval of the score at compute ``at`` (``inf``: the asymptote), noise AR(1) with known ``rho``.

    Args:
        law: the law; must be saturating if ``at`` is infinite.
        series: the curve.
        at: compute [unit of the axis].
        rho: lag-1 autocorrelation of the noise.
        level: nominal coverage.
        bounds: coefficient -> (low, high), over the law's own.
        points: resolution of the interval's ends.
    """
    box = {**law.bounds, **(bounds or {})}
    lows = np.array([box[name][0] for name in law.linear])
    highs = np.array([box[name][1] for name in law.linear])
    problem = Problem(law, series, Prior(volume=0.0, rhos=(rho,), drift=0.0), box)
    u = find_frame(problem, outer_nodes=60, inner_nodes=24).nodes
    p = len(law.linear)
    gram = moments(problem, u, problem.prior.noises())[0][..., 0].transpose(2, 0, 1)
    q_bb, q_bt, q_tt = gram[:, 1:, 1:], gram[:, 1:, 0], gram[:, 0, 0]
    n, k = series.x.size, p + len(law.nonlinear)
    if np.isinf(at):
        w = np.zeros((len(u), p))
        w[:, law.linear.index("asymptote")] = 1.0
        shift = 0.0
    else:
        x_at = np.array([np.log(at) - series.x_ref])
        w, shift = law.basis(x_at, u)[:, :, 0], law.offset(x_at, u)
    n_floor = n * series.floor**2
    if p == 1:
        low_f, high_f = lows[0] * w[:, 0], highs[0] * w[:, 0]

        def best(f: Array) -> Array:
            c = (f[None, :] - shift) / w[:, :1]
            rss = q_tt[:, None] - 2 * c * q_bt[:, :1] + c * c * q_bb[:, 0, :1]
            return np.where((c < lows[0]) | (c > highs[0]), np.inf, rss).min(0) + n_floor

        _ = low_f, high_f
    else:

        def best(f: Array) -> Array:
            # first coefficient from f and the second: c0 = (f - shift - w1 c1) / w0
            w0, w1 = w[:, :1], w[:, 1:]
            a, b = (f[None, :] - shift) / w0, -w1 / w0
            g = q_bb[:, 0, 0, None] * b * b + 2 * q_bb[:, 0, 1, None] * b + q_bb[:, 1, 1, None]
            h = b * (q_bt[:, :1] - q_bb[:, 0, 0, None] * a) + q_bt[:, 1:2] - q_bb[:, 0, 1, None] * a
            lo, hi = np.full(a.shape, lows[1]), np.full(a.shape, highs[1])
            with np.errstate(divide="ignore", invalid="ignore"):
                e0, e1 = (lows[0] - a) / b, (highs[0] - a) / b  # bounds of c0 as bounds of c1
            sign = np.where(np.abs(b) < 1e-12, 0, np.sign(b))
            lo = np.where(sign > 0, np.fmax(lo, e0), np.where(sign < 0, np.fmax(lo, e1), lo))
            hi = np.where(sign > 0, np.fmin(hi, e1), np.where(sign < 0, np.fmin(hi, e0), hi))
            empty = (lo > hi) | ((sign == 0) & ((a < lows[0]) | (a > highs[0])))
            c1 = np.clip(h / g, lo, np.maximum(lo, hi))
            c0 = a + b * c1
            rss = (
                q_tt[:, None]
                - 2 * (c0 * q_bt[:, :1] + c1 * q_bt[:, 1:2])
                + q_bb[:, 0, 0, None] * c0 * c0
                + 2 * q_bb[:, 0, 1, None] * c0 * c1
                + q_bb[:, 1, 1, None] * c1 * c1
            )
            return np.where(empty, np.inf, rss).min(0) + n_floor

    limit = np.log1p(fdtri(1, n - k, level) / (n - k))
    spread = float(np.ptp(series.y))
    low, high = float(series.y.min()) - 2 * spread, float(series.y.max()) + 6 * spread
    if np.isinf(at):
        low, high = max(low, lows[law.linear.index("asymptote")]), min(high, highs[law.linear.index("asymptote")])
    for _round in range(6):
        f = np.linspace(low, high, points)
        value = np.log(np.maximum(best(f), 1e-300))
        inside = np.flatnonzero(value <= value.min() + limit)
        if inside.size > points / 4:
            break
        step = f[1] - f[0]
        low, high = max(low, f[inside[0]] - 2 * step), min(high, f[inside[-1]] + 2 * step)
    return float(f[inside[0]]), float(f[inside[-1]])
