"""Admission study of the chain task: does GRPO teach what no decoding of the base shows, and what equal compute does not?

    python benchmarks/admission.py run --task chain --models scratch_24,scratch_48,scratch_96 --seeds 0,1,2,3,4 --steps 150
    python benchmarks/admission.py table docs/results/admission.jsonl

A piece is one (task, model, seed): pretrain, best decoding of the base, GRPO, then two controls that spend as many FLOPs as
GRPO did, each at two rates of which the better counts: continued pretraining, and SFT on the base's own verified samples.
Pieces append a line each to --out and are skipped when they are there already, so the study can be run in parts.

A task is admitted at a size if the gain, T=1 accuracy after GRPO less the best of greedy, forced trace and maj@16 of the
base, has a 90 % interval over seeds (Student's t) that excludes 0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
K = 16


def evaluate(model: Any, tokenizer: Any, task: Any, shape: Any) -> dict[str, float]:
    """Held-out accuracy: sampled at T=1 (with pass@16 and maj@16), greedy, and greedy under the forced trace."""
    from sweeps.evaluation import majority_accuracy, sample

    held_out = task.benchmarks()["held_out"]
    common = {"shape": shape, "batch": 4096, "seed": 1}
    sampled = sample(model, tokenizer, task, held_out, k=K, **common)
    greedy = sample(model, tokenizer, task, held_out, temperature=None, **common)
    forced = sample(
        model,
        tokenizer,
        task,
        held_out,
        temperature=None,
        begin_suppress_tokens=task.banned_tokens_for_trace(),
        **common,
    )
    out = {
        "t1": sampled.accuracy,
        "greedy": greedy.accuracy,
        "forced": forced.accuracy,
        "maj16": float(np.mean(majority_accuracy(sampled, task, held_out.answers))),
        "pass16": float(np.mean(np.array(sampled.successes) > 0)),
        "length": sampled.mean_length,
    }
    return {**out, "best": max(out["greedy"], out["forced"], out["maj16"])}


def rejection_settings(flops: float, *, params: float, tokens: float) -> dict[str, int]:
    """How much to sample for rejection-sampling SFT: some 30 % of its FLOPs, at 2 FLOPs a parameter and token."""
    return {"prompts": max(256, int(0.3 * flops / (2 * params * tokens) / 8)), "samples": 8, "sampling_batch": 8192}


def piece(args: argparse.Namespace, model_name: str, seed: int) -> dict[str, Any]:
    """One base, GRPO on it, and the controls."""
    import torch
    import transformers
    import yaml

    from sweeps.config import resolve
    from sweeps.counting import Counter
    from sweeps.grpo import build_trainer
    from sweeps.models import load, shape_of
    from sweeps.pretrain import pretrain
    from sweeps.sft import SftConfig, run_sft
    from sweeps.tasks import build

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    model_yaml = yaml.safe_load((ROOT / "conf/model" / f"{model_name}.yaml").read_text())
    rates = model_yaml["hyperparameters"]
    pretraining = yaml.safe_load((ROOT / "conf/pretrain" / f"{args.pretrain}.yaml").read_text())
    config = resolve(
        {
            "model": model_yaml,
            "task": yaml.safe_load((ROOT / "conf/task" / f"{args.task}.yaml").read_text()),
            "pretrain": {**pretraining, "learning_rate": rates["pretraining_learning_rate"], "seed": seed},
            "grpo": {
                "learning_rate": args.rate or rates["learning_rate"], "group_size": args.group_size,
                "prompts_per_step": args.prompts, "training_prompts": args.steps * args.prompts, "dtype": "float32",
            },
            "budget": {"steps": args.steps},
            "seed": seed,
        }
    )  # fmt: skip
    task = build(config.task)
    bases = Path(args.work) / "bases"
    base = pretrain(config.model, task, config.pretrain, bases, progress=False)
    shape = shape_of(config.model, task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load(config.model, task, path=base.path)
    model.to(device)
    out: dict[str, Any] = {
        "task": args.task, "model": model_name, "seed": seed, "steps": args.steps, "rollouts": args.prompts * args.group_size,
        "parameters": base.parameters, "answer_space": task.answer_space, "guess_rate": task.guess_rate,
        "pretraining_flops": base.flops, "pretraining_seconds": base.seconds, "accelerator": base.accelerator,
        "rate": config.grpo.learning_rate, "base": evaluate(model, tokenizer, task, shape),
    }  # fmt: skip
    start = time.perf_counter()
    trainer = build_trainer(
        config, model=model, tokenizer=tokenizer, task=task, rows=task.training_rows(n=config.grpo.training_prompts, seed=seed),
        output_dir=Path(args.work) / f"grpo-{model_name}-{seed}",
    )  # fmt: skip
    trainer.args.save_strategy = "no"
    trainer.remove_callback(transformers.PrinterCallback)
    counter = Counter(trainer, shape)
    trainer.train()
    cost, _ = counter.take(devices=1)
    out |= {
        "grpo_seconds": time.perf_counter() - start,
        "grpo_flops": cost.total_flops,
        "grpo": evaluate(trainer.model, tokenizer, task, shape),
    }
    del trainer, model
    tokens = out["base"]["length"] + task.prompt_width
    settings = {
        "continued": {},
        "rejection": rejection_settings(cost.total_flops, params=shape.params, tokens=tokens),
    }
    for kind in filter(None, args.controls.split(",")):
        more, tried = settings[kind], []
        for factor in (1.0, 4.0):
            sft = SftConfig(
                kind=kind,
                flops=cost.total_flops,
                batch=256,
                learning_rate=factor * config.grpo.learning_rate,
                seed=seed,
                **more,
            )
            record = run_sft(
                sft,
                model_config=config.model,
                task=task,
                base=base.path,
                parent=base.base_hash,
                directory=bases,
                progress=False,
            )
            trained, _ = load(config.model, task, path=record.path)
            tried.append(
                {
                    **evaluate(trained.to(device), tokenizer, task, shape),
                    "flops": record.flops,
                    "rate": sft.learning_rate,
                    "steps": record.steps,
                    "texts": record.texts,
                }
            )
        out[kind] = max(tried, key=lambda row: row["t1"])
    return out


def run(args: argparse.Namespace) -> None:
    """All pieces that are not done yet, ``--workers`` at a time, each in a process of its own."""
    done = {(r["task"], r["model"], r["seed"], r["steps"]) for r in _rows(Path(args.out))}
    pieces = [(m, int(s)) for s in args.seeds.split(",") for m in args.models.split(",")]
    pieces = [p for p in pieces if (args.task, *p, args.steps) not in done]
    deadline = time.monotonic() + args.seconds

    def go(one: tuple[str, int]) -> None:
        left = deadline - time.monotonic()
        if left < 60:
            print("out of time before", one, flush=True)
            return
        command = [sys.executable, __file__, *sys.argv[1:], "--piece", f"{one[0]}:{one[1]}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=left, env=environment, check=False)
        except subprocess.TimeoutExpired:
            print("stopped by --seconds:", one, flush=True)
            return
        print(one, "ok" if result.returncode == 0 else result.stderr[-1500:], flush=True)

    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(go, pieces))


def table(path: Path) -> str:
    """The admission table in Markdown, one row a task and size."""
    from scaling.metrics import mean_interval

    def interval(values: list[float]) -> str:
        if not values:
            return "not run"
        n, mean = len(values), float(np.mean(values))
        if n < 3:
            return f"{mean:+.3f} (n={n}, no interval)"
        low, high = mean_interval(values)
        return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"

    def mean(rows: list[dict], *keys: str) -> str:
        return f"{np.mean([_deep(r, keys) for r in rows]):.3f}"

    rows = _rows(path)
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["steps"], row["parameters"], row["model"]), []).append(row)
    lines = [
        "| task | model (parameters) | seeds | base T=1 / best decoding / pass@16 | GRPO T=1 / best / pass@16 | gain over best decoding, 90 % | over continued pretraining | over rejection SFT | RL/pretraining FLOPs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, steps, parameters, model), group in sorted(groups.items()):
        gain = [r["grpo"]["t1"] - r["base"]["best"] for r in group]
        over = {
            k: interval([r["grpo"]["t1"] - r[k]["t1"] for r in group if k in r]) for k in ("continued", "rejection")
        }
        lines.append(
            f"| {task}, {steps} steps | {model} ({parameters:,}) | {len(group)} | "
            + " / ".join(mean(group, "base", k) for k in ("t1", "best", "pass16")) + " | "
            + " / ".join(mean(group, "grpo", k) for k in ("t1", "best", "pass16"))
            + f" | {interval(gain)} | {over['continued']} | {over['rejection']} | "
            + f"{np.mean([r['grpo_flops'] / r['pretraining_flops'] for r in group]):.2f} |"
        )  # fmt: skip
    return "\n".join(lines)


def _deep(row: Any, keys: tuple[str, ...]) -> float:
    for key in keys:
        row = row[key]
    return row


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []


def main() -> None:
    """Command line; ``run --help`` lists the settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--task", default="chain")
    runner.add_argument("--models", default="scratch_24,scratch_48,scratch_96")
    runner.add_argument("--seeds", default="0,1,2,3,4", help="each is the seed of pretraining and of GRPO")
    runner.add_argument("--pretrain", default="default")
    runner.add_argument("--steps", type=int, default=150)
    runner.add_argument("--prompts", type=int, default=32)
    runner.add_argument("--group-size", type=int, default=8)
    runner.add_argument("--controls", default="continued,rejection")
    runner.add_argument("--rate", type=float, default=None, help="GRPO's rate; default: the model's own")
    runner.add_argument("--workers", type=int, default=1)
    runner.add_argument("--seconds", type=float, default=86400.0, help="stop after so long; finished pieces stay")
    runner.add_argument("--work", default="runs/admission")
    runner.add_argument("--out", default=str(ROOT / "docs/results/admission.jsonl"))
    runner.add_argument("--piece", default=None, help=argparse.SUPPRESS)
    tabler = commands.add_parser("table")
    tabler.add_argument("path", type=Path)
    args = parser.parse_args()
    if args.command == "table":
        print(table(args.path))
    elif args.piece is None:
        run(args)
    else:
        model, seed = args.piece.split(":")
        row = piece(args, model, int(seed))
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        with Path(args.out).open("a") as out:
            out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
