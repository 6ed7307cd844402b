"""The results of `choices.py` on disk: one line a finished chunk of a setting and a design, appended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scaling.records import Appender, read_lines

NAME = "choices.jsonl"


@dataclass
class Scores:
    """Studies of one target of a design under one setting, all of shape ``(studies,)``; ``extra`` is the verdict or the error."""

    hit: np.ndarray
    width: np.ndarray
    extra: np.ndarray

    def first(self, count: int) -> Scores:
        return Scores(self.hit[:count], self.width[:count], self.extra[:count])


@dataclass
class Results:
    """What a file holds.

    Attributes:
        chunks: (setting, design) -> first study -> line.
        sessions: a line for each time the command was given.
        broken: lines that could not be read: a killed command leaves at most its last.
    """

    chunks: dict[tuple[str, str], dict[int, dict]] = field(default_factory=dict)
    sessions: list[dict] = field(default_factory=list)
    broken: int = 0

    def add(self, line: dict) -> None:
        if "session" in line:
            self.sessions.append(line["session"])
        else:
            self.chunks.setdefault((line["setting"], line["design"]), {})[line["first"]] = line

    def have(self, setting: str, design: str) -> set[int]:
        """All studies that are there."""
        lines = self.chunks.get((setting, design), {})
        return {i for first, line in lines.items() for i in range(first, first + _length(line))}

    def done(self, setting: str, design: str) -> int:
        """Studies from the first on without a gap."""
        have, upto = self.have(setting, design), 0
        while upto in have:
            upto += 1
        return upto

    def get(self, setting: str, design: str, count: int) -> dict[str, Scores]:
        """Target -> the first ``count`` studies."""
        columns: dict[str, dict[str, list]] = {}
        upto = 0
        for first, line in sorted(self.chunks.get((setting, design), {}).items()):
            if first != upto:
                break
            upto += _length(line)
            for target, got in line["scores"].items():
                at = columns.setdefault(target, {"hit": [], "width": [], "extra": []})
                at["hit"] += [int(c) for c in got["hit"]]
                at["width"] += got["width"]
                at["extra"] += got.get("error", [int(c) for c in got.get("yes", "0" * len(got["hit"]))])
        return {
            target: Scores(np.array(c["hit"], bool), np.array(c["width"], float), np.array(c["extra"], float)).first(count)
            for target, c in columns.items()
        }  # fmt: skip

    @property
    def cpu(self) -> float:
        """CPU time of all chunks [s]."""
        return sum(line["cpu"] for by_first in self.chunks.values() for line in by_first.values())


def _length(line: dict) -> int:
    return len(next(iter(line["scores"].values()))["hit"])


def read(folder: Path) -> Results:
    out = Results()
    lines, skipped = read_lines(folder / NAME)
    out.broken = len(skipped)
    for line, _ in lines:
        out.add(line)
    return out


def append(folder: Path, lines: list[dict]) -> None:
    """Add whole lines, after a torn one on a new line."""
    with Appender(folder / NAME) as file:
        for line in lines:
            file.write(line)
