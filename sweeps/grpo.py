"""TRL's `GRPOTrainer`, configured: settings translated to TRL's names once, here, and nothing of its code copied."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from scaling.errors import ConfigError
from sweeps.config import GrpoConfig, RunConfig
from sweeps.devices import bf16_autocast, compiled_generation, few_compilers, one_gpu, set_products
from sweeps.recipes import trainer_class
from sweeps.tasks.preflight import prompt_length

__all__ = ["PromptSampler", "RunTrainer", "build_trainer", "trl_arguments"]

NO_STEP_LIMIT = 10_000_000  # optimiser steps; budgets in other units stop the run long before


class PromptSampler(Sampler[int]):
    """Prompt indices of a whole run as one endless epoch: permutation after permutation, each from (seed, its number).

    TRL's own sampler draws every permutation from one generator that restarts when a run resumes, so that a resumed run
    sees other prompts from its second epoch on. Here any position can be reached again exactly.

    Each block of ``prompts`` distinct indices is yielded ``repeats`` times, each index ``group_size`` times in a row, which
    is the layout TRL expects.
    """

    def __init__(self, *, size: int, group_size: int, prompts: int, repeats: int, seed: int, blocks: int) -> None:
        self.size, self.group_size, self.prompts = size, group_size, prompts
        self.repeats, self.seed, self.blocks = repeats, seed, blocks

    def order(self) -> Iterator[int]:
        """Distinct prompt draws in order, without end; a block never spans two permutations."""
        number = 0
        while True:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            permutation = torch.randperm(self.size, generator=generator).tolist()
            yield from permutation[: self.size - self.size % self.prompts]
            number += 1

    def __iter__(self) -> Iterator[int]:
        draws = self.order()
        for _ in range(self.blocks):
            block = [next(draws) for _ in range(self.prompts)]
            for _ in range(self.repeats):
                for index in block:
                    yield from [index] * self.group_size

    def __len__(self) -> int:
        return self.blocks * self.repeats * self.prompts * self.group_size


class RunTrainer(GRPOTrainer):
    """`GRPOTrainer` whose prompts come from a `PromptSampler`, so that a resumed run sees what an unbroken one would."""

    sampler_seed = 0

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        data: Any = self.train_dataset if dataset is None else dataset
        args: Any = self.args
        assert self.num_generations is not None
        prompts = args.generation_batch_size // self.num_generations
        repeats = self.num_iterations * args.steps_per_generation
        micro_steps = args.max_steps * args.gradient_accumulation_steps
        return PromptSampler(
            size=len(data), group_size=self.num_generations, prompts=prompts, repeats=repeats, seed=self.sampler_seed,
            blocks=math.ceil(micro_steps / repeats),
        )  # fmt: skip

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No model card: records describe the run."""


