r"""How token losses become one number: prompt-level averaging and zero-variance filtering.

TRL's ``dapo`` and ``cispo`` divide the sum of all token losses by the number of tokens of the whole step. Both pieces change
weights and that number only, after the rollouts are scored::

    filter_zero_variance      tokens of prompts whose rollouts all have one reward leave the number
    prompt_average            loss = 1/P sum_p (1/n_p) sum_{tokens of p} loss_t          over the P prompts that are left

ScaleRL, arXiv:2510.13786, section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch

from sweeps.recipes import RecipeSwitches, refuse

_Base: Any = object  # a `GRPOTrainer`, put beside the mixin by `trainer_class`

__all__ = ["AggregationMixin"]

_EQUAL = 1e-9  # rewards of a prompt that differ by less are one reward


class AggregationMixin(_Base):
    """Weighs advantages and resets the normaliser so that TRL's loss becomes the one wanted."""

    recipe: RecipeSwitches

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        key = "prompt_average" if self.recipe.prompt_average else "filter_zero_variance"
        if self.loss_type not in ("dapo", "cispo"):
            refuse(key, "grpo.loss=dapo or cispo, whose loss is a sum over tokens", self.loss_type)
        if self.beta:
            refuse(key, "grpo.beta=0: the KL term is not weighed", self.beta)
        self._live = torch.ones(0, dtype=torch.bool)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        per_function = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        rewards = (per_function * self.reward_weights.to(per_function.device)).nansum(dim=1)
        group = rewards.view(-1, self.num_generations if self.model.training else self.num_generations_eval)
        self._live = group.amax(dim=1) - group.amin(dim=1) > _EQUAL  # (prompts of all processes,)
        return per_function

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        out = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return out
        size = self.num_generations
        mask = out["completion_mask"] * out["tool_mask"] if "tool_mask" in out else out["completion_mask"]
        tokens = self.accelerator.gather(mask.sum(dim=1)).view(-1, size).sum(dim=1).float()  # (prompts,)
        used = (
            self._live.to(tokens.device)
            if self.recipe.filter_zero_variance
            else torch.ones_like(tokens, dtype=torch.bool)
        )
        used = used & (tokens > 0)
        self._metrics["train"]["used_prompts"].append(used.float().mean().item())
        if not used.any():  # no signal at all: advantages are 0, TRL's normaliser stays
            return out
        items = (tokens * used).sum()
        if self.recipe.prompt_average:
            weights = torch.where(used, items / (used.sum() * tokens.clamp(min=1.0)), torch.zeros_like(tokens))
            start = self.accelerator.process_index * len(out["advantages"])
            mine = weights.repeat_interleave(size)[start : start + len(out["advantages"])]
            out["advantages"] = out["advantages"] * (mine if out["advantages"].dim() == 1 else mine[:, None])
        out["num_items_in_batch"] = items.to(out["num_items_in_batch"].dtype)
        return out
