"""``rl-scaling doctor --cluster``: small real runs on the user's own devices, each a pass or a fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scaling import load_runs, records
from sweeps.launching.checks import Result
from sweeps.launching.status import tail_rows

__all__ = ["drill"]

SMALL = (
    "model=scratch_32", "pretrain.steps=40", "grpo.prompts_per_step=8", "grpo.group_size=4", "checkpoint.every=5", "tracking=disabled",
    "eval.every=1000", "eval.early=[0]", "eval.best_decoding_k=0",
)  # fmt: skip


def drill(folder: Path, *, overrides: Sequence[str], model: str) -> Iterator[Result]:
    """Run the drills one after another: training, preemption and resume, hours against accounts, a vLLM server.

    Args:
        folder: runs folder of the drills; emptied first.
        overrides: choose the engine and its settings, as on the command line of `sweeps.train`.
        model: option of the group ``model`` for the server.
    """
    shutil.rmtree(folder, ignore_errors=True)
    run = _Runner(folder, overrides)
    yield run.check("training", lambda: _training(run))
    yield run.check("preemption and resume", lambda: _preemption(run))
    yield run.check("hours against Slurm's accounts", lambda: _hours(run))
    yield run.check("vLLM server", lambda: _server(run, model))


class _Runner:
    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder, self.overrides = folder, tuple(overrides)
        self.slurm = any(o.startswith("cluster=slurm") for o in overrides)

    def train(self, sweep: str, *more: str, seconds: float = 900) -> None:
        argv = [
            sys.executable,
            "-m",
            "sweeps.train",
            "-m",
            f"runs_dir={self.folder}",
            f"bases_dir={self.folder}/bases",
            f"sweep={sweep}",
            *self.overrides,
            *more,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds)
        if done.returncode:
            raise RuntimeError(" | ".join((done.stderr or done.stdout).strip().splitlines()[-2:]))

    def only(self, sweep: str) -> Path:
        return next(p for p in sorted((self.folder / sweep).iterdir()) if records.is_run(p))

    def check(self, name: str, work: Callable[[], tuple[str, str]]) -> Result:
        began = time.monotonic()
        try:
            state, found = work()
        except (RuntimeError, OSError, subprocess.TimeoutExpired, StopIteration, ValueError) as error:
            return Result(name, "bad", str(error)[:400] or type(error).__name__, f"logs: {self.folder}")
        return Result(name, state, f"{found} ({time.monotonic() - began:.0f} s)")


def _training(run: _Runner) -> tuple[str, str]:
    run.train("training", *SMALL, "budget.steps=10")
    table = load_runs(run.only("training"))
    row = table.runs.iloc[0]
    if row["steps"] != 10 or not row["total_flops"] > 0:
        return "bad", f"10 steps were asked for, {row['steps']} recorded"
    return (
        "ok",
        f"10 steps on {row['accelerator']}, {row['total_flops']:.2e} FLOPs, {row['gpu_hours'] * 3600:.0f} GPU s",
    )


def _preemption(run: _Runner) -> tuple[str, str]:
    """Interrupt a run as a scheduler does, let it save, continue it, and find every step exactly once."""
    run.train("preemption", *SMALL, "budget.steps=400", "launch.wait=false")
    sweep = run.folder / "preemption"
    path = _until(
        lambda: next((p for p in sweep.iterdir() if records.is_run(p) and len(tail_rows(p / records.STEPS)) > 6), None),
        600,
    )
    subprocess.run(
        [sys.executable, "-m", "scaling", "sweep", "cancel", str(sweep)], check=True, capture_output=True, timeout=120
    )
    _until(lambda: records.read_run(path).status == "interrupted", 300)
    saved = int(load_runs(path).runs["steps"].iloc[0])
    run.train("preemption", *SMALL, f"budget.steps={saved + 10}")
    table = load_runs(path)
    steps = sorted(table.steps["step"])
    if steps != list(range(1, saved + 11)):
        return "bad", f"after a stop at step {saved}, steps {steps[:2]}..{steps[-2:]} are recorded"
    return (
        "ok",
        f"saved at step {saved} within the grace period, continued, every step once, {int(table.runs['segments'].iloc[0])} segments",
    )


def _hours(run: _Runner) -> tuple[str, str]:
    if not run.slurm:
        return "missing", "needs cluster=slurm"
    from sweeps.launching.overview import reconcile

    rows = reconcile(run.folder / "training") + reconcile(run.folder / "preemption")
    records_hours, slurm_hours = (sum(r[k] for r in rows) for k in ("records", "slurm"))
    attempts = sum(r["attempts"] for r in rows)
    startup = (slurm_hours - records_hours) * 3600 / max(1, attempts)
    good = 0 <= slurm_hours - records_hours and startup < 120
    return (
        "ok" if good else "bad",
        f"records {records_hours:.4f}, Slurm {slurm_hours:.4f} GPU h: {startup:.0f} GPU s of start-up an attempt",
    )


def _server(run: _Runner, model: str) -> tuple[str, str]:
    from sweeps.launching.checks import vllm

    if (found := vllm(run.folder)).state != "ok":
        return "missing", found.found
    devices = "cluster.gpus_per_node=2" if run.slurm else "cluster.devices=2"
    run.train("server", f"model={model}", "task=countdown", "grpo.vllm=server", devices, "budget.steps=3", *SMALL[2:])
    row: Any = load_runs(run.only("server")).runs.iloc[0]
    return (
        "ok" if row["steps"] == 3 else "bad"
    ), f"{row['steps']} steps with {model} behind a server, {row['devices']} devices counted"


def _until(found: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while True:
        try:
            if value := found():
                return value
        except (OSError, ValueError):
            pass
        if time.monotonic() > end:
            raise RuntimeError(f"nothing happened for {seconds:g} s")
        time.sleep(1)
