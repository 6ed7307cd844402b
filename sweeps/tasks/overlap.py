"""Overlap of training and evaluation prompts, by word n-grams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sweeps.tasks.controls import text_of

__all__ = ["ngram_overlap", "same_text"]

_WORD = re.compile(r"\w+")


def ngram_overlap(training: Sequence[Any], evaluation: Sequence[Any], *, n: int = 13) -> list[int]:
    """Indices of evaluation prompts that share a run of ``n`` words with a training prompt, case and marks ignored.

    Prompts shorter than ``n`` words count when all of their words, in order, are a whole training prompt. The length of
    13 is that of GPT-3's contamination study (Brown et al. 2020, arXiv:2005.14165, appendix C).

    Example:
        >>> ngram_overlap(["one two three four five"], ["zero two three four", "two four"], n=3)
        [0]
    """
    seen: set[int] = set()
    whole: set[int] = set()
    for prompt in training:
        words = _words(prompt)
        whole.add(hash(words))
        seen.update(_grams(words, n))
    found = []
    for i, prompt in enumerate(evaluation):
        words = _words(prompt)
        if hash(words) in whole or any(gram in seen for gram in _grams(words, n)):
            found.append(i)
    return found


def same_text(prompt: Any) -> tuple[str, ...]:
    """What two prompts have in common when they are the same up to case, spaces and marks."""
    return _words(prompt)


def _words(prompt: Any) -> tuple[str, ...]:
    return tuple(_WORD.findall(text_of(prompt).lower()))


def _grams(words: tuple[str, ...], n: int) -> set[int]:
    return {hash(words[i : i + n]) for i in range(len(words) - n + 1)}
