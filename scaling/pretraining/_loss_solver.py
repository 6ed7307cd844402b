"""Batched damped Newton for many weighted log-Huber fits of L(N, D) at once, in plain numpy.

A bootstrap resample is a row of weights over the same points. theta = (ln A, ln B, ln E, alpha, beta) on centred ln
N, ln D. A pool of rows of fixed size is iterated in preallocated buffers that fit into the cache; a finished row is
replaced by the next one waiting. Starts come from `scaling.pretraining._loss_starts`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_POOL_VALUES = 60_000  # rows x points iterated together: hides numpy's call overhead, still fits the cache


class Design:
    """The points, with log N and log D centred so that the five parameters are nearly uncorrelated in scale."""

    def __init__(self, n_params: Array, n_tokens: Array, loss: Array) -> None:
        log_n, log_d = np.log(n_params), np.log(n_tokens)
        self.log_loss = np.log(loss)
        self.mean_n, self.mean_d = float(log_n.mean()), float(log_d.mean())
        self.n, self.d = log_n - self.mean_n, log_d - self.mean_d
        one = np.ones_like(self.n)
        # moments of a weight row: sum w, sum w n, sum w n^2, ... are `row @ powers`
        self.powers_n = np.ascontiguousarray(np.stack([one, self.n, self.n**2], axis=1))
        self.powers_d = np.ascontiguousarray(np.stack([one, self.d, self.d**2], axis=1))
        self.powers_nd = np.ascontiguousarray(np.stack([one, self.n, self.d, self.n * self.d], axis=1))

    def __len__(self) -> int:
        return self.n.size

    def to_published(self, theta: Array) -> Array:
        """Rows (E, A, B, alpha, beta) in the units of N and D, from rows theta on centred logarithms."""
        a, b, e, alpha, beta = np.moveaxis(theta, -1, 0)
        with np.errstate(over="ignore"):
            return np.stack(
                [np.exp(e), np.exp(a + alpha * self.mean_n), np.exp(b + beta * self.mean_d), alpha, beta], axis=-1
            )


@dataclass(frozen=True)
class Solution:
    """Where each start ended: theta ``(n, 5)``, objective ``(n,)``, Newton decrement relative to it, iterations."""

    theta: Array
    objective: Array
    decrement: Array
    iterations: NDArray[np.int64]


def objective(design: Design, theta: Array, delta: float) -> Array:
    """Huber loss of every point under every theta row, shape ``(rows, n_points)``; multiply by weights and sum."""
    a, b, e, alpha, beta = (column[:, None] for column in theta.T)
    with np.errstate(over="ignore"):
        loss = np.exp(a - alpha * design.n) + np.exp(b - beta * design.d) + np.exp(e)
        size = np.abs(np.log(loss) - design.log_loss)
    capped = np.minimum(size, delta)
    return capped * (size - 0.5 * capped)


class _Buffers:
    """State of a pool of rows: shares of the three terms, residuals, and scratch, each ``(rows, n_points)``."""

    def __init__(self, rows: int, points: int) -> None:
        self.share_a, self.share_b, self.residual = (np.empty((rows, points)) for _ in range(3))

    def head(self, rows: int) -> _Buffers:
        out = object.__new__(_Buffers)
        out.share_a, out.share_b, out.residual = self.share_a[:rows], self.share_b[:rows], self.residual[:rows]
        return out

    def copy_rows(self, to: NDArray[np.int64], source: _Buffers, at: NDArray[np.int64]) -> None:
        self.share_a[to], self.share_b[to], self.residual[to] = (
            source.share_a[at],
            source.share_b[at],
            source.residual[at],
        )

    def keep(self, mask: NDArray[np.bool_]) -> _Buffers:
        out = object.__new__(_Buffers)
        out.share_a, out.share_b, out.residual = self.share_a[mask], self.share_b[mask], self.residual[mask]
        return out


def _evaluate(design: Design, theta: Array, weights: Array, delta: float, out: _Buffers, t: Array, u: Array) -> Array:
    """Fill ``out`` for ``theta`` and return the weighted objective of each row; ``t``, ``u`` are scratch."""
    a, b, r = out.share_a, out.share_b, out.residual
    np.multiply(theta[:, 3:4], design.n, out=a)
    np.subtract(theta[:, 0:1], a, out=a)
    np.exp(a, out=a)
    np.multiply(theta[:, 4:5], design.d, out=b)
    np.subtract(theta[:, 1:2], b, out=b)
    np.exp(b, out=b)
    np.add(a, b, out=t)
    t += np.exp(theta[:, 2:3])
    np.log(t, out=r)
    r -= design.log_loss
    np.divide(a, t, out=a)
    np.divide(b, t, out=b)
    np.abs(r, out=t)
    np.minimum(t, delta, out=u)
    t *= u
    u *= u
    u *= 0.5
    t -= u
    return np.einsum("ij,ij->i", t, weights)


def _normal_equations(
    design: Design,
    weights: Array,
    delta: float,
    state: _Buffers,
    newton: NDArray[np.bool_],
    t: Array,
    u: Array,
    v: Array,
) -> tuple[Array, Array]:
    """Gradient (rows, 5) and curvature matrix (rows, 5, 5) of the weighted Huber objective.

    The derivative of ln L is the share of each term, times -n or -d for the exponents; so all entries are moments of
    weight x share products over the powers of n and d. Rows in ``newton`` get the exact Hessian: the Huber curvature
    1[|r| <= delta] and psi(r) times the second derivative of ln L. The others get the reweighting psi(r)/r, which is
    slower and safer.
    """
    share_a, share_b, r = state.share_a, state.share_b, state.residual
    rows = len(weights)
    np.clip(r, -delta, delta, out=t)
    np.multiply(t, weights, out=u)  # psi
    np.abs(r, out=v)
    if newton.all():
        curvature = np.multiply(v <= delta, weights, out=t)
    else:
        np.maximum(v, delta, out=t)
        np.divide(delta, t, out=t)
        np.copyto(t, v <= delta, where=newton[:, None])
        t *= weights
        curvature = t
    gradient, matrix = np.empty((rows, 5)), np.empty((rows, 5, 5))
    np.multiply(u, share_a, out=v)
    bend_a = v @ design.powers_n
    gradient[:, 0], gradient[:, 3] = bend_a[:, 0], -bend_a[:, 1]
    np.multiply(u, share_b, out=v)
    bend_b = v @ design.powers_d
    gradient[:, 1], gradient[:, 4] = bend_b[:, 0], -bend_b[:, 1]
    gradient[:, 2] = u.sum(axis=1) - gradient[:, 0] - gradient[:, 1]
    if newton.all():
        curvature -= u
    elif newton.any():
        np.subtract(curvature, u, out=curvature, where=newton[:, None])

    total = curvature.sum(axis=1)
    np.multiply(curvature, share_a, out=u)
    a_1 = u @ design.powers_n[:, :2]
    np.multiply(u, share_a, out=v)
    a_2 = v @ design.powers_n
    u *= share_b
    a_b = u @ design.powers_nd
    np.multiply(curvature, share_b, out=u)
    b_1 = u @ design.powers_d[:, :2]
    u *= share_b
    b_2 = u @ design.powers_d
    e_a = a_1[:, 0] - a_2[:, 0] - a_b[:, 0]  # sum of curvature share_e share_a, as the three shares add to one
    e_b = b_1[:, 0] - b_2[:, 0] - a_b[:, 0]
    on = newton.astype(float)  # sum psi s_k v_k v_k', the other half of the second derivative, where v_k = d ln term_k
    bend_a *= on[:, None]
    bend_b *= on[:, None]
    upper = {
        (0, 0): a_2[:, 0] + bend_a[:, 0], (0, 1): a_b[:, 0], (0, 2): e_a,
        (0, 3): -a_2[:, 1] - bend_a[:, 1], (0, 4): -a_b[:, 2],
        (1, 1): b_2[:, 0] + bend_b[:, 0], (1, 2): e_b, (1, 3): -a_b[:, 1], (1, 4): -b_2[:, 1] - bend_b[:, 1],
        (2, 2): total - a_1[:, 0] - b_1[:, 0] - e_a - e_b + on * gradient[:, 2],
        (2, 3): -(a_1[:, 1] - a_2[:, 1] - a_b[:, 1]), (2, 4): -(b_1[:, 1] - b_2[:, 1] - a_b[:, 2]),
        (3, 3): a_2[:, 2] + bend_a[:, 2], (3, 4): a_b[:, 3], (4, 4): b_2[:, 2] + bend_b[:, 2],
    }  # fmt: skip
    for (i, j), value in upper.items():
        matrix[:, i, j] = value
        matrix[:, j, i] = value
    return gradient, matrix


def _move(theta: Array, step: Array) -> Array:
    """Take the step along the straight line in (value at the centre, slopes there, exponents).

    Where the irreducible loss is weakly determined the objective has a long valley that is straight in these
    coordinates and curved in logarithms: without this, one in ten small noisy designs stalls in it. Rows whose line
    leaves E, A, B, alpha, beta > 0 take the step in theta itself.
    """
    out = theta + step
    with np.errstate(all="ignore"):
        linear = np.exp(theta[:, :3])
        slopes = linear[:, :2] * theta[:, 3:]
        centre = linear.sum(axis=1) + (linear * step[:, :3]).sum(axis=1)
        slopes_new = slopes * (1 + step[:, :2]) + linear[:, :2] * step[:, 3:]
        terms = slopes_new / out[:, 3:]
        rest = centre - terms.sum(axis=1)
        inside = (terms > 0).all(axis=1) & (rest > 0) & (out[:, 3:] > 0).all(axis=1)
        out[inside, :2] = np.log(terms[inside])
        out[inside, 2] = np.log(rest[inside])
    return out


def _solve_each(matrix: Array, right: Array) -> Array:
    """``matrix[i] @ x[i] = right[i]``; an exactly singular row (only one size, say) adds damping to its batch."""
    try:
        return np.linalg.solve(matrix, right[:, :, None])[:, :, 0].astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        ridge = 1e-6 * np.eye(5)
        return np.linalg.solve(matrix + ridge, right[:, :, None])[:, :, 0].astype(np.float64, copy=False)


def polish(
    design: Design,
    theta: Array,
    weights: Array,
    rows: NDArray[np.int64],
    *,
    delta: float,
    reweighted_steps: int = 2,
    tolerance: float = 1e-12,
    max_iterations: int = 200,
) -> Solution:
    """Minimise ``sum_i weights[rows[k], i] huber_delta(ln L_hat_i - ln L_i)`` from each start ``theta[k]``.

    Args:
        design: the points.
        theta: starts, shape ``(n_starts, 5)``.
        weights: shape ``(n_rows, n_points)``.
        rows: which weight row each start belongs to, shape ``(n_starts,)``.
        delta: Huber threshold [ln loss].
        reweighted_steps: iterations with the reweighting curvature before the Huber curvature is trusted.
        tolerance: relative to the objective, of the predicted decrease at which a row is finished.
        max_iterations: a row that has not finished by then keeps its best point; its decrement tells.
    """
    starts, points = len(theta), len(design)
    pool = min(max(_POOL_VALUES // points, 16), 1024, starts)
    out = Solution(theta.copy(), np.empty(starts), np.empty(starts), np.zeros(starts, dtype=np.int64))
    state, trial = _Buffers(pool, points), _Buffers(pool, points)
    t, u, v = (np.empty((pool, points)) for _ in range(3))
    ids: NDArray[np.int64] = np.arange(pool)
    waiting = pool
    now, w = theta[:pool].copy(), weights[rows[:pool]]
    damping, age = np.full(pool, 1e-3), np.zeros(pool, dtype=np.int64)
    newton, stalled = np.zeros(pool, dtype=bool), np.zeros(pool, dtype=np.int64)
    value = _evaluate(design, now, w, delta, state, t, u)
    diagonal = np.arange(5)
    while True:
        gradient, matrix = _normal_equations(design, w, delta, state, newton, t, u, v)
        scale = 1.0 / np.sqrt(np.maximum(np.abs(matrix[:, diagonal, diagonal]), 1e-14))
        matrix *= scale[:, :, None]
        matrix *= scale[:, None, :]
        matrix[:, diagonal, diagonal] += damping[:, None]
        scaled = gradient * scale
        step = _solve_each(matrix, scaled)
        decrement = np.einsum("ij,ij->i", step, scaled)
        step *= scale
        np.clip(step, -3.0, 3.0, out=step)
        proposal = _move(now, -step)
        with np.errstate(over="ignore", invalid="ignore"):
            new = _evaluate(design, proposal, w, delta, trial, t, u)
        better = new < value
        gain = np.where(better, value - new, 0.0)
        if better.all():
            state, trial, now, value = trial, state, proposal, new
        elif 2 * np.count_nonzero(better) > len(better):  # swap, then bring the few rejected back
            bad = np.flatnonzero(~better)
            trial.copy_rows(bad, state, bad)
            proposal[bad], new[bad] = now[bad], value[bad]
            state, trial, now, value = trial, state, proposal, new
        else:
            good = np.flatnonzero(better)
            state.copy_rows(good, trial, good)
            now[good], value[good] = proposal[good], new[good]
        age += 1
        stalled = np.where(newton & better & (gain < tolerance * value), stalled + 1, 0)
        finished = newton & (np.abs(decrement) < tolerance * value)
        finished |= (stalled >= 2) | (damping > 1e11) | (age >= max_iterations)
        damping = np.where(better, np.maximum(damping * 0.2, 1e-14), damping * 8.0 + 1e-8)
        switch = ~newton & (age >= reweighted_steps)
        damping[switch] = 1e-6
        newton |= switch
        if not finished.any():
            continue
        done = np.flatnonzero(finished)
        out.theta[ids[done]], out.objective[ids[done]] = now[done], value[done]
        out.decrement[ids[done]] = decrement[done] / np.maximum(value[done], 1e-300)
        out.iterations[ids[done]] = age[done]
        refill = min(len(done), starts - waiting)
        if refill:
            slot = done[:refill]
            ids[slot] = np.arange(waiting, waiting + refill)
            waiting += refill
            w[slot], now[slot] = weights[rows[ids[slot]]], theta[ids[slot]]
            damping[slot], age[slot], newton[slot], stalled[slot] = 1e-3, 0, False, 0
            fresh = _Buffers(refill, points)
            value[slot] = _evaluate(design, now[slot], w[slot], delta, fresh, t[:refill], u[:refill])
            state.copy_rows(slot, fresh, np.arange(refill))
        if refill < len(done):
            keep = np.ones(len(ids), dtype=bool)
            keep[done[refill:]] = False
            if not keep.any():
                return out
            ids, now, w, value = ids[keep], now[keep], w[keep], value[keep]
            damping, age, newton, stalled = damping[keep], age[keep], newton[keep], stalled[keep]
            state, trial = state.keep(keep), trial.head(len(ids))
            t, u, v = t[: len(ids)], u[: len(ids)], v[: len(ids)]
