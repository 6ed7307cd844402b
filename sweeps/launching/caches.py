"""What compute nodes without internet need is looked for before submission: the hub's model and data set caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError
from sweeps.config import RunConfig

__all__ = ["check_caches"]

FILES = (".jsonl", ".json", ".parquet")
LOAD = """
import json, sys
from datasets import load_dataset
for rows in json.loads(sys.argv[1]):
    try:
        load_dataset(rows["path"], rows["subset"], split=rows["split"], revision=rows["revision"])
    except Exception as error:
        print("MISSING " + json.dumps(rows), flush=True)
"""


def check_caches(config: RunConfig) -> None:
    """Refuse a run whose model or data set a compute node without internet could not fetch.

    Raises:
        ConfigError: one line each, with the command that fetches it.
    """
    errors = [*_model(config), *_datasets(config)]
    if errors:
        raise ConfigError("\n".join(errors))


def _model(config: RunConfig) -> Iterator[str]:
    name = getattr(config.model, "name_or_path", None)
    if name is None or Path(name).expanduser().is_dir():
        return
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    revision = getattr(config.model, "revision", None)
    fetch = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        yield f"model.name_or_path: cluster.offline needs {name} in the hub cache, it is not there: run `{fetch}` here first"
        return
    if lacking := _lacking(folder):
        yield f"model.name_or_path: cluster.offline needs all of {name} in the hub cache, {folder} lacks {lacking}: run `{fetch}` here first"


def _lacking(folder: Path) -> str:
    """What a cached snapshot lacks to load the model, in words; a download that was cut off leaves some shards."""
    if not (folder / "config.json").is_file():
        return "config.json"
    for index in sorted(folder.glob("*.index.json")):
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()))
        if gone := [shard for shard in shards if not (folder / shard).is_file()]:
            return f"{len(gone)} of {len(shards)} shards of the weights ({gone[0]})"
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        return "the weights"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return "the tokenizer"
    return ""


def _datasets(config: RunConfig) -> list[str]:
    """Data sets of the task that cannot be loaded offline: tried as a compute node would."""
    wanted = {json.dumps(rows, sort_keys=True): rows for rows in _rows(config.task.model_dump())}
    if not wanted:
        return []
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    argv = [sys.executable, "-c", LOAD, json.dumps(list(wanted.values()))]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return [f"task: the data set cache cannot be read: {done.stderr.strip().splitlines()[-1:]}"]
    missing = [
        json.loads(line.removeprefix("MISSING ")) for line in done.stdout.splitlines() if line.startswith("MISSING ")
    ]
    return [
        f"task: cluster.offline needs the {rows['split']} split of {rows['path']} in the data set cache, it is not there: run "
        f'`python -c "from datasets import load_dataset; load_dataset({rows["path"]!r}, {rows["subset"]!r}, revision={rows["revision"]!r})"` here first'
        for rows in missing
    ]


def _rows(value: Any) -> Iterator[dict[str, Any]]:
    """Settings of hub data sets anywhere in a task's settings; local files need no cache."""
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and "split" in value and Path(path).suffix.lower() not in FILES:
            if not Path(path).expanduser().is_dir():
                yield {key: value.get(key) for key in ("path", "subset", "split", "revision")}
        for child in value.values():
            yield from _rows(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _rows(child)
