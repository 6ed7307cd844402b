"""The posterior of one law given one curve, integrated over the unknown autocorrelation and size of the noise.

Model: y_t = law(C_t) + s_t e_t, e stationary AR(1) over successive evaluations with correlation rho and scale sigma, s_t known
relative errors. Given the search coordinates u (0 to 2 of them) and rho, the law is linear in its coefficients, so these and
sigma integrate out in closed form (normal-inverse-gamma, coefficients confined to their bounds); u and rho are integrated by a
grid that adapts to the ridge of the likelihood. Moments at any rho are a quadratic in rho of three lagged sums, so that rho
costs no pass over the data.

The prior is `Prior`: flat in the coefficients inside their bounds and in ln sigma, times |J'J|^(volume/2) with J the whitened
Jacobian (volume 1 is the generalised fiducial density, 0 a flat prior in u).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from scaling.fitting.tails import interval_probability, sample_between
from scaling.laws import FAR, Law

__all__ = ["Posterior", "Prior", "Series", "posterior"]

Array = NDArray[np.float64]
_ZOOM_RHOS = np.array([0.0, 0.4, 0.7, 0.9, 0.97])
_KEEP = 13.0  # log density below the maximum that is still integrated


@dataclass(frozen=True)
class Prior:
    """What is assumed before the data; see the module text.

    Attributes:
        volume: power of the Jacobian volume.
        rhos: nodes of the autocorrelation grid, ascending.
        rho_power: prior density of rho proportional to (1 - rho)^rho_power.
    """

    volume: float = 1.0
    rhos: tuple[float, ...] = (-0.4, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.78, 0.85, 0.9, 0.94, 0.97, 0.985)
    rho_power: float = 0.0

    def log_rho(self) -> Array:
        """Log prior mass of each node: density times the node's cell."""
        rho = np.asarray(self.rhos)
        if rho.size == 1:
            return np.zeros(1)
        edges = np.concatenate([[rho[0] - (rho[1] - rho[0]) / 2], (rho[1:] + rho[:-1]) / 2, [min(1.0, 1.5 * rho[-1] - 0.5 * rho[-2])]])
        return np.log(np.diff(edges)) + self.rho_power * np.log1p(-rho)


@dataclass(frozen=True)
class Series:
    """One curve as the solver sees it: centred log compute, score, relative error, all of shape ``(n,)``."""

    x: Array
    y: Array
    s: Array
    x_ref: float

    @property
    def floor(self) -> float:
        """Smallest noise scale believed: 1e-4 of the score's range."""
        return 1e-4 * max(float(np.ptp(self.y)), 1e-6)


@dataclass(frozen=True)
class Posterior:
    """Draws from the posterior of a law.

    Attributes:
        parameters: parameter -> draws, shape ``(draws,)``.
        rho: autocorrelation of each draw.
        sigma: noise scale of each draw.
        log_evidence: log marginal likelihood up to a constant common to all laws on the same points.
        mean_log_fit: best log likelihood over the grid, sigma profiled and rho integrated.
        efficiency: effective share of the candidates behind the draws (importance resampling).
        edge_mass: posterior mass in the outermost cells of the search box, 0 when the box holds the posterior.
        nodes: grid nodes that carry the integral.
    """

    parameters: dict[str, Array]
    rho: Array
    sigma: Array
    log_evidence: float
    best_log_fit: float
    efficiency: float
    edge_mass: float
    nodes: int
    mode: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Problem:
    law: type[Law]
    series: Series
    lows: Array
    highs: Array
    fixed: dict[str, float]
    soft: dict[str, tuple[float, float]]
    prior: Prior


@dataclass
class _Cell:
    """Closed-form results on (g, r) pairs of search coordinates and rho."""

    log_post: Array
    log_like: Array
    center: Array  # (g, r, p)
    cov: Array  # (g, r, p, p), of unit rss/nu
    rss: Array
    log_second: Array
    log_amplitude: Array


