"""Named series of (step, value, time), as trackers store metrics, put together into rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from scaling.importers.imported import RawRun

__all__ = ["add_rows", "add_series"]


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
    """Add whole rows, each with its step in one of the mapping's step keys (or ``fallback``).

    Returns:
        Rows that had something to offer but no step.
    """
    layouts: dict[tuple[str, ...], tuple[list[tuple[str, str]], tuple[str, ...], bool]] = {}
    steps = (*run.mapping.step, *([fallback] if fallback else ()))
    lost = 0
    for row in rows:
        names = tuple(row)
        if names not in layouts:
            kept = [(n, c) for n in names if run.mapping.wants(c := run.mapping.clean(n)) and c not in steps]
            layouts[names] = kept, tuple(c for _, c in kept), any(run.mapping.trains(c) for _, c in kept)
            for name in set(names) - {n for n, _ in kept}:
                run.unused.setdefault(name, 0)
        kept, cleaned, trained = layouts[names]
        useful = [c for c in cleaned if c != "_runtime"]
        if not useful:
            continue
        step = next((row[s] for s in steps if isinstance(row.get(s), (int, float)) and math.isfinite(row[s])), None)
        if step is None or step < 0:
            lost += 1
            continue
        run.rows.add(int(step), cleaned, [row[n] for n, _ in kept], trained=trained)
    for name in (*steps, "_step", "_timestamp"):
        run.unused.pop(name, None)
    return lost
