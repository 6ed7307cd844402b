"""``rl-scaling doctor --cluster``: small real runs on the user's own devices, each a pass or a fail.

Every drill is bounded; whatever it leaves queued or running is cancelled, also at Ctrl-C; the folder goes if all is well.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scaling import load_runs, records
from scaling.errors import ScalingError
from sweeps.launching import engines, slurm
from sweeps.launching.checks import Result, vllm
from sweeps.launching.jobs import Notes, is_locked
from sweeps.launching.overview import reconcile
from sweeps.launching.status import tail_rows

__all__ = ["drill"]

LIMIT_SECONDS = 900.0  # of one drill, its wait in the queue included
RUN = (
    "grpo.prompts_per_step=8", "grpo.group_size=4", "checkpoint.every=5", "tracking=disabled", "eval.every=1000", "eval.early=[0]",
    "eval.best_decoding_k=0", "task.held_out=32",
)  # fmt: skip
SMALL = ("model=scratch_32", "pretrain.steps=40", *RUN)
TOO_FEW = (
    "must be at most",
    "must be 0 on a machine without GPUs",
)  # how the launcher refuses devices that are not there


def drill(
    runs_dir: Path, *, overrides: Sequence[str], model: str, seconds: float = LIMIT_SECONDS,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Result]:  # fmt: skip
    """Run the drills one after another: training, preemption and resume, two ranks, hours against accounts, a vLLM server.

    Args:
        runs_dir: a folder of the drills' own is made in it.
        overrides: choose the engine and its settings, as on the command line of `sweeps.train`.
        model: option of the group ``model`` for the server.
        seconds: limit of one drill, its wait in the queue included [s].
        say: told what starts and where.
    """
    from sweeps.config import composed

    folder = runs_dir.absolute() / time.strftime("doctor-%Y%m%d-%H%M%S")
    run = _Runner(folder, overrides, engine=composed(overrides).cluster.engine, seconds=seconds)
    say(f"runs and logs in {folder}; at most {seconds / 60:.0f} minutes a drill, its wait in the queue included")
    bad = False
    try:
        for name, work in {
            "training": lambda: _training(run), "preemption and resume": lambda: _preemption(run), "two ranks": lambda: _ranks(run),
            "hours against Slurm's accounts": lambda: _hours(run), "vLLM server": lambda: _server(run, model),
        }.items():  # fmt: skip
            say(f"... {name}")
            result = run.check(name, work)
            bad |= result.state == "bad"
            yield result
    finally:
        run.clean_up()
        if not bad:
            shutil.rmtree(folder, ignore_errors=True)


class _Runner:
    def __init__(self, folder: Path, overrides: Sequence[str], *, engine: str, seconds: float) -> None:
        self.folder, self.engine, self.seconds = folder, engine, seconds
        short = ("cluster.slurm.time_minutes=15",) if engine == "slurm" else ()  # short jobs start sooner
        self.overrides = (*short, *overrides)
        self.two = "cluster.gpus_per_node=2" if engine == "slurm" else "cluster.devices=2"

    def start(self, sweep: str, *more: str) -> subprocess.Popen[str]:
        argv = [
            sys.executable, "-m", "sweeps.train", "-m", f"runs_dir={self.folder}", f"bases_dir={self.folder}/bases", f"sweep={sweep}",
            *self.overrides, *more,
        ]  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{sweep}.log").open("a") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, text=True)

    def finish(self, sweep: str, process: subprocess.Popen[str]) -> None:
        """Wait for a launcher; what it said last is the reason where it fails."""
        try:
            code = process.wait(self.seconds)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not finished after {self.seconds:.0f} s: {self._last(sweep)}") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code:
            raise RuntimeError(self._last(sweep))

    def train(self, sweep: str, *more: str) -> None:
        self.finish(sweep, self.start(sweep, *more))

    def _last(self, sweep: str) -> str:
        lines = (self.folder / f"{sweep}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return " | ".join(errors[:2] or lines[-2:]) or "it said nothing"

    def only(self, sweep: str) -> Path:
        found = [p for p in sorted((self.folder / sweep).iterdir()) if records.is_run(p)]
        if not found:
            raise RuntimeError(f"no run in {self.folder / sweep}")
        return found[0]

    def check(self, name: str, work: Callable[[], tuple[str, str]]) -> Result:
        began = time.monotonic()
        try:
            state, found = work()
        except Exception as error:  # a cluster fails in any way it likes; the other drills must go on
            said = " ".join(str(error).split())[:400] or type(error).__name__
            if any(word in said for word in TOO_FEW):
                return Result(name, "missing", f"needs two devices: {said}")
            return Result(name, "bad", said, f"logs: {self.folder}")
        return Result(name, state, f"{found} ({time.monotonic() - began:.0f} s)")

    def clean_up(self) -> None:
        """Cancel what is queued or running, and let it go."""
        left = []
        for sweep in [p for p in self.folder.iterdir() if (p / ".launch").is_dir()] if self.folder.is_dir() else []:
            notes = Notes(sweep)
            try:
                with notes.changing():
                    jobs = [job for job in engines.refresh(notes).values() if job.active]
                    engines.cancel(notes, jobs)
            except (ScalingError, OSError) as error:
                print(f"could not cancel what may run in {sweep}: {error}", file=sys.stderr, flush=True)
                continue
            left += [sweep / job.run_id / records.LOCK for job in jobs]
        end = time.monotonic() + 60
        while any(is_locked(lock) for lock in left) and time.monotonic() < end:
            time.sleep(0.5)


def _training(run: _Runner) -> tuple[str, str]:
    run.train("training", *SMALL, "budget.steps=10")
    row = load_runs(run.only("training")).runs.iloc[0]
    if row["steps"] != 10 or not row["total_flops"] > 0:
        return "bad", f"10 steps were asked for, {row['steps']} recorded"
    return (
        "ok",
        f"10 steps on {row['accelerator']}, {row['total_flops']:.2e} FLOPs, {row['gpu_hours'] * 3600:.0f} GPU s",
    )


def _preemption(run: _Runner) -> tuple[str, str]:
    """Interrupt a run as a scheduler does, let it save, continue it, and find every step exactly once."""
    sweep, steps = run.folder / "preemption", 200
    arguments = (*SMALL, f"budget.steps={steps}")
    launched = run.start("preemption", *arguments)
    try:
        path = _until(lambda: _at_work(sweep, launched), run.seconds)
        (job,) = engines.refresh(Notes(sweep)).values()
        if run.engine == "slurm":  # the warning before a time limit or a preemption, to the batch step
            slurm.signal_batch(str(job.job_id), "USR2")
            run.finish("preemption", launched)
        else:
            with Notes(sweep).changing():
                engines.cancel(Notes(sweep), [job])
            _until(lambda: records.read_run(path).status == "interrupted", 120)
            launched.wait(60)
            run.train("preemption", *arguments)
    finally:
        if launched.poll() is None:
            launched.kill()
            launched.wait()
    segments = records.read_run(path).segments
    if len(segments) != 2 or segments[0].get("cause") != "interrupted":
        return (
            "bad",
            f"one interruption and one continuation were expected, got {[s.get('cause') for s in segments]}: was the run over before, or is requeueing off?",
        )
    done = [row["step"] for row in _steps(path)]
    if done != list(range(1, steps + 1)):
        twice = len(done) - len(set(done))
        return (
            "bad",
            f"{steps} steps were expected once each, {len(set(done))} are recorded and {twice} of them twice: a longer cluster.slurm.grace_seconds?",
        )
    return "ok", f"saved at step {segments[1]['resumed_from']} within the grace period, continued, every step once"


def _ranks(run: _Runner) -> tuple[str, str]:
    """Two trainer ranks: torchrun, the collectives of these devices, both ranks' rollouts counted once."""
    run.train("ranks", *SMALL, "budget.steps=5", run.two)
    path = run.only("ranks")
    rollouts = [row["cost"]["rollouts"] for row in _steps(path)]
    if rollouts != [8 * 4] * 5:
        return "bad", f"5 steps of 32 rollouts were asked for, recorded: {rollouts}"
    return "ok", f"5 steps of 32 rollouts over {records.read_run(path).devices} devices"


