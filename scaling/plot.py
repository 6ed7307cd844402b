"""Figures: functions that take the nouns (`Curve`, `Fit`, `Forecast`) and return plotly figures.

Every figure shows its uncertainty and its units; what is extrapolated is dotted, what was not fitted is hollow. Colour
tells sizes apart, dash and marker tell recipes and pretraining budgets apart; with one size only, colour does that too.

    curves         evaluations against compute, with fits and their bands
    dense_curves   a metric of every step against compute
    panels         several metrics under one another on the same axis
    asymptotes     intervals of the asymptote with their verdicts
    backtest       forecasts of the final score against what happened
    agreement      training reward against held-out accuracy
    phases         where GPU-hours and FLOPs went
    pass_at_k      pass@k of base and trained model
    against_pretraining   score against pretraining FLOPs
    differences    recipes at equal compute
    ledger         own runs beside published ones

plotly is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scaling._plot_bars import agreement, asymptotes, backtest, pass_at_k, phases
from scaling._plot_panels import dense_curves, first_curve, panels, scores
from scaling._plot_relative import against_pretraining, differences, ledger
from scaling._plot_style import (
    EXTRAPOLATED,
    Look,
    area,
    axis_style,
    axis_title,
    f32,
    layout,
    legend_entry,
    legend_height,
    log_axis,
    log_ticks,
    looks,
    metric_label,
    plain,
    positive,
    scatter,
    stamp,
    tick_unit,
)
from scaling.curve import Curve

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from scaling.forecast import Forecast

__all__ = [
    "Look",
    "against_pretraining",
    "agreement",
    "asymptotes",
    "backtest",
    "axis_title",
    "curves",
    "dense_curves",
    "differences",
    "ledger",
    "log_ticks",
    "looks",
    "metric_label",
    "panels",
    "pass_at_k",
    "phases",
    "plain",
    "stamp",
]


CROWDED = 1500  # points in a figure beyond which error bars would hide the lines [1]


class Fitted(Protocol):
    """What a figure needs of a `scaling.Fit`."""

    @property
    def window(self) -> tuple[float, float]:
        """First and last compute that were fitted, in the unit of the axis."""
        ...

    def forecast(self, compute: Any, *, level: float = 0.9) -> Forecast:
        """Band at ``compute``."""
        ...


def curves(
    groups: Mapping[str, Sequence[Curve]],
    *,
    fits: Mapping[str, Fitted] | None = None,
    level: float = 0.9,
    extend: float = 4.0,
    y_title: str | None = None,
    style: Mapping[str, Look] | None = None,
    legend: str = "own",
) -> go.Figure:
    """Evaluations against compute, with the fitted median and its band.

    The line is solid over the fitted window and dotted where it is extrapolated; points outside the window are hollow.
    Error bars are 90 % (1.645 standard errors); with more than `CROWDED` points they are left out, the points are faint and
    the lines are drawn above them. Points at zero compute stand at the left edge, ticked ``0``; the line
    begins at the first evaluation after it, as some laws diverge towards zero.

    Args:
        groups: name -> curves of that group, all of one axis.
        fits: name -> fit of that group; groups without one are shown as points only.
        level: of the band, 0 to 1.
        extend: how far beyond the last evaluation the line goes, as a factor of its compute [1].
        y_title: title of the y axis; the metric's name by default.
        style: the looks of a larger set of groups, so that colours agree between figures.
        legend: ``"own"``; ``"shared"``: every group with marker and line, for this and figures without one; or ``"none"``.

    Returns:
        A plotly figure.

    Example:
        >>> fig = curves({"demo": [Curve(compute=[0.0, 1.0, 2.0], performance=[0.1, 0.2, 0.3])]})
        >>> fig.layout.xaxis.title.text
        'GPU-hours [GPU h]'
    """
    import plotly.graph_objects as go

    fits = fits or {}
    first = first_curve(groups)
    seen = positive([c.compute for members in groups.values() for c in members])
    zero = float(seen.min()) / 3 if seen.size else 1.0
    highest = float(seen.max()) if seen.size else 1.0
    style = style or looks(groups)
    crowded = sum(len(c) for members in groups.values() for c in members) > CROWDED
    bands: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    alpha = 0.15 * min(1.0, 6 / max(len(groups), 1))  # many bands lie over one another
    for name, members in groups.items():
        fit = fits.get(name)
        if fit is not None:
            drawn = _fitted(name, style[name], fit, members, level=level, extend=extend, alpha=alpha)
            bands += drawn[:1]
            lines += drawn[1:]
        trace = scores(name, style[name], members, zero=zero, fit=fit, crowded=crowded)
        points.append(trace | {"showlegend": legend == "own" and name not in fits})
        if legend == "shared" or legend == "own" and name in fits:
            points.append(legend_entry(name, style[name]))
    traces = [*bands, *points, *lines] if crowded else [*bands, *lines, *points]
    axis = first.axis if first is not None else "gpu_hours"
    y_axis = axis_style(y_title or (metric_label(first.metric) if first is not None else ""))
    if first is not None and first.metric.startswith("pass@"):
        y_axis |= {"range": _span(traces)}
    return go.Figure(
        traces,
        layout(
            xaxis=log_axis(
                low=zero / 1.15,
                high=highest * (extend if fits else 1.0) * 1.15,
                title=axis_title(axis),
                unit=tick_unit(axis),
                zero=zero,
            ),
            yaxis=y_axis,
            height=360 if legend == "none" else legend_height(len(groups)),
            **({"showlegend": False} if legend == "none" else {}),
        ),
    )


def _fitted(
    name: str, look: Look, fit: Fitted, members: Sequence[Curve], *, level: float, extend: float, alpha: float
) -> list[dict[str, Any]]:
    seen = positive([c.compute for c in members])
    if not seen.size:
        return []
    grid = np.geomspace(seen.min(), seen.max() * extend, 120)
    forecast = fit.forecast(grid, level=level)
    if not np.isfinite(forecast.low).all():
        return []
    start, end = fit.window
    median = np.asarray(forecast.median)
    traces = [area(name, look, grid, np.asarray(forecast.low), np.asarray(forecast.high), alpha=alpha)]
    for keep, dash, width in (
        ((grid >= start) & (grid <= end), look.dash, 2.2),
        (grid >= end, EXTRAPOLATED, 1.8),
        (grid <= start, EXTRAPOLATED, 1.8),
    ):
        if keep.sum() > 1:
            traces.append(
                scatter(
                    x=f32(grid[keep]),
                    y=f32(median[keep]),
                    mode="lines",
                    name=plain(name),
                    legendgroup=plain(name),
                    showlegend=False,
                    line={"color": look.colour, "dash": dash, "width": width},
                    hovertemplate="fit at %{x:.4g}: %{y:.4f}",
                )
            )
    return traces


def _span(traces: Sequence[Mapping[str, Any]]) -> list[float]:
    """Range of a score axis: all that is drawn, cut at a little beyond 0 and 1."""
    drawn = np.concatenate([np.asarray(t["y"], dtype=float) for t in traces if len(t["y"]) > 1] or [[0.0, 1.0]])
    drawn = drawn[np.isfinite(drawn)]
    low, high = (float(drawn.min()), float(drawn.max())) if drawn.size else (0.0, 1.0)
    pad = 0.06 * max(high - low, 0.05)
    return [max(low - pad, -0.03), min(high + pad, 1.03)]
