"""The run directory, schema v1: the only module that knows its file names and its lines.

    RUN/run.json          what the run is; replaced atomically
    RUN/steps.jsonl       a line an optimiser step, cost as the increment since the last line; append-only
    RUN/evals.jsonl       a line an evaluation, cost cumulative, per-item success counts; append-only
    RUN/checkpoints/      of the trainer
    RUN/lock              held by the process that writes

Lines are flushed one by one. A torn last line (a kill in the middle of a write) is tolerated and reported; so is any
foreign line. Nothing written is ever rewritten, except ``run.json``, by rename.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from scaling.cost import COST_FIELDS
from scaling.errors import RecordError

__all__ = ["EVALS", "RUN", "STEPS", "Appender", "RunRecord", "Skipped", "is_run", "read_lines", "read_run", "write_run"]

SCHEMA_VERSION = 1
RUN, STEPS, EVALS, LOCK, CHECKPOINTS = "run.json", "steps.jsonl", "evals.jsonl", "lock", "checkpoints"

CONFIDENCE = ("measured", "derived", "assumed")
STAGES = ("pretrain", "midtrain", "sft", "rl")


@dataclass(frozen=True)
class Skipped:
    """A line that was not read, and why: reported, never dropped in silence.

    Example:
        >>> print(Skipped("steps.jsonl", 7, "torn last line"))
        steps.jsonl:7: torn last line
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """`run.json`. Every field is plain JSON; see docs/records.md for each key.

    Attributes:
        run_id: hash of all that affects the weights (seeds in; budget, cluster, tracking, evaluation out).
        recipe_hash: the same less model, seeds and accelerator.
        base_hash: hash of the pretraining, or of the public model's name and revision.
        config: the resolved configuration.
        model: name, revision, dtype, and the shape as `ModelShape` fields.
        accelerator: device name as `scaling.hardware` knows it, or ``cpu``.
        devices: devices allocated, trainer and rollout server together [1].
        shared: whether several runs share the device at once; then hours are not fitted.
        stages: the chain of stages so far (pretrain, midtrain, sft, rl), each with its cost and source.
        init_from: run id of the parent run, or None.
        segments: one entry a process that worked on the run: start, end, host, cause of end, git commit, versions,
            ``resumed_from`` step, start-up seconds.
        confidence: how the cost was obtained: measured, derived or assumed.
        provenance: which trainer or importer wrote the run, its source and semantics.
        benchmarks: settings of each benchmark: items, k, temperature, length, guess rate.
        name: what people call the run.
        sweep: the sweep it belongs to, or "".
        status: ``running``, or how the run ended: ``finished``, ``budget``, ``interrupted`` or ``failed``.
        schema_version: of the record.

    Example:
        >>> record = RunRecord(run_id="3f2a", stages=({"stage": "pretrain", "flops": 6e21}, {"stage": "rl"}))
        >>> (record.pretraining() or {})["flops"]
        6e+21
    """

    run_id: str
    config: Mapping[str, Any] = field(default_factory=dict)
    recipe_hash: str = ""
    base_hash: str = ""
    name: str = ""
    sweep: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    accelerator: str = "cpu"
    devices: int = 1
    shared: bool = False
    stages: tuple[Mapping[str, Any], ...] = ()
    init_from: str | None = None
    segments: tuple[Mapping[str, Any], ...] = ()
    confidence: str = "measured"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    benchmarks: Mapping[str, Any] = field(default_factory=dict)
    status: str = "running"
    schema_version: int = SCHEMA_VERSION

    def pretraining(self) -> Mapping[str, Any] | None:
        """The pretraining stage, or None where its cost is not known."""
        return next((stage for stage in self.stages if stage.get("stage") == "pretrain"), None)


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run directory (it has a run.json).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_run(folder / "mine", RunRecord(run_id="3f2a"))
        >>> is_run(folder), is_run(folder / "mine")
        (False, True)
    """
    return (path / RUN).is_file()


def dump_line(row: Mapping[str, Any]) -> str:
    """One strict JSON line; NaN and infinities become null (JSON has no word for them)."""
    return json.dumps(_finite(row), separators=(",", ":"), allow_nan=False)


def write_run(path: Path, record: RunRecord) -> None:
    """Replace ``run.json`` atomically: a reader sees the old or the new one, never a half.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_run(folder, RunRecord(run_id="3f2a", accelerator="H100-SXM", devices=8))
        >>> read_run(folder).devices
        8
    """
    path.mkdir(parents=True, exist_ok=True)
    target = path / RUN
    tmp = path / f".{RUN}.{os.getpid()}.tmp"
    body = {name: getattr(record, name) for name in record.__dataclass_fields__}
    try:
        with tmp.open("w", encoding="utf-8") as f:
            json.dump(_finite(body), f, indent=1, allow_nan=False)
            f.write("\n")
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, target)
    except OSError as error:
        tmp.unlink(missing_ok=True)
        raise RecordError(
            f"cannot write {target}: {error.strerror}; free space or fix permissions, then rerun"
        ) from error


def read_run(path: Path) -> RunRecord:
    """Read ``run.json``; keys that this version does not know are passed over.

    Raises:
        RecordError: the file is missing, is not JSON, or has another schema version.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_run(folder, RunRecord(run_id="3f2a", status="finished"))
        >>> read_run(folder).status
        'finished'
    """
    target = path / RUN
    try:
        body = json.loads(target.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{path} must be a run directory with {RUN}, it has none") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{target} must be JSON: {error}; restore it from the tracker or remove the run") from error
    if not isinstance(body, dict) or not isinstance(body.get("run_id"), str):
        raise RecordError(f"{target} must be an object with a text 'run_id'")
    if body.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(
            f"{target} must have schema_version {SCHEMA_VERSION}, got {body.get('schema_version')!r}: another version of rl-scaling wrote it"
        )
    known = {k: v for k, v in body.items() if k in RunRecord.__dataclass_fields__}
    for key in ("model", "provenance", "benchmarks"):
        if not isinstance(known.get(key, {}), dict):
            raise RecordError(f"{target}: {key!r} must be an object, got {known[key]!r:.60}; run 'rl-scaling check'")
    for key in ("stages", "segments"):
        parts = known.get(key) or []
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise RecordError(f"{target}: {key!r} must be a list of objects, got {parts!r:.60}; run 'rl-scaling check'")
        known[key] = tuple(parts)
        for name in ("flops", "gpu_hours", "resumed_from"):
            for part in parts:
                if not isinstance(part.get(name), (int, float, type(None))):
                    raise RecordError(f"{target}: {name!r} of {key} must be a number, got {part[name]!r:.60}")
    return RunRecord(**known)


class Appender:
    """Appends JSON lines to one file, each flushed, healing a torn last line of an earlier process first.

    A full disk raises `RecordError`: what was written before stays, and the next open ends the torn line with a newline.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "steps.jsonl"
        >>> with Appender(path) as out:
        ...     out.write({"step": 1})
        >>> [row for row, _ in read_lines(path)[0]]
        [{'step': 1}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None  # opened by the first line: a rank that writes none touches nothing

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line and flush it to the operating system."""
        data = (dump_line(row) + "\n").encode()
        if self._file is None:
            self._file = self._opened()
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise RecordError(
                f"cannot write {self.path}: {error.strerror}; all earlier lines are kept: free space, then rerun to resume"
            ) from error

    def _opened(self) -> BinaryIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("ab")
            if self.path.stat().st_size and not _ends_with_newline(self.path):
                file.write(b"\n")  # the torn line stays as evidence, on a line of its own
                file.flush()
        except OSError as error:
            raise RecordError(f"cannot write {self.path}: {error.strerror}; free space or fix permissions") from error
        return file

    def sync(self) -> None:
        """Force what was written to the disk (used with checkpoints)."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError:  # a full disk may refuse the last flush again; write() has already raised for it
            pass

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_lines(path: Path) -> tuple[list[tuple[dict[str, Any], int]], list[Skipped]]:
    r"""All good lines of a JSONL record with their numbers, and what was skipped and why.

    A missing file is an empty record. A torn last line, a line that is not a JSON object: skipped and reported.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "steps.jsonl"
        >>> _ = path.write_text('{"step": 1}\n{"step": 2')  # a kill in the middle of a write
        >>> rows, skipped = read_lines(path)
        >>> len(rows), str(skipped[0])
        (1, 'steps.jsonl:2: torn last line')
    """
    rows: list[tuple[dict[str, Any], int]] = []
    skipped: list[Skipped] = []
    for number, raw, last in _lines(path):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except (json.JSONDecodeError, UnicodeDecodeError):
            skipped.append(Skipped(path.name, number, "torn last line" if last else "not JSON"))
            continue
        if not isinstance(row, dict):
            skipped.append(Skipped(path.name, number, f"must be a JSON object, got {type(row).__name__}"))
            continue
        rows.append((row, number))
    return rows, skipped


def check_step(row: Mapping[str, Any]) -> str | None:
    """Why a line of steps.jsonl is not valid, or None."""
    reason = _check_common(row)
    if reason:
        return reason
    if not isinstance(row.get("metrics", {}), dict):
        return "'metrics' must be an object"
    return None


def check_eval(row: Mapping[str, Any]) -> str | None:
    """Why a line of evals.jsonl is not valid, or None."""
    reason = _check_common(row)
    if reason:
        return reason
    if not isinstance(row.get("benchmark"), str) or not row["benchmark"]:
        return "'benchmark' must be a non-empty text"
    for name in ("sampling", "metrics"):
        if not isinstance(row.get(name), (dict, type(None))):
            return f"{name!r} must be an object, got {row[name]!r:.60}"
    sampling = row.get("sampling") or {}
    if not isinstance(sampling.get("decoding", ""), str):
        return f"'decoding' must be a text, got {sampling['decoding']!r:.60}"
    for name, value in (("k", row.get("k")), ("temperature", sampling.get("temperature"))):
        if not isinstance(value, (int, float, type(None))):
            return f"{name!r} must be a number, got {value!r:.60}"
    counts, k = row.get("successes"), row.get("k")
    if counts is not None:
        if not isinstance(k, int) or k < 1:
            return f"'k' must be an integer >= 1 beside 'successes', got {k!r}"
        if not isinstance(counts, list) or not _within(counts, k):
            return f"'successes' must be a list of counts in 0..k={k}"
    elif not isinstance(row.get("score"), (int, float)):
        return "needs 'successes' with 'k', or a number 'score' where counts are not known"
    return None


def _within(counts: list[Any], k: int) -> bool:
    """Whether all are numbers in 0..k; of thousands of them, mostly small integers, none is looked at twice."""
    different = set(map(type, counts))
    if different <= {int, bool}:
        return not counts or (min(counts) >= 0 and max(counts) <= k)
    return all(isinstance(c, (int, float)) and 0 <= c <= k for c in counts)


def _check_common(row: Mapping[str, Any]) -> str | None:
    if not isinstance(row.get("step"), int) or isinstance(row.get("step"), bool) or row["step"] < 0:
        return f"'step' must be an integer >= 0, got {row.get('step')!r}"
    if not isinstance(row.get("segment", 0), int):
        return f"'segment' must be an integer, got {row.get('segment')!r}"
    cost = row.get("cost", {})
    if not isinstance(cost, dict):
        return "'cost' must be an object"
    for key, value in cost.items():
        if key not in COST_FIELDS:
            return f"cost field {key!r} is not known"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            return f"cost field {key!r} must be a finite number >= 0, got {value!r}"
    return None


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    if not path.is_file():
        return
    with path.open("rb") as f:
        number, previous = 0, None
        for raw in f:
            if previous is not None:
                yield number, previous, False
            number, previous = number + 1, raw
        if previous is not None:
            yield number, previous, not previous.endswith(b"\n")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as f:
        f.seek(-1, os.SEEK_END)
        return f.read(1) == b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [_finite(v) for v in value]
    item = getattr(value, "item", None)
    if item is not None:  # numpy scalars
        return _finite(item())
    if isinstance(value, Path):
        return str(value)
    return value
