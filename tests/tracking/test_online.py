"""The mirror online against the stand-in: one logical run over all segments, what the server is told, what a kill loses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("wandb")

from tracking_runs import step_line, write_run_dir

from sweeps.tracking import open_tracker
from sweeps.wandb_rows import record_rows


def log(tracker, steps, **extra):
    for step in steps:
        tracker.log({"gpu_hours": step / 10, "total_flops": 1e9 * step, "train/global_step": step, "train/reward": 0.5})
        if step % 5 == 0:
            tracker.log({"gpu_hours": step / 10, "train/global_step": step, "eval/x/pass@1": 0.25, **extra})


def test_segments_are_one_run_and_redone_steps_are_not_sent_twice(server, tmp_path):
    for resume, steps in ((False, range(0, 13)), (True, range(11, 21))):
        tracker = open_tracker(
            directory=tmp_path,
            run_id="r",
            project="p",
            name="n",
            group="g",
            tags=["a"],
            config={"lr": 1},
            resume=resume,
        )
        log(tracker, steps)
        tracker.log_completions(steps[-1], [{"prompt": "1+1", "completion": "2"}])
        tracker.finish()
        assert (tracker.mode, tracker.lost, tracker.failure) == ("online", 0, None)
    assert list(server.runs) == [("p", "r")]
    rows = server.rows("p", "r")
    assert [r["train/global_step"] for r in rows if "train/reward" in r] == list(range(21))
    assert [r["train/global_step"] for r in rows if "eval/x/pass@1" in r] == [0, 5, 10, 15, 20]
    assert [r["completions"]["nrows"] for r in rows if "completions" in r] == [1, 1]
    assert all("gpu_hours" in r for r in rows)
    assert [r["_step"] for r in rows] == list(range(len(rows)))
    assert server.step_metrics("p", "r") == {"*": "gpu_hours"}
    run = server.runs["p", "r"]
    assert (run.state, run.group, run.tags, run.config["lr"]["value"]) == ("finished", "g", ["a"], 1)
    assert json.loads((tmp_path / "wandb" / "mirror.json").read_text())["entity"] == "team"


def test_exit_code_reaches_the_server(server, tmp_path):
    tracker = open_tracker(directory=tmp_path, run_id="r", project="p")
    log(tracker, range(3))
    tracker.finish(exit_code=1)
    tracker.finish(exit_code=0)  # a second call does nothing
    assert (server.runs["p", "r"].state, server.runs["p", "r"].exit_code) == ("failed", 1)


def test_kill_9_loses_the_last_second_only(tmp_path):
    script = textwrap.dedent(f"""
        import time
        from sweeps.tracking import open_tracker
        tracker = open_tracker(mode="offline", directory={str(tmp_path / "run")!r}, run_id="r")
        for i in range(40):
            tracker.log({{"gpu_hours": i / 10, "train/global_step": i, "train/reward": 0.5}})
        while tracker._queue.qsize():
            time.sleep(0.01)
        time.sleep(3.0)
        print("now", flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert [process.stdout.readline().split()[0] for _ in range(2)] == ["W&B:", "now"]
        process.send_signal(signal.SIGKILL)
    (wandb_log,) = (tmp_path / "run").glob("wandb/offline-run-*/run-r.wandb")
    time.sleep(0.2)  # wandb-core notices
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(wandb_log)]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [r["history"]["item"]["train/global_step"] for r in rows if r["type"] == "history"]
    assert steps == list(range(40))


@pytest.mark.train
def test_live_rows_and_rows_from_records_have_the_same_keys_and_values(tmp_path):
    """What the meter mirrors while it trains is what `wandb sync` computes afterwards."""
    meter_module = pytest.importorskip("sweeps.meter")
    from scaling.cost import ComputeCost

    line = step_line(1)
    line["metrics"] = {"reward": 0.25, "completion_length": 11.5, "kl_estimator": "k3"}
    cost = ComputeCost(**line["cost"])
    pretraining = {"flops": 1e9, "gpu_hours": 2.0}
    stub = SimpleNamespace(
        cost=cost, devices=1, peak_flops=None, pretraining=pretraining, _row={}, counter=None
    )  # fmt: skip
    stub.axes = lambda: meter_module.Meter.axes(stub)
    live = meter_module.Meter._tracker_row(stub, line)
    path = write_run_dir(tmp_path / "a", "a", steps=0, stages=({"stage": "pretrain", **pretraining},))
    (path / "steps.jsonl").write_text(json.dumps(line) + "\n")
    (path / "evals.jsonl").write_text("")
    (row,) = record_rows(path)
    assert row == pytest.approx({key: value for key, value in live.items() if isinstance(value, (int, float))})
