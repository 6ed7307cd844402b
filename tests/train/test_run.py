"""One run, in this process: what it writes, mirrors and refuses."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import scaling
from scaling.errors import ConfigError
from scaling.records import read_lines, read_run

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with an offline mirror: (config, table)."""
    from tests_train_shared import SMALL, composed

    from sweeps.config import resolve
    from sweeps.train import train

    folder = tmp_path_factory.mktemp("run")
    config = resolve(
        composed([*SMALL, f"runs_dir={folder}/runs", f"bases_dir={folder}/bases", "tracking=offline", "budget.steps=12",
                  "eval.max_share=0.6", "eval.every=3", "checkpoint.snapshots=log"])
    )  # fmt: skip
    train(config)
    return config, scaling.load_runs(config.run_dir)


def test_records_are_complete(finished):
    config, table = finished
    assert table.steps["step"].tolist() == list(range(1, 13)) and not table.skipped
    wanted = {
        "generation_flops", "training_flops", "generation_hardware_flops", "training_hardware_flops", "gpu_seconds",
        "evaluation_gpu_seconds", "prompt_tokens", "completion_tokens", "rollouts", "reward", "completion_length",
        "truncation_rate", "entropy", "zero_variance_fraction", "clip_fraction", "learning_rate", "epoch", "unique_prompts",
        "updates_per_rollout", "rewards/correct", "grad_norm",
    }  # fmt: skip
    assert wanted <= set(table.steps.columns)
    steps = table.steps
    assert (steps["rollouts"] == 32).all() and (steps["prompt_tokens"] == 32 * 10).all()
    np.testing.assert_allclose(steps["completion_tokens"] / 32, steps["completion_length"], rtol=1e-6)
    assert (steps["generation_hardware_flops"] > steps["generation_flops"]).all()
    assert steps["unique_prompts"].is_monotonic_increasing and steps["unique_prompts"].iloc[-1] <= 96
    record = read_run(config.run_dir)
    assert record.status == "finished" and record.run_id == config.run_id
    assert record.stages[0]["stage"] == "pretrain" and record.stages[0]["flops"] > 0
    row = table.runs.iloc[0]
    assert row["pretraining_flops"] == record.stages[0]["flops"]
    assert 0 < row["gpu_hours"] < row["gpu_hours_paid"]


def test_phases_add_up_to_the_wall(finished):
    config, _ = finished
    rows, _ = read_lines(config.run_dir / "steps.jsonl")
    lines = [row for row, _ in rows]
    paid = sum(v for line in lines for k, v in line["cost"].items() if k.endswith("_gpu_seconds"))
    first = next(line for line in lines if not line.get("metrics"))  # ends with the start-up
    wall = lines[-1]["time"] - first["time"] + first["cost"]["overhead_gpu_seconds"]
    assert paid == pytest.approx(wall, rel=0.03, abs=0.1)


def test_the_base_is_measured_under_its_best_decoding(finished):
    _, table = finished
    first = table.evals[table.evals["step"] == 0]
    assert set(first["decoding"]) == {"sampled", "greedy", "forced_trace", "maj@4"}
    assert (first["n_items"] == 64).all() and first["gpu_hours"].eq(0).all()


def test_evaluation_stays_below_its_share(finished):
    config, table = finished
    lines = [row for row, _ in read_lines(config.run_dir / "steps.jsonl")[0]]
    spent = sum(line["cost"].get("evaluation_flops", 0.0) for line in lines)  # the base's best decoding included
    assert 0 < spent <= config.eval.max_share * table.runs.iloc[0]["total_flops"]
    assert {0, 12} <= set(table.evals["step"])


def test_the_mirror_has_every_metric_against_gpu_hours(finished):
    from scaling.importers.walog import read_log

    config, table = finished
    (path,) = config.run_dir.glob("wandb/*run-*/*.wandb")
    log = read_log(path)
    (base,) = [row for row in log.rows if row.get("train/global_step") == 0]
    assert base["gpu_hours"] == 0 and 0 <= base["eval/held_out/pass@1"] <= 1
    rows = [row for row in log.rows if "train/reward" in row]
    assert [row["train/global_step"] for row in rows] == list(range(1, 13))
    for key in (
        "gpu_hours",
        "total_flops",
        "pretraining_flops_ratio",
        "train/completion_length",
        "compute/training_flops",
    ):
        assert all(key in row for row in rows), key
    assert rows[-1]["gpu_hours"] == pytest.approx(table.runs.iloc[0]["gpu_hours"], rel=1e-6)
    scores = [row["eval/held_out/pass@1"] for row in rows if "eval/held_out/pass@1" in row]
    assert scores[-1] == pytest.approx(table.evals[table.evals["decoding"] == "sampled"]["pass@1"].iloc[-1])


def test_a_finished_run_is_recognised(finished, capsys):
    from sweeps.train import train

    config, table = finished
    before = {p.name: p.read_bytes() for p in config.run_dir.glob("*.jsonl")}
    train(config)
    assert "already at its budget" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in config.run_dir.glob("*.jsonl")} == before


