"""Reading a `TrainerMapping` from YAML or a dictionary, every name in it checked.

The files in ``mappings/`` are the shipped ones, docs/importing.md explains each section. Nothing in a mapping is
executed: expressions are sums, differences, products and quotients of names and numbers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scaling.cost import COST_FIELDS
from scaling.errors import ConfigError, ForeignLogError, UnknownName
from scaling.importers.expression import Expression
from scaling.importers.mapping import Choice, EvalRule, TrainerMapping
from scaling.importers.names import METRICS, PHASES, QUANTITIES, SEMANTICS
from scaling.importers.values import number

__all__ = ["load_mapping", "recognise", "shipped"]

_SECTIONS = {
    "trainer", "evidence", "documentation", "signature", "strip", "step", "run", "metrics", "quantities", "phases", "costs", "evals",
    "derive", "constants", "semantics", "gpus", "config",
}  # fmt: skip


@functools.cache
def shipped() -> tuple[str, ...]:
    """Names of the mappings that come with the package.

    Example:
        >>> "verl" in shipped()
        True
    """
    folder = resources.files("scaling.importers") / "mappings"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml")))


@functools.cache
def _shipped(name: str) -> TrainerMapping:
    text = (resources.files("scaling.importers") / "mappings" / f"{name}.yaml").read_text(encoding="utf-8")
    return _build(_parse(text, name), name)


def load_mapping(source: str | Path | Mapping[str, Any]) -> TrainerMapping:
    """A mapping by its shipped name, from a YAML file, or from a dictionary.

    A flat dictionary is read as our name -> their key (``{"reward": "reward_avg"}``), or the other way round where the
    values are our names. Evaluations are named ``eval/<benchmark>`` in it.

    Raises:
        UnknownName: no such mapping, metric, quantity or phase.
        ConfigError: the file is not such YAML, or maps two keys to one name.

    Example:
        >>> load_mapping("trl").trainer
        'trl'
        >>> load_mapping({"step": "iteration", "reward": "avg_reward"}).metrics["reward"].keys
        ('avg_reward',)
    """
    if isinstance(source, Mapping):
        return _build(dict(source), "the mapping")
    name = str(source)
    if name in shipped():
        return _shipped(name)
    path = Path(source)
    if not path.is_file():
        raise UnknownName(f"mapping must be a YAML file or one of {', '.join(shipped())}; got {name!r}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mapping {path} must be a readable UTF-8 text: {error}") from error
    return _build(_parse(text, str(path)), str(path))


def recognise(keys: Iterable[str], where: str) -> TrainerMapping:
    """The shipped mapping whose trainer's names a run uses most.

    Raises:
        ForeignLogError: they are those of no trainer known here.
    """
    keys = list(keys)
    mappings = [load_mapping(name) for name in shipped()]
    ranked = sorted(((m.likeness(keys), m) for m in mappings), key=lambda pair: -pair[0])
    if not ranked or ranked[0][0] == 0:
        raise ForeignLogError(
            f"{where}: its keys are those of no trainer known ({', '.join(m.trainer for m in mappings)}): pass --mapping; "
            f"first keys: {', '.join(keys[:6]) or '(none)'}"
        )
    return ranked[0][1]


class _OnceLoader(yaml.SafeLoader):
    """Safe YAML in which a name may stand once only: the second would silently replace the first."""


def _construct(loader: _OnceLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=deep)
        if key in out:
            raise ConfigError(
                f"line {key_node.start_mark.line + 1}: {key!r} is given twice; keep one, list alternatives as 'a | b'"
            )
        out[key] = loader.construct_object(value_node, deep=True)
    return out


_OnceLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        body = yaml.load(text, _OnceLoader)  # a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{where}, {error}") from error
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where} must be YAML: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict):
        raise ConfigError(f"{where} must be a YAML mapping of names, got {type(body).__name__}")
    return body


def _build(body: dict[str, Any], where: str) -> TrainerMapping:
    if not _SECTIONS - {"step", "run"} & body.keys():
        body = _from_flat(body, where)
    if unknown := sorted(set(body) - _SECTIONS):
        raise UnknownName(f"{where}: sections must be among {', '.join(sorted(_SECTIONS))}; got {', '.join(unknown)}")
    metrics = {k: _choice(v, f"{where}, metrics.{k}") for k, v in _section(body, "metrics", where).items()}
    quantities = {k: _choice(v, f"{where}, quantities.{k}") for k, v in _section(body, "quantities", where).items()}
    phases: dict[str, tuple[Choice, ...]] = {}
    for name, keys in _section(body, "phases", where).items():
        if name not in PHASES:
            raise UnknownName(f"{where}: phases must be among {', '.join(PHASES)}; got {name!r}")
        phases[name] = tuple(
            _choice(k, f"{where}, phases.{name}") for k in (keys if isinstance(keys, list) else [keys])
        )
    for name in quantities:
        if name not in QUANTITIES:
            raise UnknownName(f"{where}: quantities must be among {', '.join(QUANTITIES)}; got {name!r}")
    costs = {k: _choice(v, f"{where}, costs.{k}") for k, v in _section(body, "costs", where).items()}
    if unknown := sorted(set(costs) - set(COST_FIELDS)):
        raise UnknownName(f"{where}: costs must be among {', '.join(COST_FIELDS)}; got {', '.join(unknown)}")
    used: dict[str, str] = {}
    for name, choice in (*metrics.items(), *quantities.items()):
        for key in choice.keys:
            if key in used and name in METRICS and used[key] in METRICS:
                raise ConfigError(
                    f"{where}: key {key!r} must have one meaning, it is mapped to {used[key]} and to {name}"
                )
            used[key] = name
    derive = {k: str(v) for k, v in _section(body, "derive", where).items()}
    for name, text in derive.items():
        Expression(text, f"{where}, derive.{name}")
    semantics = _section(body, "semantics", where)
    for name, value in semantics.items():
        if name not in SEMANTICS:
            raise UnknownName(f"{where}: semantics must be among {', '.join(SEMANTICS)}; got {name!r}")
        allowed = SEMANTICS[name]
        if allowed is not None and value not in allowed:
            raise ConfigError(f"{where}: semantics.{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")
    quantities.setdefault("elapsed_seconds", Choice(("_runtime",)))  # W&B's clock, and ours for other trackers
    evals = _evals(body.get("evals") or [], where)
    constants: dict[str, float] = {}
    for name, value in _section(body, "constants", where).items():
        if (held := number(value)) is None:
            raise ConfigError(f"{where}: constants.{name} must be a number, got {value!r}")
        constants[name] = held
    return TrainerMapping(
        trainer=str(body.get("trainer", "table")), evidence=str(body.get("evidence", "")),
        signature=_words(body.get("signature")), strip=_words(body.get("strip")),
        step=tuple(k for c in [body.get("step", "step")] for k in _choice(c, f"{where}, step").keys),
        run=None if body.get("run") is None else str(body["run"]),
        metrics=metrics, quantities=quantities, phases=phases, costs=costs, evals=evals, derive=derive, constants=constants,
        semantics=semantics, gpus=_words(body.get("gpus")),
        config={k: str(v) for k, v in _section(body, "config", where).items()},
    )  # fmt: skip


def _from_flat(body: dict[str, Any], where: str) -> dict[str, Any]:
    known = {*METRICS, *QUANTITIES, "step", "run"}

    def ours(name: Any) -> bool:
        return isinstance(name, str) and (name in known or name.startswith("eval/"))

    if not all(ours(k) for k in body) and all(ours(v) for v in body.values()):
        turned: dict[str, Any] = {}
        for theirs, name in body.items():
            if name in turned:
                raise ConfigError(
                    f"{where}: {turned[name]!r} and {theirs!r} are both mapped to {name}; keep one of them"
                )
            turned[name] = theirs
        body = turned
    if foreign := [str(k) for k in body if not ours(k)]:
        raise UnknownName(
            f"{where}: names must be among {', '.join(sorted(known))} or eval/<benchmark>; got {', '.join(foreign)}"
        )
    out: dict[str, Any] = {"trainer": "table", "metrics": {}, "quantities": {}, "evals": {}}
    for name, key in body.items():
        if name in ("step", "run"):
            out[name] = key
        elif name.startswith("eval/"):
            out["evals"][name[5:]] = key
        else:
            out["metrics" if name in METRICS else "quantities"][name] = key
    return out


def _evals(section: Any, where: str) -> tuple[EvalRule, ...]:
    if isinstance(section, Mapping):  # benchmark -> key, or -> {key, scale, k}
        items = [{"benchmark": name, **(v if isinstance(v, Mapping) else {"key": v})} for name, v in section.items()]
    elif isinstance(section, list):
        items = [v if isinstance(v, Mapping) else {"key": v} for v in section]
    else:
        raise ConfigError(f"{where}: evals must be a list of patterns or a mapping of benchmarks, got {section!r}")
    rules = []
    for item in items:
        if unknown := sorted(set(item) - {"key", "value", "benchmark", "scale", "k"}):
            raise UnknownName(
                f"{where}: an evaluation has key, value, benchmark, scale and k; got {', '.join(unknown)}"
            )
        if not isinstance(item.get("key"), str):
            raise ConfigError(f"{where}: an evaluation needs the text 'key', got {dict(item)!r}")
        if not re.search(r"\{(benchmark|task)\}", item["key"]) and not item.get("benchmark"):
            raise ConfigError(f"{where}: evaluation {item['key']!r} needs {{benchmark}} in its key, or 'benchmark'")
        for key in item["key"].split(" | "):
            rules.append(
                EvalRule(
                    pattern=key.strip(),
                    value=str(item.get("value", "score")),
                    benchmark=str(item.get("benchmark", "")),
                    scale=_scale(item, where),
                    k=item.get("k"),
                )  # fmt: skip
            )
    return tuple(rules)


def _choice(value: Any, where: str) -> Choice:
    scale = 1.0
    if isinstance(value, Mapping):
        if unknown := sorted(set(value) - {"key", "scale"}):
            raise UnknownName(f"{where} has key and scale; got {', '.join(map(str, unknown))}")
        scale, value = _scale(value, where), value.get("key")
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} must name a key ('a', or alternatives 'a | b'), got {value!r}")
    return Choice(tuple(part.strip() for part in value.split(" | ")), scale)


def _scale(value: Mapping[str, Any], where: str) -> float:
    scale = number(value.get("scale", 1.0))
    if scale is None or not np.isfinite(scale) or scale == 0:
        raise ConfigError(f"{where}: scale must be a number other than 0, got {value.get('scale')!r}")
    return scale


def _section(body: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    section = body.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"{where}: {name} must be a mapping of names, got {type(section).__name__}")
    return {str(k): v for k, v in section.items()}


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
