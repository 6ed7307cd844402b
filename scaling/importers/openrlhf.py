"""OpenRLHF: console logs, `Global step 7: {'policy_loss': 0.1, ...}` and `global_step 7, eval_metrics: {...}`.

Its TensorBoard and W&B logs are read by those sources with the same mapping.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError
from scaling.importers.console import chunks, log_name, looks_binary, plain
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.values import number
from scaling.records import Skipped

__all__ = ["read"]

_LINE = re.compile(rb"[Gg]lobal[_ ]step:? ?(\d{1,4000})(?: \[\w+\])?(?:: |, eval_metrics: )(\{[^\n\r]*)")
_PAIR = re.compile(r"['\"]([^'\"]+)['\"]: ((?:[\w.]+\()*[-+]?(?:\d[\d.eE+-]*|nan|inf)\)*|tensor\([^)]*\)|[-+\w.]+)")


def read(path: Path, mapping: TrainerMapping, progress: Callable[[int], Any] | None = None) -> RawRun:
    """Read one console log.

    Raises:
        ForeignLogError: the file is empty, binary, or holds no step.
    """
    if looks_binary(path):
        raise ForeignLogError(f"{path} must be a text log, it is binary")
    run = RawRun(
        name=log_name(path), source="OpenRLHF console log", files=(str(path),), mapping=mapping, status="running"
    )
    for chunk, torn in chunks(path, progress):
        at = chunk.find(b"lobal")
        while at >= 0:
            match = _LINE.match(chunk, at - 1) if at else None
            if match is None:
                at = chunk.find(b"lobal", at + 5)
                continue
            text = plain(match[2]).decode("utf-8", "replace")
            if torn and match.end() == len(chunk) and not text.rstrip().endswith("}"):
                text = text.rpartition(",")[0]
                run.skipped.append(Skipped(path.name, 0, "torn last line: its last value"))
            _add(run, int(match[1]), text)
            at = chunk.find(b"lobal", match.end())
    if not run.rows.count:
        raise ForeignLogError(f"{path}: no line of the form 'Global step N: {{...}}', as OpenRLHF logs")
    return run


def _add(run: RawRun, step: int, text: str) -> None:
    keys: list[str] = []
    values: list[float] = []
    for key, raw in _PAIR.findall(text):
        value = number(raw)
        if value is None:
            continue
        name = run.mapping.clean(key)
        if run.mapping.wants(name) and name not in keys:
            keys.append(name)
            values.append(value)
        else:
            run.unused[key] = run.unused.get(key, 0) + 1
    if keys:
        run.rows.add(step, tuple(keys), values, trained=any(run.mapping.trains(k) for k in keys))
