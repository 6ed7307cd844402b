"""Draws from the posterior of one law given one curve, and the law's evidence.

The search coordinates and the kind of noise are integrated on an adaptive grid (`scaling.fitting.quadrature`), the
coefficients and the noise's size in closed form (`scaling.fitting.marginal`). Draws are jittered inside their cells and
corrected by importance resampling, so the grid leaves no steps in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from scaling.fitting.marginal import (
    Cells,
    Problem,
    Series,
    beyond_window,
    cells,
    complete,
    log_sum_exp,
    second_coefficient,
)
from scaling.fitting.prior import Prior
from scaling.fitting.quadrature import INSIDE, KEEP, Frame, find_frame
from scaling.fitting.tails import sample_between
from scaling.laws import Law

__all__ = ["Marginal", "Posterior", "Prior", "Series", "integrate"]

Array = NDArray[np.float64]
_LEFT = 1e-4  # mass at the border of another posterior's frame above which it is too narrow
_FILLED = 0.6  # of its columns, and of a column's cells, below which it is too coarse


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws from the posterior of a law.

    Attributes:
        law: the law.
        parameters: parameter -> draws, shape ``(draws,)``, compute in units of the window's centre exp(x_ref).
        rho: autocorrelation of each draw.
        sigma: standard deviation of the noise of each draw.
        drift: of the drift's slope after an e-fold of compute, 0 where a draw has none.
        log_prior: log prior density (the volume) of each draw.
        log_weight: log weight of each draw; draws of `Marginal.draw` count the same.
        efficiency: effective share of the candidates behind the draws.
    """

    law: type[Law]
    parameters: dict[str, Array]
    rho: Array
    sigma: Array
    drift: Array
    log_prior: Array
    log_weight: Array
    efficiency: float

    @property
    def weights(self) -> Array:
        """Weight of each draw, summing to one."""
        weight = np.exp(self.log_weight - self.log_weight.max())
        return weight / weight.sum()


@dataclass(frozen=True, eq=False)
class Marginal:
    """The integrated posterior, ready to be drawn from.

    Attributes:
        problem: law, series, prior.
        log_evidence: log of the integral of likelihood times |J'J|^(1/2); see `scaling.fitting.ensemble`.
        size: free parameters of the law that have a price: all but those of `Prior.flat`.
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

    @property
    def reaches_onset(self) -> bool:
        """Whether the integral has cells whose C_mid lies beyond the window."""
        return bool(beyond_window(self.problem, self._frame.nodes).any())

    def draw(self, draws: int, rng: np.random.Generator) -> Posterior:
        """Independent draws of parameters and noise."""

        def inverse(loc: Array, scale: Array, low: Array | float, high: Array | float, nu: float) -> Array:
            return sample_between(loc, scale, low, high, nu, rng.random(loc.size))

        found = self._propose(max(2 * draws, 64), rng, inverse)  # some may fall outside the law's region
        chosen = _systematic(found.weights, draws, rng)
        rng.shuffle(chosen)
        return replace(
            found,
            parameters={name: values[chosen] for name, values in found.parameters.items()},
            rho=found.rho[chosen],
            sigma=found.sigma[chosen],
            drift=found.drift[chosen],
            log_prior=found.log_prior[chosen],
            log_weight=np.zeros(draws),
        )

    def candidates(self, count: int, rng: np.random.Generator) -> Posterior:
        """As `draw`, but with a weight each, `Posterior.log_weight`: for who weighs them by something else as well.

        Without the choice among twice as many, and bounds that hardly bind need no inverse distribution function: in a
        third of the time.
        """

        def redrawn(loc: Array, scale: Array, low: Array | float, high: Array | float, nu: float) -> Array:
            values = loc + scale * rng.standard_t(nu, loc.size)
            off = (values < low) | (values > high)  # drawn anew from inside, which is exact
            if off.any():
                low, high = (np.broadcast_to(end, loc.shape)[off] for end in (low, high))
                values[off] = sample_between(loc[off], scale[off], low, high, nu, rng.random(int(off.sum())))
            return values

        return self._propose(count, rng, redrawn)

    def _propose(self, k: int, rng: np.random.Generator, sample: Callable[..., Array]) -> Posterior:
        """Points jittered inside the grid's cells, with the weights that correct for the grid."""
        problem, prior = self.problem, self.problem.prior
        law, free, n = problem.law, problem.free, problem.series.x.size
        noises = prior.noises()
        p, q = len(free), len(law.nonlinear)
        nu = max(n - p, 1)
        g, r = np.divmod(_systematic(np.exp(self._log_mass - self._log_mass.max()).ravel(), k, rng), noises.rho.size)
        u, log_area = self._frame.jitter(g, rng)
        own = noises.take(r)
        here = cells(problem, u, own, paired=True)
        log_weight = here.log_post[:, 0] + log_area - self._log_mass[g, r]
        center, cov, rss = here.center[..., 0], here.cov[..., 0], here.rss[:, 0]
        low, high = problem.limits(free[0])
        first = sample(center[0], np.sqrt(rss / nu * cov[0, 0]), low, high, nu)
        second = None
        whole = rss + (first - center[0]) ** 2 / cov[0, 0]
        if p == 2:
            loc, scale, (low2, high2), log_p = second_coefficient(problem, first, center, cov, rss)
            second = sample(loc, scale, low2, high2, nu + 1)
            log_weight += log_p - here.log_second[:, 0]
            whole = whole * (1.0 + np.minimum(np.abs(second - loc) / scale, 1e100) ** 2 / (nu + 1))
        coefficients = complete(problem, first, second)
        log_amplitude = prior.volume * q * np.log(np.maximum(np.abs(law.amplitude(coefficients)), 1e-6))
        log_weight += log_amplitude - here.log_amplitude[:, 0]
        # of the noise itself, not of its innovations
        sigma = np.sqrt(whole / rng.chisquare(n, k) / (1.0 - own.rho**2))
        found = Posterior(
            law=law,
            parameters=law.decode(u, coefficients),
            rho=own.rho,
            sigma=sigma,
            drift=np.sqrt(own.drift) * sigma,
            log_prior=log_amplitude + here.log_volume,
            log_weight=log_weight,
            efficiency=np.nan,
        )
        return replace(found, efficiency=float(1.0 / (k * (found.weights**2).sum())))


