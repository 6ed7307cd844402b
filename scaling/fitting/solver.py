"""Batched least squares (or Huber) fits of one separable law to many resamples at once, each to its global optimum.

Stage 1, variable projection: over a grid of the law's search coordinates the coefficients follow in closed form inside their
bounds, for all resamples by a few matrix products (a resample is a row of weights, or of scores). Every local minimum of that
grid whose objective is near the lowest becomes a start. Stage 2: batched, damped, projected Gauss-Newton on all parameters.
Each resample comes back with its certificate: gradient norm, parameters at a bound, number of basins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws import Law

__all__ = ["Solution", "solve"]

Array = NDArray[np.float64]
_NEAR = 1.3  # a second basin is followed when its grid objective is below this multiple of the best
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Solution:
    """Optima of ``(resamples,)`` problems.

    Attributes:
        u: search coordinates, shape ``(resamples, q)``.
        coefficients: linear coefficients, fixed ones included, shape ``(resamples, p)``.
        objective: weighted sum of squared (or twice the Huber loss of) residuals, shape ``(resamples,)``.
        gradient_norm: norm of the projected gradient, each parameter in units of its own curvature, relative to the
            square root of the objective; 0 at an exact optimum.
        at_bound: which parameters (coefficients, then coordinates) sit at a bound, shape ``(resamples, p + q)``.
        basins: local minima of the grid stage, shape ``(resamples,)``.
        iterations: Gauss-Newton iterations of the winning start.
    """

    u: Array
    coefficients: Array
    objective: Array
    gradient_norm: Array
    at_bound: NDArray[np.bool_]
    basins: NDArray[np.int64]
    iterations: NDArray[np.int64]

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether the projected gradient vanishes to 1e-5 of the residual's size."""
        return self.gradient_norm < 1e-5


@dataclass(frozen=True)
class _Problem:
    law: type[Law]
    x: Array
    free: NDArray[np.bool_]  # (p + q,)
    low: Array
    high: Array
    fixed: Array  # (p,), nan where free
    delta: float | None


def solve(
    law: type[Law],
    x: Array,
    y: Array,
    *,
    weights: Array | None = None,
    bounds: dict[str, tuple[float, float]] | None = None,
    fixed: dict[str, float] | None = None,
    delta: float | None = None,
    grid: tuple[int, int] = (12, 16),
    block: int = 128,
    tolerance: float = 1e-11,
) -> Solution:
    """Fit ``law`` to every resample.

    Args:
        law: the law.
        x: centred log compute, shape ``(n,)``, shared by all resamples.
        y: scores, shape ``(n,)`` or ``(resamples, n)``.
        weights: inverse variances or resampling counts, shape ``(n,)`` or ``(resamples, n)``; ones by default.
        bounds: coefficient -> (low, high), over the law's own.
        fixed: coefficient -> known value.
        delta: Huber's threshold [score]; None for least squares.
        grid: nodes of the search grid per coordinate.
        block: resamples worked on together.
        tolerance: relative decrease of the objective at which a resample is finished.
    """
    w = np.ones(x.size) if weights is None else np.asarray(weights, dtype=float)
    p, q = len(law.linear), len(law.nonlinear)
    box = {**law.bounds, **(bounds or {})}
    search = law.search_box(box)
    low = np.array([box[name][0] for name in law.linear] + [b[0] for b in search])
    high = np.array([box[name][1] for name in law.linear] + [b[1] for b in search])
    known = fixed or {}
    free = np.array([name not in known for name in law.linear] + [True] * q)
    value = np.array([known.get(name, np.nan) for name in law.linear])
    problem = _Problem(law, x, free, low, high, value, delta)
    target = y - law.offset(x, np.zeros((1, q)))
    rows = max(target.shape[0] if target.ndim == 2 else 1, w.shape[0] if w.ndim == 2 else 1)
    nodes, shape = _grid(search, grid)
    basis = law.basis(x, nodes)
    parts = []
    for a in range(0, rows, block):
        here = slice(a, min(a + block, rows))
        t = target[here] if target.ndim == 2 else target
        v = w[here] if w.ndim == 2 else w
        parts.append(_solve_block(problem, t, v, here.stop - a, nodes, shape, basis, tolerance))
    theta, objective, gradient, basins, iterations = (np.concatenate(z) for z in zip(*parts))
    at = (theta <= low) | (theta >= high)
    return Solution(theta[:, p:], theta[:, :p], objective, gradient, at & free, basins, iterations)


def _grid(search: tuple[tuple[float, float], ...], counts: tuple[int, int]) -> tuple[Array, tuple[int, ...]]:
    if not search:
        return np.zeros((1, 0)), (1,)
    # one coordinate: as fine as both together
    number = counts if len(search) == 2 else (counts[0] * 4,)
    axes = [np.linspace(lo, hi, k + 2)[1:-1] for (lo, hi), k in zip(search, number)]
    mesh = np.meshgrid(*axes, indexing="ij")
    return np.stack([m.ravel() for m in mesh], -1), mesh[0].shape