def _hours(run: _Runner) -> tuple[str, str]:
    if run.engine != "slurm":
        return "missing", "needs cluster=slurm"
    if slurm.accounting(["0"]) is None:
        return "missing", "this cluster keeps no accounts, or sacct does not answer"
    rows = [row for name in ("training", "preemption") for row in reconcile(run.folder / name)]
    ours, theirs = (sum(r[k] for r in rows) for k in ("records", "slurm"))
    attempts = sum(r["attempts"] for r in rows)
    startup = (theirs - ours) * 3600 / max(1, attempts)
    return (
        "ok" if -0.02 * theirs <= theirs - ours and startup < 120 else "bad",
        f"records {ours:.4f}, Slurm {theirs:.4f} GPU h over {attempts} attempts: {startup:.0f} GPU s of start-up each",
    )


def _server(run: _Runner, model: str) -> tuple[str, str]:
    if (found := vllm(run.folder)).state != "ok":
        return "missing", found.found
    run.train(
        "server", f"model={model}", "task=countdown", "grpo.vllm=server", run.two, "budget.steps=3", "grpo.max_completion_length=64", *RUN
    )  # fmt: skip
    row: Any = load_runs(run.only("server")).runs.iloc[0]
    return (
        "ok" if row["steps"] == 3 else "bad"
    ), f"{row['steps']} steps with {model} behind a server, {row['devices']} devices counted"


def _steps(path: Path) -> list[dict[str, Any]]:
    """Lines of optimiser steps, without those of pure cost."""
    return [row for row, _ in records.read_lines(path / records.STEPS)[0] if row.get("metrics")]


def _at_work(sweep: Path, launched: subprocess.Popen[str]) -> Path | None:
    """The run once some of its steps are recorded."""
    for path in sorted(sweep.iterdir()):
        if records.is_run(path) and len(tail_rows(path / records.STEPS)) > 6:
            return path
    if launched.poll() is not None:
        raise RuntimeError("the run ended before it could be interrupted")
    return None


def _until(found: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while True:
        try:
            if value := found():
                return value
        except OSError:
            pass
        if time.monotonic() > end:
            raise RuntimeError(f"nothing happened for {seconds:g} s: is the queue full?")
        time.sleep(0.2)
