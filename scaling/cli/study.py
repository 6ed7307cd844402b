"""``rl-scaling study``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from scaling.errors import ConfigError


@click.group()
def study() -> None:
    """Rebuild or compare a study file: the runs, exclusions, window, law and seed behind a paper's numbers.

    \b
    rl-scaling study run study.yaml          every figure, table and number, from the runs
    rl-scaling study diff study.yaml         what a new run or a new version changed since
    """  # noqa: D301 - click reads the backspace


@study.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the results; FILE without its ending + '_results' if not given.",
)
def run(file: Path, out: Path | None) -> None:
    """Rebuild every figure, table and number of the study in FILE."""
    from scaling.study import load_study, run_study

    folder = out or _results(file)
    result = run_study(load_study(file), folder, progress=_bar)
    for name, numbers in result.record["numbers"].items():
        click.echo(f"{name}: {_verdict(numbers)}")
    for run_id, reason in result.excluded.items():
        click.echo(f"left out {run_id}: {reason}")
    click.echo(f"study: {folder}")


@study.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder of the earlier results, as for run.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 where anything changed.")
def diff(file: Path, out: Path | None, exit_code: bool) -> None:
    """Say what changed since FILE was run.

    Runs, settings and versions that differ, and every number that moved.
    """
    from scaling.study import compare_studies, load_study, run_study

    earlier = (out or _results(file)) / "study.json"
    try:
        old = json.loads(earlier.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"study diff needs the earlier results, and {earlier} does not exist: "
            f"run 'rl-scaling study run {file}' first, or name their folder with --out"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{earlier} must be JSON: {error}; run the study again") from error
    lines = compare_studies(old, run_study(load_study(file), progress=_bar).record)
    for line in lines:
        click.echo(line)
    click.echo(f"{len(lines)} changes" if lines else "nothing changed")
    if lines and exit_code:
        raise click.exceptions.Exit(1)


def _results(file: Path) -> Path:
    return file.with_name(f"{file.stem}_results")


def _verdict(numbers: dict[str, Any]) -> str:
    if numbers["identified"]:
        low, high = numbers["asymptote"]
        return f"asymptote {low:.3f} to {high:.3f} (identified)"
    if numbers.get("asymptote_at_least") is not None:
        return f"asymptote not identified, at least {numbers['asymptote_at_least']:.3f}"
    return str(numbers["verdict"])


def _bar(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, total=total, desc=label, unit="fit", leave=False)
