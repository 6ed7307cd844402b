"""Simulated run directories for the notebooks: the truth is known, so what the fits say can be checked against it.

They are written through `scaling.records`, as a metered run writes them. Replace their folder with your own and every
notebook works unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling import Sigmoid
from scaling.records import EVALS, STEPS, Appender, RunRecord, dump_line, write_run


@dataclass(frozen=True)
class Base:
    """A simulated base model: its size, its pretraining, and how far RL takes it."""

    name: str
    params: float
    tokens: float
    law: Sigmoid
    flops_per_step: float

    @property
    def pretraining_flops(self) -> float:
        return 6 * self.params * self.tokens


def law(asymptote: float, c_mid: float, r_0: float) -> Sigmoid:
    """The truth behind one base: score against RL model FLOPs."""
    return Sigmoid(asymptote=asymptote, efficiency_exponent=1.5, c_mid=c_mid, r_0=r_0)


BASES = (
    Base("sim-0.5B", 5e8, 1e12, law(0.52, 2e18, 0.18), 4e16),
    Base("sim-1.5B", 1.5e9, 1e12, law(0.66, 5e18, 0.29), 1.2e17),
    Base("sim-3B", 3e9, 1e12, law(0.76, 1.2e20, 0.37), 2.4e17),
)


def write_ladder(
    root: str | Path,
    *,
    bases: tuple[Base, ...] = BASES,
    seeds: int = 2,
    recipes: dict[str, float] | None = None,
    steps: int = 400,
    even: bool = True,
) -> Path:
    """Write a ladder of runs: bases x recipes (name -> how much faster than the first) x seeds.

    With ``even`` every step takes as long as the first, so that GPU-hours are in proportion to FLOPs; else as long as its
    completions are, which get longer while the model learns.
    """
    root = Path(root)
    for base in bases:
        for recipe, speed in (recipes or {"dapo": 1.0}).items():
            for seed in range(seeds):
                _write(root / f"{base.name}-{recipe}-s{seed}", base, recipe, speed, seed, steps, even)
    return root


def _write(path: Path, base: Base, recipe: str, speed: float, seed: int, steps: int, even: bool) -> None:
    rng = np.random.default_rng([seed, int(base.params / 1e6), len(recipe)])
    law = Sigmoid(
        asymptote=base.law.asymptote + 0.004 * rng.standard_normal(), efficiency_exponent=base.law.efficiency_exponent,
        c_mid=base.law.c_mid / speed, r_0=base.law.r_0,
    )  # fmt: skip
    flops = {"generation_flops": 0.35, "scoring_flops": 0.15, "training_flops": 0.5}
    seconds = {"generation_gpu_seconds": 0.55, "training_gpu_seconds": 0.35, "idle_gpu_seconds": 0.1}
    step_seconds = base.flops_per_step / (989e12 * 0.12)  # H100, 12 % of the dense bf16 peak
    cost = {k: v * base.flops_per_step for k, v in flops.items()} | {k: v * step_seconds for k, v in seconds.items()}
    cost |= {"prompt_tokens": 64 * 200, "completion_tokens": 64 * 800, "rollouts": 64}
    pretraining = {
        "stage": "pretrain", "flops": base.pretraining_flops, "tokens": base.tokens, "source": "simulated",
        "loss": 1.69 + 406.4 / base.params**0.34 + 410.7 / base.tokens**0.28,
    }  # fmt: skip
    write_run(path, RunRecord(
        run_id=path.name, name=path.name, recipe_hash=recipe, base_hash=base.name,
        config={"grpo": {"loss": recipe}, "seed": seed}, model={"name": base.name, "params": base.params}, accelerator="H100",
        devices=8, stages=(pretraining, {"stage": "rl"}), status="finished", provenance={"trainer": "simulation"},
    ))  # fmt: skip
    ability = rng.normal(0, 1.0, 500)  # items differ in difficulty, the same at every checkpoint

    def score(step: int) -> float:
        return float(law(np.array([max(step, 1e-9) * base.flops_per_step]))[0])

    lengths = np.array([600 + 900 * score(step) for step in range(1, steps + 1)])
    pace = np.ones(steps) if even else lengths / lengths[0]  # time of each step, in that of the first

    def spent(of_flops: float, of_seconds: float) -> dict[str, float]:
        return {key: value * (of_seconds if key.endswith("seconds") else of_flops) for key, value in cost.items()}

    lines = []
    for step in range(1, steps + 1):
        p = score(step)
        metrics = {
            "reward": p + 0.02 * rng.standard_normal(), "completion_length": 600 + 900 * p + 20 * rng.standard_normal(),
            "truncation_rate": 0.02 + 0.02 * p, "entropy": 1.1 - 0.8 * p, "zero_variance_fraction": 0.2 + 0.4 * p,
        }  # fmt: skip
        lines.append(dump_line({"segment": 0, "step": step, "cost": spent(1, pace[step - 1]), "metrics": metrics}))
    (path / STEPS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with Appender(path / EVALS) as out:
        for step in sorted({0, 4, 8, 16, 30, *range(50, steps + 1, 25)}):
            p = _with_mean(ability, score(step))
            for decoding, k, chance in (("sampled", 4, p), ("greedy", 1, np.minimum(1, 1.1 * p))):
                if decoding == "sampled" or step == 0:
                    out.write({
                        "segment": 0, "step": step, "cost": spent(step, pace[:step].sum()),
                        "benchmark": "math/held-out", "k": k, "successes": rng.binomial(k, chance).tolist(),
                        "sampling": {"decoding": decoding, "temperature": 1.0 if decoding == "sampled" else 0.0},
                        "completion_length": 600 + 900 * score(step), "truncation_rate": 0.02,
                    })  # fmt: skip


def _with_mean(ability: np.ndarray, mean: float) -> np.ndarray:
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-(middle + ability)))).mean() < mean else (low, middle)
    return 1 / (1 + np.exp(-(low + ability)))
