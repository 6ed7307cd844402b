"""`Rows`: the numeric rows of a foreign run, compact, out of memory when they are many; segments and repeats found here.

A row is a step and some named numbers. Memory does not grow with the log: blocks of rows go to an anonymous temporary
file once a few megabytes are held.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scaling.importers.values import number

__all__ = ["Block", "Rows"]

BLOCK_ROWS = 2048
MAX_STEP = 1 << 40
HELD_BYTES = 16 * 2**20
MANY_TEXTS = 4096  # from here on, pyarrow's numbers save more than importing it takes


@dataclass(frozen=True)
class Block:
    """Some consecutive rows as columns: ``columns[key]`` has shape ``(n_rows,)``, NaN where a row lacks the key."""

    segment: NDArray[np.int64]
    step: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]

    def get(self, key: str) -> NDArray[np.float64]:
        """The column, all NaN if no row of this block has it."""
        return self.columns.get(key, np.full(len(self.step), np.nan))


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a few layouts.

    Attributes:
        step: their steps, shape ``(n_rows,)``.
        group: which layout each has, an index into ``groups``.
        at: which row of its group's table each is, ascending within a group.
        groups: the keys of each layout, its values of shape ``(n, n_keys)``, whether it is of an optimiser step.
    """

    step: NDArray[np.int64]
    group: NDArray[np.int64]
    at: NDArray[np.int64]
    groups: Sequence[tuple[Sequence[str], NDArray[np.float64], bool]]

    def __len__(self) -> int:
        return len(self.step)

    def part(self, i: int, j: int) -> Batch:
        """Rows ``i`` to ``j``."""
        return Batch(self.step[i:j], self.group[i:j], self.at[i:j], self.groups)

    def tables(self) -> Iterator[tuple[NDArray[np.int64], Sequence[str], NDArray[np.float64]]]:
        """For each layout here: which rows have it, its keys, their values of shape ``(n, n_keys)``."""
        for i in np.unique(self.group).tolist():
            where = np.flatnonzero(self.group == i)
            keys, table, _ = self.groups[i]
            yield where, keys, table[self.at[where[0]] : self.at[where[-1]] + 1]

    def row(self, i: int) -> tuple[int, Sequence[str], list[float], bool]:
        """Step, keys, values of a row, and whether it is of an optimiser step."""
        keys, table, trained = self.groups[self.group[i]]
        return int(self.step[i]), keys, table[self.at[i]].tolist(), trained


