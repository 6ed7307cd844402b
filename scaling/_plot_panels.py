"""Metrics of every step in panels that share a compute axis, and the points of evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling._plot_style import (
    Z90,
    Look,
    area,
    axis_style,
    axis_title,
    f32,
    layout,
    legend_entry,
    log_axis,
    looks,
    metric_label,
    plain,
    positive,
    scatter,
    tick_unit,
)
from scaling.curve import Curve

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from scaling.plot import Fitted

__all__ = ["dense_curves", "first_curve", "panels", "scores"]


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
        bins: at most so many bins a group [1]; fewer where there are many groups.
        style: the looks of a larger set of groups, so that colours agree between figures.

    Example:
        >>> fig = dense_curves({"demo": [Curve(compute=[1.0, 2.0, 4.0], performance=[0.1, 0.2, 0.3], metric="reward")]})
        >>> fig.layout.yaxis.title.text
        'reward [1]'
    """
    first = first_curve(groups)
    title = y_title or (metric_label(first.metric) if first is not None else "")
    return panels({title: groups}, bins=bins, style=style)


def panels(
    rows: Mapping[str, Mapping[str, Sequence[Curve]]],
    *,
    bins: int = 80,
    columns: int = 1,
    style: Mapping[str, Look] | None = None,
    points: Sequence[str] = (),
) -> go.Figure:
    """Several metrics in panels that share the compute axis, so that what moves together is seen together.

    Args:
        rows: y title -> groups, as for `dense_curves`.
        bins: at most so many bins a group and panel [1]; fewer where there are many groups.
        columns: panels side by side.
        style: looks by group name.
        points: y titles of panels whose curves are evaluations: shown as points, not binned.

    Example:
        >>> reward = {"demo": [Curve(compute=[1.0, 2.0], performance=[0.1, 0.2], metric="reward")]}
        >>> length = {"demo": [Curve(compute=[1.0, 2.0], performance=[90.0, 80.0], metric="completion_length")]}
        >>> len(panels({"reward [1]": reward, "completion length [token]": length}, columns=2).data)
        5
    """
    from plotly.subplots import make_subplots

    everything = {name: members for groups in rows.values() for name, members in groups.items()}
    bins = min(bins, max(24, 480 // max(len(everything), 1)))  # the more groups, the calmer each
    alpha = 0.14 * min(1.0, 6 / max(len(everything), 1))
    style = style or looks(everything)
    seen = positive([c.compute for groups in rows.values() for members in groups.values() for c in members])
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.1, 1.0)
    first = first_curve(everything)
    axis = first.axis if first is not None else "gpu_hours"
    height = math.ceil(len(rows) / columns)
    fig = make_subplots(rows=height, cols=columns, vertical_spacing=0.26 / height, horizontal_spacing=0.09)
    traces, axes = [], {}
    for i, (title, groups) in enumerate(rows.items(), start=1):
        place = {"xaxis": f"x{i}", "yaxis": f"y{i}", "showlegend": False}
        for name, members in groups.items():
            drawn = _points_panel if title in points else _binned_panel
            traces += [trace | place for trace in drawn(name, style[name], members, bins=bins, low=low, alpha=alpha)]
        below = axis_title(axis) if i + columns > len(rows) else ""
        axes[f"xaxis{i}"] = log_axis(low=low / 1.15, high=high * 1.15, title=below, unit=tick_unit(axis))
        axes[f"yaxis{i}"] = axis_style(title) | ({"rangemode": "tozero"} if title.endswith("[0 to 1]") else {})
    fig.add_traces(traces + [legend_entry(name, style[name]) for name in everything])
    fig.update_layout(**layout(height=420 if height == 1 else 250 * height + 60), **axes)
    fig.update_layout(legend={"y": -0.2 / (1 if height == 1 else height * 0.66)})
    return fig


def _points_panel(name: str, look: Look, members: Sequence[Curve], *, bins: int, low: float, alpha: float) -> list[Any]:
    trace = scores(name, look, members, zero=low, fit=None)
    return [trace | {"marker": trace["marker"] | {"size": 4}}]


def _binned_panel(name: str, look: Look, members: Sequence[Curve], *, bins: int, low: float, alpha: float) -> list[Any]:
    x, middle, below, above = _binned(members, bins)
    line = scatter(
        x=f32(x),
        y=f32(middle),
        mode="lines",
        name=plain(name),
        legendgroup=plain(name),
        line={"color": look.colour, "dash": look.dash, "width": 1.8},
        hovertemplate="%{x:.4g}: %{y:.4g}",
    )
    return [area(name, look, x, below, above, alpha=alpha), line]


def _binned(members: Sequence[Curve], bins: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Mean, 10th and 90th percentile of all points in each bin of log compute."""
    x = np.concatenate([c.compute for c in members])
    y = np.concatenate([c.performance for c in members])
    keep = (x > 0) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if not x.size:
        return x, y, y, y
    edges = np.geomspace(x.min(), x.max() * (1 + 1e-9), bins + 1)
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, bins - 1)
    order = np.lexsort((y, place))
    x, y, place = x[order], y[order], place[order]
    starts = np.flatnonzero(np.r_[True, np.diff(place) > 0])
    counts = np.diff(np.r_[starts, place.size])
    tenth, ninetieth = (starts + np.round(q * (counts - 1)).astype(int) for q in (0.1, 0.9))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts, y[tenth], y[ninetieth]


def scores(
    name: str, look: Look, members: Sequence[Curve], *, zero: float, fit: Fitted | None, crowded: bool = False
) -> dict[str, Any]:
    low, high = fit.window if fit is not None else (0.0, math.inf)
    x = np.concatenate([c.compute for c in members])
    y = np.concatenate([c.performance for c in members])
    error = Z90 * np.concatenate([c.stderr if c.stderr is not None else np.full(len(c), np.nan) for c in members])
    hollow = (x < low * (1 - 1e-9)) | (x > high * (1 + 1e-9))
    symbols = [f"{look.symbol}-open" if h else look.symbol for h in hollow] if hollow.any() else look.symbol
    runs = np.concatenate([np.repeat(plain(c.run_id), len(c)) for c in members]) if len(members) > 1 else None
    bars = {"type": "data", "array": f32(error), "thickness": 0.9, "width": 0, "color": look.fill(0.55)}
    return scatter(
        x=f32(np.where(x > 0, x, zero)),
        y=f32(y),
        mode="markers",
        name=plain(name),
        legendgroup=plain(name),
        marker={"color": look.colour, "size": 3 if crowded else 6, "symbol": symbols},
        opacity=0.3 if crowded else 0.9,
        customdata=runs,
        error_y=bars if np.isfinite(error).any() and not crowded else None,
        hovertemplate=("%{customdata}<br>" if runs is not None else "") + "%{x:.4g}: %{y:.4f}",
    )


def first_curve(groups: Mapping[str, Sequence[Curve]]) -> Curve | None:
    return next((c for members in groups.values() for c in members), None)
