"""Manifest, predictions, refusals before submission, code snapshots, logs, the display, the doctor."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scaling.errors import ConfigError
from scaling.flops import ModelShape, generation_flops, scoring_flops, training_flops
from sweeps import launch
from sweeps.cluster import ClusterConfig
from sweeps.config import RunConfig, conf_dir, resolve
from sweeps.estimate import Machine, estimate
from sweeps.launching import display, layout, predict, snapshot
from sweeps.launching.caches import check_caches
from sweeps.launching.local import last_words_of
from sweeps.launching.manifest import build_manifest, read_manifest, render, write_manifest
from sweeps.launching.predict import flops_per_step
from sweeps.launching.rows import merge, resolve_rows
from sweeps.launching.status import RunState

QWEN = ModelShape(
    hidden_size=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    intermediate_size=18944,
    vocab_size=152064,
    tied=False,
)


def composed(*overrides: str) -> dict[str, Any]:
    from hydra_plugins.rl_scaling_launcher import register

    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)  # type: ignore[return-value]


def config(*overrides: str) -> RunConfig:
    return resolve(composed(*overrides))


@pytest.fixture
def qwen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape of a 7 B model without a hub."""
    monkeypatch.setattr(predict, "_model", lambda *_: (QWEN, {"flops": 6 * QWEN.params * 1.8e13}, 256, 1024, ""))


class TestPredictions:
    def test_a_step_is_generation_scoring_and_training_of_its_rollouts(self) -> None:
        base = ("grpo.prompts_per_step=4", "grpo.group_size=2")
        once = flops_per_step(config(*base), QWEN, prompt=100, completion=300)
        generated, scored, trained = (f(QWEN, 100, 300) for f in (generation_flops, scoring_flops, training_flops))
        assert once == pytest.approx(8 * (generated + trained))
        reference = flops_per_step(config(*base, "grpo.beta=0.04"), QWEN, prompt=100, completion=300)
        assert reference == pytest.approx(8 * (generated + scored + trained))
        twice = flops_per_step(config(*base, "grpo.updates_per_rollout=2"), QWEN, prompt=100, completion=300)
        assert twice == pytest.approx(8 * ((generated + scored) / 2 + trained)), (
            "old log-probabilities, spread over two updates"
        )

    @pytest.mark.usefixtures("qwen")
    def test_hours_and_money_follow_from_peak_utilisation_and_price(self) -> None:
        c = config(
            "cluster.accelerator=H100",
            "budget=none",
            "budget.flops=1e21",
            "grpo.vllm=colocate",
            "launch.utilisation=0.25",
            "launch.usd_per_gpu_hour=2.0",
        )
        p = predict.predict(c)
        assert p.gpu_hours == pytest.approx(1e21 / (989e12 * 0.25 * 3600), rel=0.01)
        assert p.usd == pytest.approx(2 * p.gpu_hours) and p.completion_length == 1024
        assert p.steps == pytest.approx(1e21 / p.flops_per_step)
        assert p.disk_gb == pytest.approx(2 * QWEN.params * 12 / 1e9)

    @pytest.mark.usefixtures("qwen")
    def test_without_vllm_hours_are_those_of_the_estimate(self) -> None:
        c = config("cluster.accelerator=H100", "cluster.devices=4", "budget.steps=100")
        p = predict.predict(c)
        seconds = estimate(c, QWEN, Machine.of("H100", devices=4), prompt_length=256, completion_length=1024).seconds
        assert p.gpu_hours == pytest.approx(100 * seconds * 4 / 3600) and "transformers" in p.note

    @pytest.mark.usefixtures("qwen")
    def test_the_first_limit_counts_and_ratios_are_of_pretraining(self) -> None:
        c = config(
            "cluster.accelerator=H100", "budget=none", "budget.pretraining_flops_ratio=1e-4", "budget.flops=1e30"
        )
        assert predict.predict(c).flops == pytest.approx(1e-4 * 6 * QWEN.params * 1.8e13)
        assert predict.predict(c).pretraining_flops_ratio == pytest.approx(1e-4)

    @pytest.mark.usefixtures("qwen")
    def test_a_model_too_large_for_its_memory_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        large = ModelShape(
            hidden_size=8192,
            num_layers=80,
            num_heads=64,
            num_kv_heads=8,
            intermediate_size=28672,
            vocab_size=128256,
            tied=False,
        )
        monkeypatch.setattr(predict, "_model", lambda *_: (large, {}, 256, 1024, ""))
        with pytest.raises(
            ConfigError,
            match="needs at least 564 GB for weights, gradients and Adam in bfloat16, 1 x H100 have 80 GB: shard",
        ):
            predict.predict(config("cluster.accelerator=H100"))
        predict.predict(config("cluster.accelerator=H100", "cluster.devices=8", "cluster.accelerate_config=fsdp.yaml"))
        with pytest.raises(ConfigError, match="cluster.slurm.memory_gb: .* has 141 GB of weights to load, got 64 GB"):
            predict.predict(config("cluster=slurm", "cluster.slurm.memory_gb=64"))

    def test_the_demo_has_flops_and_says_why_it_has_no_hours(self) -> None:
        p = predict.predict(config("model=scratch_32", "budget.steps=10"))
        assert p.flops and p.gpu_hours is None and "cluster.accelerator" in p.note


