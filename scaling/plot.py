"""Figures: functions that take the nouns (`Curve`, `Fit`, `Forecast`) and return plotly figures.

Every figure shows its uncertainty and its units; what was not fitted is dashed or hollow. Colours are those of Okabe and
Ito (distinct under the common colour-vision deficiencies): colour tells sizes apart, dash and marker tell recipes apart;
with one size only, colour tells the recipes apart. plotly is imported inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scaling.curve import AXES, Curve

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from scaling.forecast import Forecast

__all__ = ["Look", "curves", "dense_curves", "log_ticks", "looks", "metric_label", "plain", "stamp"]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B5A800")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
Z90 = 1.6448536269514722


class Fitted(Protocol):
    """What a figure needs of a `scaling.Fit`."""

    @property
    def window(self) -> tuple[float, float]:
        """First and last compute that were fitted, in the unit of the axis."""
        ...

    @property
    def status(self) -> str:
        """``refused`` where nothing can be drawn."""
        ...

    def forecast(self, compute: Any, *, level: float = 0.9) -> Forecast:
        """Band at ``compute``."""
        ...


@dataclass(frozen=True)
class Look:
    """How one group is drawn, the same in every figure."""

    colour: str
    dash: str = "solid"
    symbol: str = "circle"

    def fill(self, alpha: float = 0.18) -> str:
        """The colour as ``rgba`` for a band."""
        r, g, b = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({r},{g},{b},{alpha})"


def looks(groups: Mapping[str, Sequence[Curve]]) -> dict[str, Look]:
    """Colour, dash and marker of each group, from the labels (``model``, ``params``, ``recipe_hash``) of its curves.

    Sizes get colours in order of parameters, recipes get dash and marker; with one size, recipes get the colours.

    Example:
        >>> def curve(model, recipe):
        ...     return [Curve(compute=[1.0], performance=[0.1], labels={"model": model, "recipe_hash": recipe})]
        >>> found = looks({"a": curve("0.5B", "x"), "b": curve("0.5B", "y"), "c": curve("1.5B", "x")})
        >>> found["a"].colour == found["b"].colour, found["a"].dash == found["c"].dash
        (True, True)
    """
    facts = {name: (members[0].labels if members else {}) for name, members in groups.items()}
    sizes = sorted({_size_key(f, name) for name, f in facts.items()})
    recipes = list(dict.fromkeys(str(f.get("recipe_hash", "")) for f in facts.values()))
    out = {}
    for name, f in facts.items():
        size, recipe = sizes.index(_size_key(f, name)), recipes.index(str(f.get("recipe_hash", "")))
        colour = size if len(sizes) > 1 else recipe
        out[name] = Look(
            PALETTE[colour % len(PALETTE)], DASHES[recipe % len(DASHES)], SYMBOLS[recipe % len(SYMBOLS)]
        )  # fmt: skip
    return out


def curves(
    groups: Mapping[str, Sequence[Curve]],
    *,
    fits: Mapping[str, Fitted] | None = None,
    level: float = 0.9,
    extend: float = 4.0,
    y_title: str | None = None,
) -> go.Figure:
    """Evaluations against compute, with the fitted median and its band.

    The line is solid over the fitted window and dashed where it is extrapolated; points outside the window are hollow.
    Error bars are 90 % (1.645 standard errors). Points at zero compute stand at the left edge, marked ``0``.

    Args:
        groups: name -> curves of that group, all of one axis.
        fits: name -> fit of that group; groups without one are shown as points only.
        level: of the band, 0 to 1.
        extend: how far beyond the last evaluation the line goes, as a factor of its compute [1].
        y_title: title of the y axis; the metric's name by default.

    Returns:
        A plotly figure.

    Example:
        >>> fig = curves({"demo": [Curve(compute=[0.0, 1.0, 2.0], performance=[0.1, 0.2, 0.3])]})
        >>> len(fig.data)
        1
    """
    import plotly.graph_objects as go

    fits = fits or {}
    fig = go.Figure()
    first = next((c for members in groups.values() for c in members), None)
    axis = first.axis if first is not None else "gpu_hours"
    positive = _positive([c.compute for members in groups.values() for c in members])
    zero = positive.min() / 3 if positive.size else 1.0
    style = looks(groups)
    for name, members in groups.items():
        look, fit = style[name], fits.get(name)
        if fit is not None and fit.status != "refused":
            for trace in _band(go, name, look, fit, members, level=level, extend=extend, low=zero):
                fig.add_trace(trace)
        fig.add_trace(_points(go, name, look, members, zero=zero, window=_window(fit), line=fit is None))
    highest = positive.max() if positive.size else 1.0
    _frame(
        fig, axis=axis, low=zero / 1.15, high=highest * (extend if fits else 1.0) * 1.15, zero=zero,
        y_title=y_title or (metric_label(first.metric) if first is not None else ""),
    )  # fmt: skip
    return fig


def dense_curves(
    groups: Mapping[str, Sequence[Curve]],
    *,
    y_title: str | None = None,
    bins: int = 80,
    style: Mapping[str, Look] | None = None,
) -> go.Figure:
    """A metric of every step (reward, completion length, ...) against compute, by bins of log compute.

    The line is the mean of the steps of all runs of the group in a bin, the band their 10th to 90th percentile: the
    spread of steps, not a standard error.

    Args:
        groups: name -> curves of that group, from ``RunTable.curves(metric="reward")``.
        y_title: title of the y axis; the metric's name by default.
        bins: at most so many bins a group [1].
        style: the looks of a larger set of groups, so that colours agree between figures.

    Example:
        >>> fig = dense_curves({"demo": [Curve(compute=[1.0, 2.0, 4.0], performance=[0.1, 0.2, 0.3], metric="reward")]})
        >>> len(fig.data)
        2
    """
    import plotly.graph_objects as go

    fig = go.Figure()
    style = style or looks(groups)
    first = next((c for members in groups.values() for c in members), None)
    positive = _positive([c.compute for members in groups.values() for c in members])
    for name, members in groups.items():
        x, middle, low, high = _binned(members, bins)
        look = style[name]
        fig.add_trace(_area(go, name, look, x, low, high, alpha=0.14))
        fig.add_trace(go.Scatter(
            x=_f32(x), y=_f32(middle), mode="lines", name=plain(name), legendgroup=plain(name),
            line={"color": look.colour, "dash": look.dash, "width": 1.8}, hovertemplate="%{x:.4g}: %{y:.4g}",
        ))  # fmt: skip
    _frame(
        fig, axis=first.axis if first is not None else "gpu_hours",
        low=positive.min() / 1.15 if positive.size else 0.1, high=positive.max() * 1.15 if positive.size else 1.0,
        y_title=y_title or (metric_label(first.metric) if first is not None else ""),
    )  # fmt: skip
    return fig


def stamp(fig: go.Figure, text: str) -> go.Figure:
    """Write a warning inside the figure, so that it stays with it when copied."""
    fig.add_annotation(
        text=plain(text), xref="paper", yref="paper", x=0.01, y=0.99, xanchor="left", yanchor="top", showarrow=False,
        font={"size": 12}, bgcolor="rgba(230,159,0,0.18)", borderpad=4,
    )  # fmt: skip
    return fig


def plain(text: object) -> str:
    r"""Text as plotly shows it literally: no tags, no templates, cut at 120 characters.

    Example:
        >>> plain("<b>%{x}")
        '&lt;b&gt;%\u200b{x}'
    """
    cut = str(text)
    cut = cut if len(cut) <= 120 else cut[:117] + "..."
    cut = "".join(c if c.isprintable() else " " for c in cut)
    return (
        cut.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("%{", "%\u200b{")
        .replace("$", "$\u200b")
    )


METRICS = {
    "pass@1": "pass@1 [0 to 1]", "reward": "reward [1]", "completion_length": "completion length [token]",
    "truncation_rate": "truncation rate [0 to 1]", "entropy": "entropy [nat]", "kl": "KL [nat]",
    "zero_variance_fraction": "zero-variance fraction [0 to 1]",
}  # fmt: skip


def metric_label(metric: str) -> str:
    """A metric's name with its unit, e.g. ``completion length [token]``."""
    if metric.startswith("pass@"):
        return f"{plain(metric)} [0 to 1]"
    return METRICS.get(metric, plain(metric))


