"""The state of a run, read from its records: what it is at, how far, how well, how much longer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling import records
from scaling.cost import ComputeCost
from scaling.errors import RecordError
from sweeps.files import read_json
from sweeps.launching.jobs import Job, is_locked
from sweeps.worker import INTERRUPTED

__all__ = ["RunState", "read_state", "tail_rows"]

DONE = ("finished", "budget")
PROGRESS = "progress.json"
TAIL = 1 << 16


@dataclass(frozen=True, kw_only=True)
class RunState:
    """One line of a sweep's status.

    Attributes:
        run_id: which run.
        label: for people.
        state: new, queued, running, finished, interrupted, failed, lost (its process vanished) or cancelled.
        stage: pretrain, rl or evaluation, as the run says.
        step: step of that stage.
        total: steps of that stage; None where the budget is not in steps.
        score: newest held-out pass@1, 0 to 1.
        gpu_hours: metered so far [GPU h]; None where it is not known without reading the whole ledger.
        budget: limits that are set, by name.
        seconds_left: at the pace of the last steps [s].
        log: of the current or last attempt.
        cause: one line on a failure, or on what a queued run waits for.
        attempt: how many processes have been started for it.
    """

    run_id: str
    label: str
    state: str
    stage: str = ""
    step: int | None = None
    total: int | None = None
    score: float | None = None
    gpu_hours: float | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    log: str = ""
    cause: str | None = None
    attempt: int = 0

    @property
    def active(self) -> bool:
        """Whether something still works, or will work, on it."""
        return self.state in ("queued", "running")


def read_state(run_dir: Path, *, run_id: str, label: str, job: Job | None, now: float | None = None) -> RunState:
    """State of a run from its directory and its job.

    The lock says whether a process works on it, ``run.json`` how it ended, the job only what was asked of the engine.
    """
    record, progress = _record(run_dir), read_json(run_dir / PROGRESS)
    status = record.status if record else ""
    failed = (
        job is not None
        and job.returncode not in (None, 0, INTERRUPTED)
        and not _newer(run_dir / records.RUN, job.ended)
    )
    locked = is_locked(run_dir / records.LOCK)
    if locked or (job is not None and job.state == "running"):
        state = "running"
    elif job is not None and job.state == "queued":
        state = "queued"
    elif job is not None and job.state == "cancelled" and status not in DONE:
        state = "cancelled"
    elif failed:
        state = "failed"
    elif status in DONE:
        state = "finished"
    elif status == "running":
        state = "lost"
    elif record is None and job is not None and job.returncode == 0:
        state = "finished"  # an evaluation: its records are the run's own
    else:
        state = status or "new"
    stage, step, total = progress.get("stage", ""), progress.get("step"), progress.get("total")
    if stage in ("rl", "evaluation", "") and (last := _last_step(run_dir)) is not None:
        step, stage = last.get("step", step), stage or "rl"
    last_segment = record.segments[-1] if record and record.segments else {}
    gpu_hours = progress.get("gpu_hours") if state == "running" or "final_cost" not in last_segment else None
    if gpu_hours is None and isinstance(last_segment.get("final_cost"), dict):
        gpu_hours = ComputeCost.from_dict(last_segment["final_cost"]).gpu_hours
    return RunState(
        run_id=run_id, label=label, state=state, stage=stage, step=step, total=total, score=_last_score(run_dir), gpu_hours=gpu_hours,
        budget=_budget(record), seconds_left=_seconds_left(run_dir, progress, step, total) if state == "running" else None,
        log=job.log if job else "", cause=job.cause if job and state in ("failed", "lost", "cancelled", "queued") else None,
        attempt=job.attempt if job else 0,
    )  # fmt: skip


def tail_rows(path: Path, size: int = TAIL) -> list[dict[str, Any]]:
    """The whole lines within the last ``size`` bytes of a JSONL record, oldest first; bad lines left out."""
    try:
        with path.open("rb") as f:
            length = f.seek(0, os.SEEK_END)
            f.seek(max(0, length - size))
            lines = f.read().split(b"\n")
    except FileNotFoundError:
        return []
    rows = []
    for line in lines[1:] if length > size else lines:
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _record(run_dir: Path) -> records.RunRecord | None:
    try:
        return records.read_run(run_dir)
    except RecordError:
        return None


def _budget(record: records.RunRecord | None) -> Mapping[str, float]:
    body = record.config.get("budget") if record else None
    return {k: v for k, v in body.items() if isinstance(v, (int, float))} if isinstance(body, Mapping) else {}


def _newer(path: Path, moment: float | None) -> bool:
    """Whether a file was written after ``moment``: then another process has worked on the run since the job ended."""
    try:
        return moment is not None and path.stat().st_mtime > moment + 1
    except FileNotFoundError:
        return False


def _last_step(run_dir: Path) -> dict[str, Any] | None:
    for size in (4096, TAIL):
        rows = [r for r in tail_rows(run_dir / records.STEPS, size) if isinstance(r.get("step"), int)]
        if rows:
            return rows[-1]
    return None


def _last_score(run_dir: Path) -> float | None:
    for size in (8192, TAIL, TAIL * 16):  # a line holds a count for each of some hundred problems
        for row in reversed(tail_rows(run_dir / records.EVALS, size)):
            score = score_of(row)
            if score is not None and (row.get("sampling") or {}).get("decoding", "sampled") == "sampled":
                return score
    return None


def score_of(row: Mapping[str, Any]) -> float | None:
    """pass@1 of an evaluation line, 0 to 1."""
    counts, k = row.get("successes"), row.get("k")
    if isinstance(counts, list) and counts and isinstance(k, int) and k > 0:
        return sum(counts) / len(counts) / k
    score = row.get("score")
    return float(score) if isinstance(score, (int, float)) else None


def _seconds_left(run_dir: Path, progress: Mapping[str, Any], step: int | None, total: int | None) -> float | None:
    """Steps left x seconds a step; from the ledger's last steps in RL, from the stage's own clock elsewhere."""
    if not total or step is None or step >= total:
        return None
    if progress.get("stage") == "rl":
        rows = [r for r in tail_rows(run_dir / records.STEPS) if r.get("metrics") and isinstance(r.get("cost"), dict)][
            -20:
        ]
        seconds = [sum(v for k, v in r["cost"].items() if k.endswith("gpu_seconds")) for r in rows]
        if seconds:
            return (total - step) * sum(seconds) / len(seconds) / max(1, int(progress.get("devices", 1)))
    since, first = progress.get("since"), progress.get("since_step", 0)
    if isinstance(since, (int, float)) and step > first:
        return (total - step) * (time.time() - since) / (step - first)
    return None