class TestManifest:
    def rows(self) -> list[dict[str, Any]]:
        body = composed("budget.steps=10")
        runs = merge(resolve_rows([([f"seed={s}"], {**body, "seed": s}) for s in range(3)]))
        return build_manifest(runs)

    def test_it_is_read_back_grows_and_notices_a_hand(self, tmp_path: Path) -> None:
        rows = self.rows()
        path = write_manifest(tmp_path, rows[:2])
        write_manifest(tmp_path, rows[1:])
        assert {r["run_id"] for r in read_manifest(tmp_path)} == {r["run_id"] for r in rows}
        assert (tmp_path / "manifest.csv").read_text().count("\n") == 4
        path.write_text(path.read_text().replace('"seed": 1', '"seed": 7'))
        with pytest.raises(ConfigError, match="must be as the launcher wrote it"):
            read_manifest(tmp_path)

    def test_the_table_adds_up_and_says_what_is_missing(self) -> None:
        text = render(self.rows())
        total = next(line for line in text.splitlines() if line.startswith("total"))
        assert f"{sum(r['flops'] for r in self.rows()):.3g}" in total and "?" in total and "note: " in text


class TestLayout:
    def test_nodes_ranks_and_server(self) -> None:
        c = config("cluster=slurm", "cluster.nodes=3", "cluster.gpus_per_node=8", "grpo.vllm=server")
        found = layout.lay_out(c, ["a", "b", "c"])
        assert (found.trainer_hosts, found.ranks, found.server_host, found.server_devices) == (("a", "b"), 16, "c", 8)
        assert c.cluster.devices == 24

    def test_one_node_is_split(self) -> None:
        found = layout.lay_out(config("cluster.devices=4", "cluster.server_devices=2", "grpo.vllm=server"))
        assert found.split and found.ranks == 2 and found.server_devices == 2 and not found.plain
        assert layout.lay_out(config("cluster.devices=1", "grpo.vllm=colocate")).plain

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (
                {"devices": 4, "nodes": 2, "gpus_per_node": 4, "engine": "slurm"},
                "devices must be nodes x gpus_per_node = 8",
            ),
            ({"nodes": 2, "gpus_per_node": 4}, "several nodes a run need engine slurm"),
            ({"devices": 2, "server_devices": 2}, "server_devices must leave a device for the trainer"),
        ],
    )
    def test_impossible_layouts(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            ClusterConfig(**settings)

    def test_ports_of_runs_do_not_overlap(self) -> None:
        taken = [p for job in range(1000, 1200) for p in layout.ports(job).values()]
        assert len(set(taken)) == len(taken) and all(20_000 <= p < 60_000 for p in taken)

    def test_accelerate_gets_the_runs_own_counts(self) -> None:
        (_, _, line) = layout.command(["-m", "w"], nodes=2, ranks=4, address="n0", port=5, accelerate_config="f.yaml")
        assert (
            "--num_processes 8" in line and "--num_machines 2" in line and '--machine_rank "${SLURM_NODEID:-0}"' in line
        )
        assert line.startswith("trap '' USR1; exec ")


class TestSnapshot:
    def test_it_runs_from_the_copy_and_same_code_is_copied_once(self, tmp_path: Path) -> None:
        copy = snapshot.take(tmp_path)
        assert snapshot.take(tmp_path) == copy and len(list(tmp_path.iterdir())) == 1
        code = "import scaling, sweeps.config as c, sys; print(c.__file__, scaling.__file__, c.conf_dir())"
        env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1"}
        shown = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        ).stdout.split()
        assert all(path.startswith(str(copy)) for path in shown)


