"""MLflow: the file store (``mlruns/EXPERIMENT/RUN/metrics/KEY``: lines of timestamp, value, step) and its SQLite database."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from scaling.errors import ForeignLogError
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.mapping_file import recognise
from scaling.importers.rows import MAX_STEP
from scaling.importers.series import add_series
from scaling.importers.values import head, number
from scaling.records import Skipped

__all__ = ["read"]

Series = dict[str, list[tuple[int, float, float]]]
_STATUS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted", "RUNNING": "running", "1": "running",
           "3": "finished", "4": "failed", "5": "interrupted"}  # fmt: skip


def read(
    path: str | Path, mapping: TrainerMapping | None, progress: Callable[[int], Any] | None = None
) -> list[RawRun]:
    """Read a store: an ``mlruns`` folder, an experiment's or a run's folder in it, or an SQLite database file.

    Raises:
        ForeignLogError: there are no runs with metrics, or the database is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise ForeignLogError(f"{path} must exist")
    runs = _database(path, mapping) if path.is_file() else _folder(path, mapping)
    if progress:
        progress(0)
    if not runs:
        raise ForeignLogError(f"{path} must be an MLflow store with runs that logged metrics; it has none")
    return runs


def _make(
    name: str, where: Path, series: Series, params: dict[str, str], status: str, mapping: TrainerMapping | None
) -> RawRun:
    # verl writes @ as _at_, which MLflow's names do not allow
    series = {key.replace("_at_", "@"): points for key, points in series.items()}
    run = RawRun(
        name=name, source="MLflow", files=(str(where),), mapping=mapping or recognise(series, f"{where} {name}"),
        config=dict(params), status=_STATUS.get(status, "running"),
    )  # fmt: skip
    add_series(run, series)
    return run


def _folder(path: Path, mapping: TrainerMapping | None) -> list[RawRun]:
    folders = sorted(m.parent for m in path.rglob("meta.yaml") if (m.parent / "metrics").is_dir())
    out = []
    for folder in folders:
        meta = _meta(folder / "meta.yaml")
        skipped: list[Skipped] = []
        series: Series = {}
        for file in sorted(f for f in (folder / "metrics").rglob("*") if f.is_file()):
            key = file.relative_to(folder / "metrics").as_posix()
            series[key] = _points(file, skipped)
        if not any(series.values()):
            continue
        params = {
            f.relative_to(folder / "params").as_posix(): f.read_text(encoding="utf-8", errors="replace").strip()
            for f in sorted((folder / "params").rglob("*"))
            if f.is_file()
        }
        name = str(meta.get("run_name") or meta.get("run_id") or folder.name)
        run = _make(name, folder, series, params, str(meta.get("status", "")), mapping)
        run.skipped += skipped
        out.append(run)
    return out


def _meta(file: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8", errors="replace"))
    except yaml.YAMLError:
        return {}
    return body if isinstance(body, dict) else {}


def _points(file: Path, skipped: list[Skipped]) -> list[tuple[int, float, float]]:
    points = []
    with file.open(encoding="utf-8", errors="replace") as f:
        for line_number, line in enumerate(f, 1):
            parts = line.split()
            stamp, value = (number(parts[0]), number(parts[1])) if len(parts) >= 2 else (None, None)
            if value is None or stamp is None or not math.isfinite(stamp) or not line.endswith("\n"):
                skipped.append(Skipped(file.name, line_number, "not 'timestamp value step'"))
                continue
            step = number(parts[2]) if len(parts) > 2 else 0.0
            if step is None or not (0 <= step < MAX_STEP and step == int(step)):
                skipped.append(Skipped(file.name, line_number, f"step must be a whole number, got {parts[2][:40]!r}"))
                continue
            points.append((int(step), value, stamp / 1000))
    return points


def _database(path: Path, mapping: TrainerMapping | None) -> list[RawRun]:
    if not head(path, 16).startswith(b"SQLite format 3"):
        raise ForeignLogError(f"{path} must be an SQLite database of MLflow, or name its mlruns folder")
    try:
        with sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True) as db:
            runs = db.execute("select run_uuid, name, status from runs order by start_time").fetchall()
            out = []
            for run_id, name, status in runs:
                series: Series = {}
                query = "select key, step, value, timestamp, is_nan from metrics where run_uuid = ? order by timestamp, rowid"
                for key, step, value, stamp, is_nan in db.execute(query, (run_id,)):
                    held = math.nan if is_nan else number(value)
                    if held is not None and isinstance(step, int) and step >= 0:
                        series.setdefault(str(key), []).append((step, held, (number(stamp) or 0) / 1000))
                params = dict(db.execute("select key, value from params where run_uuid = ?", (run_id,)))
                if series:
                    out.append(_make(str(name or run_id), path, series, params, str(status), mapping))
            return out
    except sqlite3.Error as error:
        raise ForeignLogError(f"{path} must be an SQLite database of MLflow: {error}") from error
