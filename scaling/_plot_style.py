"""How figures look: colours, dashes, ticks, titles with units, and text that plotly shows literally."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.curve import AXES, Curve

if TYPE_CHECKING:
    import plotly.graph_objects as go

# After Okabe and Ito: told apart under the common colour-vision deficiencies. Blue and green are a little lighter and
# yellow darker than theirs, so that all are seen on white and on black.
PALETTE = ("#1C7FC0", "#E69F00", "#0CA678", "#CC79A7", "#56B4E9", "#D9661F", "#8C8C8C", "#B5A800")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
EXTRAPOLATED = "1px,4px"
Z90 = 1.6448536269514722

METRICS = {
    "pass@1": "pass@1 [0 to 1]",
    "reward": "reward [1]",
    "completion_length": "completion length [token]",
    "truncation_rate": "truncation rate [0 to 1]",
    "entropy": "entropy [nat]",
    "kl": "KL [nat]",
    "zero_variance_fraction": "zero-variance fraction [0 to 1]",
}


@dataclass(frozen=True)
class Look:
    """How one group is drawn, the same in every figure.

    Example:
        >>> Look("#1C7FC0", dash="dash").fill(0.2)
        'rgba(28,127,192,0.2)'
    """

    colour: str
    dash: str = "solid"
    symbol: str = "circle"

    def fill(self, alpha: float = 0.18) -> str:
        """The colour as ``rgba`` for a band."""
        r, g, b = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({r},{g},{b},{alpha:g})"


def looks(groups: Mapping[str, Sequence[Curve]]) -> dict[str, Look]:
    """Colour, dash and marker of each group, from the labels of its curves.

    Sizes (``params``, ``model``) get colours in their order. What differs within a size, the recipe (``recipe_hash``) and
    the pretraining (``pretraining_flops``, by rank), gets dash and marker, no two variants the same pair of them. With one
    size, the variants get the colours too.

    Example:
        >>> def curve(model, recipe):
        ...     return [Curve(compute=[1.0], performance=[0.1], labels={"model": model, "recipe_hash": recipe})]
        >>> found = looks({"a": curve("0.5B", "x"), "b": curve("0.5B", "y"), "c": curve("1.5B", "x")})
        >>> found["a"].colour == found["b"].colour, found["a"].dash == found["c"].dash
        (True, True)
    """
    facts = {name: (members[0].labels if members else {}) for name, members in groups.items()}
    size_of = {name: _size_key(f, name) for name, f in facts.items()}
    sizes = sorted(set(size_of.values()))
    budgets: dict[Any, set[float]] = {}
    for name, f in facts.items():
        budgets.setdefault(size_of[name], set()).add(_budget(f))
    kind = {
        name: (sorted(budgets[size_of[name]]).index(_budget(f)), str(f.get("recipe_hash", "")))
        for name, f in facts.items()
    }
    recipes = list(dict.fromkeys(recipe for _, recipe in kind.values()))
    variants = sorted(set(kind.values()), key=lambda v: (recipes.index(v[1]), v[0]))
    out = {}
    for name in facts:
        size, variant = sizes.index(size_of[name]), variants.index(kind[name])
        colour = size if len(sizes) > 1 else variant
        turn = variant + size // len(PALETTE) * len(
            variants
        )  # beyond the palette a colour comes again, with other marks
        dash, symbol = turn % len(DASHES), (turn + turn // len(DASHES)) % len(SYMBOLS)
        out[name] = Look(PALETTE[colour % len(PALETTE)], DASHES[dash], SYMBOLS[symbol])
    return out


def _budget(labels: Mapping[str, Any]) -> float:
    flops = labels.get("pretraining_flops")
    return float(flops) if isinstance(flops, (int, float)) and math.isfinite(flops) else math.inf


def _size_key(labels: Mapping[str, Any], name: str) -> tuple[float, str]:
    params = labels.get("params")
    known = isinstance(params, (int, float)) and math.isfinite(params)
    return (float(params) if known else math.inf, str(labels.get("model") or name))  # type: ignore[arg-type]


def plain(text: object) -> str:
    r"""Text as plotly shows it literally: no tags, no templates, cut at 120 characters.

    Example:
        >>> plain("<b>%{x}")
        '&lt;b&gt;%\u200b{x}'
    """
    cut = str(text)
    cut = cut if len(cut) <= 120 else cut[:117] + "..."
    cut = "".join(c if c.isprintable() else " " for c in cut)
    for char, literal in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("%{", "%\u200b{"), ("$", "$\u200b")):
        cut = cut.replace(char, literal)
    return cut


def metric_label(metric: str) -> str:
    """A metric's name with its unit.

    Example:
        >>> metric_label("completion_length")
        'completion length [token]'
    """
    if metric.startswith("pass@"):
        return f"{plain(metric)} [0 to 1]"
    return METRICS.get(metric, plain(metric))


def axis_title(axis: str) -> str:
    """Title of a compute axis with its unit.

    Example:
        >>> axis_title("gpu_hours")
        'GPU-hours [GPU h]'
    """
    if axis not in AXES:
        return plain(axis)
    label, unit = AXES[axis]
    return label if unit == "1" else f"{label} [{unit}]"


def log_ticks(low: float, high: float, *, unit: str = "") -> tuple[list[float], list[str]]:
    """Readable ticks of a log axis: decades, with 2 and 5 where fewer than two and a half decades are shown.

    Args:
        low: left end of the axis, > 0.
        high: right end of the axis.
        unit: ``"FLOP"`` writes powers of ten, ``"%"`` writes a share as a percentage.

    Example:
        >>> log_ticks(0.05, 30)
        ([0.1, 1.0, 10.0], ['0.1', '1', '10'])
        >>> log_ticks(1e17, 3e18, unit="FLOP")[1][:3]
        ['10<sup>17</sup>', '2·10<sup>17</sup>', '5·10<sup>17</sup>']
    """
    span = math.log10(high / low)
    steps = (1, 2, 5) if span < 2.5 else (1,)
    every = max(1, math.ceil(span / 9))
    values = [
        m * 10.0**e
        for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for m in steps
        if low <= m * 10.0**e <= high and e % every == 0
    ]
    return [float(f"{v:.12g}") for v in values], [_tick(v, unit) for v in values]


def _tick(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.6g} %" if value >= 1e-6 else _power(100 * value) + " %"
    if unit == "FLOP" or not 1e-3 <= value < 1e6:
        return _power(value)
    return f"{value:.6g}" if value < 1000 else f"{value:,.0f}"


def _power(value: float) -> str:
    exponent = math.floor(math.log10(value) + 1e-9)
    lead = round(value / 10.0**exponent, 6)
    head = "" if lead == 1 else f"{lead:g}·"
    return f"{head}10<sup>{exponent}</sup>".replace("-", "−")


def tick_unit(axis: str) -> str:
    """How the ticks of a compute axis are written."""
    return "%" if axis.endswith("_ratio") else ("FLOP" if axis == "total_flops" else "")


def log_axis(*, low: float, high: float, title: str, unit: str = "", zero: float | None = None) -> dict[str, Any]:
    """A log axis with readable ticks; ``zero`` is where points at zero compute stand, ticked ``0``."""
    values, text = log_ticks(low if zero is None else zero * 1.5, high, unit=unit)
    if zero is not None:
        values, text = [zero, *values], ["0", *text]
    return axis_style() | {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": values,
        "ticktext": text,
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
    }


def axis_style(title: str = "") -> dict[str, Any]:
    """What every axis shares."""
    grey = "#888888"
    return {
        "showline": True,
        "linecolor": grey,
        "tickcolor": grey,
        "ticks": "outside",
        "gridcolor": "rgba(128,128,128,0.22)",
        "zeroline": False,
        "automargin": True,
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
    }


def layout(**more: Any) -> dict[str, Any]:
    """What every figure shares: transparent ground, legend below, margins."""
    return {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {
            "size": 13,
            "color": "#333333",
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
        },
        "height": 420,
        "margin": {"l": 64, "r": 16, "t": 28, "b": 48},
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0, "bgcolor": "rgba(0,0,0,0)"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,128,128,0.6)", "activecolor": "#1C7FC0"},
        "hovermode": "closest",
        "hoverlabel": {"namelength": -1},
    } | more


def stamp(fig: go.Figure, text: str) -> go.Figure:
    """Write a warning inside the figure, so that it stays with the figure when it is copied.

    Example:
        >>> import plotly.graph_objects as go
        >>> stamp(go.Figure(), "preliminary").layout.annotations[0].text
        'preliminary'
    """
    fig.add_annotation(
        text=plain(text),
        xref="paper",
        yref="paper",
        x=0.01,
        y=1.0,
        xanchor="left",
        yanchor="bottom",  # above the points
        showarrow=False,
        font={"size": 12},
        bgcolor="rgba(230,159,0,0.20)",
        borderpad=4,
    )
    return fig


def scatter(**options: Any) -> dict[str, Any]:
    """A trace as plotly's own description of it: plotly checks it when a figure is made, and only once."""
    return {"type": "scatter", **options}


