"""Any CSV, JSONL or parquet with a mapping: one row a step, optionally a column that names the run."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError
from scaling.importers.console import log_name, looks_binary
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.series import add_rows
from scaling.importers.values import head, number, one_line
from scaling.records import Skipped

__all__ = ["flatten", "read"]


def read(path: Path, mapping: TrainerMapping, progress: Callable[[int], Any] | None = None) -> list[RawRun]:
    """Read a table; a run for each value of the mapping's ``run`` column, else one.

    Raises:
        ForeignLogError: the file is empty, of no known form, damaged, or lacks the step column.
    """
    skipped: list[Skipped] = []
    rows = _rows(path, skipped)
    by_run: dict[str, list[dict[str, float]]] = {}
    columns: dict[str, None] = {}
    for row in rows:
        name = str(row.get(mapping.run, "")) if mapping.run else ""
        numbers = {k: v for k, raw in row.items() if (v := number(raw)) is not None}
        columns |= dict.fromkeys(row)
        by_run.setdefault(name, []).append(numbers)
    if progress:
        progress(path.stat().st_size)
    if not any(by_run.values()):
        raise ForeignLogError(f"{path} must hold rows, it has none" + (f" ({skipped[0]})" if skipped else ""))
    if mapping.run and mapping.run not in columns:
        raise ForeignLogError(
            f"{path} must have the column {mapping.run!r} that names the run; {_near(mapping.run, columns)}"
        )
    if not any(step in columns for step in mapping.step):
        raise ForeignLogError(
            f"{path} must have a step column, named {' or '.join(mapping.step)}; {_near(mapping.step[0], columns)}"
        )
    out = []
    for name, numbers in by_run.items():
        run = RawRun(
            name=name or log_name(path), source=f"table ({path.suffix[1:]})", files=(str(path),), mapping=mapping
        )
        lost = add_rows(run, numbers)
        if lost:
            run.skipped.append(Skipped(path.name, 0, f"{lost} row(s) without a whole step number"))
        run.skipped += skipped
        skipped = []
        out.append(run)
    return out


def _rows(path: Path, skipped: list[Skipped]) -> Iterator[dict[str, Any]]:
    start = head(path, 8)
    if start.startswith(b"PAR1") or path.suffix == ".parquet":
        yield from _parquet(path)
        return
    if start.startswith(b"\x1f\x8b"):
        raise ForeignLogError(f"{path} must be CSV, JSONL or parquet, it is gzip-compressed: unpack it first")
    if looks_binary(path):
        raise ForeignLogError(f"{path} must be CSV, JSONL or parquet, it is binary")
    if path.suffix in (".jsonl", ".json", ".ndjson") or start.lstrip().startswith(b"{"):
        yield from _jsonl(path, skipped)
    else:
        yield from _csv(path, skipped)


def _csv(path: Path, skipped: list[Skipped]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 24)
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as f:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        reader = csv.reader(f, delimiter=delimiter, strict=True)  # an open quote swallows lines
        try:
            names = next(reader, [])
            if len(set(names)) < len(names):
                twice = sorted({n for n in names if names.count(n) > 1})
                raise ForeignLogError(f"{path} must name each column once; {', '.join(twice)} is there twice")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(names):
                    skipped.append(
                        Skipped(path.name, reader.line_num, f"{len(cells)} cells under {len(names)} columns")
                    )
                    continue
                yield {n: c for n, c in zip(names, cells) if c != ""}
        except csv.Error as error:
            raise ForeignLogError(f"{path}:{reader.line_num} must be CSV: {error}") from error


def _jsonl(path: Path, skipped: list[Skipped]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as f:
        for line_number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                skipped.append(Skipped(path.name, line_number, "not JSON" if line.endswith("\n") else "torn last line"))
                continue
            if isinstance(row, dict):
                yield flatten(row)
            else:
                skipped.append(Skipped(path.name, line_number, f"must be a JSON object, got {type(row).__name__}"))


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as f:
            for batch in f.iter_batches():
                for row in batch.to_pylist():
                    yield flatten({k: v for k, v in row.items() if v is not None})
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ForeignLogError(f"{path} must be a whole parquet file: {reason[:200]}") from error


def flatten(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as ``outer/inner`` keys.

    Example:
        >>> flatten({"step": 1, "env": {"all": {"reward": 0.5}}})
        {'step': 1, 'env/all/reward': 0.5}
    """
    out: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            out |= flatten(value, f"{name}/")
        elif value is not None and not isinstance(value, (list, tuple)):
            out[name] = value
    return out


def _near(name: str, columns: dict[str, None]) -> str:
    close = difflib.get_close_matches(name, list(columns), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}map it with --mapping; its columns: {one_line(', '.join(list(columns)[:20]))}"
