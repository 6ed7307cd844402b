"""Evaluation after the fact: sample kept checkpoints on any benchmark, append to the runs' records.

    python -m sweeps.evaluate runs/ladder checkpoints=log8 benchmarks=held_out k=64
    python -m sweeps.evaluate runs/ladder/1f00c0ffee checkpoints=last benchmarks=math500,aime24 k=256 temperature=0.6
    python -m sweeps.evaluate runs/ladder checkpoints=log8 k=256 cluster=slurm cluster.slurm.partition=gpu launch.dry_run=true

A multirun of its own, a job a run: worker processes on this machine, or on the cluster that `cluster=` names. Each line
carries the checkpoint's own step and cumulative cost, so it lies where it belongs on every curve; what the evaluation
costs is added to the run's evaluation account. What is there already, with the same settings, is not sampled again: the
same command continues an interrupted evaluation, and a run that is being trained is refused.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from scaling import records
from scaling.errors import ConfigError, ScalingError
from scaling.flops import ModelShape
from scaling.runs import find_runs
from sweeps.config import RunConfig, composed, conf_dir
from sweeps.files import write_json
from sweeps.run_dir import RunDirectory, complete_checkpoints
from sweeps.schema import Strict
from sweeps.stop import requested

__all__ = ["AfterTheFact", "evaluate_job", "evaluate_run", "kept_weights", "main", "missing", "pick"]


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
    seed: int = Field(0, description="of the sampling")


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


class OpenModel:
    """A kept checkpoint, ready to be sampled; the launcher's tests put something light in its place."""

    def __init__(self, record: records.RunRecord, path: Path) -> None:
        import torch
        import transformers

        from sweeps.models import load
        from sweeps.tasks import build

        transformers.utils.logging.disable_progress_bar()
        config = RunConfig.model_validate(dict(record.config))
        self.shape = ModelShape(**record.model["shape"])
        self.model: Any
        self.model, self.tokenizer = load(config.model, build(config.task), path=path)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")

    def sample(self, task: Any, benchmark: Any, settings: AfterTheFact, *, step: int) -> Any:
        """Completions of a benchmark with their success counts and cost (`sweeps.evaluation.Sampled`)."""
        from sweeps.evaluation import sample

        return sample(
            self.model, self.tokenizer, task, benchmark, shape=self.shape, k=settings.k, temperature=settings.temperature or None,
            max_completion_length=settings.max_completion_length or None, problems=settings.problems or None,
            batch=settings.batch, seed=settings.seed * 1_000_003 + step,
        )  # fmt: skip


def recorded_config(run: Path) -> RunConfig:
    """The configuration a run was trained with.

    Raises:
        ConfigError: it is not one of this version.
    """
    try:
        return RunConfig.model_validate(dict(records.read_run(run).config))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{run / records.RUN}: config.{'.'.join(map(str, first['loc']))}: {first['msg']}; only runs of this project's own trainer and version can be evaluated"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a run's records lack of an evaluation.

    Attributes:
        steps: checkpoints that were chosen.
        benchmarks: task and benchmark by name.
        lines: step and benchmark name of each line to add.
    """

    steps: Sequence[int]
    benchmarks: Mapping[str, tuple[Any, Any]]
    lines: Sequence[tuple[int, str]]


def missing(run: Path, settings: AfterTheFact) -> Missing:
    """What is to be sampled: lines with the same settings that are there already are not.

    Raises:
        ConfigError: the run keeps no weights, or a benchmark is not known.
    """
    weights = kept_weights(run)
    if not weights:
        raise ConfigError(f"{run} keeps no weights: train with checkpoint.snapshots=log to keep some for evaluation")
    chosen = _benchmarks(recorded_config(run), tuple(settings.benchmarks))
    there = {_key(row) for row, _ in records.read_lines(run / records.EVALS)[0]}
    steps = pick(list(weights), settings.checkpoints)
    lines = [
        (step, name)
        for step in steps
        for name, (_, benchmark) in chosen.items()
        if _key(_line(settings, name, step, 0, {}, _problems(benchmark, settings))) not in there
    ]
    return Missing(steps=steps, benchmarks=chosen, lines=lines)


def evaluate_run(
    run: Path, settings: AfterTheFact, *, open_model: Callable[..., Any] = OpenModel,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:  # fmt: skip
    """Evaluate one run in this process; returns how many evaluations were added. A stop request ends it between two.

    Args:
        run: its directory.
        settings: which checkpoints, which benchmarks, how many samples.
        open_model: opens a checkpoint.
        report: called with the evaluations done and to do.

    Raises:
        ConfigError: the run keeps no weights, or a benchmark is not known.
        RecordError: the run is being written by another process.
    """
    record = records.read_run(run)
    directory = RunDirectory(run)
    done = 0
    try:
        todo = missing(run, settings)
        weights, segment = kept_weights(run), max(0, len(record.segments) - 1)
        report(0, len(todo.lines))
        with records.Appender(run / records.EVALS) as evals, records.Appender(run / records.STEPS) as steps:
            opened, model = -1, None
            for step, name in todo.lines:
                if requested():
                    break
                path, cost = weights[step]
                if step != opened:
                    opened, model = step, open_model(record, path)
                task, benchmark = todo.benchmarks[name]
                assert model is not None
                sampled = model.sample(task, benchmark, settings, step=step)
                line = _line(settings, name, step, segment, cost, len(sampled.successes))
                evals.write({
                    **line, "time": round(time.time(), 3), "successes": sampled.successes, "completion_length": sampled.mean_length,
                    "truncation_rate": sampled.truncation_rate, "guess_rate": benchmark.guess_rate,
                })  # fmt: skip
                steps.write({"segment": segment, "step": step, "cost": sampled.cost.to_dict()})
                done += 1
                report(done, len(todo.lines))
                print(
                    f"step {step}: {name} pass@1 {sampled.accuracy:.3f} with k={settings.k} "
                    f"(a blind guess: {benchmark.guess_rate:.3f})",
                    flush=True,
                )
    finally:
        directory.release()
    return done


def evaluate_job(config: RunConfig, order: Mapping[str, Any], *, open_model: Callable[..., Any] = OpenModel) -> bool:
    """One run of a multirun, as the worker starts it; whether it is complete.

    Args:
        config: where and with how many threads.
        order: ``run``, ``settings``, and ``progress``, the file that the display reads.
        open_model: opens a checkpoint.
    """
    run, settings = Path(order["run"]), AfterTheFact.model_validate(order["settings"])

    def report(done: int, total: int) -> None:
        write_json(Path(order["progress"]), {"stage": "evaluation", "step": done, "total": total, "time": time.time()})

    added = evaluate_run(run, settings, open_model=open_model, report=report)
    print(f"{run}: {added} evaluations added", flush=True)
    return not missing(run, settings).lines


def _line(
    settings: AfterTheFact, name: str, step: int, segment: int, cost: Mapping[str, float], problems: int
) -> dict[str, Any]:
    return {
        "segment": segment, "step": step, "cost": dict(cost), "benchmark": name, "k": settings.k, "successes": [0] * problems,
        "sampling": {
            "decoding": "sampled" if settings.temperature else "greedy", "temperature": settings.temperature, "top_p": 1.0,
            "seed": settings.seed, "max_completion_length": settings.max_completion_length, "after_the_fact": True,
        },
    }  # fmt: skip


def _problems(benchmark: Any, settings: AfterTheFact) -> int:
    return min(settings.problems or len(benchmark.prompts), len(benchmark.prompts))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    sampling = row.get("sampling") or {}
    return (
        row.get("step"), row.get("benchmark"), row.get("k"), sampling.get("decoding", "sampled"), sampling.get("temperature"),
        bool(sampling.get("after_the_fact")), sampling.get("seed"), sampling.get("max_completion_length"), len(row.get("successes") or ()),
    )  # fmt: skip


def _benchmarks(config: RunConfig, names: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Benchmarks by name: the run's own, or those of a task config."""
    return _named(config.task.model_dump_json(), names)


