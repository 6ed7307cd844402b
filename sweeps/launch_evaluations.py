"""Evaluations after the fact as a multirun: a job a run, through the same manifest, snapshot, engines and states.

    SWEEP/.evaluate/<id>/manifest.json, .launch/     one multirun: its settings are its identity
    SWEEP/.evaluate/<id>/<run_id>/progress.json      how far a run's evaluation is; its lines go to the run itself

The commands ``rl-scaling sweep status|logs|cancel|retry`` work on such a folder as on a sweep.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling import records
from scaling.errors import ConfigError, ScalingError
from scaling.flops import ModelShape, generation_flops
from sweeps import launch
from sweeps.config import RunConfig
from sweeps.evaluate import AfterTheFact, Missing, missing, recorded_config
from sweeps.launching import engines
from sweeps.launching.display import aligned
from sweeps.launching.jobs import Notes, is_locked
from sweeps.launching.manifest import write_manifest
from sweeps.launching.rows import PlannedRun
from sweeps.run_dir import holder

__all__ = ["PlannedEvaluation", "launch_evaluations", "plan"]

FOLDER = ".evaluate"


@dataclass(frozen=True, kw_only=True)
class PlannedEvaluation(PlannedRun):
    """The evaluation of one run.

    Attributes:
        order: what the worker gets beside the configuration: ``run``, ``settings``, ``progress``.
    """

    order: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The run's folder name."""
        return Path(self.order["run"]).name

    @property
    def run_dir(self) -> Path:
        """Where its progress lies."""
        return Path(self.order["progress"]).parent

    @property
    def missing(self) -> Missing:
        """What the run's records lack."""
        return missing(Path(self.order["run"]), AfterTheFact.model_validate(self.order["settings"]))

    @property
    def done(self) -> bool:
        """Whether every line is in the run's records."""
        return not self.missing.lines

    def body(self, config: RunConfig) -> dict[str, Any]:
        """What the worker reads."""
        return {**super().body(config), "evaluate": dict(self.order)}


def launch_evaluations(runs: Sequence[Path], settings: AfterTheFact, config: RunConfig) -> None:
    """Evaluate runs, a multirun for each sweep they belong to, and unless ``launch.wait=false`` watch them.

    Args:
        runs: run directories.
        settings: which checkpoints, which benchmarks, how many samples.
        config: its groups ``cluster`` and ``launch`` say where.

    Raises:
        ConfigError: a run keeps no weights, is being trained, a benchmark is not known; nothing was started.
        SweepFailed: evaluations failed.
        Interrupted: Ctrl-C; the evaluations go on.
    """
    if not runs:
        raise ConfigError("no run lies there: name runs or sweep folders that hold some")
    multiruns = plan(runs, settings, config)
    lacking = {folder: [run.missing for run in planned] for folder, planned in multiruns.items()}
    before = sum(len(m.lines) for found in lacking.values() for m in found)
    for folder, planned in multiruns.items():
        rows = [_row(run, found, settings) for run, found in zip(planned, lacking[folder])]
        if not config.launch.dry_run:
            _refuse_live(planned)
            launch.check(planned)
        path = write_manifest(folder, rows)
        print(f"{len(planned)} runs, {sum(r['evaluations'] for r in rows)} evaluations to add, in {folder}", flush=True)
        if config.launch.dry_run:
            print(_render(rows))
            print(f"dry run: nothing was started; written: {path}", flush=True)
        else:
            launch.start_runs(Notes(folder), planned)
    if config.launch.dry_run:
        return
    if not config.launch.wait:
        print("\n".join(["launched, not waiting", *(launch.advice(folder) for folder in multiruns)]), flush=True)
        return
    failures = []
    for folder, planned in multiruns.items():
        try:
            launch.watch_runs(Notes(folder), planned)
        except launch.SweepFailed as failed:
            failures.append(str(failed))
    after = sum(len(run.missing.lines) for planned in multiruns.values() for run in planned)
    print(f"{before - after} evaluations added", flush=True)
    if failures:
        raise launch.SweepFailed("\n".join(failures))


