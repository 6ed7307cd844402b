"""Forced interruption: a completion that is still open after so many tokens is told to answer, and finishes from there.

The telling text is part of the completion, which the reward sees, and is masked out of the loss: the policy did not choose
it. ScaleRL, arXiv:2510.13786, section 3.3; Hong et al. 2025 (GLM-4.1V-Thinking), arXiv:2507.01006.
"""

from __future__ import annotations

from typing import Any

from sweeps.recipes import RecipeSwitches, refuse

_Base: Any = object  # a `GRPOTrainer`, put beside the mixin by `trainer_class`

__all__ = ["InterruptionMixin"]


class InterruptionMixin(_Base):
    """Generates in two parts where needed."""

    recipe: RecipeSwitches

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.use_vllm:
            refuse("interrupt_after", "grpo.vllm=off", "vLLM")
        self._told: list[int] = self.processing_class(self.recipe.interruption, add_special_tokens=False)["input_ids"]
        room = self.max_completion_length - self.recipe.interrupt_after - len(self._told)
        if room < 1:
            refuse(
                "interrupt_after",
                f"room for the {len(self._told)} tokens of the interruption and an answer within max_completion_length={self.max_completion_length}",
                self.recipe.interrupt_after,
            )
        self._answer_room = room
        self._own_tokens: list[list[int]] = []  # 1 where the policy chose the token, of the last generation

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        whole = self.generation_config.max_new_tokens
        try:
            self.generation_config.max_new_tokens = self.recipe.interrupt_after
            first, logprobs, *rest = super()._generate_single_turn(prompt_ids, *args, **kwargs)
            ends = set(self.eos_token_ids)
            still_open = [i for i, ids in enumerate(first) if ids[-1] not in ends]
            completions = [list(ids) for ids in first]
            self._own_tokens = [[1] * len(ids) for ids in first]
            if still_open:
                self.generation_config.max_new_tokens = self._answer_room
                prompts = [[*prompt_ids[i], *first[i], *self._told] for i in still_open]
                answers, *_ = super()._generate_single_turn(prompts, *args, **kwargs)
                for i, answer in zip(still_open, answers):
                    completions[i] += [*self._told, *answer]
                    self._own_tokens[i] += [0] * len(self._told) + [1] * len(answer)
        finally:
            self.generation_config.max_new_tokens = whole
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["interrupted_fraction"].append(len(still_open) / max(1, len(first)))
        return (completions, logprobs, *rest)

    def _generate(self, prompts: list) -> Any:
        prompt_ids, completion_ids, tool_mask, *rest = super()._generate(prompts)
        if tool_mask is not None:
            refuse("interrupt_after", "a task without tools", "tool calls")
        return (prompt_ids, completion_ids, self._own_tokens, *rest)
