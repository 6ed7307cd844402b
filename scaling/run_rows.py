"""One run's records -> its rows: cost summed over restarts, redone steps kept once, evaluations scored."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from scaling import records
from scaling.columnar import ArrayCost, Columns
from scaling.cost import COST_FIELDS, ComputeCost
from scaling.metrics import sampling_error

__all__ = ["AXIS_COLUMNS", "SETTINGS", "Assembled", "assemble", "axes_of", "complete", "kept_until"]

# one run: its row of runs, its steps (rows, or columns where the file was plain), its rows of evals, what was skipped
Assembled = tuple[dict[str, Any], list[dict[str, Any]] | Columns, list[dict[str, Any]], list[records.Skipped]]

AXIS_COLUMNS = (
    "gpu_hours", "total_flops", "tokens", "rollouts", "pretraining_flops_ratio", "pretraining_gpu_hours_ratio",
)  # fmt: skip

# settings of a run that tell recipes apart, by their place in its configuration
SETTINGS = {
    "task": ("task", "name"),
    "group_size": ("grpo", "group_size"),
    "updates_per_rollout": ("grpo", "updates_per_rollout"),
    "temperature": ("grpo", "temperature"),
    "top_p": ("grpo", "top_p"),
    "max_completion_length": ("grpo", "max_completion_length"),
}


def assemble(
    record: records.RunRecord,
    step_lines: Iterable[tuple[dict[str, Any], int]],
    eval_lines: Iterable[tuple[dict[str, Any], int]],
    *,
    path: Path,
    skipped: Iterable[records.Skipped] = (),
) -> Assembled:
    """One run's row, step rows and evaluation rows from its record and its lines with their numbers.

    ``record.provenance["unknown_axes"]`` names axes whose cost the run's log does not hold: they are NaN, never 0.
    """
    bad = list(skipped)
    unknown = frozenset(record.provenance.get("unknown_axes") or ())
    last_kept = kept_until(record)
    costs: dict[tuple[int, int], dict[str, float]] = {}
    metrics: dict[tuple[int, int], dict[str, Any]] = {}
    redone = ComputeCost()
    for row, number in step_lines:
        reason = records.check_step(row)
        if reason:
            bad.append(records.Skipped(records.STEPS, number, reason))
            continue
        segment, step = row.get("segment", 0), row["step"]
        if step > last_kept.get(segment, math.inf):
            redone = redone + ComputeCost(**row.get("cost", {}))
            continue
        total = costs.setdefault((step, segment), {})
        for key, value in row.get("cost", {}).items():
            total[key] = total.get(key, 0) + value
        metrics.setdefault((step, segment), {}).update(row.get("metrics", {}))
    pre = record.pretraining() or {}
    pre_flops, pre_hours = pre.get("flops"), pre.get("gpu_hours")
    steps, total = [], ComputeCost()
    for key in sorted(costs):
        cost = ComputeCost(**costs[key])
        total = total + cost
        if not metrics[key]:  # a line of pure cost (start-up, evaluation after the last step) is no step of its own
            if key[0] == 0 or any((key[0], s) in metrics and metrics[key[0], s] for s in range(key[1] + 1)):
                continue
        row = {"run_id": record.run_id, "step": key[0], "segment": key[1]}
        row |= {name: getattr(cost, name) for name in COST_FIELDS} | {"gpu_seconds": cost.gpu_seconds}
        row |= {f"cumulative_{a}": v for a, v in axes_of(total, pre_flops, pre_hours, unknown).items()}
        steps.append(row | metrics[key] | row)  # a metric called 'step' or like a cost does not replace it
    return complete(record, steps, total, redone, eval_lines, path=path, bad=bad)


def kept_until(record: records.RunRecord) -> dict[int, float]:
    """Segment -> the last step of it that was kept: later segments restart from their checkpoint."""
    resumed = {i: s.get("resumed_from") for i, s in enumerate(record.segments)}
    return {
        i: min((r for j, r in resumed.items() if j > i and r is not None), default=math.inf)
        for i in range(len(resumed) + 1)
    }


def complete(
    record: records.RunRecord,
    steps: list[dict[str, Any]] | Columns,
    total: ComputeCost,
    redone: ComputeCost,
    eval_lines: Iterable[tuple[dict[str, Any], int]],
    *,
    path: Path,
    bad: list[records.Skipped],
) -> Assembled:
    """Evaluations and the run's own row, once its steps are merged."""
    unknown = frozenset(record.provenance.get("unknown_axes") or ())
    last_kept = kept_until(record)
    pre = record.pretraining() or {}
    pre_flops, pre_hours = pre.get("flops"), pre.get("gpu_hours")
    evals: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row, number in eval_lines:
        reason = records.check_eval(row)
        if reason:
            bad.append(records.Skipped(records.EVALS, number, reason))
            continue
        if row["step"] > last_kept.get(row.get("segment", 0), math.inf):
            continue  # its step was redone from an earlier checkpoint and evaluated again
        out = _eval_row(record.run_id, row, pre_flops, pre_hours, unknown)
        evals[out["benchmark"], out["decoding"], out["k"], out["temperature"], out["step"]] = out  # newest wins
    run = {
        "run_id": record.run_id, "name": record.name or path.name, "sweep": record.sweep,
        "model": record.model.get("name", ""), "params": record.model.get("params", math.nan),
        "recipe_hash": record.recipe_hash, "base_hash": record.base_hash,
        "seed": (record.config.get("seed") if isinstance(record.config, dict) else None),
        "accelerator": record.accelerator, "devices": record.devices, "shared": bool(record.shared),
        "pretraining_flops": math.nan if pre_flops is None else pre_flops,
        "pretraining_gpu_hours": math.nan if pre_hours is None else pre_hours,
        "pretraining_tokens": _number(pre.get("tokens")),
        "pretraining_loss": _number(pre.get("validation_loss", pre.get("loss"))),
        "pretraining_comparable": bool(pre.get("comparable", True)),
        "hyperparameters_tuned": _tuned(record.config),
        "pretraining_source": pre.get("source", ""),
        "gpu_hours": total.gpu_hours, "gpu_hours_paid": total.gpu_hours_paid + redone.gpu_hours_paid,
        "redone_gpu_hours": redone.gpu_hours_paid,
        "total_flops": total.total_flops, "tokens": total.tokens, "rollouts": total.rollouts,
        "steps": max((r["step"] for r in steps), default=0) if isinstance(steps, list) else int(max(steps["step"])), "segments": len(record.segments),
        "status": record.status, "confidence": record.confidence,
        "trainer": record.provenance.get("trainer", ""), "path": str(path),
        "reward_range": _text((record.provenance.get("semantics") or {}).get("reward_range")),
    } | _settings(record.config)  # fmt: skip
    run |= {f"total_{name}": getattr(total, name) for name in COST_FIELDS if name.endswith("flops")}
    run |= dict.fromkeys(unknown & run.keys(), math.nan)
    if "gpu_hours" in unknown:
        run["gpu_hours_paid"] = math.nan
    return run, steps, list(evals.values()), bad


