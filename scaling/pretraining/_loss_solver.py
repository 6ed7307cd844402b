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

_SINGLE_DELTA = 1e-4
_POOL_VALUES = 100_000  # rows x points iterated together: hides numpy's call overhead, still fits the cache


class Design:
    """The points, with log N and log D centred so that the five parameters are nearly uncorrelated in scale."""

    def __init__(self, n_params: Array, n_tokens: Array, loss: Array) -> None:
        log_n, log_d = np.log(n_params), np.log(n_tokens)
        self.log_loss = np.log(loss)
        self.mean_n, self.mean_d = float(log_n.mean()), float(log_d.mean())
        self.n, self.d = log_n - self.mean_n, log_d - self.mean_d
        self._moments()

    def _moments(self) -> None:
        self.one = one = np.ones_like(self.n)
        self.dtype = self.n.dtype
        self.line_n, self.line_d = np.stack([one, -self.n]), np.stack([one, -self.d])
        # moments of a weight row: sum w, sum w n, sum w n^2, ... are `row @ powers`
        self.powers_n = np.ascontiguousarray(np.stack([one, self.n, self.n**2], axis=1))
        self.powers_d = np.ascontiguousarray(np.stack([one, self.d, self.d**2], axis=1))
        self.powers_nd = np.ascontiguousarray(np.stack([one, self.n, self.d, self.n * self.d], axis=1))

    def single(self) -> Design:
        """The same points in single precision, for the first iterations."""
        out = object.__new__(Design)
        out.log_loss, out.n, out.d = (x.astype(np.float32) for x in (self.log_loss, self.n, self.d))
        out.mean_n, out.mean_d = self.mean_n, self.mean_d
        out._moments()
        return out

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


class _State:
    """Of a pool of rows: shares of the A and B terms in the loss, residuals, Huber psi, each ``(rows, n_points)``."""

    def __init__(self, *arrays: Array) -> None:
        self.share_a, self.share_b, self.residual, self.psi = self.arrays = arrays

    @classmethod
    def empty(cls, rows: int, points: int, dtype: np.dtype) -> _State:
        return cls(*(np.empty((rows, points), dtype) for _ in range(4)))

    def take(self, rows: slice | NDArray) -> _State:
        return _State(*(array[rows] for array in self.arrays))

    def put(self, rows: NDArray[np.int64], source: _State, at: NDArray[np.int64]) -> None:
        for mine, other in zip(self.arrays, source.arrays):
            mine[rows] = other[at]


def _evaluate(design: Design, theta: Array, weights: Array, delta: float, out: _State, t: Array) -> Array:
    """Fill ``out`` for ``theta`` and return the weighted objective of each row; ``t`` is scratch."""
    a, b, r, psi = out.arrays
    linear = theta.astype(design.dtype)
    np.matmul(linear[:, [0, 3]], design.line_n, out=a)  # ln A - alpha n
    np.exp(a, out=a)
    np.matmul(linear[:, [1, 4]], design.line_d, out=b)
    np.exp(b, out=b)
    np.add(a, b, out=t)
    t += np.exp(linear[:, 2:3])
    np.log(t, out=r)
    r -= design.log_loss
    np.divide(a, t, out=a)
    np.divide(b, t, out=b)
    np.clip(r, -delta, delta, out=psi)
    np.multiply(psi, 0.5, out=t)
    np.subtract(r, t, out=t)
    t *= psi  # Huber: psi (r - psi / 2)
    return np.einsum("ij,ij->i", t, weights).astype(float)


def _normal_equations(
    design: Design, weights: Array, state: _State, newton: bool, t: Array, u: Array, v: Array
) -> tuple[Array, Array]:
    """Gradient (rows, 5) and curvature matrix (rows, 5, 5) of the weighted Huber objective.

    The derivative of ln L is the share of each term, times -n or -d for the exponents; so all entries are moments of
    weight x share products over the powers of n and d. With ``newton`` the matrix is the exact Hessian: the Huber
    curvature 1[|r| <= delta] and psi(r) times the second derivative of ln L. Without, it is the reweighting psi(r)/r,
    which is slower and safer.
    """
    share_a, share_b, r, psi = state.arrays
    rows = len(weights)
    np.multiply(psi, weights, out=u)
    if newton:
        curvature = np.multiply(psi == r, weights, out=t)
        curvature -= u
    else:
        np.divide(psi, r, out=t, where=r != 0)
        np.copyto(t, 1.0, where=r == 0)
        t *= weights
        curvature = t
    gradient, matrix = np.empty((rows, 5)), np.empty((rows, 5, 5))
    np.multiply(u, share_a, out=v)
    bend_a = v @ design.powers_n
    gradient[:, 0], gradient[:, 3] = bend_a[:, 0], -bend_a[:, 1]
    np.multiply(u, share_b, out=v)
    bend_b = v @ design.powers_d
    gradient[:, 1], gradient[:, 4] = bend_b[:, 0], -bend_b[:, 1]
    gradient[:, 2] = u @ design.one - gradient[:, 0] - gradient[:, 1]
    total = curvature @ design.one
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
    on = float(newton)  # sum psi s_k v_k v_k', the other half of the second derivative, where v_k = d ln term_k
    bend_a *= on
    bend_b *= on
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
    phase = _iterate
    if delta >= _SINGLE_DELTA:  # single precision resolves residuals to 1e-7: enough to come near, at half the cost
        single, light = design.single(), weights.astype(np.float32)
        if reweighted_steps:
            theta = phase(single, theta, light, rows, delta, newton=False, tolerance=0.0, limit=reweighted_steps).theta
        theta = phase(single, theta, light, rows, delta, newton=True, tolerance=1e-5, limit=30).theta
    elif reweighted_steps:
        theta = phase(design, theta, weights, rows, delta, newton=False, tolerance=0.0, limit=reweighted_steps).theta
    return phase(design, theta, weights, rows, delta, newton=True, tolerance=tolerance, limit=max_iterations)


