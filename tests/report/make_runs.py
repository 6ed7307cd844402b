"""Synthetic run directories of known truth, written through `scaling.records`, for the tests of report and check."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling import records
from scaling.records import Appender, RunRecord, dump_line, write_run


@dataclass(frozen=True)
class Truth:
    """Score = r_0 + (asymptote - r_0) / (1 + (c_mid / C)^exponent) with C = RL model FLOPs."""

    asymptote: float
    efficiency_exponent: float
    c_mid: float
    r_0: float

    def __call__(self, flops: np.ndarray) -> np.ndarray:
        power = np.asarray(flops, dtype=float) ** self.efficiency_exponent
        rise = power / (power + self.c_mid**self.efficiency_exponent)
        return self.r_0 + (self.asymptote - self.r_0) * rise


@dataclass(frozen=True)
class Size:
    name: str
    params: float
    pretraining_flops: float
    truth: Truth


# Three sizes: two whose rise is seen whole, one that has barely started (its asymptote must not be identified).
SIZES = (
    Size("scratch-100k", 1.0e5, 6.0e13, Truth(0.55, 1.5, 2.0e11, 0.20)),
    Size("scratch-300k", 3.0e5, 5.4e14, Truth(0.72, 1.5, 6.0e11, 0.28)),
    Size("scratch-1m", 1.0e6, 6.0e15, Truth(0.85, 1.5, 6.0e13, 0.35)),
)

EARLY = (0, 2, 4, 8, 12, 20, 30, 45)


def write_run_dir(
    path: Path,
    size: Size,
    *,
    run_id: str,
    seed: int = 0,
    loss_type: str = "dapo",
    speed: float = 1.0,
    steps: int = 200,
    eval_every: int = 10,
    n_items: int = 400,
    k: int = 4,
    shared: bool = False,
    accelerator: str = "cpu",
    benchmark: str = "chain/held-out",
    pretraining: bool = True,
    restart_at: int | None = None,
    name: str = "",
    extra_metrics: Sequence[str] = (),
) -> Path:
    """Write one run of known truth; with ``restart_at`` it dies there, and its last ten steps are redone."""
    rng = np.random.default_rng([seed, int(size.params), len(loss_type)])
    per_step = {
        "generation_flops": size.params * 8.0e4,
        "scoring_flops": size.params * 2.0e4,
        "training_flops": size.params * 1.0e5,
    }
    seconds = {
        "generation_gpu_seconds": 0.9,
        "scoring_gpu_seconds": 0.2,
        "training_gpu_seconds": 0.7,
        "idle_gpu_seconds": 0.2,
    }
    flops_per_step = sum(per_step.values())
    stages = []
    if pretraining:
        stages.append(
            {
                "stage": "pretrain",
                "flops": size.pretraining_flops,
                "gpu_hours": size.pretraining_flops / 3e14,
                "tokens": size.pretraining_flops / 6 / size.params,
                "loss": 1.4 * size.params**-0.03,
                "source": "metered",
            }
        )
    stages.append({"stage": "rl"})
    segments = [
        {
            "start": "2026-01-05T10:00:00Z",
            "end": "2026-01-05T11:00:00Z",
            "host": "node1",
            "cause": "finished",
            "git_commit": "0123abcd",
            "packages": {"trl": "1.16.0", "torch": "2.13.0"},
        }
    ]
    redo_from = None
    if restart_at is not None:
        redo_from = max(0, restart_at - 10)
        segments[0]["cause"] = "interrupted"
        segments.append({**segments[0], "cause": "finished", "resumed_from": redo_from, "git_commit": "4567ef01"})
    write_run(
        path,
        RunRecord(
            run_id=run_id,
            name=name or f"{size.name}-{loss_type}-s{seed}",
            sweep="ladder",
            recipe_hash=f"recipe-{loss_type}",
            base_hash=f"base-{size.name}",
            config={
                "model": {"name": size.name},
                "task": {"name": "chain"},
                "seed": seed,
                "grpo": {"loss_type": loss_type, "group_size": 8, "learning_rate": 1e-3},
            },
            model={"name": size.name, "params": size.params, "revision": "main", "dtype": "float32"},
            accelerator=accelerator,
            devices=1,
            shared=shared,
            stages=tuple(stages),
            segments=tuple(segments),
            provenance={"trainer": "rl-scaling", "command": "python -m sweeps.train experiment=demo"},
            benchmarks={benchmark: {"items": n_items, "k": k, "temperature": 1.0, "guess_rate": 0.01}},
            status="finished",
        ),
    )
    truth = Truth(size.truth.asymptote, size.truth.efficiency_exponent, size.truth.c_mid / speed, size.truth.r_0)
    ability = rng.normal(0, 0.8, n_items)  # items differ in difficulty, the same at every checkpoint
    lines = []

    def step_row(segment: int, step: int) -> dict[str, object]:
        p = float(truth(np.array(flops_per_step * step)))
        jitter = 1 + 0.05 * rng.standard_normal()
        metrics = {
            "reward": p + 0.02 * rng.standard_normal(),
            "completion_length": 12 + 20 * p + rng.standard_normal(),
            "truncation_rate": 0.02,
            "entropy": 0.9 - 0.6 * p + 0.02 * rng.standard_normal(),
            "zero_variance_fraction": min(1.0, 0.2 + 0.4 * p),
            "kl": 0.01 * step / steps,
            "learning_rate": 1e-3,
            "epoch": step / 100,
        }
        metrics |= {key: p for key in extra_metrics}
        cost = per_step | {key: v * jitter for key, v in seconds.items()}
        cost |= {"prompt_tokens": 512, "completion_tokens": 64 * metrics["completion_length"], "rollouts": 64}
        cost |= {key.replace("_flops", "_hardware_flops"): 1.3 * v for key, v in per_step.items()}
        return {"segment": segment, "step": step, "cost": cost, "metrics": metrics}

    plan = [(0, s) for s in range(1, (restart_at or steps) + 1)]
    if redo_from is not None:
        plan += [(1, s) for s in range(redo_from + 1, steps + 1)]
    lines = [dump_line(step_row(segment, step)) for segment, step in plan]
    (path / records.STEPS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    at = sorted({*(e for e in EARLY if e <= steps), *range(0, steps + 1, eval_every), steps})
    with Appender(path / records.EVALS) as out:
        for step in at:
            mean = float(truth(np.array(flops_per_step * step)))
            p = _items(mean, ability)
            segment = 1 if redo_from is not None and step > redo_from else 0
            row = {
                "segment": segment,
                "step": step,
                "cost": _times(per_step | seconds | {"rollouts": 64, "prompt_tokens": 512}, step),
                "benchmark": benchmark,
                "completion_length": 12 + 20 * mean,
                "truncation_rate": 0.02,
            }
            counts = rng.binomial(k, p)
            out.write(
                row | {"k": k, "successes": counts.tolist(), "sampling": {"decoding": "sampled", "temperature": 1.0}}
            )
            if step == 0:
                greedy = (rng.random(n_items) < np.minimum(1, p * 1.15)).astype(int)
                out.write(
                    row | {"k": 1, "successes": greedy.tolist(), "sampling": {"decoding": "greedy", "temperature": 0.0}}
                )
    return path


def write_study(
    root: Path,
    *,
    sizes: Sequence[Size] = SIZES,
    seeds: int = 2,
    recipes: Sequence[tuple[str, float]] = (("dapo", 1.0),),
    **options: object,
) -> Path:
    """A folder of runs: sizes x recipes (loss type, speed-up) x seeds."""
    for size in sizes:
        for loss_type, speed in recipes:
            for seed in range(seeds):
                run_id = f"{size.name}-{loss_type}-{seed}"
                write_run_dir(
                    root / run_id, size, run_id=run_id, seed=seed, loss_type=loss_type, speed=speed, **options
                )  # type: ignore[arg-type]
    return root


def _items(mean: float, ability: np.ndarray) -> np.ndarray:
    """Success probabilities with mean ``mean``: a logistic shift of the items' abilities, found by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if (1 / (1 + np.exp(-(middle + ability)))).mean() < mean:
            low = middle
        else:
            high = middle
    return 1 / (1 + np.exp(-(low + ability)))


def _times(cost: dict[str, float], steps: int) -> dict[str, float]:
    return {key: value * steps for key, value in cost.items() if math.isfinite(value)}
