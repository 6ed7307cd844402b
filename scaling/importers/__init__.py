"""One `RunTable` from anyone's runs: logs of other trainers and trackers, in our names, our ledger, our records.

    >>> from scaling.importers import load
    >>> load("qwen2-7b_math.log", source="verl")  # doctest: +SKIP
    RunTable(1 run, 211 steps, 86 evaluations)

A source is a format that a module here reads; a mapping is a trainer's names and semantics in YAML. ``load`` builds the
table in memory, ``rl-scaling import`` writes run directories; both go through the same lines.
"""

from __future__ import annotations

from scaling.importers.api import SOURCES, load, read_runs
from scaling.importers.imported import ImportedRun, to_table, write
from scaling.importers.mapping import TrainerMapping
from scaling.importers.mapping_file import load_mapping, shipped

__all__ = [
    "SOURCES",
    "ImportedRun",
    "TrainerMapping",
    "load",
    "load_mapping",
    "read_runs",
    "shipped",
    "to_table",
    "write",
]
