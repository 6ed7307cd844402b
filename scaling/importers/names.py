"""Our names at this border: metrics, quantities of the ledger, phases, and words about meaning, each with its definition."""

from __future__ import annotations

from typing import Any

__all__ = ["METRICS", "PHASES", "QUANTITIES", "SEMANTICS"]

# our metric -> (unit, definition); docs/importing.md prints this table
METRICS: dict[str, tuple[str, str]] = {
    "reward": ("1", "mean reward of the step's rollouts"),
    "reward_std": ("1", "standard deviation of the reward, within groups or over the batch as the trainer has it"),
    "completion_length": ("token", "mean sampled tokens of a rollout"),
    "prompt_length": ("token", "mean tokens of a prompt"),
    "truncation_rate": ("0 to 1", "share of rollouts cut at the length limit"),
    "entropy": ("nat", "mean token entropy of the policy"),
    "kl": ("nat", "KL divergence to the reference model, by the trainer's estimator"),
    "loss": ("1", "policy loss"),
    "grad_norm": ("1", "gradient norm before clipping"),
    "learning_rate": ("1", "learning rate"),
    "clip_fraction": ("0 to 1", "share of tokens whose ratio was clipped"),
    "zero_variance_fraction": ("0 to 1", "share of groups whose rewards are all equal"),
    "mfu": ("0 to 1", "model FLOPs utilisation of training, as the trainer counts it"),
}
# what the ledger is derived from -> (unit, definition)
QUANTITIES: dict[str, tuple[str, str]] = {
    "gpu_seconds": ("GPU s", "devices x wall time of the step"),
    "step_seconds": ("s", "wall time of the step"),
    "elapsed_seconds": ("s", "wall time since the run began, cumulative"),
    "tokens_per_gpu_second": ("token/s/GPU", "total tokens / (step time x devices)"),
    "tokens_per_second": ("token/s", "completion tokens / step time"),
    "total_tokens": ("token", "prompt and completion tokens of the step"),
    "cumulative_tokens": ("token", "the same, cumulative over the run"),
    "prompt_tokens": ("token", "prompt tokens of the step, once a rollout"),
    "completion_tokens": ("token", "sampled tokens of the step"),
    "rollouts": ("1", "completions sampled in the step"),
    "reward_min": ("1", "smallest reward of the step"),
    "reward_max": ("1", "largest reward of the step"),
}
PHASES = ("generation", "scoring", "training", "idle", "evaluation", "checkpoint", "overhead")
# words that a mapping may say about meaning, with the allowed values (None: free)
SEMANTICS: dict[str, tuple[Any, ...] | None] = {
    "reward": None,
    "reward_range": None,
    "pass_at_k": ("unbiased", "bootstrap", "any_of_k", "none"),
    "evaluation_in_step_time": (True, False, "by phases"),
    "checkpoint_in_step_time": (True, False, "by phases"),
    "overhead_in_step_time": (True, False),
    "phases_overlap": (True, False),
    "tokens": ("prompt and completion", "completion"),
    "rollouts_kept": ("all", "effective"),
    "averaged_over_logging": (True, False),
    "scoring_passes": None,
    "decoding": ("sampled", "greedy", "unknown"),
    "temperature": None,
    "k": None,
}
