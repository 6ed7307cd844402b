"""`Forecast`: a band of future performance, and the estimands it can be about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.words import percent

__all__ = ["Forecast", "Reach"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Forecast:
    """Forecast of performance at given compute.

    Attributes:
        compute: where, shape ``(n,)``, unit of ``axis``.
        median: median over draws, shape ``(n,)``.
        low: lower end of the band, shape ``(n,)``.
        high: upper end of the band, shape ``(n,)``.
        level: nominal coverage of the band, pointwise.
        axis: the compute axis.
        of: ``"benchmark"`` (these very items) or ``"population"`` (all items the benchmark is a sample of).
        noise: ``"curve"`` (the law and the drift about it) or ``"observation"`` (one evaluation).
        note: how the item error was found, or empty.

    Example:
        >>> band = Forecast(np.array([400.0]), np.array([0.6]), np.array([0.58]), np.array([0.63]), level=0.9, axis="gpu_hours")
        >>> band
        Forecast(90% band of the benchmark curve on gpu_hours: 400: 0.600 [0.580, 0.630])
    """

    compute: Array
    median: Array
    low: Array
    high: Array
    level: float
    axis: str
    of: str = "benchmark"
    noise: str = "curve"
    note: str = ""

    def __repr__(self) -> str:
        rows = ", ".join(
            f"{c:.4g}: {m:.3f} [{a:.3f}, {b:.3f}]" for c, m, a, b in zip(self.compute, self.median, self.low, self.high)
        )
        return f"Forecast({percent(self.level)} band of the {self.of} {self.noise} on {self.axis}: {rows})"


@dataclass(frozen=True)
class Reach:
    """Compute at which a score is reached.

    Attributes:
        score: the score asked for.
        median: median compute over draws, ``inf`` when more than half of them never reach it.
        low: lower end of the interval, unit of ``axis``.
        high: upper end, ``inf`` when the chance of "never" is above (1 - level) / 2.
        level: nominal coverage.
        never: probability that no compute reaches the score.
        axis: the compute axis.

    Example:
        >>> Reach(score=0.6, median=400.0, low=300.0, high=float("inf"), level=0.9, never=0.12, axis="gpu_hours")
        Reach(score=0.6: 400 [300, inf] gpu_hours at 90%, P(never)=0.12)
    """

    score: float
    median: float
    low: float
    high: float
    level: float
    never: float
    axis: str

    def __repr__(self) -> str:
        return (
            f"Reach(score={self.score:g}: {self.median:.4g} [{self.low:.4g}, {self.high:.4g}] {self.axis} at {percent(self.level)}, "
            f"P(never)={self.never:.2f})"
        )
