# ruff: noqa: D102  (the methods of a law are documented once, in `Law`)
"""Laws that rise from R_0 to an asymptote A by a share s(z) of the gain, z linear in log compute: `Sigmoid` and `Weibull`.

They differ in how the end is approached: the sigmoid's remaining gain falls as a power of compute, the Weibull's as a (stretched)
exponential.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scaling.law import Law

__all__ = ["Rise", "Sigmoid", "Weibull"]

Array = NDArray[np.float64]
_BOUNDS = {"asymptote": (0.0, 1.0), "r_0": (0.0, 1.0), "c_mid": (0.0, np.inf)}
_SPREAD = {"asymptote": 0.007, "r_0": 0.01, "c_mid": 0.15}


class Rise(Law):
    """R(C) = R_0 + (A - R_0) s(B (ln C - ln C_mid) + HALF), s(HALF) = 1/2; a law gives `share`, its inverse, HALF and B's name."""

    saturating: ClassVar[bool] = True
    linear: ClassVar[tuple[str, ...]] = ("asymptote", "r_0")
    starts_at_zero: ClassVar[bool] = True
    ordered: ClassVar[bool] = True
    half: ClassVar[float]  # z at half of the gain

    @staticmethod
    def share(z: Array) -> Array:
        """Share of the gain at ``z``."""
        raise NotImplementedError

    @staticmethod
    def place(share: Array) -> Array:
        """Inverse of `share`."""
        raise NotImplementedError

    @staticmethod
    def fill(z: Array, basis: Array, slope: Array) -> None:
        """Write (s, 1 - s) into ``basis`` and ds / dz into ``slope``; ``z`` is overwritten. The solver's innermost step."""
        raise NotImplementedError

    @classmethod
    def evaluate(cls, compute: Array, **parameters: Any) -> Array:
        p = parameters
        with np.errstate(divide="ignore"):
            z = p[cls.nonlinear[0]] * (np.log(compute) - np.log(p["c_mid"])) + cls.half
        return p["r_0"] + (p["asymptote"] - p["r_0"]) * cls.share(z)

    @classmethod
    def solve(cls, score: Array, **parameters: Any) -> Array:
        p = parameters
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            z = cls.place((score - p["r_0"]) / (p["asymptote"] - p["r_0"]))
            c = np.exp(np.log(p["c_mid"]) + (z - cls.half) / p[cls.nonlinear[0]])
        return np.where(score <= p["r_0"], 0.0, np.where(score >= p["asymptote"], np.inf, c))

    @classmethod
    def search_box(cls, bounds: dict[str, tuple[float, float]] | None = None) -> tuple[tuple[float, float], ...]:
        # u = (ln B, z at the centre of the window): C_mid may lie far outside the window, this does not
        low, high = (bounds or cls.bounds)[cls.nonlinear[0]]
        return (np.log(low), np.log(high)), (-8.0, 8.0)

    @classmethod
    def basis(cls, x: Array, u: Array) -> Array:
        s = cls.share(np.exp(u[:, :1]) * x + u[:, 1:])
        return np.stack([s, 1.0 - s], axis=1)

    @classmethod
    def tangent(cls, x: Array, u: Array) -> Array:
        return cls.design(x, u)[1]

    @classmethod
    def design(cls, x: Array, u: Array) -> tuple[Array, Array]:
        bx = np.exp(u[:, :1]) * x
        basis, tangent = np.empty((len(u), 2, x.size)), np.empty((len(u), 2, x.size))
        cls.fill(bx + u[:, 1:], basis, tangent[:, 1])
        np.multiply(tangent[:, 1], bx, out=tangent[:, 0])
        return basis, tangent

    @classmethod
    def amplitude(cls, coefficients: Array) -> Array:
        return coefficients[..., 0] - coefficients[..., 1]

    @classmethod
    def decode(cls, u: Array, coefficients: Array) -> dict[str, Array]:
        b = np.exp(u[..., 0])
        return {
            "asymptote": coefficients[..., 0],
            cls.nonlinear[0]: b,
            "c_mid": np.exp(np.clip((cls.half - u[..., 1]) / b, -300.0, 300.0)),
            "r_0": coefficients[..., 1],
        }

    @classmethod
    def encode(cls, parameters: dict[str, Array], x_ref: float) -> tuple[Array, Array]:
        b = np.asarray(parameters[cls.nonlinear[0]])
        z = cls.half - b * (np.log(np.maximum(parameters["c_mid"], 1e-300)) - x_ref)
        return np.stack([np.log(b), z], -1), parameters["asymptote"] - parameters["r_0"]

    @classmethod
    def rescale(cls, parameters: dict[str, Array], log_unit: float) -> dict[str, Array]:
        return {**parameters, "c_mid": parameters["c_mid"] * np.exp(log_unit)}


