"""Time and size of the report of a large sweep: ``python benchmarks/report.py [--runs 200] [--steps 1000] [--processes 2]``.

Simulated runs (analysis/example_runs.py) of three sizes, four recipes and seeds; their hours are made uneven, as measured
hours are, so that laws are fitted on both axes (``--even`` leaves them in proportion to FLOPs, as derived hours are).
CPU seconds hold those of worker processes. Printed beside it: the time to parse the same files line by line with json,
below which no reader of them can be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "analysis"))


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, CPU seconds (children included) and wall seconds."""
    before, began = os.times(), time.perf_counter()
    result = work()
    after, wall = os.times(), time.perf_counter() - began
    return result, sum(after[:4]) - sum(before[:4]), wall


def parse(root: Path) -> int:
    lines = 0
    for path in root.rglob("*.jsonl"):
        with path.open(encoding="utf-8") as f:
            lines += sum(1 for _ in map(json.loads, f))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--even", action="store_true")
    args = parser.parse_args()
    import example_runs

    os.environ["RL_SCALING_CACHE"] = "off"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        recipes = {name: speed for name, speed in (("a", 1.0), ("b", 1.3), ("c", 0.8), ("d", 1.6))}
        seeds = -(-args.runs // (len(example_runs.BASES) * len(recipes)))
        example_runs.write_ladder(root / "runs", recipes=recipes, seeds=seeds, steps=args.steps)
        lines, *parsed = timed(lambda: parse(root / "runs"))

        def imported() -> Any:
            import pandas  # noqa: F401
            import plotly.graph_objects  # noqa: F401

            import scaling
            from scaling import report

            return scaling, report

        (scaling, report), *imports = timed(imported)
        table, *loaded = timed(lambda: scaling.load_runs(root / "runs"))
        if not args.even:
            evals = table.evals.assign(gpu_hours=table.evals["gpu_hours"] ** 1.02)
            table = scaling.RunTable(table.runs, table.steps, evals)
        page, *written = timed(lambda: report.write(table, root / "report", processes=args.processes))
        size = page.stat().st_size / 1e6
    print(f"{table}: {lines:,} lines; hours {'even' if args.even else 'uneven'}, {args.processes} processes")
    for name, (cpu, wall) in (("imports", imports), ("load_runs", loaded), ("report.write", written)):
        print(f"{name:14}{cpu:6.1f} s CPU {wall:6.1f} s wall")
    cpu, wall = (sum(part) for part in zip(imports, loaded, written))
    print(
        f"{'together':14}{cpu:6.1f} s CPU {wall:6.1f} s wall (asked: < 10 s); json alone {parsed[0]:.1f} s CPU; page {size:.1f} MB (asked: < 10)"
    )


if __name__ == "__main__":
    main()
