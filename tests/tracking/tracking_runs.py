"""Small run directories written through `scaling.records`."""

from __future__ import annotations

from pathlib import Path

from scaling import records


def record_of(run_id: str, **fields):
    base = {
        "run_id": run_id, "recipe_hash": "recipe", "name": f"tiny-{run_id}", "status": "finished",
        "config": {"seed": 1, "tracking": {"project": "study"}}, "model": {"name": "tiny", "params": 1000},
        "stages": ({"stage": "pretrain", "flops": 1e9, "gpu_hours": 2.0},),
    }  # fmt: skip
    return records.RunRecord(**(base | fields))


def step_line(step: int, segment: int = 0, reward: float | None = None) -> dict:
    return {
        "segment": segment, "step": step, "cost": {
            "generation_flops": 1e6, "training_flops": 3e6, "generation_gpu_seconds": 30.0, "training_gpu_seconds": 6.0,
            "prompt_tokens": 10, "completion_tokens": 90, "rollouts": 8,
        },
        "metrics": {"reward": step / 100 if reward is None else reward, "completion_length": 11.25, "entropy": None},
    }  # fmt: skip


def successes(step: int, items: int = 50, k: int = 4) -> list[int]:
    """A sigmoid's rise from 0.2 to 0.8, spread evenly over the items."""
    right = round(items * k * (0.2 + 0.6 * step**2 / (step**2 + 12.0**2)))
    return [(right + i) // items for i in range(items)]


def eval_line(step: int, segment: int = 0) -> dict:
    return {
        "segment": segment, "step": step, "benchmark": "chain/x", "k": 4, "successes": successes(step),
        "cost": {"training_flops": 4e6 * step, "training_gpu_seconds": 36.0 * step},
        "sampling": {"decoding": "sampled", "temperature": 1.0}, "completion_length": 10.0, "truncation_rate": 0.0,
    }  # fmt: skip


def append(path: Path, steps=(), evals=()) -> None:
    with records.Appender(path / records.STEPS) as out:
        for line in steps:
            out.write(line)
    with records.Appender(path / records.EVALS) as out:
        for line in evals:
            out.write(line)


def write_run_dir(path: Path, run_id: str, *, steps: int = 20, every: int = 5, **fields) -> Path:
    records.write_run(path, record_of(run_id, **fields))
    append(path, map(step_line, range(1, steps + 1)), map(eval_line, range(0, steps + 1, every)))
    return path
