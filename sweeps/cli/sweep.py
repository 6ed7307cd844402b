"""``rl-scaling sweep``: status, logs, cancel, retry and reconcile, from the sweep's folder alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click

from scaling.errors import ScalingError

SWEEP = click.argument("sweep_dir", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="SWEEP")
RUNS = click.argument("runs", nargs=-1)


@click.group()
def sweep() -> None:
    """Look after a sweep: SWEEP is its folder, runs/<sweep>; RUN is a run id (or its beginning) or a label.

    \b
    rl-scaling sweep status runs/qwen_ladder
    rl-scaling sweep logs runs/qwen_ladder 3fa9c1
    rl-scaling sweep cancel runs/qwen_ladder           all queued and running runs; they save first
    rl-scaling sweep retry runs/qwen_ladder            what failed, was cancelled or interrupted
    """  # noqa: D301


@sweep.command()
@SWEEP
@click.option(
    "--forecast/--no-forecast",
    default=True,
    show_default=True,
    help="Fit the curves of runs at work and forecast their end.",
)
@click.option("--watch", is_flag=True, help="Keep watching until nothing is queued or running.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def status(sweep_dir: Path, forecast: bool, watch: bool, as_json: bool) -> None:
    """A line a run: state, step, GPU-hours used of the budget, last score, forecast, log."""
    from sweeps.launching import display, overview

    found = display.watch(lambda: overview.states(sweep_dir), poll=2.0) if watch else overview.states(sweep_dir)
    if as_json:
        click.echo(json.dumps([asdict(s) for s in found], indent=1, default=dict))
        return
    click.echo(overview.render(found, forecasts=overview.forecast(sweep_dir, found) if forecast else None))


@sweep.command()
@SWEEP
@RUNS
def cancel(sweep_dir: Path, runs: tuple[str, ...]) -> None:
    """Cancel queued and running RUNS, all by default; running ones save a checkpoint first."""
    from sweeps.launching import engines, overview
    from sweeps.launching.jobs import Notes

    notes = Notes(sweep_dir)
    chosen = overview.find(sweep_dir, runs, among=overview.states(sweep_dir, cached=False))
    with notes.changing():
        jobs = engines.refresh(notes)
        found = [jobs[s.run_id] for s in chosen if s.run_id in jobs and jobs[s.run_id].active]
        engines.cancel(notes, found)
    for job in found:
        click.echo(f"cancelled {job.label} ({job.job_id or job.pid or 'queued'})")
    click.echo(f"{len(found)} of {len(chosen)} runs were queued or running")


@sweep.command()
@SWEEP
@RUNS
@click.option("--wait/--no-wait", default=True, help="Watch until they end.")
def retry(sweep_dir: Path, runs: tuple[str, ...], wait: bool) -> None:
    """Start RUNS again with the settings they were launched with: by default all that failed, were cancelled or interrupted."""
    from sweeps import launch
    from sweeps.launching import overview
    from sweeps.launching.jobs import Notes

    notes = Notes(sweep_dir)
    again = overview.find(
        sweep_dir,
        runs,
        among=[s for s in overview.states(sweep_dir, cached=False) if not s.active and s.state != "finished"],
    )
    planned = [run for s in again if (run := launch.planned_from_notes(notes, s)) is not None]
    if not planned:
        click.echo("nothing to retry: no run failed, was cancelled or interrupted")
        return
    launch.check(planned)
    launch.start_runs(notes, planned)
    if wait:
        try:
            launch.watch_runs(notes, planned)
        except launch.Interrupted as interrupted:
            click.echo(str(interrupted))
            sys.exit(130)


@sweep.command()
@SWEEP
@RUNS
@click.option(
    "-n", "--lines", default=40, show_default=True, type=click.IntRange(min=1), help="Last so many lines of each log."
)
@click.option("-f", "--follow", is_flag=True, help="Keep showing what one run writes.")
def logs(sweep_dir: Path, runs: tuple[str, ...], lines: int, follow: bool) -> None:
    """Show the logs of RUNS: by default of those that failed, or else of those at work."""
    from sweeps.launching import overview

    everything = overview.states(sweep_dir)
    if runs:
        chosen = overview.find(sweep_dir, runs, among=everything)
    else:
        chosen = [s for s in everything if s.state == "failed"] or [s for s in everything if s.state == "running"]
    with_log = [s for s in chosen if s.log and Path(s.log).is_file()]
    if not with_log:
        raise ScalingError(
            f"no log to show for {', '.join(runs) or 'failed or running runs'} in {sweep_dir}: no attempt has written one"
        )
    if follow:
        if len(with_log) > 1:
            raise ScalingError(
                f"--follow shows one run, {len(with_log)} fit: name one of {', '.join(s.run_id for s in with_log)}"
            )
        sys.exit(subprocess.run(["tail", "-n", str(lines), "-F", with_log[0].log]).returncode)
    for s in with_log:
        click.echo(f"== {s.label}  {s.run_id}  {s.state}  {s.log}")
        click.echo("\n".join(Path(s.log).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]))


@sweep.command()
@SWEEP
@click.option("--tolerance", default=0.02, show_default=True, help="Relative difference that is taken as agreement.")
@click.option(
    "--startup", default=60.0, show_default=True, help="Seconds of start-up an attempt that records cannot see [s]."
)
def reconcile(sweep_dir: Path, tolerance: float, startup: float) -> None:
    """Compare GPU-hours paid by the records with Slurm's accounts, requeued attempts included."""
    from sweeps.launching import overview

    rows = overview.reconcile(sweep_dir)
    width = max(len(r["label"]) for r in rows)
    click.echo(f"{'run'.ljust(width)}  attempts  records GPU-h  Slurm GPU-h  difference")
    off = 0
    for r in rows:
        gap = r["slurm"] - r["records"]
        allowed = tolerance * r["slurm"] + startup * r["attempts"] * max(1, r["gpus"]) / 3600
        off += abs(gap) > allowed
        mark = "" if abs(gap) <= allowed else "  <- more than tolerance and start-up"
        click.echo(
            f"{r['label'].ljust(width)}  {r['attempts']:8d}  {r['records']:13.5f}  {r['slurm']:11.5f}  {gap:+.5f}{mark}"
        )
    total = (sum(r["records"] for r in rows), sum(r["slurm"] for r in rows))
    share = f" ({(total[1] - total[0]) / total[1]:+.1%})" if total[1] else ""
    click.echo(
        f"{'total'.ljust(width)}  {sum(r['attempts'] for r in rows):8d}  {total[0]:13.5f}  {total[1]:11.5f}  {total[1] - total[0]:+.5f}{share}"
    )
    if off:
        raise ScalingError(
            f"{off} run(s) differ by more than {tolerance:.0%} plus {startup:g} s an attempt: see their segments in run.json"
        )
