"""Rows of problems: any Hugging Face dataset or a local JSONL, JSON or parquet file, in the formats of the common trainers.

| format | prompt | answer |
|---|---|---|
| columns | ``prompt_column`` (OpenRLHF: input_key, NeMo-RL: ``input``, TRL: ``prompt``) | ``answer_column`` (label_key, ``output``, ``solution``) |
| verl | ``prompt`` (messages) | ``reward_model.ground_truth`` |
| skyrl | ``prompt`` (messages) | ``reward_spec.ground_truth`` |
| open_instruct | ``messages`` up to the first answer | ``ground_truth`` (text or a list of one) |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from scaling.errors import ConfigError
from sweeps.schema import Strict

__all__ = ["Problem", "RowFormat", "RowsConfig", "last_boxed", "load_problems", "read_rows"]

RowFormat = Literal["columns", "verl", "skyrl", "open_instruct"]
Problem = tuple[Any, str]  # prompt (text or chat messages), gold answer

_NEEDED: dict[str, tuple[str, ...]] = {
    "verl": ("prompt", "reward_model"),
    "skyrl": ("prompt", "reward_spec"),
    "open_instruct": ("messages", "ground_truth"),
}


class RowsConfig(Strict):
    """Where problems come from and how a row says them."""

    path: str = Field(description="name of a Hugging Face dataset, or a local .jsonl, .json or .parquet file")
    subset: str | None = Field(None, description="the dataset's configuration, where it has several")
    split: str = "train"
    revision: str | None = None
    format: RowFormat = "columns"
    prompt_column: str = "problem"
    answer_column: str = "answer"
    answer_from: Literal["as_is", "after_hashes", "last_boxed"] = Field(
        "as_is",
        description="where in the answer column the answer stands: all of it, after ####, or in the last \\boxed{}",
    )
    limit: int = Field(0, ge=0, description="first so many rows only; 0 means all [1]")


def load_problems(config: RowsConfig) -> tuple[list[Problem], int]:
    """Problems of a source, and how many rows had no answer and were left out.

    Raises:
        ConfigError: a missing file, dataset or column, or no row with an answer.
    """
    columns = _NEEDED.get(config.format, (config.prompt_column, config.answer_column))
    rows = read_rows(config.path, columns=columns, subset=config.subset, split=config.split, revision=config.revision)
    if config.limit:
        rows = rows[: config.limit]
    problems, without = [], 0
    for row in rows:
        prompt, raw = _pair(row, config)
        answer = _answer(raw, config.answer_from)
        if prompt in (None, "", []) or answer is None:
            without += 1
        else:
            problems.append((prompt, answer))
    if not problems:
        raise ConfigError(
            f"{config.path} must have rows with a prompt and an answer (answer_from={config.answer_from}), {len(rows)} rows have none"
        )
    return problems, without


def read_rows(
    path: str, *, columns: Sequence[str], subset: str | None = None, split: str = "train", revision: str | None = None
) -> list[dict[str, Any]]:
    """All rows of a local file or a Hugging Face dataset as plain Python values.

    Raises:
        ConfigError: not found, not readable, or a column is missing (the message lists those there are).
    """
    if path == "???":
        raise ConfigError("task.train.path must be set to a dataset's name or a local .jsonl, .json or .parquet file")
    local = Path(path).expanduser()
    suffix = local.suffix.lower()
    if suffix in (".jsonl", ".json", ".parquet"):
        if not local.is_file():
            raise ConfigError(f"task data must be an existing file or a dataset name, got {path}: no such file")
        rows = _parquet(local) if suffix == ".parquet" else _json(local)
    else:
        rows = _hub(path, subset, split, revision)
    have = sorted({key for row in rows[:100] for key in row})
    missing = [column for column in columns if column not in have]
    if missing:
        raise ConfigError(
            f"{path} must have the column {missing[0]!r}, it has {', '.join(have) or 'none'}; set prompt_column and answer_column, or format"
        )
    return rows


def last_boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}``, braces matched; None where there is none.

    Example:
        >>> last_boxed(r"so $x = \\boxed{\\frac{1}{2}}$.") == r"\\frac{1}{2}"
        True
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for i in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip()
    return None


def _pair(row: dict[str, Any], config: RowsConfig) -> tuple[Any, Any]:
    if config.format == "columns":
        return row.get(config.prompt_column), row.get(config.answer_column)
    if config.format == "verl":
        return row["prompt"], (row["reward_model"] or {}).get("ground_truth")
    if config.format == "skyrl":
        return row["prompt"], (row["reward_spec"] or {}).get("ground_truth")
    messages = row["messages"] or []
    question = []
    for message in messages:
        if message["role"] == "assistant":
            break
        question.append(message)
    truth = row["ground_truth"]
    return question, truth[0] if isinstance(truth, list) and truth else truth


def _answer(raw: Any, where: str) -> str | None:
    if raw is None:
        return None
    text = str(raw).strip()
    if where == "after_hashes":
        match = re.search(r"####\s*(.+)\s*$", text)
        text = match.group(1).replace(",", "").strip() if match else ""
    elif where == "last_boxed":
        text = last_boxed(text) or ""
    return text or None


def _json(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        return _checked(json.loads(text), path)
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{number} must be a JSON object: {error.msg}; fix or remove the line") from error
    return _checked(rows, path)


def _checked(rows: Iterable[Any], path: Path) -> list[dict[str, Any]]:
    out = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ConfigError(f"{path}: row {number} must be a JSON object, got {type(row).__name__}")
        out.append(row)
    return out


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ConfigError(f"{path} must be a parquet file: {' '.join(str(error).split())[:160]}") from error


def _hub(path: str, subset: str | None, split: str, revision: str | None) -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        return list(load_dataset(path, subset, split=split, revision=revision))
    except Exception as error:  # the datasets library raises many kinds; each of them means: not available
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"cannot load dataset {path} (subset {subset}, split {split}): {reason}; a local .jsonl or .parquet works offline"
        ) from error
