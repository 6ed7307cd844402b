"""Time and size of the report of a large sweep, as it is typed: ``python benchmarks/report.py [--runs 200] [--steps 1000]``.

Simulated runs (analysis/example_runs.py) of three sizes, four recipes and seeds. Twice: with hours in proportion to FLOPs, as
derived hours are, and with hours that are not, as measured ones, where the laws are fitted on either axis. Each time
``rl-scaling report`` runs as a command of its own, first without a cache of the runs and then with it; CPU seconds hold those
of its worker processes, and half of them is what two idle cores need at least. Printed beside it: the time to parse the same
files line by line with json, below which no reader of them can be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "analysis"))


def command(runs: Path, out: Path, cache: Path) -> tuple[float, float]:
    """CPU seconds (worker processes included) and wall seconds of ``rl-scaling report``."""
    before, began = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "scaling", "report", str(runs), "--out", str(out)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"RL_SCALING_CACHE": str(cache)},
    )  # fmt: skip
    after, wall = os.times(), time.perf_counter() - began
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


def parse(root: Path) -> tuple[int, float]:
    """Lines of the records, and CPU seconds to parse them with json."""
    began, lines = time.process_time(), 0
    for path in root.rglob("*.jsonl"):
        with path.open(encoding="utf-8") as f:
            lines += sum(1 for _ in map(json.loads, f))
    return lines, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--cores", type=int, default=2, help="at most so many are used, where the system can say so")
    args = parser.parse_args()
    import example_runs

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    recipes = {"a": 1.0, "b": 1.3, "c": 0.8, "d": 1.6}
    seeds = -(-args.runs // (len(example_runs.BASES) * len(recipes)))
    print(f"{len(example_runs.BASES) * len(recipes) * seeds} runs x {args.steps:,} steps on at most {args.cores} cores")
    print("| hours | runs | CPU [s] | wall [s] | page [MB] |\n|---|---|---|---|---|")
    for hours in ("in proportion to FLOPs", "measured"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            even = hours != "measured"
            example_runs.write_ladder(root / "runs", recipes=recipes, seeds=seeds, steps=args.steps, even=even)
            for state in ("cold", "cached"):
                cpu, wall = command(root / "runs", root / "report", root / "cache")
                size = (root / "report" / "index.html").stat().st_size / 1e6
                print(f"| {hours} | {state} | {cpu:.1f} | {wall:.1f} | {size:.1f} |", flush=True)
            lines, alone = parse(root / "runs")
    print(
        f"json alone parses the {lines:,} lines in {alone:.1f} s of CPU; load on this machine {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
