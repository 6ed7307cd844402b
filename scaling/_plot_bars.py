"""Figures that are not curves: intervals, shares, scatters and the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike

from scaling._plot_style import (
    PALETTE,
    Z90,
    Look,
    area,
    axis_style,
    f32,
    layout,
    legend_height,
    log_axis,
    plain,
)
from scaling.words import percent

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PHASES = {
    "generation": "#1C7FC0",
    "scoring": "#56B4E9",
    "training": "#E69F00",
    "idle": "#8C8C8C",
    "evaluation": "#CC79A7",
    "overhead": "#B5A800",
    "redone": "#D9661F",
}


class Judged(Protocol):
    """What `asymptotes` needs of a `scaling.Fit`."""

    @property
    def identified(self) -> bool:
        """The verdict."""
        ...

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Interval of a parameter."""
        ...


def asymptotes(fits: Mapping[str, Judged], *, style: Mapping[str, Look], upper: float = 1.0) -> go.Figure:
    """Intervals of the asymptote, 50 % thick and 90 % thin; where it is not identified, only what it is above.

    Args:
        fits: name -> fit.
        style: looks by name.
        upper: where an open interval is cut: the best score there is [0 to 1].

    Example:
        >>> class Known:
        ...     identified = True
        ...     def interval(self, name, level=0.9):
        ...         return 0.5, 0.6
        >>> fig = asymptotes({"0.5B": Known()}, style={"0.5B": Look("#1C7FC0")})
        >>> fig.layout.xaxis.title.text
        'asymptote of pass@1 [0 to 1]'
    """
    import plotly.graph_objects as go

    fig = go.Figure()
    names = list(fits)
    ends: list[tuple[float, int]] = []
    for row, (name, fit) in enumerate(fits.items()):
        look = style[name]
        if not fit.identified:
            low = max(fit.interval("asymptote", 0.9)[0], 0.0)
            fig.add_trace(
                go.Scatter(
                    x=[low, upper],
                    y=[row, row],
                    mode="lines+markers",
                    showlegend=False,
                    name=plain(name),
                    opacity=0.6,
                    line={"color": look.colour, "width": 2, "dash": "dot"},
                    marker={"color": look.colour, "size": 9, "symbol": ["line-ns-open", "triangle-right"]},
                    hovertemplate=f"not identified: above {low:.3f} at 95 %",
                )
            )
            ends.append((low, row))
            continue
        for level, width in ((0.9, 3), (0.5, 9)):
            low, high = fit.interval("asymptote", level)
            fig.add_trace(
                go.Scatter(
                    x=[low, high],
                    y=[row, row],
                    mode="lines",
                    showlegend=False,
                    name=plain(name),
                    line={"color": look.colour, "width": width},
                    hovertemplate=f"{percent(level)}: {low:.3f} to {high:.3f}",
                )
            )
    left = min((max(fit.interval("asymptote", 0.9)[0], 0.0) for fit in fits.values()), default=0.0)
    for low, row in ends:
        right = low > (left + upper) / 2
        fig.add_annotation(
            x=upper if right else low,
            y=row,
            yshift=13,
            text=f"not identified, above {low:.3f}",
            showarrow=False,
            xanchor="right" if right else "left",
            font={"size": 11},
        )
    rows = {"tickvals": list(range(len(names))), "ticktext": [plain(n) for n in names]}
    fig.update_layout(
        **layout(
            height=max(200, 110 + 44 * len(names)),
            showlegend=False,
            xaxis=axis_style("asymptote of pass@1 [0 to 1]") | {"range": [max(0.0, left - 0.03), upper + 0.02]},
            yaxis=axis_style() | rows | {"range": [len(names) - 0.4, -0.6], "showgrid": False},
        )
    )
    return fig


