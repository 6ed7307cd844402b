"""Progress of a sweep while somebody watches: a live table on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sweeps.launching.status import RunState

__all__ = ["aligned", "describe", "watch"]

PLAIN_EVERY = 5.0
ROWS_SHOWN = 24


def watch(read: Callable[[], Sequence[RunState]], *, poll: float = 0.5, stream: Any = None) -> list[RunState]:
    """Show the states that ``read`` returns until no run is active; returns the last ones.

    Args:
        read: reads the state of every run.
        poll: seconds between reads.
        stream: where to; standard output.
    """
    stream = stream or sys.stdout
    live = bool(getattr(stream, "isatty", lambda: False)())
    started = last_line = time.monotonic()
    shown = ""
    with _live_table(stream) if live else nullcontext() as table:
        while True:
            states = list(read())
            elapsed = time.monotonic() - started
            if table is not None:
                table.update(_table(states, elapsed))
            else:
                line = describe(states)
                due = time.monotonic() - last_line >= PLAIN_EVERY
                if (due or not shown) and (line != shown or time.monotonic() - last_line >= 12 * PLAIN_EVERY):
                    print(f"[{_clock(elapsed)}] {line}", file=stream, flush=True)
                    shown, last_line = line, time.monotonic()
            if not any(s.active for s in states):
                if table is None and describe(states) != shown:
                    print(f"[{_clock(elapsed)}] {describe(states)}", file=stream, flush=True)
                return states
            time.sleep(poll)


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Lines of a plain table: the first ``left`` columns are flush left, the others flush right.

    Example:
        >>> aligned([("run", "steps"), ("a", "10")], left=1)
        ['run  steps', 'a       10']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]


def describe(states: Sequence[RunState]) -> str:
    """One line on a whole sweep: counts, then the runs at work."""
    counts = Counter(s.state for s in states)
    order = ("running", "queued", "finished", "failed", "interrupted", "lost", "cancelled", "new")
    line = ", ".join(f"{counts[name]} {name}" for name in order if counts[name])
    working = [s for s in states if s.state == "running"]
    waiting = next((s.cause for s in states if s.state == "queued" and s.cause), None)
    line += f" ({waiting})" if waiting and not working else ""
    return " | ".join(
        [line, *(_short(s) for s in working[:4]), *([f"and {len(working) - 4} more"] if len(working) > 4 else [])]
    )


def _short(s: RunState) -> str:
    parts = [f"{s.label}: {s.stage or 'starting'}"]
    if s.step is not None:
        parts.append(f"{s.step}/{s.total}" if s.total else f"step {s.step}")
    if s.score is not None:
        parts.append(f"score {s.score:.3f}")
    if s.seconds_left is not None:
        parts.append(f"{_clock(s.seconds_left)} left")
    return " ".join(parts)


def _live_table(stream: Any) -> AbstractContextManager[Any]:
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(file=stream), refresh_per_second=4)


def _table(states: Sequence[RunState], elapsed: float) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table(
        box=None,
        pad_edge=False,
        expand=False,
        caption=f"{_clock(elapsed)}  {describe(states).split(' | ')[0]}",
        caption_justify="left",
    )
    for name, justify in (
        ("run", "left"),
        ("state", "left"),
        ("stage", "left"),
        ("", "left"),
        ("step", "right"),
        ("score", "right"),
        ("left", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    ranked = sorted(states, key=lambda s: ("running", "queued").index(s.state) if s.active else 2)
    for s in ranked[:ROWS_SHOWN]:
        bar = ProgressBar(total=s.total, completed=min(s.step or 0, s.total), width=20) if s.total else ""
        table.add_row(
            s.label, s.state, s.stage, bar, "" if s.step is None else f"{s.step}/{s.total}" if s.total else str(s.step),
            "" if s.score is None else f"{s.score:.3f}", "" if s.seconds_left is None else _clock(s.seconds_left),
        )  # fmt: skip
    if len(ranked) > ROWS_SHOWN:
        table.add_row(f"... and {len(ranked) - ROWS_SHOWN} more", "", "", "", "", "", "")
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