def test_a_finished_run_whose_checkpoints_were_deleted_is_not_paid_for_again(finished, tmp_path, capsys):
    from sweeps.train import train

    config, _ = finished
    copy = config.model_copy(update={"runs_dir": str(tmp_path)})
    shutil.copytree(config.run_dir, copy.run_dir, ignore=shutil.ignore_patterns("checkpoints", "lock*", "wandb"))
    train(copy)
    assert "already at its budget (12 steps)" in capsys.readouterr().out
    assert (copy.run_dir / "steps.jsonl").read_bytes() == (config.run_dir / "steps.jsonl").read_bytes()


def test_a_disk_that_is_full_at_the_end_does_not_leave_the_mirror_open(small, monkeypatch):
    from scaling.errors import RecordError
    from sweeps.run_dir import RunDirectory
    from sweeps.tracking import Tracker
    from sweeps.train import train

    def full(*_args: object, **_facts: object) -> None:
        raise RecordError("cannot write run.json: No space left on device")

    ended: list[int] = []
    monkeypatch.setattr(RunDirectory, "close_segment", full)
    monkeypatch.setattr(Tracker, "finish", lambda self, exit_code=0: ended.append(exit_code))
    with pytest.raises(RecordError, match="No space"):
        train(small("budget.steps=1", "eval.early=[0]"))
    assert ended == [0]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", b"short"), ("optimizer.pt", None), ("trainer_state.json", b""), ("ledger.json", b""),
        ("ledger.json", b"{}"), ("ledger.json", b"[]"), ("ledger.json", b"\xff\xfe"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_passed_over(finished, tmp_path, capsys, file, damage):
    from sweeps.run_dir import RunDirectory

    config, _ = finished
    shutil.copytree(config.run_dir / "checkpoints", tmp_path / "run" / "checkpoints")
    directory = RunDirectory(tmp_path / "run")
    whole = directory.latest_checkpoint()
    assert whole is not None and whole[1]["step"] == 12
    path = whole[0] / file
    path.unlink() if damage is None else path.write_bytes(damage)
    found = directory.latest_checkpoint()
    assert found is not None and found[1]["step"] == 10
    if file != "ledger.json":
        assert f"checkpoint-12 is damaged ({file} must have" in capsys.readouterr().err
    directory.release()


def test_evaluation_after_the_fact(finished, capsys):
    from sweeps.evaluate import main

    config, before = finished
    arguments = [str(config.run_dir), "checkpoints=log3", "benchmarks=held_out", "k=8", "problems=16"]
    assert main(arguments) == 0
    assert "3 evaluations added" in capsys.readouterr().out
    table = scaling.load_runs(config.run_dir)
    new = table.evals[table.evals["k"] == 8]
    assert new["step"].tolist() == [1, 3, 12] and (new["n_items"] == 16).all()
    spent = table.steps.set_index("step")["cumulative_total_flops"]
    assert new["total_flops"].tolist() == pytest.approx(spent.loc[[1, 3, 12]].tolist())  # at the checkpoint's own cost
    assert table.runs.iloc[0]["total_flops"] == before.runs.iloc[0]["total_flops"]
    assert table.runs.iloc[0]["gpu_hours_paid"] > before.runs.iloc[0]["gpu_hours_paid"]
    assert (
        table.curves(benchmark="held_out", axis="total_flops")[config.run_id][0].samples_per_item == 1
    )  # the run's own
    main(arguments)
    assert "0 evaluations added" in capsys.readouterr().out  # an interrupted one would go on from here
    with pytest.raises(SystemExit, match="'nope' is neither a benchmark"):
        main([str(config.run_dir), "benchmarks=nope"])
    with pytest.raises(SystemExit, match=r"chekpoints.*settings are checkpoints"):
        main([str(config.run_dir), "chekpoints=last"])


def test_a_local_folder_stands_in_for_the_hub(finished, small, tmp_path):
    from tests_train_shared import SMALL, composed

    from sweeps.config import resolve
    from sweeps.train import train

    config, _ = finished
    (base,) = (p for p in (config.run_dir.parents[2] / "bases").iterdir() if p.is_dir())
    body = composed([*SMALL, f"runs_dir={tmp_path}", "budget.steps=2"])
    body["model"] = {
        "kind": "hub", "name": "folder", "name_or_path": str(base), "hyperparameters": {"learning_rate": 1e-4},
        "pretraining": {"tokens": 1000.0, "source": "a test"},
    }  # fmt: skip
    local = resolve(body)
    train(local)
    table = scaling.load_runs(local.run_dir)
    assert table.runs.iloc[0]["pretraining_flops"] == pytest.approx(6 * table.runs.iloc[0]["params"] * 1000)
    assert read_run(local.run_dir).stages[0]["flops_source"].startswith("derived")
    missing = resolve({**body, "model": {**body["model"], "name_or_path": "./no/such/folder"}})
    with pytest.raises(ConfigError, match="no such folder") as caught:
        train(missing)
    assert len(str(caught.value).splitlines()) == 1


def test_ratio_budgets_need_comparable_hours():
    from sweeps.budgets import resolve_limits
    from sweeps.config import BudgetConfig

    r1 = BudgetConfig(pretraining_gpu_hours_ratio=0.0375)
    v3 = {"model": "DeepSeek-V3-Base", "gpu_hours": 2_664_000.0, "accelerator": "H800", "flops": 3.29e24}
    assert resolve_limits(r1, v3, "H800").gpu_hours == pytest.approx(99_900)
    with pytest.raises(ConfigError, match=r"H800.*H100.*convert=peak"):
        resolve_limits(r1, v3, "NVIDIA H100 80GB HBM3")
    converted = resolve_limits(BudgetConfig(pretraining_gpu_hours_ratio=0.0375, convert="peak"), v3, "A100-SXM-80GB")
    assert converted.gpu_hours == pytest.approx(99_900 * 989 / 312, rel=1e-3)
    with pytest.raises(ConfigError, match="published pretraining GPU-hours"):
        resolve_limits(r1, {"model": "Qwen2.5", "flops": 1e20}, "H100-SXM")
    with pytest.raises(ConfigError, match="pretraining FLOPs"):
        resolve_limits(BudgetConfig(pretraining_flops_ratio=0.1), {"model": "x"}, "cpu")
    both = resolve_limits(BudgetConfig(flops=1e12, pretraining_flops_ratio=1e-14), v3, "H800")
    assert both.flops == pytest.approx(3.29e10)


def test_pass_at_k_is_refused_where_guessing_wins(small):
    from sweeps.config import BenchmarkConfig
    from sweeps.evaluator import _check_pass_k
    from sweeps.tasks.base import Benchmark

    bench = Benchmark("b", ["?"], ["1"], guess_rate=0.05, max_completion_length=4)
    _check_pass_k("b", BenchmarkConfig(k=32, pass_k=[8]), bench)
    with pytest.raises(ConfigError, match=r"guessing alone reaches 0\.56"):
        _check_pass_k("b", BenchmarkConfig(k=32, pass_k=[16]), bench)


@pytest.mark.parametrize("affordable", [2, 3, 5, 9, 50])
def test_schedule_keeps_its_ends_and_its_limit(affordable):
    from sweeps.evaluator import evaluation_steps

    steps = evaluation_steps(early=[0, 2, 4, 8, 12, 20, 30, 45], every=20, last=300, affordable=affordable)
    assert steps[0] == 0 and steps[-1] == 300
    assert len(steps) <= max(2, affordable)
    assert steps == sorted(set(steps))


def test_sampler_reaches_any_position_again():
    from sweeps.grpo import PromptSampler

    make = lambda: PromptSampler(size=10, group_size=2, prompts=3, repeats=2, seed=5, blocks=7)  # noqa: E731
    whole = list(make())
    assert len(whole) == len(make()) == 7 * 3 * 2 * 2
    assert whole == list(make())
    first_epoch = [whole[i] for block in range(3) for i in range(block * 12, block * 12 + 6, 2)]
    assert len(set(first_epoch)) == 9  # an epoch shows no prompt twice
    assert whole[:6] == whole[6:12]  # each block twice, for two updates


def test_cispo_cap_and_cpu_defaults_reach_trl(small, tmp_path):
    import os

    import torch

    from sweeps.grpo import trl_arguments

    args = trl_arguments(small("grpo=cispo"), output_dir=tmp_path, max_completion_length=7)
    assert args.loss_type == "cispo" and args.epsilon_high == 5.0
    assert not args.gradient_checkpointing and args.max_completion_length == 7
    if not torch.cuda.is_available() and "SCALING_TEST_DTYPE" not in os.environ:
        assert not args.bf16 and args.use_cpu
    assert args.report_to in ("none", [])
    args = trl_arguments(
        small("grpo.updates_per_rollout=2", "checkpoint.every=3"), output_dir=tmp_path, max_completion_length=7
    )
    assert args.save_steps == 4  # up to the next generation boundary


def test_a_single_process_uses_one_gpu_of_several(tmp_path, monkeypatch):
    """TRL refuses `DataParallel`, which `Trainer` chooses wherever one process sees several GPUs."""
    from tests_train_shared import SMALL, composed

    import sweeps.grpo
    from sweeps.config import resolve
    from sweeps.devices import one_gpu
    from sweeps.models import load
    from sweeps.tasks import build

    original = sweeps.grpo.trl_arguments

    def seen(*args, **kwargs):
        arguments = original(*args, **kwargs)
        assert one_gpu(original(*args, **kwargs)).n_gpu == min(arguments.n_gpu, 1)
        arguments._n_gpu = 8
        return arguments

    monkeypatch.setattr(sweeps.grpo, "trl_arguments", seen)
    config = resolve(composed([*SMALL, "grpo.dtype=float32"]))
    task = build(config.task)
    model, tokenizer = load(config.model, task)
    trainer = sweeps.grpo.build_trainer(
        config, model=model, tokenizer=tokenizer, task=task, rows=task.training_rows(n=64, seed=0), output_dir=tmp_path
    )
    assert trainer.args.n_gpu == 1
