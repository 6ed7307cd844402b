"""The joint laws over model sizes: score against RL compute C and parameters N, and their batched least squares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import ScalingError
from scaling.pretraining._joint_data import JointData

__all__ = ["JOINT_LAWS", "JointLogLinear", "JointSigmoid"]

Array = NDArray[np.float64]
_ITERATIONS, _TOLERANCE = 60, 1e-10


@dataclass(frozen=True)
class JointLogLinear:
    """ln L(N, C) = -k(N) ln C + E(N), k(N) = K_max / (1 + N_0 / N), L = 1 - score (arXiv:2509.25300, eqs. 1 and 2).

    Attributes:
        k_max: K_max, the exponent that an infinitely large model approaches [1].
        n_0: N_0, the size whose exponent is half of it [parameters].
        intercepts: E(N) of each fitted size [ln of the loss at compute 1], by parameters.

    Example:
        >>> law = JointLogLinear(k_max=0.152, n_0=17.4e9, intercepts={})
        >>> round(law.exponent(17.4e9), 3)
        0.076
    """

    k_max: float
    n_0: float
    intercepts: dict[float, float] = field(default_factory=dict)

    name: ClassVar[str] = "log_linear"
    parameters: ClassVar[tuple[str, ...]] = ("k_max", "n_0")
    needs_positive: ClassVar[bool] = True
    shared: ClassVar[int] = 2

    def exponent(self, params: float) -> float:
        """k(N), the exponent of the loss in compute [1]."""
        return self.k_max / (1 + self.n_0 / params)

    def __call__(self, params: float, compute: ArrayLike) -> Array:
        """Score of a fitted size at ``compute``; another size has no E(N), use `JointFit.forecast`."""
        if float(params) not in self.intercepts:
            raise ScalingError(
                f"E(N) is fitted for {', '.join(f'{n:g}' for n in self.intercepts)} only, got {params:g}"
            )
        x = np.log(np.asarray(compute, dtype=float))
        return 1 - np.exp(self.intercepts[float(params)] - self.exponent(params) * x)

    # -- the search: theta = (ln K_max, ln N_0), shape (batch, 2) ----------------------------------------------------

    @staticmethod
    def limits(data: JointData) -> Array:
        """(low, high) of each search coordinate."""
        n = np.log(data.params)
        return np.array([[np.log(1e-4), np.log(20.0)], [n[0] - 6.0, n[-1] + 6.0]])

    @staticmethod
    def starts(data: JointData) -> Array:
        """Starting points."""
        n = np.log(data.params)
        grid = np.meshgrid(np.log([0.03, 0.1, 0.3, 1.0]), np.linspace(n[0] - 1, n[-1] + 1, 5), indexing="ij")
        return np.stack([g.ravel() for g in grid], axis=1)

    @staticmethod
    def local(theta: Array, data: JointData) -> Array:
        """What the law says of each size, shape ``(batch, n_sizes, 1)``: the exponent k."""
        return (np.exp(theta[:, :1]) / (1 + np.exp(theta[:, 1:2]) / data.params))[:, :, None]

    @staticmethod
    def parts(local: Array, theta: Array, data: JointData, score: Array) -> tuple[Array, Array]:
        """Fitted score ``(batch, n_sizes, n_points)`` and the profiled ln loss at x_ref ``(batch, n_sizes)``."""
        x = data.centred
        z = np.exp(-np.clip(local * x, -50, 50)) * data.weight
        loss = (1 - score) * data.weight
        amplitude = np.maximum(np.sum(z * loss, axis=2) / np.sum(z * z, axis=2), 1e-12)
        return 1 - amplitude[:, :, None] * z, np.log(amplitude)

    @staticmethod
    def decode(theta: Array, profiled: Array, data: JointData) -> dict[str, Array]:
        """Published parameters by name, each ``(batch,)``, and what profiles out."""
        return {"k_max": np.exp(theta[:, 0]), "n_0": np.exp(theta[:, 1])}

    @classmethod
    def build(cls, theta: Array, profiled: Array, data: JointData) -> JointLogLinear:
        """The law of one row."""
        k_max, n_0 = float(np.exp(theta[0])), float(np.exp(theta[1]))
        k = k_max / (1 + n_0 / data.params)
        e = profiled + k * data.reference
        return cls(k_max, n_0, {float(n): float(v) for n, v in zip(data.params, e)})

    @staticmethod
    def local_at(theta: Array, data: JointData, params: float) -> Array:
        """`local` of any size, shape ``(batch, 1)``."""
        return np.exp(theta[:, :1]) / (1 + np.exp(theta[:, 1:2]) / params)

    @staticmethod
    def predict(local: Array, theta: Array, level: Array, data: JointData, compute: Array) -> Array:
        """Score ``(batch, n_compute)`` of a size with these ``local`` parameters and this level."""
        return 1 - np.exp(level[:, None] - local * (np.log(compute) - data.reference))

    @staticmethod
    def through(local: Array, theta: Array, data: JointData, compute: float, score: float) -> Array:
        """The level, ``(batch,)``, that passes through one measured point."""
        return np.log(max(1 - score, 1e-9)) + local[:, 0] * (np.log(compute) - data.reference)

    @staticmethod
    def link(level: Array) -> Array:
        """The scale on which levels are a straight line in ln N."""
        return level

    unlink = link


@dataclass(frozen=True)
class JointSigmoid:
    """R(N, C) = R_0(N) + (A(N) - R_0(N)) / (1 + (C_mid(N) / C)^B), smooth in ln N, one B for all sizes.

    The sigmoid is arXiv:2510.13786 eq. 1; ``logit A`` and ``ln C_mid`` are straight lines in ``ln(N / N_ref)``.

    Attributes:
        efficiency_exponent: B, shared by all sizes [1].
        logit_asymptote: (value at N_ref, slope per e-fold of N).
        log_c_mid: (value at N_ref [ln of the axis' unit], slope per e-fold of N).
        n_ref: N_ref, geometric mean of the sizes [parameters].
        r_0: score before RL of each fitted size, by parameters.
    """

    efficiency_exponent: float
    logit_asymptote: tuple[float, float]
    log_c_mid: tuple[float, float]
    n_ref: float
    r_0: dict[float, float] = field(default_factory=dict)

    name: ClassVar[str] = "sigmoid"
    parameters: ClassVar[tuple[str, ...]] = ("efficiency_exponent", "asymptote_slope", "c_mid_slope")
    needs_positive: ClassVar[bool] = False
    shared: ClassVar[int] = 5

    def asymptote(self, params: float) -> float:
        """A(N), score at infinite RL compute [1]."""
        return float(_expit(self.logit_asymptote[0] + self.logit_asymptote[1] * np.log(params / self.n_ref)))

    def c_mid(self, params: float) -> float:
        """C_mid(N), compute at half of the gain [unit of the axis]."""
        return float(np.exp(self.log_c_mid[0] + self.log_c_mid[1] * np.log(params / self.n_ref)))

    def __call__(self, params: float, compute: ArrayLike) -> Array:
        """Score of a fitted size at ``compute``; another size has no R_0(N), use `JointFit.forecast`."""
        if float(params) not in self.r_0:
            raise ScalingError(f"R_0(N) is fitted for {', '.join(f'{n:g}' for n in self.r_0)} only, got {params:g}")
        with np.errstate(divide="ignore"):
            s = _expit(self.efficiency_exponent * (np.log(np.asarray(compute, float)) - np.log(self.c_mid(params))))
        r_0 = self.r_0[float(params)]
        return r_0 + (self.asymptote(params) - r_0) * s

    # -- the search: theta = (logit A, its slope, ln C_mid - x_ref, its slope, ln B), shape (batch, 5) --------------

    @staticmethod
    def limits(data: JointData) -> Array:
        """(low, high) of each search coordinate."""
        return np.array([[-6.0, 6.0], [-4.0, 4.0], [-12.0, 12.0], [-6.0, 6.0], [np.log(0.1), np.log(10.0)]])

    @staticmethod
    def starts(data: JointData) -> Array:
        """Starting points."""
        top = np.max(np.where(data.weight > 0, data.score, -np.inf), axis=1)
        target = np.log(np.clip(top * 1.05, 0.02, 0.98)) - np.log1p(-np.clip(top * 1.05, 0.02, 0.98))
        slope, level = np.polyfit(_log_sizes(data), target, 1)
        return np.array(
            [
                [level + more, slope, mid, c, b]
                for more in (0.0, 0.7)
                for mid in (-2.5, 0.0, 2.5)
                for c in (-1.0, 0.0, 1.0)
                for b in (-0.7, 0.0, 0.6)
            ]
        )

    @staticmethod
    def local(theta: Array, data: JointData) -> Array:
        """What the law says of each size, shape ``(batch, n_sizes, 2)``: logit A and ln C_mid - x_ref."""
        n = _log_sizes(data)
        return np.stack([theta[:, :1] + theta[:, 1:2] * n, theta[:, 2:3] + theta[:, 3:4] * n], axis=2)

    @staticmethod
    def parts(local: Array, theta: Array, data: JointData, score: Array) -> tuple[Array, Array]:
        """Fitted score ``(batch, n_sizes, n_points)`` and the profiled R_0 ``(batch, n_sizes)``."""
        a, s = _sigmoid(local, theta, data.centred)
        rest = (1 - s) * data.weight
        r_0 = np.sum(rest * (score - a[:, :, None] * s), axis=2) / np.maximum(np.sum(rest * rest, axis=2), 1e-9)
        r_0 = np.clip(r_0, 0.0, 1.0)
        return a[:, :, None] * s + r_0[:, :, None] * (1 - s), r_0

    @staticmethod
    def decode(theta: Array, profiled: Array, data: JointData) -> dict[str, Array]:
        """Published parameters by name, each ``(batch,)``."""
        out = {"efficiency_exponent": np.exp(theta[:, 4]), "asymptote_slope": theta[:, 1], "c_mid_slope": theta[:, 3]}
        for i, n in enumerate(_log_sizes(data)):
            out[f"asymptote@{data.params[i]:g}"] = _expit(theta[:, 0] + theta[:, 1] * n)
            out[f"c_mid@{data.params[i]:g}"] = np.exp(theta[:, 2] + theta[:, 3] * n + data.reference)
        return out

    @classmethod
    def build(cls, theta: Array, profiled: Array, data: JointData) -> JointSigmoid:
        """The law of one row."""
        return cls(
            efficiency_exponent=float(np.exp(theta[4])),
            logit_asymptote=(float(theta[0]), float(theta[1])),
            log_c_mid=(float(theta[2] + data.reference), float(theta[3])),
            n_ref=float(np.exp(np.mean(np.log(data.params)))),
            r_0={float(n): float(v) for n, v in zip(data.params, profiled)},
        )

    @staticmethod
    def local_at(theta: Array, data: JointData, params: float) -> Array:
        """`local` of any size, shape ``(batch, 2)``."""
        n = np.log(params) - np.mean(np.log(data.params))
        return np.stack([theta[:, 0] + theta[:, 1] * n, theta[:, 2] + theta[:, 3] * n], axis=1)

    @staticmethod
    def predict(local: Array, theta: Array, level: Array, data: JointData, compute: Array) -> Array:
        """Score ``(batch, n_compute)`` of a size with these ``local`` parameters and this R_0."""
        with np.errstate(divide="ignore"):
            x = (np.log(compute) - data.reference)[None, :]
        a, s = _sigmoid(local[:, None, :], theta, x)
        r_0 = np.clip(level, 0.0, 1.0)[:, None]
        return r_0 + (a - r_0) * s[:, 0, :]

    @staticmethod
    def through(local: Array, theta: Array, data: JointData, compute: float, score: float) -> Array:
        """The R_0, ``(batch,)``, that passes through one measured point."""
        with np.errstate(divide="ignore"):
            x = np.array([[np.log(compute) - data.reference]])
        a, s = _sigmoid(local[:, None, :], theta, x)
        share = s[:, 0, 0]
        return (score - a[:, 0] * share) / np.maximum(1 - share, 1e-3)

    @staticmethod
    def link(level: Array) -> Array:
        """The scale on which levels are a straight line in ln N."""
        safe = np.clip(level, 1e-3, 1 - 1e-3)
        return np.log(safe) - np.log1p(-safe)

    @staticmethod
    def unlink(value: Array) -> Array:
        """Inverse of `link`."""
        return _expit(value)


def _sigmoid(local: Array, theta: Array, x: Array) -> tuple[Array, Array]:
    """A ``(batch, n_sizes)`` and the share of the gain reached ``(batch, n_sizes, n_points)``."""
    return _expit(local[:, :, 0]), _expit(np.exp(theta[:, 4])[:, None, None] * (x - local[:, :, 1:2]))


JOINT_LAWS: dict[str, Any] = {law.name: law for law in (JointLogLinear, JointSigmoid)}


def least_squares(law: Any, data: JointData, score: Array, theta: Array) -> tuple[Array, Array]:
    """Levenberg-Marquardt on the score for a batch, each from its own start; profiled amplitudes are solved inside.

    Args:
        law: one of `JOINT_LAWS`.
        data: sizes and compute.
        score: scores to fit, shape ``(batch, n_sizes, n_points)`` or ``(1, ...)``.
        theta: starts, shape ``(batch, q)``.

    Returns:
        theta ``(batch, q)`` and the residual sum of squares ``(batch,)``.
    """
    limits = law.limits(data)
    theta = np.clip(theta, limits[:, 0], limits[:, 1])
    score = np.broadcast_to(score, (len(theta), *score.shape[1:]))
    damping = np.full(len(theta), 1e-3)
    residual = _residual(law, data, score, theta)
    cost = np.sum(residual**2, axis=1)
    active = np.ones(len(theta), dtype=bool)
    for _ in range(_ITERATIONS):
        rows = np.flatnonzero(active)
        if not rows.size:
            break
        base, r = theta[rows], residual[rows]
        jacobian = np.empty((rows.size, r.shape[1], theta.shape[1]))
        for q in range(theta.shape[1]):
            step = base.copy()
            # away from the bound, so that the difference is not zero there
            h = np.where(base[:, q] + 1e-5 > limits[q, 1], -1e-5, 1e-5)
            step[:, q] += h
            jacobian[:, :, q] = (_residual(law, data, score[rows], step) - r) / h[:, None]
        across = jacobian.transpose(0, 2, 1)
        normal, gradient = across @ jacobian, (across @ r[:, :, None])[:, :, 0]
        diagonal = np.maximum(np.einsum("bpp->bp", normal), 1e-12)
        damped = normal + np.einsum("bp,pq->bpq", damping[rows, None] * diagonal + 1e-14, np.eye(theta.shape[1]))
        trial = np.clip(base - np.linalg.solve(damped, gradient[:, :, None])[:, :, 0], limits[:, 0], limits[:, 1])
        new = _residual(law, data, score[rows], trial)
        new_cost = np.sum(new**2, axis=1)
        better = new_cost < cost[rows]
        gain = (cost[rows] - new_cost) / np.maximum(cost[rows], 1e-300)
        accepted = rows[better]
        theta[accepted], residual[accepted], cost[accepted] = trial[better], new[better], new_cost[better]
        damping[rows] = np.where(better, np.maximum(damping[rows] / 5, 1e-9), damping[rows] * 4)
        done = (better & (gain < _TOLERANCE)) | (~better & (damping[rows] > 1e8))
        active[rows[done]] = False
    return theta, cost


def _residual(law: Any, data: JointData, score: Array, theta: Array) -> Array:
    fitted, _ = law.parts(law.local(theta, data), theta, data, score)
    return ((fitted - score) * data.weight).reshape(len(theta), -1)


def _log_sizes(data: JointData) -> Array:
    return np.log(data.params) - float(np.mean(np.log(data.params)))


def _expit(z: ArrayLike) -> Array:
    return 1 / (1 + np.exp(-np.clip(z, -500, 500)))
