"""Whether a trainer's step time contains its evaluation (or its checkpoint), told from the sums of its phases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["inside_step"]


def inside_step(name: str, seconds: Mapping[str, NDArray[np.float64]]) -> bool:
    """Whether the step time contains ``name``.

    On steps with an evaluation, what the step took beyond its phases exceeds the usual by about the evaluation's time if
    the clock ran on, by nothing if not; the majority of steps decides. Steps with an evaluation and no checkpoint are asked
    first, those with both only where there are no others. Without phases to tell by it is outside, as in the newest version.

    Args:
        name: ``evaluation`` or ``overhead``.
        seconds: columns ``step``, ``core`` (sum of the other phases), ``evaluation`` and ``overhead``, shape ``(n_steps,)``.

    Example:
        >>> import numpy as np
        >>> columns = {"step": np.array([42.0, 67.0]), "core": np.array([40.0, 40.0]), "evaluation": np.array([0.0, 25.0]),
        ...     "overhead": np.zeros(2)}
        >>> inside_step("evaluation", columns)
        True
    """
    other = seconds["overhead" if name == "evaluation" else "evaluation"]
    this, rest = seconds[name], seconds["step"] - seconds["core"]
    timed = (seconds["step"] > 0) & (seconds["core"] > 0)
    plain = timed & (this == 0) & (other == 0)
    usual = float(np.median(rest[plain])) if plain.any() else 0.0
    where = timed & (this > 0)
    alone = where & (other == 0)
    where = alone if alone.any() else where
    return bool(where.any() and np.mean(rest[where] - usual > this[where] / 2) > 0.5)