def _iterate(
    design: Design,
    theta: Array,
    weights: NDArray,
    rows: NDArray[np.int64],
    delta: float,
    *,
    newton: bool,
    tolerance: float,
    limit: int,
) -> Solution:
    """Damped steps with one kind of curvature, in the precision of ``design``, until each start is finished."""
    starts, points = len(theta), len(design)
    pool = min(max(_POOL_VALUES // points, 16), 1024, starts)
    out = Solution(theta.copy(), np.empty(starts), np.empty(starts), np.zeros(starts, dtype=np.int64))
    state, trial = (_State.empty(pool, points, design.dtype) for _ in range(2))
    t, u, v = (np.empty((pool, points), design.dtype) for _ in range(3))
    ids: NDArray[np.int64] = np.arange(pool)
    waiting = pool
    now, w = theta[:pool].copy(), weights[rows[:pool]]
    fresh_damping = 1e-6 if newton else 1e-3
    damp, age = np.full(pool, fresh_damping), np.zeros(pool, dtype=np.int64)
    stalled = np.zeros(pool, dtype=np.int64)
    value = _evaluate(design, now, w, delta, state, t)
    diagonal = np.arange(5)
    while True:
        gradient, matrix = _normal_equations(design, w, state, newton, t, u, v)
        scale = 1.0 / np.sqrt(np.maximum(np.abs(matrix[:, diagonal, diagonal]), 1e-14))
        matrix *= scale[:, :, None]
        matrix *= scale[:, None, :]
        matrix[:, diagonal, diagonal] += damp[:, None]
        scaled = gradient * scale
        step = _solve_each(matrix, scaled)
        decrement = np.einsum("ij,ij->i", step, scaled)
        step *= scale
        np.clip(step, -3.0, 3.0, out=step)
        proposal = _move(now, -step)
        with np.errstate(over="ignore", invalid="ignore"):
            new = _evaluate(design, proposal, w, delta, trial, t)
        better = new < value
        gain = np.where(better, value - new, 0.0)
        if better.all():
            state, trial, now, value = trial, state, proposal, new
        elif 2 * np.count_nonzero(better) > len(better):  # swap, then bring the few rejected back
            bad = np.flatnonzero(~better)
            trial.put(bad, state, bad)
            proposal[bad], new[bad] = now[bad], value[bad]
            state, trial, now, value = trial, state, proposal, new
        else:
            good = np.flatnonzero(better)
            state.put(good, trial, good)
            now[good], value[good] = proposal[good], new[good]
        age += 1
        stalled = np.where(better & (gain < tolerance * value), stalled + 1, 0)
        finished = (np.abs(decrement) < tolerance * value) | (stalled >= 2) | (damp > 1e11) | (age >= limit)
        if design.dtype == np.float32:  # a rejected short step is rounding
            finished |= ~better & (np.abs(decrement) < 1e-3 * value)
        damp = np.where(better, np.maximum(damp * 0.2, 1e-14), damp * 8.0 + 1e-8)
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
            damp[slot], age[slot], stalled[slot] = fresh_damping, 0, 0
            fresh = _State.empty(refill, points, design.dtype)
            value[slot] = _evaluate(design, now[slot], w[slot], delta, fresh, t[:refill])
            state.put(slot, fresh, np.arange(refill))
        if refill < len(done):
            keep = np.ones(len(ids), dtype=bool)
            keep[done[refill:]] = False
            if not keep.any():
                return out
            ids, now, w, value = ids[keep], now[keep], w[keep], value[keep]
            damp, age, stalled = damp[keep], age[keep], stalled[keep]
            state, trial = state.take(keep), trial.take(slice(len(ids)))
            t, u, v = t[: len(ids)], u[: len(ids)], v[: len(ids)]
