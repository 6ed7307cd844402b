"""Launch a grid: validate every row, merge rows of one run, plan, then start what is neither done nor under way.

rows -> resolve_rows (all errors first) -> merge ("27 rows, 9 runs") -> manifest -> [dry run stops] -> engine -> watch
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling import records
from scaling.errors import ConfigError, RecordError, ScalingError
from sweeps.config import RunConfig
from sweeps.files import read_json, write_json
from sweeps.launching import engines, snapshot
from sweeps.launching.caches import check_caches
from sweeps.launching.display import watch
from sweeps.launching.jobs import Job, Notes, read_config
from sweeps.launching.manifest import build_manifest, render, write_manifest
from sweeps.launching.rows import PlannedRun, merge, resolve_rows
from sweeps.launching.status import RunState, read_state

__all__ = ["Interrupted", "SweepFailed", "advice", "launch", "start_runs", "watch_runs"]

PATIENCE = 3600.0  # seconds that a watcher bears a scheduler that does not answer
POLL = {"local": 0.5, "slurm": 3.0, "ray": 3.0}  # seconds between looks at a scheduler that others share


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
    if not settings.dry_run:
        check(runs)
    path = write_manifest(sweep_dir, manifest)
    if settings.dry_run:
        print(render(manifest))
        print(f"dry run: nothing was started; written: {path} and {path.with_suffix('.csv').name}", flush=True)
        return [None] * len(rows)
    notes = Notes(sweep_dir)
    start_runs(notes, runs)
    if not settings.wait:
        print(f"launched, not waiting\n{advice(sweep_dir)}", flush=True)
        return [None] * len(rows)
    states = watch_runs(notes, runs)
    scores = {state.run_id: state.score for state in states}
    return [scores.get(row.config.run_id) for row in rows]


def watch_runs(notes: Notes, runs: Sequence[PlannedRun]) -> list[RunState]:
    """Show progress until no run is active; returns the last states.

    Raises:
        SweepFailed: runs failed.
        Interrupted: Ctrl-C; the runs go on.
    """
    try:
        states = watch(_Patient(lambda: read_states(notes, runs)), poll=POLL[runs[0].config.cluster.engine])
    except KeyboardInterrupt:
        raise Interrupted(
            f"\nstopped watching; the runs go on\n{advice(notes.sweep_dir)}\n  watch again:   the same command"
        ) from None
    _report_failures(states, notes.sweep_dir)
    return states


class _Patient:
    """Reads states; a scheduler that stops answering is waited for, since the runs do not need it to go on.

    Raises:
        ScalingError: it did not answer at first, or not for `PATIENCE`.
    """

    def __init__(self, read: Callable[[], list[RunState]]) -> None:
        self.read, self.last, self.since = read, [], 0.0

    def __call__(self) -> list[RunState]:
        try:
            self.last, self.since = self.read(), 0.0
        except ScalingError as error:
            if not self.last or (self.since and time.monotonic() - self.since > PATIENCE):
                raise
            if not self.since:
                self.since = time.monotonic()
                print(f"{error}; the runs do not depend on it, still watching", flush=True)
        return self.last


def planned_from_notes(notes: Notes, state: RunState) -> PlannedRun | None:
    """A run as it was last launched; None where it never was."""
    path = notes.config_path(state.run_id)
    if not path.is_file():
        return None
    config, order = read_config(path), read_json(path).get("evaluate")
    if order is not None:
        from sweeps.launch_evaluations import PlannedEvaluation

        return PlannedEvaluation(rows=(), overrides=(), label=state.label, config=config, order=order)
    return PlannedRun(rows=(), overrides=(), label=state.label, config=config)


def check(runs: Sequence[PlannedRun]) -> None:
    """Refuse what the engine, the layout or the hub caches would refuse later.

    Raises:
        ConfigError: one line an error.
    """
    from sweeps.launching.layout import lay_out

    errors, seen = [], set()
    for run in runs:
        try:
            lay_out(run.config, [f"node{i}" for i in range(run.config.cluster.nodes)])
            needs = run.config.model.model_dump_json() + run.config.task.model_dump_json()
            if run.config.cluster.offline and needs not in seen:
                seen.add(needs)
                check_caches(run.config)
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    name = runs[0].config.cluster.engine
    if name != "local":
        engines.engine(name).check([run.config for run in runs])


def start_runs(notes: Notes, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Start the runs that are neither done nor queued nor running; returns those.

    All of it happens while the sweep's notes are held, so that two launches at once never start a run twice.
    """
    with notes.changing():
        states = {state.run_id: state for state in read_states(notes, runs)}
        todo, counts = (
            [],
            dict.fromkeys(("to start", "to resume", "to extend", "already queued or running", "finished before"), 0),
        )
        for run in runs:
            state = states[run.run_id]
            if state.active:
                counts["already queued or running"] += 1
            elif run.done:
                counts["finished before"] += 1
            else:
                todo.append(run)
                known = records.is_run(run.run_dir)
                counts["to extend" if state.state == "finished" else "to resume" if known else "to start"] += 1
        print(", ".join(f"{n} {what}" for what, n in counts.items() if n), flush=True)
        if todo:
            _submit(notes, todo, active=counts["already queued or running"])
        elif runs[0].config.cluster.engine == "local":
            engines.engine("local").ensure(notes)  # the last one may have been killed with jobs still queued
    return todo