def _solve_block(
    problem: _Problem, t: Array, w: Array, rows: int, nodes: Array, shape: tuple[int, ...], basis: Array, tol: float
):
    coefficients, rss = _project(problem, t, w, rows, basis)
    starts, owner, basins = _starts(rss, shape)
    theta = np.concatenate([coefficients(owner, starts), nodes[starts]], axis=1)
    t_rows = t[owner] if t.ndim == 2 else t
    w_rows = w[owner] if w.ndim == 2 else w
    theta, objective, gradient, its = _gauss_newton(problem, theta, t_rows, w_rows, tol)
    best = np.full(rows, -1)
    for i in np.lexsort((objective, owner)):  # lowest objective of each resample
        if best[owner[i]] < 0:
            best[owner[i]] = i
    return theta[best], objective[best], gradient[best], basins, its[best]


def _project(problem: _Problem, t: Array, w: Array, rows: int, basis: Array):
    """Objective at every grid node with the coefficients solved inside their bounds; squared loss."""
    p = basis.shape[1]
    w2 = np.atleast_2d(w)
    wt = w2 * t
    products = {(i, j): w2 @ (basis[:, i] * basis[:, j]).T for i in range(p) for j in range(i, p)}
    linear = [wt @ basis[:, i].T for i in range(p)]
    total = (wt * t).sum(1)[:, None]
    low, high = problem.low[:p], problem.high[:p]
    known = problem.fixed
    if p == 1:
        c = (
            known[0]
            if np.isfinite(known[0])
            else np.clip(linear[0] / np.maximum(products[0, 0], _TINY), low[0], high[0])
        )
        rss = total - 2 * c * linear[0] + c * c * products[0, 0]
        solved = (np.broadcast_to(c, rss.shape),)
    else:
        a, b, d = products[0, 0], products[0, 1], products[1, 1]
        h0, h1 = linear

        def other(c: Array | float, h: Array, cross: Array, own: Array, k: int) -> Array:
            return np.clip((h - cross * c) / np.maximum(own, _TINY), low[k], high[k])

        def value(c0: Array | float, c1: Array | float) -> Array:
            return total + c0 * (c0 * a - 2 * h0) + c1 * (c1 * d + 2 * (b * c0 - h1))

        if np.isfinite(known[0]):
            c0, c1 = known[0], other(known[0], h1, b, d, 1)
        elif np.isfinite(known[1]):
            c0, c1 = other(known[1], h0, b, a, 0), known[1]
        else:
            det = np.maximum(a * d - b * b, 1e-11 * a * d + _TINY)
            c0 = np.clip((h0 * d - h1 * b) / det, low[0], high[0])
            c1 = other(c0, h1, b, d, 1)
            # where the second coefficient is out of bounds the optimum may lie on its edge instead
            e1 = (h1 * a - h0 * b) / det
            out = (e1 < low[1]) | (e1 > high[1])
            if out.any():
                edge = np.where(e1 < low[1], low[1], high[1])
                e0 = other(edge, h0, b, a, 0)
                swap = out & (value(e0, edge) < value(c0, c1))
                c0, c1 = np.where(swap, e0, c0), np.where(swap, edge, c1)
        rss = np.maximum(value(c0, c1), 0.0)
        if problem.law.ordered:
            rss = np.where(np.broadcast_to(c0 - c1, rss.shape) > 0, rss, np.inf)
        solved = (np.broadcast_to(c0, rss.shape), np.broadcast_to(c1, rss.shape))
    rss = np.broadcast_to(rss, (rows, rss.shape[1]))

    def coefficients(row: NDArray[np.int64], node: NDArray[np.int64]) -> Array:
        return np.stack([s[row if s.shape[0] > 1 else np.zeros_like(row), node] for s in solved], -1)

    return coefficients, rss


