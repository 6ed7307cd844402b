"""Generation with a static cache, compiled where there is an accelerator: the same tokens, the same counts, its own refusals."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from scaling.errors import ConfigError

pytestmark = pytest.mark.train

COMPILED = ["grpo.generation=compiled", "grpo.dtype=float32"]
PLAIN = ["grpo.generation=plain", "grpo.dtype=float32"]


def steps_of(config):
    from scaling.records import read_lines

    rows = [row for row, _ in read_lines(config.run_dir / "steps.jsonl")[0]]
    evaluations = [row for row, _ in read_lines(config.run_dir / "evals.jsonl")[0]]
    return [row for row in rows if row.get("metrics")], evaluations


@pytest.fixture
def trained(small):
    from sweeps.train import train

    def run(*overrides):
        config = small("budget.steps=2", "grpo.dtype=float32", *(overrides or PLAIN))
        train(config)
        return steps_of(config)

    return run


@pytest.fixture
def widths(monkeypatch):
    """Widths of the static caches that were made [token]."""
    from transformers import StaticCache

    found, original = [], StaticCache.__init__

    def seen(self, *args, **kwargs):
        found.append(kwargs["max_cache_len"])
        original(self, *args, **kwargs)

    monkeypatch.setattr(StaticCache, "__init__", seen)
    return found


def test_a_run_counts_what_a_plain_one_counts(trained, widths):
    plain, others = trained()
    assert not widths
    compiled, evaluations = trained(*COMPILED)
    assert len(compiled) == len(plain) == 2
    # the first step's rollouts come from the same weights and the same draws: same tokens, so same model FLOPs
    ours, theirs = compiled[0], plain[0]
    for name in ("generation_flops", "training_flops", "prompt_tokens", "completion_tokens", "rollouts"):
        assert ours["cost"][name] == theirs["cost"][name], name
    assert ours["metrics"]["reward"] == theirs["metrics"]["reward"]
    assert ours["metrics"]["completion_length"] == theirs["metrics"]["completion_length"]
    # the static cache is attended over its whole width
    assert ours["cost"]["generation_hardware_flops"] > theirs["cost"]["generation_hardware_flops"]
    assert ours["cost"]["training_hardware_flops"] == theirs["cost"]["training_hardware_flops"]
    # evaluation generates as it always does: the only static caches are those of the two generations
    assert len(widths) == 2
    measured = ("benchmark", "step", "sampling", "successes", "completion_length", "truncation_rate")
    base = [[{k: row[k] for k in measured} for row in rows if row["step"] == 0] for rows in (evaluations, others)]
    assert base[0] == base[1] != []
    assert {row["step"] for row in evaluations} == {row["step"] for row in others} == {0, 2}


def build(config, folder):
    from sweeps.grpo import build_trainer
    from sweeps.models import load
    from sweeps.pretrain import pretrain
    from sweeps.tasks import build as build_task

    task = build_task(config.task)
    base = pretrain(config.model, task, config.pretrain, config.bases_dir, progress=False)
    model, tokenizer = load(config.model, task, path=base.path)
    rows = task.training_rows(n=64, seed=0)
    trainer = build_trainer(config, model=model, tokenizer=tokenizer, task=task, rows=rows, output_dir=folder)
    return trainer, [row["prompt"] for row in rows], task


def test_greedy_completions_are_those_of_plain_generation(small, tmp_path, widths):
    out = {}
    for name, overrides in {"plain": PLAIN, "compiled": COMPILED}.items():
        trainer, prompts, task = build(small(*overrides), tmp_path / name)
        trainer.generation_config.do_sample = False
        ids = trainer.processing_class(prompts)["input_ids"]
        # padded, and batches of another width
        halves = [[row[i % 3 + cut :] for i, row in enumerate(ids[8 * n : 8 * n + 8])] for n, cut in ((0, 2), (1, 0))]
        out[name] = [trainer._generate_single_turn(half, None, {}, num_generations=1)[0] for half in halves]
        if name == "plain":
            assert not widths
    assert out["compiled"] == out["plain"]
    assert len({tuple(ids) for half in out["plain"] for ids in half}) > 1
    # one width, so that an accelerator compiles once
    assert widths == [max(map(len, ids)) + task.max_completion_length - 1] * 2


def test_transformers_may_compile_and_evaluation_does_not(small, tmp_path):
    from transformers import StaticCache

    trainer, _, _ = build(small(*COMPILED), tmp_path / "compiled")
    settings, model = trainer.generation_config, trainer.model
    cache = StaticCache(config=model.config, max_cache_len=8)

    class OnAccelerator:
        device, config = torch.device("cuda"), model.config

    valid = type(model)._valid_auto_compile_criteria
    assert valid(OnAccelerator(), {"past_key_values": cache}, settings)
    if model.device.type == "cpu":
        assert not valid(model, {"past_key_values": cache}, settings)
    # what evaluation inherits
    assert model.generation_config.cache_implementation is None
    assert getattr(model.generation_config, "max_cache_len", None) is None
    plain, _, _ = build(small(*PLAIN), tmp_path / "plain")
    assert not valid(OnAccelerator(), {"past_key_values": cache}, plain.generation_config)
    assert plain.generation_config.cache_implementation is None


def test_auto_is_refused_where_it_means_bfloat16_before_anything_is_paid(small, monkeypatch):
    from sweeps.train import train, train_stages

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    config = small("grpo.generation=compiled", "grpo.dtype=auto", "pretrain.seed=77", "cluster.accelerator=cpu")
    for work in (train, train_stages):
        with pytest.raises(ConfigError, match=r"dtype=auto, which is bfloat16 .* set grpo.dtype=float32"):
            work(config)
    assert not list(config.run_dir.glob("segments*")) and not (config.run_dir / "run.json").exists()
    assert not any(config.base_hash in str(path) for path in type(config.run_dir)(config.bases_dir).glob("*"))


def test_generation_is_compiled_by_itself_where_it_can_be_and_was_measured(small, monkeypatch, tmp_path):
    from sweeps import devices
    from sweeps.devices import compiled_generation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not compiled_generation(small("grpo.dtype=float32"))
    monkeypatch.undo()
    trainer, _, _ = build(small("grpo.dtype=float32"), tmp_path)
    assert trainer.generation_config.cache_implementation == (None if trainer.model.device.type == "cpu" else "static")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_can_compile", lambda: True)
    assert compiled_generation(small("grpo.dtype=float32")) and compiled_generation(small("grpo.dtype=tf32"))
    for plain in (
        ["grpo.generation=plain", "grpo.dtype=float32"], ["grpo.dtype=auto"], ["grpo.dtype=bfloat16"],
        ["grpo.dtype=float32", "grpo.vllm=colocate"], ["grpo.dtype=float32", "grpo.recipe.interrupt_after=4"],
        ["grpo.dtype=float32", "cluster.accelerate_config=f.yaml"],
    ):  # fmt: skip
        assert not compiled_generation(small(*plain)), plain
    public = small("grpo.dtype=float32").model_copy(update={"model": SimpleNamespace(kind="hub")})
    assert not compiled_generation(public)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not compiled_generation(small("grpo.dtype=float32"))
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(devices, "_can_compile", lambda: False)
    assert not compiled_generation(small("grpo.dtype=float32"))


def test_tf32_is_for_products_on_accelerators_that_have_it(monkeypatch):
    from sweeps.devices import set_products

    said = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", said.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    set_products("tf32")
    assert not said
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    for dtype in ("tf32", "float32", "bfloat16"):
        set_products(dtype)
    assert said == ["high", "highest", "highest"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    with pytest.raises(ConfigError, match=r"compute capability 8.0 .* got Tesla V100: set grpo.dtype=float32"):
        set_products("tf32")
