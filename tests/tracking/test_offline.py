"""The mirror with wandb's real client, offline: what is on disk, read back with wandb's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("wandb")

from scaling.errors import ConfigError
from sweeps import wandb_mirror
from sweeps.tracking import open_tracker, resolve_mode


def recorded(run: Path) -> list[dict]:
    """All records of all offline fragments of a run, by wandb's own reader, in order."""
    out = []
    for log in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        out += [json.loads(line) for line in done.stdout.splitlines()]
    return out


def history(records: list[dict]) -> list[dict]:
    return [r["history"]["item"] for r in records if r["type"] == "history"]


def test_one_row_a_log_and_every_metric_against_gpu_hours(tmp_path, capsys):
    run = tmp_path / "run"
    tracker = open_tracker(
        directory=run, run_id="abc123", project="p", name="chain-s", group="recipe/small", tags=["grpo"],
        config={"grpo": {"lr": 1e-3}},
    )  # fmt: skip
    said = capsys.readouterr().out
    assert (
        said.count("\n") == 1
        and said.startswith("W&B: offline (no credentials")
        and f"wandb leet {run / 'wandb'}" in said
    )
    for step in range(1, 6):
        tracker.log({"gpu_hours": step / 10, "train/global_step": step, "total_flops": 1e9 * step, "train/reward": 0.5})
    tracker.log({"gpu_hours": 0.5, "train/global_step": 5, "eval/x/pass@1": 0.25, "pretraining_flops_ratio": 0.01})
    tracker.finish()
    assert (tracker.mode, tracker.lost, tracker.failure) == ("offline", 0, None)
    assert capsys.readouterr() == ("", "")  # wandb's own chatter is off

    records = recorded(run)
    rows = history(records)
    assert [r["train/global_step"] for r in rows] == [1, 2, 3, 4, 5, 5]
    assert rows[-1]["eval/x/pass@1"] == 0.25 and rows[0]["total_flops"] == 1e9
    assert all("gpu_hours" in r for r in rows)
    metrics = [r["metric"] for r in records if r["type"] == "metric"]
    assert [(m["glob_name"], m["step_metric"]) for m in metrics if "glob_name" in m] == [("*", "gpu_hours")]
    assert not any(m["options"].get("step_sync") for m in metrics)
    assert [m["name"] for m in metrics if "name" in m] == ["gpu_hours"]
    (start,) = [r["run"] for r in records if r["type"] == "run"]
    assert (start["run_id"], start["run_group"], start["job_type"]) == ("abc123", "recipe/small", "rl")
    assert (start["display_name"], start["tags"]) == ("chain-s", ["grpo"])
    assert start["config"]["update"]["grpo"] == {"lr": 0.001}
    assert records[-1] == {"num": records[-1]["num"], "type": "exit", "exit": {"exit_code": 0}}


def test_the_recorded_star_covers_names_with_slashes(tmp_path):
    """wandb's own matching of the recorded `*`: with step_sync it fills the x of whatever the definition covers."""
    import wandb

    run = wandb.init(
        mode="offline", dir=tmp_path, project="p", reinit="create_new", settings=wandb_mirror.wandb_settings()
    )
    run.define_metric("gpu_hours")
    run.define_metric("*", step_metric="gpu_hours", step_sync=True)
    run.log({"gpu_hours": 0.75})
    run.log({"eval/x/pass@1": 0.5})
    run.finish()
    wandb.teardown()
    (row,) = [r for r in history(recorded(tmp_path)) if "eval/x/pass@1" in r]
    assert row["gpu_hours"] == 0.75


def test_segments_are_fragments_of_one_id_and_jobs_of_one_process_do_not_mix(tmp_path):
    for run_id, resume in (("one", False), ("two", False), ("one", True)):
        if resume:
            time.sleep(1.0)  # wandb names the folder of a segment by the second
        tracker = open_tracker(directory=tmp_path / run_id, run_id=run_id, resume=resume)
        tracker.log({"gpu_hours": 0.1, "train/global_step": 2 if resume else 1, "train/reward": 0.0})
        tracker.finish()
    ids = [r["run"]["run_id"] for r in recorded(tmp_path / "one") if r["type"] == "run"]
    assert ids == ["one", "one"]
    assert {r["run"]["run_id"] for r in recorded(tmp_path / "two") if r["type"] == "run"} == {"two"}
    assert not [t for t in threading.enumerate() if t.name == "wandb-mirror"]


