"""The quick way to read steps.jsonl: parsed as columns by pyarrow, merged with array operations.

It gives what the line-by-line way of `scaling.runs` gives (a property test holds the two together), or None wherever a file
is not plain: torn or foreign lines, steps reported twice in a segment, nested metrics. The caller then reads line by line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.cost import COST_FIELDS, ComputeCost

__all__ = ["ArrayCost", "Columns", "MergedColumns", "join", "merge_columns"]

NULL_COST = re.compile(rb'"cost"\s*:\s*\{[^}]*null')
EMPTY_METRICS = re.compile(rb'"metrics"\s*:\s*\{\s*\}')
TOP = {"segment", "step", "time", "cost", "metrics"}

Columns = dict[str, Any]  # name -> array or list, shape (n_steps,)


@dataclass(frozen=True)
class MergedColumns:
    """Steps of one run as columns, one row a step and segment.

    Attributes:
        columns: ``step``, ``segment``, the fields of `ComputeCost`, ``gpu_seconds``, cumulative axes, metrics.
        total: cost of all that was kept.
        redone: cost of what a restart did again.
    """

    columns: Columns
    total: ComputeCost
    redone: ComputeCost


def merge_columns(
    raw: bytes, kept_until: Mapping[int, float], axes: Callable[[ArrayCost], Mapping[str, Any]]
) -> MergedColumns | None:
    """Merge the lines of a steps.jsonl; None where only the line-by-line way is safe.

    Args:
        raw: the file.
        kept_until: segment -> last step that was not redone.
        axes: cumulative cost -> cumulative axes, an array or a number each.
    """
    if not raw.endswith(b"\n") or (b"null" in raw and NULL_COST.search(raw)):
        return None
    table = _parse(raw)
    if table is None:
        return None
    step, segment = _integers(table, "step"), _integers(table, "segment")
    if step is None or segment is None or step.min() < 0:
        return None
    cost = _costs(table)
    metrics = _metrics(table)
    if cost is None or metrics is None:
        return None
    reported = _reported(metrics, len(step))
    if not reported.all():
        silent = len(EMPTY_METRICS.findall(raw)) + len(step) - raw.count(b'"metrics"')
        if len(step) - int(reported.sum()) != silent:
            return None  # metrics that are null throughout
    limit = (
        np.array([kept_until.get(int(s), np.inf) for s in range(int(segment.max()) + 1)])
        if segment.min() >= 0
        else None
    )
    if limit is None:
        return None
    kept = step <= limit[segment]
    redone = ComputeCost(**{name: float(values[~kept].sum()) for name, values in cost.items()})
    order = np.flatnonzero(kept)
    order = order[np.lexsort((segment[order], step[order]))]
    step, segment, reported = step[order], segment[order], reported[order]
    cost = {name: values[order] for name, values in cost.items()}
    starts = (
        np.flatnonzero(np.r_[True, (step[1:] != step[:-1]) | (segment[1:] != segment[:-1])])
        if len(step)
        else np.array([], dtype=int)
    )
    if not len(starts) or np.add.reduceat(reported.astype(int), starts).max(initial=0) > 1:
        return None  # a step whose metrics stand in several lines, or nothing kept
    sums = {name: np.add.reduceat(values, starts) for name, values in cost.items()}
    cumulative = {name: np.cumsum(values) for name, values in sums.items()}
    row_step, row_segment = step[starts], segment[starts]
    source = np.maximum.reduceat(np.where(reported, np.arange(len(step)), -1), starts)
    shown = source >= 0
    first: dict[int, int] = {}  # step -> first segment that reports it
    for s, g in zip(*(row[shown].tolist() for row in (row_step, row_segment))) if not shown.all() else ():
        first.setdefault(s, g)
    for s, g in zip(*(row[~shown].tolist() for row in (row_step, row_segment))):
        if s and not (s in first and first[s] <= g):
            return None  # a step without metrics; a line of pure cost beside a reported step is no step of its own
    pick = np.flatnonzero(shown)
    if not len(pick):
        return None
    columns: Columns = {"step": row_step[pick], "segment": row_segment[pick]}
    columns |= {name: sums[name][pick] for name in COST_FIELDS}
    columns["gpu_seconds"] = ArrayCost(columns).gpu_seconds
    columns |= {
        f"cumulative_{name}": _broadcast(value, len(pick))
        for name, value in axes(ArrayCost({n: v[pick] for n, v in cumulative.items()})).items()
    }
    if columns.keys() & metrics.keys():
        return None
    rows = order[source[pick]]
    for name, values in metrics.items():
        values = values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]
        if any(v is not None for v in values) if isinstance(values, list) else True:
            columns[name] = values
    total = ComputeCost(**{name: _python(values[-1]) for name, values in cumulative.items()})
    return MergedColumns(columns=columns, total=total, redone=redone)


def join(parts: list[tuple[str, Columns]]) -> Columns:
    """Columns of several runs under each other, ``run_id`` first; what a run lacks is NaN."""
    names = dict.fromkeys(name for _, columns in parts for name in columns)
    lengths = [len(columns["step"]) for _, columns in parts]
    out: Columns = {"run_id": np.repeat(np.array([run_id for run_id, _ in parts], dtype=object), lengths)}
    for name in names:
        found = [columns.get(name) for _, columns in parts]
        kinds = {f.dtype.kind for f in found if isinstance(f, np.ndarray)}
        listed = (
            any(isinstance(f, list) for f in found)
            or (kinds == {"b"} and any(f is None for f in found))
            or ("b" in kinds and len(kinds) > 1)
        )
        if listed:
            out[name] = [
                v
                for f, n in zip(found, lengths)
                for v in (f.tolist() if isinstance(f, np.ndarray) else [np.nan] * n if f is None else f)
            ]
        else:
            out[name] = np.concatenate([np.full(n, np.nan) if f is None else f for f, n in zip(found, lengths)])
    return out


class ArrayCost:
    """`ComputeCost`'s sums over arrays of cost, shape ``(n_steps,)``: the same formulas, from the same place."""

    rollouts: Any

    def __init__(self, columns: Columns) -> None:
        for name in COST_FIELDS:
            setattr(self, name, columns[name])

    gpu_seconds, total_flops = ComputeCost.gpu_seconds, ComputeCost.total_flops
    gpu_hours, tokens = ComputeCost.gpu_hours, ComputeCost.tokens


