"""Reads ``.wandb`` transaction logs: LevelDB log framing around ``wandb.proto`` records, without wandb's own process.

A file is the header ``:W&B`` (magic 0xBEE1, version 0), then blocks of 32 KiB with chunks of a 7-byte header each (CRC-32,
length, type: whole, first, middle, last). Summaries, about half of a file, are recognised by their first byte and never
parsed. Rows are those of ``wandb leet inspect --json``: nested keys joined by dots, NaN as a number rather than a text.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError
from scaling.records import Skipped

__all__ = ["Log", "read_log"]

BLOCK = 32768
_HEADER = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_CRC_OF_TYPE = [zlib.crc32(bytes([i])) for i in range(5)]
# field numbers of wandb_internal.proto's Record: the oneof's members that are parsed
_HISTORY, _CONFIG, _RUN, _EXIT, _ENVIRONMENT = 2, 5, 17, 18, 26
_WANTED = {_HISTORY, _CONFIG, _RUN, _EXIT, _ENVIRONMENT}


@dataclass
class Log:
    """What one fragment of a W&B run holds.

    Attributes:
        rows: history rows in the order logged; values are what JSON gives, and NaN or infinities as floats.
        run_id: W&B's id, shared by all fragments of a run.
        config: the run's configuration.
        started: start of the fragment [s since 1970].
        gpus: GPUs of the host, as W&B saw them, 0 if none.
        gpu_type: their name.
        exit_code: None if the log has no exit record (the run was killed, or still runs).
        skipped: torn and damaged parts.
    """

    path: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    run_id: str = ""
    project: str = ""
    name: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    started: float = 0.0
    gpus: int = 0
    gpu_type: str = ""
    exit_code: int | None = None
    skipped: list[Skipped] = field(default_factory=list)


def read_log(path: str | Path) -> Log:
    """Read one ``.wandb`` file, to its end or to where it is torn.

    Raises:
        ForeignLogError: the file is no ``.wandb`` log, is one of another version, or wandb is not installed.
    """
    path = Path(path)
    try:
        from wandb.proto import wandb_internal_pb2
    except ImportError as error:
        raise ForeignLogError(
            "reading .wandb logs needs wandb's record types: pip install 'rl-scaling[wandb]'"
        ) from error
    pb: Any = wandb_internal_pb2
    log = Log(path=str(path))
    parse_history = pb.HistoryRecord.FromString
    for data in _records(path, log.skipped):
        kind, start, end = _kind(data)
        if kind not in _WANTED:
            continue
        try:
            if kind == _HISTORY:
                log.rows.append(_row(parse_history(data[start:end])))
            elif kind == _RUN:
                _run(log, pb.RunRecord.FromString(data[start:end]))
            elif kind == _CONFIG:
                _update(log.config, pb.ConfigRecord.FromString(data[start:end]).update)
            elif kind == _EXIT:
                log.exit_code = pb.RunExitRecord.FromString(data[start:end]).exit_code
            else:
                _environment(log, pb.EnvironmentRecord.FromString(data[start:end]))
        except Exception as error:  # protobuf's DecodeError has no common base in its backends
            if "Decode" not in type(error).__name__ and not isinstance(error, ValueError):
                raise
            log.skipped.append(Skipped(path.name, 0, f"record that cannot be parsed: {type(error).__name__}"))
    return log


def _row(record: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for item in record.item:
        text = item.value_json
        nested = item.nested_key
        key = (nested[0] if len(nested) == 1 else ".".join(nested)) if nested else item.key
        if text:
            try:
                out[key] = (
                    float(text)
                    if "." in text and text[0] != '"'
                    else _SIMPLE[text]
                    if text in _SIMPLE
                    else json.loads(text)
                )
            except ValueError:
                out[key] = json.loads(text)
        else:
            which = item.WhichOneof("value")
            value = None if which is None or which == "none" else getattr(item, which)
            out[key] = json.loads(str(value)) if which == "json" else value
    if "_step" not in out and record.HasField("step"):
        out["_step"] = record.step.num
    return out


_SIMPLE: dict[str, Any] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf, "0": 0, "1": 1}


def _run(log: Log, run: Any) -> None:
    log.run_id, log.project, log.group = run.run_id, run.project, run.run_group
    log.name = run.display_name or run.run_id
    log.started = run.start_time.seconds + run.start_time.nanos / 1e9
    _update(log.config, run.config.update)


def _update(config: dict[str, Any], items: Any) -> None:
    for item in items:
        path = list(item.nested_key) or [item.key]
        if path[0] == "_wandb":
            continue
        here = config
        for part in path[:-1]:
            nested = here.setdefault(part, {})
            here = nested if isinstance(nested, dict) else here
        try:
            here[path[-1]] = json.loads(item.value_json)
        except ValueError:
            continue


def _environment(log: Log, environment: Any) -> None:
    if environment.gpu_count:
        log.gpus = environment.gpu_count
        log.gpu_type = environment.gpu_type or next((g.name for g in environment.gpu_nvidia), "")


def _kind(data: bytes) -> tuple[int, int, int]:
    """Which member of the oneof a record holds, and where it lies: the first field beside the number (1)."""
    at, size = 0, len(data)
    try:
        while at < size:
            key = shift = 0
            while True:
                byte = data[at]
                at += 1
                key |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
            field_number, wire = key >> 3, key & 7
            if wire == 0:
                while data[at] >= 0x80:
                    at += 1
                at += 1
            elif wire == 2:
                length = shift = 0
                while True:
                    byte = data[at]
                    at += 1
                    length |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                    shift += 7
                if field_number not in (16, 19, 200):  # control, uuid, _info
                    return field_number, at, at + length
                at += length
            else:
                at += 8 if wire == 1 else 4
    except IndexError:
        pass
    return 0, 0, 0


def _records(path: Path, skipped: list[Skipped]) -> Iterator[bytes]:
    """The records of a log; a torn tail ends them, a damaged block is left out up to the next record that is whole."""
    with path.open("rb") as f:
        head = f.read(7)
        if len(head) < 7 or head[:4] != b":W&B":
            raise ForeignLogError(f"{path} must be a .wandb log, it does not begin with :W&B")
        magic, version = struct.unpack("<HB", head[4:])
        if magic != 0xBEE1 or version != 0:
            raise ForeignLogError(
                f"{path} must be a .wandb log of version 0, got version {version} (magic {magic:#x}): another version of wandb "
                "wrote it; use `wandb sync` and import it from the server"
            )
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            yield from _chunks(buffer, path.name, skipped)


def _chunks(buffer: mmap.mmap, name: str, skipped: list[Skipped]) -> Iterator[bytes]:
    position, size, index = 7, len(buffer), 0
    parts: list[bytes] = []
    open_record = False
    unpack = _HEADER.unpack_from
    while position + 7 <= size:
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        crc, length, kind = unpack(buffer, position)
        if kind == 0 and length == 0 and crc == 0:  # the rest of the block was never written
            position += left
            continue
        start, end = position + 7, position + 7 + length
        if end > size:
            skipped.append(Skipped(name, index + 1, "torn last record"))
            return
        if not 1 <= kind <= 4 or length > left - 7:
            skipped.append(Skipped(name, index + 1, "damaged block"))
            position += left
            open_record = False
            continue
        data = buffer[start:end]
        position = end
        if zlib.crc32(data, _CRC_OF_TYPE[kind]) != crc:
            skipped.append(Skipped(name, index + 1, "record with a wrong checksum"))
            open_record = False
            continue
        if kind == _WHOLE:
            index += 1
            open_record = False
            yield data
        elif kind == _FIRST:
            parts, open_record = [data], True
        elif open_record:
            parts.append(data)
            if kind == _LAST:
                index += 1
                open_record = False
                yield b"".join(parts)
    if open_record or position < size:
        skipped.append(Skipped(name, index + 1, "torn last record"))
