"""`RawRun` (a run as its log has it) and `ImportedRun` (the same in our terms), and how the latter is written or tabled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling import records
from scaling.errors import RecordError
from scaling.importers.lines import EvalColumns, StepColumns, eval_dicts, eval_text
from scaling.importers.mapping import TrainerMapping
from scaling.importers.rows import Rows
from scaling.importers.values import printable, safe_name
from scaling.runs import RunTable, assemble, build_table

__all__ = ["Explanation", "ImportedRun", "RawRun", "Written", "to_table", "write"]


MANY_ROWS = 3_000  # from here on, making text by column saves more than importing pyarrow takes


@dataclass(kw_only=True)
class RawRun:
    """A foreign run as its log has it: names and numbers of the other trainer, nothing interpreted yet.

    Attributes:
        name: what the user called the run.
        source: which reader made it.
        files: what was read.
        mapping: names and semantics of its trainer.
        rows: its numeric rows, keys cleaned by the mapping.
        config: the configuration found in the log.
        model_config: the ``config.json`` of the model, where the log shows it.
        gpus: devices, where the log or the tracker says so, and who says it.
        accelerator: device name as the tracker has it.
        unused: keys that were seen and not kept, with how often.
        skipped: lines that were not read, and why.
        status: how the run ended, as far as known.
    """

    name: str
    source: str
    files: tuple[str, ...] = ()
    mapping: TrainerMapping
    rows: Rows = field(default_factory=Rows)
    config: dict[str, Any] = field(default_factory=dict)
    model_config: dict[str, Any] | None = None
    gpus: float | None = None
    gpus_from: str = ""
    accelerator: str = ""
    unused: dict[str, int] = field(default_factory=dict)
    skipped: list[records.Skipped] = field(default_factory=list)
    status: str = "finished"


@dataclass(kw_only=True)
class Explanation:
    """What became of every key of a run: matched, derived or unmatched, each with the reason."""

    run: str
    trainer: str
    evidence: str
    matched: list[tuple[str, str, str]] = field(default_factory=list)  # our name, their key, remark
    derived: list[tuple[str, str]] = field(default_factory=list)  # our name, rule
    unmatched: list[tuple[str, str]] = field(default_factory=list)  # their key, reason
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"run {self.run!r}: names and semantics of {self.trainer} ({self.evidence or 'a mapping of the user'})"
        ]
        for title, rows in (
            ("matched", [(ours, f"<- {theirs}", remark) for ours, theirs, remark in self.matched]),
            ("derived", [(ours, "=", rule) for ours, rule in self.derived]),
            ("unmatched", [(theirs, ":", reason) for theirs, reason in self.unmatched]),
        ):
            lines.append(f"{title} ({len(rows)})")
            wide = max((len(row[0]) for row in rows), default=0)
            lines += ["  " + " ".join([row[0].ljust(wide), *filter(None, row[1:])]) for row in rows]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(printable(line) for line in lines)


@dataclass(kw_only=True)
class ImportedRun:
    r"""A foreign run in our terms: the record, and the lines that a run directory would hold.

    Attributes:
        record: what ``run.json`` says.
        blocks: yields step lines as columns with the evaluation lines among them, in the order of the log; may be called
            again.
        rows: how many rows the log has.
        explanation: what became of each key.
        skipped: what was not read, and why.

    Example:
        >>> import tempfile
        >>> from scaling.importers import read_runs
        >>> path = Path(tempfile.mkdtemp()) / "run.csv"
        >>> _ = path.write_text("step,r,seconds\n1,0.2,30\n2,0.3,30\n")
        >>> [run] = read_runs(path, "table", {"step": "step", "reward": "r", "step_seconds": "seconds"}, gpus=8)
        >>> run.explanation.matched
        [('reward', 'r', '(2 rows)'), ('step_seconds', 'seconds', '(2 rows)')]
    """

    record: records.RunRecord
    blocks: Callable[[], Iterator[tuple[StepColumns, list[EvalColumns]]]]
    explanation: Explanation
    rows: int = 0
    skipped: list[records.Skipped] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A run directory that was written: where, how many lines, and the sum of their costs by `ComputeCost` field."""

    path: Path
    steps: int
    evals: int
    cost: Mapping[str, float]


