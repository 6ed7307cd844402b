"""The folder of bases: a stage before reinforcement learning appears there by rename, complete or not at all.

BASES/<hash>/           model, tokenizer, and the stage's record: base.json of a pretraining, stage.json of a supervised stage
BASES/<hash>.partial/   while it trains
BASES/<hash>.lock       whoever wants the same stage waits here for the first
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError

__all__ = ["partial_folder", "publish", "read_record"]


def partial_folder(folder: Path) -> Path:
    """Where the stage of ``folder`` lies while it trains."""
    return folder.with_name(f"{folder.name}.partial")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a finished stage, or None where there is none; its ``path`` is where it lies now.

    Raises:
        ConfigError: the file cannot be read, or is not JSON.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; choose another bases_dir, or fix permissions"
        ) from error
    except ValueError as error:  # no JSON, no UTF-8
        raise ConfigError(f"{path} must be JSON: {error}; remove {path.parent} to train it anew") from error
    return {**body, "path": str(path.parent)}


def publish(folder: Path, model: Any, tokenizer: Any, name: str, record: Mapping[str, Any]) -> None:
    """Write model, tokenizer and record beside their place, then rename: a reader sees a complete stage or none.

    Args:
        folder: of the stage.
        model: with ``save_pretrained``, on CPU.
        tokenizer: with ``save_pretrained``.
        name: file of the record.
        record: its fields.

    Raises:
        ConfigError: the folder cannot be written.
    """
    ready = folder.with_name(f"{folder.name}.ready")
    shutil.rmtree(ready, ignore_errors=True)
    try:
        model.save_pretrained(ready)
        tokenizer.save_pretrained(ready)
        (ready / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write the base model to {ready}: {error.strerror}; free space, then rerun"
        ) from error
    if folder.exists():  # a folder without its record: left by hand or by a copy that was cut off
        shutil.rmtree(folder)
    os.replace(ready, folder)
    shutil.rmtree(partial_folder(folder), ignore_errors=True)
