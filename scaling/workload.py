"""What one optimiser step of a GRPO run does, and what it costs in FLOPs, before anything has run."""

from __future__ import annotations

from dataclasses import dataclass

from scaling.cost import ComputeCost
from scaling.errors import ScalingError
from scaling.flops import ModelShape, generation_flops, scoring_flops, training_flops

__all__ = ["Workload"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The shape of a GRPO step.

    Attributes:
        prompts_per_step: prompts of one batch of rollouts [1].
        group_size: rollouts per prompt [1].
        prompt_length: mean prompt [token].
        completion_length: mean completion [token]; RL often lengthens completions, which costs accordingly.
        updates_per_rollout: times each rollout is trained on [1].
        reference_model: whether a reference model scores each rollout (beta > 0).
        old_log_probabilities: whether the policy scores each rollout before training on it (several updates a rollout,
            or another engine generated).
        lora: whether only adapters are trained.

    Example:
        >>> from scaling.reference import public_shape
        >>> step = Workload(prompts_per_step=64, group_size=8, prompt_length=200, completion_length=1000)
        >>> cost = step.step_cost(public_shape("Qwen2.5-7B"))
        >>> cost.rollouts, f"{cost.total_flops:.2e}"
        (512, '3.49e+16')
    """

    prompts_per_step: int
    group_size: int
    prompt_length: float
    completion_length: float
    updates_per_rollout: float = 1
    reference_model: bool = False
    old_log_probabilities: bool = False
    lora: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("prompts_per_step", 1),
            ("group_size", 1),
            ("prompt_length", 1),
            ("completion_length", 1),
            ("updates_per_rollout", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
                raise ScalingError(f"{name} must be a number >= {least}, got {value!r}")

    @property
    def rollouts(self) -> int:
        """Rollouts of one batch [1]."""
        return self.prompts_per_step * self.group_size

    def step_cost(self, shape: ModelShape) -> ComputeCost:
        """Model FLOPs, tokens and rollouts of one batch of rollouts and the updates on it."""
        n, prompt, completion = self.rollouts, self.prompt_length, self.completion_length
        passes = int(self.reference_model) + int(self.old_log_probabilities)
        return ComputeCost(
            generation_flops=n * generation_flops(shape, prompt, completion),
            scoring_flops=n * passes * scoring_flops(shape, prompt, completion),
            training_flops=n * self.updates_per_rollout * training_flops(shape, prompt, completion, lora=self.lora),
            prompt_tokens=n * prompt,
            completion_tokens=n * completion,
            rollouts=n,
        )
