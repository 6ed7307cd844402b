"""A run directory being written: the lock, the segments of run.json, and what a restart finds."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scaling import records
from scaling.cost import ComputeCost
from scaling.errors import RecordError
from scaling.records import RunRecord
from sweeps.files import read_json, write_json

__all__ = ["LEDGER", "RunDirectory", "complete_checkpoints", "file_sizes", "git_commit", "holder", "ledger_cost"]

LEDGER = "ledger.json"  # written last into a checkpoint: its presence says that the checkpoint is complete


class RunDirectory:
    """Exclusive access to one run directory, for one segment; ranks other than the first read only (``main=False``).

    Raises:
        RecordError: another process holds the directory (the message names it), or it cannot be written.
    """

    def __init__(self, path: Path, *, main: bool = True) -> None:
        self.path, self.main = path, main
        self.record: RunRecord | None = None
        self._progress = ("", 0.0)
        self._lock = FileLock(path / records.LOCK)
        self.hold()

    def hold(self) -> None:
        """Take the directory (again, after `release`); ranks other than the first never do.

        Raises:
            RecordError: another process holds it, or it cannot be written.
        """
        if not self.main or self._lock.is_locked:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(
                f"cannot create run directory {self.path}: {error.strerror}; choose another runs_dir"
            ) from error
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RecordError(
                f"run directory {self.path} is in use by {holder(self.path)}; wait for it, or stop it first"
            ) from error
        body = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        write_json(self.path / f"{records.LOCK}.holder", body)

    @property
    def checkpoints(self) -> Path:
        """Folder of resumable checkpoints."""
        return self.path / records.CHECKPOINTS

    @property
    def segment(self) -> int:
        """Number of the current segment."""
        assert self.record is not None
        return len(self.record.segments) - 1

    def open_segment(self, record: RunRecord, *, resumed_from: int | None, commit: str | None) -> int:
        """Write run.json with a new segment; an earlier segment that never ended is marked interrupted."""
        earlier: tuple[Any, ...] = ()
        if records.is_run(self.path):
            earlier = tuple(
                s if s.get("end") else {**s, "end": None, "cause": "interrupted"}
                for s in records.read_run(self.path).segments
            )
        segment = {
            "start": _now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "resumed_from": (resumed_from or 0) if earlier else None,  # 0: no checkpoint yet, all of it is redone
            "git_commit": commit,
            "packages": _versions(),
            "python": platform.python_version(),
        }
        self.record = replace(record, segments=(*earlier, segment), status="running")
        self._write()
        return self.segment

    def close_segment(self, cause: str, **facts: Any) -> None:
        """Write how the segment ended: finished, budget, interrupted or failed."""
        assert self.record is not None
        last = {**self.record.segments[-1], "end": _now(), "cause": cause, **facts}
        self.record = replace(self.record, segments=(*self.record.segments[:-1], last), status=cause)
        self._write()

    def update(self, **fields: Any) -> None:
        """Replace fields of run.json."""
        assert self.record is not None
        self.record = replace(self.record, **fields)
        self._write()

    def _write(self) -> None:
        if self.main and self.record is not None:
            records.write_run(self.path, self.record)

    def progress(self, stage: str, step: int, total: int | None, **facts: Any) -> None:
        """Say how far the run is, for the launcher's display, at most once a second a stage; never fails a run."""
        now = time.monotonic()
        if not self.main:
            return
        if stage == self._progress[0] and now - self._progress[1] < 1.0:
            return
        self._progress = (stage, now)
        try:
            write_json(
                self.path / "progress.json",
                {"stage": stage, "step": step, "total": total, "time": time.time(), **facts},
            )
        except RecordError:
            pass

    def latest_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest complete checkpoint and its ledger; incomplete ones (a kill while writing) are removed."""
        for folder in sorted(self.checkpoints.glob("checkpoint-*")) if self.checkpoints.is_dir() else []:
            if self.main and not (folder / LEDGER).is_file():
                shutil.rmtree(folder, ignore_errors=True)
        for path, ledger in reversed(complete_checkpoints(self.checkpoints)):
            damage = _damage(path, ledger)
            if damage is None:
                return path, ledger
            if self.main:
                print(f"{path} is damaged ({damage}): going on from an earlier checkpoint", file=sys.stderr, flush=True)
        return None

    def release(self) -> None:
        """Let the directory go."""
        self._lock.release()


def holder(path: Path) -> str:
    """Who holds a run directory, in words."""
    try:
        body = json.loads((path / f"{records.LOCK}.holder").read_text())
        return f"process {body['pid']} on {body['host']} since {body['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def complete_checkpoints(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Complete checkpoints with their ledgers, by step; one whose ledger cannot be read is none."""
    found = [(path, read_json(path / LEDGER)) for path in (folder.glob("checkpoint-*") if folder.is_dir() else [])]
    whole = [(p, body) for p, body in found if isinstance(body.get("step"), int) and isinstance(body.get("cost"), dict)]
    return sorted(whole, key=lambda item: item[1]["step"])


def file_sizes(folder: Path) -> dict[str, int]:
    """Size of every file of a checkpoint but its ledger [byte]: a copy or a power cut may leave them short."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LEDGER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _damage(folder: Path, ledger: dict[str, Any]) -> str | None:
    """What a checkpoint lacks of what was written, or None; ledgers of earlier versions do not tell."""
    held = file_sizes(folder)
    for name, size in ledger.get("files", {}).items():
        if held.get(name) != size:
            return f"{name} must have {size} bytes, it {f'has {held[name]}' if name in held else 'is missing'}"
    return None


def ledger_cost(ledger: dict[str, Any]) -> ComputeCost:
    """Cumulative cost at a checkpoint."""
    return ComputeCost.from_dict(ledger["cost"])


def git_commit(folder: Path) -> str | None:
    """Commit of the code, with ``+`` where the tree has changes; None outside a repository."""
    import subprocess

    if commit := os.environ.get("RL_SCALING_COMMIT"):  # set by the launcher beside its snapshot of the code
        return commit
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None


def _versions() -> dict[str, str]:
    out = {}
    for name in (
        "rl-scaling",
        "torch",
        "transformers",
        "trl",
        "accelerate",
        "datasets",
        "wandb",
        "hydra-core",
        "numpy",
        "vllm",
        "peft",
    ):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
