"""Whatever fails in the mirror costs the run nothing: no exception, no long wait, one report, counted rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb_server

pytest.importorskip("wandb")

from sweeps import wandb_mirror
from sweeps.tracking import open_tracker


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(wandb_mirror, "INIT_TIMEOUT", 1.0)
    monkeypatch.setattr(wandb_mirror, "FINISH_TIMEOUT", 1.0)
    monkeypatch.setattr(wandb_mirror, "GRACE", 1.5)


def rows(n: int, start: int = 0):
    return [{"gpu_hours": i / 10, "train/global_step": i, "train/reward": 0.5} for i in range(start, start + n)]


def started(tracker, mode: str) -> None:
    deadline = time.monotonic() + 30
    while not (tracker._directory / wandb_mirror.MIRROR).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert tracker.mode == mode


def core_pid() -> int:
    from wandb.sdk import wandb_setup

    return wandb_setup._singleton._connection._proc._process.pid


def reports(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("W&B mirror:")]


@pytest.mark.parametrize("how", ["refuses", "hangs", "rejects the key"])
def test_server_that_does_not_answer_leaves_offline_files(server, tmp_path, capsys, how):
    if how == "refuses":
        server.stop()
    else:
        server.fault = wandb_server.Fault(delay=30) if how == "hangs" else wandb_server.Fault(status=401)
    tracker = open_tracker(directory=tmp_path / "run", run_id="r")
    for row in rows(50):
        tracker.log(row)
    deadline = time.monotonic() + 30
    while tracker.mode == "online" and time.monotonic() < deadline:
        time.sleep(0.02)
    tracker.finish()
    assert (tracker.mode, tracker.lost) == ("offline", 0)
    (said,) = reports(capsys)
    assert "offline files instead" in said and f"rl-scaling wandb sync {tmp_path / 'run'}" in said
    assert list((tmp_path / "run").glob("wandb/offline-run-*/run-r.wandb"))
    server.fault = None


@pytest.mark.parametrize("status", [429, 500, 400])
def test_server_that_refuses_rows(server, tmp_path, capsys, status):
    tracker = open_tracker(directory=tmp_path / "run", run_id="r", project="p")
    started(tracker, "online")
    server.fault = wandb_server.Fault(status=status, only="file_stream")
    for row in rows(50):
        tracker.log(row)
    tracker.finish()
    (said,) = reports(capsys)
    assert ("400 Bad Request" if status == 400 else "Timed out") in said
    assert tracker.failure


def test_server_that_goes_away_holds_up_neither_finish_nor_exit(server, tmp_path, capsys):
    tracker = open_tracker(directory=tmp_path / "run", run_id="r", project="p")
    started(tracker, "online")
    server.stop()
    for row in rows(50):
        tracker.log(row)
    tracker.finish()
    assert len(reports(capsys)) == 1
    assert not tracker._thread.is_alive()


def test_killed_core(tmp_path, capsys):
    tracker = open_tracker(directory=tmp_path / "run", run_id="r")
    started(tracker, "offline")
    os.kill(core_pid(), signal.SIGKILL)
    for batch in (rows(50), rows(50, 50)):
        for row in batch:
            tracker.log(row)
        time.sleep(0.5)  # rows that the dead process's socket took are lost without a trace
    tracker.finish()
    assert tracker.lost > 0 and not tracker._thread.is_alive()
    first, total = reports(capsys)
    assert "training and its records are not affected" in first and f"{tracker.lost} rows were not mirrored" in total


def test_hung_core_is_given_up(tmp_path, capsys):
    tracker = open_tracker(directory=tmp_path / "run", run_id="r")
    started(tracker, "offline")
    pid = core_pid()
    os.kill(pid, signal.SIGSTOP)
    for row in rows(20):
        tracker.log(row)
    tracker.finish()
    assert not tracker._thread.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert reports(capsys)


def test_full_queue_counts_and_returns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(wandb_mirror, "QUEUE_ROWS", 10)
    monkeypatch.setattr(wandb_mirror.WandbTracker, "_start", lambda self: time.sleep(0.5))
    tracker = open_tracker(directory=tmp_path / "run", run_id="r")
    for row in rows(100):
        tracker.log(row)
    tracker.finish()
    assert tracker.lost == 100 and "10 rows are waiting already" in str(tracker.failure)


def test_unwritable_directory(tmp_path, capsys):
    (tmp_path / "run").write_text("a file where the run directory should be")
    tracker = open_tracker(directory=tmp_path / "run", run_id="r")
    tracker.log(rows(1)[0])
    tracker.finish()
    assert tracker.lost == 1 and "could not start: FileExistsError" in str(tracker.failure)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(small_disk, capsys):
    tracker = open_tracker(directory=small_disk / "run", run_id="r")
    started(tracker, "offline")
    with pytest.raises(OSError, match="No space"), open(small_disk / "filler", "wb", buffering=0) as filler:
        while filler.write(b"x" * 4096):
            pass
    for row in rows(2000):
        tracker.log(row)
    tracker.finish()
    assert "no space left on device" in str(tracker.failure).lower()
    err = capsys.readouterr().err
    assert err.count("W&B mirror:") == 1 and "Traceback" not in err


def test_no_secret_anywhere(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_notarealtokenatall")
    monkeypatch.setattr(sys, "argv", ["train.py", "--password=on-the-command-line"])
    secrets = [wandb_server.API_KEY, "hf_notarealtokenatall", "on-the-command-line"]
    config = {"model": {"auth": secrets[1]}, "note": f"key={secrets[0]}", "lr": 0.1}
    for mode in ("online", "offline"):
        tracker = open_tracker(
            mode=mode, directory=tmp_path / "run", run_id=mode, project="p", config=config, tags=secrets[:2]
        )
        for row in rows(3):
            tracker.log(row)
        tracker.finish()
    shown = capsys.readouterr()
    assert server.runs["p", "online"].config["model"]["value"] == {"auth": "***"}
    haystack = [p.read_bytes() for p in Path(tmp_path / "run").rglob("*") if p.is_file()]
    haystack += [repr(server.requests).encode(), *server.uploads.values(), (shown.out + shown.err).encode()]
    assert len(haystack) > 8
    assert not [secret for secret in secrets for text in haystack if secret.encode() in text]
