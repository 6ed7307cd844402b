"""Counts with their nouns, and percentages, in what commands print."""

from __future__ import annotations

__all__ = ["counted", "percent"]


def counted(n: int, noun: str) -> str:
    """A count with its noun, without separators: lines that programs read too.

    Example:
        >>> counted(1, "run"), counted(1200, "step")
        ('1 run', '1200 steps')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def percent(share: float) -> str:
    """A share of 0 to 1 as a percentage, to three digits.

    Example:
        >>> percent(0.9), percent(0.999)
        ('90%', '99.9%')
    """
    return f"{100 * share:.3g}%"
