"""`rl-scaling wandb sync`: the server ends up with what the records have, once, whatever happened before."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter

import pytest
import wandb_server
from click.testing import CliRunner
from tracking_runs import append, eval_line, record_of, step_line, successes, write_run_dir

pytest.importorskip("wandb")

from scaling import records
from scaling.cli import cli
from sweeps import wandb_sync
from sweeps.tracking import open_tracker
from sweeps.wandb_mirror import MIRROR
from sweeps.wandb_rows import lacking_rows, parts_of, record_rows
from sweeps.wandb_sync import SELF, follow_runs, sync_runs


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(wandb_sync, "SETTLE", (0.0, 0.1))


def parts_on(server, run_id: str, project: str = "study") -> Counter:
    return Counter(part for row in server.rows(project, run_id) for part in parts_of(row))


def everything(path) -> Counter:
    return Counter(part for row in record_rows(path) for part in parts_of(row))


def test_rows_are_computed_from_records(tmp_path):
    rows = record_rows(write_run_dir(tmp_path / "a", "a", steps=10))
    assert [r["train/global_step"] for r in rows] == list(range(11))
    tenth = rows[10]
    assert tenth["gpu_hours"] == pytest.approx(0.1) and tenth["total_flops"] == pytest.approx(4e7)
    assert tenth["pretraining_flops_ratio"] == pytest.approx(0.04)
    assert tenth["train/reward"] == 0.1 and tenth["compute/rollouts_total"] == 80
    assert tenth["eval/chain/x/pass@1"] == sum(successes(10)) / 200 and rows[0]["eval/chain/x/pass@1"] == 0.2
    assert "train/entropy" not in tenth and "eval/chain/x/pass@1" not in rows[9]


def test_sync_fills_an_empty_server_and_then_sends_nothing(server, tmp_path):
    path = write_run_dir(tmp_path / "a", "a")
    (result,) = sync_runs([tmp_path])
    assert (result.rows, result.present, result.sent, result.missing, result.note) == (21, 0, 21, 0, "")
    assert parts_on(server, "a") == everything(path)
    run = server.runs["study", "a"]
    assert (run.display_name, run.group, run.tags) == ("tiny-a", "recipe-tiny", ["tiny"])
    assert run.config["params"]["value"] == 1000 and run.state == "finished"
    assert server.step_metrics("study", "a") == {"*": "gpu_hours"}
    (again,) = sync_runs([tmp_path])
    assert (again.present, again.sent, again.complete) == (21, 0, True)
    assert len(server.rows("study", "a")) == 21


def test_gap_and_half_rows_are_filled_without_duplicates(server, tmp_path):
    """Rows lost in the middle, a score without its training row and the reverse: each missing part arrives once."""
    path = write_run_dir(tmp_path / "a", "a")
    kept = []
    for row in record_rows(path):
        step = row["train/global_step"]
        if step == 5:
            row = {k: v for k, v in row.items() if not k.startswith("eval/")}
        if step == 10:
            row = {k: v for k, v in row.items() if not k.startswith("train/r") and not k.startswith("train/c")}
        if not 12 <= step <= 17:
            kept.append(row)
    server.add_run("study", "a", kept, display_name="renamed by hand", tags=["mine"])
    before = len(server.rows("study", "a"))
    (result,) = sync_runs([path])
    assert (result.sent, result.missing) == (8, 0)
    assert len(server.rows("study", "a")) == before + 8
    assert parts_on(server, "a") == everything(path)
    run = server.runs["study", "a"]
    assert (run.display_name, run.tags) == ("renamed by hand", ["mine"])
    assert run.summary["train/global_step"] == 20 and run.summary["train/reward"] == 0.2  # not those of the gap


@pytest.mark.parametrize("what", ["rows refused", "core killed"])
def test_after_an_outage_of_the_live_mirror(server, tmp_path, what):
    path = write_run_dir(tmp_path / "a", "a")
    rows = record_rows(path)
    tracker = open_tracker(directory=path, run_id="a", project="study", name="tiny-a")
    deadline = time.monotonic() + 20
    while not (path / MIRROR).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if what == "rows refused":
        server.fault = wandb_server.Fault(status=400, only="file_stream")
    else:
        from wandb.sdk import wandb_setup

        os.kill(wandb_setup._singleton._connection._proc._process.pid, signal.SIGKILL)
    for row in rows:
        tracker.log(row)
    tracker.finish()
    assert tracker.failure and len(server.rows("study", "a")) < len(rows)
    server.fault = None
    (result,) = sync_runs([path])
    assert result.complete and result.sent > 0
    assert parts_on(server, "a") == everything(path)


def test_a_server_that_shows_less_than_it_has_is_not_sent_duplicates(server, tmp_path, monkeypatch):
    """Reported of the hosted server: the history of a run comes out empty or short for a while after it was written."""
    path = write_run_dir(tmp_path / "a", "a")
    rows = record_rows(path)
    server.add_run("study", "a", rows, summary={"_step": len(rows) - 1, **rows[-1]})
    hidden = server.runs["study", "a"].history
    server.runs["study", "a"].history = {i: line for i, line in hidden.items() if i < 15}
    (result,) = sync_runs([path])
    assert result.sent == 0 and "hands out those up to 14 only" in result.note
    server.runs["study", "a"].history = hidden
    (result,) = sync_runs([path])
    assert (result.sent, result.complete) == (0, True)


def test_failed_upload_then_again(server, tmp_path):
    path = write_run_dir(tmp_path / "a", "a")
    server.fault = wandb_server.Fault(status=429, only="file_stream")
    (result,) = sync_runs([path], timeout=1.0)
    assert "Timed out" in result.note and not result.complete
    server.fault = None
    (result,) = sync_runs([path])
    assert result.complete and parts_on(server, "a") == everything(path)


def test_redone_steps_are_one_row(server, tmp_path):
    segments = ({"start": "t0"}, {"start": "t1", "resumed_from": 5})
    path = tmp_path / "a"
    records.write_run(path, record_of("a", segments=segments))
    append(path, map(step_line, range(1, 9)), [eval_line(0), eval_line(5)])
    append(path, [step_line(s, 1, reward=0.99) for s in range(6, 13)], [eval_line(10, 1)])
    sync_runs([path])
    by_step = {r["train/global_step"]: r for r in server.rows("study", "a")}
    assert len(by_step) == len(server.rows("study", "a")) == 13
    assert by_step[7]["train/reward"] == 0.99 and by_step[12]["gpu_hours"] == pytest.approx(0.12)


def test_follow_until_the_run_ends(server, tmp_path):
    path = write_run_dir(tmp_path / "a", "a", steps=5, status="running")
    states, looks = [], []

    def train(seconds: float) -> None:
        looks.append(seconds)
        assert len(looks) < 6, reported
        states.append(server.runs["study", "a"].state)
        if len(looks) == 1:
            append(path, map(step_line, range(6, 9)))
        elif len(looks) == 2:
            write_run_dir(tmp_path / "b", "b", steps=3)
        else:
            append(path, [step_line(9)], [eval_line(9)])
            records.write_run(path, record_of("a"))

    reported = []
    results = follow_runs([tmp_path], report=reported.append, interval=7.0, sleep=train)
    assert looks == [7.0, 7.0, 7.0] and [r.complete for r in results] == [True, True]
    assert [(r.path.name, r.sent) for r in reported] == [("a", 6), ("a", 3), ("b", 4), ("a", 1)]
    assert parts_on(server, "a") == everything(path)
    assert server.runs["study", "a"].state == "finished"


def test_follow_on_the_command_line(server, tmp_path):
    write_run_dir(tmp_path / "a", "a", steps=2)
    done = CliRunner().invoke(cli, ["wandb", "sync", str(tmp_path), "--follow", "--interval", "0.1"])
    assert done.exit_code == 0, done.output
    assert "3 rows recorded, 0 already there, 3 sent" in done.output
    assert "1 runs, 3 rows sent, 1 complete on the server" in done.output


def test_a_run_that_mirrors_itself_is_left_alone(server, tmp_path):
    path = write_run_dir(tmp_path / "a", "a", status="running")
    (path / "wandb").mkdir()
    (path / MIRROR).write_text(json.dumps({"mode": "online", "project": "study", "entity": "team", "id": "a"}))
    (result,) = sync_runs([path])
    assert (result.note, result.sent) == (SELF, 0)
    (result,) = sync_runs([path], force=True)
    assert result.sent == 21


def test_one_bad_run_does_not_stop_the_others(server, tmp_path):
    write_run_dir(tmp_path / "a", "a", steps=2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / records.RUN).write_text("{")
    write_run_dir(tmp_path / "c", "c", steps=2)
    done = CliRunner().invoke(cli, ["wandb", "sync", str(tmp_path)])
    assert done.exit_code == 1
    assert "3 runs, 6 rows sent, 2 complete on the server" in done.output
    assert "run.json must be JSON" in done.output


def test_server_down_is_one_line_a_run(server, tmp_path, monkeypatch):
    write_run_dir(tmp_path / "a", "a", steps=2)
    server.fault = wandb_server.Fault(status=401)
    (result,) = sync_runs([tmp_path])
    assert result.note and "\n" not in result.note and not result.complete
    assert wandb_server.API_KEY not in result.note
    server.fault = None


def test_without_credentials(tmp_path):
    write_run_dir(tmp_path / "a", "a", steps=2)
    done = CliRunner().invoke(cli, ["wandb", "sync", str(tmp_path)])
    assert done.exit_code == 1
    assert "wandb sync needs credentials: set WANDB_API_KEY or run 'wandb login'" in done.output


def test_lacking_rows_keep_their_axes():
    row = {"train/global_step": 3, "gpu_hours": 0.5, "total_flops": 1.0, "train/reward": 1.0, "eval/m/a/pass@1": 0.5}
    assert lacking_rows([row], set()) == [row]
    assert lacking_rows([row], parts_of(row)) == []
    (rest,) = lacking_rows([row], {(3, "train")})
    assert rest == {"train/global_step": 3, "gpu_hours": 0.5, "total_flops": 1.0, "eval/m/a/pass@1": 0.5}
