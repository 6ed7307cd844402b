"""Accelerators: dense peak FLOP/s, memory and stated price, each with its source. An unknown name is an error.

Peaks are **dense**: vendor pages often print the 2:4-sparse figure, twice as large, without saying so. The table is
``scaling/data/hardware.csv``.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from dataclasses import dataclass
from importlib.resources import files

from scaling.errors import UnknownName

__all__ = ["PRECISIONS", "Accelerator", "accelerator", "accelerators", "peak_flops"]

PRECISIONS = ("bf16", "fp8")


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One accelerator.

    Attributes:
        name: canonical name.
        peaks: precision -> dense peak [FLOP/s].
        memory: device memory [byte].
        bandwidth: memory bandwidth [byte/s].
        usd_per_hour: price that a source states [USD / GPU h], or None.
        usd_source: where the price is from.
        source: where the peak is from, with the date it was read.
        trust: cell -> ``verified``, ``verified-secondary`` (read in a third-party text) or ``unverified``.
        note: what to watch.

    Example:
        >>> accelerator("H100").peak("bf16") / 1e12  # dense TFLOP/s
        989.0
    """

    name: str
    peaks: dict[str, float]
    memory: float
    bandwidth: float
    usd_per_hour: float | None
    usd_source: str
    source: str
    trust: dict[str, str]
    note: str

    def peak(self, precision: str = "bf16") -> float:
        """Dense peak of one device at a precision [FLOP/s]; raises `UnknownName` if the table has none."""
        if precision not in self.peaks:
            raise UnknownName(
                f"precision must be one of {', '.join(self.peaks)} for {self.name}, got {precision!r}: "
                "no dense peak with a source is known"
            )
        return self.peaks[precision]


def accelerator(name: str) -> Accelerator:
    """Look an accelerator up by its name or by the name that torch reports; case, spaces and hyphens do not matter.

    Raises:
        UnknownName: the name is not in the table. Nothing is guessed in its place.

    Example:
        >>> accelerator("NVIDIA H100 80GB HBM3").name
        'H100-SXM'
    """
    found = _table()[1].get(_key(name))
    if found is None:
        why = "a CPU has no stated peak" if _key(name) == "cpu" else "its dense peak is not in the table"
        raise UnknownName(f"accelerator must be one of {', '.join(accelerators())}, got {name!r}: {why}")
    return found


def accelerators() -> tuple[str, ...]:
    """Canonical names of all known accelerators.

    Example:
        >>> "H100-SXM" in accelerators()
        True
    """
    return tuple(item.name for item in _table()[0])


def peak_flops(name: str, precision: str = "bf16") -> float:
    """Dense peak of one device [FLOP/s].

    Raises:
        UnknownName: unknown accelerator, or no dense peak is known at this precision.

    Example:
        >>> peak_flops("H800") / 1e12
        989.0
    """
    return accelerator(name).peak(precision)


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", str(name)).casefold()


@functools.cache
def _table() -> tuple[tuple[Accelerator, ...], dict[str, Accelerator]]:
    rows, index = [], {}
    text = (files("scaling.data") / "hardware.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(io.StringIO(text)):
        item = Accelerator(
            name=row["name"],
            peaks={p: float(row[f"{p}_tflops"]) * 1e12 for p in PRECISIONS if row[f"{p}_tflops"]},
            memory=float(row["memory_gb"]) * 1e9,
            bandwidth=float(row["bandwidth_tb_s"]) * 1e12,
            usd_per_hour=float(row["usd_per_hour"]) if row["usd_per_hour"] else None,
            usd_source=row["usd_source"],
            source=row["source"],
            trust={cell: row[f"{cell}_trust"] for cell in (*PRECISIONS, "memory", "bandwidth") if row[f"{cell}_trust"]},
            note=row["note"],
        )
        rows.append(item)
        for alias in (row["name"], *row["aliases"].split(";")):
            if alias:
                index[_key(alias)] = item
    return tuple(rows), index
