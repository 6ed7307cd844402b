"""Compose many rows quickly: Hydra composes each choice of groups once, plain values are set on top.

A row of a grid usually differs from its neighbour in one number, and composing it anew takes Hydra a tenth of a second.
Whatever is not certainly equivalent (added or deleted keys, dictionaries, keys that an interpolation refers to) is left
to Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

__all__ = ["Composer"]

REFERENCE = re.compile(r"\$\{([^${}]*)\}")
WORD = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
MISSING = object()


class Composer:
    """Composes rows of one multirun into plain, resolved dictionaries.

    Args:
        config_loader: Hydra's, of the running application.
        master: the composed configuration of the multirun itself.
    """

    def __init__(self, config_loader: Any, master: DictConfig) -> None:
        self.loader, self.master = config_loader, master
        self.parser = OverridesParser.create(config_loader=config_loader)
        self._bases: dict[tuple[str, ...], tuple[dict[str, Any], frozenset[str]]] = {}
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The configuration of one row, ``hydra`` left out."""
        simple = {text: self._simple(text) for text in overrides}
        base, referenced = self._base(tuple(text for text in overrides if simple[text] is None))
        values = [override for override in simple.values() if override is not None]
        if not all(_settable(base, referenced, o.key_or_group) for o in values):
            return self._full(overrides)[0]
        out = dict(base)
        for override in values:
            _set(out, override.key_or_group.split("."), override.value())
        return out

    def _simple(self, text: str) -> Override | None:
        """The override, if it sets a key to a scalar or a list of scalars."""
        if text not in self._parsed:
            self._parsed[text] = self.parser.parse_overrides([text])[0]
        override = self._parsed[text]
        key = override.key_or_group
        if (
            override.type != OverrideType.CHANGE
            or override.package is not None
            or key.startswith("hydra")
            or "/" in key
        ):
            return None
        if key not in self._groups:
            self._groups[key] = bool(self.loader.get_group_options(key))
        value = override.value()
        plain = not isinstance(value, dict) and "${" not in text and "???" not in text
        if isinstance(value, list):
            plain = plain and all(v is None or isinstance(v, (bool, int, float, str)) for v in value)
        return override if plain and not self._groups[key] else None

    def _base(self, overrides: tuple[str, ...]) -> tuple[dict[str, Any], frozenset[str]]:
        if overrides not in self._bases:
            self._bases[overrides] = self._full(overrides)
        return self._bases[overrides]

    def _full(self, overrides: Sequence[str]) -> tuple[dict[str, Any], frozenset[str]]:
        config = self.loader.load_sweep_config(self.master, list(overrides))
        with open_dict(config):
            del config["hydra"]
        raw = OmegaConf.to_container(config, resolve=False)
        return OmegaConf.to_container(config, resolve=True), frozenset(_references(raw))  # type: ignore[return-value]


def _settable(base: dict[str, Any], referenced: frozenset[str], key: str) -> bool:
    """Whether setting ``key`` changes that one leaf and nothing that refers to it."""
    node: Any = base
    for part in key.split("."):
        node = node.get(part, MISSING) if isinstance(node, dict) else MISSING
    if node is MISSING or isinstance(node, dict):
        return False
    return "" not in referenced and not any(
        r == key or r.startswith(f"{key}.") or key.startswith(f"{r}.") for r in referenced
    )


def _set(body: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a leaf, copying the dictionaries on the way: the base is shared by all rows."""
    for part in path[:-1]:
        body[part] = dict(body[part])
        body = body[part]
    body[path[-1]] = value


def _references(value: Any) -> set[str]:
    """Keys that interpolations may read; ``""`` stands for one that cannot be told (relative or nested).

    Of a resolver's arguments every dotted word counts as a key: ``${oc.select:a.b,1.0}`` may read ``a.b``.
    """
    if isinstance(value, dict):
        return {r for child in value.values() for r in _references(child)}
    if isinstance(value, list):
        return {r for child in value for r in _references(child)}
    if not isinstance(value, str) or "${" not in value:
        return set()
    found = REFERENCE.findall(value)
    if value.count("${") != len(found):
        return {""}
    keys: set[str] = set()
    for inner in found:
        resolver, colon, arguments = inner.partition(":")
        parts = arguments.split(",") if colon else [resolver]
        if any(part.strip().startswith(".") or "[" in part for part in parts):
            return {""}
        keys.update(word for part in parts for word in WORD.findall(part))
    return keys
