"""TRL and Hugging Face: ``trainer_state.json``, whose ``log_history`` holds a row a logging step and a row an evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.series import add_rows
from scaling.importers.values import head, number
from scaling.records import Skipped

__all__ = ["read"]


def read(path: str | Path, mapping: TrainerMapping, progress: Callable[[int], Any] | None = None) -> list[RawRun]:
    """Read one ``trainer_state.json``, or those below a folder: of a run's checkpoints, the one that got furthest.

    Nothing else of a checkpoint is opened: ``training_args.bin`` is a pickle, which would execute what it holds.

    Raises:
        ForeignLogError: there is no such file, or it is not the trainer's JSON.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("trainer_state.json"))
        if not files:
            raise ForeignLogError(f"{path} holds no trainer_state.json; name the file, or a folder with checkpoints")
    elif path.exists():
        files = [path]
    else:
        raise ForeignLogError(f"{path} must exist")
    best: dict[Path, tuple[int, Path, dict[str, Any]]] = {}
    for file in files:
        state = _load(file)
        if progress:
            progress(file.stat().st_size)
        home = file.parent.parent if file.parent.name.startswith("checkpoint-") else file.parent
        reached = number(state.get("global_step")) or 0.0
        reached = int(reached) if math.isfinite(reached) else 0
        if home not in best or reached >= best[home][0]:
            best[home] = (reached, file, state)
    return [_run(home, *found, mapping) for home, found in best.items()]


def _load(file: Path) -> dict[str, Any]:
    head(file)
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ForeignLogError(f"{file} must be the JSON of a trainer's state: {error}") from error
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise ForeignLogError(f"{file} must be a trainer_state.json with 'log_history'")
    return state


def _run(home: Path, reached: int, file: Path, state: dict[str, Any], mapping: TrainerMapping) -> RawRun:
    name = home.resolve().name or "trl"
    run = RawRun(name=name, source="trainer_state.json", files=(str(file),), mapping=mapping)
    rows = []
    for entry in state["log_history"]:
        if isinstance(entry, dict):
            rows.append({k: v for k, raw in entry.items() if (v := number(raw)) is not None})
    lost = add_rows(run, rows, fallback="step")
    if odd := len(state["log_history"]) - len(rows):
        run.skipped.append(Skipped(file.name, 0, f"{odd} entries of log_history that are no JSON object"))
    if lost:
        run.skipped.append(Skipped(file.name, 0, f"{lost} row(s) without a whole step number"))
    run.config = {
        k: v for k, v in state.items() if k in ("train_batch_size", "num_train_epochs", "max_steps", "logging_steps")
    }
    finished = reached >= (number(state.get("max_steps")) or 0) > 0
    run.status = "finished" if finished else "interrupted"
    return run
