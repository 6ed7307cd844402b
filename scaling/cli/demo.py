"""``rl-scaling demo``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from scaling._checks import MIN_DRAWS
from scaling.bundled import KINDS


@click.command()
@click.option(
    "--out", default="report", show_default=True, type=click.Path(path_type=Path), help="Folder of the report."
)
@click.option("--kind", type=click.Choice(KINDS), default=KINDS[0], show_default=True, help="Which half of the study.")
@click.option(
    "--draws", default=200, show_default=True, type=click.IntRange(min=MIN_DRAWS), help="Draws behind the intervals."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
def demo(out: Path, kind: str, draws: int, seed: int) -> None:
    """Show the bundled study: real GRPO runs of small models, fitted and reported in seconds, without torch.

    Nothing is trained here: 'make demo' trains. The models are toys; their asymptotes say nothing about large ones.

    \b
    rl-scaling demo --out report/
    open report/index.html
    """  # noqa: D301 - click reads the backspace
    from scaling.bundled import arm_differences, bundled_arms, bundled_runs
    from scaling.metrics import mean_interval
    from scaling.report import write

    began = time.monotonic()
    runs = bundled_runs(kind)
    click.echo(f"the bundled study, {kind}: {runs!r}")
    path = write(
        runs,
        out,
        title=f"Bundled ladder study: {kind}",
        draws=draws,
        seed=seed,
        full=False,
        command=f"rl-scaling demo --kind {kind}",
    )
    arms = bundled_arms()
    arms = arms[arms["piece"] == kind]
    wide = arms.pivot_table(index=["parameters", "pretrain_steps"], columns="arm", values="sampled", observed=True)
    best = arms[arms["arm"] == "base"].pivot_table(index=["parameters", "pretrain_steps"], values="best_decoding")
    wide.insert(1, "base, best decoding", best["best_decoding"])
    click.echo("\nheld-out accuracy, sampled at T=1, mean over seeds; every arm spends the FLOPs of its GRPO run\n")
    click.echo(wide.round(3).rename_axis(columns=None).to_string(na_rep="not run"))
    click.echo("\nGRPO less each, paired by base, mean and 90 % interval (Student's t over bases)")
    for name, differences in arm_differences(arms).items():
        values = differences.dropna()
        low, high = mean_interval(values)
        click.echo(f"  {name!s:<28}{values.mean():+.3f}  [{low:+.3f}, {high:+.3f}]  {values.size} bases")
    click.echo(
        f"\nThis is the bundled study, computed beforehand (docs/results/ladder.md); 'make demo' trains on this machine.\n"
        f"It shows how the ledger, the intervals and the controls work, and nothing about the asymptotes of large models.\n"
        f"report: {path}   ({time.monotonic() - began:.0f} s)"
    )
