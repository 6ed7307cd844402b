"""What watching costs: TRL alone against TRL with meter, records and the W&B mirror, same settings, CPU time.

    python benchmarks/metering.py --pairs 8 --steps 150

Each arm is a process of its own; arms alternate, their order within a pair too. Both arms do the same steps on the same
prompts, so CPU time is compared step by step and the outer fifth of the differences on each side is trimmed: a shared machine
has bursts. CPU time of W&B's own process and of ending the mirror is added whole, spread over the steps. Evaluation and
checkpoints are off in both. Prints the overhead of each pair, the mean and its 90 % interval (t over pairs).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def arm(metered: bool, steps: int, model: str, folder: Path, bases: Path) -> None:
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }
    import torch
    import transformers
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import hydra_plugins.rl_scaling_launcher  # noqa: F401
    from scaling.records import RunRecord
    from sweeps.config import conf_dir, resolve
    from sweeps.grpo import build_trainer
    from sweeps.meter import Meter
    from sweeps.models import load, shape_of
    from sweeps.pretrain import pretrain
    from sweeps.run_dir import RunDirectory
    from sweeps.tasks import build
    from sweeps.tracking import open_tracker

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        body = OmegaConf.to_container(
            compose("config", overrides=[f"model={model}", f"budget.steps={steps}", f"runs_dir={folder}", f"bases_dir={bases}",
                                         "grpo.training_prompts=8192"]),
            resolve=True,
        )  # fmt: skip
    config = resolve(body)  # type: ignore[arg-type]
    task = build(config.task)
    base = pretrain(config.model, task, config.pretrain, config.bases_dir, progress=False)  # type: ignore[arg-type]
    net, tokenizer = load(config.model, task, path=base.path)
    trainer = build_trainer(
        config,
        model=net,
        tokenizer=tokenizer,
        task=task,
        rows=task.training_rows(n=8192, seed=0),
        output_dir=folder / "out",
    )
    trainer.args.save_strategy = "no"
    trainer.remove_callback(transformers.PrinterCallback)
    transformers.trainer_callback.DefaultFlowCallback.on_train_end = lambda *a, **k: None
    tracker = None
    if metered:
        run = RunDirectory(folder / "run")
        record = RunRecord(run_id="bench", config=config.model_dump())
        segment = run.open_segment(record, resumed_from=None, commit=None)
        tracker = open_tracker(
            mode="offline", project="bench", entity=None, directory=folder / "run", run_id="bench", name="bench", group="bench",
            tags=[], config=config.model_dump(), resume=False,
        )  # fmt: skip
        meter = Meter(
            directory=folder / "run", segment=segment, devices=1, pretraining=base.stage(), tracker=tracker, run=run
        )
        meter.bind(trainer, shape_of(config.model, task))
        trainer.add_callback(meter)
        time.sleep(1.0)  # the tracker's start-up is not a step's
    steps_cpu: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            steps_cpu.append(_own_cpu())

    trainer.add_callback(Clock())
    before = _children_cpu()
    trainer.train()
    steps_cpu.append(_own_cpu())
    if tracker is not None:
        tracker.finish()
    finish = _own_cpu() - steps_cpu[-1]
    per_step = [b - a for a, b in zip(steps_cpu, steps_cpu[1:])]
    print("RESULT", json.dumps({"per_step": per_step, "aside": finish + _children_cpu() - before}), flush=True)
    os._exit(0)


def _own_cpu() -> float:
    """CPU seconds of this process, all its threads."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def _children_cpu() -> float:
    """CPU seconds of all children, ended and living (W&B's own process among them)."""
    import psutil

    gone = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = gone.ru_utime + gone.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--model", default="scratch_32")
    parser.add_argument("--arm", choices=["plain", "metered"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bases", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        arm(args.arm == "metered", args.steps, args.model, args.folder, args.bases)
        return
    import numpy as np
    from scipy import stats
    from tqdm import tqdm

    overheads = []
    with tempfile.TemporaryDirectory() as tmp:

        def measure(name: str, pair: int) -> tuple[np.ndarray, float]:
            folder = Path(tmp) / f"{pair}-{name}"
            folder.mkdir()
            command = [sys.executable, __file__, "--arm", name, "--steps", str(args.steps), "--model", args.model,
                       "--folder", str(folder), "--bases", f"{tmp}/bases"]  # fmt: skip
            out = subprocess.run(command, capture_output=True, text=True)
            line = next((text for text in out.stdout.splitlines() if text.startswith("RESULT")), None)
            if line is None:
                sys.exit(out.stderr[-3000:])
            body = json.loads(line[7:])
            return np.array(body["per_step"]), body["aside"] / args.steps

        for pair in tqdm(range(args.pairs + 1), desc="pairs (the first warms up)"):
            order = ("plain", "metered") if pair % 2 else ("metered", "plain")
            cpu = {name: measure(name, pair) for name in order}
            if pair:
                (plain, _), (metered, aside) = cpu["plain"], cpu["metered"]
                # both arms do the same steps on the same prompts: compare step by step, bursts of other work trimmed away
                extra = float(stats.trim_mean(metered - plain, 0.2)) + aside
                overheads.append(extra / float(stats.trim_mean(plain, 0.2)))
                tqdm.write(
                    f"pair {pair}: plain {stats.trim_mean(plain, 0.2) * 1e3:.1f} ms/step, {extra * 1e3:+.2f} ms metered, "
                    f"of it {aside * 1e3:.2f} in W&B's own process and at the end: overhead {overheads[-1]:+.2%}"
                )
    mean, error = float(np.mean(overheads)), float(stats.sem(overheads))
    half = float(stats.t.ppf(0.95, len(overheads) - 1)) * error
    print(
        f"overhead of meter, records and W&B mirror on {args.model}: {mean:+.2%} of CPU time a step, 90 % interval {mean - half:+.2%} to "
        f"{mean + half:+.2%} ({len(overheads)} pairs of {args.steps} steps)"
    )


if __name__ == "__main__":
    main()
