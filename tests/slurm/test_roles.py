"""Runs of several processes on a real Slurm: trainer ranks on several nodes, a vLLM server (a stand-in), real TRL."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

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
def test_two_real_ranks_of_grpo_leave_together(cluster: Cluster, tmp_path: Path) -> None:
    shell = Shell(
        tmp_path / "runs", env={**cluster.env, "RL_SCALING_TRAIN": "tests.slurm.ranks:train"}, overrides=SETTINGS
    )
    shell.train(
        "sweep=r", "model=scratch_16", "grpo.prompts_per_step=4", "grpo.group_size=4", "grpo.training_prompts=64", "cluster.nodes=2",
        "cluster.gpus_per_node=1", "budget.steps=8", timeout=400,
    )  # fmt: skip
    (run,) = run_dirs(shell.runs / "r")
    ranks = [json.loads((run / f"rank{i}.json").read_text()) for i in range(2)]
    assert [r["step"] for r in ranks] == [3, 3] and len({r["node"] for r in ranks}) == 2
    assert ranks[0]["weights"] == ranks[1]["weights"], "gradients were averaged"
    lines = [json.loads(x) for x in (run / "steps.jsonl").read_text().splitlines() if json.loads(x).get("metrics")]
    assert [x["step"] for x in lines] == [1, 2, 3] and {x["cost"]["rollouts"] for x in lines} == {16}, (
        "both ranks' rollouts, once"
    )
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
