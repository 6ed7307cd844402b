"""What a run is going to cost, before it runs: FLOPs, GPU-hours, money, disk, memory, each with what it assumes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError, ScalingError, UnknownName
from scaling.flops import ModelShape, generation_flops, scoring_flops, training_flops
from sweeps.config import BudgetConfig, RunConfig
from sweeps.estimate import Machine, estimate

__all__ = ["Prediction", "predict"]

PROMPT = 256  # tokens; where neither the task nor `launch.prompt_length` says
OPTIMISER_COPIES = 2  # Adam's two moments, beside the weights


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A run's predicted cost; None where it cannot be known, with the reason in ``note``.

    Attributes:
        flops_per_step: model FLOPs of one optimiser step [FLOP].
        steps: optimiser steps to the budget.
        flops: model FLOPs to the budget, ``total_flops`` [FLOP].
        gpu_hours: by `sweeps.estimate`; with vLLM, FLOPs / (dense peak x assumed utilisation); or the budget's own [GPU h].
        usd: GPU-hours x price [USD].
        disk_gb: checkpoints kept and milestones: weights and Adam's moments [GB].
        memory_gb: peak of one device that holds the whole model, by `sweeps.estimate` [GB].
        pretraining_flops_ratio: ``flops`` / pretraining FLOPs.
        completion_length: mean assumed [token].
        prompt_length: mean assumed [token].
        note: what is not known and why.
    """

    flops_per_step: float | None = None
    steps: float | None = None
    flops: float | None = None
    gpu_hours: float | None = None
    usd: float | None = None
    disk_gb: float | None = None
    memory_gb: float | None = None
    pretraining_flops_ratio: float | None = None
    completion_length: int = 0
    prompt_length: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def predict(config: RunConfig) -> Prediction:
    """Predict a run's cost from its configuration alone.

    Raises:
        ConfigError: the model cannot fit the memory of the accelerator, or the host memory, that is asked for.
    """
    shape, pretraining, prompt_width, limit, why = _model(
        config.model.model_dump_json(),
        config.task.model_dump_json(),
        config.pretrain.model_dump_json(),
        config.bases_dir,
    )
    launch, grpo = config.launch, config.grpo
    completion = launch.completion_length or grpo.max_completion_length or limit
    prompt = launch.prompt_length or prompt_width
    if shape is None:
        return Prediction(
            completion_length=completion, prompt_length=prompt, gpu_hours=config.budget.gpu_hours, note=why
        )
    notes = [why] if why else []
    per_step = flops_per_step(config, shape, prompt=prompt, completion=completion)
    longest = grpo.max_completion_length or limit
    memory = (
        estimate(config, shape, _machine(config), prompt_length=prompt, completion_length=longest).memory.peak / 1e9
    )
    rate, note = _flops_per_hour(config, shape, per_step, prompt=prompt, completion=completion)
    notes += [note] if note else []
    _check_memory(config, weights_gb=shape.params * 2 / 1e9, lora=getattr(config.model, "lora", None) is not None)
    flops, steps = _to_budget(config.budget, per_step, rate, pretraining)
    if flops is None:
        notes.append("the budget is in pretraining's cost, which is known once the base is")
    hours = flops / rate if flops is not None and rate else config.budget.gpu_hours
    price = launch.usd_per_gpu_hour or _price(config)
    kept = config.checkpoint.keep + len(config.milestones)
    base_flops = pretraining.get("flops")
    return Prediction(
        flops_per_step=per_step, steps=steps, flops=flops, gpu_hours=hours, usd=hours * price if hours is not None and price else None,
        disk_gb=kept * shape.params * 4 * (1 + OPTIMISER_COPIES) / 1e9, memory_gb=memory,
        pretraining_flops_ratio=flops / base_flops if flops is not None and base_flops else None,
        completion_length=completion, prompt_length=prompt, note="; ".join(notes),
    )  # fmt: skip


def flops_per_step(config: RunConfig, shape: ModelShape, *, prompt: int, completion: int) -> float:
    """Model FLOPs of one optimiser step at mean lengths [FLOP].

    Generation and scoring are spread over the steps that one generation feeds; old log-probabilities are scored where a
    rollout is trained on more than once or in several steps, reference ones where ``beta > 0``.
    """
    grpo = config.grpo
    rollouts = grpo.rollouts_per_step
    passes = (1 if grpo.optimiser_steps_per_generation > 1 else 0) + (1 if grpo.beta else 0)
    once = generation_flops(shape, prompt, completion) + passes * scoring_flops(shape, prompt, completion)
    lora = getattr(config.model, "lora", None) is not None
    return rollouts * (once / grpo.updates_per_rollout + training_flops(shape, prompt, completion, lora=lora))


