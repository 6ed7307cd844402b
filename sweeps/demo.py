"""``make demo``: the path of a cluster user on a laptop: a Hydra multirun of ``experiment=demo``, then the report.

A proof that the installation works end to end. Its models are toys; its asymptotes say nothing about large ones.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

RUNS, REPORT = Path("runs/demo"), Path("report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the demo ladder, or find it finished, then report; ``arguments`` are further Hydra overrides."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    began = time.monotonic()
    print("== training: python -m sweeps.train -m experiment=demo " + " ".join(arguments), flush=True)
    trained = subprocess.run(
        [sys.executable, "-m", "sweeps.train", "-m", "experiment=demo", *arguments], check=False
    ).returncode
    if trained:
        print("the demo did not finish: `make demo` again continues where it stopped", file=sys.stderr)
        return trained
    print(f"== report: rl-scaling report {RUNS} --out {REPORT}/", flush=True)
    reported = subprocess.run(
        [sys.executable, "-m", "scaling", "report", str(RUNS), "--out", str(REPORT)], check=False
    ).returncode
    if reported:
        return reported
    print(_table())
    print(
        f"\nDone in {time.monotonic() - began:.0f} s. This shows that the installation works end to end; the asymptotes of these "
        f"toys say nothing about large models.\n  report:       {REPORT / 'index.html'}\n  W&B runs:     {_browse()}\n"
        f"  runs:         rl-scaling sweep status {RUNS}\n  a law:        rl-scaling fit {RUNS} --axis total_flops"
    )
    return 0


def _table() -> str:
    """The report's table, for a terminal."""
    import pandas as pd

    from scaling.records import read_run
    from scaling.runs import find_runs

    frame = pd.read_csv(REPORT / "summary.csv")
    guesses = {r.model["name"]: r.benchmarks["held_out"]["guess_rate"] for r in map(read_run, find_runs(RUNS))}
    shown = pd.DataFrame(
        {
            "model": frame["group"],
            "blind guess": frame["group"].map(guesses).map("{:.3f}".format),
            "base, sampled": frame["base_sampled"].map("{:.3f}".format),
            "base, best decoding": [
                f"{v:.3f} ({how})" for v, how in zip(frame["base_best_decoding"], frame["best_decoding"])
            ],
            "final": frame["final"].map("{:.3f}".format),
            "asymptote, 90 %": [f"{a:.3f} to {b:.3f}" for a, b in zip(frame["asymptote_low"], frame["asymptote_high"])],
            "verdict": frame["verdict"],
            "RL/pretraining FLOPs": frame["rl_flops_share"].map("{:.2%}".format),
            "GPU-hours": frame["gpu_hours"].map("{:.4f}".format),
        }
    )
    return shown.to_string(index=False)


def _browse() -> str:
    """How to look at the mirrored runs: an offline mirror has its files in the run directory."""
    mirrored = any(any(path.glob("*run-*")) for path in RUNS.glob("*/wandb"))
    return (
        f"rl-scaling wandb browse {RUNS}   (wandb leet, in the terminal)"
        if mirrored
        else "none (tracking was disabled)"
    )


if __name__ == "__main__":
    sys.exit(main())