def plan(runs: Sequence[Path], settings: AfterTheFact, config: RunConfig) -> dict[Path, list[PlannedEvaluation]]:
    """The multiruns by folder; each run is sampled on one device."""
    if config.cluster.devices > 1 or config.cluster.nodes > 1:
        raise ConfigError(
            f"cluster.devices: an evaluation samples each run on one device, got {config.cluster.devices}: more runs at a time are cluster.workers or cluster.slurm.at_once"
        )
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:8]
    out: dict[Path, list[PlannedEvaluation]] = {}
    for run in (path.resolve() for path in runs):
        record, own = records.read_run(run), recorded_config(run)
        here = own.model_copy(
            update={
                "runs_dir": str(run.parent.parent), "sweep": run.parent.name, "cluster": config.cluster, "launch": config.launch,
                "grpo": own.grpo.model_copy(update={"vllm": "off"}),
            }
        )  # fmt: skip
        folder = run.parent / FOLDER / digest
        order = {
            "run": str(run),
            "settings": settings.model_dump(),
            "progress": str(folder / run.name / "progress.json"),
        }
        label = f"{record.name or own.model.name} [{run.name[:6]}]"
        out.setdefault(folder, []).append(
            PlannedEvaluation(rows=(), overrides=(), label=label, config=here, order=order)
        )
    return out


def _refuse_live(planned: Sequence[PlannedEvaluation]) -> None:
    """A run that is at work or about to be: its records belong to its own process.

    Raises:
        ConfigError: one line a run.
    """
    sweep = Path(planned[0].order["run"]).parent
    try:
        jobs = engines.refresh(Notes(sweep))
    except ScalingError:  # trained on a cluster that does not answer here: its locks still do
        jobs = {}
    mine = {run_id for run_id, job in engines.refresh(Notes(planned[0].run_dir.parent)).items() if job.active}
    errors = []
    for run in planned:
        path = Path(run.order["run"])
        if run.run_id in mine:
            continue  # by this very evaluation, launched before
        if is_locked(path / records.LOCK):
            errors.append(f"{path} is in use by {holder(path)}: wait for it, or name other runs")
        elif (job := jobs.get(run.run_id)) is not None and job.active:
            errors.append(
                f"{path} is {job.state} ({job.job_id or job.label}): wait for it, cancel it, or name other runs"
            )
    if errors:
        raise ConfigError("\n".join(errors))


def _row(run: PlannedEvaluation, found: Missing, settings: AfterTheFact) -> dict[str, Any]:
    record = records.read_run(Path(run.order["run"]))
    shape, launch_config = ModelShape(**record.model["shape"]), run.config.launch
    flops = samples = tokens = 0.0
    for _, name in found.lines:
        task, benchmark = found.benchmarks[name]
        n = min(settings.problems or len(benchmark.prompts), len(benchmark.prompts)) * settings.k
        length = launch_config.completion_length or settings.max_completion_length or benchmark.max_completion_length
        prompt = launch_config.prompt_length or int(getattr(task, "prompt_width", 256))
        samples, tokens = samples + n, tokens + n * length
        flops += n * float(generation_flops(shape, prompt, length))
    return {
        "run_id": run.run_id, "label": run.label, "run": run.order["run"], "model": record.model.get("name", ""), "checkpoints": list(found.steps),
        "benchmarks": list(found.benchmarks), "k": settings.k, "evaluations": len(found.lines), "samples": int(samples),
        "completion_tokens": int(tokens), "flops": flops, "engine": run.config.cluster.engine, "settings": json.loads(settings.model_dump_json()),
    }  # fmt: skip


def _render(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("run", "model", "checkpoints", "benchmarks", "evaluations", "samples", "tokens at most", "FLOPs at most")
    body = [
        (
            r["label"], r["model"], ",".join(map(str, r["checkpoints"])), ",".join(r["benchmarks"]), str(r["evaluations"]), str(r["samples"]),
            f"{r['completion_tokens']:.3g}", f"{r['flops']:.3g}",
        )
        for r in rows
    ]  # fmt: skip
    sums = {name: sum(r[name] for r in rows) for name in ("evaluations", "samples", "completion_tokens", "flops")}
    total = (
        "total", "", "", "", str(sums["evaluations"]), str(sums["samples"]), f"{sums['completion_tokens']:.3g}", f"{sums['flops']:.3g}",
    )  # fmt: skip
    return "\n".join(aligned([header, *body, total], left=4))