@functools.cache
def _model(
    model: str, task: str, pretrain: str, bases_dir: str
) -> tuple[ModelShape | None, Mapping[str, Any], int, int, str]:
    """Shape, pretraining stage, prompt width, length limit; what is not known and why. Once a size, not once a run."""
    from pydantic import TypeAdapter

    from sweeps.models import ModelConfig, ScratchModel, shape_of
    from sweeps.pretrain import PretrainConfig, base_hash, read_base
    from sweeps.tasks import TaskConfig, build

    config = TypeAdapter(ModelConfig).validate_json(model)
    built = build(TypeAdapter(TaskConfig).validate_json(task))
    width, limit = int(getattr(built, "prompt_width", PROMPT)), built.max_completion_length
    if isinstance(config, ScratchModel):
        folder = Path(bases_dir) / base_hash(config, built.config, PretrainConfig.model_validate_json(pretrain))
        base = read_base(folder)
        return shape_of(config, built), base.stage() if base else {}, width, limit, ""
    try:
        shape = shape_of(config, built)
    except (ScalingError, ImportError) as error:
        return None, config.stage(), width, limit, f"model shape not known: {error}"
    return shape, config.stage(shape), width, limit, ""


def _to_budget(
    budget: BudgetConfig, per_step: float, per_hour: float | None, pretraining: Mapping[str, Any]
) -> tuple[float | None, float | None]:
    """FLOPs and steps at the first limit reached, of those that can be told."""
    limits = []
    if budget.steps:
        limits.append(budget.steps * per_step)
    if budget.flops:
        limits.append(budget.flops)
    if budget.pretraining_flops_ratio and pretraining.get("flops"):
        limits.append(budget.pretraining_flops_ratio * pretraining["flops"])
    if budget.gpu_hours and per_hour:
        limits.append(budget.gpu_hours * per_hour)
    if not limits:
        return None, None
    return min(limits), min(limits) / per_step


def _machine(config: RunConfig) -> Machine:
    """The trainer's devices; without a known accelerator only their number is used."""
    trainers = config.cluster.devices - config.cluster.server_devices
    try:
        return Machine.of(config.cluster.accelerator, devices=trainers)
    except UnknownName:
        return Machine(config.cluster.accelerator, 1.0, 1.0, 1.0, 1.0, 1.0, trainers)


def _flops_per_hour(
    config: RunConfig, shape: ModelShape, per_step: float, *, prompt: int, completion: int
) -> tuple[float | None, str]:
    """Model FLOPs a GPU-hour [FLOP / GPU h], and what that rests on."""
    from scaling.hardware import peak_flops

    name = config.cluster.accelerator
    if name == "auto":
        return None, "GPU-hours need cluster.accelerator by name (auto is known on the device alone)"
    if name == "cpu":
        return None, "a CPU has no stated peak, so no hours are predicted"
    try:
        peak = peak_flops(name)
    except UnknownName as error:
        raise ConfigError(f"cluster.accelerator: {error}") from error
    if config.grpo.vllm != "off":
        share = config.launch.utilisation
        return peak * share * 3600, f"hours assume {share:.0%} of the dense peak end to end (launch.utilisation)"
    found = estimate(config, shape, _machine(config), prompt_length=prompt, completion_length=completion)
    return per_step / (
        found.seconds * config.cluster.devices / 3600
    ), "hours are those of generation through transformers, by sweeps.estimate"


def _price(config: RunConfig) -> float | None:
    from scaling.hardware import accelerator

    try:
        return accelerator(config.cluster.accelerator).usd_per_hour
    except UnknownName:
        return None


def _check_memory(config: RunConfig, *, weights_gb: float, lora: bool) -> None:
    """Refuse what certainly does not fit; bfloat16 throughout, the smallest that training takes."""
    from scaling.hardware import accelerator

    cluster = config.cluster
    host = cluster.slurm.memory_gb
    if cluster.engine == "slurm" and host is not None and weights_gb > host:
        raise ConfigError(
            f"cluster.slurm.memory_gb: model {config.model.name} has {weights_gb:.0f} GB of weights to load, got {host} GB: ask for more"
        )
    try:
        device = accelerator(cluster.accelerator).memory / 1e9
    except UnknownName:
        return
    trainers = cluster.devices - cluster.server_devices
    shards = trainers if cluster.accelerate_config else 1  # without FSDP or DeepSpeed each rank holds all of it
    need = weights_gb if lora else weights_gb * (2 + OPTIMISER_COPIES)
    if need > device * shards:
        raise ConfigError(
            f"cluster: model {config.model.name} needs at least {need:.0f} GB for weights, gradients and Adam in bfloat16, "
            f"{shards} x {cluster.accelerator} have {device * shards:.0f} GB: shard it over more devices (cluster.accelerate_config)"
            " or train adapters (model.lora)"
        )
