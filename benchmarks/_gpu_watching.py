"""What watching costs on the device: pairs of `benchmarks/metering.py`, wall time after the device has finished each step.

Completions all have the full length: those of two trainers on a GPU part ways, and a batch takes as long as its longest.
One process makes pair after pair, TRL alone and TRL watched in turns step by step, and prints each as it ends: start-up is paid
once. Beside the paired difference, which a shared host makes noisy, stands the wall time inside the meter's, the records' and the
mirror's code, clocked call by call; the time in which its clocks wait for the device is apart: what they wait for, TRL would
wait for a little later. Every finished pair is in the result file at once; the same command goes on from the pairs that are there.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _gpu_common import MARK, Results, compose, environment, last_line, scratch, stream, table

SIZES = {"21M": (512, 5)}
PATIENCE = 120.0  # seconds for one pair [s]
COLUMNS = [
    "size",
    "pairs",
    "ms/step, TRL alone",
    "ms/step more",
    "ms/step inside",
    "ms/step waiting",
    "inside",
    "overhead",
    "90 % interval",
    "s at the end",
    "outcome",
]
# one heap that keeps its pages, as in benchmarks/metering.py
HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}


def watch(*, device: str, tiny: bool, out: Path, pairs: int | None, steps: int | None, seconds: float) -> bool:
    """Pairs of runs at each size until there are enough or ``seconds`` are over; true if any was measured."""
    sizes = {"tiny": (16, 2)} if tiny else SIZES
    pairs, steps = pairs or (3 if tiny else 20), steps or (8 if tiny else 24)
    results = Results(out, "watching", device, tiny=tiny, steps=steps, detail={})
    results.body["detail"] = results.before.get("detail", {})
    deadline = time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    for size, shape in sizes.items():
        done: list[dict[str, Any]] = results.body["detail"].setdefault(size, [])
        outcome = "measured"
        with tempfile.TemporaryDirectory() as tmp:
            order = {"shape": shape, "steps": steps, "first": len(done), "pairs": pairs, "tiny": tiny}
            command = [sys.executable, str(Path(__file__).with_name("gpu.py")), "watching-worker", "--device", device,
                       "--folder", tmp, "--cells", json.dumps(order)]  # fmt: skip
            left = max(1.0, deadline - time.monotonic())
            for answer in stream(
                command, environment(device, WANDB_SILENT="true", **HEAP), patience=min(PATIENCE, left)
            ):
                if answer is None or "stderr" in answer:
                    outcome = "stopped in a pair" if answer is None else f"failed: {last_line(answer['stderr'])}"
                    break
                done.append(answer)
                results.write()
                print(f"pair {len(done)}: {json.dumps(summary([answer]))}", flush=True)
                if time.monotonic() > deadline:
                    outcome = f"{seconds:g} s were over"
                    break
        row = {
            "size": size,
            **summary(done),
            "outcome": outcome if not done or outcome.startswith("failed") else "measured",
        }
        results.add(row)
        rows.append(row)
    print(
        f"\nOverhead of each step; ending the mirror comes once a run and is stated beside it.\n\n{table(rows, COLUMNS)}"
    )
    return all(row["outcome"] == "measured" for row in rows)


def worker(*, device: str, folder: Path, order: dict[str, Any]) -> None:
    """Pair after pair in this process, each printed."""
    import gc

    import torch
    from metering import pair

    # 512 rollouts a step, some 20 tokens each; the base only has to exist
    overrides = [
        *scratch(*order["shape"]), "task=chain" if order["tiny"] else "task=chain_acquisition", "grpo.group_size=8", "grpo.dtype=auto",
        f"grpo.prompts_per_step={4 if order['tiny'] else 64}", "pretrain.steps=20", "pretrain.batch=64", "pretrain.learning_rate=1e-3",
        "grpo.learning_rate=1e-5", "grpo.training_prompts=8192", f"budget.steps={order['steps'] + 1}",
        f"runs_dir={folder}", f"bases_dir={folder}/bases",
    ]  # fmt: skip
    config = compose(overrides)
    for i in range(order["first"], order["pairs"]):
        result = pair(config, folder / f"pair{i}", device=device, swap=bool(i % 2), full_length=True)
        print(MARK + json.dumps(result), flush=True)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Overhead of a step over pairs, mean and 90 % interval (t over pairs); the trimmed mean over a pair's steps."""
    import numpy as np
    from scipy import stats

    if not pairs:
        return {"pairs": 0}
    # the first step warms up
    plain = np.array([stats.trim_mean(pair["plain"][1:], 0.2) for pair in pairs])
    extra = np.array([stats.trim_mean(np.subtract(pair["watched"], pair["plain"])[1:], 0.2) for pair in pairs])
    share, ours = extra / plain, np.array([pair["inside"]["ours"] for pair in pairs])
    out = {
        "pairs": len(pairs), "ms/step, TRL alone": float(plain.mean()) * 1e3, "ms/step more": float(extra.mean()) * 1e3,
        "overhead": f"{share.mean():+.2%}", "each pair": [float(s) for s in share],
        "ms/step inside": float(ours.mean()) * 1e3, "inside": f"{(ours / plain).mean():.2%}",
        "ms/step waiting": float(np.mean([pair["inside"]["waiting"] for pair in pairs])) * 1e3,
        "inside, each pair": [float(s) for s in ours / plain],
        "s at the end": float(np.mean([pair["aside"] for pair in pairs])),
    }  # fmt: skip
    if len(pairs) > 1:
        half = float(stats.t.ppf(0.95, len(pairs) - 1) * stats.sem(share))
        out["90 % interval"] = f"{share.mean() - half:+.2%} to {share.mean() + half:+.2%}"
    return out
