"""A whole sweep at a glance, from its folder alone: states, the table of ``sweep status``, forecasts, the bill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaling import records
from scaling.errors import RecordError, ScalingError
from sweeps.files import read_json, write_json
from sweeps.launching import engines
from sweeps.launching.display import aligned, describe
from sweeps.launching.jobs import Job, Notes
from sweeps.launching.manifest import read_manifest
from sweeps.launching.status import RunState, read_state

__all__ = ["find", "forecast", "reconcile", "render", "states"]


def states(sweep_dir: Path, *, cached: bool = True) -> list[RunState]:
    """State of every run of a sweep: those of its manifest, and any other run directory in it.

    A finished run that nothing has touched since is taken from ``.launch/status.json``.

    Raises:
        RecordError: no sweep lies there.
    """
    labels = {row["run_id"]: row["label"] for row in read_manifest(sweep_dir)}
    notes = Notes(sweep_dir)
    jobs = engines.refresh(notes)
    for run_id, job in jobs.items():
        labels.setdefault(run_id, job.label)
    if sweep_dir.is_dir():
        for path in sorted(sweep_dir.iterdir()):
            if path.name not in labels and not path.name.startswith(".") and records.is_run(path):
                labels[path.name] = _name(path)
    if not labels:
        raise RecordError(f"{sweep_dir} must be the folder of a sweep (runs/<sweep>), it has no manifest and no runs")
    cache = read_json(notes.folder / "status.json") if cached else {}
    out, keep = [], {}
    for run_id, label in labels.items():
        run_dir, job = sweep_dir / run_id, jobs.get(run_id)
        stamp = _stamp(run_dir, job)
        hit = cache.get(run_id)
        state = (
            RunState(**hit["state"])
            if hit and stamp and hit["stamp"] == stamp
            else read_state(run_dir, run_id=run_id, label=label, job=job)
        )
        if state.state == "finished" and stamp:
            keep[run_id] = {"stamp": stamp, "state": asdict(state)}
        out.append(state)
    if cached and keep != cache and notes.folder.is_dir():
        write_json(notes.folder / "status.json", keep)
    return out


def find(sweep_dir: Path, names: Sequence[str], *, among: Iterable[RunState]) -> list[RunState]:
    """Runs by run id (or its beginning) or by label; all of ``among`` where no name is given.

    Raises:
        ScalingError: a name fits no run.
    """
    among = list(among)
    if not names:
        return among
    out: list[RunState] = []
    for name in names:
        found = [s for s in among if s.run_id.startswith(name) or s.label == name or name in s.label.split()]
        if not found:
            raise ScalingError(f"no run {name!r} in {sweep_dir}: see rl-scaling sweep status {sweep_dir}")
        out += [s for s in found if s not in out]
    return out


def render(found: Sequence[RunState], *, forecasts: Mapping[str, str] | None = None) -> str:
    """A line a run."""
    header = ("run", "state", "stage", "step", "GPU-h", "score", "forecast", "left", "log")
    rows = []
    for s in found:
        limit = s.budget.get("gpu_hours")
        hours = "" if s.gpu_hours is None else f"{s.gpu_hours:.3g}" + (f"/{limit:g}" if limit else "")
        step = "" if s.step is None else f"{s.step}/{s.total}" if s.total else str(s.step)
        left = "" if s.seconds_left is None else f"{s.seconds_left / 60:.0f} min"
        score = "" if s.score is None else f"{s.score:.3f}"
        rows.append((s.label, s.state, s.stage, step, hours, score, (forecasts or {}).get(s.run_id, ""), left, s.log))
    shown = [i for i in range(len(header)) if i < 2 or any(r[i] for r in rows)]
    lines = aligned([[r[i] for i in shown] for r in [header, *rows]], left=len(shown))
    causes = [f"  {s.label}: {s.state}: {s.cause}" for s in found if s.cause]
    return "\n".join([*lines, "", describe(found).split(" | ")[0], *causes])


def forecast(sweep_dir: Path, found: Sequence[RunState], *, limit: int = 24) -> dict[str, str]:
    """Forecast of the score at the end of the budget for runs at work, ``0.61 [0.55, 0.68]`` or why there is none."""
    out: dict[str, str] = {}
    at_work = [
        s
        for s in found
        if s.state in ("running", "interrupted", "lost") and s.step and s.total and records.is_run(sweep_dir / s.run_id)
    ]
    if not at_work:
        return out  # the fitting core takes longer to import than a cached status to show
    from scaling import fit, load_runs

    for s in at_work[:limit]:
        try:
            curve = next(iter(load_runs(sweep_dir / s.run_id).curves(axis="total_flops").values()))[0]
            budget = float(curve.compute.max()) * s.total / s.step  # type: ignore[operator]
            band = fit([curve], draws=200).forecast([budget])
        except (ScalingError, StopIteration) as error:
            out[s.run_id] = f"none: {str(error)[:40] or 'no evaluations yet'}"
            continue
        out[s.run_id] = f"{float(band.median[0]):.3f} [{float(band.low[0]):.3f}, {float(band.high[0]):.3f}]"
    return out


def reconcile(sweep_dir: Path) -> list[dict[str, Any]]:
    """GPU-hours by the records and by Slurm's accounts, a row a run; requeued attempts included.

    Raises:
        ScalingError: the sweep has no Slurm jobs, or the cluster keeps no accounts.
    """
    from scaling import load_runs
    from sweeps.launching import slurm

    jobs = {j.run_id: j for j in Notes(sweep_dir).jobs().values() if j.job_ids}
    if not jobs:
        raise ScalingError(f"{sweep_dir} has no Slurm jobs to reconcile: its runs were local")
    accounts = slurm.accounting([i for j in jobs.values() for i in j.job_ids])
    if accounts is None:
        raise ScalingError("sacct must answer to reconcile hours: this cluster keeps no accounts, or slurmdbd is down")
    out = []
    for run_id, job in jobs.items():
        path = sweep_dir / run_id
        attempts = [a for a in accounts if a["job_id"] in job.job_ids]
        billed = sum(a["seconds"] * (a["gpus"] or 1) for a in attempts) / 3600
        paid = float(load_runs(path).runs["gpu_hours_paid"].iloc[0]) if records.is_run(path) else 0.0
        out.append(
            {
                "run_id": run_id,
                "label": job.label,
                "attempts": len(attempts),
                "records": paid,
                "slurm": billed,
                "gpus": max((a["gpus"] for a in attempts), default=0),
            }
        )
    return out


def _name(path: Path) -> str:
    try:
        return records.read_run(path).name or path.name
    except RecordError:
        return path.name


def _stamp(run_dir: Path, job: Job | None) -> str | None:
    """What changes when a finished run is touched; None for a run that is not finished, or is worked on."""
    if job is not None and job.active:
        return None
    try:
        facts = [(run_dir / name).stat() for name in (records.RUN, records.EVALS)]
        held = json.dumps([[f.st_size, f.st_mtime_ns] for f in facts])
    except FileNotFoundError:
        return None
    return f"{held} {job.state if job else ''} {job.returncode if job else ''}"
