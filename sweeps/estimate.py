"""Memory and time of a run before it is launched, from the model's shape and the settings.

    python -m sweeps.estimate model=qwen2.5_1.5b task=math accelerator=H100-SXM

Memory is weights, optimiser, and the larger of training (gradients, activations, one chunk of logits) and generation
(key-value cache). The activations per layer and token are those that autograd keeps in transformers' Llama family, counted
in floats::

    6 h + 2 q + 2 kv + 4 f + heads + 2        (+ 2 q + 2 kv + heads + kv heads where queries and keys are normed)

Time is arithmetic (hardware FLOPs over a share of the peak), traffic of weights, cache and activations, and floors: of a
layer and of a decoding step, which is what small models on large accelerators meet, and of the trainer itself.
`benchmarks/estimate.py` holds it against measured runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling.errors import ConfigError, ScalingError
from sweeps.machine import Machine, calibrate_cpu

__all__ = ["Estimate", "Machine", "Memory", "activation_floats", "estimate", "memory", "seconds_per_step"]

_NORMED = ("qwen3", "qwen3_moe", "olmo2", "olmo3")  # query and key norms
_LOGIT_CHUNK = 32768  # tokens that TRL 1.16 scores at once
_CONTEXT = 0.8e9  # CUDA context, libraries and fragmentation [byte]


@dataclass(frozen=True)
class Memory:
    """Device memory by part [byte]; sharding is not considered: one device holds all of it.

    Attributes:
        weights: the policy, and the reference model where there is one.
        optimizer: two moments of every trained parameter.
        gradients: of every trained parameter.
        activations: kept for the backward pass of one micro-batch.
        logits: of one chunk of scored tokens, with their gradient.
        cache: keys and values of all completions generated at once.
    """

    weights: float
    optimizer: float
    gradients: float
    activations: float
    logits: float
    cache: float

    @property
    def training(self) -> float:
        """While a micro-batch is trained [byte]."""
        return self.weights + self.optimizer + self.gradients + self.activations + self.logits

    @property
    def generation(self) -> float:
        """While completions are generated [byte]."""
        return self.weights + self.optimizer + self.cache

    @property
    def peak(self) -> float:
        """The larger of the two [byte]."""
        return max(self.training, self.generation)

    def __str__(self) -> str:
        parts = ("weights", "optimizer", "gradients", "activations", "logits", "cache")
        return ", ".join(f"{part} {getattr(self, part) / 2**30:.2f}" for part in parts)


@dataclass(frozen=True)
class Estimate:
    """Memory [byte] and seconds a step [s] of a run on a machine.

    Attributes:
        memory: by part.
        capacity: of one device, None if not known [byte].
        generation_seconds: of one step.
        training_seconds: of one step.
    """

    memory: Memory
    capacity: float | None
    generation_seconds: float
    training_seconds: float

    @property
    def seconds(self) -> float:
        """Of one optimiser step [s]."""
        return self.generation_seconds + self.training_seconds

    def __str__(self) -> str:
        gib = 2**30
        m = self.memory
        fits = ""
        if self.capacity is not None:
            need = m.peak + _CONTEXT
            fits = f" of {self.capacity / gib:.0f} GiB: " + (
                "fits" if need < self.capacity else "does NOT fit: lower grpo.micro_batch or shard the model"
            )
        return (
            f"memory: peak {m.peak / gib:.2f} GiB{fits} ({m})\n"
            f"time: {self.seconds:.3g} s a step (generation {self.generation_seconds:.3g}, training {self.training_seconds:.3g})"
        )


def activation_floats(shape: Any, *, eager_width: int = 0) -> float:
    """Floats that autograd keeps per layer and token for the backward pass, dense Llama-like layers.

    Args:
        shape: a `ModelShape`.
        eager_width: width of the sequence where attention is eager, whose scores are kept too; 0 for fused attention [token].
    """
    if shape.kv_lora_rank is not None or shape.num_moe_layers:
        raise ScalingError("activations are estimated for dense models with ordinary attention; measure this one")
    q, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    feed_forward = 4 if shape.gated else 2
    kept = 6 * shape.hidden_size + 2 * q + 2 * kv + feed_forward * shape.intermediate_size + shape.num_heads + 2
    if shape.architecture in _NORMED:
        kept += 2 * (q + kv) + shape.num_heads + shape.num_kv_heads
    return kept + shape.num_heads * eager_width


def memory(
    shape: Any,
    *,
    micro_batch: int,
    rollouts: int,
    prompt_length: int,
    completion_length: int,
    weight_bytes: int = 4,
    activation_bytes: float = 4,
    gradient_checkpointing: bool = False,
    reference: bool = False,
    trained_share: float = 1.0,
) -> Memory:
    """Memory of one device that holds the whole model.

    Args:
        shape: a `ModelShape`.
        micro_batch: rollouts of one forward and backward pass [1].
        rollouts: completions generated at once [1].
        prompt_length: padded [token].
        completion_length: the longest [token].
        weight_bytes: of a stored weight: 4 for float32, 2 for bfloat16 [byte].
        activation_bytes: of a kept activation: 4 for float32; about 2.2 under bfloat16, where norms keep float32 [byte].
        gradient_checkpointing: only each layer's input is kept, and one layer at a time recomputed.
        reference: a reference model is loaded (``grpo.beta`` > 0).
        trained_share: share of the parameters that are trained: 1, or LoRA's share, 0 to 1.
    """
    tokens = micro_batch * (prompt_length + completion_length)
    layer = activation_floats(shape) * tokens * activation_bytes
    kept = shape.num_layers * layer
    if gradient_checkpointing:
        kept = shape.num_layers * shape.hidden_size * tokens * activation_bytes + layer
    weights = shape.params * weight_bytes
    kv = shape.num_kv_heads * shape.head_dim * 2
    return Memory(
        weights=weights * (2 if reference else 1),
        optimizer=2 * weights * trained_share,
        gradients=weights * trained_share,
        activations=kept,
        logits=2 * min(tokens, _LOGIT_CHUNK) * shape.vocab_size * 4.0,
        cache=rollouts
        * (prompt_length + completion_length)
        * shape.num_layers
        * kv
        * (2 if activation_bytes < 4 else 4),
    )


def seconds_per_step(
    shape: Any,
    machine: Machine,
    *,
    rollouts: int,
    prompt_length: int,
    completion_length: int,
    mean_completion_length: float | None = None,
    updates_per_rollout: int = 1,
    weight_bytes: int = 2,
    gradient_checkpointing: bool = False,
) -> tuple[float, float]:
    """Seconds of generation and of training of one optimiser step [s].

    Args:
        shape: a `ModelShape`.
        machine: speeds.
        rollouts: of one step [1].
        prompt_length: padded [token].
        completion_length: the longest: generation runs until it ends [token].
        mean_completion_length: for the cache's traffic; the longest by default [token].
        updates_per_rollout: optimiser steps that share one generation [1].
        weight_bytes: of a weight as it is read [byte].
        gradient_checkpointing: the forward pass is done twice.
    """
    from scaling import flops

    share = rollouts / machine.devices
    steps = max(1, completion_length)
    hardware = (
        flops.generation_hardware_flops(shape, batch=1, prompt_width=prompt_length, completion_width=steps) * share
    )
    cache_token = shape.num_layers * shape.num_kv_heads * shape.head_dim * 2 * weight_bytes
    mean = prompt_length + (mean_completion_length or completion_length) / 2
    traffic = steps * (shape.params * weight_bytes + share * mean * cache_token)
    floor = machine.decoding_seconds + shape.num_layers * machine.layer_seconds
    generation = max(hardware / machine.flops_per_second, traffic / machine.bytes_per_second) + steps * floor
    one = flops.training_hardware_flops(
        shape, batch=1, prompt_width=prompt_length, completion_width=completion_length, gradient_checkpointing=gradient_checkpointing, fused_head=True
    )  # fmt: skip
    tokens = share * (prompt_length + completion_length)
    # a kept activation is written and read by several operations, forward and backward: about twenty passes (measured)
    moved = 20 * tokens * shape.num_layers * activation_floats(shape) * weight_bytes
    training = one * share / machine.flops_per_second + moved / machine.bytes_per_second
    training += 3 * shape.num_layers * machine.layer_seconds + share * machine.trainer_seconds
    return generation / updates_per_rollout, training


def run_memory(
    config: Any, shape: Any, *, prompt_length: int, completion_length: int, devices: int, half: bool
) -> Memory:
    """Memory of one device of a `RunConfig`; ``half``: under bfloat16 autocast."""
    grpo = config.grpo
    per_device = max(1, grpo.rollouts_per_step // devices)
    stored = getattr(config.model, "dtype", "float32")
    lora = getattr(config.model, "lora", None)
    return memory(
        shape, micro_batch=min(per_device, grpo.micro_batch or per_device), rollouts=per_device * grpo.steps_per_generation,
        prompt_length=prompt_length, completion_length=completion_length,
        weight_bytes=2 if stored == "bfloat16" or (stored == "auto" and half) else 4,
        activation_bytes=2.2 if half else 4.0, gradient_checkpointing=grpo.gradient_checkpointing,
        reference=grpo.beta > 0 and lora is None, trained_share=_lora_share(shape, lora.rank) if lora else 1.0,
    )  # fmt: skip


def estimate(
    config: Any,
    shape: Any,
    machine: Machine,
    *,
    prompt_length: int,
    completion_length: int,
    capacity: float | None = None,
) -> Estimate:
    """Memory and time of a `RunConfig` on a machine.

    Args:
        config: the run.
        shape: of its model.
        machine: speeds.
        prompt_length: the longest prompt [token].
        completion_length: the longest completion [token].
        capacity: memory of one device, where known [byte].
    """
    grpo, half = config.grpo, config.grpo.half and machine.name != "cpu"
    need = run_memory(
        config,
        shape,
        prompt_length=prompt_length,
        completion_length=completion_length,
        devices=machine.devices,
        half=half,
    )
    generation, training = seconds_per_step(
        shape, machine, rollouts=grpo.rollouts_per_step, prompt_length=prompt_length, completion_length=completion_length,
        updates_per_rollout=grpo.updates_per_rollout, weight_bytes=2 if half else 4, gradient_checkpointing=grpo.gradient_checkpointing,
    )  # fmt: skip
    return Estimate(need, capacity, generation, training)


def _lora_share(shape: Any, rank: int) -> float:
    q, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    h, f = shape.hidden_size, shape.intermediate_size
    sides = 2 * (h + q) + 2 * (h + kv) + (3 if shape.gated else 2) * (h + f)
    return shape.num_layers * rank * sides / shape.params


_HELP = """Beside the overrides of python -m sweeps.train:
  accelerator=cpu      name as scaling.hardware knows it; cpu is measured now, in a few seconds
  devices=1            that share the rollouts and the training
  prompt_length=       the longest prompt; the task's own width, or 512 [token]"""