class TestOffline:
    """Caches in the hub library's own layout: blobs, snapshots that link to them, refs that name one."""

    def cached(self, hub: Path, name: str, files: dict[str, str]) -> Path:
        repository, commit = hub / f"models--{name.replace('/', '--')}", "a" * 40
        snapshot = repository / "snapshots" / commit
        for folder in (repository / "refs", repository / "blobs", snapshot):
            folder.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        for file, text in files.items():
            blob = repository / "blobs" / f"{abs(hash(file)):x}"
            blob.write_text(text)
            (snapshot / file).unlink(missing_ok=True)
            (snapshot / file).symlink_to(os.path.relpath(blob, snapshot))
        return snapshot

    def test_a_missing_or_incomplete_model_is_refused_and_a_cached_one_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        c = config("model=qwen2.5_0.5b", "cluster.offline=true")
        fetch = "run `hf download Qwen/Qwen2.5-0.5B` here first$"
        with pytest.raises(ConfigError, match=f"^model.name_or_path: .* needs Qwen/Qwen2.5-0.5B in the hub.*{fetch}"):
            check_caches(c)
        files = {"config.json": "{}", "tokenizer.json": "{}"}
        self.cached(tmp_path, "Qwen/Qwen2.5-0.5B", files)
        with pytest.raises(ConfigError, match=f"lacks the weights: {fetch}"):
            check_caches(c)
        index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
        files |= {"model-1.safetensors": "", "model.safetensors.index.json": index}
        self.cached(tmp_path, "Qwen/Qwen2.5-0.5B", files)
        with pytest.raises(ConfigError, match=r"lacks 1 of 2 shards of the weights \(model-2.safetensors\): run"):
            check_caches(c)
        self.cached(tmp_path, "Qwen/Qwen2.5-0.5B", {**files, "model-2.safetensors": ""})
        check_caches(c)
        with pytest.raises(ConfigError, match="--revision other` here first$"):
            check_caches(config("model=qwen2.5_0.5b", "model.revision=other", "cluster.offline=true"))
        assert launch._for_worker(c, shared=False).tracking.mode == "offline"

    def test_a_data_set_that_is_not_cached_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        with pytest.raises(ConfigError) as refused:
            check_caches(config("task=gsm8k", f"model.name_or_path={tmp_path}", "model=qwen2.5_0.5b"))
        lines = str(refused.value).splitlines()
        assert [line.split()[4] for line in lines] == ["train", "test"]
        assert all("load_dataset('openai/gsm8k', 'main'" in line for line in lines)


def test_the_log_line_that_says_why() -> None:
    torchrun = (
        "[rank1]: Traceback (most recent call last):\n[rank1]:   File x\n[rank1]: ValueError: the reward is NaN\n"
        "E1124 torch elastic failed\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n=======\nRoot Cause:\n[0]:\n  rank: 1\n=====\n"
    )
    assert last_words_of(torchrun) == "ValueError: the reward is NaN"
    peers = "[rank0]: RuntimeError: [gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:2777\n"
    agents = "torch.distributed.elastic.multiprocessing.api.SignalException: Process 26984 got signal: 15\n"
    assert last_words_of(torchrun + peers + agents) == "ValueError: the reward is NaN"
    killed = f"{peers}  traceback : Signal 9 (SIGKILL) received by PID 4242\n{agents}"
    assert last_words_of(killed).startswith("a rank was killed by SIGKILL")
    assert last_words_of("loading\nKilled\n-----\n") == "Killed"
    assert (
        last_words_of("torch.OutOfMemoryError: CUDA out of memory.\n") == "torch.OutOfMemoryError: CUDA out of memory."
    )
    assert last_words_of("") == ""


