"""Importing against its peers, as ratios measured in the same run: python -m benchmarks.importing [--megabytes 500] [--only NAME]

console   verl console logs of 500 MB against reading the same file line by line in Python, as text (UTF-8, for line in
          open(path)) and as bytes (open(path, "rb")), with what the peak memory grew by: samples and worker output with a
          step line every 100 kB (what makes a log that large); the mix of a public log of 211 steps, where 57 % of the bytes
          are step lines; that log itself again and again (needs SCALING_SHARED_DATA); nothing but step lines, the worst
          case. An import reads the log and writes the run directory. In CPU time, all of one thread
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
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LINES = """
import sys, time
for how in ({"encoding": "utf-8", "errors": "replace"}, {"mode": "rb"}):
    start = time.process_time()
    for line in open(sys.argv[1], **how):
        pass
    print(time.process_time() - start)
"""
IMPORT = """
import resource, sys, time
from scaling.importers import read_runs, write
import scaling.runs, yaml, scaling.importers.verl
memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = memory(), time.process_time()
rows = 0
for run in read_runs(sys.argv[1], "verl"):
    write(run, sys.argv[2], force=True)
    rows += run.rows
print(time.process_time() - start, memory() - before, rows)
"""


def child(code: str, *arguments: object, **environment: str) -> list[str]:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.split()


PUBLIC = "verl_qwen2_7b_gpg/qwen2-7b_math.log"
WORDS = "therefore the answer is \\boxed{42} step so we let x = 7 and prompt".split()


def samples(rng: random.Random, ray: Callable[..., str]) -> list[str]:
    """Printed samples, checkpoints and progress, in no order."""
    out = [ray(" ".join(rng.choices(WORDS, k=rng.randint(3, 60)))) for _ in range(3000)]
    out += [ray(f"INFO:2025-06-18 18:20:38,444:[Rank 2] Saved optim to /x/global_step_20/actor_{i}", actor="WorkerDict", pid=i)
            for i in range(300)]  # fmt: skip
    out += [ray(f"\rTraining Progress: {i}%|##   | {i}/210 [04:14<14:44:51, 254.02s/it]") for i in range(100)]
    rng.shuffle(out)
    return out


def as_published(rng: random.Random, ray: Callable[..., str]) -> list[str]:
    """Lines between steps by kind, number and mean length of a public log (verl, 7B on 8 GPUs, 211 steps, 12.3 lines a step):
    progress bars with block characters, bare prefixes, checkpoint paths, warnings of workers; no samples.
    """
    bar = "Training Progress:  {0:2d}%|████▏     | {0}/210 [1:04:14<14:44:51, 254.02s/it]"
    out = [ray(bar.format(i % 100)[: rng.randint(55, 75)]) for i in range(1160)]
    out += [ray("") for _ in range(1780)]
    path = "/data/share/checkpoints/gsm8k_math/a_run_of_a_group/global_step_20/actor/optim_world_size_8_rank_2.pt"
    saved = (
        f"INFO:2025-06-18 18:20:38,444:[Rank 2] Saved optim to /data/projects/of/somebody/on/a/shared/file/system{path}"
    )
    out += [ray(saved, actor="WorkerDict", pid=i) for i in range(570)]
    lengths = [rng.choice((12, 12, 28, 28, 60, 100, 150, 210, 350)) for _ in range(8760)]
    out += [
        ray("".join(f"{rng.choice(WORDS)} " for _ in range(n // 5))[:n], actor="WorkerDict", pid=9) for n in lengths
    ]
    rng.shuffle(out)
    return out


def write_log(path: Path, megabytes: int, *, other: str, every: int) -> tuple[int, float]:
    """A console log with a step line after every ``every`` bytes of other output; its steps, and the share of their bytes."""
    from tests.importers.verl_logs import CONFIG, dump, ray, step_data, three_decimals

    rng = random.Random(0)
    noise = ("\n".join((samples if other == "samples" else as_published)(rng, ray)) + "\n").encode()
    step = size = at = steps_size = 0
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
            data = step_data(step, evaluated=step % 5 == 0)
            data |= {
                key: rng.random() * 10**i
                for i in range(4)
                for key in (f"extra/metric_{i}/mean", f"extra/metric_{i}/max")
            }
            data |= {f"extra/other_metric_of_the_actor_{i}/mean": rng.random() for i in range(25)}
            data |= {"actor/entropy": rng.random(), "actor/pg_loss": rng.gauss(0, 0.1), "actor/grad_norm": rng.random()}
            if step % 20 == 0:
                data["timing_s/save_checkpoint"] = 30 * rng.random()
            written = f.write((ray(three_decimals(step, data)) + "\n").encode())
            size, steps_size = size + written, steps_size + written
    return step, steps_size / size


def repeat_public(path: Path, megabytes: int) -> bool:
    """The public log again and again, where it is at hand."""
    log = Path(os.environ.get("SCALING_SHARED_DATA", ROOT.parent / "shared" / "data")) / PUBLIC
    if not log.exists():
        print(f"console, the public log itself: {PUBLIC} not found, set SCALING_SHARED_DATA")
        return False
    text = log.read_bytes()
    with path.open("wb") as f:
        for _ in range(round(megabytes * 1e6 / len(text))):
            f.write(text)
    return True


def console(megabytes: int) -> None:
    """Speed and memory of importing console logs."""
    kinds = (
        ("samples and worker output, a step line every 100 kB", "samples", 100_000),
        ("the mix of a public log", "published", 1265),
        ("the public log itself, repeated", "public", 0),
        ("step lines alone", "", 0),
    )
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "train.log"
        for title, other, every in kinds:
            for size in (megabytes // 10, megabytes):
                if other != "public":
                    _, share = write_log(log, size, other=other, every=every)
                    title = f"{title.partition(' (')[0]} (step lines: {share:.0%} of the bytes)"
                elif not repeat_public(log, size):
                    break
                actual = log.stat().st_size / 1e6
                runs = []
                for _ in range(3):
                    text, binary = map(float, child(LINES, log))
                    taken, memory, rows = map(float, child(IMPORT, log, Path(folder) / "runs"))
                    runs.append((text / taken, binary / taken, text, binary, taken, memory, rows))
                ratio, ratio_binary, text, binary, taken, memory, rows = sorted(runs)[1]
                print(
                    f"console, {title}: {actual:.0f} MB, {rows:.0f} steps: import {actual / taken:.0f} MB/s; "
                    f"line by line as text {actual / text:.0f} MB/s, ratio {ratio:.2f}; as bytes {actual / binary:.0f} MB/s, "
                    f"ratio {ratio_binary:.2f}; peak memory grew by {memory:.0f} MiB",
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
