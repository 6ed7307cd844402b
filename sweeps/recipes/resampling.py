"""No-positive-resampling: a prompt that has been solved often enough is not drawn in later epochs.

The pass rates and the prompts left out of each epoch are saved in every checkpoint (``pass_rates.json``), so that a resumed
run draws what an uninterrupted one would. ScaleRL, arXiv:2510.13786, section 3.2 (threshold 0.9).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler

from sweeps.files import write_json
from sweeps.recipes import RecipeSwitches

_Base: Any = object  # a `GRPOTrainer`, put beside the mixin by `trainer_class`

__all__ = ["FILE", "PassRates", "ResamplingMixin"]

FILE = "pass_rates.json"
_INDEX = "prompt_index"  # the column that tells which prompt a row is


class PassRates:
    """Successes and attempts of each prompt, and which prompts each epoch leaves out.

    An epoch's list is fixed when its first prompt is drawn, and kept: drawing it again gives the same prompts.

    Example:
        >>> rates = PassRates(threshold=0.9)
        >>> rates.add([3, 3, 4], [True, True, False])
        >>> rates.left_out(epoch=1, size=5, least=1)
        {3}
    """

    def __init__(self, *, threshold: float) -> None:
        self.threshold = threshold
        self.counts: dict[int, list[int]] = {}  # prompt -> [successes, attempts]
        self.epochs: dict[int, list[int]] = {}
        self.exhausted = 0  # epochs that took solved prompts again, since too few others were left [1]

    def add(self, prompts: list[int], solved: list[bool]) -> None:
        """Count rollouts."""
        for prompt, success in zip(prompts, solved, strict=True):
            entry = self.counts.setdefault(prompt, [0, 0])
            entry[0] += int(success)
            entry[1] += 1

    def left_out(self, *, epoch: int, size: int, least: int) -> set[int]:
        """Prompts that ``epoch`` leaves out of ``size``; none of them where fewer than ``least`` would remain."""
        if epoch not in self.epochs:
            solved = sorted(p for p, (s, n) in self.counts.items() if p < size and s >= self.threshold * n)
            if size - len(solved) < least:
                solved, self.exhausted = [], self.exhausted + 1
            self.epochs[epoch] = solved
        return set(self.epochs[epoch])

    def save(self, path: Path) -> None:
        """Write atomically."""
        write_json(path, {"counts": self.counts, "epochs": self.epochs, "exhausted": self.exhausted})

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        body = json.loads(path.read_text(encoding="utf-8"))
        self.counts = {int(k): v for k, v in body["counts"].items()}
        self.epochs = {int(k): v for k, v in body["epochs"].items()}
        self.exhausted = body["exhausted"]


class _Unsolved(Sampler[int]):
    """Blocks of prompts as `sweeps.grpo.PromptSampler` draws them, without the prompts an epoch leaves out."""

    def __init__(self, inner: Any, rates: PassRates) -> None:
        self.inner, self.rates = inner, rates

    def order(self) -> Iterator[int]:
        """Distinct prompt draws in order, without end; a block never spans two epochs."""
        inner, epoch = self.inner, 0
        while True:
            generator = torch.Generator().manual_seed(inner.seed * 1_000_003 + epoch)
            permutation = torch.randperm(inner.size, generator=generator).tolist()
            skipped = self.rates.left_out(epoch=epoch, size=inner.size, least=inner.prompts)
            kept = [index for index in permutation if index not in skipped]
            yield from kept[: len(kept) - len(kept) % inner.prompts]
            epoch += 1

    def __iter__(self) -> Iterator[int]:
        draws = self.order()
        for _ in range(self.inner.blocks):
            block = [next(draws) for _ in range(self.inner.prompts)]
            for _ in range(self.inner.repeats):
                for index in block:
                    yield from [index] * self.inner.group_size

    def __len__(self) -> int:
        return len(self.inner)


class ResamplingMixin(_Base):
    """Counts pass rates and samples accordingly; its base's sampler must be a `sweeps.grpo.PromptSampler`."""

    recipe: RecipeSwitches

    def __init__(self, *args: Any, train_dataset: Any, **kwargs: Any) -> None:
        self.pass_rates = PassRates(threshold=self.recipe.no_positive_resampling)
        train_dataset = train_dataset.add_column(_INDEX, list(range(len(train_dataset))))
        super().__init__(*args, train_dataset=train_dataset, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        return _Unsolved(super()._get_train_sampler(dataset), self.pass_rates)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        per_function = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:
            rewards = (per_function * self.reward_weights.to(per_function.device)).nansum(dim=1)
            local = torch.tensor([row[_INDEX] for row in inputs], device=per_function.device)
            indices = self.accelerator.gather(local).tolist()
            self.pass_rates.add(indices, [r >= self.recipe.solved_at for r in rewards.tolist()])
            self._metrics["train"]["left_out_prompts"].append(
                float(len(self.pass_rates.epochs.get(max(self.pass_rates.epochs, default=0), [])))
            )
        return per_function

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.accelerator.is_main_process and folder.is_dir():
            self.pass_rates.save(folder / FILE)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As TRL; pass rates are restored with the checkpoint."""
        if isinstance(resume_from_checkpoint, (str, Path)) and (Path(resume_from_checkpoint) / FILE).is_file():
            self.pass_rates.load(Path(resume_from_checkpoint) / FILE)
        return super().train(resume_from_checkpoint, *args, **kwargs)
