"""The ``rl-scaling`` command: one module a command, imported only when that command runs.

Commands of packages above the core (``sweeps``) are found through the entry-point group ``rl_scaling.commands``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import entry_points

import click

from scaling.errors import ScalingError

# command -> (module under scaling.cli, one line for --help); the module defines a click command of the command's name
_COMMANDS = {
    "check": ("check", "Check run directories against the records' schema."),
    "compare": ("compare", "Compare recipes at equal compute, from run folders or CSV files."),
    "demo": ("demo", "Show the bundled study: a report in seconds, without torch."),
    "fit": ("fit", "Fit scaling curves of a CSV file or of run folders: table, verdict, figure."),
    "forecast": ("forecast", "Forecast a run at more compute."),
    "import": ("import_", "Import runs of other trainers and trackers into run directories."),
    "ledger": ("ledger", "Print the ledger of published pretraining and RL compute, with your runs on it."),
    "plan": ("plan", "Plan a grid of sizes and budgets: FLOPs, GPU-hours, money, expected score."),
    "report": ("report", "Write a self-contained HTML report of runs."),
    "study": ("study", "Rebuild or compare a study file."),
}


class _Commands(click.Group):
    """A group whose commands are imported on use, so that ``--help`` stays fast and the core stays light."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = {name for name, (module, _) in _COMMANDS.items() if importlib.util.find_spec(f"scaling.cli.{module}")}
        return sorted(own | {point.name for point in entry_points(group="rl_scaling.commands")})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module_name = f"scaling.cli.{_COMMANDS[cmd_name][0]}"
            if importlib.util.find_spec(module_name) is None:
                return None
            module = importlib.import_module(module_name)
            return getattr(module, _COMMANDS[cmd_name][0])
        for point in entry_points(group="rl_scaling.commands"):
            if point.name == cmd_name:
                try:
                    return point.load()
                except ModuleNotFoundError as error:
                    raise click.ClickException(
                        f"'{cmd_name}' needs the training packages ({error.name} is missing): pip install 'rl-scaling[train]'"
                    ) from error
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            rows.append((name, _COMMANDS[name][1] if name in _COMMANDS else _summary_of(name)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ScalingError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.filename is None:  # not of a file: a closed pipe
                raise
            raise click.ClickException(f"cannot use {error.filename}: {error.strerror}") from error


def _summary_of(name: str) -> str:
    return {
        "sweep": "Status, logs, cancel, retry and reconcile a sweep.",
        "doctor": "Check this machine: Python, torch, Slurm, Ray, W&B, disk, verifiers.",
        "wandb": "Sync, pull and dashboards of the W&B mirror.",
    }.get(name, "(from an installed extension)")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rl-scaling")
def cli() -> None:
    """How far will reinforcement learning take this model, what will it cost, and is that better than more pretraining?

    \b
    rl-scaling fit curve.csv --compute gpu_hours --score accuracy    the first thing to try
    rl-scaling report runs/ --out report/                            a report of a sweep
    rl-scaling COMMAND --help                                        teaches the command
    """  # noqa: D301


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="rl-scaling")


if __name__ == "__main__":
    sys.exit(main())
