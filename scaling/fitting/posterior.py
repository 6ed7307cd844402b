"""Draws from the posterior of one law given one curve, and the law's evidence.

The search coordinates and the noise's autocorrelation are integrated on an adaptive grid (`scaling.fitting.quadrature`), the
coefficients and the noise's size in closed form (`scaling.fitting.marginal`). Draws are jittered inside their cells and
corrected by importance resampling, so the grid leaves no steps in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from scaling.fitting.marginal import Prior, Problem, Series, cells, complete, log_sum_exp, second_coefficient
from scaling.fitting.quadrature import Frame, find_frame
from scaling.fitting.tails import sample_between
from scaling.laws import Law

__all__ = ["Marginal", "Posterior", "Prior", "Series", "integrate"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws from the posterior of a law.

    Attributes:
        law: the law.
        parameters: parameter -> draws, shape ``(draws,)``, compute in units of the window's centre exp(x_ref).
        rho: autocorrelation of each draw.
        sigma: standard deviation of the noise of each draw.
        log_prior: log prior density (the volume) of each draw.
        efficiency: effective share of the candidates behind the draws.
    """

    law: type[Law]
    parameters: dict[str, Array]
    rho: Array
    sigma: Array
    log_prior: Array
    efficiency: float


@dataclass(frozen=True, eq=False)
class Marginal:
    """The integrated posterior, ready to be drawn from.

    Attributes:
        problem: law, series, prior.
        log_evidence: log of the integral of likelihood times |J'J|^(1/2); see `scaling.fitting.ensemble`.
        size: free parameters of the law.
        sigma: scale of the noise's innovations at the highest density.
        edge_mass: posterior mass in cells that touch the search box.
        nodes: cells that carry the integral.
    """

    problem: Problem
    log_evidence: float
    size: int
    sigma: float
    edge_mass: float
    nodes: int
    _frame: Frame
    _log_mass: Array

    def draw(self, draws: int, rng: np.random.Generator) -> Posterior:
        """Independent draws of parameters, rho and sigma."""
        problem, prior = self.problem, self.problem.prior
        law, free, n = problem.law, problem.free, problem.series.x.size
        rhos, log_rho = np.asarray(prior.rhos), prior.log_rho()
        p, q = len(free), len(law.nonlinear)
        nu = max(n - p, 1)
        k = 2 * draws  # candidates
        g, r = np.divmod(_systematic(np.exp(self._log_mass - self._log_mass.max()).ravel(), k, rng), rhos.size)
        u, log_area = self._frame.jitter(g, rng)
        here = cells(problem, u, rhos[r][:, None], log_rho[r][:, None])
        log_weight = here.log_post[:, 0] + log_area - self._log_mass[g, r]
        center, cov, rss = here.center[..., 0], here.cov[..., 0], here.rss[:, 0]
        low, high = problem.limits(free[0])
        first = sample_between(center[0], np.sqrt(rss / nu * cov[0, 0]), low, high, nu, rng.random(k))
        second = None
        whole = rss + (first - center[0]) ** 2 / cov[0, 0]
        if p == 2:
            loc, scale, (low2, high2), log_p = second_coefficient(problem, first, center, cov, rss)
            second = sample_between(loc, scale, low2, high2, nu + 1, rng.random(k))
            log_weight += log_p - here.log_second[:, 0]
            whole = whole * (1.0 + np.minimum(np.abs(second - loc) / scale, 1e100) ** 2 / (nu + 1))
        coefficients = complete(problem, first, second)
        log_amplitude = prior.volume * q * np.log(np.maximum(np.abs(law.amplitude(coefficients)), 1e-6))
        log_weight += log_amplitude - here.log_amplitude[:, 0]
        sigma = np.sqrt(
            whole / rng.chisquare(n, k) / (1.0 - rhos[r] ** 2)
        )  # of the noise itself, not of its innovations
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        chosen = _systematic(weight, draws, rng)
        rng.shuffle(chosen)
        return Posterior(
            law=law,
            parameters=law.decode(u[chosen], coefficients[chosen]),
            rho=rhos[r[chosen]],
            sigma=sigma[chosen],
            log_prior=(log_amplitude + here.log_volume)[chosen],
            efficiency=float(1.0 / (k * (weight**2).sum())),
        )


def integrate(
    law: type[Law],
    series: Series,
    *,
    prior: Prior | None = None,
    bounds: dict[str, tuple[float, float]] | None = None,
    fixed: dict[str, float] | None = None,
    soft: dict[str, tuple[float, float]] | None = None,
) -> Marginal:
    """Integrate the posterior of ``law`` given ``series``.

    Args:
        law: the law.
        series: the curve.
        prior: see `Prior`.
        bounds: parameter -> (low, high), over the law's own.
        fixed: coefficient -> known value.
        soft: coefficient -> (value, weight): known with an error; weight is (noise scale / error)^2.
    """
    problem = Problem(law, series, prior or Prior(), {**law.bounds, **(bounds or {})}, fixed or {}, soft or {})
    frame = find_frame(problem)
    grid = cells(problem, frame.nodes, np.asarray(problem.prior.rhos), problem.prior.log_rho())
    log_mass = grid.log_post + frame.log_area[:, None]
    total = float(log_sum_exp(log_mass.ravel()))
    mass = np.exp(log_mass - total)
    p, n = len(problem.free), series.x.size
    nu = max(n - p, 1)
    best = np.unravel_index(np.argmax(grid.log_post), grid.log_post.shape)
    return Marginal(
        problem=problem,
        log_evidence=total + 0.5 * p * np.log(2 * np.pi) + float(gammaln(nu / 2)) + 0.5 * nu * np.log(2.0),
        size=p + len(law.nonlinear),
        sigma=float(np.sqrt(grid.rss[best] / nu)),
        edge_mass=float(mass[frame.at_edge].sum()),
        nodes=int((mass.sum(1) > 1e-6).sum()),
        _frame=frame,
        _log_mass=log_mass,
    )


def _systematic(weight: Array, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices drawn in proportion to ``weight`` by systematic resampling."""
    edges = np.cumsum(weight)
    at = (np.arange(count) + rng.random()) / count * edges[-1]
    return np.minimum(np.searchsorted(edges, at), weight.size - 1)
