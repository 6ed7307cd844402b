"""Whether a run on the device is the run it should be: clocks, FLOPs, kill and resume, out of memory.

Every run goes by a user's own path, ``python -m sweeps.train`` in a process of its own. What a check needs to see or break is
put in front of it, in that process alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from _gpu_common import MARK, Results, compose, environment, last_line, stream, table

SMALL = [
    "grpo.training_prompts=512",
    "checkpoint.every=2",
    "tracking=disabled",
    "eval.early=[0,2]",
    "eval.best_decoding_k=4",
]
# the clock of the run from outside the meter, and whether the device's queue was empty whenever the meter read its clock
WATCH = """
import json, sys, time
import torch, sweeps.counting, sweeps.meter, sweeps.pretrain, sweeps.train
clock, readings, empty = {}, [0], [0]
pretrain, end, now = sweeps.pretrain.pretrain, sweeps.meter.Meter.on_train_end, sweeps.counting.Counter.now
def pretrained(*args, **kwargs):
    out = pretrain(*args, **kwargs)
    clock["begin"] = time.perf_counter()
    return out
def on_train_end(self, *args, **kwargs):
    end(self, *args, **kwargs)
    clock["end"] = time.perf_counter()
def read(self):
    out = now(self)
    readings[0] += 1
    empty[0] += not torch.cuda.is_available() or torch.cuda.current_stream().query()
    return out