def integrate(
    law: type[Law],
    series: Series,
    *,
    prior: Prior | None = None,
    bounds: dict[str, tuple[float, float]] | None = None,
    fixed: dict[str, float] | None = None,
    soft: dict[str, tuple[float, float]] | None = None,
    near: Marginal | None = None,
) -> Marginal:
    """Integrate the posterior of ``law`` given ``series``.

    Args:
        law: the law.
        series: the curve.
        prior: see `Prior`.
        bounds: parameter -> (low, high), over the law's own.
        fixed: coefficient -> known value.
        soft: coefficient -> (value, weight): known with an error; weight is (noise scale / error)^2.
        near: the integral of the same law given almost the same series: its cells do, where they hold this posterior too.
    """
    problem = Problem(law, series, prior or Prior(), {**law.bounds, **(bounds or {})}, fixed or {}, soft or {})
    frame = find_frame(problem) if near is None else near._frame
    grid, log_mass, total = _grid(problem, frame)
    if near is not None and not (np.isfinite(total) and _holds(frame, log_mass - total)):
        frame = find_frame(problem)
        grid, log_mass, total = _grid(problem, frame)
    there = bool(np.isfinite(total))  # a law may have no parameters that reach into its region of the window
    mass = np.exp(log_mass - total) if there else np.zeros_like(log_mass)
    p, n = len(problem.free), series.x.size
    nu = max(n - p, 1)
    best = np.unravel_index(np.argmax(grid.log_post), grid.log_post.shape)
    flat = [name for name in law.linear if name in problem.prior.flat and name not in problem.fixed]
    total -= sum(float(np.log(np.ptp(problem.bounds[name]))) for name in flat)  # a density of its own, without a price
    return Marginal(
        problem=problem,
        log_evidence=total + 0.5 * p * np.log(2 * np.pi) + float(gammaln(nu / 2)) + 0.5 * nu * np.log(2.0),
        size=p + len(law.nonlinear) - len(flat),
        sigma=float(np.sqrt(grid.rss[best] / nu)) if there else np.inf,
        edge_mass=float(mass[frame.at_edge].sum()),
        nodes=int((mass.sum(1) > 1e-6).sum()),
        _frame=frame,
        _log_mass=log_mass,
    )


def _grid(problem: Problem, frame: Frame) -> tuple[Cells, Array, float]:
    """The posterior on the frame's cells with every noise, the log mass of each, and the log of all mass."""
    grid = cells(problem, frame.nodes, problem.prior.noises())
    log_mass = grid.log_post + frame.log_area[:, None]
    return grid, log_mass, float(log_sum_exp(log_mass.ravel()))


def _holds(frame: Frame, log_share: Array) -> bool:
    """Whether a frame found for another posterior holds all of this one too, in cells that are small enough."""
    shape = frame.nodes.shape[0] // frame.inner, frame.inner
    border = np.ones(shape, bool)
    border[1:-1, 1:-1] = False
    left = np.exp(log_share).sum(1)[border.ravel() & ~frame.at_edge].sum()
    density = (log_sum_exp(log_share) - frame.log_area).reshape(shape)
    ridge = density.max(1)
    columns = ridge > ridge.max() - KEEP
    filled = (density > ridge[:, None] - INSIDE)[columns].mean(1)
    return bool(left < _LEFT and columns.mean() > _FILLED and np.median(filled) > _FILLED)


def _systematic(weight: Array, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices drawn in proportion to ``weight`` by systematic resampling."""
    edges = np.cumsum(weight)
    at = (np.arange(count) + rng.random()) / count * edges[-1]
    return np.minimum(np.searchsorted(edges, at), weight.size - 1)
