"""The manifest: one row a run, written before anything is submitted, and checked when the sweep is launched again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import ConfigError, RecordError
from sweeps.files import write_json
from sweeps.launching.display import aligned

if TYPE_CHECKING:
    from sweeps.launching.predict import Prediction
    from sweeps.launching.rows import PlannedRun

__all__ = ["MANIFEST", "build_manifest", "read_manifest", "render", "write_manifest"]

MANIFEST = "manifest.json"
COLUMNS: tuple[str, ...] = (
    "run_id", "label", "overrides", "rows", "recipe_hash", "base_hash", "model", "seed", "budget", "milestones", "devices",
    "steps", "flops", "gpu_hours", "usd", "disk_gb", "memory_gb", "pretraining_flops_ratio", "completion_length", "prompt_length", "note",
)  # fmt: skip


def build_manifest(runs: Sequence[PlannedRun]) -> list[dict[str, Any]]:
    """One row a run, in the grid's order.

    Raises:
        ConfigError: runs that cannot fit the memory asked for, one line each.
    """
    from sweeps.launching.predict import predict

    rows, errors = [], []
    for run in runs:
        try:
            rows.append(_row(run, predict(run.config)))
        except ConfigError as error:
            errors.append(f"{error}  [{run.label}]")
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    return rows


def write_manifest(sweep_dir: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write ``manifest.json`` and ``manifest.csv``; runs of earlier launches of the sweep are kept.

    Raises:
        ConfigError: the manifest that is there was changed by hand.
        RecordError: the sweep directory cannot be written.
    """
    earlier = [row for row in read_manifest(sweep_dir) if row["run_id"] not in {r["run_id"] for r in rows}]
    everything = [*rows, *earlier]
    path = sweep_dir / MANIFEST
    write_json(path, {"schema_version": 1, "runs": everything, "sha256": _digest(everything)})
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in everything:
        writer.writerow({k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in row.items()})
    try:
        path.with_suffix(".csv").write_text(out.getvalue(), encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"cannot write {path.with_suffix('.csv')}: {error.strerror}; free space or fix permissions, then rerun"
        ) from error
    return path


def read_manifest(sweep_dir: Path) -> list[dict[str, Any]]:
    """Rows of a sweep's manifest; empty where there is none.

    Raises:
        ConfigError: the file is not as it was written.
    """
    path = sweep_dir / MANIFEST
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        rows = body["runs"]
        if body["sha256"] != _digest(rows):
            raise ValueError("its rows do not match its checksum")
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} must be as the launcher wrote it, got one changed by hand ({error}): move it away and launch again, runs keep their records"
        ) from error
    return rows


def render(rows: Sequence[dict[str, Any]]) -> str:
    """The manifest as a table with its total, for people."""
    header = ("run", "model", "seed", "budget", "steps", "FLOPs", "GPU-h", "USD", "disk GB", "memory GB", "completion")
    body = [
        (
            r["label"], r["model"], str(r["seed"]), " ".join(f"{k}={v:g}" for k, v in r["budget"].items()), _number(r["steps"], ".0f"),
            _number(r["flops"], ".3g"), _number(r["gpu_hours"], ".3g"), _number(r["usd"], ".2f"), _number(r["disk_gb"], ".2g"),
            _number(r["memory_gb"], ".2g"), str(r["completion_length"]),
        )
        for r in rows
    ]  # fmt: skip
    sums = (("flops", ".3g"), ("gpu_hours", ".3g"), ("usd", ".2f"), ("disk_gb", ".2g"))
    total = ("total", "", "", "", "", *(_sum(rows, key, spec) for key, spec in sums), "", "")
    shown = aligned([header, *body, total], left=4)
    notes = dict.fromkeys(r["note"] for r in rows if r["note"])
    return "\n".join([*shown, *(f"note: {note}" for note in notes)])


def _row(run: PlannedRun, prediction: Prediction) -> dict[str, Any]:
    config = run.config
    return {
        "run_id": run.run_id, "label": run.label, "overrides": list(run.overrides), "rows": list(run.rows),
        "recipe_hash": config.recipe_hash, "base_hash": config.base_hash, "model": config.model.name, "seed": config.seed,
        "budget": config.budget.limits(), "milestones": [m.limits() for m in config.milestones],
        "devices": config.cluster.devices, "engine": config.cluster.engine, **prediction.to_dict(),
    }  # fmt: skip


def _number(value: float | None, spec: str) -> str:
    return "?" if value is None else format(value, spec)


def _sum(rows: Sequence[dict[str, Any]], key: str, spec: str) -> str:
    values = [r[key] for r in rows if r[key] is not None]
    return format(sum(values), spec) if len(values) == len(rows) else f">={sum(values):{spec}}" if values else "?"


def _digest(rows: Any) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
