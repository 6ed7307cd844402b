"""What ``import scaling`` costs against ``import pandas, scipy.optimize``: CPU time of fresh interpreters, interleaved.

python benchmarks/imports.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

PEER = "import pandas, scipy.optimize"
OURS = {
    "import scaling": "import scaling",
    "import scaling, then fit, Curve, load_runs": "import scaling; scaling.fit, scaling.Curve, scaling.load_runs; import pandas",
}


def cpu_seconds(code: str) -> float:
    process = subprocess.Popen([sys.executable, "-c", code])
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in ["peer", "bare", *OURS]}
    for _ in range(11):
        times["peer"].append(cpu_seconds(PEER))
        times["bare"].append(cpu_seconds("pass"))
        for name, code in OURS.items():
            times[name].append(cpu_seconds(code))
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"an interpreter alone: {median['bare']:.3f} s; {PEER}: {median['peer']:.3f} s")
    for name in OURS:
        print(f"{name}: {median[name]:.3f} s, {median[name] / median['peer']:.2f} x (limit 1.3)")


if __name__ == "__main__":
    main()