def read_states(notes: Notes, runs: Sequence[PlannedRun]) -> list[RunState]:
    """The state of each run, now."""
    jobs = engines.refresh(notes)
    return [read_state(run.run_dir, run_id=run.run_id, label=run.label, job=jobs.get(run.run_id)) for run in runs]


def _submit(notes: Notes, runs: Sequence[PlannedRun], *, active: int) -> None:
    """Write configurations, snapshot the code, hand the jobs to the engine."""
    name = runs[0].config.cluster.engine
    commit = snapshot.commit()
    _warn_of_other_code(runs, commit)
    code = str(snapshot.take(notes.folder / "code").resolve()) if runs[0].config.launch.snapshot else ""
    slots, shared = None, False
    if name == "local":
        from sweeps.launching.local import Slots

        slots = Slots.of(runs[0].config.cluster)
        shared = slots.shared(len(runs) + active)
    jobs, configs = [], {}
    for order, run in enumerate(runs):
        config = _for_worker(run.config, shared=shared)
        path = notes.config_path(run.run_id)
        write_json(path, run.body(config))
        previous = notes.read(run.run_id)
        configs[run.run_id] = config
        jobs.append(
            Job(
                run_id=run.run_id, label=run.label, engine=name, state="queued", config=str(path.resolve()), code=code, commit=commit,
                attempt=previous.attempt if previous else 0, job_ids=previous.job_ids if previous else (),
                submitted=time.time() + order * 1e-6,
            )
        )  # fmt: skip
    engine = engines.engine(name)
    if slots is not None:
        engine.start(notes, jobs, slots)
        print(
            f"{slots.workers} at a time on this machine"
            + (", sharing its processor: hours are not fitted" if shared else ""),
            flush=True,
        )
    else:
        submitted = engine.start(notes, jobs, configs)
        print(
            f"submitted {len(submitted)} jobs: {', '.join(dict.fromkeys(str(j.job_id).partition('_')[0] for j in submitted))}",
            flush=True,
        )


def _for_worker(config: RunConfig, *, shared: bool) -> RunConfig:
    """The configuration as the worker gets it: paths made absolute, what the launcher alone knows filled in."""
    cluster = config.cluster.model_copy(update={"shared": config.cluster.shared or shared})
    changes: dict[str, Any] = {
        "runs_dir": os.path.abspath(config.runs_dir),
        "bases_dir": os.path.abspath(config.bases_dir),
        "cluster": cluster,
    }
    if cluster.offline and config.tracking.mode in ("auto", "online"):
        changes["tracking"] = config.tracking.model_copy(update={"mode": "offline"})
    return config.model_copy(update=changes)


def _warn_of_other_code(runs: Sequence[PlannedRun], commit: str) -> None:
    """Resuming under another commit may change results: say so, the records keep the commit of each segment."""
    other: dict[str, int] = {}
    for run in runs:
        try:
            segments = records.read_run(run.run_dir).segments
        except RecordError:
            continue
        before = segments[-1].get("git_commit") if segments else None
        if before and commit and before != commit:
            other[before] = other.get(before, 0) + 1
    for before, count in other.items():
        print(
            f"warning: {count} run(s) continue under commit {commit[:12]}, their last segment ran under {before[:12]}",
            flush=True,
        )


def _sweep_dir(runs: Sequence[PlannedRun]) -> Path:
    """The grid's folder; what concerns the launch as a whole must be one for all rows."""
    folders = sorted({str(run.config.run_dir.parent) for run in runs})
    if len(folders) > 1:
        raise ConfigError(f"sweep: must be one for the whole grid, got {', '.join(folders)}: launch them one by one")
    if len({run.config.launch.model_dump_json() for run in runs}) > 1:
        raise ConfigError("launch: must be the same in every row of a grid")
    if len(found := sorted({run.config.cluster.engine for run in runs})) > 1:
        raise ConfigError(f"cluster.engine: must be one for the whole grid, got {', '.join(found)}")
    return Path(folders[0])


def advice(sweep_dir: Path) -> str:
    """How to see and cancel what was launched."""
    return f"  see them:      rl-scaling sweep status {sweep_dir}\n  cancel them:   rl-scaling sweep cancel {sweep_dir}"


def _report_failures(states: Sequence[RunState], sweep_dir: Path) -> None:
    bad = [s for s in states if s.state != "finished"]
    if not bad:
        return
    lines = [f"{len(bad)} of {len(states)} runs did not finish:"]
    for s in bad:
        lines.append(
            f"  {s.label}: {s.state}{f': {s.cause}' if s.cause else ''}" + (f"  (log: {s.log})" if s.log else "")
        )
    lines.append(
        f"the others are unaffected; try these again with the same command, or: rl-scaling sweep retry {sweep_dir}"
    )
    raise SweepFailed("\n".join(lines))
