# ruff: noqa: D102  (the methods of a law are documented once, in `Law`)
"""Functional forms of performance against compute: frozen dataclasses that evaluate and invert themselves.

Every law is *separable*: given its non-linear parameters it is linear in the rest, which is what the solver
(`scaling.fitting.solver`) and the posterior (`scaling.fitting.posterior`) are built on. A new law is a frozen dataclass with
`evaluate`, `solve` and the four class methods of the search (`search_box`, `basis`, `tangent`, `decode`), registered by
adding it to `LAWS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UnknownName
from scaling.law import Law
from scaling.rise import Sigmoid, Weibull

__all__ = ["LAWS", "Constant", "Law", "LinearLog", "LogLinear", "Power", "Sigmoid", "Weibull", "law_named"]

Array = NDArray[np.float64]


def _log(compute: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(compute)


@dataclass(frozen=True)
class Power(Law):
    """R(C) = A - D / C^B, the large-compute limit of `Sigmoid` with D = (A - R_0) C_mid^B.

    Attributes:
        asymptote: A, performance at infinite compute.
        efficiency_exponent: B > 0.
        scale: D >= 0, unit of the axis to the power B.

    Example:
        >>> law = Power(asymptote=0.6, efficiency_exponent=0.5, scale=2.0)
        >>> float(law(100.0)), round(law.invert(0.4), 6)
        (0.4, 100.0)
    """

    asymptote: float
    efficiency_exponent: float
    scale: float

    name: ClassVar[str] = "power"
    saturating: ClassVar[bool] = True
    nonlinear: ClassVar[tuple[str, ...]] = ("efficiency_exponent",)
    linear: ClassVar[tuple[str, ...]] = ("asymptote", "scale")
    bounds: ClassVar[dict[str, tuple[float, float]]] = {
        "asymptote": (0.0, 1.0),
        "scale": (0.0, np.inf),
        "efficiency_exponent": (0.02, 3.0),
    }
    seed_spread: ClassVar[dict[str, float]] = {"asymptote": 0.007, "efficiency_exponent": 0.15, "scale": 0.1}
    positive: ClassVar[tuple[str, ...]] = ("efficiency_exponent", "scale")

    @staticmethod
    def evaluate(compute: Array, *, asymptote: Any, efficiency_exponent: Any, scale: Any) -> Array:
        with np.errstate(divide="ignore", over="ignore"):
            return asymptote - np.exp(np.log(scale) - efficiency_exponent * _log(compute))

    @staticmethod
    def solve(score: Array, *, asymptote: Any, efficiency_exponent: Any, scale: Any) -> Array:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            c = np.exp((np.log(scale) - np.log(asymptote - score)) / efficiency_exponent)
        return np.where(score >= asymptote, np.inf, c)

    @classmethod
    def search_box(cls, bounds: dict[str, tuple[float, float]] | None = None) -> tuple[tuple[float, float], ...]:
        low, high = (bounds or cls.bounds)["efficiency_exponent"]
        return ((np.log(low), np.log(high)),)

    @classmethod
    def basis(cls, x: Array, u: Array) -> Array:
        p = np.exp(-np.clip(np.exp(u[:, :1]) * x, -300.0, 300.0))
        return np.stack([np.ones_like(p), -p], axis=1)

    @classmethod
    def tangent(cls, x: Array, u: Array) -> Array:
        bx = np.clip(np.exp(u[:, :1]) * x, -300.0, 300.0)
        return (bx * np.exp(-bx))[:, None, :]

    @classmethod
    def amplitude(cls, coefficients: Array) -> Array:
        return coefficients[..., 1]

    @classmethod
    def decode(cls, u: Array, coefficients: Array) -> dict[str, Array]:
        b = np.exp(u[..., 0])
        return {"asymptote": coefficients[..., 0], "efficiency_exponent": b, "scale": coefficients[..., 1]}

    @classmethod
    def encode(cls, parameters: dict[str, Array], x_ref: float) -> tuple[Array, Array]:
        b = np.asarray(parameters["efficiency_exponent"])
        return np.log(b)[..., None], parameters["scale"] * np.exp(-b * x_ref)

    @classmethod
    def rescale(cls, parameters: dict[str, Array], log_unit: float) -> dict[str, Array]:
        return {**parameters, "scale": parameters["scale"] * np.exp(parameters["efficiency_exponent"] * log_unit)}


@dataclass(frozen=True)
class LogLinear(Law):
    """ln(1 - R) = log_error - exponent * ln C, the error falling as a power of compute (arXiv:2509.25300 eq. 1).

    Attributes:
        log_error: ln(1 - R) at one unit of compute.
        exponent: k >= 0.

    Example:
        >>> law = LogLinear(log_error=0.0, exponent=0.1)
        >>> round(float(law(1000.0)), 3)
        0.499
    """

    log_error: float
    exponent: float

    name: ClassVar[str] = "log_linear"
    nonlinear: ClassVar[tuple[str, ...]] = ("exponent",)
    linear: ClassVar[tuple[str, ...]] = ("log_error",)
    bounds: ClassVar[dict[str, tuple[float, float]]] = {
        "log_error": (0.0, np.inf),
        "exponent": (1e-4, 5.0),
    }  # of exp(log_error)
    seed_spread: ClassVar[dict[str, float]] = {"log_error": 0.03, "exponent": 0.1}
    positive: ClassVar[tuple[str, ...]] = ("exponent",)

    @staticmethod
    def evaluate(compute: Array, *, log_error: Any, exponent: Any) -> Array:
        with np.errstate(over="ignore"):
            return 1.0 - np.exp(log_error - exponent * _log(compute))

    @staticmethod
    def solve(score: Array, *, log_error: Any, exponent: Any) -> Array:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            c = np.exp((log_error - np.log(1.0 - score)) / exponent)
        return np.where(score >= 1.0, np.inf, c)

    @classmethod
    def search_box(cls, bounds: dict[str, tuple[float, float]] | None = None) -> tuple[tuple[float, float], ...]:
        low, high = (bounds or cls.bounds)["exponent"]
        return ((np.log(low), np.log(high)),)

    @classmethod
    def basis(cls, x: Array, u: Array) -> Array:
        return -np.exp(-np.clip(np.exp(u[:, :1]) * x, -300.0, 300.0))[:, None, :]

    @classmethod
    def offset(cls, x: Array, u: Array) -> float:
        return 1.0

    @classmethod
    def tangent(cls, x: Array, u: Array) -> Array:
        bx = np.clip(np.exp(u[:, :1]) * x, -300.0, 300.0)
        return (bx * np.exp(-bx))[:, None, :]

    @classmethod
    def amplitude(cls, coefficients: Array) -> Array:
        return coefficients[..., 0]

    @classmethod
    def decode(cls, u: Array, coefficients: Array) -> dict[str, Array]:
        return {"log_error": np.log(np.maximum(coefficients[..., 0], 1e-300)), "exponent": np.exp(u[..., 0])}

    @classmethod
    def rescale(cls, parameters: dict[str, Array], log_unit: float) -> dict[str, Array]:
        return {**parameters, "log_error": parameters["log_error"] + parameters["exponent"] * log_unit}


@dataclass(frozen=True)
class LinearLog(Law):
    """R = intercept + slope * ln C, the early part of a sigmoid (arXiv:2607.16097 eq. 2); has no asymptote.

    Attributes:
        intercept: R at one unit of compute.
        slope: gain per factor e of compute.

    Example:
        >>> law = LinearLog(intercept=0.1, slope=0.05)
        >>> round(law.invert(0.2), 3)
        7.389
    """

    intercept: float
    slope: float

    name: ClassVar[str] = "linear_log"
    linear: ClassVar[tuple[str, ...]] = ("slope", "intercept")
    bounds: ClassVar[dict[str, tuple[float, float]]] = {"intercept": (-np.inf, np.inf), "slope": (-np.inf, np.inf)}
    seed_spread: ClassVar[dict[str, float]] = {"intercept": 0.015, "slope": 0.005}

    @staticmethod
    def evaluate(compute: Array, *, intercept: Any, slope: Any) -> Array:
        return intercept + slope * _log(compute)

    @staticmethod
    def solve(score: Array, *, intercept: Any, slope: Any) -> Array:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            c = np.exp((score - intercept) / slope)
        return np.where(np.asarray(slope) <= 0, np.inf, c)

    @classmethod
    def basis(cls, x: Array, u: Array) -> Array:
        return np.broadcast_to(np.stack([x, np.ones_like(x)]), (len(u), 2, x.size))

    @classmethod
    def decode(cls, u: Array, coefficients: Array) -> dict[str, Array]:
        return {"intercept": coefficients[..., 1], "slope": coefficients[..., 0]}

    @classmethod
    def rescale(cls, parameters: dict[str, Array], log_unit: float) -> dict[str, Array]:
        return {**parameters, "intercept": parameters["intercept"] - parameters["slope"] * log_unit}


@dataclass(frozen=True)
class Constant(Law):
    """R = level: nothing is gained. The baseline every other law has to beat.

    Attributes:
        level: the score at any compute.

    Example:
        >>> float(Constant(level=0.3)(10.0))
        0.3
    """

    level: float

    name: ClassVar[str] = "constant"
    linear: ClassVar[tuple[str, ...]] = ("level",)
    bounds: ClassVar[dict[str, tuple[float, float]]] = {"level": (-np.inf, np.inf)}
    starts_at_zero: ClassVar[bool] = True
    seed_spread: ClassVar[dict[str, float]] = {"level": 0.015}

    @staticmethod
    def evaluate(compute: Array, *, level: Any) -> Array:
        return level + np.zeros_like(compute, dtype=float)

    @staticmethod
    def solve(score: Array, *, level: Any) -> Array:
        return np.where(score <= np.asarray(level), 0.0, np.inf)

    @classmethod
    def basis(cls, x: Array, u: Array) -> Array:
        return np.ones((len(u), 1, x.size))

    @classmethod
    def decode(cls, u: Array, coefficients: Array) -> dict[str, Array]:
        return {"level": coefficients[..., 0]}


LAWS: dict[str, type[Law]] = {law.name: law for law in (Sigmoid, Weibull, Power, LogLinear, LinearLog, Constant)}


def law_named(name: str | type[Law]) -> type[Law]:
    """The law class of a name such as ``"sigmoid"`` (class names work too).

    Raises:
        UnknownName: no such law.

    Example:
        >>> law_named("sigmoid").saturating, law_named("linear_log").saturating
        (True, False)
    """
    if isinstance(name, type) and issubclass(name, Law):
        return name
    key = str(name)
    for law in LAWS.values():
        if key in (law.name, law.__name__):
            return law
    raise UnknownName(f"law must be 'ensemble' or one of {', '.join(LAWS)}, got {key!r}")
