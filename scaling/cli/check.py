"""``rl-scaling check``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from scaling import records
from scaling.cost import ComputeCost
from scaling.errors import RecordError
from scaling.runs import find_runs
from scaling.schema import EVAL_SCHEMA, RUN_SCHEMA, STEP_SCHEMA, violation
from scaling.words import counted

_NAMES = {"gpu_hours": "GPU-hours", "total_flops": "RL model FLOPs"}
_REMEDIES = {
    "gpu_hours": "import the log again with --gpus N, or record seconds and GPUs (scaling.Recorder)",
    "total_flops": "import the log again with --model-config config.json, or give scaling.Recorder the model's shape",
}


@dataclass
class Finding:
    """What was found in one run directory."""

    path: Path
    errors: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    good: dict[str, int] = field(default_factory=dict)
    cost: ComputeCost = field(default_factory=ComputeCost)
    unknown: list[str] = field(default_factory=list)


def check_run(path: Path) -> Finding:
    """Check one run directory: run.json and every line of its records against the schema.

    A torn last line is what a kill leaves behind: it is listed, and is no error.
    """
    found = Finding(path)
    body = _body(path, found)
    if body is not None:
        reason = violation(body, RUN_SCHEMA)
        if reason:
            found.errors.append(f"{records.RUN}: {reason}")
    for name, schema, check in (
        (records.STEPS, STEP_SCHEMA, records.check_step),
        (records.EVALS, EVAL_SCHEMA, records.check_eval),
    ):
        rows, skipped = records.read_lines(path / name)
        for line in skipped:
            (found.torn if line.reason == "torn last line" else found.errors).append(str(line))
        good = 0
        for row, number in rows:
            reason = check(row) or violation(row, schema)
            if reason:
                found.errors.append(str(records.Skipped(name, number, reason)))
                continue
            good += 1
            if name == records.STEPS:
                found.cost = found.cost + ComputeCost(**row.get("cost", {}))
        found.good[name] = good
    found.unknown = _unknown(body, found)
    return found


def _unknown(body: Any, found: Finding) -> list[str]:
    """Axes that the run's records do not hold: those it names, and those of which no step has anything."""
    provenance = body.get("provenance") if isinstance(body, dict) else None
    named = provenance.get("unknown_axes") if isinstance(provenance, dict) else None
    held = {"gpu_hours": found.cost.gpu_hours_paid, "total_flops": found.cost.total_flops}
    empty = [axis for axis, amount in held.items() if not amount and found.good[records.STEPS]]
    return [axis for axis in held if axis in empty or (isinstance(named, list) and axis in named)]


def _amount(value: float, unknown: int, runs: int = 1) -> str:
    """A sum in words where some of it is unknown."""
    if not unknown:
        return f"{value:.4g}"
    return "unknown" if unknown >= runs else f"at least {value:.4g}"


def _lines(steps: int, evals: int) -> str:
    return f"{counted(steps, 'step')}, {counted(evals, 'evaluation')}"


def _body(path: Path, found: Finding) -> Any:
    try:
        return json.loads((path / records.RUN).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        found.errors.append(f"{records.RUN}: must be readable JSON: {error}")
        return None


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--quiet", is_flag=True, help="Print only what is wrong, and the last line.")
def check(runs: tuple[Path, ...], quiet: bool) -> None:
    """Check RUNS (run directories, or folders that hold some) against the records' published schema.

    \b
    rl-scaling check runs/demo

    Counts the good lines, lists every skipped line with its number and reason, and sums the cost. A torn last line is
    what a kill leaves and is no error. The exit code is 1 where anything is wrong.
    """  # noqa: D301 - click reads the backspace
    paths = [run for path in runs for run in find_runs(path)]
    if not paths:
        raise RecordError(f"no run directory (a folder with {records.RUN}) under {', '.join(map(str, runs))}")
    total, wrong, steps, evals, unknown = ComputeCost(), 0, 0, 0, dict.fromkeys(_REMEDIES, 0)
    for path in paths:
        found = check_run(path)
        total, wrong = total + found.cost, wrong + len(found.errors)
        steps, evals = steps + found.good[records.STEPS], evals + found.good[records.EVALS]
        for axis in found.unknown:
            unknown[axis] += 1
        if not quiet:
            state = counted(len(found.errors), "error") if found.errors else "ok"
            click.echo(
                f"{path}: {state}; {_lines(found.good[records.STEPS], found.good[records.EVALS])}, "
                f"{_amount(found.cost.gpu_hours, 'gpu_hours' in found.unknown)} GPU-hours, "
                f"{_amount(found.cost.total_flops, 'total_flops' in found.unknown)} RL model FLOPs"
            )
        for line in found.errors:
            click.echo(f"  error  {path / line if quiet else line}")
        for line in [] if quiet else found.torn:
            click.echo(f"  torn   {line} (a kill in the middle of a write; the line is ignored)")
    click.echo(
        f"{counted(len(paths), 'run')}, {_lines(steps, evals)}, "
        f"{_amount(total.gpu_hours, unknown['gpu_hours'], len(paths))} GPU-hours in steps "
        f"({_amount(total.gpu_hours_paid, unknown['gpu_hours'], len(paths))} with evaluation and overhead, redone work included), "
        f"{_amount(total.total_flops, unknown['total_flops'], len(paths))} RL model FLOPs: {counted(wrong, 'error')}"
    )
    for axis, remedy in _REMEDIES.items():
        if unknown[axis]:
            click.echo(f"  unknown  {_NAMES[axis]} of {counted(unknown[axis], 'run')}: {remedy}")
    if wrong:
        raise click.exceptions.Exit(1)
