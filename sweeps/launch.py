"""Launch a grid: validate every row, merge rows of one run, plan, then start what is neither done nor under way.

    rows -> resolve_rows (all errors first) -> merge ("27 rows, 9 runs") -> manifest -> [dry run stops] -> engine -> watch
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError, ScalingError
from sweeps.config import BudgetConfig, RunConfig
from sweeps.launching import local
from sweeps.launching.display import watch
from sweeps.launching.jobs import Job, Notes, is_locked, write_json
from sweeps.launching.manifest import build_manifest, render, write_manifest
from sweeps.launching.rows import PlannedRun, covers, merge, resolve_rows
from sweeps.launching.status import DONE, RunState, read_state

__all__ = ["Interrupted", "SweepFailed", "launch"]


class SweepFailed(ScalingError):
    """Some runs of a sweep failed; the message lists each with cause and log."""


class Interrupted(Exception):
    """The watcher was interrupted; the runs go on."""


def launch(composed: Sequence[tuple[Sequence[str], Mapping[str, Any]]], *, first: int = 0) -> list[float | None]:
    """Launch the rows of a multirun and, unless ``launch.wait=false``, watch them.

    Args:
        composed: overrides and composed configuration of each row.
        first: number of the first row.

    Returns:
        The newest held-out score of each row's run, None where there is none.

    Raises:
        ConfigError: a setting of some row is wrong; nothing was started.
        SweepFailed: runs failed.
        Interrupted: Ctrl-C; the runs go on.
    """
    rows = resolve_rows(composed, first=first)
    runs = merge(rows)
    sweep_dir = _sweep_dir(runs)
    print(f"{len(rows)} rows, {len(runs)} runs in {sweep_dir}", flush=True)
    settings = runs[0].config.launch
    manifest = build_manifest(runs)
    path = write_manifest(sweep_dir, manifest)
    if settings.dry_run:
        print(render(manifest))
        print(f"dry run: nothing was started; written: {path} and {path.with_suffix('.csv').name}", flush=True)
        return [None] * len(rows)
    notes = Notes(sweep_dir)
    states = _start(notes, runs)
    if settings.wait:
        try:
            states = watch(lambda: read_states(notes, runs))
        except KeyboardInterrupt:
            raise Interrupted(
                f"\nstopped watching; the runs go on.\n  see them:      rl-scaling sweep status {sweep_dir}\n"
                f"  cancel them:   rl-scaling sweep cancel {sweep_dir}\n  watch again:   the same command"
            ) from None
        _report_failures(states, sweep_dir)
    else:
        print(f"launched; see them: rl-scaling sweep status {sweep_dir}", flush=True)
    scores = {state.run_id: state.score for state in states}
    return [scores.get(row.config.run_id) for row in rows]


def read_states(notes: Notes, runs: Sequence[PlannedRun]) -> list[RunState]:
    """The state of each run, now."""
    jobs = notes.jobs()
    out = []
    for run in runs:
        job = jobs.get(run.run_id)
        job = local.refresh(notes, job) if job is not None and job.engine == "local" else job
        out.append(read_state(run.config.run_dir, run_id=run.run_id, label=run.label, job=job))
    return out


def _start(notes: Notes, runs: Sequence[PlannedRun]) -> list[RunState]:
    states = {state.run_id: state for state in read_states(notes, runs)}
    todo, finished, active, resumed, extended = [], 0, 0, 0, 0
    for run in runs:
        state = states[run.run_id]
        if state.active:
            active += 1
        elif is_done(run.config):
            finished += 1
        else:
            resumed += state.state in ("interrupted", "lost", "failed", "cancelled")
            extended += state.state == "finished"
            todo.append(run)
    parts = [
        (len(todo) - resumed - extended, "to start"), (resumed, "to resume"), (extended, "to extend"),
        (active, "already queued or running"), (finished, "finished before"),
    ]  # fmt: skip
    print(", ".join(f"{n} {what}" for n, what in parts if n), flush=True)
    if todo:
        slots = local.Slots.of(todo[0].config.cluster)
        shared = slots.shared(len(todo) + active)
        jobs = [_job(notes, run, shared=shared, order=i) for i, run in enumerate(todo)]
        local.start(notes, jobs, slots)
    return read_states(notes, runs)


def _job(notes: Notes, run: PlannedRun, *, shared: bool, order: int) -> Job:
    config = run.config
    cluster = config.cluster.model_copy(update={"shared": config.cluster.shared or shared})
    config = config.model_copy(
        update={"runs_dir": os.path.abspath(config.runs_dir), "bases_dir": os.path.abspath(config.bases_dir), "cluster": cluster}
    )
    path = notes.config_path(run.run_id)
    write_json(path, json.loads(config.model_dump_json()))
    previous = notes.read(run.run_id)
    return Job(
        run_id=run.run_id, label=run.label, engine=config.cluster.engine, state="queued", config=str(path.resolve()),
        attempt=previous.attempt if previous else 0, submitted=time.time() + order * 1e-6,
    )  # fmt: skip


def is_done(config: RunConfig) -> bool:
    """Whether a run has reached the budget that is asked for: by its status, else by its ledger."""
    from scaling.records import is_run, read_run
    from scaling.runs import load_runs

    if not is_run(config.run_dir):
        return False
    record = read_run(config.run_dir)
    recorded = _recorded_budget(record.config)
    if record.status in DONE and recorded is not None and covers(recorded, config.budget):
        return True
    used = load_runs(config.run_dir).runs.iloc[0].to_dict()
    columns = {"flops": "total_flops"}
    reached = {name: _used(used, columns.get(name, name)) for name in config.budget.limits()}
    return any(reached[name] >= limit for name, limit in config.budget.limits().items())


def _used(row: Mapping[str, Any], column: str) -> float:
    if column == "pretraining_flops_ratio":
        return row["total_flops"] / row["pretraining_flops"] if row["pretraining_flops"] > 0 else 0.0
    if column == "pretraining_gpu_hours_ratio":
        return row["gpu_hours"] / row["pretraining_gpu_hours"] if row["pretraining_gpu_hours"] > 0 else 0.0
    return float(row[column])


def _recorded_budget(config: Mapping[str, Any]) -> BudgetConfig | None:
    body = config.get("budget")
    return BudgetConfig.model_validate(dict(body)) if isinstance(body, Mapping) else None


def _sweep_dir(runs: Sequence[PlannedRun]) -> Path:
    folders = sorted({str(run.config.run_dir.parent) for run in runs})
    if len(folders) > 1:
        raise ConfigError(f"sweep: must be one for the whole grid, got {', '.join(folders)}: launch them one by one")
    for key in ("launch", "cluster"):
        values = {getattr(run.config, key).model_dump_json() for run in runs}
        if len(values) > 1 and key == "launch":
            raise ConfigError("launch: must be the same in every row of a grid")
    return Path(folders[0])


def _report_failures(states: Sequence[RunState], sweep_dir: Path) -> None:
    bad = [s for s in states if s.state not in ("finished", "queued", "running")]
    if not bad:
        return
    lines = [f"{len(bad)} of {len(states)} runs did not finish:"]
    for s in bad:
        lines.append(f"  {s.label}: {s.state}{f': {s.cause}' if s.cause else ''}" + (f"\n      log: {s.log}" if s.log else ""))
    lines.append(f"the others are unaffected; try these again with the same command, or: rl-scaling sweep retry {sweep_dir}")
    raise SweepFailed("\n".join(lines))
