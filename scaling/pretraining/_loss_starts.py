"""Global optima of many log-Huber fits of L(N, D): starts by variable projection, retries across resamples.

Given (alpha, beta) the law is linear in (E, A, B): a grid over the two exponents needs only moments, which are matrix
products ``weights @ features``, and a closed-form non-negative least squares in three variables, for all rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.pretraining._loss_solver import Design, Solution, objective, polish

Array = NDArray[np.float64]

_TINY = 1e-6  # floor of a linear coefficient [loss units] before its logarithm is taken as a start
_GRID = np.geomspace(0.05, 1.5, 8)  # exponents tried, both axes
_SECTORS = (np.geomspace(0.02, 0.3, 6), np.geomspace(0.3, 2.5, 6))  # low and high exponents, for starts a sector
_PILOT = 64  # rows retried to see whether there is more than one basin
_SMALL = 100  # designs with fewer points are retried whatever the pilot says
_SEEDED = 200  # rows that also start from each sector; the rest meet those basins through the retries
_POOL = 2048  # optima that a row may be retried from
_ROUNDS = 5


@dataclass(frozen=True)
class GlobalSolution:
    """The best optimum of each row, with what certifies it.

    Attributes:
        theta: shape ``(rows, 5)``.
        objective: shape ``(rows,)``.
        decrement: Newton decrement relative to the objective, shape ``(rows,)``; a row at its optimum has < 1e-11.
        basins: local optima met that differ by more than 1e-6 relative, shape ``(rows,)``; 1 where all starts agreed.
        retried: whether every row was retried from other rows' optima (a pilot asked for it), or only the pilot was.
    """

    theta: Array
    objective: Array
    decrement: Array
    basins: NDArray[np.int64]
    retried: bool


def solve(design: Design, weights: Array, *, delta: float) -> GlobalSolution:
    """Global minimum of the log-Huber objective for every weight row.

    Every row starts from its own variable-projection grid. A pilot of rows is then retried from the optima of all
    others that are best on it (all cross objectives are one matrix product). If that never wins, each row has one
    basin and the first answer stands. If it does (small, noisy designs), sectors of the exponent grid add starts for
    some rows and every row is retried, round after round, until nothing improves.
    """
    rows = len(weights)
    own = np.arange(rows)
    starts = grid_starts(design, weights, _GRID, _GRID)
    first = polish(design, starts, weights, own, delta=delta, reweighted_steps=3)
    best = GlobalSolution(first.theta, first.objective, first.decrement, np.ones(rows, dtype=np.int64), False)
    pilot = np.arange(min(_PILOT, rows))
    pool = best.theta[:_POOL]
    small = len(design) < _SMALL
    if not small and not _retry(design, weights, best, pilot, pool, delta):
        if not _sector_starts(design, weights, best, pilot, delta)[1]:
            return best
    found, _ = _sector_starts(design, weights, best, own[:_SEEDED], delta)
    best = GlobalSolution(best.theta, best.objective, best.decrement, best.basins, True)
    for _ in range(_ROUNDS):
        if not _retry(design, weights, best, own, np.concatenate([found, best.theta[:_POOL]]), delta):
            break
    return best


def _sector_starts(
    design: Design, weights: Array, best: GlobalSolution, rows: NDArray[np.int64], delta: float
) -> tuple[Array, int]:
    """Offer ``rows`` a start from each quarter of the exponent plane; all optima met, and how many rows improved."""
    found, improved = [], np.zeros(len(weights), dtype=bool)
    for alphas in _SECTORS:
        for betas in _SECTORS:
            starts = grid_starts(design, weights[rows], alphas, betas)
            solution = polish(design, starts, weights, rows, delta=delta, reweighted_steps=4)
            improved[_offer(best, solution, rows)] = True
            found.append(solution.theta)
    return np.concatenate(found), int(improved.sum())


def _retry(
    design: Design,
    weights: Array,
    best: GlobalSolution,
    rows: NDArray[np.int64],
    pool: Array,
    delta: float,
    top: int = 2,
) -> int:
    """Restart ``rows`` from the ``top`` thetas of ``pool`` that are best on them; how many rows improved."""
    improved = np.zeros(len(weights), dtype=bool)
    losses = objective(design, pool, delta).T
    top = min(top, len(pool) - 1)
    if top < 1:
        return 0
    for first in range(0, len(rows), 512):
        block = rows[first : first + 512]
        cross = weights[block] @ losses
        # a row's own optimum is in the pool too: look past whatever is no better than a restart from itself
        cross[np.abs(cross - best.objective[block, None]) < 1e-9 * best.objective[block, None]] = np.inf
        near = np.argpartition(cross, top, axis=1)[:, :top]
        again = np.repeat(block, top)
        solution = polish(design, pool[near].reshape(-1, 5), weights, again, delta=delta, reweighted_steps=4)
        improved[_offer(best, solution, again)] = True
    return int(improved.sum())


def _offer(best: GlobalSolution, solution: Solution, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Take over (in place) what beats the best so far and count other basins; the rows improved by more than 1e-9."""
    other = np.abs(solution.objective - best.objective[rows]) > 1e-6 * best.objective[rows]
    np.add.at(best.basins, rows[other], 1)
    won = []
    for k in np.flatnonzero(solution.objective < best.objective[rows]):  # a row may appear several times in `rows`
        row = rows[k]
        if solution.objective[k] < best.objective[row]:
            if solution.objective[k] < best.objective[row] * (1 - 1e-9):
                won.append(row)
            best.theta[row], best.objective[row], best.decrement[row] = (
                solution.theta[k], solution.objective[k], solution.decrement[k],
            )  # fmt: skip
    return np.array(won, dtype=np.int64)


