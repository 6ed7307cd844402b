"""Parametric bootstrap of one curve: noise simulated with drawn (rho, sigma) on the fitted law, every resample refitted.

The other way to the same intervals as the posterior; every refit carries its certificate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.marginal import Series
from scaling.fitting.posterior import Marginal
from scaling.fitting.solver import Solution, solve

__all__ = ["ar_noise", "bootstrap"]

Array = NDArray[np.float64]


def ar_noise(rho: Array, sigma: Array, n: int, rng: np.random.Generator) -> Array:
    """Stationary AR(1) noise, shape ``(len(rho), n)``, of standard deviation ``sigma``."""
    e = rng.standard_normal((rho.size, n))
    out = np.empty_like(e)
    out[:, 0] = e[:, 0]
    step = np.sqrt(1.0 - rho**2)
    for t in range(1, n):
        out[:, t] = rho * out[:, t - 1] + step * e[:, t]
    return sigma[:, None] * out


def bootstrap(marginal: Marginal, *, draws: int, rng: np.random.Generator) -> tuple[Solution, Array, Array]:
    """Refits of ``draws`` resamples with the (rho, sigma) behind each.

    Args:
        marginal: the integrated posterior of the law, for the noise.
        draws: resamples.
        rng: source of randomness.
    """
    problem = marginal.problem
    law, series = problem.law, problem.series
    noise = marginal.draw(draws, rng)
    options = {"weights": 1.0 / series.s**2, "bounds": problem.bounds, "fixed": problem.fixed or None}
    point = solve(law, series.x, series.y, **options)
    fitted = _predict(point, law, series)
    sample = fitted + series.s * ar_noise(noise.rho, noise.sigma, series.x.size, rng)
    return solve(law, series.x, sample, **options), noise.rho, noise.sigma


def _predict(point: Solution, law, series: Series) -> Array:
    return (law.basis(series.x, point.u) * point.coefficients[:, :, None]).sum(1)[0] + law.offset(series.x, point.u)