def _parse(raw: bytes) -> Any:
    import pyarrow as pa
    from pyarrow import json as pj

    try:
        table = pj.read_json(
            pa.BufferReader(raw),
            read_options=pj.ReadOptions(use_threads=False, block_size=min(len(raw) + 1, 2**31 - 1)),
        )
    except pa.ArrowInvalid:
        return None
    usable = table.num_rows == raw.count(b"\n") and set(table.column_names) <= TOP and "step" in table.column_names
    return table.combine_chunks() if usable else None


def _integers(table: Any, name: str) -> NDArray[np.int64] | None:
    import pyarrow as pa

    if name not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.int64)
    column = table.column(name)
    return column.to_numpy() if column.type == pa.int64() and not column.null_count else None


def _fields(table: Any, name: str) -> dict[str, Any] | None:
    """Children of a column of objects, missing ones null; None where it is no such column."""
    import pyarrow as pa

    if name not in table.column_names:
        return {}
    column = table.column(name)
    if not pa.types.is_struct(column.type):
        return {} if pa.types.is_null(column.type) and not column.null_count else None
    if not column.num_chunks:
        return {}
    try:
        return {field.name: child for field, child in zip(column.type, column.combine_chunks().flatten())}
    except UnicodeDecodeError:  # a damaged name
        return None


def _costs(table: Any) -> dict[str, NDArray[Any]] | None:
    import pyarrow as pa

    fields = _fields(table, "cost")
    if fields is None or not set(fields) <= set(COST_FIELDS):
        return None
    defaults = ComputeCost()
    out: dict[str, NDArray[Any]] = {}
    for name in COST_FIELDS:
        default = getattr(defaults, name)
        if name not in fields:
            out[name] = np.full(table.num_rows, default)
            continue
        child = fields[name]
        if child.type not in (pa.int64(), pa.float64()):
            return None
        exact = child.type == pa.int64() and (not child.null_count or isinstance(default, int))
        values = (child.fill_null(0) if child.null_count else child).to_numpy(zero_copy_only=False)
        values = values if exact and values.sum(dtype=float) < 2**62 else values.astype(float)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            return None
        out[name] = values
    return out


def _metrics(table: Any) -> dict[str, Any] | None:
    import pyarrow as pa

    fields = _fields(table, "metrics")
    if fields is None:
        return None
    out: dict[str, Any] = {}
    for name, child in fields.items():
        if pa.types.is_floating(child.type) or (pa.types.is_integer(child.type) and not child.null_count):
            out[name] = child.to_numpy(zero_copy_only=False)
        elif pa.types.is_integer(child.type):
            out[name] = child.cast(pa.float64()).to_numpy(zero_copy_only=False)
        elif pa.types.is_boolean(child.type) and child.null_count:
            return None  # whether the value is null or the name is missing shows line by line only
        elif pa.types.is_string(child.type) or pa.types.is_boolean(child.type) or pa.types.is_null(child.type):
            out[name] = child.to_pylist()
        else:
            return None
    return out


def _reported(metrics: Mapping[str, Any], n: int) -> NDArray[np.bool_]:
    """Which lines have metrics, shape ``(n,)``."""
    out = np.zeros(n, dtype=bool)
    for values in metrics.values():
        if isinstance(values, list):
            out |= np.array([v is not None for v in values])
        elif values.dtype.kind == "f":
            out |= ~np.isnan(values)
        else:
            out[:] = True
    return out


def _broadcast(value: Any, n: int) -> Any:
    return value if isinstance(value, np.ndarray) else np.full(n, value)


def _python(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
