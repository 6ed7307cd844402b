"""What watching costs on the device: one run whose watching is switched on and off, wall time after the device has finished each step.

Two trainers in one process differ by more than watching takes, each in its own memory and thread. So here is one trainer: every few
steps its callback and its wrappers are taken off, which leaves TRL alone, and put on again, in the order on, off, off, on; the
difference of each such round is one observation, free of what drifts slowly. Completions all have the full length: a batch takes as long
as its longest. Token-by-token generation is where steps differ most from each other on a shared host, and nothing of ours runs within it but
the mirror's thread, so the difference is also given for the rest of the step. Beside the difference stands the wall time inside the meter's, the records' and the mirror's code, clocked call by call
in the watched steps; the time in which its clocks wait for the device is apart: what they wait for, TRL would wait for a little later.
Every finished round is in the result file at once.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _gpu_common import MARK, Results, compose, environment, last_line, scratch, stream, table

SIZES = {
    "21M, 512 rollouts": ((512, 5), 64),
    "21M, 2048 rollouts": ((512, 5), 256),
}  # width and layers; prompts a step, 8 rollouts each
BLOCK = 4  # steps in a row that are watched, or not
WARM = 8  # steps before the first round
PATIENCE = 120.0  # seconds for one round [s]
COLUMNS = [
    "size",
    "rounds",
    "ms/step, TRL alone",
    "ms/step more",
    "overhead",
    "90 % interval",
    "trimmed",
    "outside generation",
    "its 90 % interval",
    "ms/step inside",
    "inside",
    "ms/step waiting",
    "s at the end",
    "outcome",
]
# one heap that keeps its pages, as in benchmarks/metering.py
HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}


def watch(*, device: str, tiny: bool, out: Path, rounds: int | None, sizes: list[str] | None, seconds: float) -> bool:
    """Rounds at each size until there are enough or ``seconds`` are over, which the sizes share; true if all were measured."""
    chosen = {"tiny": ((16, 2), 4)} if tiny else {s: SIZES[s] for s in sizes or SIZES}
    rounds = rounds or (3 if tiny else 1000)
    results = Results(out, "watching", device, tiny=tiny, block=BLOCK, warm_up_steps=WARM, detail={})
    rows: list[dict[str, Any]] = []
    for size, (shape, prompts) in chosen.items():
        done: list[dict[str, Any]] = results.body["detail"].setdefault(size, [])
        ended: dict[str, Any] = {}
        outcome = "measured"
        with tempfile.TemporaryDirectory() as tmp:
            order = {
                "shape": shape,
                "prompts": prompts,
                "rounds": rounds,
                "tiny": tiny,
                "seconds": seconds / len(chosen),
            }
            command = [sys.executable, str(Path(__file__).with_name("gpu.py")), "watching-worker", "--device", device,
                       "--folder", tmp, "--cells", json.dumps(order)]  # fmt: skip
            for answer in stream(command, environment(device, WANDB_SILENT="true", **HEAP), patience=PATIENCE):
                if answer is None or "stderr" in answer:
                    outcome = "fell silent" if answer is None else f"failed: {last_line(answer['stderr'])}"
                    break
                if "s at the end" in answer:
                    ended = answer
                    break
                done.append(answer)
                results.write()
        row = {"size": size, **summary(done), **ended, "outcome": outcome}
        results.add(row)
        rows.append(row)
    print(
        f"\nOverhead of each step; ending the mirror comes once a run and is stated beside it.\n\n{table(rows, COLUMNS)}"
    )
    return all(row["outcome"] == "measured" for row in rows)


class Switch:
    """Takes watching off a trainer and puts it on again: the meter's callback and its wrappers around TRL's methods."""

    def __init__(self, trainer: Any) -> None:
        from metering import watching

        self.trainer, self.callbacks, self.on = trainer, trainer.callback_handler.callbacks, True
        self.meter, self.wrappers = watching(trainer)

    def turn(self, on: bool) -> None:
        """Watched from here on, or not."""
        if on == self.on:
            return
        self.on = on
        if not on:
            self.callbacks.remove(self.meter)
            for name in self.wrappers:
                delattr(self.trainer, name)
            return
        self.callbacks.append(self.meter)
        for name, wrapper in self.wrappers.items():
            setattr(self.trainer, name, wrapper)


def worker(*, device: str, folder: Path, order: dict[str, Any]) -> None:
    """Round after round of one run in this process, each printed."""
    import torch
    import transformers
    from metering import Stopwatch, build

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    # some 20 tokens a rollout; the base only has to exist
    overrides = [
        *scratch(*order["shape"]), "task=chain" if order["tiny"] else "task=chain_acquisition", "grpo.group_size=8", "grpo.dtype=auto",
        f"grpo.prompts_per_step={order['prompts']}", "pretrain.steps=20", "pretrain.batch=64", "pretrain.learning_rate=1e-3",
        "grpo.learning_rate=1e-5", "grpo.training_prompts=8192", f"budget.steps={WARM + 4 * BLOCK * order['rounds'] + 1}",
        f"runs_dir={folder}", f"bases_dir={folder}/bases",
    ]  # fmt: skip
    generating = time_generation()
    trainer, tracker = build(compose(overrides), folder / "run", watched=True, full_length=True)
    stopwatch = Stopwatch()
    switch = Switch(trainer)  # before the stopwatch, which hides the wrappers in its own
    stopwatch.watch(trainer)
    switch.wrappers = {name: vars(trainer)[name] for name in switch.wrappers}
    time.sleep(1.0)  # the tracker's start-up is not a step's

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    deadline = time.monotonic() + order["seconds"]
    clocked = rounds_callback(switch, stopwatch, clock, generating, deadline=deadline)
    trainer.callback_handler.callbacks.insert(0, clocked)
    trainer.train()
    began = clock()
    tracker.finish()
    print(MARK + json.dumps({"s at the end": clock() - began}), flush=True)


def time_generation() -> list[float]:
    """Seconds of each generation of trainers of this process, watched or not; it ends with tokens on the host."""
    from sweeps.grpo import RunTrainer

    seconds: list[float] = []
    original = RunTrainer._generate_single_turn

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        out = original(self, *args, **kwargs)
        seconds.append(time.perf_counter() - began)
        return out

    RunTrainer._generate_single_turn = timed
    return seconds


def rounds_callback(
    switch: Switch, stopwatch: Any, clock: Callable[[], float], generating: list[float], *, deadline: float
) -> Any:
    """The callback that clocks each step from its beginning to the next one's, switches, and prints each round."""
    import transformers

    class Rounds(transformers.TrainerCallback):
        """First of the callbacks: what the others do at the end of a step, the log included, lies inside the step."""

        def __init__(self) -> None:
            self.step, self.began = 0, 0.0
            self.took = self.nothing()
            self.inside: dict[str, float] = {}

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now = clock()
            if self.step > WARM:
                kind = "watched" if switch.on else "plain"
                self.took[kind].append(now - self.began)
                self.took[f"{kind}, generation"].append(sum(generating))
            generating.clear()
            if self.step >= WARM:
                inside = (self.step - WARM) % (4 * BLOCK)
                if inside == 0 and self.took["plain"]:
                    self.report(control)
                if inside == 0:
                    self.inside = dict(stopwatch.seconds)
                switch.turn(on=inside // BLOCK in (0, 3))
            self.step += 1
            self.began = clock()

        def nothing(self) -> dict[str, list[float]]:
            return {f"{kind}{what}": [] for kind in ("watched", "plain") for what in ("", ", generation")}

        def report(self, control: Any) -> None:
            spent = {part: (s - self.inside[part]) / (2 * BLOCK) for part, s in stopwatch.seconds.items()}
            print(MARK + json.dumps({**self.took, "inside": spent}), flush=True)
            self.took = self.nothing()
            if time.monotonic() > deadline:
                control.should_training_stop = True

    return Rounds()


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Overhead of a step over rounds: mean and 90 % interval (t over rounds), and the mean without the outer fifths."""
    import numpy as np
    from scipy import stats

    if not rounds:
        return {"rounds": 0}
    plain = np.array([np.mean(r["plain"]) for r in rounds])
    extra = np.array([np.mean(r["watched"]) - np.mean(r["plain"]) for r in rounds])
    share, ours = extra / plain.mean(), np.array([r["inside"]["ours"] for r in rounds])
    out = {
        "rounds": len(rounds), "ms/step, TRL alone": float(plain.mean()) * 1e3, "ms/step more": float(extra.mean()) * 1e3,
        "overhead": f"{share.mean():+.2%}", "trimmed": f"{stats.trim_mean(share, 0.2):+.2%}",
        "ms/step inside": float(ours.mean()) * 1e3, "inside": f"{ours.mean() / plain.mean():.2%}",
        "ms/step waiting": float(np.mean([r["inside"]["waiting"] for r in rounds])) * 1e3,
    }  # fmt: skip
    means = {
        kind: np.array([np.mean(np.subtract(r[kind], r[f"{kind}, generation"])) for r in rounds])
        for kind in ("watched", "plain")
    }
    rest = (means["watched"] - means["plain"]) / plain.mean()
    out["outside generation"] = f"{rest.mean():+.2%}"
    if len(rounds) > 1:
        for name, values in (("90 % interval", share), ("its 90 % interval", rest)):
            half = float(stats.t.ppf(0.95, len(rounds) - 1) * stats.sem(values))
            out[name] = f"{values.mean() - half:+.2%} to {values.mean() + half:+.2%}"
    return out
