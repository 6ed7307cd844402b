"""`Counter`: counts what a TRL `GRPOTrainer` does, phase by phase, by wrapping methods of the instance.

TRL's code is neither copied nor subclassed for this, so any `GRPOTrainer` (a user's own script included) can be counted.
Two ledgers are kept side by side, see `scaling.cost`: model FLOPs (real tokens, causal attention, the head on scored
positions) and hardware FLOPs (the padded rectangle that was executed).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from scaling import flops
from scaling.cost import ComputeCost
from scaling.flops import ModelShape
from sweeps.spans import Spans

__all__ = ["Counter"]


class Counter:
    """Accumulates the cost and the rollout metrics of the current optimiser step.

    Attributes:
        values: fields of `ComputeCost` since the last `take`, this process only, seconds of wall time; whole after `settle`.
        metrics: rollout metrics since the last `take`; whole after `settle`.
        prompts_seen: hashes of the distinct prompts rolled out so far.
    """

    def __init__(self, trainer: Any, shape: ModelShape) -> None:
        self.trainer, self.shape = trainer, shape
        self.values: dict[str, float] = {}
        self.metrics: dict[str, list[float]] = {}
        self.prompts_seen: set[int] = set()
        self._new_prompts: set[int] = set()  # of this process, since the last `take`
        self._in_training_step = False
        self._cache_width = 0
        self.spans = Spans(torch.device(trainer.accelerator.device))
        model = trainer.model
        self._lora = _lora_rank(model)
        # TRL scores every position on CPU, padding included; where Triton runs, the completions' real tokens alone
        self._compact_head = torch.device(trainer.accelerator.device).type == "cuda"
        for name, wrapper in {
            "_generate_single_turn": self._generation,
            "_get_per_token_logps_and_entropies": self._scoring,
            "_compute_loss": self._loss,
            "_calculate_rewards": self._rewards,
            "_prepare_inputs": self._prepare,
            "training_step": self._training_step,
        }.items():
            original = getattr(trainer, name)
            setattr(trainer, name, functools.wraps(original)(functools.partial(wrapper, original)))

    def now(self) -> float:
        """Wall clock after the device has finished its queue [s]."""
        if self.trainer.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def add(self, **values: float) -> None:
        """Add to the current step's cost, by names of `ComputeCost` fields."""
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + value

    def settle(self) -> None:
        """Read off the device what was left there, so that nothing waited for it during the step."""
        self.add(**self.spans.settle())

    def phase_seconds(self) -> float:
        """Seconds of the phases counted since the last `take` [s]."""
        self.settle()
        return sum(self.values.get(f"{phase}_gpu_seconds", 0.0) for phase in ("generation", "scoring", "training"))

    def take(self, devices: int) -> tuple[ComputeCost, dict[str, float]]:
        """The cost since the last call, summed over processes, seconds x devices; the metrics, their mean over processes."""
        self.settle()
        values, metrics = self.values, {k: float(np.mean(v)) for k, v in self.metrics.items()}
        prompts = self._new_prompts
        self.values, self.metrics, self._new_prompts = {}, {}, set()
        if self.trainer.accelerator.num_processes > 1:
            values, metrics, prompts = _over_processes(values, metrics, prompts)
        self.prompts_seen |= prompts
        scaled = {k: v * devices if k.endswith("_gpu_seconds") else v for k, v in values.items()}
        return ComputeCost(**{k: max(v, 0.0) for k, v in scaled.items()}), metrics

    def take_evaluation(self) -> ComputeCost:
        """FLOPs of TRL's own evaluation loop since the last call, summed over processes."""
        names = ("evaluation_flops", "evaluation_hardware_flops")
        values = {name: self.values.pop(name, 0.0) for name in names}
        if self.trainer.accelerator.num_processes > 1:
            values, _, _ = _over_processes(values, {}, set())
        return ComputeCost(**values)

    # -- wrappers: the original comes first, then the trainer's own arguments -------------------------------------

    def _generation(self, original: Callable[..., Any], prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        start = self.spans.mark()
        out = original(prompt_ids, *args, **kwargs)
        training = self.trainer.model.training
        if training:
            self.spans.add("generation_gpu_seconds", start)
        prompts = np.array([len(ids) for ids in prompt_ids])
        completions = np.array([len(ids) for ids in out[0]])
        model = flops.generation_flops(self.shape, prompts, completions)
        if getattr(self.trainer, "use_vllm", False) or getattr(
            self.trainer, "use_transformers_continuous_batching", False
        ):
            hardware = model  # no padded rectangle is run
        else:
            width = int(prompts.max())
            hardware = flops.generation_hardware_flops(
                self.shape, batch=len(prompts), prompt_width=width, completion_width=int(completions.max()),
                static_cache=self._static_cache(width),
            )  # fmt: skip
        if not training:  # TRL's own evaluation loop, whose seconds the meter takes as a whole
            self.add(evaluation_flops=model, evaluation_hardware_flops=hardware)
            return out
        self.add(
            generation_flops=model, generation_hardware_flops=hardware,
            prompt_tokens=int(prompts.sum()), completion_tokens=int(completions.sum()),
        )  # fmt: skip
        self.metrics.setdefault("completion_length", []).append(float(completions.mean()))
        return out

    def _static_cache(self, prompt_width: int) -> int | None:
        """Width of the static cache of a generation: never narrower than an earlier one of the run's [token]."""
        settings: Any = self.trainer.generation_config
        if settings.cache_implementation != "static":
            return None
        self._cache_width = max(
            self._cache_width, settings.max_cache_len or 0, prompt_width + settings.max_new_tokens - 1
        )
        return self._cache_width

    def _scoring(
        self,
        original: Callable[..., Any],
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if torch.is_grad_enabled():  # the forward of training, counted in `_loss`
            return original(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        start = self.spans.mark()
        out = original(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        if not self.trainer.model.training:
            return out
        self.spans.add("scoring_gpu_seconds", start)
        batch, width = input_ids.shape
        lengths, tokens = attention_mask.sum(dim=1), attention_mask[:, -logits_to_keep:].sum(dim=1)

        def count() -> None:
            completions = tokens.cpu().numpy()
            self.add(
                scoring_flops=flops.scoring_flops(self.shape, lengths.cpu().numpy() - completions, completions),
                scoring_hardware_flops=self._hardware(
                    flops.scoring_hardware_flops, batch, width - logits_to_keep, logits_to_keep, completions
                ),
            )

        self.spans.later(count)
        return out

    def _loss(self, original: Callable[..., Any], model: Any, inputs: dict[str, Any]) -> Any:
        if self.trainer.model.training:
            prompt_tokens, tokens = inputs["prompt_mask"].sum(dim=1), inputs["completion_mask"].sum(dim=1)
            batch, prompt_width = inputs["prompt_ids"].shape
            completion_width = inputs["completion_ids"].shape[1]
            lora = {"lora": True, "lora_rank": self._lora} if self._lora else {}

            def count() -> None:
                prompts, completions = prompt_tokens.cpu().numpy(), tokens.cpu().numpy()
                self.add(
                    training_flops=flops.training_flops(self.shape, prompts, completions, **lora),
                    training_hardware_flops=self._hardware(
                        flops.training_hardware_flops, batch, prompt_width, completion_width, completions,
                        gradient_checkpointing=bool(self.trainer.args.gradient_checkpointing), fused_head=True, **lora,
                    ),
                )  # fmt: skip

            self.spans.later(count)
        return original(model, inputs)

    def _prepare(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = self.spans.mark()
        out = original(*args, **kwargs)
        if self._in_training_step:  # its phases count for themselves
            self.spans.add("training_gpu_seconds", start, less=True)
        return out

    def _training_step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start, self._in_training_step = self.spans.mark(), True
        try:
            out = original(*args, **kwargs)
        finally:
            self._in_training_step = False
        self.spans.add("training_gpu_seconds", start)
        return out

    def _rewards(
        self, original: Callable[..., Any], inputs: Any, prompts: Any, completions: Any, completion_ids: Any
    ) -> Any:
        per_function = original(inputs, prompts, completions, completion_ids)
        if self.trainer.model.training:
            self.add(rollouts=len(prompts))
            self._new_prompts.update(hash_prompt(p) for p in prompts[:: self.trainer.num_generations])
            self.spans.later(lambda: self._reward_metrics(per_function))
        return per_function

    def _reward_metrics(self, per_function: torch.Tensor) -> None:
        """Rewards by group and by function; ``per_function`` is ``(rollouts, functions)``, NaN where one does not apply."""
        weights = self.trainer.reward_weights.to(per_function.device)
        rewards = (per_function * weights).nansum(dim=1)
        rewards[torch.isnan(per_function).all(dim=1)] = torch.nan
        groups = rewards.view(-1, self.trainer.num_generations).float().cpu().numpy()
        with np.errstate(all="ignore"):
            spread = (
                np.nanmax(groups, axis=1) - np.nanmin(groups, axis=1)
                if np.isfinite(groups).any()
                else np.array([np.nan])
            )
            for name, value in {
                "reward": np.nanmean(groups),
                "reward_std": np.nanstd(groups),
                # by group, whatever scale_rewards is: TRL's frac_reward_zero_std follows scale_rewards instead
                "zero_variance_fraction": np.mean(spread < 1e-9),
            }.items():
                self.metrics.setdefault(name, []).append(float(value))
            for i, name in enumerate(self.trainer.reward_func_names):
                column = per_function[:, i].float().cpu().numpy()
                if np.isfinite(column).any():
                    self.metrics.setdefault(f"rewards/{name}", []).append(float(np.nanmean(column)))

    def _hardware(
        self, count: Callable[..., float], batch: int, prompt_width: int, completion_width: int, completions: Any,
        **settings: Any,
    ) -> float:  # fmt: skip
        sizes: dict[str, Any] = {"batch": batch, "prompt_width": prompt_width, "completion_width": completion_width}
        if not self._compact_head:
            return count(self.shape, **sizes, scored_positions=prompt_width + completion_width - 1, **settings)
        # linear in the positions scored a row, whose mean is no whole number
        none, one = (count(self.shape, **sizes, scored_positions=n, **settings) for n in (0, 1))
        return none + (one - none) * float(completions.sum()) / batch


def hash_prompt(prompt: Any) -> int:
    """A stable 63-bit hash of a prompt (text or chat messages)."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(repr(prompt).encode(), digest_size=8).digest(), "big") >> 1


def _lora_rank(model: Any) -> int:
    config = getattr(model, "peft_config", None)
    return max((int(getattr(c, "r", 0)) for c in config.values()), default=0) if config else 0


def _over_processes(
    values: dict[str, float], metrics: dict[str, float], prompts: set[int]
) -> tuple[dict[str, float], dict[str, float], set[int]]:
    """Counts summed, metrics averaged, prompts united; seconds are this process's own (all processes share the wall)."""
    from accelerate.utils import gather_object

    parts = gather_object([(values, metrics, prompts)])
    names = {name for counted, _, _ in parts for name in counted}
    summed = {
        name: values.get(name, 0.0) if name.endswith("_gpu_seconds") else sum(part[0].get(name, 0.0) for part in parts)
        for name in names
    }
    means = {
        name: float(np.mean([part[1][name] for part in parts if name in part[1]]))
        for name in sorted({name for part in parts for name in part[1]})
    }
    return summed, means, set().union(*(part[2] for part in parts))