def to_table(runs: Iterable[ImportedRun]) -> RunTable:
    r"""The `RunTable` of imported runs, through the code that reads run directories.

    Example:
        >>> import tempfile
        >>> from scaling.importers import read_runs
        >>> path = Path(tempfile.mkdtemp()) / "run.csv"
        >>> _ = path.write_text("step,r,seconds\n1,0.2,30\n2,0.3,30\n")
        >>> runs = read_runs(path, "table", {"step": "step", "reward": "r", "step_seconds": "seconds"}, gpus=8)
        >>> to_table(runs).steps["reward"].tolist()
        [0.2, 0.3]
    """
    return build_table(_assembled(run) for run in runs)


def write(run: ImportedRun, out: str | Path, *, force: bool = False) -> Written:
    r"""Write a run as a schema-v1 run directory below ``out``; complete or not at all.

    Args:
        run: the imported run.
        out: the folder of runs; the run's own folder is named after it and its id.
        force: replace the folder if an import wrote it before. Anything else is never touched.

    Raises:
        RecordError: the folder exists (and ``force`` is not given, or no import wrote it), or cannot be written.

    Example:
        >>> import tempfile
        >>> from scaling.importers import read_runs
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "run.csv").write_text("step,r,seconds\n1,0.2,30\n2,0.3,30\n")
        >>> mapping = {"step": "step", "reward": "r", "step_seconds": "seconds"}
        >>> [run] = read_runs(folder / "run.csv", "table", mapping, gpus=8)
        >>> write(run, folder / "runs").steps
        2
    """
    out = Path(out)
    target = out / f"{safe_name(run.record.name)}-{run.record.run_id}"
    if target.exists():
        if not force:
            raise RecordError(f"{target} exists: the run was imported before; pass --force to import it anew")
        if not records.is_run(target) or "importer" not in records.read_run(target).provenance:
            raise RecordError(f"{target} was not written by an import and is left alone; choose another --out")
    counts, cost = {"step": 0, "eval": 0}, dict[str, float]()
    fresh = out / f".{target.name}.{os.getpid()}.tmp"
    try:
        fresh.mkdir(parents=True)
        with (fresh / records.STEPS).open("wb") as steps, (fresh / records.EVALS).open("wb") as evals:
            for columns, scored in run.blocks():
                if run.rows > MANY_ROWS:
                    steps.write(columns.text())
                    evals.write(eval_text(scored))
                else:
                    steps.writelines(_encode(line) for line in columns.dicts())
                    evals.writelines(_encode(line) for line in eval_dicts(scored))
                counts["step"] += len(columns)
                counts["eval"] += sum(len(part.row) for part in scored)
                for name, values in columns.cost.items():
                    cost[name] = cost.get(name, 0.0) + float(values.sum())
        records.write_run(fresh, run.record)
        if target.exists():
            old = out / f".{target.name}.{os.getpid()}.old"
            os.rename(target, old)
            os.rename(fresh, target)
            shutil.rmtree(old)
        else:
            os.rename(fresh, target)
    except OSError as error:
        raise RecordError(
            f"cannot write {target}: {error.strerror}; free space or fix permissions, then rerun"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Written(path=target, steps=counts["step"], evals=counts["eval"], cost=cost)


# lines hold finite numbers only, and no cycles
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)


def _encode(line: dict[str, Any]) -> bytes:
    return _JSON.encode(line).encode() + b"\n"


def _assembled(run: ImportedRun) -> Any:
    steps: list[dict[str, Any]] = []
    evals: list[dict[str, Any]] = []
    for columns, scored in run.blocks():
        steps += columns.dicts()
        evals += eval_dicts(scored)
    files = run.record.provenance.get("files") or [""]
    return assemble(run.record, _numbered(steps), _numbered(evals), path=Path(files[0]), skipped=run.skipped)


def _numbered(lines: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    return [(line, i) for i, line in enumerate(lines, 1)]
