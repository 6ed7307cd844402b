"""Named series of (step, value, time), as trackers store metrics, put together into rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.importers.imported import RawRun
from scaling.importers.rows import MAX_STEP
from scaling.importers.values import number

__all__ = ["History", "add_history", "add_rows", "add_series"]


@dataclass(frozen=True)
class History:
    """Rows as columns: ``columns[key]`` has shape ``(count,)``, NaN where a row lacks the key."""

    columns: dict[str, NDArray[np.float64]]
    count: int

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> History:
        """From dictionaries; values that are no number are left out."""
        places: dict[str, tuple[list[int], list[float]]] = {}
        count = 0
        for i, row in enumerate(rows):
            count = i + 1
            for key, raw in row.items():
                value = raw if type(raw) is float else None if isinstance(raw, (list, dict)) else number(raw)
                if value is not None:
                    held = places.get(key)
                    if held is None:
                        held = places[key] = ([], [])
                    held[0].append(i)
                    held[1].append(value)
        columns = {}
        for key, (where, values) in places.items():
            columns[key] = np.full(count, np.nan)
            columns[key][where] = values
        return cls(columns, count)

    @classmethod
    def joined(cls, parts: Iterable[History]) -> History:
        """One after the other."""
        parts = list(parts)
        keys = dict.fromkeys(key for part in parts for key in part.columns)
        columns = {key: np.concatenate([p.columns.get(key, np.full(p.count, np.nan)) for p in parts]) for key in keys}
        return cls(columns, sum(p.count for p in parts))

    def by_step(self, key: str = "_step") -> History:
        """Rows with a step, in its order, each step once (the last of equals)."""
        step = self.columns.get(key)
        if step is None:
            return History({}, 0)
        order = np.argsort(step, kind="stable")
        order = order[np.isfinite(step[order])]
        last = np.append(np.diff(step[order]) != 0, True) if len(order) else np.zeros(0, dtype=bool)
        order = order[last]
        return History({k: c[order] for k, c in self.columns.items()}, len(order))

    def select(self, keep: NDArray[np.bool_]) -> History:
        """The rows of a mask."""
        return History({k: c[keep] for k, c in self.columns.items()}, int(keep.sum()))


def add_series(run: RawRun, series: Mapping[str, Iterable[tuple[int, float, float]]]) -> None:
    """Add series to a run's rows: one row a step, a new segment where a series goes back, elapsed time as ``_runtime``.

    Args:
        run: gets the rows.
        series: key -> ``(step, value, seconds)`` in the order in which they were logged.
    """
    rows: dict[tuple[int, int], dict[str, float]] = {}
    times: dict[tuple[int, int], float] = {}
    for key, points in series.items():
        name = run.mapping.clean(key)
        if not run.mapping.wants(name):
            run.unused[key] = run.unused.get(key, 0) + 1
            continue
        segment, last = 0, -1
        for step, value, seconds in points:
            segment += step < last
            last = step
            rows.setdefault((segment, step), {})[name] = value
            times[segment, step] = max(times.get((segment, step), -math.inf), seconds)
    started: dict[int, float] = {}
    for (segment, _), seconds in times.items():
        started[segment] = min(started.get(segment, math.inf), seconds)
    previous = 0
    for segment, step in sorted(rows):
        if segment != previous:
            run.rows.restart()
            previous = segment
        row = rows[segment, step]
        trained = any(run.mapping.trains(name) for name in row)
        if math.isfinite(times[segment, step]):
            row.setdefault("_runtime", times[segment, step] - started[segment])
        run.rows.add(step, tuple(row), list(row.values()), trained=trained)


def add_rows(run: RawRun, rows: Iterable[Mapping[str, float]], *, fallback: str | None = None) -> int:
    """Add rows, each with its step in one of the mapping's step keys (or ``fallback``); see `add_history`."""
    return add_history(run, History.from_rows(rows), fallback=fallback)


def add_history(run: RawRun, history: History, *, fallback: str | None = None) -> int:
    """Add a table of rows to a run.

    Args:
        run: gets the rows; keys that its mapping has no use for are listed as unused.
        history: the rows.
        fallback: key of the step for rows that have none of the mapping's step keys.

    Returns:
        Rows that had something to offer but no whole number as their step.
    """
    steps = run.mapping.steps(history.columns)
    steps += [fallback] if fallback in history.columns and fallback not in steps else []
    step = np.full(history.count, np.nan)
    for key in steps:
        step = np.where(np.isfinite(step), step, history.columns[key])
    columns: dict[str, NDArray[np.float64]] = {}
    trained = np.zeros(history.count, dtype=bool)
    useful = np.zeros(history.count, dtype=bool)
    for key, column in history.columns.items():
        name = run.mapping.clean(key)
        if key in steps or key in (*run.mapping.step, "_step", "_timestamp"):
            continue
        if not run.mapping.wants(name):
            run.unused[key] = run.unused.get(key, 0) + int(np.isfinite(column).sum())
            continue
        columns[name] = column if name not in columns else np.where(np.isnan(columns[name]), column, columns[name])
        there = np.isfinite(column)
        trained |= there & run.mapping.trains(name)
        if name != "_runtime":
            useful |= there
    placed = useful & (step >= 0) & (step < MAX_STEP) & (step == np.floor(step))
    run.rows.add_columns(step[placed].astype(np.int64), {k: c[placed] for k, c in columns.items()}, trained[placed])
    return int((useful & ~placed).sum())
