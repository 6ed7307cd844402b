"""`Law`: what all functional forms share, and what the solver asks of them."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import ScalingError

__all__ = ["FAR", "Law"]

Array = NDArray[np.float64]
FAR = 1e4  # stands for |ln C| = infinity (compute 0) in the search, so that no inf * 0 arises


class Law:
    """What all laws share. Instances hold one set of parameters; the class methods work on many at once.

    Attributes:
        name: the key in `LAWS` and in ``fit(..., law=name)``.
        saturating: whether the law has an asymptote.
        nonlinear: names of the parameters that are searched.
        linear: names of the coefficients of `basis`, solved in closed form.
        bounds: parameter -> (low, high) within which fits look.
        starts_at_zero: whether the law is finite at zero compute.
        ordered: whether the second coefficient stays below the first (R_0 below A: a law of growth).
        seed_spread: parameter -> typical seed-to-seed standard deviation (of its logarithm for `positive` ones), the scale of
            its prior when several seeds are fitted.
        positive: parameters that vary by factors.

    Example:
        >>> from scaling.laws import LAWS
        >>> sorted(name for name, law in LAWS.items() if law.saturating)
        ['power', 'sigmoid', 'weibull']
        >>> law = LAWS["power"](asymptote=0.7, efficiency_exponent=0.5, scale=1.0)
        >>> round(float(law(25.0)), 6), round(law.invert(0.5), 6)
        (0.5, 25.0)
    """

    name: ClassVar[str]
    saturating: ClassVar[bool] = False
    nonlinear: ClassVar[tuple[str, ...]] = ()
    linear: ClassVar[tuple[str, ...]] = ()
    bounds: ClassVar[dict[str, tuple[float, float]]] = {}
    starts_at_zero: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    seed_spread: ClassVar[dict[str, float]] = {}
    positive: ClassVar[tuple[str, ...]] = ()

    def __call__(self, compute: ArrayLike) -> Array:
        """Performance at ``compute``, shape of ``compute``."""
        c = np.asarray(compute, dtype=float)
        if np.any(c < 0) or np.any(np.isnan(c)):
            raise ScalingError(f"compute must be >= 0 to evaluate a law, got {np.min(c):g}")
        return np.asarray(self.evaluate(c, **self.parameters))

    def invert(self, score: float) -> float:
        """Compute at which the law first reaches ``score``; ``inf`` if it never does, 0 if it starts above."""
        return float(self.solve(np.asarray(float(score)), **self.parameters))

    @property
    def parameters(self) -> dict[str, float]:
        """Parameter name -> value."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """Names of all parameters in the order of the constructor."""
        return tuple(f.name for f in fields(cls))  # type: ignore[arg-type]

    # ---- to be given by each law -------------------------------------------------------------------------------------
    @staticmethod
    def evaluate(compute: Array, **parameters: Any) -> Array:
        """Performance for broadcast ``compute`` and parameters."""
        raise NotImplementedError

    @staticmethod
    def solve(score: Array, **parameters: Any) -> Array:
        """Compute for broadcast ``score`` and parameters."""
        raise NotImplementedError

    @classmethod
    def search_box(cls, bounds: dict[str, tuple[float, float]] | None = None) -> tuple[tuple[float, float], ...]:
        """(low, high) of each search coordinate; ``bounds`` replace those of the law."""
        return ()

    @classmethod
    def basis(cls, x: Array, u: Array) -> Array:
        """Columns of the linear part, shape ``(g, len(linear), n)``, for search coordinates ``u`` of shape ``(g, q)``."""
        raise NotImplementedError

    @classmethod
    def offset(cls, x: Array, u: Array) -> float:
        """The part of the law without a coefficient."""
        return 0.0

    @classmethod
    def tangent(cls, x: Array, u: Array) -> Array:
        """D law / d u at amplitude 1, shape ``(g, q, n)``; multiply by `amplitude`."""
        return np.zeros((len(u), 0, x.size))

    @classmethod
    def design(cls, x: Array, u: Array) -> tuple[Array, Array]:
        """`basis` and `tangent` at once."""
        return cls.basis(x, u), cls.tangent(x, u)

    @classmethod
    def amplitude(cls, coefficients: Array) -> Array:
        """The factor of `tangent`, from coefficients of shape ``(..., len(linear))``."""
        return np.ones(coefficients.shape[:-1])

    @classmethod
    def decode(cls, u: Array, coefficients: Array) -> dict[str, Array]:
        """Parameters from search coordinates and coefficients, compute in units of the window's centre."""
        raise NotImplementedError

    @classmethod
    def encode(cls, parameters: dict[str, Array], x_ref: float) -> tuple[Array, Array]:
        """Search coordinates and amplitude of parameters; the inverse of `decode` in a window centred at ``x_ref``."""
        raise NotImplementedError

    @classmethod
    def rescale(cls, parameters: dict[str, Array], log_unit: float) -> dict[str, Array]:
        """Parameters after all compute is multiplied by ``exp(log_unit)``."""
        return parameters