sweeps.pretrain.pretrain, sweeps.meter.Meter.on_train_end, sweeps.counting.Counter.now = pretrained, on_train_end, read
"""
REPORT = f"""
print({MARK!r} + json.dumps({{"wall": clock["end"] - clock["begin"], "readings": readings[0], "queue_empty": empty[0],
    "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None}}), flush=True)
"""
KILL = """
import os, signal, sweeps.meter
begin = sweeps.meter.Meter.on_step_begin
def on_step_begin(self, args, state, control, **kwargs):
    begin(self, args, state, control, **kwargs)
    if state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
sweeps.meter.Meter.on_step_begin = on_step_begin
"""
DETERMINISTIC = "import torch\ntorch.use_deterministic_algorithms(True, warn_only=True)\n"
LIMIT = "import torch\ntorch.cuda.set_per_process_memory_fraction({bytes} / torch.cuda.get_device_properties(0).total_memory)\n"
NO_MEMORY = """
import torch
from trl import GRPOTrainer
loss = GRPOTrainer._compute_loss
def _compute_loss(self, model, inputs):
    if len(inputs["prompt_ids"]) > {rollouts}:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
    return loss(self, model, inputs)
GRPOTrainer._compute_loss = _compute_loss
"""
FLOPS, PHASES = "FLOPs against torch's counter", "phase seconds add up to the wall"
MEMORY, RESUME = "out of memory", "kill -9 and resume"
FLOP_CASES = {
    "on-policy": [],
    "old log-probabilities": ["grpo.updates_per_rollout=2"],
    "reference model": ["grpo.beta=0.05"],
    "recomputation": ["grpo.micro_batch=16", "grpo.gradient_checkpointing=true"],
}


def check(*, device: str, tiny: bool, out: Path, jobs: int, only: Sequence[str], seconds: float) -> bool:
    """Run all checks, ``jobs`` at a time, none begun after ``seconds``; what held in an earlier call is not done again.

    In the order in which they are worth having: FLOPs, clocks, memory, kill and resume.
    """
    results = Results(out, "correctness", device, tiny=tiny)
    results.keep([c for c in results.before.get("cells", []) if c["holds"]])
    have, deadline = {(c["check"], c["case"]) for c in results.cells}, time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as tmp:
        runs = Runs(Path(tmp), device, tiny)
        todo: list[Callable[[], Any]] = []
        dtypes = ("float32", "bfloat16")

        def add(name: str, case: str, job: Callable[[], dict[str, Any]]) -> None:
            if (name, case) not in have:
                todo.append(lambda: results.add(job()))

        if "flops" in only:
            cases = [
                f"{case}, {dtype}" for dtype in dtypes for case in FLOP_CASES if (FLOPS, f"{case}, {dtype}") not in have
            ]
            todo += [lambda: flops(runs, results, cases)] if cases else []
        if "phases" in only:
            for d in dtypes:
                add(PHASES, d, lambda d=d: phases(runs, d))
        if "memory" in only:
            for place in ("training", "generation") if device == "cuda" else ("training",):
                add(MEMORY, place, lambda place=place: memory(runs, place))
        if "resume" in only:
            for m, d in ((True, "bfloat16"), (False, "float32"), (False, "bfloat16"), (True, "float32")):
                add(
                    RESUME,
                    f"{d}{', deterministic algorithms' if m else ''}",
                    lambda d=d, m=m: resume(runs, d, deterministic=m),
                )
        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed([pool.submit(guarded, job, results, deadline) for job in todo]):
                done.result()
    rows = sorted(results.cells, key=lambda c: c["check"])
    print("\n" + table(rows, ["check", "case", "holds", "shows"]))
    return all(row["holds"] for row in rows)


def guarded(job: Callable[[], Any], results: Results, deadline: float) -> None:
    """A check that cannot even run is a failed check; one that time does not allow is left to the next call."""
    if time.monotonic() > deadline:
        print("out of time before a check", flush=True)
        return
    try:
        job()
    except Exception as error:
        results.add(
            {"check": "failed to run", "case": type(error).__name__, "holds": False, "shows": last_line(str(error))}
        )


class Runs:
    """Processes of `sweeps.train` on one base, each check in a folder of its own."""

    def __init__(self, folder: Path, device: str, tiny: bool) -> None:
        self.folder, self.device, self.tiny = folder, device, tiny
        small = [
            "model=scratch_16",
            "pretrain.steps=20",
            "pretrain.batch=64",
            "task.held_out=32",
            "grpo.prompts_per_step=8",
        ]
        large = ["model=scratch_64", "pretrain.steps=200", "task.held_out=256", "grpo.prompts_per_step=64"]
        self.overrides = [*(small if tiny else large), "task=chain", "grpo.group_size=4", "budget.steps=6", *SMALL]

    def settings(self, name: str, *overrides: str) -> list[str]:
        return [*self.overrides, f"runs_dir={self.folder}/{name}", f"bases_dir={self.folder}/bases", *overrides]

    def train(
        self, overrides: Sequence[str], *, before: str = "", after: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        program = f"{before}\nfrom sweeps.train import main\nmain()\n{after}"
        return subprocess.run(
            [sys.executable, "-c", program, *overrides], capture_output=True, text=True, check=False, timeout=240,
            env=environment(self.device, **variables),
        )  # fmt: skip


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """``done``, or a RuntimeError with the last line that it said."""
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {last_line(done.stderr)}")
    return done


def reported(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `REPORT` printed."""
    return next(json.loads(x[len(MARK) :]) for x in done.stdout.splitlines() if x.startswith(MARK))


def phases(runs: Runs, dtype: str) -> dict[str, Any]:
    """Phase seconds of the records against the wall: by the records' own clock and by one outside the meter."""
    from scaling.records import read_lines

    settings = runs.settings(f"phases-{dtype}", f"grpo.dtype={dtype}", "grpo.beta=0.02")
    seen = reported(succeeded(runs.train(settings, before=WATCH, after=REPORT)))
    config = compose(settings)
    lines = [row for row, _ in read_lines(config.run_dir / "steps.jsonl")[0]]
    seconds: dict[str, float] = {}
    for line in lines:
        for name, value in line["cost"].items():
            if name.endswith("_gpu_seconds"):
                phase = name.removesuffix("_gpu_seconds")
                seconds[phase] = seconds.get(phase, 0.0) + value
    total, wall = sum(seconds.values()), seen["wall"]
    kept = all(seconds.get(p, 0) > 0 for p in ("generation", "scoring", "training", "evaluation", "overhead"))
    exact = abs(total / wall - 1) < 0.01 and kept and seen["queue_empty"] == seen["readings"]
    shows = ", ".join(f"{phase} {value:.3f}" for phase, value in sorted(seconds.items()))
    return {
        "check": PHASES, "case": dtype, "holds": exact,
        "shows": f"{total:.3f} of {wall:.3f} s ({total / wall - 1:+.2%}): {shows}; queue empty at {seen['queue_empty']} of "
        f"{seen['readings']} readings of the clock",
        "seconds": seconds, "wall": wall, "accelerator": json.loads((config.run_dir / "run.json").read_text())["accelerator"],
    }  # fmt: skip


def flops(runs: Runs, results: Results, cases: Sequence[str]) -> None:
    """Hardware FLOPs against torch's counter, all cases in one process."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("gpu.py")),
        "flops-worker",
        "--device",
        runs.device,
        "--folder",
        str(runs.folder),
        "--cells",
        json.dumps(cases),
    ]
    command += ["--tiny"] if runs.tiny else []
    left = list(cases)
    for cell in stream(command, environment(runs.device), patience=150):
        if cell is None or "stderr" in cell:
            reason = "no answer" if cell is None else last_line(cell["stderr"])
            for case in left:
                results.add({"check": FLOPS, "case": case, "holds": False, "shows": reason})
            return
        left.remove(cell["case"])
        results.add(cell)


def flops_worker(*, folder: Path, device: str, tiny: bool, cases: Sequence[str]) -> None:
    """Print one result a case."""
    from _gpu_flops import counted_and_measured

    runs = Runs(folder, device, tiny)
    for dtype in ("float32", "bfloat16"):
        for case, overrides in FLOP_CASES.items():
            if f"{case}, {dtype}" not in cases:
                continue
            cell: dict[str, Any] = {"check": FLOPS, "case": f"{case}, {dtype}", "holds": False}
            try:
                config = compose(runs.settings("flops", f"grpo.dtype={dtype}", *overrides, "budget.steps=2"))
                ours, torchs = counted_and_measured(config, folder / "flops" / f"{time.monotonic_ns()}")
                ratios = {p: ours.get(f"{p}_hardware_flops", 0.0) / v for p, v in torchs.items() if v}
                cell |= {"holds": all(abs(r - 1) < 0.01 for r in ratios.values()), "ratios": ratios}
                cell["shows"] = "ours / torch's: " + ", ".join(f"{p} {r:.5f}" for p, r in ratios.items())
            except Exception as error:
                cell["shows"] = f"{type(error).__name__}: {last_line(str(error))}"
            print(MARK + json.dumps(cell), flush=True)


def resume(runs: Runs, dtype: str, *, deterministic: bool) -> dict[str, Any]:
    """Final weights of a run killed after its first checkpoint and resumed, against two that were not."""
    import torch
    from safetensors.torch import load_file

    from scaling.records import read_run

    before = DETERMINISTIC if deterministic else ""
    variables = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if deterministic else {}
    name, weights, warned, record = f"resume-{dtype}-{deterministic}", [], set(), None
    for arm in ("unbroken", "again", "killed"):
        settings = runs.settings(f"{name}/{arm}", f"grpo.dtype={dtype}", "eval.early=[0]")
        if arm == "killed":
            done = runs.train(settings, before=before + KILL, **variables)
            if done.returncode != -9:
                raise RuntimeError(f"the run was to be killed, exit code {done.returncode}: {last_line(done.stderr)}")
        done = succeeded(runs.train(settings, before=before, **variables))
        warned |= set(re.findall(r"(\S+) does not have a deterministic implementation", done.stderr))
        folder = compose(settings).run_dir
        record = read_run(folder)
        weights.append(load_file(folder / "checkpoints" / "checkpoint-6" / "model.safetensors"))
    assert record is not None
    far = [max(float((w[k].float() - weights[0][k].float()).abs().max()) for k in w) for w in weights[1:]]
    equal = [all(torch.equal(w[k], weights[0][k]) for k in w) for w in weights[1:]]
    causes = [s.get("cause") for s in record.segments]
    words = [f"equal ({f:g})" if e else f"largest difference {f:.2e}" for e, f in zip(equal, far, strict=True)]
    return {
        "check": RESUME, "case": f"{dtype}{', deterministic algorithms' if deterministic else ''}",
        # what two unbroken runs do not share, a resumed one need not share either
        "holds": causes == ["interrupted", "finished"] and (equal[1] or (not equal[0] and far[1] <= 10 * far[0])),
        "shows": f"resumed against unbroken: {words[1]}; unbroken against unbroken: {words[0]}"
        + (f"; not deterministic: {', '.join(sorted(warned))}" if warned else ""),
        "resumed_equal": equal[1], "resumed_difference": far[1], "again_equal": equal[0], "again_difference": far[0],
    }  # fmt: skip


def memory(runs: Runs, place: str) -> dict[str, Any]:
    """Too little memory: one line with the estimate and what to lower; with it the run goes on from its checkpoint."""
    from scaling.records import read_lines
    from sweeps.estimate import run_memory
    from sweeps.models import shape_of
    from sweeps.tasks import build

    rollouts = 32 if runs.tiny else 16384
    larger = [
        "grpo.group_size=4",
        f"grpo.prompts_per_step={rollouts // 4}",
        f"grpo.training_prompts={max(64, rollouts // 4)}",
    ]
    settings = runs.settings(f"memory-{place}", "grpo.dtype=float32", "eval.early=[0]", "eval.batch=64", *larger)
    config = compose(settings)
    task = build(config.task)
    need = run_memory(
        config, shape_of(config.model, task), devices=1, half=False, prompt_length=task.prompt_width,
        completion_length=task.max_completion_length,
    )  # fmt: skip
    whole = reported(succeeded(runs.train([*settings, "budget.steps=2"], before=WATCH, after=REPORT)))
    room = need.peak * 0.5 if place == "training" else need.weights + need.optimizer + 0.3 * need.cache
    limit = LIMIT.format(bytes=room) if runs.device == "cuda" else NO_MEMORY.format(rollouts=rollouts // 2)
    failed = runs.train(settings, before=limit)
    lines = [text for text in failed.stderr.splitlines() if text.startswith("error:")]
    line = lines[0] if lines else last_line(failed.stderr)
    one_line = failed.returncode == 1 and len(lines) == 1 and "estimated" in line and "Traceback" not in failed.stderr
    cell: dict[str, Any] = {
        "check": MEMORY, "case": place, "holds": one_line and f"out of memory in {place}" in line, "shows": line,
        "estimated_bytes": need.peak, "measured_peak_bytes": whole["peak_bytes"], "allowed_bytes": room,
    }  # fmt: skip
    tried = []
    for _ in range(6 if place == "training" else 0):
        smaller = re.search(r"grpo\.micro_batch=(\d+) \(now", line)
        if smaller is None:
            break
        tried.append(int(smaller.group(1)))
        done = runs.train([*settings, f"grpo.micro_batch={tried[-1]}"], before=limit)
        if done.returncode == 0:
            steps = [row["step"] for row, _ in read_lines(config.run_dir / "steps.jsonl")[0] if row.get("metrics")]
            cell["holds"] = cell["holds"] and steps == [1, 2, 3, 4, 5, 6]
            cell["shows"] += f" -> resumed with grpo.micro_batch={tried[-1]} from step 2: steps {steps}"
            return cell | {"tried": tried}
        line = last_line(done.stderr)
    return (
        cell
        if place == "generation"
        else cell | {"holds": False, "shows": f"{cell['shows']} -> not resumed: {line}", "tried": tried}
    )
