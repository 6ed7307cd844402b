"""Files that the real libraries wrote: a GRPO run of TRL, OpenRLHF's loggers over W&B and TensorBoard, MLflow's stores."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scaling.importers import load, read_runs, to_table

# -- TRL -----------------------------------------------------------------------------------------------------------------

TRL = """
import sys, torch, datasets
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

folder = sys.argv[1]
words = ["<pad>", "<eos>", "<unk>", *"abcdefgh"]
inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
torch.manual_seed(0)
config = Qwen2Config(vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=2, max_position_embeddings=64, eos_token_id=1, pad_token_id=0)
rows = datasets.Dataset.from_dict({"prompt": ["a b c", "d e f", "g h", "a"] * 4})

def letters(completions, **_):
    return [min(1.0, c.count("a") / 4) for c in completions]

arguments = GRPOConfig(output_dir=folder + "/grpo", max_steps=3, logging_steps=1, save_steps=2, eval_strategy="steps", eval_steps=2,
    per_device_train_batch_size=4, per_device_eval_batch_size=4, num_generations=4, max_completion_length=8, report_to="none",
    use_cpu=True, disable_tqdm=True, bf16=False, gradient_checkpointing=False, beta=0.0)
trainer = GRPOTrainer(Qwen2ForCausalLM(config), reward_funcs=letters, args=arguments, train_dataset=rows,
    eval_dataset=rows.select(range(4)), processing_class=tokenizer)
trainer.train()
trainer.save_state()
"""


def run(code: str, *arguments: object) -> str:
    """Run a script in a process of its own, offline."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_grpo_run_of_trl(tmp_path):
    pytest.importorskip("trl")
    run(TRL, tmp_path)
    (state,) = (tmp_path / "grpo").glob("trainer_state.json")
    history = [
        row for row in json.loads(state.read_text())["log_history"] if "step_time" in row and "eval_reward" not in row
    ]
    found = read_runs(tmp_path, "trl", gpus=2)
    assert len(found) == 1  # two checkpoints and the end of one run
    table, explanation = to_table(found), found[0].explanation
    assert table.runs[["name", "status", "confidence"]].iloc[0].tolist() == ["grpo", "finished", "assumed"]
    assert table.steps["step"].tolist() == [1, 2, 3]
    assert table.steps["reward"].tolist() == [row["reward"] for row in history]
    assert table.steps["completion_length"].tolist() == [row["completions/mean_length"] for row in history]
    assert table.steps["gpu_seconds"].tolist() == pytest.approx([2 * row["step_time"] for row in history])
    assert table.runs["tokens"].item() == history[-1]["num_tokens"] > 0
    # TRL evaluates after every second step, and at the end
    evaluated = {row["step"]: row for row in json.loads(state.read_text())["log_history"] if "eval_reward" in row}
    assert sorted(evaluated) and table.evals["step"].unique().tolist() == sorted(evaluated)
    scores = table.evals.pivot(index="step", columns="benchmark", values="pass@1")
    assert scores["eval"].tolist() == [row["eval_reward"] for row in evaluated.values()]
    assert scores["letters"].tolist() == [row["eval_rewards/letters/mean"] for row in evaluated.values()]
    seconds = [2 * evaluated.get(step, {}).get("eval_runtime", 0.0) for step in (1, 2, 3)]
    assert table.steps["evaluation_gpu_seconds"].tolist() == pytest.approx(seconds)
    for name in (
        "reward",
        "completion_length",
        "truncation_rate",
        "entropy",
        "learning_rate",
        "zero_variance_fraction",
        "step_seconds",
    ):
        assert name in {ours for ours, _, _ in explanation.matched}, name


# -- OpenRLHF ------------------------------------------------------------------------------------------------------------

