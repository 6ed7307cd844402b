"""Figures of RL against pretraining: scores of base and trained model, and the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scaling._plot_style import PALETTE, Z90, Look, axis_style, axis_title, f32, layout, log_axis, plain, tick_unit

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def against_pretraining(rows: pd.DataFrame, *, style: Mapping[str, Look]) -> go.Figure:
    """Score of base and of trained model against the pretraining FLOPs of the base; an arrow is what RL added.

    Args:
        rows: columns ``group``, ``pretraining_flops`` [FLOP], ``base``, ``base_stderr``, ``best_decoding`` (score of the
            base under its best decoding), ``final``, ``final_stderr``.
        style: looks by group.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame([{"group": "a", "pretraining_flops": 1e15, "base": 0.2, "base_stderr": 0.01,
        ...                        "best_decoding": 0.25, "final": 0.5, "final_stderr": 0.01}])
        >>> fig = against_pretraining(frame, style={"a": Look("#1C7FC0")})
        >>> fig.layout.xaxis.title.text
        'pretraining FLOPs of the base [FLOP]'
    """
    import plotly.graph_objects as go

    fig = go.Figure()
    records: list[dict[str, Any]] = rows.to_dict("records")
    for row in records:  # groups of one base stand side by side
        same = [r["group"] for r in records if r["pretraining_flops"] == row["pretraining_flops"]]
        row["x"] = row["pretraining_flops"] * 1.08 ** (same.index(row["group"]) - (len(same) - 1) / 2)
        look, x = style[row["group"]], row["x"]
        fig.add_trace(
            go.Scatter(
                x=[x, x],
                y=[row["base"], row["final"]],
                mode="lines",
                showlegend=False,
                hoverinfo="skip",
                line={"color": look.fill(0.5), "width": 1.5, "dash": look.dash},
            )
        )
    for label, column, error, symbol in (
        ("base, sampled", "base", "base_stderr", "circle-open"),
        ("base, best decoding", "best_decoding", None, "diamond-open"),
        ("after RL", "final", "final_stderr", "circle"),
    ):
        bars = None
        if error is not None:
            array = f32([Z90 * r[error] for r in records])
            bars = {"type": "data", "array": array, "thickness": 1, "width": 3, "color": "#888888"}
        fig.add_trace(
            go.Scatter(
                x=[r["x"] for r in records],
                y=f32([r[column] for r in records]),
                mode="markers",
                name=label,
                marker={"symbol": symbol, "size": 10, "color": [style[r["group"]].colour for r in records]},
                error_y=bars,
                customdata=[plain(r["group"]) for r in records],
                hovertemplate=f"%{{customdata}}<br>{label}: %{{y:.3f}} at %{{x:.3g}} FLOP",
            )
        )
    x = [r["pretraining_flops"] for r in records]
    fig.update_layout(
        **layout(
            xaxis=log_axis(low=min(x) / 2, high=max(x) * 2, title="pretraining FLOPs of the base [FLOP]", unit="FLOP"),
            yaxis=axis_style("held-out pass@1 [0 to 1]"),
        )
    )
    return fig


def ledger(published: Sequence[Mapping[str, Any]], yours: Sequence[Mapping[str, Any]]) -> go.Figure:
    """RL FLOPs against pretraining FLOPs: own runs beside published ones, with lines of equal ratio.

    Args:
        published: rows with ``run``, ``rl_flops``, ``base_flops`` [FLOP] and ``trust`` (a text, shown on hover).
        yours: the same of own runs.

    Example:
        >>> fig = ledger([{"run": "R", "rl_flops": 1e22, "base_flops": 1e24, "trust": ""}], [])
        >>> fig.layout.yaxis.title.text
        'RL FLOPs [FLOP]'
    """
    import plotly.graph_objects as go

    fig = go.Figure()
    xs = [float(r["base_flops"]) for r in (*published, *yours)]
    low, high = min(xs) / 10, max(xs) * 10
    for ratio in (1.0, 0.1, 0.01, 0.001, 1e-4):
        fig.add_trace(
            go.Scatter(
                x=[low, high],
                y=[low * ratio, high * ratio],
                mode="lines+text",
                text=["", f"{100 * ratio:g} %"],
                textposition="bottom left",
                textfont={"size": 11, "color": "#888888"},
                hoverinfo="skip",
                showlegend=False,
                line={"color": "rgba(128,128,128,0.45)", "width": 1, "dash": "dot"},
                cliponaxis=True,
            )
        )
    for rows, label, colour, symbol in (
        (published, "published", "#8C8C8C", "diamond"),
        (yours, "these runs", PALETTE[0], "circle"),
    ):
        if rows:
            fig.add_trace(
                go.Scatter(
                    x=[r["base_flops"] for r in rows],
                    y=[r["rl_flops"] for r in rows],
                    mode="markers",
                    name=label,
                    marker={"color": colour, "symbol": symbol, "size": 10, "line": {"width": 0}},
                    customdata=[[plain(r["run"]), plain(r.get("trust", ""))] for r in rows],
                    hovertemplate="%{customdata[0]}<br>RL %{y:.3g}, pretraining %{x:.3g} FLOP<br>%{customdata[1]}",
                )
            )
    ys = [float(r["rl_flops"]) for r in (*published, *yours) if r["rl_flops"]]
    fig.update_layout(
        **layout(
            height=460,
            xaxis=_decades(low, high, "pretraining FLOPs [FLOP]"),
            yaxis=_decades(min(ys) / 10, max(ys) * 10, "RL FLOPs [FLOP]"),
        )
    )
    return fig


def _decades(low: float, high: float, title: str) -> dict[str, Any]:
    return log_axis(low=low, high=high, title=title, unit="FLOP")


def differences(comparisons: Mapping[str, Any], *, axis: str, style: Mapping[str, Look] | None = None) -> go.Figure:
    """Difference in score at equal compute, with intervals; a bar that crosses zero decides nothing.

    Args:
        comparisons: title -> `scaling.compare.Comparison`.
        axis: the compute axis.
        style: looks by title; by default colours in order.

    Example:
        >>> fig = differences({}, axis="total_flops")
        >>> fig.layout.xaxis.title.text
        'RL model FLOPs [FLOP]'
    """
    import plotly.graph_objects as go

    fig, seen, row = go.Figure(), [], 0
    for title, comparison in comparisons.items():
        for pair in comparison.pairs:
            name = f"{title}: {pair.other} less {pair.baseline}"
            look = (style or {}).get(title) or Look(PALETTE[row % len(PALETTE)])
            good = [c for c in pair.difference if math.isfinite(c.median)]
            seen += [c.compute for c in good]
            fig.add_trace(go.Scatter(
                x=[c.compute * 1.04**row for c in good], y=f32([c.median for c in good]), mode="markers", name=plain(name),
                marker={"color": look.colour, "size": 8, "symbol": [look.symbol + ("" if c.status == "ok" else "-open") for c in good]},
                error_y={
                    "type": "data", "array": f32([c.high - c.median for c in good]), "thickness": 1.2, "width": 4,
                    "arrayminus": f32([c.median - c.low for c in good]), "color": look.colour,
                },
                customdata=[plain(c.status) for c in good], hovertemplate="%{x:.3g}: %{y:+.4f} (%{customdata})",
            ))  # fmt: skip
            row += 1
    low, high = (min(seen), max(seen)) if seen else (1.0, 10.0)
    fig.add_hline(y=0, line={"color": "rgba(128,128,128,0.8)", "width": 1, "dash": "dot"})
    fig.update_layout(**layout(
        xaxis=log_axis(low=low / 1.6, high=high * 1.6, title=axis_title(axis), unit=tick_unit(axis)),
        yaxis=axis_style("difference in pass@1 at equal compute [−1 to 1]"),
    ))  # fmt: skip
    return fig
