"""Budgets: from what a user sets to the units the meter measures, and whether a run has reached them already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling import records
from scaling.cost import ComputeCost
from scaling.errors import ConfigError, UnknownName
from scaling.hardware import accelerator as known_accelerator
from scaling.hardware import peak_flops
from sweeps.config import BudgetConfig

__all__ = ["Limits", "already_reached", "planned_run", "resolve_limits"]


@dataclass(frozen=True)
class Limits:
    """A budget in the units that the meter measures; None does not limit."""

    steps: int | None = None
    gpu_hours: float | None = None
    flops: float | None = None

    def reached(self, step: int, cost: ComputeCost, *, reserve: float = 0.0) -> str | None:
        """Which limit is reached after ``step`` steps at ``cost``, with ``reserve`` more steps of the same mean cost."""
        grow = 1 + reserve / step if step else 1.0
        if self.steps is not None and step + reserve >= self.steps:
            return f"{self.steps} steps"
        if self.flops is not None and cost.total_flops * grow >= self.flops:
            return f"{self.flops:.3g} FLOPs"
        if self.gpu_hours is not None and cost.gpu_hours * grow >= self.gpu_hours:
            return f"{self.gpu_hours:.3g} GPU-hours"
        return None

    def share(self, step: int, cost: ComputeCost) -> float:
        """How much of the budget is used, 0 to 1."""
        parts = [
            step / self.steps if self.steps else 0.0,
            cost.total_flops / self.flops if self.flops else 0.0,
            cost.gpu_hours / self.gpu_hours if self.gpu_hours else 0.0,
        ]
        return min(1.0, max(parts))


def resolve_limits(budget: BudgetConfig, stage: Mapping[str, Any], accelerator: str) -> Limits:
    """The budget as limits on steps, GPU-hours and FLOPs.

    Args:
        budget: as configured.
        stage: the pretraining stage of the base: ``flops``, ``gpu_hours``, ``accelerator``.
        accelerator: what the run is on.

    Raises:
        ConfigError: a ratio to pretraining is asked for and the base's pretraining cost is not known, or its hours are of
            another accelerator and no conversion is asked for.
    """
    flops, hours = [budget.flops], [budget.gpu_hours]
    if budget.pretraining_flops_ratio is not None:
        known = stage.get("flops")
        if not known:
            raise ConfigError(
                f"budget.pretraining_flops_ratio needs the base's pretraining FLOPs, {_base(stage)} has none: "
                "set model.pretraining.flops or tokens with their source, or use budget.flops"
            )
        flops.append(budget.pretraining_flops_ratio * known)
    if budget.pretraining_gpu_hours_ratio is not None:
        hours.append(budget.pretraining_gpu_hours_ratio * _comparable_hours(budget, stage, accelerator))
    return Limits(steps=budget.steps, gpu_hours=_least(hours), flops=_least(flops))


def planned_run(limits: Limits, step: int, cost: ComputeCost) -> tuple[int, float]:
    """Last step and total model FLOPs that the limits allow, by the mean step so far: ``(step, FLOP)``."""
    if step < 1 or not cost.total_flops:
        return limits.steps or 1, 0.0
    lasts = [limits.steps] if limits.steps else []
    if limits.flops:
        lasts.append(int(step * limits.flops / cost.total_flops) + 1)
    if limits.gpu_hours and cost.gpu_hours:
        lasts.append(int(step * limits.gpu_hours / cost.gpu_hours) + 1)
    last = max(step, min(lasts)) if lasts else step
    return last, last * cost.total_flops / step


def already_reached(directory: Path, limits: Limits, step: int, cost: ComputeCost) -> str | None:
    """Which limit the run has reached: at its last checkpoint, or where it finished between two (or lost them since)."""
    if reached := limits.reached(step, cost):
        return reached
    if not records.is_run(directory):
        return None
    record = records.read_run(directory)
    last = record.segments[-1] if record.segments else {}
    if record.status != "finished" or "final_step" not in last:
        return None
    return limits.reached(last["final_step"], ComputeCost.from_dict(last["final_cost"]))


def _comparable_hours(budget: BudgetConfig, stage: Mapping[str, Any], accelerator: str) -> float:
    hours, theirs = stage.get("gpu_hours"), stage.get("accelerator")
    if not hours:
        raise ConfigError(
            f"budget.pretraining_gpu_hours_ratio needs published pretraining GPU-hours, {_base(stage)} has none: "
            "use budget.pretraining_flops_ratio, another quantity"
        )
    if _canonical(theirs) == _canonical(accelerator):
        return hours
    if budget.convert != "peak":
        raise ConfigError(
            f"budget.pretraining_gpu_hours_ratio compares hours of one accelerator, the base took {hours:g} hours of {theirs} "
            f"and this run is on {accelerator}: set budget.convert=peak to convert by dense peak, labelled so"
        )
    return hours * peak_flops(str(theirs)) / peak_flops(accelerator)


def _canonical(name: Any) -> str:
    try:
        return known_accelerator(str(name)).name
    except UnknownName:
        return str(name)


def _base(stage: Mapping[str, Any]) -> str:
    return f"base {stage.get('model') or stage.get('base_hash') or '(unknown)'}"


def _least(values: list[float | None]) -> float | None:
    return min((v for v in values if v is not None), default=None)
