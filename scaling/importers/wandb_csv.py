"""CSV exports of a W&B chart: a step column, then ``RUN - METRIC`` with ``__MIN`` and ``__MAX`` beside it.

A chart holds one metric of several runs; exports of several charts are put together by run.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from scaling.errors import ForeignLogError
from scaling.importers.console import looks_binary
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.mapping_file import recognise
from scaling.importers.values import head, number, one_line
from scaling.records import Skipped

__all__ = ["read_exports"]

_COLUMN = re.compile(r"^(?P<run>.+) - (?P<metric>\S.*?)(?P<side>__MIN|__MAX)?$", re.S)


def read_exports(paths: Iterable[Path], mapping: TrainerMapping | None) -> list[RawRun]:
    """Read exports; a run for each run name.

    Raises:
        ForeignLogError: a file is no such export, or its x axis is a time instead of a step.
    """
    runs: dict[str, dict[int, dict[str, float]]] = {}
    files: dict[str, list[str]] = {}
    metrics: dict[str, dict[str, None]] = {}
    skipped: list[Skipped] = []
    for path in paths:
        try:
            _read_one(path, runs, files, metrics, skipped)
        except csv.Error as error:
            raise ForeignLogError(f"{path} must be a CSV export of W&B: {error}") from error
    out = []
    for name, rows in runs.items():
        run = RawRun(
            name=name,
            source="W&B CSV export",
            files=tuple(files[name]),
            mapping=mapping or recognise(metrics[name], name),
        )
        for metric in metrics[name]:
            if not run.mapping.wants(run.mapping.clean(metric)):
                run.unused[metric] = len(rows)
        for step in sorted(rows):
            row = {c: v for m, v in rows[step].items() if run.mapping.wants(c := run.mapping.clean(m))}
            if row:
                run.rows.add(step, tuple(row), list(row.values()), trained=any(map(run.mapping.trains, row)))
        run.skipped += skipped
        skipped = []
        out.append(run)
    return out


def _read_one(
    path: Path,
    runs: dict[str, dict[int, dict[str, float]]],
    files: dict[str, list[str]],
    metrics: dict[str, dict[str, None]],
    skipped: list[Skipped],
) -> None:
    head(path)
    if looks_binary(path):
        raise ForeignLogError(f"{path} must be a CSV export of W&B, it is binary")
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as f:
        reader = csv.reader(f, strict=True)
        names = next(reader, [])
        parsed = [(i, m) for i, n in enumerate(names[1:], 1) if (m := _COLUMN.match(n)) and not m["side"]]
        if not parsed:
            raise ForeignLogError(
                f"{path} must be a CSV export of a W&B chart (columns 'RUN - METRIC'), got {one_line(', '.join(names[:4]))}; for any other "
                "table use the source 'table'"
            )
        if re.search(r"time", names[0], re.I):
            raise ForeignLogError(
                f"{path} must have steps in its first column, got {names[0]!r}: set the chart's x axis to a step"
            )
        for _, match in parsed:
            files.setdefault(match["run"], [])
            metrics.setdefault(match["run"], {})[match["metric"]] = None
            if str(path) not in files[match["run"]]:
                files[match["run"]].append(str(path))
        odd = [0, 0]
        for cells in reader:
            step = number(cells[0]) if cells else None
            if step is None or step < 0 or step != int(step):
                if cells:
                    skipped.append(
                        Skipped(path.name, reader.line_num, f"step must be a whole number, got {cells[0][:40]!r}")
                    )
                continue
            for i, match in parsed:
                if i >= len(cells) or cells[i] == "":
                    continue
                value, row = number(cells[i]), runs.setdefault(match["run"], {}).setdefault(int(step), {})
                odd[0] += value is None
                if value is not None:
                    odd[1] += match["metric"] in row and row[match["metric"]] != value
                    row[match["metric"]] = value
    for count, reason in zip(odd, ("that are no number", "of a step that had another one before: the last is kept")):
        if count:
            skipped.append(Skipped(path.name, 0, f"{count} value(s) {reason}"))