def agreement(
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike | None]], *, style: Mapping[str, Look]
) -> go.Figure:
    """Held-out accuracy against training reward at the same steps, joined in the order of training.

    A run whose reward and accuracy agree goes up and to the right; one that learns the reward alone goes right.

    Args:
        pairs: name -> (reward, held-out accuracy, standard error of the accuracy or None), each shape ``(n_evals,)``.
        style: looks by name.

    Example:
        >>> fig = agreement({"a": ([0.1, 0.2], [0.1, 0.3], None)}, style={"a": Look("#1C7FC0")})
        >>> fig.layout.yaxis.title.text
        'held-out pass@1 [0 to 1]'
    """
    import plotly.graph_objects as go

    fig = go.Figure()
    for name, (reward, accuracy, stderr) in pairs.items():
        look, n = style[name], len(np.asarray(reward))
        bars = None
        if stderr is not None:
            array = f32(Z90 * np.asarray(stderr, dtype=float))
            bars = {"type": "data", "array": array, "thickness": 0.9, "width": 0, "color": look.fill(0.5)}
        fig.add_trace(
            go.Scatter(
                x=f32(reward),
                y=f32(accuracy),
                error_y=bars,
                mode="lines+markers",
                name=plain(name),
                line={"color": look.fill(0.45), "width": 1, "dash": look.dash},
                customdata=[f"{i + 1} of {n}" for i in range(n)],
                marker={"color": look.colour, "symbol": look.symbol, "size": f32(np.linspace(4, 9, n))},
                hovertemplate="evaluation %{customdata}<br>reward %{x:.3f}, held-out %{y:.3f}",
            )
        )
    fig.update_layout(
        **layout(
            xaxis=axis_style("training reward, mean of the steps around the evaluation [1]"),
            yaxis=axis_style("held-out pass@1 [0 to 1]"),
            height=legend_height(len(pairs)),
        )
    )
    return fig


def phases(hours: Mapping[str, Mapping[str, float]], flops: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Shares of GPU-hours and of model FLOPs by phase, one bar a group.

    Args:
        hours: name -> phase -> GPU-hours [GPU h].
        flops: name -> phase -> model FLOPs [FLOP].

    Example:
        >>> fig = phases({"a": {"generation": 3.0, "training": 1.0}}, {"a": {"generation": 1e18, "training": 1e18}})
        >>> fig.data[0].x.tolist()
        [75.0]
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    fig = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05)
    for column, (amounts, unit) in enumerate(((hours, "GPU h"), (flops, "FLOP")), start=1):
        names = list(amounts)
        totals = [sum(a.values()) or math.nan for a in amounts.values()]
        for phase, colour in PHASES.items():
            part = np.array([a.get(phase, 0.0) for a in amounts.values()])
            if not part.any():
                continue
            fig.add_trace(
                go.Bar(
                    y=[plain(n) for n in names],
                    x=f32(100 * part / np.array(totals)),
                    orientation="h",
                    name=phase,
                    marker={"color": colour, "line": {"width": 0}},
                    legendgroup=phase,
                    showlegend=column == 1 or phase not in named(fig),
                    customdata=f32(part),
                    hovertemplate=f"{phase}: %{{x:.1f}} % (%{{customdata:.3g}} {unit})",
                ),
                row=1,
                col=column,
            )
    title = {"ticksuffix": " %", "range": [0, 100]}
    fig.update_xaxes(axis_style("share of GPU-hours paid [%]") | title, row=1, col=1)
    fig.update_xaxes(axis_style("share of RL model FLOPs [%]") | title, row=1, col=2)
    fig.update_yaxes({**axis_style(), "showgrid": False, "autorange": "reversed"})
    rows = max(len(hours), len(flops), 1)
    below = -70 / (60 + 34 * rows)
    fig.update_layout(**layout(barmode="stack", height=150 + 34 * rows, bargap=0.35))
    fig.update_layout(legend={"y": below, "traceorder": "normal"})
    return fig


def named(fig: go.Figure) -> set[str]:
    """Names already in the legend."""
    return {str(trace.name) for trace in fig.data if trace.showlegend}