@dataclass(frozen=True)
class Sigmoid(Rise):
    """R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B), arXiv:2510.13786 eq. 1; the gain still missing falls as C^-B.

    Attributes:
        asymptote: A, performance at infinite compute, in [0, 1] for accuracies.
        efficiency_exponent: B > 0, steepness in log compute.
        c_mid: C_mid > 0, compute at half of the gain, unit of the axis.
        r_0: R_0, performance before training.

    Example:
        >>> law = Sigmoid(asymptote=0.61, efficiency_exponent=1.92, c_mid=2542.0, r_0=0.25)
        >>> round(float(law(2542.0)), 3)
        0.43
        >>> round(law.invert(0.43), 1)
        2542.0
        >>> law.invert(0.7)
        inf
    """

    asymptote: float
    efficiency_exponent: float
    c_mid: float
    r_0: float

    name: ClassVar[str] = "sigmoid"
    nonlinear: ClassVar[tuple[str, ...]] = ("efficiency_exponent", "c_mid")
    positive: ClassVar[tuple[str, ...]] = ("efficiency_exponent", "c_mid")
    bounds: ClassVar[dict[str, tuple[float, float]]] = {**_BOUNDS, "efficiency_exponent": (0.05, 10.0)}
    seed_spread: ClassVar[dict[str, float]] = {**_SPREAD, "efficiency_exponent": 0.15}
    half: ClassVar[float] = 0.0

    @staticmethod
    def share(z: Array) -> Array:
        return 1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0)))

    @staticmethod
    def place(share: Array) -> Array:
        return np.log(share / (1.0 - share))

    @staticmethod
    def fill(z: Array, basis: Array, slope: Array) -> None:
        np.clip(z, -500.0, 500.0, out=z)
        np.negative(z, out=z)
        np.exp(z, out=z)
        z += 1.0
        np.reciprocal(z, out=basis[:, 0])
        np.subtract(1.0, basis[:, 0], out=basis[:, 1])
        np.multiply(basis[:, 0], basis[:, 1], out=slope)


@dataclass(frozen=True)
class Weibull(Rise):
    """R(C) = A - (A - R_0) 2^-((C / C_mid)^k), the Weibull growth curve (Domhan et al. 2015, IJCAI, table 1);
    k = 1 is exponential.

    Attributes:
        asymptote: A, performance at infinite compute, in [0, 1] for accuracies.
        shape: k > 0, steepness in log compute.
        c_mid: C_mid > 0, compute at half of the gain, unit of the axis.
        r_0: R_0, performance before training.

    Example:
        >>> law = Weibull(asymptote=0.6, shape=1.0, c_mid=100.0, r_0=0.2)
        >>> [round(float(law(c)), 3) for c in (100.0, 200.0, 300.0)]
        [0.4, 0.5, 0.55]
        >>> round(law.invert(0.5), 6)
        200.0
    """

    asymptote: float
    shape: float
    c_mid: float
    r_0: float

    name: ClassVar[str] = "weibull"
    nonlinear: ClassVar[tuple[str, ...]] = ("shape", "c_mid")
    positive: ClassVar[tuple[str, ...]] = ("shape", "c_mid")
    bounds: ClassVar[dict[str, tuple[float, float]]] = {**_BOUNDS, "shape": (0.05, 10.0)}
    seed_spread: ClassVar[dict[str, float]] = {**_SPREAD, "shape": 0.15}
    half: ClassVar[float] = float(np.log(np.log(2.0)))

    @staticmethod
    def share(z: Array) -> Array:
        return -np.expm1(-np.exp(np.clip(z, -500.0, 50.0)))

    @staticmethod
    def place(share: Array) -> Array:
        return np.log(-np.log1p(-share))

    @staticmethod
    def fill(z: Array, basis: Array, slope: Array) -> None:
        np.clip(z, -500.0, 50.0, out=z)
        np.exp(z, out=z)
        np.exp(-z, out=basis[:, 1])
        np.subtract(1.0, basis[:, 1], out=basis[:, 0])
        np.multiply(z, basis[:, 1], out=slope)
