"""Step lines of verl's console logger by the hundred: those of a known layout in one piece of a log, as tables of numbers.

Every metric has one colon before its value, so the colons of a piece tell where all values and all names of its step
lines are. Lines of one layout (see `scaling.importers.verl_lines`) make an Arrow array without a copy, whose elements are
value, name, value, name, ... and which Arrow compares with the layout's names and turns into numbers. A line is taken only
if that gives what taking it apart pair by pair gives: the names are those of the layout, each value is a number that
Arrow and Python read alike. Any other line is left to `scaling.importers.verl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.importers.rows import Batch
from scaling.importers.verl_lines import Layout

__all__ = ["MARKS", "BulkReader", "StepLines"]

Positions = NDArray[np.int64]

RESTART, CONFIG = b"Setting global step to ", b"actor_rollout_ref"
MARKS = (CONFIG.decode(), RESTART.decode())  # what tells of a restart, besides a step that goes back
_STEP = np.frombuffer(b"step", "<u4")[0]
MAX_DIGITS = 12  # of a step: below `rows.MAX_STEP`


@dataclass(frozen=True)
class StepLines:
    """What was found in a piece of a log.

    Attributes:
        start: where ``step:`` of each line is that was taken, in order, shape ``(n_lines,)``.
        end: where each ends.
        batch: their steps and values.
        layout: the layout of each, an index into the layouts that were searched for.
        others: where else something is that needs a look: a ``step:`` outside of these lines, a restart, a configuration.
    """

    start: Positions
    end: Positions
    batch: Batch
    layout: Positions
    others: list[int]


class BulkReader:
    """Finds step lines. What it expects of each layout is kept from piece to piece."""

    def __init__(self) -> None:
        self._expected: dict[int, _Expected] = {}

    def find(self, chunk: bytes, layouts: list[Layout], lead: bytes) -> StepLines:
        """The step lines of a piece that begins and ends at a line's border.

        Args:
            chunk: the piece.
            layouts: the layouts that are known.
            lead: line break and prefix that stand before ``step:`` in the lines of the process that trains.
        """
        a = np.frombuffer(chunk, np.uint8)
        colons = np.flatnonzero(a == ord(":"))
        colons = colons[np.searchsorted(colons, 4) :]
        before = a[colons - 1]
        found = np.flatnonzero(before == ord("p"))
        found = found[_words(chunk)[colons[found] - 4] == _STEP]
        start = colons[found] - 4
        first = found[a[start - 1] == lead[-1]]
        first = first[[chunk.endswith(lead, 0, at) for at in (colons[first] - 4).tolist()]] if len(first) else first
        ends = [chunk.find(b"\n", at) for at in colons[first].tolist()]
        if ends and ends[-1] < 0:  # torn
            first = first[:-1]
            ends.pop()
        end = np.array(ends, dtype=np.int64)
        end = end - (a[end - 1] == ord("\r"))
        counts = np.searchsorted(colons, end) - first
        layout = np.full(len(first), -1)
        row, groups = np.zeros(len(first), np.int64), []
        step = np.zeros(len(first), np.int64)
        for i, one in enumerate(layouts):
            groups.append((one.keys, np.empty((0, len(one.keys))), one.trained))
            if not one.literals:
                continue
            which = np.flatnonzero((counts == len(one.literals)) & (layout < 0))
            if not len(which):
                continue
            expected = self._expected.get(id(one)) or self._expected.setdefault(id(one), _Expected(one))
            taken, steps, table = expected.read(chunk, colons[first[which][:, None] + expected.columns], end[which])
            which = which[taken]
            layout[which], row[which], step[which] = i, np.arange(len(which)), steps
            groups[i] = (one.keys, table, one.trained)
        taken = layout >= 0
        begin, until = colons[first[taken]] - 4, np.array(ends, dtype=np.int64)[taken]
        gaps = np.concatenate([[0], until]), np.concatenate([begin, [len(chunk)]])
        wide = gaps[1] - gaps[0] > len(RESTART) + len(lead)
        restarts = [at for i, j in zip(*(edge[wide].tolist() for edge in gaps)) for at in _places(chunk, RESTART, i, j)]
        marks = [*restarts, *_configurations(chunk, colons, before)]
        others = np.sort(np.concatenate([start, np.array(marks, dtype=np.int64)]))
        line = np.searchsorted(begin, others, side="right")  # one gap more than lines
        others = others[others >= gaps[0][line]]
        batch = Batch(step[taken], layout[taken], row[taken], groups)
        return StepLines(begin, until, batch, layout[taken], others.tolist())


class _Expected:
    """A layout as its lines are split: value, name, value, name, ..., value, what follows it, the way to the next line."""

    def __init__(self, layout: Layout) -> None:
        self.literals, self.slots = layout.literals, list(layout.slots)
        self.columns = np.arange(len(self.literals))
        self.width = 2 * len(self.literals) + 1
        # a literal is what stands from one value to the next: "after) - name:before("
        colon = np.array([text.rindex(b":") for text in self.literals[:-1]], dtype=np.int64)
        sizes = np.array([len(text) for text in self.literals], dtype=np.int64)
        self.to_value, self.to_literal, self.tail = sizes[:-1] - colon, colon, int(sizes[-1])
        self.ready = 0

    def _prepare(self, count: int) -> None:
        import pyarrow as pa

        self.ready = 1 << (count - 1).bit_length()
        place = np.arange(self.width * self.ready) % self.width
        self.is_value = pa.py_buffer(
            np.packbits((place % 2 == 0) & (place > 0) & (place < self.width - 1), bitorder="little")
        )
        self.is_name = pa.py_buffer(np.packbits(place % 2 == 1, bitorder="little"))
        sizes = np.zeros(self.width, dtype=np.int32)
        sizes[1::2] = [len(text) for text in self.literals]
        edges = np.concatenate([[0], np.cumsum(np.tile(sizes, self.ready))]).astype(np.int32)
        names = [self.is_name, pa.py_buffer(edges), pa.py_buffer(b"".join(self.literals) * self.ready)]
        self.names = pa.Array.from_buffers(pa.binary(), len(place), names)

    def read(self, chunk: bytes, colons: Positions, end: Positions) -> tuple[Positions, Positions, NDArray[np.float64]]:
        """Which lines are of this layout, their steps, their wanted values of shape ``(n, n_wanted)``.

        Args:
            chunk: where they stand.
            colons: of each line, shape ``(n_lines, n_names + 1)``.
            end: of each line, shape ``(n_lines,)``.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        def only(lines: NDArray[np.bool_]) -> tuple[Positions, Positions, NDArray[np.float64]]:
            which = np.flatnonzero(lines)
            inner, steps, table = self.read(chunk, colons[which], end[which])
            return which[inner], steps, table

        def split(kind: pa.DataType, valid: pa.Buffer) -> pa.Array:
            return pa.Array.from_buffers(kind, edges.size, [valid, pa.py_buffer(flat), data])

        none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, len(self.slots)))
        if not len(end):
            return none
        flat = np.empty(len(end) * self.width + 1, dtype=np.int32)
        flat[-1] = end[-1]
        edges = flat[:-1].reshape(len(end), self.width)
        edges[:, 0] = colons[:, 0] + 1
        np.add(colons[:, 1:], self.to_value, out=edges[:, 2:-1:2], casting="unsafe")
        np.subtract(colons[:, 1:], self.to_literal, out=edges[:, 1:-2:2], casting="unsafe")
        edges[:, -2] = end - self.tail
        edges[:, -1] = end
        sizes = edges[:, 1::2] - edges[:, :-1:2]
        lines = np.all(sizes > 0, axis=1) & (sizes[:, 0] <= MAX_DIGITS)
        if not lines.all():
            return only(lines)
        if len(end) > self.ready:
            self._prepare(len(end))
        data = pa.py_buffer(chunk)
        same = pc.equal(split(pa.binary(), self.is_name), self.names.slice(0, edges.size))
        if not pc.all(same).as_py():
            bits = np.unpackbits(np.frombuffer(same.fill_null(True).buffers()[1], np.uint8), bitorder="little")
            return only(np.all(bits[: edges.size].reshape(edges.shape), axis=1))
        digits = [chunk[i:j] for i, j in edges[:, :2].tolist()]
        if not b"".join(digits).isdigit():
            return only(np.array([text.isdigit() for text in digits]))
        try:
            numbers = split(pa.string(), self.is_value).cast(pa.float64())
        except pa.ArrowInvalid:
            return none
        values = np.frombuffer(numbers.buffers()[1], np.float64)[: edges.size].reshape(edges.shape)[:, :-1:2]
        # Arrow takes nan(1) for NaN, Python does not
        lines = np.all(np.isfinite(values[:, 1:]) | (sizes[:, 1:] <= len("-inf")), axis=1)
        if not lines.all():
            return only(lines)
        return np.arange(len(end)), np.array(list(map(int, digits)), dtype=np.int64), values[:, self.slots]


def _words(chunk: bytes) -> NDArray[np.uint32]:
    """The four bytes from each place on, shape ``(n_bytes - 3,)``."""
    return np.ndarray((max(0, len(chunk) - 3),), "<u4", chunk, strides=(1,))


def _places(chunk: bytes, what: bytes, at: int, end: int) -> Iterator[int]:
    while (at := chunk.find(what, at, end)) >= 0:
        yield at
        at += len(what)


def _configurations(chunk: bytes, colons: Positions, before: NDArray[np.uint8]) -> Iterator[int]:
    """Where a configuration may begin, ``{'actor_rollout_ref': ...`` or ``actor_rollout_ref:``."""
    quoted = before == ord("'")
    for ends in (colons[before == CONFIG[-1]], colons[quoted] - 1):
        near = np.frombuffer(chunk, np.uint8)[ends - 1] == CONFIG[-1]
        yield from (at - len(CONFIG) for at in ends[near].tolist() if chunk.endswith(CONFIG, 0, at))
