"""What a task is: training rows, held-out benchmarks and a verifier. Each task family is a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Benchmark", "Task"]


@dataclass(frozen=True)
class Benchmark:
    """Held-out problems with one way of scoring.

    Attributes:
        name: as it appears in records and W&B, e.g. ``held_out``.
        prompts: one prompt a problem (text, or chat messages), shape ``(n_items,)``.
        answers: gold answers, shape ``(n_items,)``.
        guess_rate: probability that a blind guess in the answer's format is right, 0 to 1.
        max_completion_length: completions are cut here [token].
    """

    name: str
    prompts: Sequence[Any]
    answers: Sequence[str]
    guess_rate: float
    max_completion_length: int


class Task(Protocol):
    """A dataset, its prompts and its verifiable reward."""

    name: str
    max_completion_length: int

    def training_rows(self, *, n: int, seed: int) -> list[dict[str, Any]]:
        """``n`` rows with ``prompt``, ``answer`` and what rewards need; none of them is in a benchmark."""
        ...

    def benchmarks(self) -> dict[str, Benchmark]:
        """Held-out benchmarks by name; the first is the training distribution's own held-out set."""
        ...

    def reward_functions(self) -> list[Callable[..., list[float]]]:
        """Reward functions with TRL's signature ``f(prompts=, completions=, **columns) -> rewards``; named by ``__name__``."""
        ...

    def verify(self, completions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """1.0 where a completion is correct, else 0.0; shape ``(n,)``."""
        ...
