"""A run of two real trainer ranks: the real `GRPOTrainer` with the project's meter, each rank one process under torchrun."""

from __future__ import annotations

import json
import os
from typing import Any


def train(config: Any) -> None:
    from transformers import TrainerCallback

    from sweeps import stop
    from sweeps.grpo import build_trainer
    from sweeps.meter import attach
    from sweeps.models import load
    from sweeps.tasks import build

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    task = build(config.task)
    model, tokenizer = load(config.model, task)
    trainer = build_trainer(
        config, model=model, tokenizer=tokenizer, task=task, rows=task.training_rows(n=config.grpo.training_prompts, seed=config.seed),
        output_dir=config.run_dir / "checkpoints", world_size=world,
    )  # fmt: skip

    class Leave(TrainerCallback):
        """One rank is asked to stop after step 3; all must leave together."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if rank == 1 and state.global_step == 3:
                stop.request()
            if stop.agree(stop.requested()):
                control.should_training_stop = True

    folder = config.run_dir if rank == 0 else config.run_dir / f"rank{rank}"
    meter = attach(trainer, run_dir=folder, devices=world)
    trainer.add_callback(Leave())
    trainer.train()
    weights = float(sum(p.double().abs().sum() for p in trainer.model.parameters()))
    (config.run_dir / f"rank{rank}.json").write_text(
        json.dumps({"step": trainer.state.global_step, "weights": weights, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "node": os.environ["SLURMD_NODENAME"],
                    "rollouts": meter.cost.rollouts})
    )  # fmt: skip
