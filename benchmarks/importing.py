"""Importing against its peers, as ratios measured in the same run: python -m benchmarks.importing [--megabytes 500] [--only NAME]

console   a verl console log of 500 MB against reading the same file line by line in Python, with peak memory; once with a
          step line every 100 kB among worker output and samples, once with nothing but step lines
wandb     a .wandb log against `wandb leet inspect --json`, both in a fresh process, rows compared
pull      runs a second from a loopback W&B server against `scan_history` run by run, same client, same server
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LINES = """
import sys, time
start = time.perf_counter()
for line in open(sys.argv[1], encoding="utf-8", errors="replace"):
    pass
print(time.perf_counter() - start)
"""
IMPORT = """
import resource, sys, time
from scaling.importers import read_runs, write
import scaling.runs, yaml, scaling.importers.verl
start = time.perf_counter()
for run in read_runs(sys.argv[1], "verl"):
    write(run, sys.argv[2], force=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def child(code: str, *arguments: object, **environment: str) -> list[str]:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.split()


def write_log(path: Path, megabytes: int, *, every: int) -> int:
    """A console log with a step line after every ``every`` bytes of other output; returns its steps."""
    from tests.importers.verl_logs import CONFIG, dump, ray, step_data, three_decimals

    rng = random.Random(0)
    words = [
        "therefore",
        "the",
        "answer",
        "is",
        "\\boxed{42}",
        "step",
        "so",
        "we",
        "let",
        "x",
        "=",
        "7",
        "and",
        "prompt",
    ]
    other = [ray(" ".join(rng.choices(words, k=rng.randint(3, 60)))) for _ in range(3000)]
    other += [ray("INFO:2025-06-18 18:20:38,444:[Rank 2] Saved optim to /x/global_step_20/actor", actor="WorkerDict", pid=i)
              for i in range(300)]  # fmt: skip
    other += [ray(f"\rTraining Progress: {i}%|##   | {i}/210 [04:14<14:44:51, 254.02s/it]") for i in range(100)]
    rng.shuffle(other)
    noise = ("\n".join(other) + "\n").encode()
    step, size, at = 0, 0, 0
    with path.open("wb") as f:
        f.write(("\n".join(dump(CONFIG)) + "\n").encode())
        while size < megabytes * 1_000_000:
            if every:
                if at + every > len(noise):
                    at = 0
                cut = noise.find(b"\n", at + every) + 1 or len(noise)
                size += f.write(noise[at:cut])
                at = cut
            step += 1
            data = step_data(step, evaluated=step % 10 == 0) | {f"extra/metric_{i}": 0.5 for i in range(25)}
            size += f.write((ray(three_decimals(step, data)) + "\n").encode())
    return step


def console(megabytes: int) -> None:
    """Speed and memory of importing console logs."""
    with tempfile.TemporaryDirectory() as folder:
        for title, every in (("a step line every 100 kB", 100_000), ("step lines alone", 0)):
            for size in (megabytes // 10, megabytes) if every else (megabytes // 50, megabytes // 5):
                log = Path(folder) / "train.log"
                steps = write_log(log, size, every=every)
                actual = log.stat().st_size / 1e6
                pairs = []
                for _ in range(3):
                    lines = float(child(LINES, log)[0])
                    taken, memory = map(float, child(IMPORT, log, Path(folder) / "runs"))
                    pairs.append((lines / taken, lines, taken, memory))
                ratio, lines, taken, memory = sorted(pairs)[1]
                print(
                    f"console, {title}: {actual:.0f} MB, {steps} steps: line by line {actual / lines:.0f} MB/s, import "
                    f"{actual / taken:.0f} MB/s, ratio {ratio:.2f}, peak memory {memory:.0f} MiB",
                    flush=True,
                )


def wandb_log(rows: int) -> None:
    """Reading an offline log in process against wandb's own command."""
    record = """
import os, random, sys
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
import wandb
run = wandb.init(project="p", dir=sys.argv[1], settings=wandb.Settings(x_disable_stats=True))
for i in range(int(sys.argv[2])):
    run.log({f"train/k{j}": random.random() for j in range(10)}, step=i)
run.finish(); wandb.teardown()
"""
    ours = "import sys; from scaling.importers.walog import read_log; print(len(read_log(sys.argv[1]).rows))"
    with tempfile.TemporaryDirectory() as folder:
        child(record, folder, rows)
        (log,) = Path(folder).glob("wandb/offline-run-*/*.wandb")
        start = time.perf_counter()
        count = int(child(ours, log)[0])
        mine = time.perf_counter() - start
        start = time.perf_counter()
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
        theirs = time.perf_counter() - start
        same = count == sum(json.loads(line)["type"] == "history" for line in out.splitlines())
        print(
            f"wandb log: {log.stat().st_size / 1e6:.0f} MB, {count} rows: {mine:.1f} s against leet's {theirs:.1f} s "
            f"(without parsing its output): {theirs / mine:.1f} x; same number of rows: {same}",
            flush=True,
        )


SERVER = """
import json, os, pathlib, random, sys
sys.path.insert(0, "tests")
from wandb_server import WandbServer
rng = random.Random(0)
with WandbServer() as server:
    for i in range(int(sys.argv[1])):
        rows = [{**{f"critic/k{j}": rng.random() for j in range(22)}, "critic/rewards/mean": rng.random(),
                 "training/global_step": step} for step in range(500)]
        server.add_run("proj", f"run{i}", rows, config={"trainer": {"n_gpus_per_node": 8, "nnodes": 1}})
        server.export("proj", f"run{i}")
        stored = server.runs["proj", f"run{i}"]
        stored.rows = (lambda kept: lambda: kept)(stored.rows())  # the server's own work is not what is compared
    print(json.dumps(server.environment(pathlib.Path(sys.argv[2]))), flush=True)
    sys.stdin.read()
"""
PULL = """
import sys, time
import wandb
from scaling.importers.wandb_online import pull
folder, count, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
start = time.perf_counter()
rows = sum(len(list(run.scan_history(use_cache=False))) for run in wandb.Api().runs("team/proj", per_page=200))
scan = time.perf_counter() - start
start = time.perf_counter()
ours = sum(raw.rows.count for raw in pull("team/proj", cache=folder, workers=workers))
cold = time.perf_counter() - start
start = time.perf_counter()
pull("team/proj", cache=folder)
print(rows, ours, scan, cold, time.perf_counter() - start)
"""


def pulls(count: int) -> None:
    """Runs a second from the loopback server."""
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(count), folder],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            environment = json.loads(server.stdout.readline()) | {"WANDB_SILENT": "true"}
            rows, ours, *times = map(float, child(PULL, Path(folder) / "pulls", count, 8, **environment))
        finally:
            server.communicate("", timeout=30)
        scan, cold, warm = times
        print(
            f"pull: {count} runs of {rows / count:.0f} rows x 24 keys: scan_history run by run {count / scan:.0f} runs/s, "
            f"pull {count / cold:.0f} runs/s ({scan / cold:.1f} x), unchanged runs from the cache {count / warm:.0f} runs/s "
            f"({scan / warm:.1f} x); rows equal: {rows == ours}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--only", choices=["console", "wandb", "pull"])
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if chosen.only in (None, "console"):
        console(chosen.megabytes)
    if chosen.only in (None, "wandb"):
        wandb_log(100_000)
    if chosen.only in (None, "pull"):
        pulls(200)


if __name__ == "__main__":
    main()
