"""Options that many functions share: draws, seed, level. Each raises one line that says what must hold."""

from __future__ import annotations

from numbers import Integral, Real

from scaling.errors import ScalingError

__all__ = ["MIN_DRAWS", "check_draws", "check_level", "check_seed"]

MIN_DRAWS = 20  # below, the ends of a 90 % interval are no quantiles of anything


def check_draws(draws: int, *, least: int = MIN_DRAWS) -> None:
    """Raise where ``draws`` is no whole number or too small for an interval."""
    if isinstance(draws, bool) or not isinstance(draws, Integral) or draws < least:
        why = " (an interval needs that many)" if least > 1 else ""
        raise ScalingError(f"draws must be a whole number of at least {least}{why}, got {draws!r}")


def check_seed(seed: int) -> None:
    """Raise where ``seed`` is no whole number >= 0."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ScalingError(f"seed must be a whole number of at least 0, got {seed!r}")


def check_level(level: float) -> None:
    """Raise where ``level`` is no number between 0 and 1."""
    if not isinstance(level, Real) or not 0 < level < 1:
        raise ScalingError(f"level must be between 0 and 1, got {level!r}")