def _starts(rss: Array, shape: tuple[int, ...]):
    """Grid minima to start from: the lowest of every resample and any other local minimum near it."""
    rows = len(rss)
    cube = rss.reshape(rows, *shape)
    if len(shape) == 1:
        padded = np.pad(cube, ((0, 0), (1, 1)), constant_values=np.inf)
        local = (cube <= padded[:, 2:]) & (cube < padded[:, :-2])
    else:
        padded = np.pad(cube, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
        m, k = shape
        local = np.ones(cube.shape, bool)
        for di in (0, 1, 2):
            for dj in (0, 1, 2):
                if (di, dj) != (1, 1):
                    neighbour = padded[:, di : di + m, dj : dj + k]
                    local &= cube <= neighbour if (di, dj) > (1, 1) else cube < neighbour
    local &= np.isfinite(cube)
    local = local.reshape(rows, -1)
    lowest = rss.argmin(1)
    basins = np.maximum(local.sum(1), 1)
    near = local & (rss <= _NEAR * rss.min(1)[:, None])
    near[np.arange(rows), lowest] = True
    owner, node = np.nonzero(near)
    return node, owner, basins


def _gauss_newton(problem: _Problem, theta: Array, t: Array, w: Array, tol: float, max_iterations: int = 120):
    """Projected Levenberg-Marquardt on all rows; a row leaves when it has converged."""
    law, x, low, high, delta = problem.law, problem.x, problem.low, problem.high, problem.delta
    p = len(law.linear)
    k = theta.shape[1]
    idle = ~problem.free
    out = theta.copy()
    out_f, out_g = np.full(len(theta), np.inf), np.full(len(theta), np.inf)
    out_i = np.zeros(len(theta), dtype=np.int64)
    active = np.arange(len(theta))
    damping = np.full(len(theta), 1e-3)
    flat = np.zeros(len(theta), dtype=np.int64)
    eye = np.arange(k)
    plain = w.ndim == 1 and bool((w == 1.0).all())  # unit weights, the common case, need no passes

    def look(th: Array, t: Array, w: Array):
        basis, tangent = law.design(x, th[:, p:])
        residual = (th[:, None, :p] @ basis)[:, 0]
        residual -= t
        if delta is None:
            return basis, tangent, residual, np.einsum("rn,rn->r", residual, residual if plain else w * residual)
        size = np.abs(residual)
        return basis, tangent, residual, (w * np.where(size <= delta, size * size, delta * (2 * size - delta))).sum(1)

    def slope(basis: Array, tangent: Array, residual: Array, th: Array, w: Array):
        jacobian = np.empty((len(th), k, x.size))
        jacobian[:, :p] = basis
        np.multiply(tangent, law.amplitude(th[:, :p])[:, None, None], out=jacobian[:, p:])
        if delta is None:
            g = (jacobian @ (residual if plain else w * residual)[:, :, None])[:, :, 0]
            weighted = jacobian if plain else jacobian * (w[:, None, :] if w.ndim == 2 else w)
            h = weighted @ jacobian.transpose(0, 2, 1)
        else:
            size = np.abs(residual)
            shrink = np.minimum(1.0, delta / np.maximum(size, _TINY))
            g = (jacobian @ (w * shrink * residual)[:, :, None])[:, :, 0]
            # between reweighting (always descends) and Newton (indicator): the geometric mean keeps h definite
            h = (jacobian * (w * np.where(size <= delta, 1.0, 0.2 * shrink))[:, None, :]) @ jacobian.transpose(0, 2, 1)
        return g, h

    basis, tangent, residual, f = look(theta, t, w)
    for step in range(max_iterations):
        g, h = slope(basis, tangent, residual, theta, w)
        held = ((theta <= low) & (g > 0)) | ((theta >= high) & (g < 0)) | idle
        g = np.where(held, 0.0, g)
        keep = ~held
        h = h * (keep[:, :, None] & keep[:, None, :])
        own = np.maximum(h[:, eye, eye], 1e-280)
        scale = np.where(held, 1.0, 1.0 / np.sqrt(own))
        hs = h * scale[:, :, None] * scale[:, None, :]
        hs[:, eye, eye] = 1.0 + damping[:, None]
        gs = g * scale
        move = np.linalg.solve(hs, gs[:, :, None])[:, :, 0]
        predicted = (move * gs).sum(1)
        delta_theta = move * scale
        np.clip(delta_theta[:, p:], -2.0, 2.0, out=delta_theta[:, p:])
        trial = np.clip(theta - delta_theta, low, high)
        new = look(trial, t, w)
        ok = new[3] < f
        gained = np.where(ok, (f - new[3]) / np.maximum(f, _TINY), 0.0)
        flat = np.where(ok & (gained < tol), flat + 1, 0)
        norm = np.sqrt((gs * gs).sum(1) / np.maximum(f, _TINY))
        done = (predicted < tol * f) | (flat >= 1) | (damping > 1e12) | (f <= 1e-28) | (step == max_iterations - 1)
        damping = np.where(ok, np.maximum(damping * 0.1, 1e-12), damping * 10.0)
        if ok.all():
            theta, (basis, tangent, residual, f) = trial, new
        else:
            m = ok[:, None]
            theta = np.where(m, trial, theta)
            basis = np.where(m[:, :, None], new[0], basis)
            tangent = np.where(m[:, :, None], new[1], tangent)
            residual, f = np.where(m, new[2], residual), np.where(ok, new[3], f)
        if done.any():
            rows = active[done]
            out[rows], out_f[rows], out_g[rows], out_i[rows] = theta[done], f[done], norm[done], step + 1
            stay = ~done
            if not stay.any():
                break
            active, theta, f, damping, flat = active[stay], theta[stay], f[stay], damping[stay], flat[stay]
            basis, tangent, residual = basis[stay], tangent[stay], residual[stay]
            t = t[stay] if t.ndim == 2 else t
            w = w[stay] if w.ndim == 2 else w
    return out, out_f, out_g, out_i