def test_the_display_shows_every_run_and_ends() -> None:
    states = [
        [RunState(run_id="a", label="seed=0", state="running", stage="rl", step=i, total=3, score=0.5, seconds_left=90.0), RunState(run_id="b", label="seed=1", state="queued")]
        for i in range(3)
    ]  # fmt: skip
    done = [RunState(run_id=i, label=i, state="finished") for i in "ab"]
    shown = io.StringIO()
    shown.isatty = lambda: True  # type: ignore[method-assign]
    feed = iter([*states, done])
    assert display.watch(lambda: next(feed), poll=0.3, stream=shown) == done
    assert "seed=0" in shown.getvalue() and "1:30" in shown.getvalue() and "2 finished" in shown.getvalue()
    plain = io.StringIO()
    feed = iter([*states, done])
    display.watch(lambda: next(feed), poll=0.01, stream=plain)
    assert "seed=0: rl 0/3 score 0.500 1:30 left" in plain.getvalue() and plain.getvalue().splitlines()[-1].endswith(
        "2 finished"
    )


@pytest.mark.train
def test_the_doctor_names_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    env = {**os.environ, "NETRC": "/dev/null", "WANDB_API_KEY": ""}
    done = subprocess.run(
        [sys.executable, "-m", "scaling", "doctor", "--runs-dir", str(tmp_path / "runs")],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = {line.split(":")[0].split(maxsplit=1)[1]: line for line in done.stdout.splitlines()}
    assert set(lines) == {
        "Python",
        "torch",
        "trainer",
        "vLLM",
        "launcher",
        "Slurm",
        "Ray",
        "W&B",
        "disk",
        "locks",
        "verifiers",
    }
    assert lines["verifiers"].startswith("ok") and lines["locks"].startswith("ok") and done.returncode == 0, done.stdout
    assert "-> wandb login" in lines["W&B"]


def test_status_of_a_sweep_is_cached_until_a_run_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scaling import records
    from sweeps.launching import overview

    for i in range(3):
        record = records.RunRecord(
            run_id=f"{i}",
            name=f"run {i}",
            status="finished",
            segments=({"final_cost": {"training_gpu_seconds": 7200.0}},),
        )
        records.write_run(tmp_path / str(i), record)
        counts = {"segment": 0, "step": 5, "benchmark": "h", "k": 2, "successes": [2, 0, 1, 1], "cost": {}}
        (tmp_path / str(i) / "evals.jsonl").write_text(json.dumps(counts) + "\n")
        (tmp_path / str(i) / "steps.jsonl").write_text(
            json.dumps({"step": 5, "cost": {}, "metrics": {"reward": 1}}) + "\n"
        )
    (tmp_path / ".launch").mkdir()
    first = overview.states(tmp_path)
    assert (
        [s.score for s in first] == [0.5] * 3
        and [s.gpu_hours for s in first] == [2.0] * 3
        and {s.step for s in first} == {5}
    )
    reads: list[Path] = []
    read = overview.read_state
    monkeypatch.setattr(overview, "read_state", lambda run_dir, **k: reads.append(run_dir) or read(run_dir, **k))
    assert overview.states(tmp_path) == first and not reads
    record = records.read_run(tmp_path / "1")
    records.write_run(tmp_path / "1", record)
    overview.states(tmp_path)
    assert reads == [tmp_path / "1"]
    assert np.isclose(float(overview.render(first).split("0.500")[0].split()[-1]), 2)
