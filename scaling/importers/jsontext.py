"""Columns of numbers as JSON lines, made a column at a time by Arrow.

Arrays are made from NumPy's buffers: `pyarrow.array` would load pandas, which takes longer than most imports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["arrow", "joined", "lines_of", "members", "strings"]


def lines_of(parts: list[Any], count: int) -> Any:
    """Texts and columns of texts put together into ``count`` lines; what is null in a column is left out of its line."""
    import pyarrow.compute as pc

    merged: list[Any] = []
    for part in parts:
        if merged and isinstance(part, str) and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    if len(merged) == 1 and isinstance(merged[0], str):
        return _texts(merged).take(arrow(np.zeros(count, dtype=np.int64)))
    columns = [_texts([part])[0] if isinstance(part, str) else part for part in [*merged, ""]]
    return pc.binary_join_element_wise(*columns, null_handling="replace", null_replacement="")


def joined(arrays: list[Any]) -> bytes:
    """All lines of arrays of strings without nulls, one after the other."""
    out = []
    for array in arrays:
        offsets = np.frombuffer(array.buffers()[1], dtype=np.int32)[array.offset : array.offset + len(array) + 1]
        out.append(memoryview(array.buffers()[2])[offsets[0] : offsets[-1]])
    return b"".join(out)


def members(columns: Mapping[str, NDArray[np.float64]], count: int, *, zero: bool) -> list[Any]:
    """The members of a JSON object in each line: keys and numbers, nothing where a line lacks one.

    Args:
        columns: name -> numbers, shape ``(count,)``.
        count: lines.
        zero: whether 0 is what a line lacks; else it is NaN.
    """
    parts: list[Any] = []
    before = np.zeros(count, dtype=bool)
    for name, values in columns.items():
        there = values != 0 if zero else np.isfinite(values)
        if not there.any():
            continue
        key = json.dumps(name) + ":"
        if there.all() and (before.all() or not before.any()):
            parts.append("," + key if before.all() else key)
        else:
            parts.append(_texts(["", key, "," + key]).take(arrow(np.where(there, 1 + before, 0))))
        parts += strings(values, None if there.all() else ~there)
        before = before | there
    return parts


def strings(values: NDArray[Any], absent: NDArray[np.bool_] | None = None) -> list[Any]:
    """Numbers as JSON has them, as parts for `lines_of`: a column of texts, or one text if all are the same.

    A whole float keeps its point, as in Python, so that reading the lines gives floats.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if absent is None and (values == values[0]).all():
        return [repr(values[0].item())]
    if values.dtype.kind != "f":
        return [arrow(values).cast(pa.string())]
    whole = (values == np.floor(values)) & (np.abs(values) < 1e16)
    if absent is not None:
        whole &= ~absent
    elif whole.all() and not np.signbit(values).any():
        return [_printed(values.astype(np.int64)), ".0"]
    text = _printed(values, absent)
    if not whole.any():
        return [text]
    whole &= ~_flags(pc.match_substring(text, "e"))  # 1e+10 is a float as it is
    return [text, _texts(["", ".0"]).take(arrow(whole.astype(np.int64)))]


def _printed(values: NDArray[Any], absent: NDArray[np.bool_] | None = None) -> Any:
    import pyarrow as pa

    numbers = arrow(values, absent)
    # often few values are different, and finding out is cheap beside printing numbers
    encoded = numbers.dictionary_encode()
    if 2 * len(encoded.dictionary) < len(values):
        return encoded.dictionary.cast(pa.string()).take(encoded.indices)
    return numbers.cast(pa.string())


def arrow(values: NDArray[Any], absent: NDArray[np.bool_] | None = None) -> Any:
    """Whole numbers or floats as an Arrow array, null where absent."""
    import pyarrow as pa

    kind = pa.float64() if values.dtype.kind == "f" else pa.int64()
    held = np.ascontiguousarray(values, dtype=np.float64 if values.dtype.kind == "f" else np.int64)
    there = None if absent is None else pa.py_buffer(np.packbits(~absent, bitorder="little"))
    return pa.Array.from_buffers(kind, len(held), [there, pa.py_buffer(held)])


def _texts(texts: list[str]) -> Any:
    import pyarrow as pa

    data = [text.encode() for text in texts]
    edges = np.cumsum([0, *map(len, data)], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(data), [None, pa.py_buffer(edges), pa.py_buffer(b"".join(data))])


def _flags(array: Any) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(array.buffers()[1], np.uint8), bitorder="little")[: len(array)].astype(bool)
