"""JSONL of verl's file logger: ``{"step": 7, "data": {"critic/rewards/mean": 0.433, ...}}``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError
from scaling.importers.console import chunks, log_name
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.values import number
from scaling.records import Skipped

__all__ = ["read_jsonl"]


def read_jsonl(path: Path, mapping: TrainerMapping, progress: Callable[[int], Any] | None) -> RawRun:
    """Read one file of the logger.

    Raises:
        ForeignLogError: it holds no step.
    """
    run = RawRun(name=log_name(path), source="verl file logger", files=(str(path),), mapping=mapping, status="running")
    layouts: dict[tuple[str, ...], tuple[list[str], bool]] = {}
    line_number = 0
    for chunk, torn in chunks(path, progress):
        lines = chunk.split(b"\n")
        if not torn:
            lines.pop()
        for raw in lines:
            line_number += 1
            if not raw.strip():
                continue
            try:
                row = json.loads(raw)
                step, data = row["step"], row["data"]
                if not isinstance(step, int) or isinstance(step, bool) or not isinstance(data, dict):
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError):
                reason = "torn last line" if torn else 'not {"step": N, "data": {...}}'
                run.skipped.append(Skipped(path.name, line_number, reason))
                continue
            names = tuple(data)
            if names not in layouts:
                kept = [n for n in names if mapping.wants(mapping.clean(n))]
                layouts[names] = kept, any(mapping.trains(mapping.clean(n)) for n in names)
                run.unused |= {n: 1 for n in names if n not in kept and number(data[n]) is not None}
            kept, trained = layouts[names]
            values = [number(data[n]) for n in kept]
            cleaned = [mapping.clean(n) for n in kept]
            run.rows.add(step, cleaned, [math.nan if v is None else v for v in values], trained=trained)
    if not run.rows.count:
        raise ForeignLogError(
            f'{path}: no line of the form {{"step": N, "data": {{...}}}}, as verl\'s file logger writes'
        )
    return run