def axes_of(
    cost: ComputeCost | ArrayCost, pre_flops: float | None, pre_hours: float | None, unknown: frozenset[str]
) -> dict[str, Any]:
    """`AXIS_COLUMNS` of a cumulative cost; NaN where pretraining, or the axis itself, is not known."""
    axes = {
        "gpu_hours": cost.gpu_hours,
        "total_flops": cost.total_flops,
        "tokens": cost.tokens,
        "rollouts": cost.rollouts,
        "pretraining_flops_ratio": cost.total_flops / pre_flops if pre_flops else math.nan,
        "pretraining_gpu_hours_ratio": cost.gpu_hours / pre_hours if pre_hours else math.nan,
    }
    for name, ratio in (("total_flops", "pretraining_flops_ratio"), ("gpu_hours", "pretraining_gpu_hours_ratio")):
        if name in unknown:
            axes[ratio] = math.nan
    return axes | dict.fromkeys(unknown & axes.keys(), math.nan)


def _eval_row(
    run_id: str, row: dict[str, Any], pre_flops: float | None, pre_hours: float | None, unknown: frozenset[str]
) -> dict[str, Any]:
    sampling = row.get("sampling") or {}
    counts, k = row.get("successes"), row.get("k")
    cost = ComputeCost(**row.get("cost", {}))
    out: dict[str, Any] = {
        "run_id": run_id, "step": row["step"], "segment": row.get("segment", 0), "benchmark": row["benchmark"],
        "decoding": sampling.get("decoding", "sampled"), "temperature": sampling.get("temperature"),
        "k": k, "n_items": len(counts) if counts is not None else row.get("n_items"),
        "successes": counts,
        "completion_length": row.get("completion_length", math.nan),
        "truncation_rate": row.get("truncation_rate", math.nan),
    }  # fmt: skip
    if counts is not None and k:
        array = np.asarray(counts, dtype=float)
        out["pass@1"] = float(array.mean()) / k if counts else math.nan
        out["stderr"] = sampling_error(array, k)
    else:
        out["pass@1"], out["stderr"] = row.get("score", math.nan), row.get("stderr", math.nan)
    # further scores of the same samples: maj@8, best@8, pass@8 as a foreign trainer computed it
    return (row.get("metrics") or {}) | out | axes_of(cost, pre_flops, pre_hours, unknown)


def _settings(config: Any) -> dict[str, Any]:
    """The `SETTINGS` of a run; None where its configuration (a foreign one) does not say."""
    out = dict.fromkeys(SETTINGS)
    for name, (group, key) in SETTINGS.items():
        part = config.get(group) if isinstance(config, dict) else None
        if isinstance(part, dict):
            out[name] = part.get(key)
    return out


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _tuned(config: Any) -> bool | None:
    """Whether hyperparameters were tuned for this size; None where the configuration does not say."""
    model = config.get("model") if isinstance(config, dict) else None
    hyper = model.get("hyperparameters") if isinstance(model, dict) else None
    return hyper.get("tuned") if isinstance(hyper, dict) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
