"""``rl-scaling ledger``: published pretraining and RL compute, with the user's runs beside it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import click

from scaling import ledger_table
from scaling.cli._output import text_table
from scaling.errors import ScalingError
from scaling.ledger_table import LedgerLine

LEGEND = (
    "~ our arithmetic on stated numbers   ' read in a third-party text only   ? unverified   - not published\n"
    "* the base is distilled, pruned or fine-tuned: 6 N_active D is not what it cost"
)


@click.command()
@click.option("--filter", "text", default="", metavar="TEXT", help="Only rows that contain TEXT (run, base, chip).")
@click.option("--runs", type=click.Path(path_type=Path), help="A folder of your own runs, placed on the ledger.")
@click.option("--models", is_flag=True, help="Print the pretrainings too.")
@click.option("--conventions", is_flag=True, help="Print how far 6ND, 8NT and 10NT are off, by size and length.")
@click.option("--notes/--no-notes", default=True, help="Print notes and sources below the table.")
@click.option("--format", "form", type=click.Choice(["text", "csv", "json"]), default="text", show_default=True)
def ledger(text: str, runs: Path | None, models: bool, conventions: bool, notes: bool, form: str) -> None:
    """Print published RL compute relative to pretraining, and your runs beside it.

    Two ratios are printed and never mixed: of GPU-hours (same chip on both sides) and of FLOPs (RL as its row says,
    pretraining 6 N_active D). For the same run they differ about tenfold, because RL uses its devices far less.

    \b
    Examples:
      rl-scaling ledger --filter R1
      rl-scaling ledger --runs runs/demo
      rl-scaling ledger --format json > ledger.json
    """  # noqa: D301
    if conventions:
        click.echo(_conventions(text))
        return
    lines = ledger_table.published(text)
    own: list[LedgerLine] = []
    if runs is not None:
        from scaling.runs import load_runs

        own = ledger_table.yours(load_runs(runs))
    pretrainings = ledger_table.models(text) if models or not lines else []
    if not lines and not own and not pretrainings:
        raise ScalingError(f"--filter must occur in a row of the ledger, nothing contains {text!r}: try a shorter text")
    if form == "json":
        click.echo(json.dumps({"published": [i.record() for i in lines], "yours": [i.record() for i in own]}, indent=1))
        return
    if form == "csv":
        click.echo(_csv(lines, own), nl=False)
        return
    if own:
        click.echo("Your runs\n")
        click.echo(text_table(ledger_table.COLUMNS, [line.cells() for line in own]))
        everything = ledger_table.published()
        for sentence in filter(None, (ledger_table.neighbours(line, everything) for line in own)):
            click.echo(f"  {sentence}")
        _echo_notes(own, notes)
        click.echo()
    if lines:
        click.echo("Published RL against its pretraining\n")
        click.echo(text_table(ledger_table.COLUMNS, [line.cells() for line in lines]))
    if pretrainings:
        click.echo(("\n" if lines else "") + "Published pretraining (FLOPs are 6 N_active D)\n")
        click.echo(text_table(_MODEL_COLUMNS, [_model_cells(m) for m in pretrainings]))
    click.echo(f"\n{LEGEND}")
    if lines:
        _echo_notes(lines, notes)


def _conventions(text: str) -> str:
    from scaling.conventions import error_table
    from scaling.reference import public_shape, public_shapes

    lengths = (1024, 4096, 16384, 65536)
    names = [name for name in public_shapes() if text.casefold() in name.casefold()]
    if not names:
        raise ScalingError(f"--filter must occur in a public model's name, nothing contains {text!r}")
    rows = [
        (model, convention, *(f"{100 * error:+.1f} %" for error in errors))
        for model, convention, errors in error_table({name: public_shape(name) for name in names}, lengths=lengths)
    ]
    title = "Conventions against counted model FLOPs of the same passes (prompt 256 tokens; columns: total length)\n\n"
    return title + text_table(("model", "convention", *map(str, lengths)), rows)


def _echo_notes(lines: list[LedgerLine], notes: bool) -> None:
    if not notes:
        return
    click.echo()
    for line in lines:
        why = [f"no GPU-hour ratio: {_reason(line.hours)}"] if isinstance(line.hours, str) else []
        why += [f"no FLOP ratio: {_reason(line.flops)}"] if isinstance(line.flops, str) else []
        parts = [*line.notes, *why, line.source]
        click.echo(f"  {line.name}: {'; '.join(filter(None, parts))}")


def _reason(text: str) -> str:
    """A ratio's error without its own beginning, which the table's row already says."""
    return text.split(": ", 1)[1] if text.startswith("no ") and ": " in text else text


_MODEL_COLUMNS = ("model", "parameters", "active", "tokens", "FLOPs", "GPU-h", "chip", "made by")


def _model_cells(model: ledger_table.PretrainedModel) -> tuple[str, ...]:
    mark = {cell: ledger_table.MARKS.get(trust, "") for cell, trust in model.trust.items()}

    def number(value: float | None, cell: str) -> str:
        return "-" if value is None else f"{value:.3g}{mark.get(cell, '')}".replace("e+", "e")

    flops = f"{model.flops:.2e}".replace("e+", "e") if model.tokens and model.active_params else "-"
    hours = "-" if model.gpu_hours is None else f"{model.gpu_hours:,.0f}{mark.get('gpu_hours', '')}"
    return (
        model.name,
        number(model.params, "params"),
        number(model.active_params, "params"),
        number(model.tokens, "tokens"),
        flops,
        hours,
        model.chip or "-",
        "" if model.comparable else model.made_by,
    )


def _csv(lines: list[LedgerLine], own: list[LedgerLine]) -> str:
    records = [{"whose": "published", **i.record()} for i in lines] + [{"whose": "yours", **i.record()} for i in own]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        trust = ";".join(f"{cell}={value}" for cell, value in record["trust"].items())
        writer.writerow({**record, "trust": trust, "notes": "; ".join(record["notes"])})
    return out.getvalue()
