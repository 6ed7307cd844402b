"""CPU time and size of the report of a large sweep: ``python benchmarks/report.py [--runs 200] [--steps 1000]``.

Simulated runs (analysis/example_runs.py) of six sizes, several recipes and seeds. Printed beside it, in the same process: the
time to parse the same files line by line with json, below which no reader of them can be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "analysis"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    import example_runs

    import scaling
    from scaling import report

    with tempfile.TemporaryDirectory() as root:
        recipes = {name: speed for name, speed in (("a", 1.0), ("b", 1.3), ("c", 0.8), ("d", 1.6))}
        seeds = -(-args.runs // (len(example_runs.BASES) * len(recipes)))
        example_runs.write_ladder(Path(root) / "runs", recipes=recipes, seeds=seeds, steps=args.steps)
        start = time.process_time()
        lines = 0
        for path in Path(root).rglob("*.jsonl"):
            with path.open(encoding="utf-8") as f:
                lines += sum(1 for _ in map(json.loads, f))
        parsed = time.process_time() - start
        start = time.process_time()
        table = scaling.load_runs(Path(root) / "runs")
        loaded = time.process_time() - start
        start = time.process_time()
        page = report.write(table, Path(root) / "report")
        written = time.process_time() - start
        size = page.stat().st_size / 1e6
    print(f"{table}: {lines:,} lines")
    print(
        f"json alone {parsed:.1f} s CPU; load_runs {loaded:.1f} s ({loaded / parsed:.1f} x); report.write {written:.1f} s; page {size:.1f} MB"
    )


if __name__ == "__main__":
    main()
