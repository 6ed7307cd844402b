"""The configuration in a verl console log: a printed dictionary, YAML, the overrides of the command line, a model's JSON."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

import yaml

__all__ = ["MAX_CONFIG", "Collector", "nested", "scalar"]

MAX_CONFIG = 1 << 21
_YAML_LINE = re.compile(r"^\s*(?:-\s.*|[\w.'\"-]+:(?:\s.*)?)$")


class Collector:
    """Collects the lines of one dump: a dictionary or JSON until its brackets close, YAML until the first other line."""

    def __init__(self, who: bytes, kind: str) -> None:
        self.who, self.kind = who, kind
        self.lines: list[str] = []
        self.size = self.depth = 0
        self.closed = self.ended_before = False

    def feed(self, text: str) -> None:
        """Take the next line of the process."""
        self.size += len(text)
        if self.kind == "yaml":
            if text.strip() and not _YAML_LINE.match(text):
                self.closed = self.ended_before = True
                return
            self.lines.append(text)
        else:
            self.lines.append(text)
            bare = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "", text)
            self.depth += sum(bare.count(c) for c in "{[(") - sum(bare.count(c) for c in "}])")
            self.closed = self.depth <= 0
        if self.size > MAX_CONFIG:
            self.closed = True

    def value(self) -> dict[str, Any] | None:
        """The dump as a dictionary; of one that does not parse, what the number of GPUs needs; else None."""
        text = "\n".join(self.lines)
        try:
            if self.kind == "dict":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of Python's parser, about texts that are no literals
                    out = ast.literal_eval(re.sub(r"(?<=[:\s\[,])(-?)(inf|nan)(?=[,}\]\s])", "None", text))
            elif self.kind == "json":
                out = json.loads(text)
            else:
                out = yaml.safe_load(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError, yaml.YAMLError):
            return self._leaves(text)
        return out if isinstance(out, dict) else None

    def _leaves(self, text: str) -> dict[str, Any] | None:
        """What is needed most, from a dump that does not parse (objects print as ``<...>``)."""
        section = text[text.find("'trainer':") :]
        found = {
            name: int(match[1])
            for name in ("n_gpus_per_node", "nnodes")
            if (match := re.search(rf"'?{name}'?\s*:\s*(\d+)", section))
        }
        return {"trainer": found} if "n_gpus_per_node" in found and self.kind != "json" else None


def scalar(text: str) -> Any:
    """The value of an override."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted names as nested dictionaries."""
    out: dict[str, Any] = {}
    for path, value in flat.items():
        here = out
        *parents, leaf = path.split(".")
        for part in parents:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                break
        else:
            here[leaf] = value
    return out
