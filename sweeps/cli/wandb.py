"""``rl-scaling wandb``: the server side of the W&B mirror."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sweeps.wandb_sync import SyncResult


@click.group("wandb", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def wandb_group() -> None:
    """Bring W&B up to date from the records, and build its dashboard and report.

    Runs mirror themselves (tracking.mode); these commands work afterwards, from any machine that sees the run
    directories. Without an account: rl-scaling wandb browse RUNS
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
    """Send to the server what it lacks of RUNS: run directories, or folders that hold some.

    \b
    rl-scaling wandb sync runs/ladder                after an outage, or for offline runs
    rl-scaling wandb sync runs/ladder --follow       on a login node, while compute nodes without network train

    What is missing is found by reading the server, so repeating the command sends nothing twice. Sample tables are
    not in the records: they stay in the offline files. Exits with 1 when a run is not complete on the server.
    """  # noqa: D301
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


@wandb_group.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--list", "only_list", is_flag=True, help="List the logs that would be shown.")
def browse(runs: tuple[Path, ...], only_list: bool) -> None:
    """Browse the offline mirrors of RUNS in the terminal, together: wandb leet, without an account.

    Curves are against GPU-hours. Press h for the keys; ctrl+a then y shows all runs in one chart.
    """
    import subprocess
    import sys
    import tempfile

    from scaling.runs import find_runs

    logs = [log for path in runs for run in find_runs(path) for log in sorted(run.glob("wandb/*run-*-*"))]
    if only_list or not logs:
        click.echo("\n".join(map(str, logs)) or "no W&B logs: were the runs trained with tracking.mode=disabled?")
        raise SystemExit(0 if logs else 1)
    with tempfile.TemporaryDirectory(prefix="rl-scaling-leet-") as folder:
        for log in logs:
            (Path(folder) / log.name).symlink_to(log.resolve())
        raise SystemExit(subprocess.run([sys.executable, "-m", "wandb", "leet", folder]).returncode)


@wandb_group.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--project", default=None, help="Project on the server; by default the one the runs mirror to.")
@click.option("--entity", default=None, help="User or team; by default yours.")
@click.option("--benchmark", default=None, help="Held-out benchmark to fit; by default the one that most runs have.")
@click.option("--law", default="ensemble", show_default=True, help="Law to fit, as for 'rl-scaling fit'.")
@click.option(
    "--fit-after", type=float, default=None, metavar="FLOP", help="Leave out evaluations before this compute."
)
@click.option("--group-by", default="params", show_default=True, help="Configuration key whose values are the lines.")
@click.option(
    "--fit/--no-fit", default=True, show_default=True, help="Log fitted curves and their table as run 'fits'."
)
@click.option("--report/--no-report", default=True, show_default=True, help="Also save a W&B report, for sharing.")
@click.option("--dry-run", is_flag=True, help="Print what would be saved, as JSON; needs no login.")
def dashboard(
    runs: tuple[Path, ...],
    project: str | None,
    entity: str | None,
    benchmark: str | None,
    law: str,
    fit_after: float | None,
    group_by: str,
    fit: bool,
    report: bool,
    dry_run: bool,
) -> None:
    """Save the W&B workspace of RUNS, with their fitted curves, and a report for sharing.

    \b
    rl-scaling wandb dashboard runs/ladder
    rl-scaling wandb dashboard runs/ladder --dry-run

    Accuracy, reward, completion length, entropy, truncation, zero-variance fraction and MFU against GPU-hours, grouped
    by size. Run again, it updates both in place: their addresses are kept in wandb-dashboard.json beside the runs.
    """  # noqa: D301
    import json

    from sweeps import dashboard as boards
    from sweeps.wandb_fit import log_fits, markdown_summary

    table, board = boards.describe(runs, project=project, entity=entity, group_by=group_by, offline=dry_run)
    click.echo(f"{table!r} -> {board.entity}/{board.project}", err=dry_run)
    summary = ""
    if fit:
        from scaling.report.gather import gather

        analysis = gather(table, benchmark=benchmark, law=law, fit_after=fit_after, progress=_fits)
        summary = markdown_summary(analysis)
        if not dry_run:
            click.echo(f"fits:      {log_fits(analysis, project=board.project, entity=board.entity)}")
    if dry_run:
        click.echo(json.dumps(boards.spec(board, summary=summary), indent=1))
        return
    urls = boards.save(board, boards.state_folder(runs), summary=summary, report=report)
    click.echo(f"workspace: {urls.workspace} ({'updated' if urls.updated else 'new'})")
    if urls.report:
        click.echo(f"report:    {urls.report}")


def _fits(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, total=total, desc=label, unit="fit", leave=False, disable=None)


def _show(result: SyncResult) -> None:
    line = f"{result.path}: {result.rows} rows recorded, {result.present} already there, {result.sent} sent"
    if result.missing:
        line += f", {result.missing} not there yet: wait a minute, then sync again"
    click.echo(f"{line}; {result.note or result.url}")


def _bar(runs: list[Path]) -> Iterable[Path]:
    from tqdm import tqdm

    return tqdm(runs, desc="wandb sync", unit="run", leave=False, disable=None)
