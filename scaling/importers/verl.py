"""verl: console logs (`step:7 - critic/rewards/mean:0.433 - ...`) and the file logger's JSONL (`{"step": 7, "data": {...}}`).

The console format is that of `concat_dict_to_str`: three decimals in old versions, `pformat` in new ones, so that NumPy
scalars print as ``np.float64(0.5)``. The configuration is what the trainer prints at its start (a dictionary or YAML), or
the overrides of the command line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError
from scaling.importers.console import chunks, log_name, looks_binary, plain, tag
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.values import head, lookup, number
from scaling.importers.verl_config import MAX_CONFIG, Collector, nested, scalar
from scaling.records import Skipped

__all__ = ["read"]

_STEP = re.compile(rb"step:(\d+)(?= - )")
_NEXT = re.compile(rb"(?:\x1b\[[0-9;]*m)*\(\w+ pid=\d+")  # another line that was printed into this one
_OVERRIDE = re.compile(r"(?:^|\s)['\"]?\+{0,2}([A-Za-z_][\w.]*\.[\w.]+)=((?:\[[^\]]*\])|[^\s'\"]*)")
MAX_PREFIX, MAX_PLANS = 4096, 24


def read(path: Path, mapping: TrainerMapping, progress: Callable[[int], Any] | None = None) -> RawRun:
    """Read one log of verl, console or JSONL, told apart by their content.

    Raises:
        ForeignLogError: the file is empty, binary, or holds no step.
    """
    start = head(path)
    first = next((line for line in start.splitlines() if line.strip()), b"").lstrip()
    if first.startswith(b"{") and b'"data"' in first:
        return _read_jsonl(path, mapping, progress)
    if looks_binary(path):
        raise ForeignLogError(f"{path} must be a text log, it is binary")
    return _Console(path, mapping).read(progress)


class _Console:
    """State of reading one console log."""

    def __init__(self, path: Path, mapping: TrainerMapping) -> None:
        self.path, self.mapping = path, mapping
        self.run = RawRun(
            name=log_name(path), source="verl console log", files=(str(path),), mapping=mapping, status="running"
        )
        self.overrides: dict[str, Any] = {}
        self.plans: list[_Plan] = []
        self.spare: set[str] = set()
        self.prefixes: dict[bytes, bytes] = {}
        self.bad_pairs = 0
        self.writers: list[bytes] = []
        self.collecting: Collector | None = None

    def read(self, progress: Callable[[int], Any] | None) -> RawRun:
        number_of_bytes = 0
        for chunk, torn in chunks(self.path, progress):
            number_of_bytes += len(chunk)
            self._chunk(chunk, torn)
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
        for plan in self.plans:
            for key in plan.unused:
                self.run.unused[key] = self.run.unused.get(key, 0) + plan.used
        for key in self.spare:
            self.run.unused.setdefault(key, 1)
        experiment = lookup(self.run.config, "trainer.experiment_name")
        if isinstance(experiment, str) and experiment:
            self.run.name = experiment
        return self.run

    def _chunk(self, chunk: bytes, torn: bool) -> None:
        at = 0
        if self.collecting:
            at = self._collect(chunk, 0)
        step = chunk.find(b"step:", at)
        mark = _first(chunk, at)
        while step >= 0 or mark[0] >= 0:
            if mark[0] >= 0 and (step < 0 or mark[0] < step):
                at = self._marked(chunk, *mark)
                mark = _first(chunk, at)
                if step < at:
                    step = chunk.find(b"step:", at)
                continue
            before = chunk[step - 1 : step]
            if before in (b"_", b"/", b".", b"-") or before.isalnum():
                step = chunk.find(b"step:", step + 5)
                continue
            match = _STEP.match(chunk, step)
            if match is None:
                step = chunk.find(b"step:", step + 5)
                continue
            end = chunk.find(b"\n", step)
            cut = torn and end < 0
            end = len(chunk) if end < 0 else end
            self._step_line(chunk, step, match, end, cut)
            step = chunk.find(b"step:", end)
            if 0 <= mark[0] < end:
                mark = _first(chunk, end)

    def _step_line(self, chunk: bytes, at: int, match: re.Match[bytes], end: int, torn: bool) -> None:
        body = chunk[match.end() + 3 : end]
        writer = self._writer(chunk, at)
        for plan in self.plans:  # nearly every line has the layout of one before
            if not torn and (values := plan.values(body)) is not None:
                return self._add(int(match[1]), plan, values, writer)
        if b"\r" in body:
            body = body.split(b"\r", 1)[0]
        if other := _NEXT.search(body):  # another process printed into this line, perhaps another step
            inner = _STEP.search(body, other.end())
            self._parse(int(match[1]), plain(body[: other.start()]), False, writer)
            if inner:
                start = match.end() + 3 + inner.start()
                self._step_line(chunk, start, _STEP.match(chunk, start), end, torn)  # type: ignore[arg-type]
            return
        self._parse(int(match[1]), plain(body), torn, writer)

    def _writer(self, chunk: bytes, at: int) -> bytes:
        """Which process printed the line that has its step at ``at``."""
        near = max(0, at - MAX_PREFIX)
        prefix = chunk[max(chunk.rfind(b"\n", near, at) + 1, near) : at]
        writer = self.prefixes.get(prefix)
        if writer is None:
            writer = tag(prefix[prefix.rfind(b"\r") + 1 :])[0]
            if len(self.prefixes) < 1000:
                self.prefixes[prefix] = writer
        return writer

    def _parse(self, step: int, body: bytes, torn: bool, writer: bytes) -> None:
        pairs = body.split(b" - ")
        if torn:  # the number of the last pair may have lost digits
            pairs = pairs[:-1]
            self.run.skipped.append(Skipped(self.path.name, 0, "torn last line: its last value"))
        plan = _Plan(pairs, self.mapping)
        if not plan.slashed:
            return  # prose such as "step:3 - then"
        self.bad_pairs += plan.bad
        if not plan.bad and not torn and len(self.plans) < MAX_PLANS:
            self.plans.append(plan)
        else:
            self.spare.update(plan.unused)
        self._add(step, plan, plan.read, writer)

    def _add(self, step: int, plan: _Plan, values: list[float], writer: bytes) -> None:
        if not self.writers or self.writers[-1] != writer:
            if writer in self.writers and self.writers[-1] and writer:
                raise ForeignLogError(
                    f"{self.path}: steps of two runs alternate ({writer.decode()}, {self.writers[-1].decode()}): "
                    "split the log by process before importing"
                )
            if self.writers and writer:
                self.run.rows.restart()
            self.writers.append(writer)
        plan.used += 1
        if plan.keys:
            self.run.rows.add(step, plan.keys, values, trained=plan.trained)

    # -- configuration and restarts ----------------------------------------------------------------------------------

    def _marked(self, chunk: bytes, at: int, what: bytes) -> int:
        start, end = chunk.rfind(b"\n", 0, at) + 1, chunk.find(b"\n", at)
        end = len(chunk) if end < 0 else end
        if end - start > MAX_CONFIG:
            return end
        who, line = tag(chunk[start:end])
        text = line.decode("utf-8", "replace")
        if what == b"trainer.n":
            self._override(text)
        elif what == b"actor_rollout_ref":
            kind = "dict" if text.lstrip().startswith("{'actor_rollout_ref'") else ""
            kind = "yaml" if text.strip() == "actor_rollout_ref:" else kind
            if kind and self.run.rows.count:  # a process that starts over
                self.run.rows.restart()
            if kind and not self.run.config:
                self.collecting = Collector(who, kind)
            elif not kind:
                self._override(text)
        elif what == b"Setting global step to " and self.run.rows.count:
            self.run.rows.restart()
        elif what == b"Model config after override" and self.run.model_config is None and "{" in text:
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


class _Plan:
    """One layout of step lines: an expression that fits lines with exactly these keys and gives the wanted values."""

    def __init__(self, pairs: list[bytes], mapping: TrainerMapping) -> None:
        self.keys: list[str] = []
        self.read: list[float] = []
        self.unused: list[str] = []
        self.bad = self.used = 0
        self.slashed = self.trained = False
        parts: list[bytes] = []
        held = b""
        for i, pair in enumerate(pairs):
            key, colon, raw = (held + pair).rpartition(b":")
            value = number(raw) if colon else None
            if value is None:
                # a name may contain the separator: join with what follows before giving up
                held = held + pair + b" - " if not colon and i + 1 < len(pairs) else b""
                self.bad += not held
                continue
            held = b""
            name = mapping.clean(key.decode("utf-8", "replace").strip())
            self.slashed |= "/" in name
            self.trained |= mapping.trains(name)
            wanted = mapping.wants(name) and name not in self.keys
            if wanted:
                self.keys.append(name)
                self.read.append(value)
            else:
                self.unused.append(name)
            parts.append(re.escape(key) + (b":([^ ]+)" if wanted else b":[^ ]+"))
        self._fit = re.compile(b" - ".join(parts)).fullmatch

    def values(self, body: bytes) -> list[float] | None:
        """The wanted values of a line, or None if the line has another layout."""
        found = self._fit(body)
        if found is None:
            return None
        try:
            return [float(raw) for raw in found.groups()]
        except ValueError:
            out = [number(raw) for raw in found.groups()]
            return None if None in out else out  # type: ignore[return-value]


def _first(chunk: bytes, at: int) -> tuple[int, bytes]:
    found = [
        (i, what)
        for what in (b"actor_rollout_ref", b"trainer.n", b"Setting global step to ", b"Model config after override")
        if (i := chunk.find(what, at)) >= 0
    ]
    return min(found, default=(-1, b""))


def _read_jsonl(path: Path, mapping: TrainerMapping, progress: Callable[[int], Any] | None) -> RawRun:
    run = RawRun(name=log_name(path), source="verl file logger", files=(str(path),), mapping=mapping, status="running")
    layouts: dict[tuple[str, ...], tuple[list[str], bool]] = {}
    line_number = 0
    for chunk, torn in chunks(path, progress):
        lines = chunk.split(b"\n")
        if not torn:
            lines.pop()
        for raw in lines:
            line_number += 1
            if not raw.strip():
                continue
            try:
                row = json.loads(raw)
                step, data = row["step"], row["data"]
                if not isinstance(step, int) or not isinstance(data, dict):
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError):
                reason = "torn last line" if torn else 'not {"step": N, "data": {...}}'
                run.skipped.append(Skipped(path.name, line_number, reason))
                continue
            names = tuple(data)
            if names not in layouts:
                kept = [n for n in names if mapping.wants(mapping.clean(n))]
                layouts[names] = kept, any(mapping.trains(mapping.clean(n)) for n in names)
                run.unused |= {n: 1 for n in names if n not in kept and number(data[n]) is not None}
            kept, trained = layouts[names]
            values = [number(data[n]) for n in kept]
            cleaned = [mapping.clean(n) for n in kept]
            run.rows.add(step, cleaned, [math.nan if v is None else v for v in values], trained=trained)
    if not run.rows.count:
        raise ForeignLogError(
            f'{path}: no line of the form {{"step": N, "data": {{...}}}}, as verl\'s file logger writes'
        )
    return run
