"""The sections of a report: each takes the gathered analysis and leads with its sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from scaling import plot
from scaling.curve import AXES, Curve
from scaling.report.gather import Analysis
from scaling.report.page import Figure, Note, Section, Table
from scaling.report.tables import asymptote_text, summary_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["all_sections"]


def all_sections(a: Analysis) -> list[Section]:
    """Every section that the runs allow, in order."""
    return [summary(a), accuracy(a), training(a), unknown(a)]


def summary(a: Analysis) -> Section:
    """The table: base, final, asymptote with verdict, cost."""
    frame = summary_frame(a)
    known = int((frame["verdict"] == "identified").sum())
    runs = a.table.runs
    lead = (
        f"{len(runs)} runs in {len(a.groups)} groups: the asymptote is identified in {known} of {len(frame)}; "
        f"{number(frame['gpu_hours'].sum())} GPU-hours were spent on training, {number(frame['gpu_hours_paid'].sum())} paid in all."
    )
    shown = pd.DataFrame({
        "size and recipe": frame["group"], "parameters": frame["params"].map(count), "runs": frame["runs"],
        "base, sampled": frame["base_sampled"].map(score),
        "base, best decoding": [f"{score(v)} ({w})" if w else "–" for v, w in zip(frame["base_best_decoding"], frame["best_decoding"])],
        "final": frame["final"].map(score), "asymptote, 90 %": [asymptote_text(r) for r in frame.to_dict("records")],
        "RL / pretraining FLOPs": frame["rl_flops_share"].map(percent), "GPU-hours": frame["gpu_hours"].map(number),
    })  # fmt: skip
    caption = (
        f"Accuracy is pass@1 on {a.benchmark}. Asymptotes are fitted against {AXES[a.axis][0]} ({a.settings.get('law')}, "
        f"{a.settings.get('draws')} draws). GPU-hours are those fitted: without evaluation, start-up and redone work."
    )
    return Section("summary", "Summary", lead, (Table(shown, caption),))


def accuracy(a: Analysis) -> Section:
    """Held-out accuracy against compute on every axis, with the fits."""
    parts: list[Figure | Table | Note] = []
    for axis, groups in a.curves.items():
        if not groups:
            continue
        shared = [g.name for g in a.groups if g.shared and g.name in groups] if axis == "gpu_hours" else []
        fits = a.fits.get(axis, {})
        figure = plot.curves(groups, fits=fits, y_title="held-out pass@1 [0 to 1]")
        if shared:
            plot.stamp(figure, "device shared by several runs: GPU-hours shown, not fitted")
        parts.append(Figure(figure, _curve_caption(axis, bool(fits), bool(shared))))
    if not parts:
        return Section("accuracy", "Accuracy against compute", "No held-out evaluation is recorded.")
    lead = f"Held-out pass@1 on {a.benchmark} against {len(parts)} compute axes; the fit is solid inside its window, dotted beyond."
    return Section("accuracy", "Accuracy against compute", lead, tuple(parts))


def training(a: Analysis) -> Section:
    """Reward and completion length against compute."""
    parts: list[Figure | Table | Note] = []
    for metric in ("reward", "completion_length"):
        for axis in ("gpu_hours", "pretraining_flops_ratio"):
            groups = step_curves(a, metric, axis)
            if groups:
                figure = plot.dense_curves(groups)
                parts.append(Figure(figure, f"{plot.metric_label(metric)} against {AXES[axis][0]}: mean of the steps in a bin of log "
                                            "compute, band from their 10th to 90th percentile."))  # fmt: skip
    lead = "Training reward and completion length of the same runs." if parts else "No training metric is recorded."
    return Section("training", "Reward and completion length", lead, tuple(parts))


def unknown(a: Analysis) -> Section:
    """What the report cannot say."""
    lines = [*a.notes]
    if a.table.skipped:
        lines.append(f"{len(a.table.skipped)} lines of the records were skipped, first {a.table.skipped[0]}")
    lead = f"{len(lines)} things limit what is shown here." if lines else "Nothing was skipped or left out."
    return Section("unknown", "What is not known", lead, (Note(tuple(lines)),) if lines else ())


def step_curves(a: Analysis, metric: str, axis: str) -> Mapping[str, Sequence[Curve]]:
    """Curves of a metric of the steps by group; runs without the metric or the axis are left out."""
    column = f"cumulative_{axis}"
    steps = a.table.steps
    if metric not in steps.columns or column not in steps.columns:
        return {}
    part = steps.loc[steps[metric].notna() & steps[column].notna(), ["run_id", metric, column]]
    by_run = {run: rows for run, rows in part.groupby("run_id", sort=False)}
    out: dict[str, list[Curve]] = {}
    for group in a.groups:
        for run in group.run_ids:
            if run in by_run and (by_run[run][column] > 0).any():
                rows = by_run[run]
                labels = {"model": group.model, "params": group.params, "recipe_hash": group.recipe_hash}
                out.setdefault(group.name, []).append(
                    Curve(
                        compute=rows[column],
                        performance=rows[metric],
                        axis=axis,
                        metric=metric,
                        run_id=str(run),
                        labels=labels,
                    )
                )
    return out


def _curve_caption(axis: str, fitted: bool, shared: bool) -> str:
    text = (
        f"Held-out pass@1 against {AXES[axis][0]}. Points with 90 % sampling error; the point at 0 is the base model."
    )
    if shared:
        return text + " GPU-hours of runs that shared a device are noise, so no law is fitted to them."
    if fitted:
        return (
            text
            + " Line and band: median and 90 % interval of the fit, solid over the fitted window, dotted where extrapolated to 4 x."
        )
    return text


def number(value: Any) -> str:
    """Three significant digits, or a dash."""
    v = float(value)
    if not math.isfinite(v):
        return "–"
    return f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}"


def count(value: Any) -> str:
    """A count in K, M, B or T."""
    v = float(value)
    if not math.isfinite(v):
        return "–"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if v >= size:
            return f"{v / size:.3g}{unit}"
    return f"{v:g}"


def score(value: Any) -> str:
    """An accuracy with three decimals, or a dash."""
    return f"{float(value):.3f}" if math.isfinite(float(value)) else "–"


def percent(value: Any) -> str:
    """A share as a percentage with three significant digits, or a dash."""
    v = 100 * float(value)
    return f"{v:.3g} %" if math.isfinite(v) else "–"