def pass_at_k(
    curves: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]], *, style: Mapping[str, Look]
) -> go.Figure:
    """pass@k (unbiased) of the base and of the trained model against k, with 90 % bands.

    Args:
        curves: name -> ``{"base": (k, pass@k, stderr), "trained": (...)}``.
        style: looks by name.

    Example:
        >>> one = ([1, 2], [0.2, 0.3], [0.01, 0.01])
        >>> fig = pass_at_k({"a": {"base": one, "trained": one}}, style={"a": Look("#1C7FC0")})
        >>> fig.layout.xaxis.title.text
        'k, samples a problem may use [1]'
    """
    import plotly.graph_objects as go

    fig, most = go.Figure(), 1
    for name, states in curves.items():
        look = style[name]
        for state, (k, score, stderr) in states.items():
            x, y, e = (np.asarray(v, dtype=float) for v in (k, score, stderr))
            most = max(most, int(x.max()))
            fig.add_trace(area(name, look, x, y - Z90 * e, y + Z90 * e, alpha=0.14))
            fig.add_trace(
                go.Scatter(
                    x=f32(x),
                    y=f32(y),
                    mode="lines+markers",
                    name=plain(name),
                    legendgroup=plain(name),
                    showlegend=state == "trained",
                    line={"color": look.colour, "dash": "dot" if state == "base" else "solid", "width": 1.8},
                    marker={
                        "color": look.colour,
                        "symbol": look.symbol + ("-open" if state == "base" else ""),
                        "size": 7,
                    },
                    hovertemplate=f"{state}, pass@%{{x}}: %{{y:.3f}}",
                )
            )
    ks = [2**i for i in range(int(math.log2(most)) + 1)]
    axis = log_axis(low=0.9, high=most * 1.1, title="k, samples a problem may use [1]")
    fig.update_layout(
        **layout(xaxis=axis | {"tickvals": ks, "ticktext": [str(k) for k in ks]}, yaxis=axis_style("pass@k [0 to 1]"))
    )
    return fig


def backtest(table: pd.DataFrame, *, method: str = "ensemble") -> go.Figure:
    """Forecasts of the final score from a first part of the compute, against what happened.

    A point on the dotted line was forecast exactly; a bar that crosses it covered what happened.

    Args:
        table: ``Backtest.table`` of `scaling.backtest`.
        method: which method's forecasts.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame([{"curve": "a", "method": "ensemble", "fraction": 0.25, "status": "ok", "final": 0.5,
        ...                        "forecast": 0.52, "low": 0.4, "high": 0.6}])
        >>> len(backtest(frame).data)
        2
    """
    import plotly.graph_objects as go

    good = [row for row in table.to_dict("records") if row["method"] == method and row["status"] == "ok"]
    ends = [v for row in good for v in (row["final"], row["forecast"])] or [0.0, 1.0]
    low, high = min(ends) - 0.03, max(ends) + 0.03
    fig = go.Figure(go.Scatter(
        x=[low, high], y=[low, high], mode="lines", hoverinfo="skip", showlegend=False,
        line={"color": "rgba(128,128,128,0.7)", "width": 1, "dash": "dot"},
    ))  # fmt: skip
    for i, fraction in enumerate(sorted({row["fraction"] for row in good})):
        rows, colour = [row for row in good if row["fraction"] == fraction], PALETTE[i]
        above = f32([row["high"] - row["forecast"] for row in rows])
        below = f32([row["forecast"] - row["low"] for row in rows])
        fig.add_trace(go.Scatter(
            x=f32([row["final"] for row in rows]), y=f32([row["forecast"] for row in rows]), mode="markers",
            name=f"from the first {fraction:.0%}".replace("%", " %"), customdata=[plain(row["curve"]) for row in rows],
            marker={"color": colour, "size": 8, "symbol": ("circle", "square", "diamond")[i % 3]},
            error_y={"type": "data", "array": above, "arrayminus": below, "thickness": 1.2, "width": 4, "color": colour},
            hovertemplate="%{customdata}<br>forecast %{y:.3f}, was %{x:.3f}",
        ))  # fmt: skip
    fig.update_layout(**layout(
        xaxis=axis_style("what happened: final pass@1 [0 to 1]"), yaxis=axis_style("forecast, with 90 % band [0 to 1]"),
    ))  # fmt: skip
    return fig
