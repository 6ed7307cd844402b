"""Writes verl console logs as its versions do, from the definition of its loggers, with a known truth."""

from __future__ import annotations

import pprint
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Truth:
    """What a written log must give back."""

    steps: list[int] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    gpu_seconds: list[float] = field(default_factory=list)
    evaluation_gpu_seconds: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)


CONFIG: dict[str, Any] = {
    "actor_rollout_ref": {
        "actor": {"optim": {"lr": 1e-06}, "ppo_mini_batch_size": 256, "clip_ratio": 0.2},
        "model": {"path": "Qwen/Qwen2.5-0.5B"},
        "rollout": {
            "n": 4, "temperature": 1.0, "n_gpus_per_node": 1, "nnodes": 0,
            "val_kwargs": {"do_sample": True, "n": 2, "temperature": 0.6},
        },
    },
    "algorithm": {"adv_estimator": "grpo", "cap": float("inf")},
    "data": {"max_response_length": 1024, "train_batch_size": 16, "seed": None},
    "reward_model": {"enable": False, "n_gpus_per_node": 0, "nnodes": 0},
    "trainer": {"experiment_name": "exp", "n_gpus_per_node": 4, "nnodes": 2, "project_name": "proj"},
}  # fmt: skip


def three_decimals(step: int, data: dict[str, Any]) -> str:
    """The formatter up to 0.4."""
    return " - ".join([f"step:{step}", *(f"{k}:{v:.3f}" for k, v in data.items())])


def reprs(step: int, data: dict[str, Any]) -> str:
    """The formatter of newer versions, with NumPy 2's representations."""
    return " - ".join([f"step:{step}", *(f"{k}:{pprint.pformat(v)}" for k, v in data.items())])


def step_data(
    step: int, *, gpus: int = 8, evaluated: bool = False, inside: bool = True, numpy: bool = False
) -> dict[str, Any]:
    """Metrics of one step of an 8-GPU run with 64 rollouts: 40 s of phases, 2 s unaccounted, 25 s of evaluation."""
    rng = np.random.default_rng(step)
    prompts, completions = 20.0, float(100 + step)
    tokens = 64 * (prompts + completions)
    testing = 25.0 if evaluated else 0.0
    seconds = 42.0 + (testing if inside else 0.0)
    wrap = np.float64 if numpy else float
    data = {
        "global_seqlen/min": 5.0, "actor/entropy": wrap(0.5), "actor/pg_loss": -0.01, "actor/grad_norm": wrap(0.25),
        "actor/lr": 1e-06, "training/global_step": step, "critic/score/mean": wrap(0.2 + step / 1000),
        "critic/rewards/mean": wrap(0.2 + step / 1000), "critic/rewards/max": 1.0, "critic/rewards/min": 0.0,
        "response_length/mean": completions, "response_length/clip_ratio": wrap(round(float(rng.uniform(0, 0.2)), 3)),
        "prompt_length/mean": prompts, "timing_s/gen": 20.0, "timing_s/old_log_prob": 4.0, "timing_s/ref": 4.0,
        "timing_s/adv": 0.5, "timing_s/update_actor": 11.5, "timing_s/step": seconds,
        "timing_per_token_ms/gen": 0.1, "perf/total_num_tokens": int(tokens), "perf/time_per_step": seconds,
        "perf/throughput": tokens / (seconds * gpus),
    }  # fmt: skip
    if evaluated:
        data |= {
            "timing_s/testing": testing, "val-core/openai/gsm8k/acc/mean@2": wrap(0.4 + step / 100),
            "val-core/openai/gsm8k/acc/best@2/mean": wrap(0.5), "val-core/openai/gsm8k/acc/maj@2/mean": 0.45,
            "val-aux/openai/gsm8k/reward/mean@2": 0.1,
        }  # fmt: skip
    return data


def ray(line: str, *, pid: int = 7, actor: str = "TaskRunner", ip: str | None = None, colour: bool = True) -> str:
    """A line as Ray prints it for a worker."""
    where = f"pid={pid}, ip={ip}" if ip else f"pid={pid}"
    return f"\x1b[36m({actor} {where})\x1b[0m {line}" if colour else f"({actor} {where}) {line}"


def dump(config: dict[str, Any], *, pid: int = 7, noise: bool = True) -> list[str]:
    """The configuration as pprint prints it, with another worker's lines in between."""
    lines = []
    for i, line in enumerate(pprint.pformat(config).splitlines()):
        lines.append(ray(line, pid=pid))
        if noise and i % 3 == 0:
            lines.append(ray("Some warning: {'unbalanced': [", actor="WorkerDict", pid=99))
    return lines
