"""Speed at scale: `load_runs`, ``sweep status``, a large manifest, an array of 200 jobs.

    python benchmarks/launch.py [load] [status] [manifest] [array]        all but array by default; array needs Slurm

Each figure stands beside a peer measured in the same process: the time to read the same bytes through pandas' own JSON
reader (load, status), or Hydra's own composition of a tenth of the rows, times ten (manifest).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def make_sweep(sweep: Path, *, runs: int, steps: int, evals: int = 24, items: int = 200) -> None:
    """Run directories as training writes them, with records of a real size."""
    rng = random.Random(0)
    config = {
        "seed": 0, "budget": {"steps": steps, "gpu_hours": None, "flops": None}, "grpo": {f"setting_{i}": i for i in range(30)},
        "model": {f"field_{i}": i for i in range(15)}, "task": {f"field_{i}": i for i in range(15)},
    }  # fmt: skip
    costs = ("generation_flops", "scoring_flops", "training_flops", "generation_hardware_flops", "scoring_hardware_flops", "training_hardware_flops",
             "generation_gpu_seconds", "training_gpu_seconds", "idle_gpu_seconds", "prompt_tokens", "completion_tokens", "rollouts")  # fmt: skip
    metrics = ("loss", "grad_norm", "learning_rate", "entropy", "truncation_rate", "clip_fraction_low", "clip_fraction_high", "clip_fraction",
               "reward", "reward/correct", "completion_length", "zero_variance_fraction", "epoch", "unique_prompts", "updates_per_rollout")  # fmt: skip
    body = "".join(
        json.dumps({"segment": 0, "step": s, "time": 1.7e9 + s, "cost": {c: rng.random() * 1e9 for c in costs}, "metrics": {m: rng.random() for m in metrics}}) + "\n"
        for s in range(1, steps + 1)
    )  # fmt: skip
    lines = "".join(
        json.dumps({"segment": 0, "step": s, "benchmark": "held_out", "k": 8, "successes": [rng.randint(0, 8) for _ in range(items)], "sampling": {"decoding": "sampled", "temperature": 1.0},
                    "completion_length": 90.0, "truncation_rate": 0.01, "cost": {c: s * 1e9 for c in costs}}) + "\n"
        for s in range(0, steps + 1, max(1, steps // evals))
    )  # fmt: skip
    for i in range(runs):
        path = sweep / f"{i:012x}"
        path.mkdir(parents=True)
        final = {c: 1e12 for c in costs}
        record = {
            "run_id": path.name, "config": {**config, "seed": i}, "recipe_hash": "r", "name": f"run-{i}", "model": {"name": "m", "params": 10**9}, "accelerator": "H100",
            "devices": 8, "stages": [{"stage": "pretrain", "flops": 1e21, "gpu_hours": 100.0}], "status": "finished", "schema_version": 1,
            "segments": [{"start": "2026-01-01", "end": "2026-01-02", "cause": "finished", "final_step": steps, "final_cost": final}],
        }  # fmt: skip
        (path / "run.json").write_text(json.dumps(record, indent=1))
        (path / "steps.jsonl").write_text(body)
        (path / "evals.jsonl").write_text(lines)
        (path / "progress.json").write_text(json.dumps({"stage": "done", "step": steps, "total": steps}))


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def load() -> None:
    import pandas as pd

    from scaling import load_runs

    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep"
        make_sweep(sweep, runs=200, steps=1000)
        os.environ["RL_SCALING_CACHE"] = str(Path(folder) / "cache")
        peer = timed(lambda: [pd.read_json(p, lines=True) for p in sorted(sweep.glob("*/steps.jsonl"))])
        before = time.process_time()
        cold = timed(lambda: load_runs(sweep))
        cpu = time.process_time() - before
        warm = min(timed(lambda: load_runs(sweep)) for _ in range(3))
        print(
            f"load_runs of 200 runs x 1,000 steps: cold {cold:.2f} s ({cpu:.2f} s CPU), cached {warm:.2f} s; pandas.read_json of the same steps.jsonl {peer:.2f} s"
        )
        print(f"  cold / peer {cold / peer:.2f}, cached / peer {warm / peer:.3f}   (asked: cold < 3 s, cached < 0.5 s)")


def status() -> None:
    from sweeps.launching.overview import states

    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep"
        make_sweep(sweep, runs=1000, steps=1000)
        (sweep / ".launch").mkdir()
        cold, warm = timed(lambda: states(sweep)), timed(lambda: states(sweep))
        command = timed(
            lambda: subprocess.run(
                [sys.executable, "-m", "scaling", "sweep", "status", str(sweep)],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        )
        peer = timed(lambda: [json.loads((p / "run.json").read_text()) for p in sweep.iterdir() if p.name != ".launch"])
        print(
            f"status of 1,000 finished runs x 1,000 steps: cold {cold:.2f} s, cached {warm:.2f} s (the command, cached: {command:.2f} s); parsing run.json alone {peer:.2f} s"
        )
        print(f"  cold / peer {cold / peer:.2f}, cached / peer {warm / peer:.2f}   (asked: cold < 5 s, cached < 1 s)")


def manifest() -> None:
    with tempfile.TemporaryDirectory() as folder:
        argv = [
            sys.executable,
            "-m",
            "sweeps.train",
            "-m",
            f"runs_dir={folder}",
            "launch.dry_run=true",
            "model=scratch_16,scratch_32,scratch_64,scratch_96",
        ]
        ours = timed(
            lambda: subprocess.run([*argv, "seed=range(500)"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        )
        rows = len(json.loads((Path(folder) / "default" / "manifest.json").read_text())["runs"])
        code = (
            "from hydra import compose, initialize_config_dir\nfrom sweeps.config import conf_dir\nimport time\n"
            "with initialize_config_dir(str(conf_dir()), version_base='1.3'):\n"
            "    compose('config'); t = time.perf_counter()\n    for i in range(50): compose('config', [f'seed={i}'])\n    print(time.perf_counter() - t)"
        )
        per_row = (
            float(
                subprocess.run(
                    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
                ).stdout
            )
            / 50
        )
        print(
            f"manifest of {rows} runs: {ours:.1f} s, start-up included; Hydra's own composition of as many rows {per_row * rows:.0f} s ({per_row * 1e3:.0f} ms a row, 50 measured)"
        )
        print(f"  ours / peer {ours / (per_row * rows):.3f}   (asked: seconds)")


def array() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.slurm.cluster import Cluster, install

    install()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        cluster = Cluster(Path(folder) / "c", accounting=False)
        cluster.up()
        try:
            env = {
                **os.environ,
                **cluster.env,
                "PYTHONPATH": str(ROOT),
                "RL_SCALING_TRAIN": "tests.launching.stub:train",
            }
            argv = [
                sys.executable,
                "-m",
                "sweeps.train",
                "-m",
                f"runs_dir={folder}/runs",
                "cluster=slurm",
                "cluster.slurm.cpus_per_gpu=1",
                "budget.steps=2",
            ]
            took = timed(
                lambda: subprocess.run(
                    [*argv, "seed=range(200)", "launch.wait=false", "+cluster.slurm.sbatch.hold=true"],
                    cwd=ROOT,
                    env=env,
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
            )
            queued = len(cluster.run("squeue", "-h", "-r").splitlines())
            peer = (
                timed(lambda: [cluster.run("sbatch", "--hold", "-o", "/dev/null", "--wrap=true") for _ in range(20)])
                * 10
            )
            print(
                f"submission of {queued} jobs in one array: {took:.1f} s, start-up included; 200 single sbatch {peer:.1f} s (20 measured)"
            )
            print(f"  ours / peer {took / peer:.2f}")
            cluster.run("scancel", "-u", cluster.user)
        finally:
            cluster.down()


def main() -> None:
    parts = {"load": load, "status": status, "manifest": manifest, "array": array}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=[*parts, []], default=["load", "status", "manifest"])
    for name in parser.parse_args().part:
        parts[name]()


if __name__ == "__main__":
    main()
