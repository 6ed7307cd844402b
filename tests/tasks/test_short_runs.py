"""Three steps of every task family with a local model folder of the hub's form, by the path a user takes; LoRA too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scaling
from scaling.errors import ConfigError
from sweeps.config import conf_dir, resolve

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore::FutureWarning")]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with a byte-level tokenizer that has a pad token and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    path = tmp_path_factory.mktemp("model") / "tiny-qwen2"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(["<pad>", "<eos>", *alphabet])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(path)
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=1024, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    ).save_pretrained(path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "problems.jsonl"
    path.write_text(
        "".join(json.dumps({"problem": f"Add {i} and {i}.", "answer": str(2 * i)}) + "\n" for i in range(40))
    )
    return path


def run(folder: Path, runs: Path, overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import hydra_plugins.rl_scaling_launcher  # noqa: F401
    from sweeps.train import train

    common = [
        "model=qwen2.5_0.5b", f"model.name_or_path={folder}", "model.name=tiny", "grpo.prompts_per_step=2", "grpo.group_size=2",
        "grpo.training_prompts=8", "budget.steps=3", "tracking=disabled", "eval.early=[0]", "eval.best_decoding_k=0",
        f"runs_dir={runs}", f"bases_dir={runs}/bases",
    ]  # fmt: skip
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        body = OmegaConf.to_container(compose("config", overrides=[*common, *overrides]), resolve=True)
    config = resolve(body)  # type: ignore[arg-type]
    train(config)
    table = scaling.load_runs(config.run_dir)
    assert table.steps["step"].tolist() == [1, 2, 3] and np.isfinite(table.steps["loss"]).all()
    return table


TASKS: dict[str, list[str]] = {
    "math_file": [
        "task.held_out=4",
        "task.max_completion_length=6",
        "task.format_weight=0.1",
        "task.verifier_workers=1",
    ],
    "math_file chat": ["task.held_out=4", "task.max_completion_length=6", "task.chat=true", "task.verifier_workers=1"],
    "countdown": ["task.held_out=4", "task.max_completion_length=6"],
    "chain": ["task.held_out=4"],
    "chain random": ["task.held_out=4", "task.reward=random"],
}


@pytest.mark.parametrize("name", TASKS)
def test_three_steps(name: str, folder: Path, problems: Path, tmp_path: Path):
    task = name.split()[0]
    data = [f"task.train.path={problems}"] if task == "math_file" else []
    table = run(folder, tmp_path, [f"task={task}", *data, *TASKS[name]])
    assert set(table.evals["benchmark"]) == {"held_out"}
    if "random" in name:
        assert 0 < table.steps["reward"].mean() < 1


def test_mixture_logs_rewards_by_task(folder: Path, problems: Path, tmp_path: Path):
    overrides = [
        "task=mix_math_countdown", f"task.tasks.gsm8k.train.path={problems}", "task.tasks.gsm8k.train.prompt_column=problem",
        "task.tasks.gsm8k.train.answer_from=as_is", "task.tasks.gsm8k.train.subset=null", "task.tasks.gsm8k.held_out=4",
        "task.tasks.gsm8k.max_completion_length=6", "task.tasks.gsm8k.verifier_workers=1", "task.tasks.countdown.held_out=4",
        "task.tasks.countdown.max_completion_length=6", "task.weights.gsm8k=1.0",
    ]  # fmt: skip
    table = run(folder, tmp_path, overrides)
    assert set(table.evals["benchmark"]) == {"gsm8k/held_out", "countdown/held_out"}
    assert {"rewards/gsm8k", "rewards/countdown"} <= set(table.steps.columns)


def test_custom_reward_by_import_path(folder: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "short_run_rewards.py").write_text(
        "def length(completions, **_):\n    return [min(1.0, len(c) / 6) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    table = run(
        folder,
        tmp_path,
        [
            "task=custom",
            f"task.train.path={problems}",
            "task.train.prompt_column=problem",
            "task.function=short_run_rewards:length",
            "task.held_out=4",
            "task.max_completion_length=6",
        ],
    )
    assert "rewards/length" in table.steps.columns


def test_adapters_train_alone(folder: Path, tmp_path: Path):
    pytest.importorskip("peft", reason="optional package peft")
    table = run(
        folder,
        tmp_path,
        ["task=countdown", "task.held_out=4", "task.max_completion_length=6", "model.lora={rank:2,alpha:4}"],
    )
    full = run(folder, tmp_path, ["task=countdown", "task.held_out=4", "task.max_completion_length=6"])
    lora, whole = table.steps["training_flops"].sum(), full.steps["training_flops"].sum()
    assert 0.6 * whole < lora < whole, "frozen matrices have no gradient of their own"


def test_what_cannot_work_is_said_before_training(folder: Path, problems: Path, tmp_path: Path):
    common = [f"task.train.path={problems}", "task.held_out=4", "task.verifier_workers=1"]
    with pytest.raises(ConfigError, match="must have the column 'question', it has answer, problem"):
        run(folder, tmp_path, ["task=math_file", *common, "task.train.prompt_column=question"])
    with pytest.raises(ConfigError, match="exceed the model's context of 1024"):
        run(folder, tmp_path, ["task=math_file", *common, "task.max_completion_length=1020"])
    with pytest.raises(ConfigError, match="no such folder"):
        run(tmp_path / "none", tmp_path, ["task=countdown"])