# the names and calls of its trainer: train/<key> and eval/eval_<data source>_pass<k>, each with its own global_step
OPENRLHF = """
import sys
rows = {s: {"policy_loss": 0.1, "actor_lr": 1e-6, "reward": 0.25 * s, "return": 0.2, "response_length": 80.0, "total_length": 100.0,
            "kl": 0.01, "timing/make_experience": 12.0, "timing/generation": 10.0, "timing/ppo_train": 5.0, "timing/broadcast": 1.0,
            "timing/step_total": 20.0, "dynamic_filtering_pass_rate": 0.75} for s in range(1, 5)}
scores = {s: {"eval_aime_pass4": 0.5, "eval_aime_pass1": 0.25 * s / 2} for s in (2, 4)}
arguments = {"pretrain": "org/model", "n_samples_per_prompt": 4, "rollout_batch_size": 8, "seed": 3, "init_kl_coef": 0.0,
             "actor_learning_rate": 1e-6, "eval_temperature": 0.6}
"""
WANDB = (
    OPENRLHF
    + """
import wandb
wandb.init(project="p", name="r", dir=sys.argv[1], config=arguments, settings=wandb.Settings(x_disable_stats=True))
wandb.define_metric("train/global_step")
wandb.define_metric("train/*", step_metric="train/global_step", step_sync=True)
wandb.define_metric("eval/epoch")
wandb.define_metric("eval/*", step_metric="eval/epoch", step_sync=True)
for step, row in rows.items():
    wandb.log({"train/generated_samples": wandb.Table(columns=["global_step", "text", "reward"], data=[[step, "x", 0.5]])})
    wandb.log({f"train/{k}": v for k, v in {**row, "global_step": step}.items()})
    if step in scores:
        wandb.log({f"eval/{k}": v for k, v in {**scores[step], "global_step": step}.items()})
wandb.finish()
wandb.teardown()
"""
)
TENSORBOARD = (
    OPENRLHF
    + """
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter(log_dir=sys.argv[1] + "/r")
for step, row in rows.items():
    writer.add_text("train/generated_samples", "Sample", step)
    for key, value in row.items():
        writer.add_scalar(f"train/{key}", value, step)
    for key, value in scores.get(step, {}).items():
        writer.add_scalar(f"eval/{key}", value, step)
writer.close()
"""
)


@pytest.mark.parametrize(
    ("source", "script", "needs"), [("wandb", WANDB, "wandb"), ("tensorboard", TENSORBOARD, "tensorboard")]
)
def test_openrlhf_over_its_trackers(tmp_path, source, script, needs):
    pytest.importorskip(needs)
    run(script, tmp_path)
    found = read_runs(tmp_path, source, gpus=8, **({"cache": False} if source == "wandb" else {}))
    table = to_table(found)
    assert table.runs[["trainer", "steps", "segments"]].iloc[0].tolist() == ["openrlhf", 4, 1]
    assert table.steps["step"].tolist() == [1, 2, 3, 4]
    assert table.steps["reward"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert table.steps["gpu_seconds"].tolist() == [160.0] * 4
    assert (
        table.steps["zero_variance_fraction"].tolist() == [0.25] * 4
        and table.steps["prompt_length"].tolist() == [20.0] * 4
    )
    scores = table.evals[["step", "benchmark", "pass@1", "any@4", "k"]]
    assert scores.to_numpy().tolist() == [[2, "aime", 0.25, 0.5, 1], [4, "aime", 0.5, 0.5, 1]]
    assert table.evals["gpu_hours"].tolist() == pytest.approx([2 * 160 / 3600, 4 * 160 / 3600])
    if source == "wandb":
        assert table.runs["model"].item() == "org/model"
        assert table.runs["rollouts"].item() == 4 * 32  # 8 prompts x 4 samples, from the configuration


# -- MLflow --------------------------------------------------------------------------------------------------------------

STORE = Path(__file__).parent / "mlflow_store"


@pytest.mark.parametrize("made", ["committed", "anew"])
def test_what_mlflow_wrote(tmp_path, made):
    from .mlflow_store.make import ROWS

    folder = STORE
    if made == "anew":
        for needed in ("mlflow", "sqlalchemy", "alembic", "cryptography"):  # the latter three for its database
            pytest.importorskip(needed)
        folder = tmp_path
        subprocess.run([sys.executable, STORE / "make.py", tmp_path], check=True, capture_output=True)
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        db.executescript((folder / "mlflow.sql").read_text())
    for store in (folder / "mlruns", tmp_path / "mlflow.db"):
        table = load(store, "mlflow")
        assert table.runs[["name", "status", "trainer", "devices"]].iloc[0].tolist() == ["a run", "finished", "verl", 8]
        assert table.steps["reward"].tolist() == [row["critic/rewards/mean"] for row in ROWS.values()]
        assert table.steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(4, 8 * 40.0))
        assert table.evals[["step", "benchmark", "k"]].to_numpy().tolist() == [
            [2, "openai/gsm8k", 2],
            [4, "openai/gsm8k", 2],
        ]
        assert table.evals["pass@1"].tolist() == pytest.approx([0.42, 0.44])
        assert any("actor/grad_norm" in s.reason for s in table.skipped) and "grad_norm" not in table.steps
