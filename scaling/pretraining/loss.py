"""Pretraining loss against model size and data: ``L(N, D) = E + A / N^alpha + B / D^beta``, with intervals.

`fit_loss` minimises the log-Huber objective of Hoffmann et al. (arXiv:2203.15556, eq. 3) and refits every bootstrap
resample to its own global optimum, so that neither the estimate nor an interval depends on a start.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling._checks import check_draws, check_seed
from scaling.errors import ScalingError
from scaling.pretraining._loss_result import LossFit, LossLaw, LossOptimum
from scaling.pretraining._loss_solver import Design, polish
from scaling.pretraining._loss_starts import GlobalSolution, solve

__all__ = ["LossFit", "LossLaw", "LossOptimum", "fit_loss"]

Array = NDArray[np.float64]

_DELTA = 1e-3  # Huber threshold of the literature [ln loss]; smaller ones are reached from it in steps
_STEP = 10**0.5  # factor between those steps
_FEWEST_POINTS = 8
_FEWEST_DISTINCT = (
    6  # a resample with fewer distinct points than this would interpolate five parameters; it is drawn again
)
_MOST_VALUES = 60_000_000  # draws x points held in memory (480 MB)


def fit_loss(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    *,
    delta: float = _DELTA,
    draws: int = 4000,
    seed: int = 0,
) -> LossFit:
    """Fit ``L(N, D) = E + A / N^alpha + B / D^beta`` to finished pretraining runs.

    Minimises ``sum_i Huber_delta(ln L_hat(N_i, D_i) - ln L_i)`` (arXiv:2203.15556, eq. 3). As ``delta`` goes to zero
    the objective divided by ``delta`` becomes the sum of absolute deviations: ``delta=1e-9`` is least absolute
    deviations, reached from 1e-3 in steps.

    Args:
        n_params: model sizes [parameters], shape ``(n_runs,)``.
        n_tokens: training tokens [tokens], shape ``(n_runs,)``.
        loss: final losses [nats per token, or any unit], shape ``(n_runs,)``.
        delta: Huber threshold [ln loss].
        draws: bootstrap resamples of runs (pairs), each refitted from its own global start.
        seed: of the resampling. The order of the points does not matter.

    Raises:
        ScalingError: unequal lengths, values that are not finite and positive, fewer than 8 points, or too many.

    Example:
        >>> import numpy as np
        >>> n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(2e9, 2e11, 5)))
        >>> fit = fit_loss(n, d, 1.8 + 480 / n**0.35 + 2100 / d**0.37, draws=50)
        >>> round(fit.law.alpha, 3), round(fit.law.beta, 3), fit.identified
        (0.35, 0.37, True)
    """
    n, d, y = (
        _positive(values, name) for values, name in ((n_params, "n_params"), (n_tokens, "n_tokens"), (loss, "loss"))
    )
    if not n.size == d.size == y.size:
        raise ScalingError(f"n_params, n_tokens and loss must have equal lengths, got {n.size}, {d.size} and {y.size}")
    if n.size < _FEWEST_POINTS:
        raise ScalingError(f"fit_loss needs at least {_FEWEST_POINTS} runs for its five parameters, got {n.size}")
    if not (np.isfinite(delta) and delta > 0):
        raise ScalingError(f"delta must be finite and > 0, got {delta}")
    check_draws(draws, least=1)
    check_seed(seed)
    if n.size * draws > _MOST_VALUES:
        raise ScalingError(
            f"draws x points must be at most {_MOST_VALUES:,}, got {draws:,} x {n.size:,}: "
            "give one point a run (its final loss), or fewer draws"
        )
    order = np.lexsort((y, d, n))
    distinct = len(np.unique(np.stack([n, d]), axis=1).T)
    design = Design(n[order], d[order], y[order])
    counts = _resample(n.size, draws, np.random.default_rng(seed))
    # the full data ride along as the last row, so that it too is offered every other row's optimum
    weights = np.concatenate([counts, np.ones((1, n.size))])
    solution = _solve(design, weights, delta)
    table = design.to_published(solution.theta)
    at_zero = table[:, 0] < 1e-3 * y.min()
    back = np.empty_like(order)
    back[order] = np.arange(n.size)
    return LossFit(
        law=LossLaw(*(float(x) for x in table[-1])),
        draws=table[:-1],
        status=_status(n, d, y, distinct, at_zero, table, solution),
        objective=float(solution.objective[-1]),
        objectives=solution.objective[:-1],
        counts=counts[:, back].astype(np.int16),
        delta=delta,
        certificates={
            "decrement": np.abs(solution.decrement[:-1]), "basins": solution.basins[:-1], "at_zero": at_zero[:-1],
        },
        retried=solution.retried,
    )  # fmt: skip


def _solve(design: Design, weights: Array, delta: float) -> GlobalSolution:
    """Global optima at ``delta``; a threshold below the usual one is approached in steps, from smooth to sharp."""
    solution = solve(design, weights, delta=max(delta, _DELTA))
    if delta >= _DELTA:
        return solution
    steps = int(np.ceil(np.log(_DELTA / delta) / np.log(_STEP)))
    rows = np.arange(len(weights))
    theta = solution.theta
    last = None
    for threshold in np.geomspace(_DELTA, delta, steps + 1)[1:]:
        last = polish(design, theta, weights, rows, delta=float(threshold))
        theta = last.theta
    assert last is not None
    return GlobalSolution(last.theta, last.objective, last.decrement, solution.basins, solution.retried)


def _resample(points: int, draws: int, rng: np.random.Generator) -> Array:
    """Pairs bootstrap: counts of each point, shape ``(draws, points)``; degenerate resamples are drawn again."""
    counts = np.zeros((draws, points))
    todo = np.arange(draws)
    while todo.size:
        picks = rng.integers(0, points, size=(todo.size, points)) + points * np.arange(todo.size)[:, None]
        counts[todo] = np.bincount(picks.ravel(), minlength=todo.size * points).reshape(todo.size, points)
        todo = todo[np.count_nonzero(counts[todo], axis=1) < _FEWEST_DISTINCT]
    return counts


def _status(
    n: Array, d: Array, y: Array, distinct: int, at_zero: NDArray[np.bool_], table: Array, solution: GlobalSolution
) -> str:
    log_n, log_d = np.log(n), np.log(d)
    if np.ptp(y) <= 1e-9 * y.max():
        return f"every loss is {y[0]:g}: nothing to fit"
    if np.ptp(log_n) < 1e-6 or len(np.unique(n)) < 3:
        return f"alpha and A not identified: {len(np.unique(n))} distinct model sizes, at least 3 are needed"
    if np.ptp(log_d) < 1e-6 or len(np.unique(d)) < 3:
        return f"beta and B not identified: {len(np.unique(d))} distinct token counts, at least 3 are needed"
    if abs(np.corrcoef(log_n, log_d)[0, 1]) > 0.9999:
        return "size and data not separable: ln N and ln D lie on one line; vary tokens per parameter"
    if distinct < _FEWEST_DISTINCT:
        return f"five parameters not identified: only {distinct} distinct (N, D)"
    if at_zero.mean() > 0.05:
        return f"E not identified: {at_zero.mean():.0%} of resamples put the irreducible loss at zero"
    for exponent, name in ((table[:, 3], "model size"), (table[:, 4], "tokens")):
        if np.mean(exponent <= 0) > 0.05:
            return f"loss does not fall with {name} in {np.mean(exponent <= 0):.0%} of resamples: is it a loss, and in the order of N and D?"
    if np.mean(np.abs(solution.decrement) > 1e-6) > 0.01:
        return f"not converged: {np.mean(np.abs(solution.decrement) > 1e-6):.1%} of resamples"
    return "ok"


def _positive(values: ArrayLike, name: str) -> Array:
    try:
        out = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ScalingError(f"{name} must be numbers: {error}") from error
    if out.ndim != 1:
        raise ScalingError(f"{name} must be one-dimensional, got shape {out.shape}")
    bad = np.flatnonzero(~(np.isfinite(out) & (out > 0)))
    if bad.size:
        raise ScalingError(
            f"{name} must be finite and > 0, got {out[bad[0]]} at index {bad[0]} ({bad.size} in all): drop those runs"
        )
    return out
