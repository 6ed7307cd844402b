"""Evaluation after the fact: sample kept checkpoints of finished runs on any benchmark, append to the runs' records.

    python -m sweeps.evaluate runs/ladder checkpoints=log8 benchmarks=held_out k=64
    python -m sweeps.evaluate runs/ladder/1f00c0ffee checkpoints=last benchmarks=math500,aime24 k=256 temperature=0.6

Each line carries the checkpoint's own step and cumulative cost, so it lies where it belongs on every curve; what the
evaluation costs is added to the run's evaluation account. What is there already, with the same settings, is not sampled
again, so an interrupted evaluation continues.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from scaling import records
from scaling.errors import ConfigError, ScalingError
from scaling.runs import find_runs
from sweeps.config import RunConfig, conf_dir
from sweeps.run_dir import RunDirectory, complete_checkpoints
from sweeps.schema import Strict

__all__ = ["AfterTheFact", "evaluate_run", "main", "pick"]


class AfterTheFact(Strict):
    """Settings of an evaluation after the fact."""

    checkpoints: str = Field(
        "all", pattern=r"^(all|last|log[1-9]\d*)$", description="all, last, or logN: N log-spaced ones"
    )
    benchmarks: list[str] = Field(
        [], description="benchmarks of the run's task, or task configs by name; empty: the task's own"
    )
    k: int = Field(16, ge=1, description="samples a problem [1]")
    temperature: float = Field(1.0, ge=0, description="0 decodes greedily")
    max_completion_length: int = Field(0, ge=0, description="0: the task's own [token]")
    problems: int = Field(0, ge=0, description="first so many problems only; 0: all")
    batch: int = Field(512, ge=1, description="completions sampled at once [1]")
    seed: int = 0


def pick(steps: Sequence[int], which: str) -> list[int]:
    """Steps to evaluate out of those that are kept.

    Example:
        >>> pick([1, 2, 4, 8, 16, 32, 64], "log3")
        [1, 8, 64]
        >>> pick([10, 20], "last")
        [20]
    """
    ordered = sorted(steps)
    if which == "all" or not ordered:
        return ordered
    if which == "last":
        return ordered[-1:]
    n = int(which.removeprefix("log"))
    if n >= len(ordered):
        return ordered
    if n == 1:
        return ordered[-1:]
    low, high = math.log(ordered[0]), math.log(ordered[-1])
    wanted = [low + (high - low) * i / (n - 1) for i in range(n)]
    return sorted({min(ordered, key=lambda s: abs(math.log(s) - target)) for target in wanted})


def kept_weights(run: Path) -> dict[int, tuple[Path, dict[str, float]]]:
    """Folders with weights by step, each with the cumulative cost at that step."""
    out: dict[int, tuple[Path, dict[str, float]]] = {}
    for folder in (run / records.CHECKPOINTS, run / "snapshots"):
        for path, ledger in complete_checkpoints(folder):
            out[ledger["step"]] = (path, ledger["cost"])
    last = records.read_run(run).segments[-1] if records.read_run(run).segments else {}
    if (run / "final").is_dir() and "final_step" in last:
        out[last["final_step"]] = (run / "final", last["final_cost"])
    return out


def evaluate_run(run: Path, settings: AfterTheFact) -> int:
    """Evaluate one run; returns how many evaluations were added.

    Raises:
        ConfigError: the run keeps no weights, or a benchmark is not known.
        RecordError: the run is being written by another process.
    """
    import torch

    from sweeps.models import load, shape_of
    from sweeps.tasks import build

    record = records.read_run(run)
    config = RunConfig.model_validate(dict(record.config))
    weights = kept_weights(run)
    if not weights:
        raise ConfigError(f"{run} keeps no weights: train with checkpoint.snapshots=log to keep some for evaluation")
    own = build(config.task)
    todo = _benchmarks(own, settings.benchmarks)
    shape = shape_of(config.model, own)
    directory = RunDirectory(run)
    added = 0
    try:
        there = {_key(row) for row, _ in records.read_lines(run / records.EVALS)[0]}
        segment = max(0, len(record.segments) - 1)
        with records.Appender(run / records.EVALS) as evals, records.Appender(run / records.STEPS) as steps:
            for step in pick(list(weights), settings.checkpoints):
                path, cost = weights[step]
                lines = [_line(settings, name, step, segment, cost) for name in todo]
                if all(_key(line) in there for line in lines):
                    continue
                model: Any
                model, tokenizer = load(config.model, own, path=path)
                model.to("cuda" if torch.cuda.is_available() else "cpu")
                for line, (task, benchmark) in zip(lines, todo.values()):
                    if _key(line) in there:
                        continue
                    added += 1
                    _sample_into(line, evals, steps, settings, model, tokenizer, task, benchmark, shape)
    finally:
        directory.release()
    return added


def _sample_into(
    line: dict[str, Any],
    evals: Any,
    steps: Any,
    settings: AfterTheFact,
    model: Any,
    tokenizer: Any,
    task: Any,
    benchmark: Any,
    shape: Any,
) -> None:
    from sweeps.evaluation import sample

    sampled = sample(
        model, tokenizer, task, benchmark, shape=shape, k=settings.k, temperature=settings.temperature or None,
        max_completion_length=settings.max_completion_length or None, problems=settings.problems or None,
        batch=settings.batch, seed=settings.seed * 1_000_003 + line["step"],
    )  # fmt: skip
    evals.write({
        **line, "time": round(time.time(), 3), "successes": sampled.successes, "completion_length": sampled.mean_length,
        "truncation_rate": sampled.truncation_rate, "guess_rate": benchmark.guess_rate,
    })  # fmt: skip
    steps.write({"segment": line["segment"], "step": line["step"], "cost": sampled.cost.to_dict()})
    print(
        f"  step {line['step']}: {line['benchmark']} pass@1 {sampled.accuracy:.3f} with k={settings.k} "
        f"(a blind guess: {benchmark.guess_rate:.3f})",
        flush=True,
    )


def _line(settings: AfterTheFact, name: str, step: int, segment: int, cost: dict[str, float]) -> dict[str, Any]:
    return {
        "segment": segment, "step": step, "cost": cost, "benchmark": name, "k": settings.k,
        "sampling": {
            "decoding": "sampled" if settings.temperature else "greedy", "temperature": settings.temperature, "top_p": 1.0,
            "seed": settings.seed, "max_completion_length": settings.max_completion_length, "after_the_fact": True,
        },
    }  # fmt: skip


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    sampling = row.get("sampling") or {}
    return (
        row.get("step"), row.get("benchmark"), row.get("k"), sampling.get("decoding", "sampled"), sampling.get("temperature"),
        bool(sampling.get("after_the_fact")), sampling.get("seed"), sampling.get("max_completion_length"),
    )  # fmt: skip


def _benchmarks(own: Any, names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Benchmarks by name: the run's own, or those of a task config."""
    known = own.benchmarks()
    if not names:
        return {name: (own, benchmark) for name, benchmark in known.items()}
    out: dict[str, tuple[Any, Any]] = {}
    for name in names:
        if name in known:
            out[name] = (own, known[name])
            continue
        path = conf_dir() / "task" / f"{name}.yaml"
        if not path.is_file():
            options = sorted([*known, *(p.stem for p in path.parent.glob("*.yaml"))])
            raise ConfigError(
                f"benchmarks: {name!r} is neither a benchmark of the run's task nor a task config; known: {', '.join(options)}"
            )
        task = _task(name)
        for key, benchmark in task.benchmarks().items():
            out[name if len(task.benchmarks()) == 1 else f"{name}/{key}"] = (task, benchmark)
    return out


