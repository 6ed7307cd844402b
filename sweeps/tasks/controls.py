"""Reward controls: what a run learns from a reward that carries no information about correctness."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

__all__ = ["RewardKind", "as_reward", "coin"]

RewardKind = Literal["correct", "random", "format"]


def as_reward(
    kind: RewardKind,
    *,
    correct: Callable[[Sequence[str], Sequence[str]], list[float]],
    well_formed: Callable[[Sequence[str]], list[float]],
) -> Callable[..., list[float]]:
    """A reward function with TRL's signature, named ``correct``, ``random`` or ``format`` in every log.

    Args:
        kind: which of the three.
        correct: completions and answers to 1.0 or 0.0, each ``(n,)``.
        well_formed: completions to 1.0 or 0.0, ``(n,)``.
    """

    def reward(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
        texts = [text_of(completion) for completion in completions]
        if kind == "random":
            return coin([text_of(prompt) for prompt in prompts], texts)
        return well_formed(texts) if kind == "format" else correct(texts, answer)

    reward.__name__ = kind
    return reward


def coin(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """1.0 or 0.0 with equal chance, from a hash of prompt, completion and place in the batch: no state, so runs resume exactly.

    Example:
        >>> coin(["a", "a"], ["b", "b"]) == coin(["a", "a"], ["b", "b"])
        True
    """
    return [
        float(zlib.crc32(f"{i}\x1f{p}\x1f{c}".encode()) & 1)
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]


def text_of(message: Any) -> str:
    """The text of a prompt or completion, plain or as a list of chat messages (the last message's content)."""
    if isinstance(message, str):
        return message
    return str(message[-1]["content"]) if message else ""
