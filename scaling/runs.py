"""`load_runs`: run directories -> `RunTable`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from scaling import records, run_cache
from scaling.columnar import Columns, merge_columns
from scaling.cost import ComputeCost
from scaling.errors import RecordError
from scaling.run_rows import AXIS_COLUMNS, Assembled, assemble, axes_of, complete, kept_until
from scaling.run_table import RunTable, build_table

__all__ = ["AXIS_COLUMNS", "RunTable", "find_runs", "load_runs"]

QUICK_BYTES = 1 << 14  # below this, reading line by line takes no time
MUCH_BYTES = 1 << 25  # below this, starting processes takes longer than it saves


def load_runs(path: str | Path | Iterable[str | Path], *, strict: bool = False, processes: int = 1) -> RunTable:
    """Load run directories into a `RunTable`.

    Args:
        path: a run directory, a folder that holds some at any depth, or several of these.
        strict: raise on the first bad line instead of counting it in ``RunTable.skipped``.
        processes: large records are parsed in so many processes; the table is the same.

    Returns:
        The runs found, sorted by path.

    Raises:
        RecordError: no run directory is found, a run.json cannot be read, or (strict) a line is bad.

    Example:
        >>> import tempfile
        >>> from scaling import Recorder
        >>> folder = tempfile.mkdtemp()
        >>> recorder = Recorder(folder + "/mine", gpus=8, accelerator="H100-SXM")
        >>> recorder.step(seconds=30.0, prompt_tokens=50_000, completion_tokens=900_000)
        >>> recorder.close()
        >>> load_runs(folder)
        RunTable(1 run, 1 step, 0 evaluations)
    """
    paths = [Path(path)] if isinstance(path, (str, Path)) else [Path(p) for p in path]
    found = [run for p in paths for run in find_runs(p)]
    if not found:
        raise RecordError(f"no run directory (a folder with run.json) under {', '.join(map(str, paths)) or 'no path'}")
    table = run_cache.load(found, lambda: build_table(_load_all(found, processes)))
    return build_table(_load_all(found), strict=True) if strict and table.skipped else table  # raises, naming the run


def find_runs(path: Path) -> list[Path]:
    """Run directories at or below ``path``, sorted; a run directory is not searched further.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b", "deep/a"):
        ...     records.write_run(folder / name, records.RunRecord(run_id=name))
        >>> [path.name for path in find_runs(folder)]
        ['b', 'a']
    """
    if not path.exists():
        raise RecordError(f"{path} must exist: name a run directory, or a folder that holds some")
    if not path.is_dir():
        raise RecordError(
            f"{path} must be a run directory or a folder that holds some, got a file; tables go to 'rl-scaling fit' "
            "or, with --mapping, through 'rl-scaling import table'"
        )
    if records.is_run(path):
        return [path]
    out: list[Path] = []
    for child in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        out.extend(find_runs(child))
    return out


def _load_all(found: Sequence[Path], processes: int = 1) -> Iterable[Assembled]:
    """Every run in order; parsing leaves the interpreter, so a few threads help, and processes more where there is much."""
    if len(found) < 4:
        return [_load_one(path) for path in found]
    if (
        processes > 1
        and sum(_size(path / name) for path in found for name in (records.STEPS, records.EVALS)) > MUCH_BYTES
    ):
        with ProcessPoolExecutor(min(processes, len(found))) as pool:
            return list(pool.map(_load_one, found, chunksize=-(-len(found) // (4 * processes))))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(_load_one, found))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _load_one(path: Path) -> Assembled:
    record = records.read_run(path)
    eval_lines, bad_evals = records.read_lines(path / records.EVALS)
    quick = _quick_steps(record, path / records.STEPS)
    if quick is not None:
        return complete(record, *quick, eval_lines, path=path, bad=bad_evals)
    step_lines, bad_steps = records.read_lines(path / records.STEPS)
    return assemble(record, step_lines, eval_lines, path=path, skipped=[*bad_steps, *bad_evals])


def _quick_steps(record: records.RunRecord, path: Path) -> tuple[Columns, ComputeCost, ComputeCost] | None:
    """Steps of a plain file as columns, cost in all, cost redone; None where it must be read line by line."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(raw) < QUICK_BYTES:
        return None
    unknown = frozenset(record.provenance.get("unknown_axes") or ())
    pre = record.pretraining() or {}

    merged = merge_columns(
        raw, kept_until(record), lambda cost: axes_of(cost, pre.get("flops"), pre.get("gpu_hours"), unknown)
    )
    return None if merged is None else (merged.columns, merged.total, merged.redone)