def _task(name: str) -> Any:
    """The task that ``conf/task/<name>.yaml`` describes."""
    from hydra import compose, initialize_config_dir
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    Plugins.instance()
    import hydra_plugins.rl_scaling_launcher  # noqa: F401
    from sweeps.config import resolve
    from sweeps.tasks import build

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        body: Any = OmegaConf.to_container(compose("config", overrides=[f"task={name}"]), resolve=True)
    return build(resolve(body).task)


def parse(arguments: Sequence[str]) -> tuple[list[Path], AfterTheFact]:
    """Paths and ``key=value`` settings of the command line.

    Raises:
        ConfigError: a key is not known or a value is of the wrong type; one line each.
    """
    paths = [Path(a) for a in arguments if "=" not in a]
    if not paths:
        raise ConfigError("name at least one run or sweep folder: python -m sweeps.evaluate runs/demo checkpoints=last")
    body: dict[str, Any] = {}
    for key, _, text in (a.partition("=") for a in arguments if "=" in a):
        if key == "benchmarks":
            body[key] = [part for part in text.strip("[]").split(",") if part]
        else:
            try:
                body[key] = json.loads(text)
            except json.JSONDecodeError:
                body[key] = text
    try:
        return paths, AfterTheFact.model_validate(body)
    except ValidationError as error:
        allowed = ", ".join(AfterTheFact.model_fields)
        raise ConfigError(
            "\n".join(f"{e['loc'][0]}: {e['msg']}; settings are {allowed}" for e in error.errors())
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m sweeps.evaluate``."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        for name, field in AfterTheFact.model_fields.items():
            print(f"  {name}={field.default!r:8}  {field.description or ''}")
        return 0
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        paths, settings = parse(arguments)
        runs = [run for path in paths for run in find_runs(path)]
        for i, run in enumerate(runs, start=1):
            print(f"[{i}/{len(runs)}] {run}", flush=True)
            added = evaluate_run(run, settings)
            print(f"  {added} evaluations added", flush=True)
    except ScalingError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
