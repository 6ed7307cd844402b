"""What was run and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from scaling import plot
from scaling.cost import COST_FIELDS, ComputeCost
from scaling.errors import ScalingError
from scaling.hardware import peak_flops
from scaling.report.gather import Analysis
from scaling.report.page import Figure, Note, Pair, Section, Table
from scaling.report.text import count, flops, number, percent, plural

__all__ = ["cost_frame", "costs"]


def costs(a: Analysis) -> Section:
    """GPU-hours fitted and paid, FLOPs by phase, utilisation, tokens, lost work."""
    frame: Any = cost_frame(a)
    fitted, paid, lost = (float(frame[c].sum()) for c in ("gpu_hours", "gpu_hours_paid", "redone_gpu_hours"))
    rest = paid - fitted - lost if paid - fitted - lost > 1e-9 * paid else 0.0
    lead = (
        f"{plural(int(frame['runs'].sum()), 'run')} took {_counted(frame['total_flops'])} and "
        f"{number(paid)} GPU-hours: "
        f"{number(fitted)} of training, which laws are fitted against, {number(rest)} of evaluation, start-up and "
        f"other overhead, {number(lost)} lost to restarts."
    )
    known = frame["utilisation"].notna()
    shown = pd.DataFrame(
        {
            "size and recipe": frame["group"],
            "runs": frame["runs"],
            "steps": frame["steps"].map(count),
            "accelerator": frame["accelerator"],
            "GPU-hours, fitted": frame["gpu_hours"].map(number),
            "paid": frame["gpu_hours_paid"].map(number),
            "lost": frame["redone_gpu_hours"].map(number),
            "RL model FLOPs": frame["total_flops"].map(flops),
            "tokens": frame["tokens"].map(count),
            "rollouts": frame["rollouts"].map(count),
            **(
                {"utilisation": frame["utilisation"].map(percent), "training MFU": frame["mfu"].map(percent)}
                if known.any()
                else {}
            ),
        }
    )
    caption = (
        "GPU-hours fitted: devices x wall time of training, without evaluation, start-up and redone work; paid: "
        "all of it; lost: "
        "work that a restart did again. FLOPs are model FLOPs."
    )
    if known.any():
        caption += (
            " Utilisation: model FLOPs / (GPU-seconds x dense bf16 peak), idle time included; MFU: of the "
            "training phase alone."
        )
    if not known.all():
        caption += " Utilisation is left out where no peak is known for the accelerator, or nothing was timed."
    hours, work = _phases(a)
    parts: list[Figure | Pair | Table | Note] = [Table(shown, caption, "cost", frame)]
    if hours or work:
        parts.append(Figure(plot.phases(hours, work), "Where the GPU-hours and the model FLOPs of each group went."))
    return Section("cost", "What was run, and what it cost", lead, tuple(parts))


def cost_frame(a: Analysis) -> pd.DataFrame:
    """One row a group: hours, FLOPs by phase, tokens, rollouts, utilisation."""
    runs: Any = a.table.runs.set_index("run_id")
    sums = _sums(a)
    rows = []
    for group in a.groups:
        part = runs.loc[list(group.run_ids)]
        cost = sum((sums[r] for r in group.run_ids if r in sums), ComputeCost())
        chips = sorted(set(part["accelerator"]))
        rows.append(
            {
                "group": group.name,
                "runs": len(part),
                "steps": int(part["steps"].sum()),
                "accelerator": ", ".join(chips),
                "gpu_hours": float(part["gpu_hours"].sum()),
                "gpu_hours_paid": float(part["gpu_hours_paid"].sum()),
                "redone_gpu_hours": float(part["redone_gpu_hours"].sum()),
                "total_flops": float(part["total_flops"].sum(min_count=1)),
                "generation_flops": cost.generation_flops,
                "scoring_flops": cost.scoring_flops,
                "training_flops": cost.training_flops,
                "total_hardware_flops": cost.total_hardware_flops,
                "tokens": float(part["tokens"].sum()),
                "rollouts": float(part["rollouts"].sum()),
                "utilisation": _utilisation(cost, chips, "utilisation"),
                "mfu": _utilisation(cost, chips, "mfu"),
            }
        )
    return pd.DataFrame(rows)


def _counted(total: pd.Series) -> str:
    """RL model FLOPs of all groups in words; runs that did not count them are no zeros."""
    if total.isna().all():
        return "an uncounted number of RL model FLOPs"
    return f"{'at least ' if total.isna().any() else ''}{flops(total.sum())} RL model FLOPs"


def _sums(a: Analysis) -> Mapping[str, ComputeCost]:
    if not len(a.table.steps):
        return {}
    fields = [f for f in COST_FIELDS if f in a.table.steps.columns]
    sums: Any = a.table.steps.groupby("run_id", sort=False)[fields].sum()
    return {str(run): ComputeCost(**row) for run, row in sums.to_dict("index").items()}


def _utilisation(cost: ComputeCost, chips: list[str], kind: str) -> float:
    """NaN where it is not known: several accelerators, an unknown peak, nothing timed."""
    if len(chips) != 1:
        return math.nan
    try:
        return float(getattr(cost, kind)(peak_flops(chips[0])))
    except ScalingError:
        return math.nan


def _phases(a: Analysis) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    sums, hours, work = _sums(a), {}, {}
    runs: Any = a.table.runs.set_index("run_id")
    for group in a.groups:
        cost = sum((sums[r] for r in group.run_ids if r in sums), ComputeCost())
        spent = {
            p: getattr(cost, f"{p}_gpu_seconds") / 3600
            for p in ("generation", "scoring", "training", "idle", "evaluation", "overhead")
        }
        spent["redone"] = float(runs.loc[list(group.run_ids), "redone_gpu_hours"].sum())
        if any(spent.values()):
            hours[group.name] = spent
        done = {p: getattr(cost, f"{p}_flops") for p in ("generation", "scoring", "training")}
        if any(done.values()):
            work[group.name] = done
    return hours, work
