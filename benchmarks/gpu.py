"""The platform on GPUs: is a run right there, what does watching cost, and where does the time go.

    python benchmarks/gpu.py correctness --out correctness.json
    python benchmarks/gpu.py watching    --out watching.json
    python benchmarks/gpu.py speed       --out speed.json
    python benchmarks/gpu.py ranks       --out ranks.json        # two GPUs

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

from _gpu_speed import VARIANTS
from _gpu_watching import SIZES as WATCHED


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
    correctness.add_argument("--seconds", type=float, default=500.0, help="begin no further check after so long [s]")
    correctness.add_argument("--only", nargs="+", choices=checks, default=checks, help="these checks only")
    watching = command("watching", "TRL alone against TRL with meter, records and W&B offline, in turns within one run")
    watching.add_argument("--out", type=Path, required=True)
    watching.add_argument("--rounds", type=int, help="at each size, of four blocks of four steps: on, off, off, on")
    watching.add_argument("--sizes", nargs="+", choices=tuple(WATCHED), help="these sizes only")
    watching.add_argument("--seconds", type=float, default=400.0, help="for all sizes together [s]")
    speed = command("speed", "seconds and utilisation of each phase, by size, batch and way to generate")
    speed.add_argument("--out", type=Path, required=True)
    speed.add_argument("--seconds", type=float, default=180.0, help="start no further cell after so long [s]")
    speed.add_argument("--patience", type=float, default=75.0, help="limit of one cell, compilation included [s]")
    speed.add_argument("--steps", type=int, default=3, help="timed steps a cell, after two of warm-up")
    speed.add_argument(
        "--variants", nargs="+", action="extend", choices=tuple(VARIANTS), help="these ways to generate only, in turns"
    )
    ranks = command("ranks", "two trainer ranks on two devices: metered, killed and resumed, sharded")
    ranks.add_argument("--out", type=Path, required=True)
    ranks.add_argument("--seconds", type=float, default=240.0, help="start no further check after so long [s]")
    for name in ("flops-worker", "speed-worker", "watching-worker"):
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
        limits = {"jobs": jobs, "only": args.only, "seconds": args.seconds}
        return 0 if check(device=args.device, tiny=args.tiny, out=args.out, **limits) else 1
    if args.command == "flops-worker":
        from _gpu_correctness import flops_worker

        flops_worker(folder=args.folder, device=args.device, tiny=args.tiny, cases=json.loads(args.cells))
    if args.command == "speed":
        from _gpu_speed import measure

        limits = {"seconds": args.seconds, "patience": args.patience, "variants": args.variants, "steps": args.steps}
        ok = measure(device=args.device, tiny=args.tiny, out=args.out, **limits)
        return 0 if ok else 1
    if args.command == "speed-worker":
        from _gpu_speed import worker as speed_worker

        speed_worker(device=args.device, tiny=args.tiny, folder=args.folder, cells=json.loads(args.cells))
    if args.command == "ranks":
        from _gpu_ranks import measure as measure_ranks

        return 0 if measure_ranks(device=args.device, tiny=args.tiny, out=args.out, seconds=args.seconds) else 1
    if args.command == "watching":
        from _gpu_watching import watch

        limits = {"rounds": args.rounds, "sizes": args.sizes, "seconds": args.seconds}
        return 0 if watch(device=args.device, tiny=args.tiny, out=args.out, **limits) else 1
    if args.command == "watching-worker":
        from _gpu_watching import worker as watching_worker

        watching_worker(device=args.device, folder=args.folder, order=json.loads(args.cells))
        os._exit(0)  # W&B's threads do not end by themselves
    return 0


if __name__ == "__main__":
    sys.exit(main())