@functools.cache
def _named(task_json: str, names: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """The same, built once for all runs of a task."""
    from pydantic import TypeAdapter

    from sweeps.tasks import TaskConfig, build

    own = build(TypeAdapter(TaskConfig).validate_json(task_json))
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
        task = build(composed((f"task={name}",)).task)
        for key, benchmark in task.benchmarks().items():
            out[name if len(task.benchmarks()) == 1 else f"{name}/{key}"] = (task, benchmark)
    return out


@dataclass(frozen=True, kw_only=True)
class Request:
    """A command line: runs or sweeps, what to sample, and overrides of the groups ``cluster`` and ``launch``."""

    paths: Sequence[Path]
    settings: AfterTheFact
    overrides: Sequence[str]


def parse(arguments: Sequence[str]) -> Request:
    """Take a command line apart.

    Raises:
        ConfigError: a key is not known or a value is of the wrong type; one line each.
    """
    paths = [Path(a) for a in arguments if "=" not in a]
    if not paths:
        raise ConfigError("name at least one run or sweep folder: python -m sweeps.evaluate runs/demo checkpoints=last")
    pairs = [a for a in arguments if "=" in a]
    overrides = [a for a in pairs if a.lstrip("+").partition("=")[0].partition(".")[0] in ("cluster", "launch")]
    body: dict[str, Any] = {}
    for key, _, text in (a.partition("=") for a in pairs if a not in overrides):
        if key == "benchmarks":
            body[key] = [part.strip() for part in text.strip("[]").split(",") if part.strip()]
        else:
            try:
                body[key] = json.loads(text)
            except json.JSONDecodeError:
                body[key] = text
    try:
        return Request(paths=paths, settings=AfterTheFact.model_validate(body), overrides=overrides)
    except ValidationError as error:
        allowed = ", ".join(AfterTheFact.model_fields)
        raise ConfigError(
            "\n".join(
                f"{e['loc'][0]}: {e['msg']}; settings are {allowed}, and those of cluster and launch"
                for e in error.errors()
            )
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m sweeps.evaluate``."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        for name, field in AfterTheFact.model_fields.items():
            print(f"  {f'{name}={field.default}':24} {field.description or ''}")
        print(f"  {'cluster=local|slurm|ray':24} and cluster.*, launch.*: as for python -m sweeps.train -m")
        return 0
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from sweeps.launch import Interrupted
    from sweeps.launch_evaluations import launch_evaluations
    from sweeps.train import one_line_each

    try:
        request = parse(arguments)
        runs = list(dict.fromkeys(run for path in request.paths for run in find_runs(path)))
        launch_evaluations(runs, request.settings, composed(request.overrides))
    except Interrupted as interrupted:
        print(interrupted, flush=True)
        return 130
    except (ScalingError, HydraException, OmegaConfBaseException) as error:
        sys.exit("\n".join(f"error: {line}" for line in one_line_each(error)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