@dataclass
class Rows:
    """Collects rows in the order of the log and splits them into segments at restarts.

    A step number that goes back starts a new segment: the process restarted from a checkpoint. A line that repeats the
    previous one is skipped and counted; a second line of the same step with other keys belongs to that step.

    Attributes:
        resumed_from: step from which each segment went on; None for the first.
        repeated: lines that only repeated the line before.
        key_counts: how often each key was seen with a finite number.
        not_finite: how often a key held NaN or an infinity, or a text that is no number.
        count: rows kept.
        impossible: rows whose step is below 0 or beyond what any run reaches, left out.
        first: the first rows, by which a run is known again when its log has grown.
        opening: the first row's step, and whether it is of an optimiser step.
    """

    resumed_from: list[int | None] = field(default_factory=list)
    repeated: int = 0
    key_counts: dict[str, int] = field(default_factory=dict)
    not_finite: dict[str, int] = field(default_factory=dict)
    impossible: int = 0
    count: int = 0
    first: list[Any] = field(default_factory=list)
    opening: tuple[int, bool] = (0, True)

    def __post_init__(self) -> None:
        self._pending: list[tuple[int, int, Sequence[str], Sequence[float] | Sequence[str]] | tuple[int, Batch]] = []
        self._waiting = 0  # rows in _pending
        self._blocks: list[Block | tuple[int, tuple[str, ...], int]] = []
        self._file: IO[bytes] | None = None
        self._held = 0
        self._last: tuple[int, Sequence[str], Sequence[float] | Sequence[str]] | None = None
        self._restart = False

    def restart(self) -> None:
        """The log says that a new process begins: the next row opens a segment (if there are rows already)."""
        self._restart = bool(self.resumed_from)

    def add(
        self, step: int, keys: Sequence[str], values: Sequence[float] | Sequence[str], *, trained: bool = True
    ) -> None:
        """Add a row.

        Args:
            step: its step.
            keys: names; passing the same object again and again is fastest.
            values: numbers, NaN for "not there"; or their texts, which are turned into numbers many at once.
            trained: whether the row is of an optimiser step (or only of an evaluation at that step).
        """
        last = self._last
        if last is not None and last[0] < step < MAX_STEP and not self._restart:
            pass  # the usual case
        elif not 0 <= step < MAX_STEP:
            self.impossible += 1
            return
        elif not self.resumed_from:
            self.resumed_from.append(None)
            self.opening = (step, trained)
        elif last is not None:
            if step == last[0] and not self._restart:
                if list(keys) == list(last[1]) and _floats(values) == _floats(last[2]):
                    self.repeated += 1
                    return
                again = trained and not set(keys).isdisjoint(last[1])
            else:
                again = step < last[0]
            if again or self._restart:
                self.resumed_from.append(max(0, step - 1 if trained else step))
        self._restart = False
        self._last = (step, keys, values)
        if self.count < 3:
            self.first.append([step, dict(zip(keys, _floats(values)))])
        self.count += 1
        self._pending.append((len(self.resumed_from) - 1, step, keys, values))
        self._waiting += 1
        if self._waiting >= BLOCK_ROWS:
            self._flush()

    def add_batch(self, rows: Batch) -> None:
        """Add rows as `add` does one by one, many at once where each goes on from the one before."""
        at = 0
        for until in [*(np.flatnonzero(np.diff(rows.step) <= 0) + 1).tolist(), len(rows)]:
            while at < until:  # the first may be something else than the next step
                step, keys, values, trained = rows.row(at)
                self.add(step, keys, values, trained=trained)
                at += 1
                if self.count >= 3:
                    break
            while at < until:
                count = min(until - at, BLOCK_ROWS - self._waiting)
                self._pending.append((len(self.resumed_from) - 1, rows.part(at, at + count)))
                self._waiting += count
                self.count += count
                at += count
                self._last = rows.row(at - 1)[:3]
                if self._waiting >= BLOCK_ROWS:
                    self._flush()

    def add_columns(
        self, step: NDArray[np.int64], columns: dict[str, NDArray[np.float64]], trained: NDArray[np.bool_]
    ) -> None:
        """Add many rows at once, as columns with NaN where a row lacks a key; a step that goes back opens a segment.

        Args:
            step: shape ``(n_rows,)``.
            columns: shape ``(n_rows,)`` each.
            trained: which rows are of an optimiser step, shape ``(n_rows,)``.
        """
        if not len(step):
            return
        self._flush()
        columns = {key: np.asarray(c, dtype=float) for key, c in columns.items()}
        for key, column in columns.items():
            finite = np.isfinite(column)
            infinite = int(np.isinf(column).sum())
            if infinite:
                columns[key] = np.where(finite, column, np.nan)
                self.not_finite[key] = self.not_finite.get(key, 0) + infinite
            self.key_counts[key] = self.key_counts.get(key, 0) + int(finite.sum())
        for i in range(min(3 - self.count, len(step))):
            row = {key: float(c[i]) for key, c in columns.items() if not np.isnan(c[i])}
            self.first.append([int(step[i]), row])
        begins = np.flatnonzero(np.diff(step) < 0) + 1
        if not self.resumed_from:
            self.resumed_from.append(None)
            self.opening = (int(step[0]), bool(trained[0]))
        elif self._restart or (self._last is not None and step[0] < self._last[0]):
            begins = np.concatenate([[0], begins])
        segment = np.full(len(step), len(self.resumed_from) - 1)
        for i in begins.tolist():
            segment[i:] += 1
            self.resumed_from.append(max(0, int(step[i]) - int(trained[i])))
        self.count += len(step)
        self._restart = False
        self._last = (int(step[-1]), (), ())
        for i in range(0, len(step), BLOCK_ROWS):
            part = slice(i, i + BLOCK_ROWS)
            self._keep(Block(segment[part], step[part], {key: c[part] for key, c in columns.items()}))

    def extend(self, other: Rows) -> None:
        """Append the rows of a later log of the same run: it opens a segment."""
        self._flush()
        offset = len(self.resumed_from)
        for block in other.blocks():
            self._keep(Block(segment=block.segment + offset, step=block.step, columns=block.columns))
        went_on = None if not offset else max(0, other.opening[0] - int(other.opening[1]))
        self.resumed_from += [went_on, *other.resumed_from[1:]]
        self.count += other.count
        self.repeated += other.repeated
        self._last, self._restart = None, True
        for mine, theirs in ((self.key_counts, other.key_counts), (self.not_finite, other.not_finite)):
            for key, n in theirs.items():
                mine[key] = mine.get(key, 0) + n

    def blocks(self) -> Iterator[Block]:
        """All rows, block by block, in order; may be iterated again."""
        self._flush()
        for block in self._blocks:
            yield block if isinstance(block, Block) else self._read(*block)

    def column(self, key: str) -> NDArray[np.float64]:
        """One column of all rows, shape ``(count,)``."""
        parts = [block.get(key) for block in self.blocks()]
        return np.concatenate(parts) if parts else np.empty(0)

    def _flush(self) -> None:
        pending, count = self._pending, self._waiting
        self._pending, self._waiting = [], 0
        if not count:
            return
        segment, step = np.empty((2, count), dtype=np.int64)
        groups: list[tuple[list[int], Sequence[str], NDArray[np.float64]]] = []
        single: dict[tuple[int, bool], tuple[list[int], Sequence[str], list[Any]]] = {}
        i = 0
        for entry in pending:
            if len(entry) == 2:
                until = i + len(entry[1])
                segment[i:until], step[i:until] = entry[0], entry[1].step
                groups += [((i + where).tolist(), keys, values) for where, keys, values in entry[1].tables()]
                i = until
                continue
            segment[i], step[i], keys, values = entry
            kind = id(keys), bool(values) and isinstance(values[0], str)
            held = single.get(kind) or single.setdefault(kind, ([], keys, []))
            held[0].append(i)
            held[2].append(values)
            i += 1
        for (_, texts), (where, keys, many) in single.items():
            read = _numbers if texts else np.array
            groups.append((where, keys, read(list(chain.from_iterable(many))).reshape(len(where), -1)))
        names: dict[str, int] = {}
        for _, keys, _ in sorted(groups, key=lambda group: group[0][0]):  # in the order of the log
            for key in keys:
                names.setdefault(key, len(names))
        table = np.full((count, len(names)), np.nan)
        present = np.zeros(len(names), dtype=int)
        for where, keys, values in groups:
            columns = [names[k] for k in keys]
            table[np.ix_(where, columns)] = values
            present[columns] += len(where)
        finite = np.isfinite(table)
        table[~finite] = np.nan
        for (key, j), good in zip(names.items(), finite.sum(axis=0).tolist()):
            self.key_counts[key] = self.key_counts.get(key, 0) + good
            if good < present[j]:
                self.not_finite[key] = self.not_finite.get(key, 0) + int(present[j]) - good
        self._keep(Block(segment, step, {name: table[:, j] for name, j in names.items()}))

    def _keep(self, block: Block) -> None:
        size = 8 * len(block.step) * (len(block.columns) + 2)
        if self._held + size <= HELD_BYTES:
            self._held += size
            self._blocks.append(block)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()
        self._file.seek(0, 2)
        self._blocks.append((self._file.tell(), tuple(block.columns), len(block.step)))
        for column in (block.segment, block.step, *block.columns.values()):
            self._file.write(np.ascontiguousarray(column).tobytes())

    def _read(self, offset: int, names: tuple[str, ...], n_rows: int) -> Block:
        assert self._file is not None
        self._file.seek(offset)
        raw = self._file.read(8 * n_rows * (len(names) + 2))
        whole = np.frombuffer(raw, dtype=np.int64, count=2 * n_rows).reshape(2, n_rows)
        table = np.frombuffer(raw, dtype=float, offset=16 * n_rows).reshape(len(names), n_rows)
        return Block(whole[0], whole[1], dict(zip(names, table)))


def _numbers(texts: list[str]) -> NDArray[np.float64]:
    """Many texts as numbers, shape ``(n_texts,)``; NaN where one is none."""
    if len(texts) >= MANY_TEXTS:
        import pyarrow as pa

        data = "".join(texts).encode()
        edges = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        if len(data) == edges[-1]:  # all of it ASCII
            buffers = [None, pa.py_buffer(edges), pa.py_buffer(data)]
            try:  # four times as fast as a text at a time
                numbers = pa.Array.from_buffers(pa.large_string(), len(texts), buffers).cast(pa.float64())
                return np.frombuffer(numbers.buffers()[1], np.float64)[: len(texts)]
            except pa.ArrowInvalid:
                pass
    return np.array(_floats(texts))


def _floats(values: Sequence[float] | Sequence[str]) -> list[float]:
    try:
        return list(map(float, values))
    except ValueError:
        return [math.nan if (held := number(value)) is None else held for value in values]
