"""What watching costs on the device: `benchmarks/metering.py`, wall time after the device has finished each step."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _gpu_common import Results, environment, last_line, scratch, table

SIZES = {"21M": (512, 5)}
COLUMNS = [
    "size",
    "pairs",
    "ms/step, TRL alone",
    "ms/step more",
    "overhead",
    "90 % interval",
    "s at the end",
    "outcome",
]


def watch(*, device: str, tiny: bool, out: Path, pairs: int | None, steps: int | None) -> bool:
    """Pairs of runs at each size; true if all ran."""
    sizes = {"tiny": (16, 2)} if tiny else SIZES
    pairs, steps = pairs or (2 if tiny else 4), steps or (8 if tiny else 50)
    results = Results(out, "watching", device, tiny=tiny, pairs=pairs, steps=steps, detail={})
    rows: list[dict[str, Any]] = []
    for size, shape in sizes.items():
        model, *overrides = scratch(*shape)
        # 512 rollouts a step, 50 tokens each; the base only has to exist
        overrides += ["task=chain" if tiny else "task=chain_acquisition", "grpo.group_size=8", f"grpo.prompts_per_step={4 if tiny else 64}",
                      "pretrain.steps=20", "pretrain.batch=64", "pretrain.learning_rate=1e-3", "grpo.learning_rate=1e-5"]  # fmt: skip
        with tempfile.TemporaryDirectory() as tmp:
            detail = Path(tmp) / "pairs.json"
            command = [sys.executable, str(Path(__file__).with_name("metering.py")), "--device", device, "--pairs", str(pairs),
                       "--steps", str(steps), "--model", model.removeprefix("model="), "--out", str(detail)]  # fmt: skip
            command += [x for override in overrides for x in ("--override", override)]
            child = subprocess.Popen(
                command, env=environment(device), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            ended = False
            while not ended:  # keep what is finished: the pairs so far
                try:
                    said, errors = child.communicate(timeout=2)
                    ended = True
                except subprocess.TimeoutExpired:
                    said, errors = "", ""
                try:
                    results.body["detail"][size] = json.loads(detail.read_text(encoding="utf-8"))["pairs"]
                    results.write()
                except (FileNotFoundError, json.JSONDecodeError):  # none yet, or one is being written
                    continue
        outcome = "measured" if child.returncode == 0 else f"failed: {last_line(errors or said)}"
        row = {"size": size, **summary(results.body["detail"].get(size, [])), "outcome": outcome}
        results.add(row)
        rows.append(row)
    print(
        f"\nOverhead of each step; ending the mirror comes once a run and is stated beside it.\n\n{table(rows, COLUMNS)}"
    )
    return all(row["outcome"] == "measured" for row in rows)


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Overhead of a step over pairs, mean and 90 % interval (t over pairs); the trimmed mean over a pair's steps."""
    import numpy as np
    from scipy import stats

    if not pairs:
        return {"pairs": 0}
    # the first step warms up
    plain = np.array([stats.trim_mean(pair["plain"][1:], 0.2) for pair in pairs])
    extra = np.array([stats.trim_mean(np.subtract(pair["watched"], pair["plain"])[1:], 0.2) for pair in pairs])
    share = extra / plain
    out = {
        "pairs": len(pairs), "ms/step, TRL alone": float(plain.mean()) * 1e3, "ms/step more": float(extra.mean()) * 1e3,
        "overhead": f"{share.mean():+.2%}", "each pair": [float(s) for s in share],
        "s at the end": float(np.mean([pair["aside"] for pair in pairs])),
    }  # fmt: skip
    if len(pairs) > 1:
        half = float(stats.t.ppf(0.95, len(pairs) - 1) * stats.sem(share))
        out["90 % interval"] = f"{share.mean() - half:+.2%} to {share.mean() + half:+.2%}"
    return out
