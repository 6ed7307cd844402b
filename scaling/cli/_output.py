"""What commands print and draw: numbers, bands and tables as text, curves thinned to what a browser can draw."""

from __future__ import annotations

import numpy as np

from scaling.curve import Curve

_DRAWN = 5000  # points of a curve that a figure holds


def text_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns side by side under a rule."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, tuple("-" * w for w in widths), *rows)
    )


def amount(value: float) -> str:
    """A number with four significant digits, infinities in words."""
    if np.isnan(value):
        return "-"
    if np.isinf(value):
        return "never" if value > 0 else "-inf"
    return f"{value:.4g}"


def band(low: float, high: float, digits: int = 3) -> str:
    """An interval as text, open ends in words."""

    def one(v: float) -> str:
        return (
            "-inf"
            if v == -np.inf
            else "inf"
            if v == np.inf
            else f"{v:.{digits}g}"
            if abs(v) >= 10
            else f"{v:.{digits}f}"
        )

    return f"[{one(low)}, {one(high)}]"


def drawable(groups: dict[str, list[Curve]]) -> tuple[dict[str, list[Curve]], str]:
    """Curves that a browser can draw: beyond 5,000 evaluations, means of neighbours; and the words that say so."""
    words = ""
    out: dict[str, list[Curve]] = {}
    for name, members in groups.items():
        out[name] = []
        for curve in members:
            clean = curve.finite()
            if len(clean) > _DRAWN:
                size = -(-len(clean) // _DRAWN)
                starts = np.arange(0, len(clean), size)
                count = np.diff(np.append(starts, len(clean)))
                x, y = (np.add.reduceat(v, starts) / count for v in (clean.compute, clean.performance))
                clean = Curve(
                    compute=x,
                    performance=y,
                    axis=curve.axis,
                    metric=curve.metric,
                    run_id=curve.run_id,
                    labels=curve.labels,
                )
                words = f"points drawn are means of up to {size} neighbouring evaluations"
            out[name].append(clean)
    return out, words