def _moments(problem: _Problem, u: Array, rho: Array) -> tuple[Array, Array]:
    """Whitened Gram matrix of [free columns, tangent, target], (g, r, m, m), and the unwhitened one, (g, m, m).

    rho has shape (r,), or (g, 1) for one value a row.
    """
    law, data = problem.law, problem.series
    width = len(law.linear) + len(law.nonlinear) + 1
    chunk = max(8, 40000 // (width * data.x.size))  # keeps temporaries in cache
    if len(u) > chunk:
        rows = rho if np.ndim(rho) == 2 else None
        parts = [
            _moments(problem, u[a : a + chunk], rho if rows is None else rows[a : a + chunk]) for a in range(0, len(u), chunk)
        ]
        return np.concatenate([g for g, _ in parts]), np.concatenate([w for _, w in parts])
    basis = law.basis(data.x, u)
    free = [i for i, name in enumerate(law.linear) if name not in problem.fixed]
    target = np.broadcast_to(data.y - law.offset(data.x, u), (len(u), data.x.size))
    for i, name in enumerate(law.linear):
        if name in problem.fixed:
            target = target - problem.fixed[name] * basis[:, i]
    z = np.concatenate([basis[:, free], law.tangent(data.x, u), target[:, None, :]], axis=1) / data.s
    zt = z.transpose(0, 2, 1)
    p0 = z @ zt
    inner = z[:, :, 1:-1]
    p2 = inner @ inner.transpose(0, 2, 1)
    lag = z[:, :, 1:] @ z[:, :, :-1].transpose(0, 2, 1)
    p1 = lag + lag.transpose(0, 2, 1)
    r = np.atleast_1d(rho)
    r = (r[None, :] if r.ndim == 1 else r)[..., None, None]
    return p0[:, None] + r * r * p2[:, None] - r * p1[:, None], p0


def _log_volume(gram: Array, k: int) -> Array:
    """log det of the leading k x k block, by Cholesky with a floor on the pivots."""
    a = gram[:, :k, :k].copy()
    own = np.einsum("gii->gi", a).copy()
    out = np.zeros(len(a))
    for i in range(k):
        pivot = np.maximum(a[:, i, i], 1e-13 * np.maximum(own[:, i], 1e-280))
        out += np.log(pivot)
        column = a[:, :, i] / pivot[:, None]
        a = a - column[:, :, None] * a[:, None, i, :]
    return out


def _cells(problem: _Problem, u: Array, rho: Array, log_rho: Array) -> _Cell:
    """Marginal posterior of (u, rho) and the conditional of the coefficients, in closed form. One or two coefficients."""
    law, data, prior = problem.law, problem.series, problem.prior
    gram, white = _moments(problem, u, rho)
    free = [i for i, name in enumerate(law.linear) if name not in problem.fixed]
    p, q, n = len(free), len(law.nonlinear), data.x.size
    r = np.atleast_1d(rho)
    r = r[None, :] if r.ndim == 1 else r
    lows, highs = problem.lows[free], problem.highs[free]
    rows = gram[..., :p, :p].copy()
    rhs = gram[..., :p, -1].copy()
    tt = gram[..., -1, -1]
    for k, i in enumerate(free):  # a coefficient known with an error is one more observation of it
        if law.linear[i] in problem.soft:
            value, weight = problem.soft[law.linear[i]]
            rows[..., k, k] += weight
            rhs[..., k] += weight * value
            tt = tt + weight * value * value
    if p == 1:
        det = np.maximum(rows[..., 0, 0], 1e-300)
        cov = (1.0 / det)[..., None, None]
    else:
        a, b, c = rows[..., 0, 0], rows[..., 0, 1], rows[..., 1, 1]
        det = np.maximum(a * c - b * b, 1e-12 * np.maximum(a * c, 1e-300))
        cov = np.empty((*det.shape, 2, 2))
        cov[..., 0, 0], cov[..., 1, 1] = c / det, a / det
        cov[..., 0, 1] = cov[..., 1, 0] = -b / det
    center = (cov @ rhs[..., None])[..., 0]
    rss = np.maximum(tt - (center * rhs).sum(-1), 0.0) + n * data.floor**2
    nu = max(n - p, 1)
    scale = np.sqrt(rss / nu * cov[..., 0, 0])
    log_first = np.log(interval_probability((lows[0] - center[..., 0]) / scale, (highs[0] - center[..., 0]) / scale, nu))
    clipped = np.clip(center[..., 0], lows[0], highs[0])
    coefficients = _complete(problem, free, clipped, center, cov)
    log_second = np.zeros_like(det)
    if p == 2:
        log_second = _second(problem, free, clipped, center, cov, rss, nu)[3]
    with np.errstate(divide="ignore"):
        log_amplitude = q * np.log(np.maximum(np.abs(law.amplitude(coefficients)), 1e-6)) * prior.volume
    log_like = 0.5 * np.log1p(-r * r) - 0.5 * n * np.log(rss / n)
    log_post = 0.5 * np.log1p(-r * r) - 0.5 * np.log(det) - 0.5 * nu * np.log(rss) + log_first + log_second + log_rho
    if prior.volume:
        log_post = log_post + prior.volume * 0.5 * _log_volume(white, p + q)[:, None] + log_amplitude
    return _Cell(np.where(np.isfinite(log_post), log_post, -np.inf), log_like, center, cov, rss, log_second, log_amplitude)


def _second(problem: _Problem, free: list[int], first: Array, center: Array, cov: Array, rss: Array, nu: int):
    """Conditional of the second coefficient given the first: centre, scale, bounds' log probability."""
    ratio = cov[..., 0, 1] / cov[..., 0, 0]
    loc = center[..., 1] + ratio * (first - center[..., 0])
    q = (first - center[..., 0]) ** 2 / cov[..., 0, 0]
    scale = np.sqrt(np.maximum(cov[..., 1, 1] - ratio * cov[..., 0, 1], 1e-300) * (rss + q) / (nu + 1))
    low = np.broadcast_to(problem.lows[free[1]], loc.shape)
    high = np.broadcast_to(problem.highs[free[1]], loc.shape)
    if problem.law.name == "sigmoid":  # a law of growth: r_0 stays below the asymptote
        high = np.minimum(high, first)
    log_p = np.log(interval_probability((low - loc) / scale, (high - loc) / scale, nu + 1))
    return loc, scale, (low, high), log_p


def _complete(problem: _Problem, free: list[int], first: Array, center: Array, cov: Array, second: Array | None = None) -> Array:
    """All coefficients of the law, fixed ones included, shape (..., len(linear))."""
    out = np.empty((*first.shape, len(problem.law.linear)))
    for i, name in enumerate(problem.law.linear):
        if name in problem.fixed:
            out[..., i] = problem.fixed[name]
    out[..., free[0]] = first
    if len(free) == 2:
        if second is None:
            second = center[..., 1] + cov[..., 0, 1] / cov[..., 0, 0] * (first - center[..., 0])
            second = np.clip(second, problem.lows[free[1]], problem.highs[free[1]])
        out[..., free[1]] = second
    return out


def _lse(a: Array, axis: int | None = None) -> Array:
    top = np.max(a, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        out = np.log(np.sum(np.exp(a - top), axis=axis, keepdims=True)) + top
    return np.squeeze(out, axis=axis) if axis is not None else out.ravel()[0]


@dataclass
class _Frame:
    """Outer nodes and, at each, an interval of the inner coordinate that follows the ridge."""

    outer: Array
    low: Array
    high: Array
    inner_nodes: int

    def nodes(self) -> Array:
        f = (np.arange(self.inner_nodes) + 0.5) / self.inner_nodes
        inner = self.low[:, None] + f * (self.high - self.low)[:, None]
        return np.stack([inner, np.broadcast_to(self.outer[:, None], inner.shape)], -1).reshape(-1, 2)


def _zoom(problem: _Problem, outer_nodes: int, inner_nodes: int) -> _Frame:
    """Find where the posterior of two search coordinates lives."""
    (bl, bh), (ml, mh) = problem.law.search_box(problem.series.x)
    rhos = np.array([r for r in problem.prior.rhos]) if len(problem.prior.rhos) == 1 else _ZOOM_RHOS
    flat = np.zeros(rhos.size)
    frame = _Frame(np.linspace(ml, mh, 28), np.full(28, bl), np.full(28, bh), 20)
    for step in range(12):
        values = _lse(_cells(problem, frame.nodes(), rhos, flat).log_post, 1).reshape(frame.outer.size, frame.inner_nodes)
        profile = values.max(1)
        top = profile.max()
        kept = np.flatnonzero(profile > top - _KEEP)
        width = (frame.high - frame.low) / frame.inner_nodes
        inside = values > np.minimum(profile[:, None] - 9.0, profile[:, None])
        first = inside.argmax(1)
        last = frame.inner_nodes - 1 - inside[:, ::-1].argmax(1)
        low = np.clip(frame.low + (first - 1.0) * width, bl, bh)
        high = np.clip(frame.low + (last + 2.0) * width, bl, bh)
        settled_inner = np.median((last - first + 1)[kept]) >= 0.45 * frame.inner_nodes
        settled_outer = kept.size >= 0.45 * frame.outer.size or frame.outer.size < 3
        step_m = frame.outer[1] - frame.outer[0]
        m_low = max(ml, frame.outer[kept[0]] - step_m)
        m_high = min(mh, frame.outer[kept[-1]] + step_m)
        outer = np.linspace(m_low, m_high, outer_nodes)
        # the interval of a new outer node covers those of its neighbours, so that a bent ridge stays inside
        near = slice(max(kept[0] - 1, 0), kept[-1] + 2)
        xs, lo, hi = frame.outer[near], low[near], high[near]
        frame = _Frame(outer, np.interp(outer, xs, lo), np.interp(outer, xs, hi), inner_nodes)
        if step >= 1 and settled_inner and settled_outer:
            break
    return frame


def _zoom_one(problem: _Problem, count: int) -> Array:
    """Edges of cells that hold the posterior of a single search coordinate."""
    ((low, high),) = problem.law.search_box(problem.series.x)
    rhos = np.array(problem.prior.rhos) if len(problem.prior.rhos) == 1 else _ZOOM_RHOS
    flat = np.zeros(rhos.size)
    for _ in range(12):
        edges = np.linspace(low, high, count + 1)
        nodes = (edges[1:] + edges[:-1]) / 2
        values = _lse(_cells(problem, nodes[:, None], rhos, flat).log_post, 1)
        kept = np.flatnonzero(values > values.max() - _KEEP)
        if kept.size >= 0.4 * count:
            break
        step = edges[1] - edges[0]
        low, high = max(low, nodes[kept[0]] - 1.5 * step), min(high, nodes[kept[-1]] + 1.5 * step)
    return edges


def posterior(
    law: type[Law],
    series: Series,
    *,
    draws: int,
    rng: np.random.Generator,
    prior: Prior | None = None,
    bounds: dict[str, tuple[float, float]] | None = None,
    fixed: dict[str, float] | None = None,
    soft: dict[str, tuple[float, float]] | None = None,
) -> Posterior:
    """Draw from the posterior of ``law`` given ``series``.

    Args:
        law: the law.
        series: the curve.
        draws: how many draws.
        rng: source of randomness.
        prior: see `Prior`.
        bounds: coefficient -> (low, high), over the law's own.
        fixed: coefficient -> known value.
        soft: coefficient -> (value, weight): known with an error; weight is (noise scale / error)^2.
    """
    prior = prior or Prior()
    box = {**law.bounds, **(bounds or {})}
    lows = np.array([box[name][0] for name in law.linear])
    highs = np.array([box[name][1] for name in law.linear])
    problem = _Problem(law, series, lows, highs, fixed or {}, soft or {}, prior)
    free = [i for i, name in enumerate(law.linear) if name not in problem.fixed]
    rhos, log_rho = np.asarray(prior.rhos), prior.log_rho()
    q, p = len(law.nonlinear), len(free)
    edge = 0.0
    if q == 2:
        frame = _zoom(problem, 40, 13)
        nodes = frame.nodes()
        step = frame.outer[1] - frame.outer[0]
        inner_step = np.repeat((frame.high - frame.low) / frame.inner_nodes, frame.inner_nodes)
        log_area = np.log(step) + np.log(inner_step)
    elif q == 1:
        edges = _zoom_one(problem, 60)
        nodes = ((edges[1:] + edges[:-1]) / 2)[:, None]
        log_area = np.full(len(nodes), np.log(edges[1] - edges[0]))
    else:
        nodes, log_area = np.zeros((1, 0)), np.zeros(1)
    cells = _cells(problem, nodes, rhos, log_rho)
    log_mass = cells.log_post + log_area[:, None]
    evidence = float(_lse(log_mass.ravel(), 0))
    mass = np.exp(log_mass - evidence)
    n = series.x.size
    nu = max(n - p, 1)
    evidence += 0.5 * p * np.log(2 * np.pi) + float(gammaln(nu / 2)) + 0.5 * nu * np.log(2.0)
    if q == 2:
        by_outer = mass.sum(1).reshape(frame.outer.size, -1).sum(1)
        (_, _), (ml, mh) = law.search_box(series.x)
        edge = float(by_outer[0] * (frame.outer[0] <= ml) + by_outer[-1] * (frame.outer[-1] >= mh))
    # candidates: jitter inside the cells, then importance weights for what the grid approximates
    k = 2 * draws
    flat = mass.ravel()
    order = (np.arange(k) + rng.random()) / k
    picked = np.minimum(np.searchsorted(np.cumsum(flat), order * flat.sum()), flat.size - 1)
    g, r = np.divmod(picked, rhos.size)
    u = nodes[g].copy()
    if q == 2:
        column, row = np.divmod(g, frame.inner_nodes)
        outer = frame.outer[column] + step * (rng.random(k) - 0.5)
        outer = np.clip(outer, frame.outer[0], frame.outer[-1])
        fraction = (row + rng.random(k)) / frame.inner_nodes
        low, high = np.interp(outer, frame.outer, frame.low), np.interp(outer, frame.outer, frame.high)
        u = np.stack([low + fraction * (high - low), outer], -1)
        log_q = cells.log_post[g, r] + np.log(inner_step[g]) - np.log((high - low) / frame.inner_nodes)
    elif q == 1:
        u = u + (edges[1] - edges[0]) * (rng.random((k, 1)) - 0.5)
        log_q = cells.log_post[g, r]
    else:
        log_q = cells.log_post[g, r]
    exact = _cells(problem, u, rhos[r][:, None], log_rho[r][:, None])
    center, cov, rss = exact.center[:, 0], exact.cov[:, 0], exact.rss[:, 0]
    scale = np.sqrt(rss / nu * cov[:, 0, 0])
    first = sample_between(center[:, 0], scale, lows[free[0]], highs[free[0]], nu, rng.random(k))
    log_w = exact.log_post[:, 0] - log_q
    second = None
    if p == 2:
        loc, second_scale, (low2, high2), log_p = _second(problem, free, first, center, cov, rss, nu)
        second = sample_between(loc, second_scale, low2, high2, nu + 1, rng.random(k))
        log_w = log_w + log_p - exact.log_second[:, 0]
    coefficients = _complete(problem, free, first, center, cov, second)
    with np.errstate(divide="ignore"):
        log_w = log_w + q * prior.volume * np.log(np.maximum(np.abs(law.amplitude(coefficients)), 1e-6)) - exact.log_amplitude[:, 0]
    # sigma given everything else
    delta = coefficients[:, free] - center
    precision = np.linalg.inv(cov) if p == 2 else 1.0 / cov
    total = rss + np.einsum("ki,kij,kj->k", delta, precision, delta)
    sigma = np.sqrt(total / rng.chisquare(n, k))
    weight = np.exp(log_w - log_w.max())
    weight /= weight.sum()
    efficiency = float(1.0 / (k * (weight**2).sum()))
    order = (np.arange(draws) + rng.random()) / draws
    chosen = np.minimum(np.searchsorted(np.cumsum(weight), order), k - 1)
    rng.shuffle(chosen)
    parameters = law.decode(u[chosen], coefficients[chosen], series.x_ref)
    best = np.unravel_index(np.argmax(cells.log_like), cells.log_like.shape)
    fit = _lse((cells.log_like + log_rho).max(0), 0) - _lse(log_rho, 0)
    mode_coefficients = _complete(
        problem, free, np.clip(cells.center[..., 0], lows[free[0]], highs[free[0]])[best], cells.center[best], cells.cov[best]
    )
    mode = {name: float(v) for name, v in law.decode(nodes[best[0]], mode_coefficients, series.x_ref).items()}
    return Posterior(
        parameters=parameters,
        rho=rhos[r[chosen]],
        sigma=sigma[chosen],
        log_evidence=evidence,
        best_log_fit=float(fit),
        efficiency=efficiency,
        edge_mass=edge,
        nodes=int((mass.sum(1) > 1e-6).sum()),
        mode=mode,
    )


_ = FAR