def legend_entry(name: str, look: Look) -> dict[str, Any]:
    """A trace that only stands in the legend, with marker and line together."""
    return scatter(
        x=[None],
        y=[None],
        mode="lines+markers",
        name=plain(name),
        legendgroup=plain(name),
        showlegend=True,
        line={"color": look.colour, "dash": look.dash, "width": 2.2},
        marker={"color": look.colour, "symbol": look.symbol, "size": 7},
    )


def legend_height(groups: int) -> int:
    """Height of a figure above its legend of so many groups, so that a longer one takes nothing from the plot [px]."""
    return 420 + 26 * max(0, math.ceil(groups / 3) - 2)


def area(
    name: str, look: Look, x: NDArray, low: NDArray, high: NDArray, *, alpha: float, **more: Any
) -> dict[str, Any]:
    """A band between two lines."""
    return scatter(
        x=f32(np.concatenate([x, x[::-1]])),
        y=f32(np.concatenate([high, low[::-1]])),
        fill="toself",
        mode="lines",
        fillcolor=look.fill(alpha),
        line={"width": 0, "color": look.fill(0)},
        hoverinfo="skip",
        showlegend=False,
        name=plain(name),
        legendgroup=plain(name),
        **more,
    )


def positive(arrays: Sequence[NDArray]) -> NDArray:
    """All values > 0 of several arrays."""
    x = np.concatenate(list(arrays)) if arrays else np.array([])
    return x[x > 0]


def f32(values: ArrayLike) -> NDArray[np.float32]:
    """Display precision: half the bytes of the page, seven digits."""
    return np.asarray(values, dtype=np.float32)
