"""``rl-scaling import``: runs of other trainers and trackers become run directories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scaling.errors import ScalingError, UnknownName

if TYPE_CHECKING:
    from scaling.importers.imported import ImportedRun, Written

_HELP = """Import runs of other trainers and trackers into run directories, after which fit, compare and report work as usual.

\b
  SOURCE       what it reads
  verl         console logs, file-logger JSONL
  trl          trainer_state.json of TRL and Hugging Face
  openrlhf     console logs
  wandb        an offline log or folder, a CSV export of the UI, or ENTITY/PROJECT[/RUN] online
  tensorboard  event files
  mlflow       an mlruns folder or mlflow.db
  table        any CSV, JSONL or parquet, with --mapping

\b
Examples:
  rl-scaling import verl train.log --out runs/imported
  rl-scaling import verl node0.log.1 node0.log.2 --one-run --out runs/imported
  rl-scaling import trl outputs/grpo --gpus 8 --out runs/imported
  rl-scaling import wandb my-team/my-project --out runs/imported
  rl-scaling import table run.csv --mapping my.yaml --gpus 1 --explain --out runs/imported
  rl-scaling import verl train.log --explain            (shows what would be read, writes nothing)

Hours and tokens come from each trainer's own keys; --explain lists every key as matched, derived or unmatched, with the
reason. docs/importing.md explains mappings and the rules.
"""


@click.command("import", help=_HELP)
@click.argument("source", metavar="SOURCE")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder that gets a run directory per run."
)
@click.option("--mapping", help="Names and semantics: a shipped trainer (--mapping list shows them) or a YAML file.")
@click.option(
    "--gpus", type=float, help="GPUs allocated, trainer and rollout servers together, where the log does not say."
)
@click.option("--model-config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The model's config.json: FLOPs are counted from it.")  # fmt: skip
@click.option("--model", default="", help="Name of the model, where the log does not say.")
@click.option("--lora", is_flag=True, help="Only adapters were trained (changes FLOPs).")
@click.option("--one-run", is_flag=True, help="The paths are successive logs of one run.")
@click.option("--explain", is_flag=True, help="List every key: matched, derived or unmatched, and why.")
@click.option("--force", is_flag=True, help="Replace run directories of an earlier import.")
def import_(
    source: str, paths: tuple[str, ...], out: Path | None, mapping: str | None, gpus: float | None,
    model_config: Path | None, model: str, lora: bool, one_run: bool, explain: bool, force: bool,
) -> None:  # fmt: skip
    """The command; its help is `_HELP`."""
    from tqdm import tqdm

    from scaling.importers import SOURCES, read_runs, shipped, write

    if mapping == "list":
        click.echo("\n".join(shipped()))
        return
    if source not in SOURCES:
        raise UnknownName(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
    if out is None and not explain:
        raise click.UsageError("--out DIR says where the run directories go; or --explain to look only")
    size = sum(Path(p).stat().st_size for p in paths if Path(p).is_file())
    with tqdm(total=size or None, unit="B", unit_scale=True, desc="reading", delay=1, leave=False) as bar:
        runs = read_runs(
            paths, source, mapping, gpus=gpus, shape=_shape(model_config), model=model, lora=lora, one_run=one_run,
            progress=bar.update,
        )  # fmt: skip
    for run in runs:
        if explain:
            click.echo(str(run.explanation))
        if out is not None:
            written = write(run, out, force=force)
            click.echo(f"{written.path}: {_summary(run, written)}")
        for skipped in run.skipped:
            click.echo(f"  skipped {skipped}", err=True)
        if not explain:
            for note in run.explanation.notes:
                click.echo(f"  note: {note}")


def _shape(path: Path | None) -> Any:
    import json

    from scaling.flops import ModelShape

    if path is None:
        return None
    try:
        return ModelShape.from_config(json.loads(path.read_text(encoding="utf-8")))
    except UnknownName:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ScalingError(f"--model-config {path} must be a model's config.json: {error}") from error


def _summary(run: ImportedRun, written: Written) -> str:
    from scaling.cost import ComputeCost
    from scaling.words import counted

    cost, unknown = ComputeCost(**written.cost), run.record.provenance["unknown_axes"]
    parts = [counted(written.steps, "step"), counted(written.evals, "evaluation")]
    if "gpu_hours" not in unknown:
        rest = [f"{cost.gpu_hours:.1f} of steps"]
        for seconds, what in ((cost.evaluation_gpu_seconds, "evaluation"), (cost.overhead_gpu_seconds, "overhead")):
            rest += [f"{seconds / 3600:.1f} of {what}"] if seconds else []
        parts.append(f"{cost.gpu_hours_paid:.1f} GPU-hours paid ({', '.join(rest)}; {run.record.confidence})")
    if "total_flops" not in unknown:
        parts.append(f"{cost.total_flops:.3g} FLOPs")
    if len(run.record.segments) > 1:
        parts.append(f"{len(run.record.segments)} segments")
    return ", ".join(parts)
