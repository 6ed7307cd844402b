"""The records' schema v1 as JSON Schema (draft 2020-12), and a validator of the keywords it uses.

The published files under docs/schema/ are written from here (``python -m scaling.schema docs/schema``), and the lists
in them come from the code that reads records, so the two cannot drift apart. Full JSON Schema validators accept the
same files; ours exists so that ``rl-scaling check`` needs no further package.

A rule that JSON Schema cannot state, and `scaling.records.check_eval` does: no success count is larger than ``k``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scaling.cost import COST_FIELDS
from scaling.records import CONFIDENCE, SCHEMA_VERSION, STAGES

__all__ = ["SCHEMAS", "violation", "write_schemas"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NUMBER = {"type": "number", "minimum": 0}
_OPTIONAL_NUMBER = {"type": ["number", "null"], "minimum": 0}
_OPTIONAL_TEXT = {"type": ["string", "null"]}

_COST = {
    "type": "object",
    "description": (
        "Fields of the ledger that are not zero: FLOPs [FLOP], GPU-seconds [GPU s], tokens [token], rollouts [1]."
    ),
    "properties": {name: _NUMBER for name in COST_FIELDS},
    "additionalProperties": False,
}
_SEGMENT = {"type": "integer", "description": "Number of the process that wrote the line, from 0."}
_STEP = {"type": "integer", "minimum": 0, "description": "Optimiser step; 0 is the base model."}

_STAGE = {
    "type": "object",
    "required": ["stage"],
    "properties": {
        "stage": {"enum": list(STAGES)},
        "flops": {**_OPTIONAL_NUMBER, "description": "Model FLOPs of the stage [FLOP]."},
        "gpu_hours": {**_OPTIONAL_NUMBER, "description": "Devices x wall time of the stage [GPU h]."},
        "tokens": {**_OPTIONAL_NUMBER, "description": "Tokens trained on [token]."},
        "loss": {**_OPTIONAL_NUMBER, "description": "Loss on held-out text at the end [nat]."},
        "source": {**_OPTIONAL_TEXT, "description": "Where the numbers are from: measured here, or a citation."},
    },
}
_SEGMENT_ENTRY = {
    "type": "object",
    "properties": {
        "start": {**_OPTIONAL_TEXT, "description": "UTC time, ISO 8601."},
        "end": {**_OPTIONAL_TEXT, "description": "UTC time, ISO 8601; null while it runs or where it was killed."},
        "host": _OPTIONAL_TEXT,
        "cause": {**_OPTIONAL_TEXT, "description": "How it ended: finished, budget, interrupted, failed."},
        "resumed_from": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "Step of the checkpoint it began at.",
        },
        "git_commit": _OPTIONAL_TEXT,
        "packages": {"type": ["object", "null"], "description": "Package -> version."},
    },
}

RUN_SCHEMA: dict[str, Any] = {
    "$schema": _DIALECT,
    "title": "run.json",
    "description": "What a run is. Replaced atomically; keys that are not listed are kept and ignored.",
    "type": "object",
    "required": ["run_id", "schema_version"],
    "properties": {
        "schema_version": {"const": SCHEMA_VERSION},
        "run_id": {"type": "string", "minLength": 1, "description": "Hash of all that affects the weights."},
        "recipe_hash": {"type": "string", "description": "The same less model, seeds and accelerator."},
        "base_hash": {"type": "string", "description": "Hash of the pretraining."},
        "name": {"type": "string"},
        "sweep": {"type": "string"},
        "config": {"type": "object", "description": "The resolved configuration."},
        "model": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "params": {**_OPTIONAL_NUMBER, "description": "Parameters, embeddings included [1]."},
                "revision": _OPTIONAL_TEXT,
                "dtype": _OPTIONAL_TEXT,
            },
        },
        "accelerator": {"type": "string", "description": "Name as scaling.hardware knows it, or cpu."},
        "devices": {"type": "integer", "minimum": 0, "description": "Devices allocated, all roles together [1]."},
        "shared": {"type": "boolean", "description": "Several runs on the device at once: hours are not fitted."},
        "stages": {"type": "array", "items": _STAGE},
        "init_from": {**_OPTIONAL_TEXT, "description": "run_id of the parent run."},
        "segments": {"type": "array", "items": _SEGMENT_ENTRY},
        "confidence": {"enum": list(CONFIDENCE), "description": "How the cost was obtained."},
        "provenance": {"type": "object"},
        "benchmarks": {"type": "object"},
        "status": {"type": "string"},
    },
}

STEP_SCHEMA: dict[str, Any] = {
    "$schema": _DIALECT,
    "title": "a line of steps.jsonl",
    "description": "An optimiser step. The cost is the increment since the last line of the segment.",
    "type": "object",
    "required": ["step"],
    "properties": {
        "segment": _SEGMENT,
        "step": _STEP,
        "cost": _COST,
        "metrics": {"type": "object", "description": "Name -> value; the names are in the table of metrics."},
    },
}

EVAL_SCHEMA: dict[str, Any] = {
    "$schema": _DIALECT,
    "title": "a line of evals.jsonl",
    "description": "An evaluation. The cost is cumulative: what the run had cost when the weights were evaluated.",
    "type": "object",
    "required": ["step", "benchmark"],
    "properties": {
        "segment": _SEGMENT,
        "step": _STEP,
        "cost": _COST,
        "benchmark": {"type": "string", "minLength": 1},
        "k": {"type": ["number", "null"], "description": "Completions sampled per item."},
        "sampling": {
            "type": ["object", "null"],
            "properties": {
                "decoding": {"type": "string", "description": "sampled, greedy, ..."},
                "temperature": {"type": ["number", "null"]},
            },
        },
        "metrics": {"type": ["object", "null"], "description": "Name -> value, measured beside the score."},
    },
    "anyOf": [
        {
            "required": ["successes", "k"],
            "properties": {
                "k": {"type": "integer", "minimum": 1},
                "successes": {
                    "type": "array",
                    "items": _NUMBER,
                    "description": "Correct completions of each item, 0..k.",
                },
            },
        },
        {
            "required": ["score"],
            "properties": {
                "successes": {"type": "null"},
                "score": {"type": "number", "description": "Where counts are unknown."},
            },
        },
    ],
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "run.schema.json": RUN_SCHEMA,
    "steps.schema.json": STEP_SCHEMA,
    "evals.schema.json": EVAL_SCHEMA,
}


def violation(value: Any, schema: Mapping[str, Any], where: str = "") -> str | None:
    """The first way in which ``value`` breaks ``schema``, with the key it is at, or None.

    Args:
        value: parsed JSON.
        schema: one of `SCHEMAS`; the keywords type, const, enum, minimum, minLength, required, properties,
            additionalProperties (false), items and anyOf are understood.
        where: path to ``value``, for the message.

    Example:
        >>> violation({"step": -1}, STEP_SCHEMA)
        'step: must be >= 0, got -1'
    """
    for keyword, check in _CHECKS.items():
        if keyword in schema:
            found = check(value, schema, where)
            if found:
                return found
    return None


def write_schemas(folder: Path) -> list[Path]:
    """Write the published schema files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for name, schema in SCHEMAS.items():
        target = folder / name
        target.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
        out.append(target)
    return out


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, Mapping),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v),
    "integer": lambda v: (isinstance(v, int) and not isinstance(v, bool)) or (isinstance(v, float) and v.is_integer()),
}


