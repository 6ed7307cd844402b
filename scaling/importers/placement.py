"""What step times tell: whether they contain the evaluation and the checkpoint, and which steps stalled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["STALL_FACTOR", "STALL_SECONDS", "find_stalls", "inside_step"]

STALL_FACTOR, STALL_SECONDS = 10.0, 900.0


def inside_step(name: str, seconds: Mapping[str, NDArray[np.float64]]) -> bool:
    """Whether the step time contains ``name``.

    On steps with an evaluation, what the step took beyond its phases exceeds the usual by about the evaluation's time if
    the clock ran on, by nothing if not; the majority of steps decides. Steps with an evaluation and no checkpoint are asked
    first, those with both only where there are no others. Without phases to tell by it is outside, as in the newest version.

    Args:
        name: ``evaluation`` or ``checkpoint``.
        seconds: columns ``step``, ``core`` (sum of the other phases), ``evaluation`` and ``checkpoint``, shape ``(n_steps,)``.

    Example:
        >>> import numpy as np
        >>> columns = {"step": np.array([42.0, 67.0]), "core": np.array([40.0, 40.0]), "evaluation": np.array([0.0, 25.0]),
        ...     "checkpoint": np.zeros(2)}
        >>> inside_step("evaluation", columns)
        True
    """
    other = seconds["checkpoint" if name == "evaluation" else "evaluation"]
    this, rest = seconds[name], seconds["step"] - seconds["core"]
    timed = (seconds["step"] > 0) & (seconds["core"] > 0)
    plain = timed & (this == 0) & (other == 0)
    usual = float(np.median(rest[plain])) if plain.any() else 0.0
    where = timed & (this > 0)
    alone = where & (other == 0)
    where = alone if alone.any() else where
    return bool(where.any() and np.mean(rest[where] - usual > this[where] / 2) > 0.5)


def find_stalls(wall: NDArray[np.float64]) -> tuple[list[int], str]:
    """Steps that took more than ten times the median and a quarter of an hour more than it, the longest first.

    Args:
        wall: wall time of each step [s], shape ``(n_steps,)``, 0 where there is none.

    Returns:
        Their indices, and what to tell the user of the first.

    Example:
        >>> import numpy as np
        >>> find_stalls(np.array([250.0] * 9 + [22543.0]))[0]
        [9]
    """
    timed = wall[wall > 0]
    if not len(timed):
        return [], ""
    middle = float(np.median(timed))
    found = np.flatnonzero((wall > STALL_FACTOR * middle) & (wall > middle + STALL_SECONDS))
    longest = found[np.argsort(-wall[found], kind="stable")].tolist()
    if not longest:
        return [], ""
    more = f"; {len(longest) - 1} more stalled" if len(longest) > 1 else ""
    note = f"stalled for {wall[longest[0]] / 3600:.1f} h against a median of {middle:.0f} s{more}: it stays in the paid hours"
    return longest, note
