"""What watching costs: TRL alone against TRL with meter, records and the W&B mirror, same settings, CPU time.

    python benchmarks/metering.py --pairs 8 --steps 150

A pair is one process with two trainers that take turns, one optimiser step each, and the order within a turn alternates. The
random state is swapped with the turn, so both do the very same steps, and what else the machine does strikes both alike.
The difference is taken step by step, in CPU time of the whole process; the outer fifth on each side is trimmed. CPU time of
W&B's own process, and of ending the mirror, is added whole, spread over the steps. Evaluation and checkpoints are off in
both. Prints the overhead of each pair, the mean and its 90 % interval (t over pairs).

`--device cuda` measures wall time instead, after the device has finished each step.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def build(config: Any, folder: Path, *, watched: bool, full_length: bool = False) -> tuple[Any, Any]:
    """A trainer on the cached base, with everything a run has or with nothing; and its tracker."""
    import transformers

    from scaling.records import RunRecord
    from sweeps.grpo import build_trainer
    from sweeps.meter import Meter
    from sweeps.models import load, shape_of
    from sweeps.pretrain import pretrain
    from sweeps.run_dir import RunDirectory
    from sweeps.tasks import build as build_task
    from sweeps.tracking import open_tracker

    folder.mkdir(parents=True)
    task = build_task(config.task)
    base = pretrain(config.model, task, config.pretrain, config.bases_dir, progress=False)
    net, tokenizer = load(config.model, task, path=base.path)
    rows = task.training_rows(n=config.grpo.training_prompts, seed=0)
    trainer = build_trainer(config, model=net, tokenizer=tokenizer, task=task, rows=rows, output_dir=folder / "out")
    trainer.args.save_strategy = "no"
    if full_length:
        trainer.generation_config.min_new_tokens = trainer.max_completion_length
    trainer.remove_callback(transformers.PrinterCallback)
    if not watched:
        return trainer, None
    run = RunDirectory(folder / "run")
    record = RunRecord(run_id="bench", config=config.model_dump())
    segment = run.open_segment(record, resumed_from=None, commit=None)
    tracker = open_tracker(
        mode="offline", project="bench", entity=None, directory=folder / "run", run_id="bench", name="bench", group="bench",
        tags=[], config=config.model_dump(), resume=False,
    )  # fmt: skip
    meter = Meter(
        directory=folder / "run", segment=segment, devices=1, pretraining=base.stage(), tracker=tracker, run=run
    )
    meter.bind(trainer, shape_of(config.model, task))
    trainer.add_callback(meter)
    return trainer, tracker


def watching(trainer: Any) -> tuple[Any, dict[str, Any]]:
    """The meter of a watched trainer, and its wrappers around TRL's methods by their names."""
    from sweeps.meter import Meter

    meter = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Meter))
    wrappers = {
        name: value
        for name, value in vars(trainer).items()
        if isinstance(value, functools.partial) and getattr(value.func, "__self__", None) is meter.counter
    }
    return meter, wrappers


class Stopwatch:
    """Seconds inside nested calls, each to the innermost part alone: ``ours``, ``waiting`` for the device, ``theirs``."""

    def __init__(self) -> None:
        self.seconds = {"ours": 0.0, "waiting": 0.0, "theirs": 0.0}
        self._stack: list[str] = []
        self._mark = 0.0

    def watch(self, trainer: Any) -> None:
        """Time the meter of a watched trainer: its events, its wrappers around TRL's methods, its readings of the clock."""
        meter, wrappers = watching(trainer)
        for event in (name for name in dir(meter) if name.startswith("on_")):
            setattr(meter, event, self.timed("ours", getattr(meter, event)))
        for name, wrapped in wrappers.items():
            ours = functools.partial(wrapped.func, self.timed("theirs", wrapped.args[0]))
            setattr(trainer, name, self.timed("ours", ours))
        assert meter.counter is not None
        meter.counter.now = self.timed("waiting", meter.counter.now)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its seconds counted to ``part``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self._stack.pop()

        return call

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._mark
        self._mark = now