def grid_starts(design: Design, weights: Array, alphas: Array, betas: Array, *, chunk: int = 512) -> Array:
    """The best cell of an exponent grid for every weight row, by variable projection; shape ``(rows, 5)``.

    Least squares on relative residuals 1 - L_hat/L, non-negative in (E, A, B) by trying the active sets. Rows are taken
    ``chunk`` at a time to bound memory.
    """
    u = np.exp(-design.log_loss)
    unit = u.mean()
    u = u / unit
    z_a = np.exp(-alphas[:, None] * design.n) * u
    z_b = np.exp(-betas[:, None] * design.d) * u
    z_ab = (z_a[:, None] * z_b[None]).reshape(len(alphas) * len(betas), -1)
    base = np.stack([np.ones_like(u), u, u * u])
    features = np.concatenate([base, z_a, z_a * z_a, z_a * u, z_b, z_b * z_b, z_b * u, z_ab])
    cuts = np.cumsum([3, *[len(alphas)] * 3, *[len(betas)] * 3])
    out = np.empty((len(weights), 5))
    for first in range(0, len(weights), chunk):
        block = weights[first : first + chunk]
        base, a1, aa, au, b1, bb, bu, ab = np.split(block @ features.T, cuts, axis=1)
        best, linear = _nonnegative_fit(base, a1, aa, au, b1, bb, bu, ab.reshape(len(block), len(alphas), len(betas)))
        cell = best.reshape(len(block), -1).argmax(axis=1)
        i_a, i_b = np.divmod(cell, len(betas))
        pick = np.arange(len(block))
        e, a, b = (np.log(np.maximum(x[pick, i_a, i_b] / unit, _TINY)) for x in linear)
        out[first : first + chunk] = np.stack([a, b, e, alphas[i_a], betas[i_b]], axis=-1)
    return out


def _nonnegative_fit(
    base: Array, a1: Array, aa: Array, au: Array, b1: Array, bb: Array, bu: Array, ab: Array
) -> tuple[Array, Sequence[Array]]:
    """Explained sum of squares of each cell, shape ``(rows, n_alpha, n_beta)``, and its (E, A, B) >= 0."""
    hu, uu = base[:, 1, None, None], base[:, 2, None, None]
    ha, g_aa, g_au = a1[:, :, None], aa[:, :, None], au[:, :, None]
    hb, g_bb, g_bu = b1[:, None, :], bb[:, None, :], bu[:, None, :]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # E eliminated: Schur complement in (A, B)
        s_aa, s_bb, s_ab = g_aa - g_au**2 / uu, g_bb - g_bu**2 / uu, ab - g_au * (g_bu / uu)
        t_a, t_b = ha - g_au * (hu / uu), hb - g_bu * (hu / uu)
        det = s_aa * s_bb - s_ab * s_ab
        a = (t_a * s_bb - t_b * s_ab) / det
        b = (t_b * s_aa - t_a * s_ab) / det
        e = (hu - g_au * a - g_bu * b) / uu
        inside = (a >= 0) & (b >= 0) & (e >= 0)
        best = np.where(inside, e * hu + a * ha + b * hb, -np.inf)
        out = [np.where(inside, x, 0.0) for x in (e, a, b)]
        outside = ~inside

        def offer(e: Array, a: Array, b: Array) -> None:
            explained = e * hu + a * ha + b * hb
            take = outside & (e >= 0) & (a >= 0) & (b >= 0) & (explained > best)
            np.copyto(best, explained, where=take)
            for have, new in zip(out, (e, a, b)):
                np.copyto(have, np.broadcast_to(new, have.shape), where=take)

        if outside.any():
            zero = np.zeros(1)
            a_only, b_only = t_a / s_aa, t_b / s_bb
            offer((hu - g_au * a_only) / uu, a_only, zero)
            offer((hu - g_bu * b_only) / uu, zero, b_only)
            det = g_aa * g_bb - ab * ab
            offer(zero, (ha * g_bb - hb * ab) / det, (hb * g_aa - ha * ab) / det)
    return best, out
