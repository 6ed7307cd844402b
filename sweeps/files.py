"""Small JSON files beside the records: replaced atomically, read leniently where they are a convenience."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.errors import RecordError

__all__ = ["read_json", "write_json"]


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Write beside the place, then rename: a reader sees the old file or the new one.

    Raises:
        RecordError: the folder cannot be written.
    """
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp.write_text(json.dumps(body, indent=1, default=str) + "\n", encoding="utf-8")
        os.replace(tmp, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        raise RecordError(
            f"cannot write {path}: {error.strerror}; free space or fix permissions, then rerun"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or nothing: for files that are a convenience, not a record."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}
