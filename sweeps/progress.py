"""Progress of one run on the terminal: a bar where there is one, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from sweeps.meter import Meter

__all__ = ["Progress"]

PLAIN_SECONDS = 10.0  # between lines where there is no terminal


class Progress(TrainerCallback):
    """Shows step, reward, completion length and compute spent."""

    def __init__(self, *, name: str, meter: Meter, total: int | None) -> None:
        self.name, self.meter, self.total = name, meter, total
        self.bar: tqdm[Any] | None = None
        self.shown = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar where a person watches."""
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=self.total, initial=state.global_step, desc=self.name, unit="step", dynamic_ncols=True
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Advance."""
        if not logs or "reward" not in logs:
            return
        facts = (
            f"reward {logs['reward']:.3f}, length {logs['completions/mean_length']:.1f}, "
            f"{self.meter.cost.total_flops:.2e} FLOPs, {self.meter.cost.gpu_hours:.4f} GPU h"
        )
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
            self.bar.set_postfix_str(facts, refresh=False)
        elif control.should_training_stop or time.monotonic() - self.shown > PLAIN_SECONDS:
            self.shown = time.monotonic()
            of = f"/{self.total}" if self.total else ""
            print(f"{self.name}: step {state.global_step}{of}, {facts}", flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
