"""What training looked like beside the curve: the signs of health, and pass@k of base and trained model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scaling import plot
from scaling.collapse import Collapse, collapse_table, find_collapses
from scaling.curve import AXES, Curve
from scaling.metrics import pass_at_k, standard_error
from scaling.report.gather import Analysis
from scaling.report.groups import Group
from scaling.report.page import Figure, Note, Pair, Section, Table
from scaling.report.text import plural, some

__all__ = ["collapsed", "health", "more_samples", "step_curves"]

HEALTH = ("reward", "completion_length", "truncation_rate", "entropy", "zero_variance_fraction", "kl")


def health(a: Analysis) -> Section:
    """Reward, completion length, truncation, entropy and zero-variance fraction beside the curve."""
    parts: list[Figure | Pair | Table | Note] = []
    for metric in ("reward", "completion_length"):
        beside = []
        for axis in ("gpu_hours", "pretraining_flops_ratio"):
            groups = step_curves(a, metric, axis)
            if groups:
                name = metric.replace("_", " ")
                figure = plot.dense_curves(groups, style=a.style).update_layout(height=300, showlegend=False)
                beside.append(Figure(figure, f"Training {name} against {AXES[axis][0]}."))
        if beside:
            parts.append(Pair(tuple(beside)))
    if parts:
        parts.append(
            Note(
                (
                    "Lines are the mean of the steps in a bin of log compute, bands their 10th to 90th "
                    "percentile; colours as below.",
                )
            )
        )
    axis = a.axis
    rows: dict[str, Mapping[str, Sequence[Curve]]] = {}
    if a.curves.get(axis):
        rows["held-out pass@1 [0 to 1]"] = a.curves[axis]
    for metric in HEALTH:
        groups = step_curves(a, metric, axis)
        if groups:
            rows[plot.metric_label(metric)] = groups
    if len(rows) > 1:
        figure = plot.panels(rows, columns=2, style=a.style, points=("held-out pass@1 [0 to 1]",))
        parts.append(
            Figure(
                figure,
                f"The same runs against {AXES[axis][0]}: what moves with the curve, and what moves before it stalls.",
            )
        )
    truncated, broken = _high_truncation(a), collapsed(a)
    if broken:
        names = dict(zip(a.table.runs["run_id"], a.table.runs["name"]))
        shown = [
            {"run": names.get(c.run_id, c.run_id), "verdict": c.verdict, "signs": "; ".join(c.signs)} for c in broken
        ]
        caption = (
            "By the stated rule of scaling.collapse, applied to the training reward. Nothing is dropped because of it."
        )
        parts.insert(0, Table(pd.DataFrame(shown), caption, "collapse", collapse_table(broken)))
    lead = "No training metric is recorded."
    if parts:
        lead = "Completions are seldom cut off: no group ends with more than a tenth of them truncated."
        if broken:
            fell = [c.run_id for c in broken if c.verdict == "collapsed"]
            lead = (
                f"{plural(len(fell), 'run')} collapsed and {len(broken) - len(fell)} more at risk, by the signs below."
            )
        elif truncated:
            lead = (
                f"More than a tenth of the completions are cut off at the end in {some(truncated)}: "
                "longer ones cannot score there."
            )
        elif not step_curves(a, "truncation_rate", axis):
            lead = "Reward and completion length of the same runs; the truncation rate is not recorded."
    return Section("training", "Reward, completion length and health", lead, tuple(parts))


def collapsed(a: Analysis) -> list[Collapse]:
    """Runs that collapsed or are at risk, by the rule of `scaling.collapse`."""
    if "reward" not in a.table.steps.columns or not a.table.steps["reward"].notna().any():
        return []
    found = find_collapses(a.table, axis="step")
    return [c for c in found.values() if c.verdict in ("collapsed", "at risk")]


def more_samples(a: Analysis) -> Section | None:
    """pass@k of base and trained model: did RL widen what is solved, or only make the first sample better?"""
    curves: dict[str, dict[str, Any]] = {}
    for group in a.groups:
        states = _pass_at_k(a, group)
        if states:
            curves[group.name] = states
    if not curves:
        return None
    raw = [
        {"group": name, "state": state, "k": int(k), "pass_at_k": float(p), "stderr": float(e)}
        for name, states in curves.items()
        for state, (ks, ps, es) in states.items()
        for k, p, e in zip(ks, ps, es)
    ]
    crossed = [n for n, s in curves.items() if s["base"][1][-1] > s["trained"][1][-1]]
    most = max(int(s["trained"][0][-1]) for s in curves.values())
    lead = (
        f"With {most} samples a problem the base solves more than the trained model in {some(crossed)}: there RL "
        "narrowed what is solved."
        if crossed
        else f"Up to pass@{most} the trained models solve at least what their bases solve."
    )
    figure = plot.pass_at_k(curves, style=a.style)
    caption = f"pass@k (unbiased) on {a.benchmark}, base dotted and hollow, trained solid; bands are 90 % over items."
    return Section(
        "pass-at-k",
        "More samples: base against trained",
        lead,
        (Figure(figure, caption), Table(pd.DataFrame(), "", "pass_at_k", pd.DataFrame(raw))),
    )


def step_curves(a: Analysis, metric: str, axis: str) -> Mapping[str, Sequence[Curve]]:
    """Curves of a metric of the steps by group; runs without the metric or the axis are left out."""
    column = f"cumulative_{axis}"
    steps: Any = a.table.steps
    if metric not in steps.columns or column not in steps.columns:
        return {}
    usable = steps[metric].notna() & steps[column].notna() & (steps[column] > 0)
    by_run = a.rows_by_run
    values, compute, keep = steps[metric].to_numpy(float), steps[column].to_numpy(float), usable.to_numpy(bool)
    out: dict[str, list[Curve]] = {}
    for group in a.groups:
        labels = {"model": group.model, "params": group.params, "recipe_hash": group.recipe_hash}
        for run in group.run_ids:
            rows = by_run.get(run)
            rows = rows[keep[rows]] if rows is not None else np.array([], int)
            if rows.size:
                curve = Curve(
                    compute=compute[rows], performance=values[rows], axis=axis, metric=metric, run_id=run, labels=labels
                )
                out.setdefault(group.name, []).append(curve)
    return out


def _high_truncation(a: Analysis) -> list[str]:
    groups = step_curves(a, "truncation_rate", a.axis)
    return [
        name
        for name, members in groups.items()
        if np.mean([c.performance[-max(1, len(c) // 10) :].mean() for c in members]) > 0.1
    ]


def _pass_at_k(a: Analysis, group: Group) -> dict[str, Any] | None:
    """k, pass@k and its error for base and trained, from the run of the group with most samples."""
    evals: Any = a.table.evals
    if "successes" not in evals.columns or not len(evals):
        return None
    part = evals[
        evals["run_id"].isin(group.run_ids) & (evals["benchmark"] == a.benchmark) & (evals["decoding"] == "sampled")
    ]
    part = part[part["successes"].notna() & part["k"].notna()]
    best: tuple[int, dict[str, Any]] | None = None
    for _, rows in part.groupby("run_id", sort=False):
        rows = rows.sort_values("step", kind="stable")
        first, last = rows.iloc[0], rows.iloc[-1]
        most = int(min(first["k"], last["k"]))
        if first["step"] != 0 or last["step"] == 0 or most < 4 or (best and most <= best[0]):
            continue
        ks = [2**i for i in range(int(math.log2(most)) + 1)]
        states = {}
        for state, row in (("base", first), ("trained", last)):
            scores = [pass_at_k(row["successes"], int(row["k"]), k) for k in ks]
            states[state] = (ks, [float(s.mean()) for s in scores], [standard_error(s) for s in scores])
        best = (most, states)
    return best[1] if best else None
