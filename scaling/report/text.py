"""How numbers are written for people."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["count", "flops", "interval", "number", "percent", "plural", "score", "some"]

DASH = "–"


def number(value: Any) -> str:
    """Three significant digits, or a dash.

    Example:
        >>> number(0.12345), number(12345.6), number(float("nan"))
        ('0.123', '12,346', '–')
    """
    v = float(value)
    if not math.isfinite(v):
        return DASH
    return f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}"


def count(value: Any) -> str:
    """A count in K, M, B or T.

    Example:
        >>> count(1.54e9)
        '1.54B'
    """
    v = float(value)
    if not math.isfinite(v):
        return DASH
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if v >= size:
            return f"{v / size:.3g}{unit}"
    return f"{v:g}"


def flops(value: Any) -> str:
    """FLOPs with a power of ten, or a dash.

    Example:
        >>> flops(3.2e18)
        '3.2e18'
    """
    v = float(value)
    return f"{v:.3g}".replace("e+", "e") if math.isfinite(v) else DASH


def score(value: Any) -> str:
    """An accuracy with three decimals, or a dash."""
    v = float(value)
    return f"{v:.3f}" if math.isfinite(v) else DASH


def percent(value: Any) -> str:
    """A share as a percentage with three significant digits, or a dash.

    Example:
        >>> percent(0.0375)
        '3.75 %'
    """
    v = 100 * float(value)
    return f"{v:.3g} %" if math.isfinite(v) else DASH


def interval(low: Any, high: Any) -> str:
    """An interval of accuracies.

    Example:
        >>> interval(0.5, 0.61)
        '0.500 to 0.610'
    """
    if not (math.isfinite(float(low)) or math.isfinite(float(high))):
        return DASH
    return f"{score(low)} to {score(high)}"


def plural(n: int, word: str) -> str:
    """A count with its noun.

    Example:
        >>> plural(1, "run"), plural(3, "run")
        ('1 run', '3 runs')
    """
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def some(names: list[str], most: int = 3) -> str:
    """The first few names, and how many more.

    Example:
        >>> some(["a", "b", "c", "d"], most=2)
        'a, b and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