def main(arguments: list[str] | None = None) -> int:
    """``python -m sweeps.estimate OVERRIDES... [accelerator=NAME] [devices=N] [prompt_length=N]``."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from scaling.hardware import accelerator
    from sweeps.config import composed
    from sweeps.models import shape_of
    from sweeps.tasks import build
    from sweeps.train import one_line_each

    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or {"-h", "--help"} & set(given):
        print(__doc__)
        print(_HELP)
        return 0
    own = {
        key: value
        for key, _, value in (a.partition("=") for a in given)
        if key in ("accelerator", "devices", "prompt_length")
    }
    try:
        config = composed([a for a in given if a.partition("=")[0] not in own])
        task = build(config.task)
        shape = shape_of(config.model, task)
        chip = own.get("accelerator", "cpu")
        machine = calibrate_cpu() if chip == "cpu" else Machine.of(chip, devices=_whole(own, "devices", 1))
        capacity = None if chip == "cpu" else accelerator(chip).memory
        prompt = _whole(own, "prompt_length", getattr(task, "prompt_width", 512))
        length = config.grpo.max_completion_length or task.max_completion_length
        print(
            f"{config.model.name} on {machine.name}: prompts of {prompt} and completions of {length} tokens, {config.grpo.rollouts_per_step} rollouts a step"
        )
        print(estimate(config, shape, machine, prompt_length=prompt, completion_length=length, capacity=capacity))
    except (ScalingError, HydraException, OmegaConfBaseException) as error:
        print("\n".join(f"error: {line}" for line in one_line_each(error)), file=sys.stderr)
        return 1
    return 0


def _whole(given: Mapping[str, str], key: str, default: int) -> int:
    text = given.get(key, str(default))
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"{key}: must be a whole number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
