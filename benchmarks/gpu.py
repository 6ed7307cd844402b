"""The platform on one GPU: is a run right there, what does watching cost, and where does the time go.

    python benchmarks/gpu.py correctness --out correctness.json
    python benchmarks/gpu.py watching    --out watching.json
    python benchmarks/gpu.py speed       --out speed.json

Each writes one JSON file, complete again after every cell, so that a kill loses nothing finished, and prints a Markdown table.
``--device cpu --tiny`` runs all of it in a few minutes on a machine without a GPU: that shows that the program works and says
nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help_: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
        sub.add_argument("--tiny", action="store_true", help="the smallest sizes: a trial of the program itself")
        return sub

    correctness = command("correctness", "clocks, FLOPs, kill and resume, out of memory, on the device")
    correctness.add_argument("--out", type=Path, required=True)
    correctness.add_argument("--jobs", type=int, help="runs at a time; 8 on a GPU, 1 on CPU")
    checks = ("flops", "memory", "phases", "resume")
    correctness.add_argument("--only", nargs="+", choices=checks, default=checks, help="these checks only")
    watching = command("watching", "TRL alone against TRL with meter, records and W&B offline, step by step in turns")
    watching.add_argument("--out", type=Path, required=True)
    watching.add_argument("--pairs", type=int)
    watching.add_argument("--steps", type=int)
    speed = command("speed", "seconds and utilisation of each phase, by size, batch and way to generate")
    speed.add_argument("--out", type=Path, required=True)
    speed.add_argument("--seconds", type=float, default=180.0, help="start no further cell after so long [s]")
    speed.add_argument("--variants", nargs="+", help="these ways to generate only")
    for name in ("flops-worker", "speed-worker"):
        worker = command(name, "started by this program itself")
        worker.add_argument("--folder", type=Path)
        worker.add_argument("--cells")
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        import torch

        if not torch.cuda.is_available():
            sys.exit("error: torch sees no CUDA device; --device cpu --tiny tries the program without one")
    if args.command == "correctness":
        from _gpu_correctness import check

        jobs = args.jobs or (8 if args.device == "cuda" else 1)
        return 0 if check(device=args.device, tiny=args.tiny, out=args.out, jobs=jobs, only=args.only) else 1
    if args.command == "flops-worker":
        from _gpu_correctness import flops_worker

        flops_worker(folder=args.folder, device=args.device, tiny=args.tiny)
    if args.command == "speed":
        from _gpu_speed import measure

        ok = measure(device=args.device, tiny=args.tiny, out=args.out, seconds=args.seconds, variants=args.variants)
        return 0 if ok else 1
    if args.command == "speed-worker":
        from _gpu_speed import worker as speed_worker

        speed_worker(device=args.device, tiny=args.tiny, folder=args.folder, cells=json.loads(args.cells))
    if args.command == "watching":
        from _gpu_watching import watch

        return 0 if watch(device=args.device, tiny=args.tiny, out=args.out, pairs=args.pairs, steps=args.steps) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
