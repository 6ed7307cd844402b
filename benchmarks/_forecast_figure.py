"""The figure "forecasts from the first quarter against what happened", written as SVG by hand: no browser, no extra package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

INK, SOFT, GRID = "#1b2733", "#6b7885", "#e3e8ed"
OURS, STAYS, PAST, FUTURE = "#0072b2", "#d55e00", "#1b2733", "#9aa7b4"
FONT = "font-family='Helvetica Neue, Helvetica, Arial, sans-serif'"
WIDTH, COLUMNS, PANEL_W, PANEL_H, GAP_X, GAP_Y, LEFT, TOP = 1180, 4, 230, 168, 56, 78, 52, 112


@dataclass(frozen=True)
class Panel:
    """One curve: evaluations, the forecast made at ``cut``, and the baseline; compute in the unit of the axis."""

    name: str
    compute: np.ndarray
    score: np.ndarray
    cut: float
    ahead: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    stays: float
    final: float
    covered: bool


def draw(panels: Sequence[Panel], *, title: str, subtitle: str, unit: str, level: float, source: str) -> str:
    """The whole figure as SVG text."""
    rows = math.ceil((len(panels) + 1) / COLUMNS)
    height = TOP + rows * (PANEL_H + GAP_Y) - 6
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}' role='img' "
        f"aria-label='{escape(title, quote=True)}'>",
        f"<rect width='{WIDTH}' height='{height}' rx='10' fill='#ffffff'/>",
        _text(LEFT - 24, 40, title, size=22, weight=600),
        _text(LEFT - 24, 66, subtitle, size=14, fill=SOFT),
    ]
    for i, panel in enumerate(panels):
        x = LEFT + (i % COLUMNS) * (PANEL_W + GAP_X)
        y = TOP + (i // COLUMNS) * (PANEL_H + GAP_Y)
        parts.append(_panel(panel, x, y, unit))
    i = len(panels)
    parts.append(
        _legend(LEFT + (i % COLUMNS) * (PANEL_W + GAP_X) - 10, TOP + (i // COLUMNS) * (PANEL_H + GAP_Y), level)
    )
    parts.append(_text(LEFT - 24, height - 16, source, size=11.5, fill=SOFT))
    parts.append("</svg>\n")
    return "\n".join(parts)


def _panel(p: Panel, x0: float, y0: float, unit: str) -> str:
    end = float(p.compute.max())
    shown = np.concatenate([p.score, p.low, p.high, [p.stays]])
    low, high = float(shown.min()), float(shown.max())
    pad = 0.07 * (high - low)
    low, high = max(0.0, low - pad), high + pad

    def sx(c: float) -> float:
        return x0 + PANEL_W * c / end

    def sy(v: float) -> float:
        return y0 + PANEL_H * (1 - (v - low) / (high - low))

    out = [_text(x0, y0 - 12, p.name, size=15, weight=600)]
    verdict = "end inside the band" if p.covered else "end outside the band"
    out.append(_text(x0 + PANEL_W, y0 - 12, verdict, size=11.5, fill=SOFT if p.covered else STAYS, anchor="end"))
    for tick in _ticks(low, high):
        y = sy(tick)
        out.append(f"<line x1='{x0}' x2='{x0 + PANEL_W}' y1='{y:.1f}' y2='{y:.1f}' stroke='{GRID}'/>")
        out.append(_text(x0 - 7, y + 4, f"{tick:.2g}" if tick < 1 else f"{tick:g}", size=11, fill=SOFT, anchor="end"))
    band = [f"{sx(c):.1f},{sy(v):.1f}" for c, v in zip(p.ahead, p.high)]
    band += [f"{sx(c):.1f},{sy(v):.1f}" for c, v in zip(p.ahead[::-1], p.low[::-1])]
    out.append(f"<polygon points='{' '.join(band)}' fill='{OURS}' fill-opacity='0.17'/>")
    y = sy(p.stays)
    out.append(
        f"<line x1='{sx(p.cut):.1f}' x2='{sx(end):.1f}' y1='{y:.1f}' y2='{y:.1f}' stroke='{STAYS}' stroke-width='1.6' "
        "stroke-dasharray='5 4'/>"
    )
    for c, v in zip(p.compute, p.score):
        past = c <= p.cut
        out.append(
            f"<circle cx='{sx(c):.1f}' cy='{sy(v):.1f}' r='{2.1 if past else 1.9}' fill='{PAST if past else FUTURE}'/>"
        )
    line = " ".join(f"{sx(c):.1f},{sy(v):.1f}" for c, v in zip(p.ahead, p.median))
    out.append(f"<polyline points='{line}' fill='none' stroke='{OURS}' stroke-width='2.4' stroke-linejoin='round'/>")
    out.append(
        f"<line x1='{sx(p.cut):.1f}' x2='{sx(p.cut):.1f}' y1='{y0}' y2='{y0 + PANEL_H}' stroke='{INK}' stroke-opacity='0.45' "
        "stroke-dasharray='2 3'/>"
    )
    out.append(
        f"<line x1='{x0}' x2='{x0 + PANEL_W}' y1='{y0 + PANEL_H}' y2='{y0 + PANEL_H}' stroke='{INK}' stroke-opacity='0.5'/>"
    )
    x, y = sx(end) + 7, sy(p.final)
    mark = f"M{x - 5:.1f},{y:.1f} L{x + 4:.1f},{y - 4.5:.1f} L{x + 4:.1f},{y + 4.5:.1f} Z"
    out.append(f"<path d='{mark}' fill='{INK}'/>")
    base = y0 + PANEL_H + 17
    out.append(_text(x0, base, "0", size=11, fill=SOFT, anchor="middle"))
    out.append(_text(sx(p.cut), base, f"{p.cut / end:.0%}", size=11, fill=INK, anchor="middle"))
    out.append(_text(x0 + PANEL_W, base, f"{_power(end)} {unit}", size=11, fill=SOFT, anchor="end"))
    return "\n".join(out)


def _legend(x: float, y: float, level: float) -> str:
    rows = [
        (f"<circle cx='{x + 14}' cy='{{y}}' r='3' fill='{PAST}'/>", "evaluations the forecast saw"),
        (f"<circle cx='{x + 14}' cy='{{y}}' r='3' fill='{FUTURE}'/>", "evaluations it did not see"),
        (
            f"<line x1='{x}' x2='{x + 28}' y1='{{y}}' y2='{{y}}' stroke='{OURS}' stroke-width='2.6'/>",
            "forecast (default ensemble)",
        ),
        (
            f"<rect x='{x}' y='{{top}}' width='28' height='14' fill='{OURS}' fill-opacity='0.17'/>",
            f"its {level:.0%} band",
        ),
        (
            f"<line x1='{x}' x2='{x + 28}' y1='{{y}}' y2='{{y}}' stroke='{STAYS}' stroke-width='1.8' stroke-dasharray='5 4'/>",
            "baseline: the last value stays",
        ),
        (
            f"<path d='M{x + 9},{{y}} L{x + 18},{{top}} L{x + 18},{{bottom}} Z' fill='{INK}'/>",
            "end: mean of the last five evaluations",
        ),
    ]
    out = []
    for i, (mark, words) in enumerate(rows):
        at = y + 18 + i * 27
        out.append(mark.format(y=at, top=at - 7 if "rect" in mark else at - 4.5, bottom=at + 4.5))
        out.append(_text(x + 38, at + 4.5, words, size=13))
    return "\n".join(out)


def _text(
    x: float, y: float, words: str, *, size: float, fill: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {FONT} font-size='{size}' font-weight='{weight}' fill='{fill}' text-anchor='{anchor}'>"
        f"{_super(escape(words))}</text>"
    )


def _super(words: str) -> str:
    """``^{18}`` as a raised number."""
    head, sign, rest = words.partition("^{")
    if not sign:
        return words
    power, _, tail = rest.partition("}")
    return f"{head}<tspan dy='-4' font-size='8.5'>{power}</tspan><tspan dy='4'>{tail}</tspan>"


def _power(value: float) -> str:
    exponent = math.floor(math.log10(value))
    return f"{value / 10.0**exponent:.1f}·10^{{{exponent}}}"


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 3))
    for factor in (1, 2, 5, 10):
        if (high - low) / (factor * step) <= 4.5:
            step *= factor
            break
    first = math.ceil(low / step)
    return [round(k * step, 10) for k in range(first, math.floor(high / step) + 1)]
