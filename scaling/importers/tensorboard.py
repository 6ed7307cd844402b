"""TensorBoard event files, read whole: no reservoir of 10 000 points, no tensorboard package.

The format (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto): records of length, masked CRC of the
length, data, CRC; each an ``Event`` of wall time (field 1, double), step (2, varint) and summary (5), whose values carry a
tag (1) and a ``simple_value`` (2, float) or a scalar tensor (8).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.mapping_file import recognise
from scaling.importers.series import add_series
from scaling.importers.values import head
from scaling.records import Skipped

__all__ = ["read"]

_HEADER = struct.Struct("<QI")
_MAX_RECORD = 1 << 30
# dtype of tensorflow/core/framework/types.proto -> (struct code, field of TensorProto with unpacked values)
_TENSORS = {1: ("f", 5), 2: ("d", 6), 3: ("i", 7), 9: ("q", 10)}


def read(
    path: str | Path, mapping: TrainerMapping | None, progress: Callable[[int], Any] | None = None
) -> list[RawRun]:
    """Read an event file or a folder: a run for each folder that holds event files, its files in order.

    Raises:
        ForeignLogError: there is no event file, or no scalar in it.
    """
    path = Path(path)
    if not path.exists():
        raise ForeignLogError(f"{path} must exist")
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*tfevents*") if f.is_file())
    if not files:
        raise ForeignLogError(f"{path} holds no event files (*tfevents*)")
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    out = []
    for folder, members in folders.items():
        skipped: list[Skipped] = []
        processes: list[dict[str, list[tuple[int, float, float]]]] = []
        for file in sorted(members, key=lambda f: _started(f.name)):
            head(file)
            series: dict[str, list[tuple[int, float, float]]] = {}
            for tag, step, value, seconds in scalars(file, skipped):
                series.setdefault(tag, []).append((step, value, seconds))
            if series:
                processes.append(series)
            if progress:
                progress(file.stat().st_size)
        if not processes:
            raise ForeignLogError(
                f"{folder}: its event files hold no scalars" + (f" ({skipped[0]})" if skipped else "")
            )
        tags = dict.fromkeys(tag for series in processes for tag in series)
        run = RawRun(
            name=folder.resolve().name, source="TensorBoard", files=tuple(map(str, members)),
            mapping=mapping or recognise(tags, str(folder)), skipped=skipped,
        )  # fmt: skip
        for series in processes:  # a process writes a file of its own
            run.rows.restart()
            add_series(run, series)
        out.append(run)
    return out


def _started(name: str) -> tuple[float, str]:
    part = name.split("tfevents.")[-1].split(".")[0]
    return (float(part) if part.isdigit() else 0.0, name)


def scalars(file: Path, skipped: list[Skipped]) -> Iterator[tuple[str, int, float, float]]:
    """``(tag, step, value, wall time)`` of every scalar of an event file, in order; a torn tail is reported."""
    with file.open("rb") as f:
        if _masked_crc(f.read(8)) != int.from_bytes(f.read(4), "little"):
            raise ForeignLogError(f"{file} must be a TensorBoard event file, its first record is damaged")
        f.seek(0)
        index = 0
        while header := f.read(12):
            index += 1
            if len(header) < 12:
                skipped.append(Skipped(file.name, index, "torn last record"))
                return
            size, crc = _HEADER.unpack(header)
            if crc != _masked_crc(header[:8]) or size > _MAX_RECORD:
                skipped.append(Skipped(file.name, index, "damaged record; what follows it cannot be read"))
                return
            data = f.read(size + 4)
            if len(data) < size + 4:
                skipped.append(Skipped(file.name, index, "torn last record"))
                return
            try:
                yield from _event(memoryview(data)[:size])
            except (IndexError, struct.error, UnicodeDecodeError):
                skipped.append(Skipped(file.name, index, "record that is no event"))


def _event(data: memoryview) -> Iterator[tuple[str, int, float, float]]:
    seconds, step, summaries = 0.0, 0, []
    for number, kind, value in _fields(data):
        if number == 1 and kind == 1:
            seconds = struct.unpack("<d", value)[0]
        elif number == 2 and kind == 0:
            step = value if value < 1 << 63 else value - (1 << 64)
        elif number == 5 and kind == 2:
            summaries.append(value)
    for summary in summaries:
        for number, kind, item in _fields(summary):
            if number == 1 and kind == 2:
                tag, scalar = _value(item)
                if scalar is not None and step >= 0:
                    yield tag, step, scalar, seconds


def _value(data: memoryview) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, kind, value in _fields(data):
        if number == 1 and kind == 2:
            tag = bytes(value).decode()
        elif number == 2 and kind == 5:
            scalar = struct.unpack("<f", value)[0]
        elif number == 8 and kind == 2:
            scalar = _tensor(value)
    return tag, scalar


def _tensor(data: memoryview) -> float | None:
    """The value of a tensor of one number, or None."""
    dtype, content, loose = 0, b"", {}
    for number, kind, value in _fields(data):
        if number == 1 and kind == 0:
            dtype = value
        elif number == 4 and kind == 2:
            content = bytes(value)
        elif number in (5, 6, 7, 10):
            loose[number] = value
    code, field = _TENSORS.get(dtype, ("", 0))
    if not code:
        return None
    raw = content or loose.get(field, b"")
    if isinstance(raw, int):
        return float(raw)
    if len(raw) != struct.calcsize(code):
        return None
    return float(struct.unpack("<" + code, raw)[0])


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Fields of a protocol buffer message: number, wire type, raw value."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise IndexError(f"wire type {kind}")
        if at > end:
            raise IndexError("field beyond the message")
        yield number, kind, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("varint")


def _crc_table() -> list[int]:
    table = []
    for i in range(256):
        for _ in range(8):
            i = (i >> 1) ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    return table


_CRC = _crc_table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