def log_ticks(low: float, high: float, *, unit: str = "") -> tuple[list[float], list[str]]:
    """Readable ticks of a log axis: decades, with 2 and 5 where fewer than two and a half decades are shown.

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
    if unit == "FLOP" or not 1e-3 <= value < 1e5:
        return _power(value)
    return f"{value:.6g}" if value < 1000 else f"{value:,.0f}"


def _power(value: float) -> str:
    exponent = math.floor(math.log10(value) + 1e-9)
    lead = round(value / 10.0**exponent, 6)
    head = "" if lead == 1 else f"{lead:g}·"
    return f"{head}10<sup>{exponent}</sup>".replace("-", "−")


def axis_title(axis: str) -> str:
    """Title of a compute axis with its unit."""
    if axis not in AXES:
        return plain(axis)
    label, unit = AXES[axis]
    return label if unit == "1" else f"{label} [{unit}]"


def _frame(fig: go.Figure, *, axis: str, low: float, high: float, y_title: str, zero: float | None = None) -> None:
    unit = "%" if axis.endswith("_ratio") else ("FLOP" if axis == "total_flops" else "")
    values, text = log_ticks(low if zero is None else zero * 1.5, high, unit=unit)
    if zero is not None:
        values, text = [zero, *values], ["0", *text]
    fig.update_layout(**base_layout())
    fig.update_xaxes(
        type="log", range=[math.log10(low), math.log10(high)], tickvals=values, ticktext=text, title=axis_title(axis),
    )  # fmt: skip
    fig.update_yaxes(title=y_title)


def base_layout() -> dict[str, Any]:
    """What all figures share: transparent ground, thin grid, legend below, margins."""
    axis = {"showline": True, "linecolor": "#888", "gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "ticks": "outside",
            "tickcolor": "#888", "automargin": True, "title": {"standoff": 8}}  # fmt: skip
    return {
        "template": "none", "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 13, "color": "#333"}, "height": 420, "margin": {"l": 64, "r": 16, "t": 28, "b": 48},
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0, "bgcolor": "rgba(0,0,0,0)"},
        "hovermode": "closest", "hoverlabel": {"namelength": -1}, "xaxis": axis, "yaxis": axis,
    }  # fmt: skip


def _band(
    go: Any, name: str, look: Look, fit: Fitted, members: Sequence[Curve], *, level: float, extend: float, low: float
) -> list[Any]:
    seen = _positive([c.compute for c in members])
    if not seen.size:
        return []
    grid = np.geomspace(low, seen.max() * extend, 120)
    forecast = fit.forecast(grid, level=level)
    if not np.isfinite(forecast.low).all():
        return []
    start, end = _window(fit)
    inside = (grid >= start) & (grid <= end)
    traces = [_area(go, name, look, grid, np.asarray(forecast.low), np.asarray(forecast.high), alpha=0.16)]
    median = np.asarray(forecast.median)
    for keep, dash, width in ((inside, look.dash, 2.2), (grid >= end, "1px,4px", 1.6), (grid <= start, "1px,4px", 1.6)):
        if keep.sum() > 1:
            traces.append(go.Scatter(
                x=_f32(grid[keep]), y=_f32(median[keep]), mode="lines", name=plain(name), legendgroup=plain(name),
                showlegend=False, line={"color": look.colour, "dash": dash, "width": width},
                hovertemplate="fit at %{x:.4g}: %{y:.4f}",
            ))  # fmt: skip
    return traces


def _area(go: Any, name: str, look: Look, x: NDArray, low: NDArray, high: NDArray, *, alpha: float) -> Any:
    return go.Scatter(
        x=_f32(np.concatenate([x, x[::-1]])), y=_f32(np.concatenate([high, low[::-1]])), fill="toself", mode="lines",
        fillcolor=look.fill(alpha), line={"width": 0, "color": look.fill(0)}, hoverinfo="skip", showlegend=False,
        name=plain(name), legendgroup=plain(name),
    )  # fmt: skip


def _points(
    go: Any, name: str, look: Look, members: Sequence[Curve], *, zero: float, window: tuple[float, float], line: bool
) -> Any:
    x = np.concatenate([c.compute for c in members])
    y = np.concatenate([c.performance for c in members])
    known = [c.stderr if c.stderr is not None else np.full(len(c), np.nan) for c in members]
    error = Z90 * np.concatenate(known)
    hollow = (x < window[0] * (1 - 1e-9)) | (x > window[1] * (1 + 1e-9))
    marker = {"color": look.colour, "size": 6, "symbol": [look.symbol + "-open" if h else look.symbol for h in hollow]
              if hollow.any() else look.symbol}  # fmt: skip
    runs = np.concatenate([np.repeat(plain(c.run_id), len(c)) for c in members])
    return go.Scatter(
        x=_f32(np.where(x > 0, x, zero)), y=_f32(y), mode="markers+lines" if line and len(members) == 1 else "markers",
        name=plain(name), legendgroup=plain(name), marker=marker, line={"color": look.colour, "width": 1, "dash": look.dash},
        error_y={"type": "data", "array": _f32(error), "thickness": 0.8, "width": 0, "color": look.fill(0.6)}
        if np.isfinite(error).any() else None,
        customdata=runs if len(members) > 1 else None, opacity=0.9,
        hovertemplate=("%{customdata}<br>" if len(members) > 1 else "") + "%{x:.4g}: %{y:.4f}",
    )  # fmt: skip


def _binned(members: Sequence[Curve], bins: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    x = np.concatenate([c.compute for c in members])
    y = np.concatenate([c.performance for c in members])
    keep = (x > 0) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if not x.size:
        return x, y, y, y
    edges = np.geomspace(x.min(), x.max() * (1 + 1e-9) + 1e-300, bins + 1)
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, bins - 1)
    out = []
    for i in np.unique(place):
        part = place == i
        out.append((x[part].mean(), y[part].mean(), *np.quantile(y[part], [0.1, 0.9])))
    a = np.array(out)
    return a[:, 0], a[:, 1], a[:, 2], a[:, 3]


def _window(fit: Fitted | None) -> tuple[float, float]:
    return fit.window if fit is not None else (0.0, math.inf)


def _size_key(labels: Mapping[str, Any], name: str) -> tuple[float, str]:
    params = labels.get("params")
    known = isinstance(params, (int, float)) and math.isfinite(params)
    return (float(params) if known else math.inf, str(labels.get("model") or name))  # type: ignore[arg-type]


def _positive(arrays: Sequence[NDArray]) -> NDArray:
    x = np.concatenate(list(arrays)) if arrays else np.array([])
    return x[x > 0]


def _f32(values: NDArray) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)
