"""RL relative to pretraining, as two types that never mix: a ratio of GPU-hours and a ratio of FLOPs.

They differ by the utilisation of the two trainings. For DeepSeek-R1-Zero the first is 3.8 % and the second 0.2 to 0.5
%, so adding, comparing or converting one into the other is an error that says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scaling.errors import ScalingError

__all__ = ["FlopRatio", "GpuHourRatio"]

_WHY = (
    "a ratio of GPU-hours and a ratio of FLOPs are different quantities "
    "(DeepSeek-R1-Zero: 3.8 % of the hours, 0.2 to 0.5 % of the FLOPs)"
)


@dataclass(frozen=True, eq=False)
class _Ratio:
    rl: float
    pretraining: float

    def __post_init__(self) -> None:
        unit = type(self).unit  # type: ignore[attr-defined]
        for name, value, least in (("rl", self.rl, 0.0), ("pretraining", self.pretraining, math.ulp(0.0))):
            if not (isinstance(value, (int, float)) and least <= value < math.inf):
                need = ">= 0" if least == 0 else "> 0"
                raise ScalingError(f"{name} must be finite and {need} {unit}, got {value!r}")

    @property
    def value(self) -> float:
        """RL over pretraining [1]."""
        return self.rl / self.pretraining

    @property
    def percent(self) -> float:
        """RL over pretraining in per cent."""
        return 100 * self.value

    def _same(self, other: Any, what: str) -> Any:
        if type(other) is not type(self):
            why = _WHY if isinstance(other, _Ratio) else "take .value, and keep its name beside it"
            raise ScalingError(f"cannot {what} {type(self).__name__} and {type(other).__name__}: {why}")
        return other

    def __lt__(self, other: Any) -> bool:
        return self.value < self._same(other, "compare").value

    def __le__(self, other: Any) -> bool:
        return self.value <= self._same(other, "compare").value

    def __gt__(self, other: Any) -> bool:
        return self.value > self._same(other, "compare").value

    def __ge__(self, other: Any) -> bool:
        return self.value >= self._same(other, "compare").value

    def __eq__(self, other: object) -> bool:
        return self.value == other.value if type(other) is type(self) else NotImplemented  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.value))

    def __add__(self, other: Any) -> Any:
        other = self._same(other, "add")
        if other.pretraining != self.pretraining:
            raise ScalingError(
                f"ratios add only over one pretraining, got {self.pretraining:.4g} and {other.pretraining:.4g}"
            )
        return self._plus(other)

    def _plus(self, other: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class GpuHourRatio(_Ratio):
    """GPU-hours of RL over GPU-hours of pretraining, on the same kind of chip.

    Attributes:
        rl: GPU-hours of RL [GPU h].
        pretraining: GPU-hours of pretraining [GPU h].
        chip: the accelerator of both.

    Example:
        >>> GpuHourRatio(100_000, 2_664_000, chip="H800")
        3.754 % of the pretraining GPU-hours (100,000 / 2,664,000 H800 h)
    """

    chip: str = ""
    unit = "GPU h"

    def _plus(self, other: GpuHourRatio) -> GpuHourRatio:
        if other.chip != self.chip:
            raise ScalingError(f"GPU-hours add only on one chip, got {self.chip or '?'} and {other.chip or '?'}")
        return GpuHourRatio(self.rl + other.rl, self.pretraining, self.chip)

    def __repr__(self) -> str:
        chip = f"{self.chip} " if self.chip else ""
        return f"{self.percent:.3f} % of the pretraining GPU-hours ({self.rl:,.0f} / {self.pretraining:,.0f} {chip}h)"


@dataclass(frozen=True, eq=False)
class FlopRatio(_Ratio):
    """FLOPs of RL over FLOPs of pretraining.

    Attributes:
        rl: FLOPs of RL [FLOP].
        pretraining: FLOPs of pretraining [FLOP].
        rl_low: the least that the assumptions allow [FLOP]; ``rl`` where there is no range.
        rl_high: the most that they allow [FLOP].
        basis: how both were counted, e.g. ``10NT / 6ND``.

    Example:
        >>> FlopRatio(1.271e22, 3.286e24, rl_low=6.49e21, rl_high=1.753e22, basis="10NT / 6ND")
        0.39 % of the pretraining FLOPs (0.20 to 0.53 %; 10NT / 6ND)
    """

    rl_low: float | None = None
    rl_high: float | None = None
    basis: str = ""
    unit = "FLOP"

    def __post_init__(self) -> None:
        super().__post_init__()
        low = self.rl if self.rl_low is None else self.rl_low
        high = self.rl if self.rl_high is None else self.rl_high
        if not 0 <= low <= self.rl <= high:
            raise ScalingError(f"rl must lie within rl_low..rl_high, got {low:.4g} <= {self.rl:.4g} <= {high:.4g} FLOP")
        object.__setattr__(self, "rl_low", low)
        object.__setattr__(self, "rl_high", high)

    @property
    def low(self) -> float:
        """The least ratio that the assumptions allow [1]."""
        return (self.rl if self.rl_low is None else self.rl_low) / self.pretraining

    @property
    def high(self) -> float:
        """The largest ratio that the assumptions allow [1]."""
        return (self.rl if self.rl_high is None else self.rl_high) / self.pretraining

    def _plus(self, other: FlopRatio) -> FlopRatio:
        if other.basis != self.basis:
            raise ScalingError(f"FLOP ratios add only if counted alike, got {self.basis!r} and {other.basis!r}")
        pre = self.pretraining
        return FlopRatio(
            self.rl + other.rl, pre, (self.low + other.low) * pre, (self.high + other.high) * pre, self.basis
        )

    def __repr__(self) -> str:
        span = f"{100 * self.low:.2f} to {100 * self.high:.2f} %" if self.low < self.high else ""
        notes = "; ".join(filter(None, (span, self.basis)))
        return f"{self.percent:.2g} % of the pretraining FLOPs" + (f" ({notes})" if notes else "")
