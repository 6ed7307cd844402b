"""Checks of a task against a model before training: chat template, room for the completion. One line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scaling.errors import ConfigError

__all__ = ["preflight", "prompt_length"]


def preflight(
    task: Any,
    tokenizer: Any,
    *,
    rows: Sequence[dict[str, Any]],
    max_completion_length: int = 0,
    positions: int | None = None,
) -> list[str]:
    """Refuse what would fail or mislead later; return the task's notes, to be printed.

    Args:
        task: a built task.
        tokenizer: of the model.
        rows: training rows; the first 512 are measured.
        max_completion_length: override of the task's own length, 0 for none [token].
        positions: the model's context, e.g. ``model.config.max_position_embeddings`` [token]; None if not known.

    Raises:
        ConfigError: chat prompts without a chat template, or prompt and completion exceed the context.
    """
    prompts = [row["prompt"] for row in rows[:512]]
    chat = [prompt for prompt in prompts if not isinstance(prompt, str)]
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "the task's prompts are chat messages and the tokenizer has no chat template; set task.chat=false (text prompts), "
            "or model.chat_template to a Jinja file, or take an instruct model"
        )
    length = max_completion_length or task.max_completion_length
    longest = max((prompt_length(prompt, tokenizer) for prompt in prompts), default=0)
    if positions is not None and longest + length > positions:
        room = positions - longest
        raise ConfigError(
            f"a prompt of {longest} tokens and a completion of {length} exceed the model's context of {positions}; "
            + (f"set task.max_completion_length to at most {room}" if room > 0 else "the prompts alone do not fit")
        )
    return list(task.notes()) if hasattr(task, "notes") else []


def prompt_length(prompt: Any, tokenizer: Any) -> int:
    """Tokens of a prompt, text or chat messages, as the policy is given it [token]."""
    if isinstance(prompt, str):
        return len(tokenizer(prompt)["input_ids"])
    return len(
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    )
