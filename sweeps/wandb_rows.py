"""The rows of a run's W&B mirror, computed from its records, and what of them a server lacks.

A row is known by its step and by its parts: the training metrics, and the scores of each benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.cost import COST_FIELDS, ComputeCost
from scaling.runs import AXIS_COLUMNS, load_runs
from sweeps.devices import stated_peak
from sweeps.tracking import compute_metrics
from sweeps.wandb_mirror import STEP, number

__all__ = ["Part", "Row", "lacking_rows", "parts_of", "record_rows"]

Row = dict[str, float]
Part = tuple[int, str]  # step, and "train" or "eval/<benchmark>"

AXES = tuple(a for a in AXIS_COLUMNS if a != "rollouts")
_NOT_METRICS = {"run_id", "step", "segment", "gpu_seconds", *COST_FIELDS}


def record_rows(path: Path) -> list[Row]:
    """The rows that a complete mirror of the run has, one a step, in order; the keys are those of the live mirror.

    Redone steps appear once, with their newest metrics, at the compute that counts (`scaling.load_runs`).
    """
    table = load_runs(path)
    run = table.runs.iloc[0]
    peak = stated_peak(str(run["accelerator"]))
    rows: dict[int, Row] = {}
    rollouts = 0.0
    metrics = [c for c in table.steps.columns if c not in _NOT_METRICS and not c.startswith("cumulative_")]
    for step in table.steps.to_dict("records"):
        cost = ComputeCost(**{name: step[name] for name in COST_FIELDS})
        rollouts += cost.rollouts
        row = rows.setdefault(int(step["step"]), {})
        row |= {axis: step[f"cumulative_{axis}"] for axis in AXES}
        row |= {f"train/{name}": step[name] for name in metrics}
        row |= compute_metrics(cost, devices=int(run["devices"]), rollouts=rollouts, peak=peak)
    for evaluation in table.evals.to_dict("records"):
        row = rows.setdefault(int(evaluation["step"]), {})
        row |= {axis: row.get(axis, evaluation[axis]) for axis in AXES}
        name = f"eval/{evaluation['benchmark']}"
        if evaluation["decoding"] == "sampled":
            scores = ("pass@1", "stderr", "completion_length", "truncation_rate")
            row |= {f"{name}/{score}": evaluation[score] for score in scores}
        else:
            row[f"{name}/{evaluation['decoding']}"] = evaluation["pass@1"]
    return [{STEP: step, **_numbers(rows[step])} for step in sorted(rows)]


def parts_of(row: Mapping[str, Any]) -> set[Part]:
    """What a row carries: its step with ``train`` and with each benchmark it has scores of."""
    step = row.get(STEP)
    if not isinstance(step, (int, float)) or not math.isfinite(step):
        return set()
    names = {"train" for key in row if key.startswith("train/") and key != STEP and row[key] is not None}
    names |= {key.rsplit("/", 1)[0] for key in row if key.startswith("eval/") and row[key] is not None}
    return {(int(step), name) for name in names}


def lacking_rows(rows: Sequence[Row], present: set[Part]) -> list[Row]:
    """The rows, or the parts of rows, that are not present; the axes go with each."""
    out = []
    for row in rows:
        step = int(row[STEP])
        parts = {name for s, name in parts_of(row) if (s, name) not in present}
        if parts == {name for _, name in parts_of(row)}:
            out += [row] if parts else []
        elif parts:
            keep = {k: v for k, v in row.items() if k in AXES or k == STEP or k.rsplit("/", 1)[0] in parts}
            out.append(keep | {STEP: step})
    return out


def _numbers(row: Mapping[str, Any]) -> Row:
    plain = {key: number(value) for key, value in row.items()}
    return {key: value for key, value in plain.items() if value is not None and math.isfinite(value)}
