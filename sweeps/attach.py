"""The meter for a user's own script: `attach` gives any TRL `GRPOTrainer` the records of this project, and nothing else of it."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling import records
from scaling.cost import ComputeCost
from scaling.flops import ModelShape
from sweeps.files import read_json
from sweeps.meter import Meter
from sweeps.run_dir import LEDGER, RunDirectory, ledger_cost

__all__ = ["AttachedMeter", "attach"]


class AttachedMeter(Meter):
    """A meter that opens and closes the run itself; budget, checkpoints and their number stay the script's own."""

    def __init__(
        self,
        record: records.RunRecord,
        run: RunDirectory,
        *,
        pretraining: Mapping[str, Any] | None = None,
        updates_per_rollout: int = 1,
    ) -> None:
        super().__init__(
            directory=run.path, segment=0, devices=record.devices, pretraining=pretraining, run=run,
            updates_per_rollout=updates_per_rollout, keep=0,
        )  # fmt: skip
        self.record, self.held = record, run
        self._ended_at: int | None = None  # step at which a training of this trainer ended or broke off

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open a segment, at the cost that the checkpoint tells where the trainer resumes from one."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.global_step and (folder / LEDGER).is_file():
            self._resume(folder)
        if self._ended_at is not None:  # the time between two trainings is the script's own
            self._mark, self._ended_at = time.perf_counter(), None
            self.held.hold()
        self.segment = self.held.open_segment(self.record, resumed_from=state.global_step or None, commit=None)
        super().on_train_begin(args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last line; then the run is closed."""
        super().on_train_end(args, state, control, **kwargs)
        self._ended_at = state.global_step
        self.close()
        self.held.close_segment("finished")
        self.held.release()

    def evaluated(self, cost: ComputeCost, seconds: float, rows: Mapping[str, float]) -> None:
        """After the end, too, an evaluation is paid for: a line of its own in the last segment."""
        super().evaluated(cost, seconds, rows)
        if self._ended_at is None:
            return
        self._mark = time.perf_counter() - self._aside
        self.held.hold()
        self._overhead(self._ended_at)
        self.close()
        self.held.release()

    def _resume(self, folder: Path) -> None:
        ledger = read_json(folder / LEDGER)
        if isinstance(ledger.get("cost"), dict):
            self.cost = ledger_cost(ledger)
            self.restore_prompts(folder)
            return
        self.cost = ComputeCost()
        if self.is_main:
            print(
                f"{folder / LEDGER} is damaged: axes and evaluations of this segment count compute from here; its steps "
                "are whole. Fit the run from its steps, or resume from another checkpoint",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def broke_off(self, cause: str) -> None:
        """Close the run after an exception, so that a notebook can attach to it again."""
        try:
            if self.held.record is not None and self.held.record.status == "running":
                self._flush()
                self.held.close_segment(cause)
                self._ended_at = self.counter.trainer.state.global_step if self.counter else 0
        finally:
            self.close()
            self.held.release()


def attach(
    trainer: Any,
    *,
    run_dir: str | Path,
    devices: int | None = None,
    accelerator: str | None = None,
    name: str = "",
    pretraining: Mapping[str, Any] | None = None,
) -> AttachedMeter:
    """Meter a user's own `GRPOTrainer`: two lines in a script, records in ``run_dir``.

    Args:
        trainer: built, not yet trained.
        run_dir: where run.json and steps.jsonl go; the same folder again appends a segment.
        devices: devices allocated; processes by default [1].
        accelerator: device name; asked of the device by default.
        name: shown to people.
        pretraining: ``{"flops":, "gpu_hours":, "tokens":, "source":}`` of the base, where known.

    Raises:
        UnknownName: the model's architecture is not known to `scaling.flops`.

    Example:
        >>> from sweeps.meter import attach
        >>> attach(trainer, run_dir="runs/mine")  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """
    from sweeps.devices import accelerator_name

    path = Path(run_dir)
    shape = ModelShape.from_config(trainer.model.config.to_dict())
    run = RunDirectory(path, main=trainer.accelerator.is_main_process)  # of several ranks, the first writes
    stages = ({"stage": "pretrain", **pretraining},) if pretraining else ()
    record = records.RunRecord(
        run_id=path.name, name=name or path.name, config={"trl": json.loads(trainer.args.to_json_string())},
        model={"name": str(trainer.model.config._name_or_path), "params": shape.params},
        accelerator=accelerator or accelerator_name(), devices=devices or trainer.accelerator.num_processes,
        stages=stages, provenance={"trainer": "trl", "attached": True},
    )  # fmt: skip
    meter = AttachedMeter(record, run, pretraining=pretraining, updates_per_rollout=trainer.num_iterations)
    meter.bind(trainer, shape)
    trainer.add_callback(meter)
    train = trainer.train

    @functools.wraps(train)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return train(*args, **kwargs)
        except BaseException as error:  # Ctrl-C among them
            meter.broke_off("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise

    trainer.train = guarded
    return meter
