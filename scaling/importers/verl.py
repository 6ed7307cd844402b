"""verl: console logs (`step:7 - critic/rewards/mean:0.433 - ...`) and the file logger's JSONL (`{"step": 7, "data": {...}}`).

The console format is that of `concat_dict_to_str`: three decimals in old versions, `pformat` in new ones, so that NumPy
scalars print as ``np.float64(0.5)``. The configuration is what the trainer prints at its start (a dictionary or YAML), or
the overrides of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ForeignLogError
from scaling.importers.console import chunks, log_name, looks_binary, plain, tag
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.values import head, lookup, number
from scaling.importers.verl_bulk import MARKS, BulkReader
from scaling.importers.verl_config import MAX_CONFIG, Collector, nested, scalar
from scaling.importers.verl_jsonl import read_jsonl
from scaling.importers.verl_lines import Layouts
from scaling.records import Skipped

__all__ = ["read"]

_STEP = re.compile(r"step:(\d{1,4000})(?= - )")
_NEXT = re.compile(r"(?:\x1b\[[0-9;]*m)*\(\w+ pid=\d+")  # another line that was printed into this one
_OVERRIDE = re.compile(r"(?:^|\s)['\"]?\+{0,2}([A-Za-z_][\w.]*\.[\w.]+)=((?:\[[^\]]*\])|[^\s'\"]*)")
MAX_PREFIX = 4096
BULK_FROM = 2 << 20  # bytes after which a log is read in bulk: sooner, that does not repay loading pyarrow
_NO_LEAD = "\0", 1


def read(path: Path, mapping: TrainerMapping, progress: Callable[[int], Any] | None = None) -> RawRun:
    """Read one log of verl, console or JSONL, told apart by their content.

    Raises:
        ForeignLogError: the file is empty, binary, or holds no step.
    """
    start = head(path)
    first = next((line for line in start.splitlines() if line.strip()), b"").lstrip()
    if first.startswith(b"{") and b'"data"' in first:
        return read_jsonl(path, mapping, progress)
    if looks_binary(path):
        raise ForeignLogError(f"{path} must be a text log, it is binary")
    return _Console(path, mapping).read(progress)


class _Console:
    """State of reading one console log. A chunk is searched as bytes and as Latin-1 text: the places are the same."""

    def __init__(self, path: Path, mapping: TrainerMapping) -> None:
        self.path, self.mapping = path, mapping
        self.run = RawRun(
            name=log_name(path), source="verl console log", files=(str(path),), mapping=mapping, status="running"
        )
        self.overrides: dict[str, Any] = {}
        self.layouts = Layouts(mapping)
        self.bulk = BulkReader()
        self.prefixes: dict[bytes, bytes] = {}
        self.add = self.run.rows.add
        self.lead, self.lead_size = _NO_LEAD  # line break and prefix of the last step line
        self.bad_pairs = 0
        self.writers: list[bytes] = []
        self.collecting: Collector | None = None

    def read(self, progress: Callable[[int], Any] | None) -> RawRun:
        seen = 0
        for chunk, torn in chunks(self.path, progress):
            at = self._collect(chunk, 0) if self.collecting else 0
            if seen >= BULK_FROM:
                at = self._in_bulk(chunk, torn, at)
            if at < len(chunk):
                self._part(chunk, chunk.decode("latin-1"), at, len(chunk), torn)
            seen += len(chunk)
        if self.bad_pairs:
            self.run.skipped.append(
                Skipped(self.path.name, 0, f"{self.bad_pairs} part(s) of step lines that are no number")
            )
        if not self.run.rows.count:
            raise ForeignLogError(
                f"{self.path}: no line of the form 'step:N - key:value - ...', as verl's console logger writes"
            )
        if number(self.overrides.get("trainer.nnodes", 1)) is None:  # a shell variable: the GPUs are not known
            self.overrides.pop("trainer.n_gpus_per_node", None)
        if not self.run.config and self.overrides:
            self.run.config = nested(self.overrides)
        for layout in self.layouts.known.values():
            for key in layout.unused if layout.slashed else ():
                self.run.unused[key] = self.run.unused.get(key, 0) + layout.used
        experiment = lookup(self.run.config, "trainer.experiment_name")
        if isinstance(experiment, str) and experiment:
            self.run.name = experiment
        return self.run

    def _in_bulk(self, chunk: bytes, torn: bool, at: int) -> int:
        """Take a chunk's lines from ``at`` on, those of known layouts together; returns from where on none was taken."""
        if not (self.run.rows.count and self.layouts.fitted) or self.lead == _NO_LEAD[0]:
            return at
        lead, layouts = self.lead, list(self.layouts.fitted)
        lines = self.bulk.find(chunk, layouts, lead.encode("latin-1"))
        text, done = "", 0
        for other in [*lines.others, len(chunk)]:
            if other < at:
                continue
            before = int(np.searchsorted(lines.start, other))
            done = max(done, int(np.searchsorted(lines.start, at)))  # a dump may have held step lines
            if before > done:
                self.run.rows.add_batch(lines.batch.part(done, before))
                for layout, count in zip(layouts, np.bincount(lines.layout[done:before]).tolist()):
                    layout.used += count
                at, done = int(lines.end[before - 1]), before
            if other < len(chunk):
                text = text or chunk.decode("latin-1")
                stop = text.find("\n", other) + 1 or len(chunk)
                at = self._part(chunk, text, max(at, text.rfind("\n", 0, other) + 1), stop, torn)
                if self.lead != lead:
                    return at
        return len(chunk)

    def _part(self, chunk: bytes, text: str, at: int, stop: int, torn: bool) -> int:
        """Take the lines that begin from ``at`` on and before ``stop``, one by one; returns where to go on."""
        marks = _Marks(text, stop)
        step, (mark, what) = text.find("step:", at, stop), marks.after(at, self.run)
        while step >= 0 or mark >= 0:
            if mark >= 0 and (step < 0 or mark < step):
                at = self._marked(chunk, mark, what)
                step = text.find("step:", at, stop) if 0 <= step < at else step
            else:
                at = self._step_line(chunk, text, step, torn)
                step = text.find("step:", at, stop)
            if 0 <= mark < at:
                mark, what = marks.after(at, self.run)
        return max(at, stop)

    def _step_line(self, chunk: bytes, text: str, at: int, torn: bool) -> int:
        """Take the line that has ``step:`` at ``at``, if it is one of the logger's; returns where to go on."""
        same = text.startswith(self.lead, at - self.lead_size)
        if not same and at and ((before := text[at - 1]).isalnum() or before in "_/.-"):
            return at + 5
        end = text.find("\n", at)
        if end >= 0 and (found := self.layouts.match(text, at, end)):
            layout, match = found
            values = match.groups()
            if not same:
                self._turn_to(self._writer(chunk, text, at))
            layout.used += 1
            if layout.keys:
                self.add(int(values[0]), layout.keys, values[1:], trained=layout.trained)
            return end
        match = _STEP.match(text, at)
        if match is None:
            return at + 5
        cut = torn and end < 0
        end = len(text) if end < 0 else end
        writer = self._writer(chunk, text, at)
        start = match.end() + 3
        body = text[start:end]
        if "\r" in body:  # what follows was printed over this line on a terminal, perhaps another step
            end = start + body.find("\r")
            body = text[start:end]
        if other := _NEXT.search(body):  # another process printed into this line, perhaps another step
            self._parse(int(match[1]), body[: other.start()], False, writer)
            inner = _STEP.search(body, other.end())
            return start + inner.start() if inner else end
        self._parse(int(match[1]), body, cut, writer)
        return end

    def _writer(self, chunk: bytes, text: str, at: int) -> bytes:
        """Which process printed the line that has its step at ``at``."""
        near = max(0, at - MAX_PREFIX)
        start = chunk.rfind(b"\n", near, at)
        prefix = chunk[max(start + 1, near) : at]
        writer = self.prefixes.get(prefix)
        if writer is None:
            writer = tag(prefix[prefix.rfind(b"\r") + 1 :])[0]
            if len(self.prefixes) < 1000:
                self.prefixes[prefix] = writer
        if start >= 0 and (not self.writers or self.writers[-1] == writer):
            self.lead, self.lead_size = text[start:at], at - start
        return writer

    def _parse(self, step: int, body: str, torn: bool, writer: bytes) -> None:
        body = plain(body.encode("latin-1")).decode("latin-1").rstrip()
        if torn:  # the number of the last pair may have lost digits
            body = body.rpartition(" - ")[0]
            self.run.skipped.append(Skipped(self.path.name, 0, "torn last line: its last value"))
        layout, values, bad = self.layouts.parse(body, learn=not torn)
        if not layout.slashed:
            return  # prose such as "step:3 - then"
        self.bad_pairs += bad
        self._turn_to(writer)
        layout.used += 1
        if layout.keys:
            self.add(step, layout.keys, values, trained=layout.trained)

    def _turn_to(self, writer: bytes) -> None:
        """The next step line is of this process: a new one where it is not that of the line before."""
        if self.writers and self.writers[-1] == writer:
            return
        if writer in self.writers and self.writers[-1] and writer:
            raise ForeignLogError(
                f"{self.path}: steps of two runs alternate ({writer.decode()}, {self.writers[-1].decode()}): "
                "split the log by process before importing"
            )
        if self.writers and writer:
            self.run.rows.restart()
        self.writers.append(writer)
        self.lead, self.lead_size = _NO_LEAD

    # -- configuration and restarts ----------------------------------------------------------------------------------

    def _marked(self, chunk: bytes, at: int, what: str) -> int:
        start, end = chunk.rfind(b"\n", 0, at) + 1, chunk.find(b"\n", at)
        end = len(chunk) if end < 0 else end
        if end - start > MAX_CONFIG:
            return end
        who, line = tag(chunk[start:end])
        text = line.decode("utf-8", "replace")
        if what == "trainer.n":
            self._override(text)
        elif what == "actor_rollout_ref":
            kind = "dict" if text.lstrip().startswith("{'actor_rollout_ref':") else ""
            kind = "yaml" if text.strip() == "actor_rollout_ref:" else kind
            if kind and self.run.rows.count:  # a process that starts over
                self.run.rows.restart()
            if kind and not self.run.config:
                self.collecting = Collector(who, kind)
            elif not kind:
                self._override(text)
        elif what == "Setting global step to " and self.run.rows.count:
            self.run.rows.restart()
        elif what == "Model config after override" and self.run.model_config is None and "{" in text:
            self.collecting = Collector(who, "json")
            text = "{" + text.split("{", 1)[1]
        if self.collecting:
            self.collecting.feed(text)
            self._finish_if_closed()
            if self.collecting:
                return self._collect(chunk, end + 1)
        return end

    def _override(self, text: str) -> None:
        """Settings of the command line, as a shell prints it or the script that was pasted before the log."""
        if "=" in text and not self.run.rows.count:
            self.overrides |= {name: scalar(value) for name, value in _OVERRIDE.findall(text)}

    def _collect(self, chunk: bytes, at: int) -> int:
        """Feed lines of the collecting process until its dump is closed; returns where to go on in the chunk."""
        while self.collecting and at < len(chunk):
            end = chunk.find(b"\n", at)
            end = len(chunk) if end < 0 else end
            who, line = tag(chunk[at:end])
            if who == self.collecting.who:
                self.collecting.feed(line.decode("utf-8", "replace"))
                self._finish_if_closed()
                if self.collecting is None and self._ended_before:
                    return at  # the line that ended the dump is not part of it
            at = end + 1
        return min(at, len(chunk))

    _ended_before = False

    def _finish_if_closed(self) -> None:
        done = self.collecting
        if done is None or not done.closed:
            return
        self.collecting = None
        self._ended_before = done.ended_before
        value = done.value()
        if value is None:
            reason = f"a {done.kind} dump at the start that could not be parsed"
            self.run.skipped.append(Skipped(self.path.name, 0, reason))
        elif done.kind == "json":
            self.run.model_config = value
        else:
            self.run.config = value


class _Marks:
    """Where the next line of a chunk is that tells of the configuration or of a restart."""

    def __init__(self, text: str, stop: int) -> None:
        self.text, self.stop = text, stop
        self.next: dict[str, int] = {}

    def after(self, at: int, run: RawRun) -> tuple[int, str]:
        """The first such place from ``at`` on, and what stands there; (-1, "") if there is none."""
        wanted = [*MARKS]
        if not run.rows.count:  # printed before the first step
            wanted += ["trainer.n", "Model config after override"]
        found = (-1, "")
        for what in wanted:
            place = self.next.get(what, 0)
            if 0 <= place < at or what not in self.next:
                place = self.next[what] = self.text.find(what, at, self.stop)
            if place >= 0 and (found[0] < 0 or place < found[0]):
                found = place, what
        return found
