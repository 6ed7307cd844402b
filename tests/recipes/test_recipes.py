"""Each recipe piece on real TRL steps: exactly what it changes, and nothing where it is off."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from scaling.errors import ConfigError
from sweeps.recipes import RecipeSwitches, trainer_class
from sweeps.recipes.resampling import FILE, PassRates
from sweeps.tasks import ChainConfig, ChainTask

pytestmark = pytest.mark.train
GROUP = 4


@pytest.fixture(scope="module")
def task() -> ChainTask:
    return ChainTask(ChainConfig(held_out=8, operands_max=5, short_operands=5))


def spy(base: type) -> type:
    class Spy(base):  # sees what TRL scored before a recipe changes it, and what the loss then got and gave
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.raw: list[dict[str, Any]] = []
            self.seen: list[tuple[dict[str, Any], float]] = []
            super().__init__(*args, **kwargs)

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            out = super()._generate_and_score_completions(inputs)
            self.raw.append({k: v.clone() for k, v in out.items() if torch.is_tensor(v)})
            return out

        def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
            loss = super()._compute_loss(model, inputs)
            self.seen.append(({k: v.clone() for k, v in inputs.items() if torch.is_tensor(v)}, float(loss.detach())))
            return loss

    return Spy


def build(
    task: ChainTask,
    folder: Path,
    switches: RecipeSwitches,
    *,
    reward: Any,
    prompts: int = 4,
    size: int = 64,
    **changes: Any,
) -> Any:
    from datasets import Dataset, disable_progress_bars
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import GRPOConfig

    from sweeps.grpo import RunTrainer

    disable_progress_bars()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(task.tokens), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            pad_token_id=0, eos_token_id=1, bos_token_id=2, initializer_range=0.3,
        )
    )  # fmt: skip
    settings = {
        "output_dir": str(folder), "max_steps": 1, "per_device_train_batch_size": prompts * GROUP, "num_generations": GROUP,
        "max_completion_length": task.max_completion_length, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
        "loss_type": "dapo", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none",
        "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no", "remove_unused_columns": False, "log_level": "warning",
    } | changes  # fmt: skip
    return trainer_class(spy(RunTrainer), switches)(
        model=model, reward_funcs=reward, args=GRPOConfig(**settings), processing_class=task.tokenizer(),
        train_dataset=Dataset.from_list(task.training_rows(n=size, seed=0)),
    )  # fmt: skip


def some(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Prompts of three operands: all rollouts alike; the others differ by length."""
    return [1.0 if p.count(".") == 4 else float(len(c.split()) % 2) for p, c in zip(prompts, completions)]


def expected_loss(raw: dict[str, Any], *, average: bool, filtered: bool) -> float:
    """The loss on policy (every ratio is 1), from the advantages TRL computed, by the formulas of the module."""
    tokens = raw["completion_mask"].sum(dim=1).float().view(-1, GROUP)
    advantages = raw["advantages"].view(-1, GROUP)
    live = advantages.abs().amax(dim=1) > 1e-6
    used = live if filtered else torch.ones_like(live)
    if average:
        per_prompt = (advantages * tokens).sum(dim=1) / tokens.sum(dim=1)
        return -float(per_prompt[used].sum() / used.sum())
    return -float((advantages * tokens).sum() / tokens[used].sum())


@pytest.mark.parametrize("micro", [16, 8])
@pytest.mark.parametrize(("average", "filtered"), [(False, False), (True, False), (False, True), (True, True)])
def test_aggregation_changes_the_loss_to_its_formula(
    task: ChainTask, tmp_path: Path, average: bool, filtered: bool, micro: int
):
    switches = RecipeSwitches(prompt_average=average, filter_zero_variance=filtered)
    trainer = build(
        task, tmp_path, switches, reward=some, per_device_train_batch_size=micro, gradient_accumulation_steps=16 // micro,
    )  # fmt: skip
    trainer.train()
    [raw] = trainer.raw
    live = raw["advantages"].view(-1, GROUP).abs().amax(dim=1) > 1e-6
    assert 0 < live.sum() < 4, "the test needs both kinds of prompt"
    assert len({*raw["completion_mask"].view(-1, GROUP * raw["completion_mask"].shape[1]).sum(dim=1).tolist()}) > 1
    assert sum(loss for _, loss in trainer.seen) == pytest.approx(
        expected_loss(raw, average=average, filtered=filtered), rel=1e-4
    )
    untouched = {k: v for k, v in raw.items() if k not in ("advantages", "num_items_in_batch", "num_items_in_batch")}
    for name, value in untouched.items():
        got = torch.cat([inputs[name] for inputs, _ in trainer.seen])
        assert sorted(map(str, got.tolist())) == sorted(map(str, value.tolist())), f"{name} must not change"
    if average or filtered:
        share = float(live.float().mean()) if filtered else 1.0
        assert trainer.state.log_history[0]["used_prompts"] == pytest.approx(share)


def test_a_step_without_any_signal_is_a_step_of_zero_loss(task: ChainTask, tmp_path: Path):
    trainer = build(
        task,
        tmp_path,
        RecipeSwitches(prompt_average=True, filter_zero_variance=True),
        reward=lambda completions, **_: [1.0] * len(completions),
    )
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.train()
    assert trainer.seen[0][1] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))


