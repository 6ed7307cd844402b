"""A cache of large `load_runs` results, so that a notebook or a report does not parse a sweep of gigabytes each time.

One file a set of run directories in ``$RL_SCALING_CACHE``, else ``$XDG_CACHE_HOME/rl-scaling`` or ``~/.cache/rl-scaling``
(``RL_SCALING_CACHE=off`` turns it off). Its name is the hash of every record's path, size, inode and time of change: whatever
is touched is read anew. A cache that cannot be read or written is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaling import records

if TYPE_CHECKING:
    from scaling.runs import RunTable

__all__ = ["load"]

VERSION = 1
LEAST_BYTES = 8 << 20  # smaller sets are read in no time
KEPT = 12  # files


def load(found: Sequence[Path], build: Callable[[], RunTable]) -> RunTable:
    """The table of run directories: from the cache, or built and, where it is large, kept."""
    folder = _folder()
    key = _key(found) if folder is not None else None
    if folder is None or key is None:
        return build()
    path = folder / f"{key}.pickle"
    try:
        with path.open("rb") as f:
            table = pickle.load(f)
        os.utime(path)
        return table
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, ValueError, TypeError, LookupError):
        table = build()
    _store(path, table)
    return table


def _folder() -> Path | None:
    chosen = os.environ.get("RL_SCALING_CACHE")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "rl-scaling"


def _key(found: Sequence[Path]) -> str | None:
    """Hash of what the table is made of; None where it is too small to keep."""
    import pandas as pd

    digest, total = hashlib.sha256(f"{VERSION} {pd.__version__}".encode()), 0
    for path in found:
        digest.update(os.fsencode(path.absolute()) + b"\0" + os.fsencode(path) + b"\0")  # a table holds paths as given
        for name in (records.RUN, records.STEPS, records.EVALS):
            try:
                facts = (path / name).stat()
            except FileNotFoundError:
                continue
            digest.update(f"{name} {facts.st_size} {facts.st_ino} {facts.st_mtime_ns}".encode())
            total += facts.st_size
    return digest.hexdigest()[:32] if total >= LEAST_BYTES else None


def _store(path: Path, table: RunTable) -> None:
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tmp.open("wb") as f:
            pickle.dump(table, f, protocol=5)
        os.replace(tmp, path)
        for old in sorted(path.parent.glob("*.pickle"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        tmp.unlink(missing_ok=True)
