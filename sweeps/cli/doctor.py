"""``rl-scaling doctor``."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--runs-dir",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where runs are going to be written.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help="About five minutes of small real runs on your own GPUs: what tests elsewhere only stand in for.",
)
@click.option(
    "--model", default="smollm2_135m", show_default=True, help="With --cluster: model group option for the vLLM server."
)
@click.option(
    "--minutes",
    default=15.0,
    show_default=True,
    help="With --cluster: limit of one drill, its wait in the queue included.",
)
@click.argument("overrides", nargs=-1)
def doctor(runs_dir: Path, cluster: bool, model: str, minutes: float, overrides: tuple[str, ...]) -> None:
    """Check this machine, one line each, with a fix: Python, torch, vLLM, Slurm, Ray, W&B, disk, locks, verifiers.

    \b
    rl-scaling doctor
    rl-scaling doctor --cluster cluster=slurm cluster.slurm.partition=gpu     OVERRIDES choose the engine

    --cluster trains small real runs on the devices that OVERRIDES choose: training, preemption with requeue and
    resume, two ranks, hours against Slurm's accounts, a vLLM server. Whatever it leaves is cancelled, also at Ctrl-C.

    The exit code is 1 where training would fail.
    """  # noqa: D301
    from sweeps.launching.checks import run_checks

    bad = 0
    for result in run_checks(runs_dir):
        click.echo(str(result))
        bad += result.state == "bad"
    if cluster:
        from sweeps.launching.drill import drill

        click.echo("\non your own devices (about five minutes, and what the queue takes):")
        for result in drill(runs_dir, overrides=overrides, model=model, seconds=60 * minutes, say=_say):
            click.echo(str(result))
            bad += result.state == "bad"
    if bad:
        click.echo(f"{bad} check(s) failed", err=True)
        sys.exit(1)


def _say(line: str) -> None:
    click.echo(line, err=True)
