"""The meter: a callback that turns counts into records, mirrors them, and stops the run at its budget.

    on_step_end   the step's cost is final; the budget and stop requests are checked
    on_log        the step's line goes to steps.jsonl, its row to the tracker
    on_save       the ledger is written into the checkpoint, last: it marks the checkpoint as complete

For a trainer of a user's own script see `sweeps.attach`.
"""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from scaling import records
from scaling.cost import ComputeCost
from scaling.flops import ModelShape
from sweeps.budgets import Limits
from sweeps.counting import Counter
from sweeps.files import write_json
from sweeps.ranks import agree, first_says
from sweeps.run_dir import LEDGER, RunDirectory, complete_checkpoints, file_sizes
from sweeps.tracking import Tracker, compute_metrics

if TYPE_CHECKING:
    from sweeps.attach import attach as attach

__all__ = ["Meter"]

# TRL's metric -> ours, translated once, at this border
TRL_NAMES = {
    "entropy": "entropy",
    "kl": "kl",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "completions/clipped_ratio": "truncation_rate",
    "clip_ratio/low_mean": "clip_fraction_low",
    "clip_ratio/high_mean": "clip_fraction_high",
    "clip_ratio/region_mean": "clip_fraction",
    "cispo_clip_ratio": "clip_fraction",
    "completions/min_length": "completion_length_min",
    "completions/max_length": "completion_length_max",
    "sampling/sampling_logp_difference/mean": "sampling_logp_difference",
}