def trl_arguments(
    config: RunConfig, *, output_dir: Path, max_completion_length: int, world_size: int = 1
) -> GRPOConfig:
    """`GRPOConfig` of a run, with what TRL gets wrong on CPU corrected.

    Raises:
        ConfigError: the rollouts of a step cannot be divided over processes and micro-batches, or generation cannot be
            compiled in this device's precision.
    """
    grpo, cuda, compiled = config.grpo, torch.cuda.is_available(), compiled_generation(config)
    micro = grpo.micro_batch or grpo.rollouts_per_step // world_size
    if grpo.rollouts_per_step % (micro * world_size):
        raise ConfigError(
            f"grpo.micro_batch x processes must divide the {grpo.rollouts_per_step} rollouts a step, "
            f"got {micro} x {world_size}: change grpo.micro_batch or grpo.prompts_per_step"
        )
    accumulation = grpo.rollouts_per_step // (micro * world_size)
    vllm: dict[str, Any] = {"vllm_mode": grpo.vllm} if grpo.vllm != "off" else {}
    if grpo.vllm == "server":  # started by the launcher beside the trainer ranks
        vllm["vllm_server_base_url"] = os.environ.get("RL_SCALING_VLLM_URL", "http://127.0.0.1:8000")
        vllm["vllm_group_port"] = int(os.environ.get("RL_SCALING_VLLM_GROUP_PORT", "51216"))
    every = _boundary(config.checkpoint.every, grpo)
    return GRPOConfig(
        output_dir=str(output_dir),
        seed=config.seed,
        data_seed=config.seed,
        max_steps=config.budget.steps or NO_STEP_LIMIT,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * grpo.steps_per_generation,
        num_generations=grpo.group_size,
        num_iterations=grpo.updates_per_rollout,
        max_completion_length=grpo.max_completion_length or max_completion_length,
        temperature=grpo.temperature,
        top_p=grpo.top_p,
        top_k=0,
        loss_type=grpo.loss,
        importance_sampling_level=grpo.importance_sampling,
        scale_rewards=grpo.scale_rewards,
        epsilon=grpo.epsilon_low,
        epsilon_high=grpo.epsilon_high,
        beta=grpo.beta,
        mask_truncated_completions=grpo.mask_truncated,
        cast_lm_head_to_fp32=grpo.fp32_head,
        learning_rate=grpo.learning_rate,
        lr_scheduler_type=grpo.lr_schedule,
        warmup_steps=grpo.warmup_steps,
        weight_decay=grpo.weight_decay,
        adam_beta1=grpo.adam_beta1,
        adam_beta2=grpo.adam_beta2,
        max_grad_norm=grpo.max_grad_norm,
        # TRL's defaults suit a GPU: on CPU bf16 is slower and checkpointing recomputes for nothing
        use_cpu=not cuda,
        bf16=bf16_autocast(dtype=grpo.dtype, generation=grpo.generation),
        gradient_checkpointing=grpo.gradient_checkpointing,
        use_transformers_continuous_batching=grpo.generation == "continuous_batching",
        cache_implementation="static" if compiled else None,
        use_vllm=grpo.vllm != "off",
        **vllm,
        logging_steps=1,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=None,  # the meter keeps and deletes checkpoints: milestones must survive
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        remove_unused_columns=False,
        log_level="warning",
    )


def build_trainer(
    config: RunConfig,
    *,
    model: Any,
    tokenizer: Any,
    task: Any,
    rows: Sequence[dict[str, Any]],
    output_dir: Path,
    base: str | None = None,
    world_size: int = 1,
    callbacks: Sequence[Any] = (),
) -> RunTrainer:
    """The trainer of a run.

    Args:
        config: the run.
        model: policy, already loaded.
        tokenizer: pads on the left.
        task: rewards and lengths.
        rows: training rows with ``prompt``, ``answer``.
        output_dir: where checkpoints go.
        base: folder or hub name of the base, loaded as the reference model where ``grpo.beta`` > 0.
        world_size: processes of the run.
        callbacks: in the order given.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    set_products(config.grpo.dtype)
    if base is not None:
        model.config._name_or_path = base  # TRL reloads the reference model from here
    trainer = trainer_class(RunTrainer, config.grpo.recipe)(
        model=model,
        reward_funcs=task.reward_functions(),
        args=one_gpu(
            trl_arguments(
                config, output_dir=output_dir, max_completion_length=task.max_completion_length, world_size=world_size
            )
        ),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.sampler_seed = config.seed
    if trainer.args.cache_implementation == "static":
        few_compilers()
        # TRL forbids compilation; transformers compiles where the cache is static and the device an accelerator
        settings = trainer.generation_config
        settings.disable_compile = False
        # one width for all batches: a longer prompt would compile the step again
        longest = max(prompt_length(row["prompt"], tokenizer) for row in rows)
        settings.max_cache_len = longest + trainer.max_completion_length - 1
    return trainer


def _boundary(every: int, grpo: GrpoConfig) -> int:
    """``every`` rounded up to a generation boundary: a checkpoint between two cannot be resumed exactly."""
    step = grpo.optimiser_steps_per_generation
    return math.ceil(every / step) * step