def test_switches_that_do_not_fit_are_refused(task: ChainTask, tmp_path: Path):
    for switches, changes, words in (
        (
            {"prompt_average": True},
            {"loss_type": "grpo"},
            "grpo.recipe.prompt_average needs grpo.loss=dapo or cispo.*got grpo",
        ),
        ({"interrupt_after": 8}, {}, "grpo.recipe.interrupt_after needs room"),
    ):
        with pytest.raises(ConfigError, match=words):
            build(task, tmp_path, RecipeSwitches(**switches, interruption="= 3"), reward=some, **changes)
    with pytest.raises(ValidationError, match="interruption"):
        RecipeSwitches(interrupt_after=3, interruption="")
    with pytest.raises(ValidationError, match="no_positive"):
        RecipeSwitches(no_positive_resampling=1.5)


def test_off_is_the_base_class_itself():
    assert trainer_class(dict, RecipeSwitches()) is dict


def test_interruption_tells_open_completions_to_answer_and_does_not_train_on_the_telling(
    task: ChainTask, tmp_path: Path
):
    texts: list[str] = []

    def reward(completions: list[str], **_: Any) -> list[float]:
        texts.extend(completions)
        return [float(i % 2) for i in range(len(completions))]

    switches = RecipeSwitches(interrupt_after=3, interruption=", =")
    trainer = build(task, tmp_path, switches, reward=reward, prompts=8)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(0.0)  # uniform tokens: some completions end early, most are open
    whole = trainer.generation_config.max_new_tokens
    trainer.train()
    assert trainer.generation_config.max_new_tokens == whole
    told = [task.ids[","], task.ids["="]]
    [raw] = trainer.raw
    interrupted = 0
    for ids, mask, own in zip(
        raw["completion_ids"].tolist(), raw["completion_mask"].tolist(), raw["tool_mask"].tolist()
    ):
        length = sum(mask)
        assert length <= task.max_completion_length
        if 1 in ids[: min(3, length)]:  # ended by itself
            assert length <= 3 and own[:length] == [1] * length
        else:
            interrupted += 1
            assert ids[3:5] == told and own[:length] == [1, 1, 1, 0, 0] + [1] * (length - 5)
    assert 0 < interrupted < len(raw["completion_ids"])
    assert trainer.state.log_history[0]["interrupted_fraction"] == pytest.approx(interrupted / 32)
    assert sum(", =" in text for text in texts) >= interrupted, "the reward sees the whole completion"
    # the loss counts the policy's own tokens alone
    mask = raw["completion_mask"] * raw["tool_mask"]
    assert float(raw["num_items_in_batch"]) == float(mask.sum())
    assert trainer.seen[0][1] == pytest.approx(
        -float((raw["advantages"][:, None] * mask).sum() / mask.sum()), rel=1e-4, abs=1e-6
    )


class TestResampling:
    def drawn(
        self, task: ChainTask, folder: Path, *, steps: int, resume: bool = False, **changes: Any
    ) -> tuple[Any, list[Counter]]:
        drawn: list[Counter] = []

        def reward(prompts: list[str], prompt_index: list[int], **_: Any) -> list[float]:
            drawn.append(Counter(prompt_index))
            return [
                1.0 if i < 6 else float(j % 2) for j, i in enumerate(prompt_index)
            ]  # prompts 0 to 5 are always solved

        trainer = build(
            task, folder, RecipeSwitches(no_positive_resampling=0.9), reward=reward, prompts=2, size=12, max_steps=steps,
            save_strategy="steps", save_steps=1, **changes,
        )  # fmt: skip
        trainer.train(
            resume_from_checkpoint=str(max(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])))
            if resume
            else None
        )
        return trainer, drawn

    def test_solved_prompts_leave_later_epochs_and_a_resumed_run_draws_the_same(self, task: ChainTask, tmp_path: Path):
        _, whole = self.drawn(task, tmp_path / "a", steps=12)
        first, later = sum(whole[:6], Counter()), sum(whole[7:], Counter())
        assert set(first) == set(range(12)) and set(first.values()) == {GROUP}
        assert set(later) <= set(range(6, 12)), "solved prompts are not drawn again"
        _, half = self.drawn(task, tmp_path / "b", steps=7)
        trainer, rest = self.drawn(task, tmp_path / "b", steps=12, resume=True)
        assert half + rest == whole
        assert trainer.pass_rates.counts[0] == [GROUP, GROUP]
        assert (tmp_path / "b" / "checkpoint-12" / FILE).is_file()

    def test_an_epoch_with_too_few_unsolved_prompts_takes_all(self):
        rates = PassRates(threshold=0.9)
        rates.add([0, 1, 2], [True, True, True])
        assert rates.left_out(epoch=1, size=4, least=2) == set() and rates.exhausted == 1
        assert rates.left_out(epoch=2, size=6, least=2) == {0, 1, 2}
        rates.add([3], [True])
        assert rates.left_out(epoch=2, size=6, least=2) == {0, 1, 2}, "an epoch's list is fixed"

    def test_the_threshold_counts_every_attempt(self, tmp_path: Path):
        rates = PassRates(threshold=0.9)
        rates.add([7] * 10, [True] * 9 + [False])
        rates.add([8] * 10, [True] * 8 + [False] * 2)
        assert rates.left_out(epoch=0, size=20, least=1) == {7}
        rates.save(tmp_path / FILE)
        again = PassRates(threshold=0.9)
        again.load(tmp_path / FILE)
        assert (again.counts, again.epochs) == (rates.counts, rates.epochs)
