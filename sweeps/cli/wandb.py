"""``rl-scaling wandb``: the server side of the W&B mirror."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sweeps.wandb_sync import SyncResult


@click.group("wandb")
def wandb_group() -> None:
    r"""Bring W&B up to date from the records, and build its dashboard and report.

    Runs mirror themselves (tracking.mode); these commands work afterwards, from any machine that sees the run
    directories. Without an account, browse offline runs in the terminal: wandb leet RUN
    """


@wandb_group.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--follow", is_flag=True, help="Keep sending until every run has ended; new runs are picked up.")
@click.option("--interval", default=30.0, show_default=True, metavar="SECONDS", help="Pause between looks of --follow.")
@click.option("--max-hours", default=168.0, show_default=True, metavar="HOURS", help="End --follow after this long.")
@click.option("--project", default=None, help="Project on the server; by default the one the run mirrors to.")
@click.option("--entity", default=None, help="User or team; by default the one the run mirrors to.")
@click.option("--timeout", default=300.0, show_default=True, metavar="SECONDS", help="Upload time granted to one run.")
@click.option("--force", is_flag=True, help="Also send for a run that is mirroring itself online right now.")
def sync(
    runs: tuple[Path, ...],
    follow: bool,
    interval: float,
    max_hours: float,
    project: str | None,
    entity: str | None,
    timeout: float,
    force: bool,
) -> None:
    r"""Send to the server what it lacks of RUNS: run directories, or folders that hold some.

    \b
    rl-scaling wandb sync runs/ladder                after an outage, or for offline runs
    rl-scaling wandb sync runs/ladder --follow       on a login node, while compute nodes without network train

    What is missing is found by reading the server, so repeating the command sends nothing twice. Sample tables are
    not in the records: they stay in the offline files. Exits with 1 when a run is not complete on the server.
    """
    from sweeps.wandb_sync import follow_runs, sync_runs

    how = {"project": project, "entity": entity, "timeout": timeout, "force": force}
    if follow:
        results = follow_runs(runs, report=_show, interval=interval, max_hours=max_hours, **how)
    else:
        results = sync_runs(runs, progress=_bar, **how)
        for result in results:
            _show(result)
    behind = [r for r in results if not r.complete]
    sent = sum(r.sent for r in results)
    click.echo(f"{len(results)} runs, {sent} rows sent, {len(results) - len(behind)} complete on the server")
    if behind:
        raise SystemExit(1)


def _show(result: SyncResult) -> None:
    line = f"{result.path}: {result.rows} rows recorded, {result.present} already there, {result.sent} sent"
    if result.missing:
        line += f", {result.missing} not there yet: wait a minute, then sync again"
    click.echo(f"{line}; {result.note or result.url}")


def _bar(runs: list[Path]) -> Iterable[Path]:
    from tqdm import tqdm

    return tqdm(runs, desc="wandb sync", unit="run", leave=False, disable=None)
