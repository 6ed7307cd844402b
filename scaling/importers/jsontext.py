"""Columns of numbers as JSON lines, made a column at a time by Arrow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["joined", "lines_of", "members", "strings"]


def lines_of(parts: list[Any], count: int) -> Any:
    """Texts and columns of texts put together into ``count`` lines; what is null in a column is left out of its line."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if all(isinstance(part, str) for part in parts):
        return pa.array(["".join(parts)] * count)
    return pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")


def joined(arrays: list[Any]) -> bytes:
    """All lines of arrays of strings without nulls, one after the other."""
    out = []
    for array in arrays:
        offsets = np.frombuffer(array.buffers()[1], dtype=np.int32)[array.offset : array.offset + len(array) + 1]
        out.append(memoryview(array.buffers()[2])[offsets[0] : offsets[-1]])
    return b"".join(out)


def members(columns: Mapping[str, NDArray[np.float64]], count: int, *, zero: bool) -> list[Any]:
    """The members of a JSON object in each line: keys and numbers, null where a line lacks one.

    Args:
        columns: name -> numbers, shape ``(count,)``.
        count: lines.
        zero: whether 0 is what a line lacks; else it is NaN.
    """
    import pyarrow as pa

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
            which = np.where(there, before.astype(np.int8), np.int8(2))
            parts.append(pa.array([key, "," + key, None]).take(pa.array(which)))
        parts.append(strings(values, None if there.all() else ~there))
        before = before | there
    return parts


def strings(values: NDArray[Any], absent: NDArray[np.bool_] | None = None) -> Any:
    """Numbers as JSON has them: a column of texts, or one text if they are all the same. A whole float keeps its point,
    as in Python, so that reading the lines gives floats.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if absent is None and (values == values[0]).all():
        return repr(values[0].item())
    if values.dtype.kind != "f":
        return pa.array(values, mask=absent).cast(pa.string())
    # often few values are different, and finding out is cheap beside printing numbers
    encoded = pa.array(values, mask=absent).dictionary_encode()
    few = 2 * len(encoded.dictionary) < len(values)
    numbers = encoded.dictionary.to_numpy() if few else values
    text = pa.array(numbers, mask=None if few else absent).cast(pa.string())
    whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < 1e16)
    if whole.any():
        pointless = pc.and_(pa.array(whole), pc.invert(pc.match_substring(text, "e")))
        text = pc.if_else(pointless, pc.binary_join_element_wise(text, ".0", ""), text)
    return text.take(encoded.indices) if few else text
