"""W&B runs from their local ``.wandb`` logs: fragments of a resumed run put together, read once, then from a parquet cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ForeignLogError
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.mapping_file import recognise
from scaling.importers.series import History, add_history
from scaling.importers.values import digest, head, redact
from scaling.importers.walog import Log, read_log
from scaling.records import Skipped

__all__ = ["cache_folder", "history_of", "load_history", "read_logs", "save_history", "to_raw"]


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
    fragments: dict[tuple[str, str], dict[float, tuple[Log, History]]] = {}
    for path in paths:
        log, history = _cached(path, cache_folder(cache))
        if progress:
            progress(path.stat().st_size)
        mates = fragments.setdefault((log.project, log.run_id or str(path)), {})
        held = mates.get(log.started)
        if held is None or history.count > held[1].count:  # a copy of the same fragment: the longer one
            mates[log.started] = log, history
    members = [[mates[t] for t in sorted(mates)] for mates in fragments.values()]
    full = [m for m in members if any(history.columns for _, history in m)]
    if not full:
        skipped = [s for m in members for log, _ in m for s in log.skipped]
        names = ", ".join(m[0][0].path for m in members[:3])
        raise ForeignLogError(f"{names}: no metrics were logged" + (f" ({skipped[0]})" if skipped else ""))
    return [_run(m, mapping) for m in full]


def _run(fragments: list[tuple[Log, History]], mapping: TrainerMapping | None) -> RawRun:
    logs = [log for log, _ in fragments]
    last = logs[-1]
    config: dict[str, Any] = {}
    for log in logs:
        config |= log.config
    run = to_raw(
        [history for _, history in fragments], name=last.name or last.run_id, source="W&B offline log", files=[log.path for log in logs],
        config=config, gpus=max(log.gpus for log in logs), gpu_type=last.gpu_type, mapping=mapping,
    )  # fmt: skip
    run.skipped += [s for log in logs for s in log.skipped]
    ends = {None: "running", 0: "finished"}
    run.status = ends.get(last.exit_code, "failed")
    return run


def to_raw(
    fragments: Iterable[History], *, name: str, source: str, files: Iterable[str], config: dict[str, Any],
    gpus: float, gpu_type: str, mapping: TrainerMapping | None,
) -> RawRun:  # fmt: skip
    """A run from W&B histories, fragment by fragment."""
    fragments = list(fragments)
    keys = dict.fromkeys(key for part in fragments for key in part.columns)
    run = RawRun(
        name=name, source=source, files=tuple(files), config=config, gpus=gpus or None,
        gpus_from="the host's GPUs as W&B saw them (other hosts not counted)", accelerator=gpu_type,
        mapping=mapping or recognise([k for k in keys if not k.startswith("_")], name),
    )  # fmt: skip
    if "model_type" in config and ("hidden_size" in config or "n_embd" in config):
        run.model_config = config  # the trainer merged the model's configuration into the run's
    has_step = bool(run.mapping.steps(keys))
    lost = 0
    for part in fragments:
        run.rows.restart()
        # verl logs validation without a step of its own, under W&B's, which it sets to the same number
        fallback = "_step" if not has_step or run.mapping.trainer == "verl" else None
        lost += add_history(run, part, fallback=fallback)
    if lost:
        run.skipped.append(Skipped(name, 0, f"{lost} row(s) without {' or '.join(run.mapping.step)}"))
    return run


def cache_folder(choice: str | Path | bool | None) -> Path | None:
    """Where parsed logs and pulls are kept: the folder given, or the user's cache folder; None for no cache."""
    if choice is False:
        return None
    if choice is None or choice is True:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "rl-scaling" / "wandb"
    return Path(choice)


def _cached(path: Path, folder: Path | None) -> tuple[Log, History]:
    head(path, 7)
    file = stamp = None
    if folder is not None:
        stat = path.stat()
        file, stamp = folder / f"log-{digest(str(path.resolve()))}.parquet", f"{stat.st_size} {stat.st_mtime_ns}"
        if (kept := load_history(file, stamp)) is not None:
            history, about = kept
            return Log(path=str(path), skipped=[Skipped(*s) for s in about.pop("skipped")], **about), history
    log = read_log(path)
    history = History.from_rows(log.rows)
    log.rows = []
    if file is not None and stamp is not None:
        about = {k: v for k, v in vars(log).items() if k not in ("rows", "path", "skipped")}
        about["skipped"] = [[s.file, s.line, s.reason] for s in log.skipped]
        save_history(file, stamp, history, about)
    return log, history


def save_history(file: Path, stamp: str, history: History, about: dict[str, Any]) -> None:
    """Keep a history as parquet, columns of floats. Failing is no harm: it is read again next time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = {b"stamp": stamp.encode(), b"about": json.dumps(redact(about)).encode()}
    table = pa.table({**history.columns, "(rows)": np.zeros(history.count, dtype=bool)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(table.replace_schema_metadata(meta), fresh, compression="lz4")
        os.replace(fresh, file)
    except OSError:
        return


def load_history(file: Path, stamp: str | None) -> tuple[History, dict[str, Any]] | None:
    """The history kept for this state of the source, or None; a damaged cache file counts as none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        return None
    try:
        table = pq.ParquetFile(file).read()
        meta = table.schema.metadata or {}
        if stamp is not None and meta.get(b"stamp") != stamp.encode():
            return None
        about = json.loads(meta[b"about"])
        return history_of(table.drop_columns(["(rows)"])), about
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None


def history_of(table: Any) -> History:
    """The numeric columns of an Arrow table, nulls as NaN."""
    import pyarrow as pa

    columns = {}
    for name, column in zip(table.column_names, table.columns):
        kind = column.type
        if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            if not pa.types.is_floating(kind):
                column = column.cast(pa.float64(), safe=False)
            columns[name] = column.to_numpy().astype(float, copy=False)
    return History(columns, table.num_rows)
