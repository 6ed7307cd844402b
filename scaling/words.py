"""Counts with their nouns, in what commands print."""

from __future__ import annotations

__all__ = ["counted"]


def counted(n: int, noun: str) -> str:
    """A count with its noun, without separators: lines that programs read too.

    Example:
        >>> counted(1, "run"), counted(1200, "step")
        ('1 run', '1200 steps')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
