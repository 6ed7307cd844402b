"""The mirror with wandb's real client, offline: what is on disk, read back with wandb's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("wandb")

from sweeps.tracking import open_tracker


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def recorded(run: Path) -> list[dict]:
    """All records of all offline fragments of a run, by wandb's own reader, in order."""
    out = []
    for log in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)], capture_output=True, text=True, check=True
        )
        out += [json.loads(line) for line in done.stdout.splitlines()]
    return out


def history(records: list[dict]) -> list[dict]:
    return [r["history"]["item"] for r in records if r["type"] == "history"]


def test_one_row_a_log_and_every_metric_is_against_gpu_hours(tmp_path, capsys):
    run = tmp_path / "run"
    tracker = open_tracker(
        directory=run, run_id="abc123", project="p", name="chain-s", group="recipe/small", tags=["grpo"], config={"grpo": {"lr": 1e-3}}
    )
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("W&B: offline (no credentials")
    for step in range(1, 6):
        tracker.log({"gpu_hours": step / 10, "train/global_step": step, "total_flops": 1e9 * step, "train/reward": 0.5})
    tracker.log({"gpu_hours": 0.5, "train/global_step": 5, "eval/x/pass@1": 0.25, "pretraining_flops_ratio": 0.01})
    tracker.finish()
    assert (tracker.mode, tracker.lost, tracker.failure) == ("offline", 0, None)
    assert capsys.readouterr() == ("", "")

    records = recorded(run)
    rows = history(records)
    assert len(rows) == 6
    assert [r["train/global_step"] for r in rows] == [1, 2, 3, 4, 5, 5]
    assert rows[-1]["eval/x/pass@1"] == 0.25 and rows[0]["total_flops"] == 1e9
    metrics = [r["metric"] for r in records if r["type"] == "metric"]
    globs = [m for m in metrics if "glob_name" in m]
    assert [(m["glob_name"], m["step_metric"]) for m in globs] == [("*", "gpu_hours")]
    assert not globs[0]["options"].get("step_sync")
    assert [m["name"] for m in metrics if "name" in m] == ["gpu_hours"]
    (start,) = [r["run"] for r in records if r["type"] == "run"]
    assert (start["run_id"], start["run_group"], start["display_name"], start["tags"]) == ("abc123", "recipe/small", "chain-s", ["grpo"])
    assert start["config"]["update"]["grpo"] == {"lr": 0.001}
    assert records[-1]["type"] == "exit"