class Meter(TrainerCallback):
    """Counts, records, mirrors and stops; see the module's text.

    Attributes:
        cost: cumulative cost of the run up to the current step, redone work left out.
        stopped: why the run stops, once it does.
    """

    def __init__(
        self,
        *,
        directory: Path,
        segment: int,
        devices: int,
        limits: Limits | None = None,
        milestones: tuple[Limits, ...] = (),
        start: float | None = None,
        before: ComputeCost | None = None,
        pretraining: Mapping[str, Any] | None = None,
        tracker: Tracker | None = None,
        run: RunDirectory | None = None,
        updates_per_rollout: int = 1,
        boundary: int = 1,
        keep: int = 2,
        snapshots: bool = False,
        peak_flops: float | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.steps = records.Appender(directory / records.STEPS)
        self.directory, self.segment, self.devices = directory, segment, devices
        self.limits, self.milestones = limits or Limits(), list(milestones)
        self.cost = before or ComputeCost()
        self.pretraining = dict(pretraining or {})
        self.tracker, self.run = tracker, run
        self.updates_per_rollout, self.boundary, self.keep = updates_per_rollout, boundary, keep
        self.snapshots = snapshots
        self.peak_flops, self.stop_requested = peak_flops, stop_requested
        self.stopped: str | None = None
        self.ledger: dict[str, Any] = {}  # what other callbacks want to find again after a restart
        self.milestone = False  # the current step ends a smaller budget: evaluate and keep its checkpoint
        self.counter: Counter | None = None
        self._start = time.perf_counter() if start is None else start
        self._mark = self._start  # wall up to here is accounted for
        self._aside = 0.0  # wall since the mark that is evaluation or overhead, not the step's
        self._extra: dict[str, float] = {}
        self._line: dict[str, Any] | None = None
        self._row: dict[str, float] = {}
        self._optimizer: Any = None

    def bind(self, trainer: Any, shape: ModelShape) -> None:
        """Count what ``trainer`` does; called once, before training."""
        self.counter = counter = Counter(trainer, shape)
        self.is_main = trainer.accelerator.is_main_process
        evaluate, inside = trainer.evaluate, False

        @functools.wraps(evaluate)
        def metered(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:  # several data sets: the trainer calls itself for each
                return evaluate(*args, **kwargs)
            start, inside = counter.now(), True
            try:
                out = evaluate(*args, **kwargs)
            finally:
                inside = False
            self.evaluated(counter.take_evaluation(), counter.now() - start, {})
            return out

        trainer.evaluate = metered  # TRL's own loop, in a user's own script

    # -- what other callbacks use ---------------------------------------------------------------------------------

    def evaluated(self, cost: ComputeCost, seconds: float, rows: Mapping[str, float]) -> None:
        """Account for an evaluation: its FLOPs, its wall time, and scores for the tracker's next row."""
        self._aside += seconds
        for name in ("evaluation_flops", "evaluation_hardware_flops"):
            self._add_extra(name, getattr(cost, name))
        self._add_extra("evaluation_gpu_seconds", seconds * self.devices)
        self._row.update(rows)
        if self._line is None and self.tracker is not None and self.is_main:  # before the first step: a row of its own
            self.tracker.log({"train/global_step": 0, **self.axes(), **self._row})
            self._row = {}

    def axes(self) -> dict[str, float]:
        """The compute axes at the current step, as tracker keys."""
        out = {"gpu_hours": self.cost.gpu_hours, "total_flops": self.cost.total_flops, "tokens": self.cost.tokens}
        if self.pretraining.get("flops"):
            out["pretraining_flops_ratio"] = self.cost.total_flops / self.pretraining["flops"]
        if self.pretraining.get("gpu_hours"):
            out["pretraining_gpu_hours_ratio"] = self.cost.gpu_hours / self.pretraining["gpu_hours"]
        return out

    # -- callback events ------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start-up ends here: its seconds are overhead."""
        self._overhead(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A line that no log completed (logging_steps > 1) is written now."""
        self._flush()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Clock of the optimiser's own step."""
        assert self.counter is not None
        self._optimizer = self.counter.spans.mark()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimiser's step belongs to training."""
        assert self.counter is not None
        self.counter.spans.add("training_gpu_seconds", self._optimizer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the step's account; check milestones, budget and stop requests."""
        assert self.counter is not None
        now = self.counter.now()
        wall = now - self._mark - self._aside
        self.counter.add(idle_gpu_seconds=max(0.0, wall - self.counter.phase_seconds()))
        self._mark, self._aside = now, 0.0
        cost, metrics = self.counter.take(self.devices)
        self.cost = self.cost + cost
        step = state.global_step
        metrics |= {
            "epoch": self._epochs(args, state),
            "unique_prompts": len(self.counter.prompts_seen),
            "updates_per_rollout": self.updates_per_rollout,
        }
        self._line = {
            "segment": self.segment,
            "step": step,
            "time": round(time.time(), 3),
            "cost": cost.to_dict(),
            "metrics": metrics,
        }
        passed = [m for m in self.milestones if m.reached(step, self.cost)]
        self.milestone = first_says(bool(passed))
        self.milestones = [m for m in self.milestones if m not in passed]
        reached = self.limits.reached(step, self.cost)
        over = first_says(reached is not None)  # the others' clocks hold the first one's evaluations
        on_boundary = step % self.boundary == 0
        # a signal reaches each rank at its own moment; they leave together, where what was trained can be saved
        asked = agree(self.stop_requested()) and on_boundary
        reason = (reached or "budget") if over else "stop requested" if asked else None
        if reason is not None:
            self.stopped = reason
            control.should_training_stop = True
        if self.snapshots and _log_spaced(step):
            self._snapshot(step)
        near = self.boundary > 1 and first_says(
            self.limits.reached(step, self.cost, reserve=1.5 * self.boundary) is not None
        )
        if not on_boundary:
            control.should_save = False  # a checkpoint between two generation rounds cannot be resumed exactly
        elif reason is not None or self.milestone or near:
            control.should_save = True
        if self.run is not None and self.is_main:
            total = self.limits.steps or (
                math.ceil(step / share) if (share := self.limits.share(step, self.cost)) else None
            )
            self.run.progress("rl", step, total, reward=metrics.get("reward"), gpu_hours=self.cost.gpu_hours)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Complete the step's line with what the trainer logged, write it, mirror it."""
        if self._line is None or logs is None:
            return
        ours: dict[str, Any] = {
            TRL_NAMES[k]: v for k, v in logs.items() if k in TRL_NAMES and isinstance(v, (int, float))
        }
        if "kl" in ours:
            ours["kl_estimator"] = "k3"  # TRL: exp(ref - logp) - (ref - logp) - 1, against the base model
        self._line["metrics"] = {**ours, **self._line["metrics"]}
        line = self._flush()
        if self.tracker is not None and line is not None and self.is_main:
            self.tracker.log(self._tracker_row(line))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint complete, then delete what is no longer kept."""
        self._flush()
        agree(True)  # every rank has written its part of the checkpoint
        if not self.is_main:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if folder.is_dir() and self.counter is not None:
            self.steps.sync()
            np.save(folder / "prompts_seen.npy", np.fromiter(self.counter.prompts_seen, dtype=np.int64))
            write_json(
                folder / LEDGER,
                {"step": state.global_step, "cost": self.cost.to_dict(), "kept": self.milestone, **self.ledger,
                 "files": file_sizes(folder)},
            )  # fmt: skip
            self._rotate(folder.parent)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last line, and what was spent after it."""
        self._flush()
        self._overhead(state.global_step)

    def close(self) -> None:
        """Close the records."""
        self.steps.close()

    def restore_prompts(self, folder: Path) -> None:
        """Remember the prompts seen before a restart."""
        if self.counter is not None and (folder / "prompts_seen.npy").is_file():
            self.counter.prompts_seen.update(int(x) for x in np.load(folder / "prompts_seen.npy"))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _add_extra(self, name: str, value: float) -> None:
        self._extra[name] = self._extra.get(name, 0.0) + value

    def _snapshot(self, step: int) -> None:
        """Weights alone, for evaluation after the fact."""
        assert self.counter is not None
        folder = self.directory / "snapshots" / f"checkpoint-{step}"
        self.counter.trainer.save_model(str(folder))
        if self.is_main:
            write_json(folder / LEDGER, {"step": step, "cost": self.cost.to_dict()})

    def _overhead(self, step: int) -> None:
        """Write a line of pure cost: wall since the mark outside steps and evaluation, and what no line took yet."""
        now = self.counter.now() if self.counter is not None else time.perf_counter()
        self._add_extra("overhead_gpu_seconds", max(0.0, now - self._mark - self._aside) * self.devices)
        self._mark, self._aside = now, 0.0
        if self.is_main:
            self.steps.write(
                {"segment": self.segment, "step": step, "time": round(time.time(), 3), "cost": self._extra}
            )
        self._extra = {}

    def _flush(self) -> dict[str, Any] | None:
        line, self._line = self._line, None
        if line is None:
            return None
        for name, value in self._extra.items():
            line["cost"][name] = line["cost"].get(name, 0.0) + value
        self._extra = {}
        if self.is_main:
            self.steps.write(line)
        return line

    def _tracker_row(self, line: Mapping[str, Any]) -> dict[str, float]:
        cost = ComputeCost(**line["cost"])
        row = {"train/global_step": line["step"], **self.axes()}
        row |= {f"train/{k}": v for k, v in line["metrics"].items() if isinstance(v, (int, float))}
        row |= compute_metrics(cost, devices=self.devices, rollouts=self.cost.rollouts, peak=self.peak_flops)
        row |= self._row
        self._row = {}
        return row

    def _epochs(self, args: Any, state: Any) -> float:
        """Passes over the distinct training prompts so far [1]."""
        trainer = self.counter.trainer if self.counter else None
        size = len(trainer.train_dataset) if trainer is not None and hasattr(trainer.train_dataset, "__len__") else 0
        draws = self.cost.rollouts / getattr(args, "num_generations", 1)
        return draws / size if size else float("nan")

    def _rotate(self, folder: Path) -> None:
        if not self.keep:
            return
        loose = [path for path, ledger in complete_checkpoints(folder) if not ledger.get("kept")]
        for path in loose[: -self.keep]:
            shutil.rmtree(path, ignore_errors=True)


def _log_spaced(step: int) -> bool:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: two a doubling."""
    low = step & -step
    return step in (low, 3 * low)


def __getattr__(name: str) -> Any:
    """`attach`, under the name users know; its module builds on this one."""
    if name == "attach":
        from sweeps.attach import attach

        return attach
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
