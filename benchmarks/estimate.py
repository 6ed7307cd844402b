"""The launch estimate against measured steps on this processor: CPU seconds of TRL's own trainer, one thread.

python benchmarks/estimate.py            about a minute; prints the error of every size
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
STEPS = 6


def main() -> None:
    """Print one line a size."""
    import torch
    import transformers
    import yaml

    from sweeps.config import resolve
    from sweeps.estimate import calibrate_cpu, estimate
    from sweeps.grpo import build_trainer
    from sweeps.models import load, shape_of
    from sweeps.tasks import build

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    machine = calibrate_cpu()
    print(
        f"calibrated: {machine.flops_per_second / 1e9:.1f} GFLOP/s, {machine.bytes_per_second / 1e9:.1f} GB/s, {machine.layer_seconds * 1e3:.2f} ms a layer"
    )
    print(
        "| model, task, rollouts | parameters | estimated s a step | measured CPU s a step | error |\n|---|---|---|---|---|"
    )
    for name, task_name, prompts in (
        ("scratch_24", "chain", 32), ("scratch_48", "chain", 32), ("scratch_96", "chain", 32), ("scratch_128x3", "chain", 32),
        ("scratch_64", "chain_acquisition", 16), ("scratch_32", "chain_elicitation", 64),
    ):  # fmt: skip
        config = resolve(
            {
                "model": yaml.safe_load((ROOT / f"conf/model/{name}.yaml").read_text()),
                "task": yaml.safe_load((ROOT / f"conf/task/{task_name}.yaml").read_text()),
                "pretrain": {"steps": 1, "batch": 1, "learning_rate": 1e-3},
                "grpo": {"training_prompts": 64 * (STEPS + 2), "dtype": "float32", "prompts_per_step": prompts},
                "budget": {"steps": STEPS + 2},
            }
        )
        task = build(config.task)
        shape = shape_of(config.model, task)
        model, tokenizer = load(config.model, task)
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(
                config, model=model, tokenizer=tokenizer, task=task, rows=task.training_rows(n=config.grpo.training_prompts, seed=0),
                output_dir=Path(folder),
            )  # fmt: skip
            trainer.args.save_strategy = "no"
            trainer.remove_callback(transformers.PrinterCallback)
            stamps: list[float] = []

            class Clock(transformers.TrainerCallback):
                def on_step_end(self, args, state, control, stamps=stamps, **kwargs):
                    stamps.append(time.process_time())

            trainer.add_callback(Clock())
            trainer.train()
        measured = (stamps[-1] - stamps[1]) / (len(stamps) - 2)  # the first steps warm up
        told = estimate(
            config, shape, machine, prompt_length=task.prompt_width, completion_length=task.max_completion_length
        ).seconds
        print(
            f"| {name}, {task_name}, {prompts} x 8 | {shape.params:,} | {told:.3f} | {measured:.3f} | {told / measured - 1:+.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
