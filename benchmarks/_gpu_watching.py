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


def watch(*, device: str, tiny: bool, out: Path, pairs: int | None, steps: int | None) -> bool:
    """Pairs of runs at each size; true if all ran."""
    import numpy as np
    from scipy import stats

    sizes = {"tiny": (16, 2)} if tiny else SIZES
    pairs, steps = pairs or (2 if tiny else 5), steps or (6 if tiny else 60)
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
            while True:  # keep what is finished: the pairs so far
                try:
                    said, errors = child.communicate(timeout=2)
                except subprocess.TimeoutExpired:
                    said, errors = "", ""
                if detail.is_file():
                    results.body["detail"][size] = json.loads(detail.read_text(encoding="utf-8"))
                    results.write()
                if child.poll() is not None:
                    break
        found = results.body["detail"].get(size, {"overheads": [], "pairs": []})
        overheads = found["overheads"]
        n = len(overheads)
        plain = [float(stats.trim_mean(pair["plain"][1:], 0.2)) for pair in found["pairs"]]
        half = float(stats.t.ppf(0.95, n - 1) * stats.sem(overheads)) if n > 1 else None
        row: dict[str, Any] = {"size": size, "pairs": n, "s/step, TRL alone": float(np.mean(plain)) if n else None}
        row |= {"overhead": f"{np.mean(overheads):+.3%}"} if n else {}
        row |= (
            {"90 % interval": f"{np.mean(overheads) - half:+.3%} to {np.mean(overheads) + half:+.3%}"}
            if half is not None
            else {}
        )
        row["outcome"] = "measured" if child.returncode == 0 else f"failed: {last_line(errors or said)}"
        results.add(row)
        rows.append(row)
    print("\n" + table(rows, ["size", "pairs", "s/step, TRL alone", "overhead", "90 % interval", "outcome"]))
    return all(row["outcome"] == "measured" for row in rows)
