"""``rl-scaling plan``: what sizes and budgets cost, what a budget buys, which next run helps most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scaling.cli import _plan_inputs as _inputs
from scaling.cli._output import text_table
from scaling.errors import ScalingError

if TYPE_CHECKING:
    from scaling.fitting import Fit
    from scaling.plan import PlannedRun
    from scaling.runs import RunTable
    from scaling.workload import Workload


@click.command()
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="A public model, e.g. Qwen2.5-7B; may be repeated."
)
@click.option(
    "--config",
    "configs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A config.json of your own; may be repeated.",
)
@click.option("--runs", type=click.Path(path_type=Path), help="Measured runs: their sizes, lengths, rates and scores.")
@click.option("--accelerator", metavar="NAME", help="Device to plan for, e.g. H100; default that of --runs.")
@click.option("--gpu-hours", multiple=True, type=float, help="Budget in GPU-hours; may be repeated.")
@click.option("--flops", multiple=True, type=float, help="Budget in model FLOPs; may be repeated.")
@click.option("--steps", multiple=True, type=int, help="Budget in optimiser steps; may be repeated.")
@click.option("--prompts-per-step", type=int, help="Prompts of one batch of rollouts.")
@click.option("--group-size", type=int, help="Rollouts per prompt.")
@click.option("--prompt-length", type=float, help="Mean prompt [tokens].")
@click.option("--completion-length", type=float, help="Mean completion [tokens].")
@click.option("--reference-model", is_flag=True, help="A reference model scores each rollout (beta > 0).")
@click.option("--lora", is_flag=True, help="Only adapters are trained.")
@click.option(
    "--price", type=float, metavar="USD", help="Price of a GPU-hour; default the stated one, where there is one."
)
@click.option("--benchmark", help="Benchmark of --runs whose score is predicted.")
@click.option("--next", "target", metavar="TARGET", help="Rank next runs: 'asymptote', or an RL compute in FLOPs.")
@click.option(
    "--split", type=float, metavar="FLOPS", help="How to split this total between pretraining and RL (needs --runs)."
)
@click.option(
    "--amortised-over", type=float, default=10, show_default=True, help="Runs that share a base, for --split."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan(
    models: tuple[str, ...],
    configs: tuple[Path, ...],
    runs: Path | None,
    accelerator: str | None,
    gpu_hours: tuple[float, ...],
    flops: tuple[float, ...],
    steps: tuple[int, ...],
    price: float | None,
    benchmark: str | None,
    target: str | None,
    split: float | None,
    amortised_over: float,
    form: str,
    **step: Any,
) -> None:
    """Plan a grid of sizes and budgets: FLOPs, GPU-hours, money and, from measured runs, the expected score.

    GPU-hours come from the rates of --runs where they were measured, else from a stated utilisation of the accelerator's peak;
    the output says which, and how well such predictions meet the measured runs.

    \b
    Examples:
      rl-scaling plan --model Qwen2.5-7B --accelerator H100 --gpu-hours 500
      rl-scaling plan --model Qwen2.5-1.5B --model Qwen2.5-7B --accelerator H800 --steps 1000 --completion-length 8192
      rl-scaling plan --runs runs/ladder --flops 1e20 --next asymptote
      rl-scaling plan --runs runs/bases --split 1e22
    """  # noqa: D301
    from scaling.plan import plan_grid

    if runs is None and (target is not None or split is not None):
        raise ScalingError(f"{'--next' if target is not None else '--split'} needs measured runs: --runs PATH")
    table = _inputs.measured(runs)
    if split is not None and table is not None:
        from scaling.cli._relate import relate

        click.echo(relate(table, benchmark=benchmark, total=split, amortised_over=amortised_over))
        if not (gpu_hours or flops or steps):
            return
        click.echo()
    shapes, pretraining = _inputs.sizes(models, configs, table)
    if not (gpu_hours or flops or steps):
        raise ScalingError("a plan needs a budget: --gpu-hours, --flops or --steps")
    workload, step_source = _inputs.step(step, table)
    throughput, hours_known, problem = _inputs.rates(accelerator, table)
    study, study_note = _inputs.scores(table, benchmark)
    usd, usd_source = _inputs.money(price, throughput)
    if not hours_known and gpu_hours:
        raise ScalingError(f"a budget in GPU-hours needs rates: name an --accelerator ({problem})")
    grid = plan_grid(
        shapes,
        workload,
        throughput,
        gpu_hours=gpu_hours,
        flops=flops,
        steps=steps,
        usd_per_hour=usd,
        pretraining_flops=pretraining,
        study=study,
    )
    if form == "json":
        click.echo(json.dumps([_record(run, hours_known) for run in grid], indent=1))
        return
    click.echo(text_table(_COLUMNS, [_cells(run, hours_known) for run in grid]))
    click.echo(f"\nstep: {_step_text(workload)} ({step_source})")
    click.echo(f"hours: {throughput.source if hours_known else problem}")
    if usd_source and hours_known:
        click.echo(f"money: {usd_source}")
    click.echo(f"score: {study_note}")
    if table is not None:
        from scaling.throughput import check_hours

        click.echo(f"check: {check_hours(table)}")
    if study is not None:
        click.echo("\n" + study.summary())
    if target is not None and table is not None:
        _advise(table, benchmark, target)


_COLUMNS = (
    "model", "steps", "rollouts", "generation", "scoring", "training", "total FLOPs", "of pretraining", "GPU-h", "USD", "score"
)  # fmt: skip


def _cells(run: PlannedRun, hours_known: bool) -> tuple[str, ...]:
    def flops(value: float) -> str:
        return f"{value:.2e}".replace("e+", "e") if value else "-"

    hours = (
        f"{_short(run.gpu_hours[1])} ({_short(run.gpu_hours[0])} to {_short(run.gpu_hours[2])})" if hours_known else "-"
    )
    money = f"{_short(run.usd[1])} ({_short(run.usd[0])} to {_short(run.usd[2])})" if run.usd and hours_known else "-"
    ratio = "-" if run.pretraining_flops_ratio is None else f"{100 * run.pretraining_flops_ratio:.2g} %"
    score = "-" if run.score is None else f"{run.score[0]:.3f} ({run.score[1]:.3f} to {run.score[2]:.3f})"
    cost = run.cost
    return (
        run.model,
        f"{run.steps:,}",
        f"{cost.rollouts:,.0f}",
        flops(cost.generation_flops),
        flops(cost.scoring_flops),
        flops(cost.training_flops),
        flops(cost.total_flops),
        ratio,
        hours,
        money,
        score,
    )


def _record(run: PlannedRun, hours_known: bool) -> dict[str, Any]:
    return {
        "model": run.model,
        "params": run.params,
        "steps": run.steps,
        **run.cost.to_dict(),
        "total_flops": run.cost.total_flops,
        "gpu_hours": run.gpu_hours[1] if hours_known else None,
        "gpu_hours_low": run.gpu_hours[0] if hours_known else None,
        "gpu_hours_high": run.gpu_hours[2] if hours_known else None,
        "usd": run.usd[1] if run.usd and hours_known else None,
        "pretraining_flops_ratio": run.pretraining_flops_ratio,
        "score": run.score[0] if run.score else None,
        "score_low": run.score[1] if run.score else None,
        "score_high": run.score[2] if run.score else None,
    }


def _advise(table: RunTable, benchmark: str | None, target: str) -> None:
    """Rank continuations and say stop or continue for each run."""
    from tqdm import tqdm

    from scaling.fitting import fit
    from scaling.plan import next_run, stop_or_continue

    goal: str | float = target
    if target != "asymptote":
        try:
            goal = float(target)
        except ValueError as error:
            raise ScalingError(f"--next must be 'asymptote' or an RL compute in FLOPs, got {target!r}") from error
    curves = table.curves(benchmark=benchmark, axis="total_flops", by="run_id")
    names = dict(zip(table.runs["run_id"], table.runs["name"]))
    fits: dict[str, Fit] = {}
    for run_id, (curve, *_) in tqdm(curves.items(), desc="fitting", unit="run", leave=False, disable=None):
        fits[f"{names.get(run_id) or run_id}"] = fit([curve])
    click.echo("\nnext run, most narrowing per FLOP first (continuing at the present recipe):")
    for candidate in next_run(fits, target=goal)[:6]:
        click.echo(f"  {candidate}")
    click.echo("\nstop or continue (to twice the compute so far; a gain of .01 matters):")
    for name, one in fits.items():
        if one.draws.size:
            advice = stop_or_continue(one, by=2 * one.window[1])
            click.echo(f"  {name}: {advice.decision} ({advice.reason})")
        else:
            click.echo(f"  {name}: no advice, {one.message}")


def _step_text(workload: Workload) -> str:
    parts = f"{workload.rollouts} rollouts, prompt {workload.prompt_length:.0f} and completion "
    extras = [text for text, on in (("reference model", workload.reference_model), ("LoRA", workload.lora)) if on]
    return parts + f"{workload.completion_length:.0f} tokens" + "".join(f", {text}" for text in extras)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
