"""W&B runs from their local ``.wandb`` logs: fragments of a resumed run put together, read once, then from a parquet cache."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping, recognise
from scaling.importers.series import add_rows
from scaling.importers.values import digest, head, number
from scaling.importers.walog import Log, read_log
from scaling.records import Skipped

__all__ = ["cache_folder", "read_logs", "to_raw"]


def read_logs(
    paths: Iterable[Path],
    mapping: TrainerMapping | None,
    progress: Callable[[int], Any] | None = None,
    *,
    cache: str | Path | bool | None = None,
) -> list[RawRun]:
    """Read ``.wandb`` logs; logs with one run id are fragments of one run, in the order of their start.

    Args:
        paths: the files.
        mapping: names and semantics, or None to recognise the trainer.
        progress: called with the bytes read.
        cache: folder of the parquet cache; None: the user's cache folder; False: none.
    """
    fragments: dict[tuple[str, str], dict[float, Log]] = {}
    for path in paths:
        log = _cached(path, cache_folder(cache))
        if progress:
            progress(path.stat().st_size)
        mates = fragments.setdefault((log.project, log.run_id or str(path)), {})
        held = mates.get(log.started)
        if held is None or len(log.rows) > len(held.rows):  # a copy of the same fragment: the longer one
            mates[log.started] = log
    runs = [_run([mates[t] for t in sorted(mates)], mapping) for mates in fragments.values()]
    if not any(run.rows.count for run in runs):
        skipped = [s for run in runs for s in run.skipped]
        raise ForeignLogError(
            f"{', '.join(f for run in runs for f in run.files[:1])}: no metrics were logged" + (f" ({skipped[0]})" if skipped else "")
        )
    return [run for run in runs if run.rows.count]


def _run(logs: list[Log], mapping: TrainerMapping | None) -> RawRun:
    last = logs[-1]
    config: dict[str, Any] = {}
    for log in logs:
        config |= log.config
    run = to_raw(
        [log.rows for log in logs], name=last.name or last.run_id, source="W&B offline log", files=[log.path for log in logs],
        config=config, gpus=max(log.gpus for log in logs), gpu_type=last.gpu_type, mapping=mapping,
    )  # fmt: skip
    run.skipped += [s for log in logs for s in log.skipped]
    ends = {None: "running", 0: "finished"}
    run.status = ends.get(last.exit_code, "failed")
    return run


def to_raw(
    fragments: Iterable[list[dict[str, Any]]], *, name: str, source: str, files: Iterable[str], config: dict[str, Any],
    gpus: float, gpu_type: str, mapping: TrainerMapping | None,
) -> RawRun:  # fmt: skip
    """A run from W&B history rows, fragment by fragment."""
    fragments = [[_numbers(row) for row in rows] for rows in fragments]
    keys = dict.fromkeys(key for rows in fragments for row in rows for key in row)
    run = RawRun(
        name=name, source=source, files=tuple(files), config=config, gpus=gpus or None,
        gpus_from="the host's GPUs as W&B saw them (other hosts not counted)", accelerator=gpu_type,
        mapping=mapping or recognise([k for k in keys if not k.startswith("_")] or ["(none)"], name),
    )  # fmt: skip
    if "model_type" in config and ("hidden_size" in config or "n_embd" in config):
        run.model_config = config  # the trainer merged the model's configuration into the run's
    has_step = any(step in keys for step in run.mapping.step)
    lost = 0
    for rows in fragments:
        run.rows.restart()
        fallback = "_step" if not has_step or run.mapping.trainer == "verl" else None
        lost += add_rows(run, rows, fallback=fallback)
    if lost:
        run.skipped.append(Skipped(name, 0, f"{lost} row(s) without {' or '.join(run.mapping.step)}"))
    return run


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, raw in row.items() if not isinstance(raw, (list, dict)) and (v := number(raw)) is not None}


def cache_folder(choice: str | Path | bool | None) -> Path | None:
    """Where parsed logs and pulls are kept: the folder given, or the user's cache folder; None for no cache."""
    if choice is False:
        return None
    if choice is None or choice is True:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "rl-scaling" / "wandb"
    return Path(choice)


def _cached(path: Path, folder: Path | None) -> Log:
    head(path, 7)
    if folder is None:
        return read_log(path)
    stat = path.stat()
    file = folder / f"log-{digest(str(path.resolve()))}.parquet"
    stamp = f"{stat.st_size} {stat.st_mtime_ns}"
    held = load_rows(file, stamp)
    if held is not None:
        rows, about = held
        return Log(path=str(path), rows=rows, skipped=[Skipped(*s) for s in about.pop("skipped")], **about)
    log = read_log(path)
    about = {k: v for k, v in vars(log).items() if k not in ("rows", "path", "skipped")}
    about["skipped"] = [[s.file, s.line, s.reason] for s in log.skipped]
    save_rows(file, stamp, log.rows, about)
    return log


def save_rows(file: Path, stamp: str, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Keep the numbers of history rows as parquet, columns of floats, null where a row lacks the key. Failing is no harm."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numeric = [_numbers(row) for row in rows]
    keys = list(dict.fromkeys(key for row in numeric for key in row))
    columns = [pa.array([row.get(key) for row in numeric], type=pa.float64()) for key in keys]
    columns.append(pa.nulls(len(rows), pa.bool_()))
    meta = {b"stamp": stamp.encode(), b"about": json.dumps(about).encode()}
    table = pa.table(dict(zip([*keys, "(rows)"], columns))).replace_schema_metadata(meta)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(table, fresh)
        os.replace(fresh, file)
    except OSError:
        return  # a cache that cannot be written is a slower next time, nothing else


def load_rows(file: Path, stamp: str | None) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
    """The rows kept for this state of the source, or None; a damaged cache file counts as none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        return None
    try:
        meta = pq.read_schema(file).metadata or {}
        if stamp is not None and meta.get(b"stamp") != stamp.encode():
            return None
        table = pq.read_table(file).drop_columns(["(rows)"])
        about = json.loads(meta[b"about"])
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None
    rows: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
    for name in table.column_names:
        for row, value in zip(rows, table.column(name).to_pylist()):
            if value is not None:
                row[name] = value
    return rows, about


def last_step(rows: list[dict[str, Any]]) -> float:
    """The largest ``_step`` of rows, -1 for none."""
    return max((row["_step"] for row in rows if math.isfinite(row.get("_step", math.nan))), default=-1)
