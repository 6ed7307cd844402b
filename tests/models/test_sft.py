"""The supervised stage: three kinds, budgets in FLOPs, cost in the chain, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from scaling.errors import ConfigError
from sweeps.models import Hyperparameters, ScratchModel, load, shape_of
from sweeps.sft import SftConfig, run_sft, stage_hash
from sweeps.tasks import ChainConfig, ChainTask

pytestmark = pytest.mark.train
MODEL = ScratchModel(
    kind="scratch", name="tiny", hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32,
    hyperparameters=Hyperparameters(learning_rate=1e-3),
)  # fmt: skip


@pytest.fixture(scope="module")
def task() -> ChainTask:
    return ChainTask(ChainConfig(modulus=3, operands_max=4, short_operands=4, held_out=16))


@pytest.fixture(scope="module")
def base(task: ChainTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sweeps.pretrain import PretrainConfig, pretrain

    config = PretrainConfig(steps=80, batch=64, learning_rate=1e-2)
    return Path(pretrain(MODEL, task, config, tmp_path_factory.mktemp("bases"), progress=False).path)


def stage(config: SftConfig, task: ChainTask, base: Path):
    return run_sft(
        config, model_config=MODEL, task=task, base=base, parent=base.name, directory=base.parent, progress=False
    )


def loss_on(task: ChainTask, path: Path | str) -> float:
    import torch

    from sweeps.pretrain import _loss

    model, _ = load(MODEL, task, path=path)
    with torch.no_grad():
        return float(_loss(model.eval(), *task.held_out_batch(), task.max_completion_length, "cpu"))


def test_continued_pretraining_spends_its_budget_and_learns(task: ChainTask, base: Path):
    budget = 2e8
    record = stage(SftConfig(kind="continued", flops=budget, batch=32, learning_rate=5e-3), task, base)
    one_step = record.training_flops / record.steps
    assert budget <= record.flops < budget + 1.2 * one_step and record.sampling_flops == 0
    assert record.stage()["stage"] == "midtrain" and record.stage()["flops"] == record.flops
    assert loss_on(task, record.path) < loss_on(task, base)
    assert stage(SftConfig(kind="continued", flops=budget, batch=32, learning_rate=5e-3), task, base) == record, (
        "found again"
    )


def test_rejection_trains_on_verified_samples_alone_and_pays_for_sampling(
    task: ChainTask, base: Path, monkeypatch: pytest.MonkeyPatch
):
    import sweeps.sft as module

    seen: list = []
    encode = module._encode
    monkeypatch.setattr(module, "_encode", lambda tokenizer, pairs: (seen.extend(pairs), encode(tokenizer, pairs))[1])
    config = SftConfig(kind="rejection", steps=3, batch=16, prompts=40, samples=6, keep=2, learning_rate=1e-3)
    record = stage(config, task, base)
    answers = {row["prompt"]: row["answer"] for row in task.training_rows(n=40, seed=0)}
    assert seen and all(task.verify([completion], [answers[prompt]]) == [1.0] for prompt, completion in seen)
    kept: dict[str, list[str]] = {}
    for prompt, completion in seen:
        kept.setdefault(prompt, []).append(completion)
    assert all(len(c) <= 2 and len(set(c)) == len(c) for c in kept.values())
    assert record.texts == len(seen) and 0 < record.accepted < 1 and record.sampling_flops > 0
    assert record.steps == 3 and record.flops == record.sampling_flops + record.training_flops
    assert record.stage()["stage"] == "sft" and json.loads(json.dumps(record.stage()))["accepted"] == record.accepted


def test_flops_are_those_of_the_ledger(task: ChainTask, base: Path):
    from scaling.flops import pretraining_flops

    record = stage(SftConfig(kind="continued", steps=2, batch=8, learning_rate=1e-3, seed=5), task, base)
    from sweeps.sft import _continued

    rows = _continued(
        SftConfig(kind="continued", steps=2, batch=8, learning_rate=1e-3, seed=5), task, shape_of(MODEL, task)
    )
    lengths = [len(ids) for ids in rows["input_ids"]]
    scored = [sum(label != -100 for label in labels) for labels in rows["labels"]]
    assert record.training_flops == pytest.approx(
        pretraining_flops(shape_of(MODEL, task), lengths, scored_positions=scored)
    )
    assert record.tokens == sum(lengths)


def test_warm_start_from_a_file_and_its_errors(task: ChainTask, base: Path, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "1 + 1 . . . . . ?", "completion": "2 = 2"}) + "\n" for _ in range(8))
    )
    config = SftConfig(kind="data", steps=2, batch=4, path=str(path), learning_rate=1e-3)
    record = stage(config, task, base)
    assert record.texts == 8
    before = stage_hash(config, "x")
    path.write_text(path.read_text() * 2)
    assert stage_hash(config, "x") != before, "the file's content is part of the identity"
    with pytest.raises(ConfigError, match="must have the column 'response', it has completion, prompt"):
        stage(config.model_copy(update={"completion_column": "response"}), task, base)
    with pytest.raises(ConfigError, match="must be a readable file"):
        stage(config.model_copy(update={"path": str(tmp_path / "none.jsonl")}), task, base)
    with pytest.raises(ConfigError, match="spent by sampling alone"):
        stage(SftConfig(kind="rejection", flops=1.0, prompts=8, samples=2), task, base)
    for bad, words in (
        ({"kind": "data", "steps": 1}, "sft.path"),
        ({"kind": "continued"}, "sft.steps or sft.flops"),
        ({"kind": "continued", "steps": 1, "batch": 4, "micro_batch": 3}, "micro_batch"),
    ):
        with pytest.raises(ValidationError, match=words):
            SftConfig(**bad)