def take_turns(trainers: Sequence[Any], clock: Callable[[], float]) -> list[list[float]]:
    """Train all at once in one process, one step each in turn; what each step took, one list a trainer."""
    import transformers

    turn, states = threading.Condition(), [_random_state()] * len(trainers)
    took: list[list[float]] = [[] for _ in trainers]
    round_: list[list[int]] = [list(range(len(trainers)))]  # whose turn it is, in order; empty: the round is over
    rounds, running, failed = [0], set(range(len(trainers))), []

    def acquire(i: int) -> None:
        with turn:
            turn.wait_for(lambda: bool(failed) or (bool(round_[0]) and round_[0][0] == i))
            if failed:
                raise SystemExit
        _set_random_state(states[i])

    def release(i: int, *, ended: bool = False) -> None:
        states[i] = _random_state()
        with turn:
            if ended:
                running.discard(i)
            round_[0] = [j for j in round_[0][1:] if j in running]
            if not round_[0]:
                rounds[0] += 1
                order = sorted(running)
                round_[0] = order[::-1] if rounds[0] % 2 else order
            turn.notify_all()

    class Baton(transformers.TrainerCallback):
        """Ends a step's clock and hands over; the next step's clock starts when the turn comes back."""

        def __init__(self, i: int) -> None:
            self.i, self.began = i, None

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            if self.began is not None:
                took[self.i].append(clock() - self.began)
            release(self.i)
            acquire(self.i)
            self.began = clock()

    def go(i: int) -> None:
        try:
            acquire(i)
            trainers[i].train()
            release(i, ended=True)
        except Exception as error:  # handed to the caller below
            with turn:
                failed.append(error)
                turn.notify_all()

    for i, trainer in enumerate(trainers):
        trainer.add_callback(Baton(i))
    threads = [threading.Thread(target=go, args=(i,)) for i in range(len(trainers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return took


def pair(config: Any, folder: Path, *, device: str, swap: bool) -> dict[str, Any]:
    """One pair: seconds of every step of both, what watching takes outside the steps, and mean seconds a step inside its code."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    plain, _ = build(config, folder / "plain", watched=False)
    watched, tracker = build(config, folder / "watched", watched=True)
    stopwatch = Stopwatch()
    stopwatch.watch(watched)
    time.sleep(1.0)  # the tracker's start-up is not a step's
    before = _children_cpu()
    arms = [watched, plain] if swap else [plain, watched]
    if device == "cuda":

        def clock() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()
    else:
        clock = _own_cpu
    took = take_turns(arms, clock)
    began = clock()
    tracker.finish()
    aside = clock() - began
    if device != "cuda":  # on a GPU machine W&B's process has a core of its own
        aside += _children_cpu() - before
    first, second = took
    return {
        "plain": second if swap else first, "watched": first if swap else second, "aside": aside,
        "inside": {part: seconds / len(first) for part, seconds in stopwatch.seconds.items()},
    }  # fmt: skip


def _random_state() -> tuple[Any, ...]:
    import torch

    device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    # the legacy global generator: libraries below may draw from it
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), device  # noqa: NPY002


def _set_random_state(state: tuple[Any, ...]) -> None:
    import torch

    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state(state[3])


def _own_cpu() -> float:
    """CPU seconds of this process, all its threads."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def _children_cpu() -> float:
    """CPU seconds of all children, ended and living (W&B's own process among them)."""
    import psutil

    gone = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = gone.ru_utime + gone.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="cuda: wall time, the device synchronised"
    )
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="of the run; may be repeated"
    )
    parser.add_argument("--model", default="scratch_96")
    parser.add_argument(
        "--workers", type=int, default=1, help="pairs at once; more only where each has cores of its own"
    )
    parser.add_argument("--out", type=Path, help="write every step's seconds here, as JSON")
    parser.add_argument("--pair", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pair is not None:
        overrides = [f"model={args.model}", f"budget.steps={args.steps + 1}", f"runs_dir={args.folder}",
                     f"bases_dir={args.folder}/bases", "grpo.training_prompts=8192", *args.override]  # fmt: skip
        from sweeps.config import composed

        result = pair(composed(overrides), args.folder, device=args.device, swap=bool(args.pair % 2))
        print("RESULT", json.dumps(result), flush=True)
        os._exit(0)
    from scipy import stats
    from tqdm import tqdm

    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "offline", "WANDB_SILENT": "true",
        # one heap that keeps its pages: with a heap a thread, one trainer may fault pages in anew every step, the other not
        "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "33554432",
    }  # fmt: skip
    overheads, inside, pairs = [], [], []
    with tempfile.TemporaryDirectory() as tmp, ThreadPoolExecutor(args.workers) as pool:

        def measure(i: int) -> dict[str, Any]:
            command = [sys.executable, __file__, *sys.argv[1:], "--pair", str(i), "--folder", f"{tmp}/{i}"]
            out = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            line = next((text for text in out.stdout.splitlines() if text.startswith("RESULT")), None)
            if line is None:
                raise SystemExit(f"pair {i + 1} failed:\n{out.stderr[-3000:]}")
            return json.loads(line[7:])

        for body in tqdm(pool.map(measure, range(args.pairs)), desc="pairs", total=args.pairs):
            plain, watched = (np.array(body[k][1:]) for k in ("plain", "watched"))  # the first step warms up
            aside = body["aside"] / len(watched)
            extra = float(stats.trim_mean(watched - plain, 0.2)) + aside
            overheads.append(extra / float(stats.trim_mean(plain, 0.2)))
            pairs.append(body)
            inside.append(body["inside"]["ours"] / float(stats.trim_mean(plain, 0.2)))
            if args.out:
                args.out.write_text(json.dumps({"overheads": overheads, "pairs": pairs}))
            tqdm.write(
                f"pair {len(pairs)}: TRL alone {stats.trim_mean(plain, 0.2) * 1e3:.1f} ms/step, {extra * 1e3:+.2f} ms watched, "
                f"of it {aside * 1e3:.2f} in W&B's own process and at the end: overhead {overheads[-1]:+.2%}"
            )
    mean = float(np.mean(overheads))
    half = float(stats.t.ppf(0.95, len(overheads) - 1) * stats.sem(overheads)) if len(overheads) > 1 else float("nan")
    print(
        f"overhead of meter, records and W&B mirror on {args.model} ({args.device}): {mean:+.2%} of a step, 90 % interval "
        f"{mean - half:+.2%} to {mean + half:+.2%} ({len(overheads)} pairs of {args.steps} steps); wall time inside meter, records "
        f"and mirror, clocked call by call: {np.mean(inside):.2%} (pairs {min(inside):.2%} to {max(inside):.2%})"
    )


if __name__ == "__main__":
    main()
