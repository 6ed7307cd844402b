"""A trainer's names and their meaning: which of its keys is which of our metrics, phases and scores.

`scaling.importers.mapping_file` reads one from YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Choice", "EvalRule", "TrainerMapping"]


@dataclass(frozen=True)
class Choice:
    """Keys of which the first that the run has is taken, times ``scale``."""

    keys: tuple[str, ...]
    scale: float = 1.0

    def pick(self, have: Mapping[str, int]) -> str | None:
        """The first key that the run has."""
        return next((key for key in self.keys if have.get(key)), None)


@dataclass(frozen=True)
class EvalRule:
    """A pattern of evaluation keys, such as ``val-core/{benchmark}/{variable}/mean@{k}``, and what its value is."""

    pattern: str
    value: str = "score"
    benchmark: str = ""
    scale: float = 1.0
    k: int | None = None

    @property
    def regex(self) -> re.Pattern[str]:
        """The pattern as an expression: ``{benchmark}`` may contain slashes, other parts (``{task}`` among them) may not."""
        parts = re.split(r"\{(\w+)\}", self.pattern)
        shapes = {"benchmark": r"(?P<benchmark>.+?)", "k": r"(?P<k>\d+)"}
        out = "".join(
            re.escape(part) if i % 2 == 0 else shapes.get(part, rf"(?P<{part}>[^/]+)") for i, part in enumerate(parts)
        )
        return re.compile(out + r"\Z")


@dataclass(frozen=True, kw_only=True)
class TrainerMapping:
    """One trainer's names and semantics. See docs/importing.md for the file behind it.

    Example:
        >>> from scaling.importers import load_mapping
        >>> verl = load_mapping("verl")
        >>> verl.metrics["entropy"].keys
        ('actor/entropy', 'actor/entropy_loss')
        >>> rank, rule, parts = verl.evaluation("val-core/math/acc/mean@8")
        >>> parts["benchmark"], parts["k"]
        ('math', '8')
    """

    trainer: str
    evidence: str = ""
    signature: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    step: tuple[str, ...] = ()
    run: str | None = None
    metrics: Mapping[str, Choice] = field(default_factory=dict)
    quantities: Mapping[str, Choice] = field(default_factory=dict)
    phases: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)
    costs: Mapping[str, Choice] = field(default_factory=dict)
    evals: tuple[EvalRule, ...] = ()
    derive: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    semantics: Mapping[str, Any] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        exact: set[str] = set()
        for choice in (
            *self.metrics.values(),
            *self.quantities.values(),
            *self.costs.values(),
            *(c for p in self.phases.values() for c in p),
        ):
            exact |= set(choice.keys)
        object.__setattr__(self, "_exact", exact | set(self.step) | ({self.run} if self.run else set()))
        measured = {
            key
            for name in ("evaluation", "checkpoint", "overhead")
            for c in self.phases.get(name, ())
            for key in c.keys
        }
        clock = set(self.quantities["elapsed_seconds"].keys) if "elapsed_seconds" in self.quantities else set()
        object.__setattr__(self, "_trains", exact - measured - clock)
        object.__setattr__(self, "_rules", [(rule, rule.regex) for rule in self.evals])

    def clean(self, key: str) -> str:
        """A key without the prefixes that a tracker puts before this trainer's names."""
        for prefix in self.strip:
            if key.startswith(prefix):
                return key[len(prefix) :]
        return key

    def steps(self, keys: Iterable[str]) -> list[str]:
        """Those of a run's keys that hold the step, the preferred first, a tracker's prefix or not."""
        keys = list(keys)
        exact = [s for s in self.step if s in keys]
        return exact + [k for s in self.step for k in keys if k not in exact and self.clean(k) == s]

    def wants(self, key: str) -> bool:
        """Whether the mapping has a use for a (cleaned) key."""
        return key in self._exact or self.evaluation(key) is not None  # type: ignore[attr-defined]

    def trains(self, key: str) -> bool:
        """Whether a (cleaned) key is of an optimiser step, not of an evaluation, a checkpoint or a clock."""
        return key in self._trains  # type: ignore[attr-defined]

    def evaluation(self, key: str) -> tuple[int, EvalRule, dict[str, str]] | None:
        """The first evaluation rule that fits a key: its rank, itself and the parts of the name."""
        if key in self.step:
            return None
        for rank, (rule, regex) in enumerate(self._rules):  # type: ignore[attr-defined]
            match = regex.match(key)
            if match:
                return rank, rule, {k: v for k, v in match.groupdict().items() if v is not None}
        return None

    def likeness(self, keys: Iterable[str]) -> int:
        """How many keys of a run carry this trainer's signature."""
        return sum(1 for key in keys if any(self.clean(key).startswith(s) or key.startswith(s) for s in self.signature))
