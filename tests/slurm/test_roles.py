"""Runs of several processes on a real Slurm: trainer ranks on several nodes, a vLLM server (a stand-in), real TRL."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from scaling import load_runs
from scaling.flops import ModelShape, generation_flops, training_flops
from tests.launching.running import Shell, jobs, record, run_dirs, steps, until
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import SETTINGS

pytestmark = pytest.mark.slurm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a configuration and no weights: the stub loads none."""
    model = tmp_path / "model"
    model.mkdir()
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 100,
    }
    (model / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **shape})
    )
    return model


def served(cluster: Cluster, tmp_path: Path, **env: str) -> Shell:
    command = {"RL_SCALING_VLLM_SERVER": f"{sys.executable} -m tests.slurm.server", "HF_HUB_OFFLINE": "1"}
    return Shell(tmp_path / "runs", env={**cluster.env, **command, **env}, overrides=SETTINGS)


def reported(run: Path) -> list[int]:
    """Steps with metrics: what the trainer did, without lines of pure cost."""
    return [json.loads(x)["step"] for x in (run / "steps.jsonl").read_text().splitlines() if '"metrics"' in x]


def rank_pid(run_id: str, *, rank: int) -> int | None:
    """Process of one rank of a run."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mine = (
                f"{run_id}.json" in (process / "cmdline").read_text()
                and "distributed.run" not in (process / "cmdline").read_text()
            )
            if mine and f"\0RANK={rank}\0" in (process / "environ").read_text():
                return int(process.name)
        except OSError:
            continue
    return None


def test_ranks_and_server_on_three_nodes_are_preempted_and_continue(
    cluster: Cluster, tmp_path: Path, folder: Path
) -> None:
    shell = served(cluster, tmp_path)
    launched = shell.start(
        "sweep=m", "model=smollm2_135m", f"model.name_or_path={folder}", "task=countdown", "grpo.vllm=server", "cluster.nodes=3", "cluster.gpus_per_node=1",
        "budget.steps=50", "name=seconds:0.3", "cluster.slurm.partition=scavenge", "cluster.slurm.grace_seconds=15",
    )  # fmt: skip
    (run,) = until(lambda: [d for d in run_dirs(shell.runs / "m") if len(steps(d)) > 5], seconds=120)
    cluster.run("sbatch", "-p", "main", "-N4", "--gpus-per-node=2", "--exclusive", "-o", "/dev/null", "--wrap=sleep 2")
    text = launched.communicate(timeout=180)[0]
    assert launched.returncode == 0, text
    segments = record(run)["segments"]
    assert len(segments) == 2 and segments[1]["resumed_from"] >= 5
    assert [s["world"] for s in segments] == ["2", "2"] and all(
        s["server"].startswith("http://127.0.0.2") for s in segments
    )
    assert steps(run) == list(range(1, 51)), "from rank 0 alone, saved within the grace period"
    assert record(run)["devices"] == 3, "trainer and server, once"
    until(lambda: not cluster.run("squeue", "-h", "-t", "R"), what="the server's end")


def test_a_server_that_dies_fails_its_run_with_the_reason(cluster: Cluster, tmp_path: Path, folder: Path) -> None:
    shell = served(cluster, tmp_path, STAND_IN_DIES_AFTER="2")
    out = shell.train(
        "sweep=d", "model=smollm2_135m", f"model.name_or_path={folder}", "task=countdown", "grpo.vllm=server", "cluster.gpus_per_node=2", "budget.steps=300",
        "name=seconds:0.1", ok=False,
    )  # fmt: skip
    assert "failed: the vLLM server ended before the trainer (exit code 9)" in out
    (segment,) = record(run_dirs(shell.runs / "d")[0])["segments"]
    assert segment["gpus"] == "0" and segment["world"] is None, "one node, its GPUs shared out"
    assert "GPUs 1" in Path(jobs(shell.runs / "d")[0]["log"]).read_text()


@pytest.mark.train
def test_two_real_ranks_lose_one_resume_and_stop_at_the_budget_together(cluster: Cluster, tmp_path: Path) -> None:
    shell = Shell(
        tmp_path / "runs", env={**cluster.env, "RL_SCALING_TRAIN": "tests.slurm.ranks:train"}, overrides=SETTINGS
    )
    arguments = (
        f"bases_dir={tmp_path / 'bases'}", "sweep=r", "model=scratch_16", "pretrain.steps=20", "grpo.prompts_per_step=4", "grpo.group_size=4",
        "grpo.training_prompts=64", "cluster.nodes=2", "cluster.gpus_per_node=1", "eval.early=[0]", "eval.every=100000", "eval.best_decoding_k=0",
        "checkpoint.every=2", "tracking=disabled",
    )  # fmt: skip
    launched = shell.start(*arguments, "budget.steps=100000")
    (run,) = until(lambda: [d for d in run_dirs(shell.runs / "r") if len(reported(d)) > 4], seconds=240)
    os.kill(until(lambda: rank_pid(run.name, rank=1)), signal.SIGKILL)
    text = launched.communicate(timeout=120)[0]
    assert (
        launched.returncode == 1
        and "1 of 1 runs did not finish" in text
        and "failed: a rank was killed by SIGKILL" in text
    ), text
    (job,) = jobs(shell.runs / "r")
    until(lambda: cluster.run("sacct", "-X", "-n", "-P", "-o", "State", "-j", job["job_id"]).split() == ["FAILED"])
    saved = max(
        step
        for step in reported(run)
        if step % 2 == 0 and (run / "checkpoints" / f"checkpoint-{step}" / "ledger.json").is_file()
    )

    hours = float(load_runs(run).runs["gpu_hours"].iloc[0])
    shell.train(*arguments, "budget=none", f"budget.gpu_hours={hours + 2 * 0.5 / 3600}", timeout=300)
    segments = record(run)["segments"]
    assert record(run)["status"] == "finished" and segments[1]["resumed_from"] == saved
    assert "GPU-hours" in segments[1]["stopped"], "one clock decides for both ranks"
    lines = [json.loads(x) for x in (run / "steps.jsonl").read_text().splitlines()]
    steps_of = [[x for x in lines if x["segment"] == n and x.get("metrics")] for n in (0, 1)]
    assert [x["step"] for x in steps_of[1]] == list(range(saved + 1, segments[1]["final_step"] + 1)), "from one rank"
    trained = [x for part in steps_of for x in part]
    assert {x["cost"]["rollouts"] for x in trained} == {4 * 4}, "prompts a step x group size, over both ranks, once"
    width = 2 * record(run)["config"]["task"]["operands_max"]
    assert {x["cost"]["prompt_tokens"] for x in trained} == {16 * width}
    for x in trained:
        assert x["cost"]["completion_tokens"] == pytest.approx(16 * x["metrics"]["completion_length"])
        assert min(40, 3 * x["step"]) <= x["metrics"]["unique_prompts"] <= min(64, 4 * x["step"]), (
            "of both ranks: one alone sees 2 a step"
        )
    shape = ModelShape(**record(run)["model"]["shape"])
    for x in trained[:3]:
        mean = x["metrics"]["completion_length"]
        assert x["cost"]["training_flops"] == pytest.approx(16 * training_flops(shape, width, mean), rel=0.02)
        assert x["cost"]["generation_flops"] == pytest.approx(16 * generation_flops(shape, width, mean), rel=0.02)
    evals = [json.loads(x) for x in (run / "evals.jsonl").read_text().splitlines()]
    last = [(x["step"], x["sampling"]["decoding"]) for x in evals if x["segment"] == 1]
    assert last == [(segments[1]["final_step"], how) for how in ("sampled", "greedy")], "each once"
    ranks = [json.loads(p.read_text()) for p in sorted(run.glob("rank*.json"))]
    assert [r["rank"] for r in ranks] == ["0", "1"] and len({r["node"] for r in ranks}) == 2
    assert record(run)["devices"] == 2


@pytest.mark.train
def test_a_real_run_is_preempted_and_continues(cluster: Cluster, tmp_path: Path) -> None:
    shell = Shell(tmp_path / "runs", env={**cluster.env, "RL_SCALING_TRAIN": "sweeps.train:train"}, overrides=SETTINGS)
    launched = shell.start(
        f"bases_dir={tmp_path / 'bases'}", "sweep=p", "model=scratch_16", "pretrain.steps=20", "grpo.prompts_per_step=8", "grpo.group_size=4",
        "budget.steps=120", "eval.early=[0]", "eval.every=1000", "eval.best_decoding_k=0", "checkpoint.every=1000", "tracking=disabled",
        "cluster.slurm.partition=scavenge", "cluster.slurm.grace_seconds=15",
    )  # fmt: skip
    (run,) = until(lambda: [d for d in run_dirs(shell.runs / "p") if len(steps(d)) > 5], seconds=240)
    cluster.run("sbatch", "-p", "main", "-N4", "--gpus-per-node=2", "--exclusive", "-o", "/dev/null", "--wrap=sleep 2")
    text = launched.communicate(timeout=300)[0]
    assert launched.returncode == 0, text
    segments = record(run)["segments"]
    assert [s["cause"] for s in segments] == ["interrupted", "finished"]
    reported = [
        json.loads(x)["step"] for x in (run / "steps.jsonl").read_text().splitlines() if json.loads(x).get("metrics")
    ]
    assert reported == list(range(1, 121)) and segments[1]["resumed_from"] == segments[0]["final_step"]
