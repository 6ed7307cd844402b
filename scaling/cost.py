"""`ComputeCost`: what a run or a part of it cost. The one definition of GPU-hours, FLOPs and MFU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from scaling.errors import ScalingError

__all__ = ["ComputeCost"]


@dataclass(frozen=True, kw_only=True)
class ComputeCost:
    """Compute spent, as a sum of phases. Adds; refuses negatives.

    **Model FLOPs** (``*_flops``) count real tokens, causal attention and the head on the positions scored: the same
    whatever backend generated. They are the axis ``total_flops`` and every budget. **Hardware FLOPs**
    (``*_hardware_flops``) count what was executed: padding, full-square attention, recomputation.

    ``gpu_hours`` leaves out evaluation, start-up and redone work; ``gpu_hours_paid`` is all of it.

    Attributes:
        generation_flops: model FLOPs of sampling rollouts [FLOP].
        scoring_flops: model FLOPs of old and reference log-probabilities, where they were computed [FLOP].
        training_flops: model FLOPs of forward and backward passes [FLOP].
        evaluation_flops: model FLOPs of evaluation, never part of ``total_flops`` [FLOP].
        generation_hardware_flops: executed FLOPs of sampling [FLOP].
        scoring_hardware_flops: executed FLOPs of scoring [FLOP].
        training_hardware_flops: executed FLOPs of training [FLOP].
        evaluation_hardware_flops: executed FLOPs of evaluation [FLOP].
        generation_gpu_seconds: devices x wall time while sampling [GPU s].
        scoring_gpu_seconds: devices x wall time while scoring [GPU s].
        training_gpu_seconds: devices x wall time while updating weights [GPU s].
        idle_gpu_seconds: devices x wall time of a step outside the phases above: data, rewards, logging, checkpoints
            [GPU s].
        evaluation_gpu_seconds: devices x wall time of evaluation [GPU s].
        overhead_gpu_seconds: devices x wall time of start-up, and of what follows the last step [GPU s].
        prompt_tokens: prompt tokens, once a rollout [token].
        completion_tokens: sampled tokens [token].
        rollouts: completions sampled, discarded ones included [1].

    Example:
        >>> a = ComputeCost(training_flops=3e12, training_gpu_seconds=1800.0, rollouts=64)
        >>> (a + a).gpu_hours
        1.0
        >>> (a + a).total_flops
        6000000000000.0
    """

    generation_flops: float = 0.0
    scoring_flops: float = 0.0
    training_flops: float = 0.0
    evaluation_flops: float = 0.0
    generation_hardware_flops: float = 0.0
    scoring_hardware_flops: float = 0.0
    training_hardware_flops: float = 0.0
    evaluation_hardware_flops: float = 0.0
    generation_gpu_seconds: float = 0.0
    scoring_gpu_seconds: float = 0.0
    training_gpu_seconds: float = 0.0
    idle_gpu_seconds: float = 0.0
    evaluation_gpu_seconds: float = 0.0
    overhead_gpu_seconds: float = 0.0
    prompt_tokens: float = 0
    completion_tokens: float = 0
    rollouts: float = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():  # quicker than fields(): one is made for every line that is read
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ScalingError(f"ComputeCost.{name} must be a number, got {type(value).__name__} {value!r}")
            if not 0 <= value < math.inf:
                raise ScalingError(f"ComputeCost.{name} must be finite and >= 0, got {value!r}")

    def __add__(self, other: ComputeCost) -> ComputeCost:
        if not isinstance(other, ComputeCost):
            return NotImplemented
        return ComputeCost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __radd__(self, other: object) -> ComputeCost:  # so that sum() works
        return self if other == 0 else NotImplemented  # type: ignore[return-value]

    @property
    def total_flops(self) -> float:
        """Model FLOPs of generation, scoring and training: the axis of laws and the unit of budgets [FLOP]."""
        return self.generation_flops + self.scoring_flops + self.training_flops

    @property
    def total_hardware_flops(self) -> float:
        """Executed FLOPs of generation, scoring and training [FLOP]."""
        return self.generation_hardware_flops + self.scoring_hardware_flops + self.training_hardware_flops

    @property
    def gpu_seconds(self) -> float:
        """Devices x wall time, idle included, without evaluation and start-up [GPU s]."""
        return (
            self.generation_gpu_seconds + self.scoring_gpu_seconds + self.training_gpu_seconds + self.idle_gpu_seconds
        )

    @property
    def gpu_seconds_paid(self) -> float:
        """All of it, evaluation and overhead included [GPU s]."""
        return self.gpu_seconds + self.evaluation_gpu_seconds + self.overhead_gpu_seconds

    @property
    def gpu_hours(self) -> float:
        """``gpu_seconds`` / 3600 [GPU h]."""
        return self.gpu_seconds / 3600

    @property
    def gpu_hours_paid(self) -> float:
        """``gpu_seconds_paid`` / 3600 [GPU h]."""
        return self.gpu_seconds_paid / 3600

    @property
    def tokens(self) -> float:
        """Prompt and completion tokens [token]."""
        return self.prompt_tokens + self.completion_tokens

    def mfu(self, peak_flops_per_second: float) -> float:
        """Model FLOPs utilisation of the training phase, 0 to 1: training FLOPs / (training GPU-seconds x peak).

        Args:
            peak_flops_per_second: dense peak of one device at the precision used, from `scaling.hardware` [FLOP/s].

        Raises:
            ScalingError: no training time was metered, or the result exceeds 1 (the peak or the count is wrong).
        """
        return _utilisation(self.training_flops, self.training_gpu_seconds, peak_flops_per_second, "training")

    def utilisation(self, peak_flops_per_second: float) -> float:
        """End-to-end utilisation, 0 to 1: all model FLOPs / (all GPU-seconds, idle included, x peak)."""
        return _utilisation(self.total_flops, self.gpu_seconds, peak_flops_per_second, "end-to-end")

    def to_dict(self) -> dict[str, float]:
        """Non-zero fields only, as written to records."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ComputeCost:
        """Inverse of `to_dict`; an unknown field is an error.

        Raises:
            ScalingError: a key is not a field of the ledger, or a value is not a finite number >= 0.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ScalingError(f"cost fields must be among {', '.join(sorted(known))}; got {', '.join(unknown)}")
        return cls(**values)


COST_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(ComputeCost))


def _utilisation(flops: float, seconds: float, peak: float, what: str) -> float:
    if not seconds > 0:
        raise ScalingError(f"{what} utilisation needs metered GPU-seconds > 0, got {seconds:g}")
    if not peak > 0:
        raise ScalingError(f"peak must be > 0 FLOP/s, got {peak!r}")
    value = flops / seconds / peak
    if value > 1:
        raise ScalingError(
            f"{what} utilisation must lie in [0, 1], got {value:.3g}: check the accelerator's name, precision and count"
        )
    return value
