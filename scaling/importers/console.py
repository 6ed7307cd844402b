"""Reads console logs of any size in constant memory: chunks are searched, only lines that matter are looked at.

What a real console adds is taken off: ANSI colours, Ray's ``(TaskRunner pid=7, ip=10.0.0.1)`` prefixes, carriage returns
of progress bars, ``[repeated 2x across cluster]``, lines of other workers in between, and a torn last line.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from scaling.errors import ForeignLogError
from scaling.importers.values import ANSI, head

__all__ = ["chunks", "log_name", "looks_binary", "plain", "tag"]

CHUNK = 1 << 20
MAX_LINE = 64 << 20
KEPT = 24 << 20
_UNREADABLE = (OSError, EOFError, zlib.error)  # the latter two and OSError's BadGzipFile: damaged compression
_TAG = re.compile(rb"^\s*(?:\x1b\[[0-9;]*m)*\((\w+) (?:pid=(\d+))?[^)]*\)(?:\x1b\[[0-9;]*m)* ?")
_REPEATED = re.compile(rb"\s*\[repeated \d+x across cluster\].*$")


def log_name(path: Path) -> str:
    """A run's name from its log's: without extensions, with the folder's where the file has a general one."""
    stem = path.name
    for ending in (".gz", ".log", ".jsonl", ".json", ".out", ".txt", ".csv", ".parquet"):
        stem = stem.removesuffix(ending)
    general = ("output", "metrics", "log", "stdout", "train", "trainer_state", "")
    return f"{path.resolve().parent.name}-{stem}".strip("-") if stem in general else stem


def open_log(path: Path) -> IO[bytes]:
    """Open a log, gzip-compressed or not."""
    if head(path, 2) == b"\x1f\x8b":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def chunks(path: Path, progress: Callable[[int], Any] | None = None) -> Iterator[tuple[bytes, bool]]:
    """Pieces of a file that end at a line's end, and whether the last line is torn (no newline at the end of the file).

    Raises:
        ForeignLogError: a single line is larger than 64 MiB: no text log.
    """
    # glibc gives freed memory back to the kernel until something this large was freed: every chunk would fault its pages in
    # anew, a fifth of the time that a large log takes
    bytearray(KEPT)
    try:
        with open_log(path) as f:
            while piece := f.read(CHUNK):
                if piece[-1:] != b"\n":
                    piece += f.readline(MAX_LINE)
                torn = piece[-1:] != b"\n"
                if torn and len(piece) >= MAX_LINE:
                    raise ForeignLogError(f"{path} must be a text log, it has a line of more than 64 MiB")
                if progress:
                    progress(len(piece))
                yield piece, torn
    except _UNREADABLE as error:
        raise ForeignLogError(f"{path} cannot be read to its end: {error}") from error


def looks_binary(path: Path) -> bool:
    """Whether the beginning of a file is no text."""
    with open_log(path) as f:
        try:
            start = f.read(8192)
        except _UNREADABLE:
            return True
    return b"\x00" in start


def tag(line: bytes) -> tuple[bytes, bytes]:
    r"""Which process wrote a line (name and pid, empty without a prefix), and the line without colours and prefix.

    Example:
        >>> tag(b"\x1b[36m(TaskRunner pid=7, ip=10.0.0.1)\x1b[0m step:1 - a/b:2")
        (b'TaskRunner 7', b'step:1 - a/b:2')
    """
    match = _TAG.match(line)
    if match is None:
        return b"", plain(line)
    who = match[1] + (b" " + match[2] if match[2] else b"")
    return who, plain(line[match.end() :])


def plain(line: bytes) -> bytes:
    """A line without colours, without Ray's remark on repetitions and without its end."""
    if b"\x1b" in line:
        line = ANSI.sub(b"", line)
    if b"[repeated" in line:
        line = _REPEATED.sub(b"", line)
    return line.rstrip(b"\r\n")
