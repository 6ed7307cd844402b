"""The verdict: does this curve determine its asymptote?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.draws import quantile
from scaling.fitting.status import Status
from scaling.laws import LAWS

__all__ = ["Verdict", "judge"]

MAX_WIDTH = 0.08
MAX_RIVAL = 0.05


@dataclass(frozen=True)
class Verdict:
    """Outcome with its reasons."""

    status: Status
    message: str


def judge(draws: NDArray[Any], weights: dict[str, float], *, level: float = 0.9) -> Verdict:
    """Judge the draws of a fit."""
    saturating = np.isin(draws["law"], [k for k, law in LAWS.items() if law.saturating])
    if not saturating.any():
        return Verdict(Status.NO_ASYMPTOTE, "only saturating laws (sigmoid, power) have an asymptote")
    low, high = quantile(draws["asymptote"][saturating], [(1 - level) / 2, (1 + level) / 2])
    rival = 1.0 - sum(w for k, w in weights.items() if LAWS[k].saturating)
    reasons = []
    if high - low > MAX_WIDTH:
        reasons.append(f"its {level:.0%} interval [{low:.3f}, {high:.3f}] is wider than {MAX_WIDTH}")
    if rival > MAX_RIVAL:
        reasons.append(f"laws without an asymptote keep a weight of {rival:.2f}")
    if reasons:
        return Verdict(Status.NOT_IDENTIFIED, "; ".join(reasons))
    return Verdict(Status.IDENTIFIED, f"asymptote in [{low:.3f}, {high:.3f}] ({level:.0%})")