def test_another_run_of_the_same_process_lives_on(tmp_path):
    import wandb

    theirs = wandb.init(mode="offline", dir=tmp_path / "theirs", project="p", settings=wandb_mirror.wandb_settings())
    tracker = open_tracker(directory=tmp_path / "ours", run_id="ours")
    tracker.log({"gpu_hours": 0.1, "train/global_step": 1, "train/reward": 0.5})
    tracker.finish()
    assert (wandb.run, tracker.lost, tracker.failure) == (theirs, 0, None)
    theirs.log({"x": 1})
    theirs.finish()
    wandb.teardown()
    assert [r["x"] for r in history(recorded(tmp_path / "theirs"))] == [1]
    assert [r["train/reward"] for r in history(recorded(tmp_path / "ours"))] == [0.5]


def test_only_rank_0_mirrors(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    tracker = open_tracker(directory=tmp_path, run_id="r")
    assert tracker.mode == "disabled" and capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_completion_tables_are_bounded_and_ride_on_the_next_row(tmp_path):
    tracker = open_tracker(directory=tmp_path, run_id="t")
    samples = [{"prompt": "p" * 5000, "completion": "<b>=1+1</b>", "reward": i} for i in range(100)]
    tracker.log_completions(7, samples)
    tracker.log({"gpu_hours": 0.1, "train/global_step": 7, "train/reward": 0.5})
    tracker.log({"gpu_hours": 0.2, "train/global_step": 8, "train/reward": 0.5})
    for _ in range(2 * wandb_mirror.MAX_TABLES):
        tracker.log_completions(8, samples[:1])  # only the newest waits for a row
    assert tracker._tables == wandb_mirror.MAX_TABLES
    tracker.finish()
    rows = history(recorded(tmp_path))
    assert [("completions.nrows" in r) for r in rows] == [True, False, True]
    assert rows[0]["completions.nrows"] == wandb_mirror.MAX_TABLE_ROWS
    (table,) = [p for p in tmp_path.rglob("completions_0_*.table.json")]
    content = json.loads(table.read_text())
    assert content["columns"] == ["step", "prompt", "completion", "reward"]
    assert content["data"][3][1] == "p" * wandb_mirror.MAX_TEXT + " [3000 more characters]"
    assert content["data"][3][0] == 7 and content["data"][3][3] == 3


@pytest.mark.parametrize("mode", ["auto", "offline", "online", "disabled"])
def test_modes_say_why(mode, monkeypatch, tmp_path):
    assert resolve_mode(mode)[0] == {"auto": "offline", "online": "offline"}.get(mode, mode)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    resolved, why = resolve_mode(mode)
    assert resolved == {"auto": "online"}.get(mode, mode)
    assert "0" * 40 not in why
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n login user\n password {'0' * 40}\n")
    assert resolve_mode("auto") == ("online", "credentials from netrc")
    monkeypatch.setenv("WANDB_BASE_URL", "http://elsewhere.example")
    assert resolve_mode("auto")[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == ("disabled", "WANDB_MODE=disabled")


def test_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="tracking.mode must be one of auto, online, offline, disabled, got 'maybe'"):
        resolve_mode("maybe")


def test_browse_lists_the_logs(tmp_path):
    from click.testing import CliRunner
    from tracking_runs import write_run_dir

    from scaling.cli import cli

    path = write_run_dir(tmp_path / "runs" / "a", "a", steps=1)
    nothing = CliRunner().invoke(cli, ["wandb", "browse", str(tmp_path), "--list"])
    assert nothing.exit_code == 1 and "no W&B logs" in nothing.output
    tracker = open_tracker(directory=path, run_id="a")
    tracker.log({"gpu_hours": 0.1, "train/global_step": 1})
    tracker.finish()
    done = CliRunner().invoke(cli, ["wandb", "browse", str(tmp_path), "--list"])
    assert done.exit_code == 0 and done.output.count("offline-run-") == 1


def test_the_trackio_example_of_the_docs_is_short_and_uses_names_that_exist():
    import ast

    import scaling.records
    import scaling.runs
    import sweeps.wandb_rows

    text = (Path(__file__).resolve().parents[2] / "docs" / "tracking.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    assert len(example.splitlines()) < 30
    modules = {"scaling.records": scaling.records, "scaling.runs": scaling.runs, "sweeps.wandb_rows": sweeps.wandb_rows}
    used = [n for n in ast.walk(ast.parse(example)) if isinstance(n, ast.ImportFrom) and n.module in modules]
    assert len(used) == 3
    for node in used:
        assert all(hasattr(modules[str(node.module)], alias.name) for alias in node.names)