def _type(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    allowed = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if any(_TYPES[name](value) for name in allowed):
        return None
    return f"{_at(where)}must be {' or '.join(allowed)}, got {_short(value)}"


def _const(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    same = value == schema["const"] and not isinstance(value, bool)
    return None if same else f"{_at(where)}must be {schema['const']!r}, got {_short(value)}"


def _enum(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    return (
        None
        if value in schema["enum"]
        else f"{_at(where)}must be one of {', '.join(schema['enum'])}, got {_short(value)}"
    )


def _minimum(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    if _TYPES["number"](value) and value < schema["minimum"]:
        return f"{_at(where)}must be >= {schema['minimum']}, got {_short(value)}"
    return None


def _min_length(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    short = isinstance(value, str) and len(value) < schema["minLength"]
    return f"{_at(where)}must not be empty" if short else None


def _required(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    lacking = [key for key in schema["required"] if isinstance(value, Mapping) and key not in value]
    return f"{_at(where)}lacks {', '.join(lacking)}" if lacking else None


def _properties(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    if not isinstance(value, Mapping):
        return None
    for key, part in schema["properties"].items():
        if key in value:
            found = violation(value[key], part, f"{where}.{key}" if where else key)
            if found:
                return found
    return None


def _additional(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    if not isinstance(value, Mapping) or schema["additionalProperties"] is not False:
        return None
    unknown = [key for key in value if key not in schema.get("properties", {})]
    return f"{_at(where)}has unknown {', '.join(map(str, unknown[:3]))}" if unknown else None


def _items(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    for i, entry in enumerate(value if isinstance(value, list) else []):
        found = violation(entry, schema["items"], f"{where}[{i}]")
        if found:
            return found
    return None


def _any_of(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    found = [violation(value, part, where) for part in schema["anyOf"]]
    return None if None in found else " or ".join(f for f in found if f)


_CHECKS: dict[str, Callable[[Any, Mapping[str, Any], str], str | None]] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "minimum": _minimum,
    "minLength": _min_length,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
    "anyOf": _any_of,
}


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


if __name__ == "__main__":
    for written in write_schemas(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schema")):
        print(written)
