"""``rl-scaling report``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from scaling._checks import MIN_DRAWS


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", default="report", show_default=True, type=click.Path(path_type=Path), help="Folder of the report."
)
@click.option("--title", default="RL scaling report", show_default=True, help="Heading of the page.")
@click.option("--benchmark", default=None, help="Held-out benchmark to fit; by default the one that most runs have.")
@click.option("--law", default="ensemble", show_default=True, help="Law to fit, as for 'rl-scaling fit'.")
@click.option(
    "--fit-after",
    type=float,
    default=None,
    metavar="FLOP",
    help="Leave out evaluations before this many RL model FLOPs; nothing is left out unless asked.",
)
@click.option(
    "--draws", default=400, show_default=True, type=click.IntRange(min=MIN_DRAWS), help="Draws behind the intervals."
)
@click.option(
    "--full/--quick",
    default=None,
    help="Also back-test the forecasts and compare recipes, which takes longer; by default with at most 24 runs.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
def report(
    runs: tuple[Path, ...],
    out: Path,
    title: str,
    benchmark: str | None,
    law: str,
    fit_after: float | None,
    draws: int,
    seed: int,
    full: bool | None,
) -> None:
    """Write a self-contained HTML report of RUNS: run directories, or folders that hold some.

    \b
    rl-scaling report runs/qwen_ladder --out report/
    open report/index.html

    The page needs no network. Its tables lie beside it as CSV and JSON.
    """  # noqa: D301 - click reads the backspace
    import gc

    from scaling import load_runs
    from scaling.report import write

    collecting = gc.isenabled()
    gc.disable()  # looking for garbage among its tables and figures took 4 % of the command's time
    try:
        processes = min(8, _cores())
        table = load_runs(runs, processes=processes)
        click.echo(repr(table))
        path = write(
            table,
            out,
            title=title,
            benchmark=benchmark,
            law=law,
            fit_after=fit_after,
            draws=draws,
            seed=seed,
            full=full,
            processes=processes,
            command=_command(),
            progress=_bar,
        )
    finally:
        if collecting:
            gc.enable()
    click.echo(f"report: {path}")


def _cores() -> int:
    """Cores that this process may use: on a shared machine not all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _command() -> str:
    words = sys.argv[1:]
    return shlex.join(["rl-scaling", *words]) if words[:1] == ["report"] else ""


def _bar(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, total=total, desc=label, unit="fit", leave=False)
