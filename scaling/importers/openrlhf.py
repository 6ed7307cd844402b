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
_CALL = r"[\w.]+\((?:[^()]++|\([^()]*+\))*+\)"  # np.float64(0.5), tensor(0.5, device='cuda:0')
_PAIR = re.compile(rf"['\"]([^'\"]+)['\"]: ({_CALL}|[-+\w.]+)")


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
    lost: dict[str, int] = {}
    for chunk, torn in chunks(path, progress):
        at = chunk.find(b"lobal")
        while at >= 0:
            match = _LINE.match(chunk, at - 1) if at else None
            if match is None:
                at = chunk.find(b"lobal", at + 5)
                continue
            end = match.end()
            if other := _LINE.search(chunk, match.start(2), end):  # another process printed into this line
                end = other.start()
            text = plain(chunk[match.start(2) : end]).decode("utf-8", "replace")
            if torn and end == len(chunk) and not text.rstrip().endswith("}"):
                text = text.rpartition(",")[0]
                run.skipped.append(Skipped(path.name, 0, "torn last line: its last value"))
            _add(run, int(match[1]), text, lost)
            at = chunk.find(b"lobal", end)
    for key, count in lost.items():
        run.skipped.append(Skipped(path.name, 0, f"{count} value(s) of {key} that are no number"))
    if not run.rows.count:
        raise ForeignLogError(f"{path}: no line of the form 'Global step N: {{...}}', as OpenRLHF logs")
    return run


def _add(run: RawRun, step: int, text: str, lost: dict[str, int]) -> None:
    keys: list[str] = []
    values: list[float] = []
    for key, raw in _PAIR.findall(text):
        value, name = number(raw), run.mapping.clean(key)
        if value is None:
            if run.mapping.wants(name):
                lost[name] = lost.get(name, 0) + 1
        elif run.mapping.wants(name) and name not in keys:
            keys.append(name)
            values.append(value)
        else:
            run.unused[key] = run.unused.get(key, 0) + 1
    if keys:
        run.rows.add(step, tuple(keys), values, trained=any(run.mapping.trains(k) for k in keys))
