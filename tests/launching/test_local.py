"""The local engine, from the command line, with a stub in place of training."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from sweeps.cluster import ClusterConfig
from sweeps.launching.jobs import is_locked
from sweeps.launching.local import LOCKS, Slots
from tests.launching.running import Shell, jobs, read_until, record, run_dirs, steps, until


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "runs", overrides=("cluster.workers=2",))


def test_grid_runs_is_skipped_extended_and_grows(shell: Shell) -> None:
    sweep = shell.runs / "s"
    out = shell.train("sweep=s", "seed=0,1", "budget.steps=5,10")
    assert "4 rows, 2 runs" in out and "2 to start" in out and "2 finished" in out
    for run in run_dirs(sweep):
        assert steps(run) == list(range(1, 11))
        (segment,) = record(run)["segments"]
        assert segment["threads"] == "1" and not segment["torch"] and segment["gpus"] in (None, "")
        assert record(run)["shared"], "two runs at once on one processor"
        assert [m["steps"] for m in record(run)["config"]["milestones"]] == [5]
        assert "/.launch/code/" in segment["code"], "the run uses the snapshot"
    assert "2 finished before" in shell.train("sweep=s", "seed=0,1", "budget.steps=5,10")
    assert "1 to start, 2 to extend" in shell.train("sweep=s", "seed=0,1,2", "budget.steps=12")
    assert all(steps(run) == list(range(1, 13)) for run in run_dirs(sweep))
    assert "3 finished before" in shell.train("sweep=s", "seed=0,1,2", "budget.steps=4"), (
        "a smaller budget has been passed"
    )
    text = shell.sweep("status", str(sweep))
    assert text.count(" finished ") == 3 and "seed=2" in text and "12/12" in text


def test_failures_are_listed_with_cause_and_log_and_others_finish(shell: Shell) -> None:
    sweep = shell.runs / "f"
    out = shell.train("sweep=f", "seed=0,1,2,3", "budget.steps=8", "name=raise:3@0_kill:4@1_exit:5@2", ok=False)
    assert "3 of 4 runs did not finish" in out
    assert "seed=0: failed: ValueError: boom at step 3 of seed 0" in out
    assert "seed=1: failed: killed by SIGKILL" in out and "seed=2: failed: " in out
    logs = [j["log"] for j in jobs(sweep) if j["returncode"]]
    assert len(logs) == 3 and all(log in out and Path(log).exists() for log in logs)
    assert sorted(record(r)["status"] for r in run_dirs(sweep)) == ["failed", "finished", "running", "running"]
    assert "boom at step 3" in shell.sweep("logs", str(sweep))
    text = shell.sweep("status", str(sweep))
    assert text.count(" failed ") >= 3
    out = shell.sweep("retry", str(sweep), ok=False)
    assert "3 to resume" in out and "1 of 3 runs did not finish" not in out
    assert all(j["attempt"] == 2 for j in jobs(sweep) if j["label"] != "seed=3")


def test_the_sweep_outlives_its_shell_and_is_attached_to_again(shell: Shell) -> None:
    sweep = shell.runs / "o"
    arguments = ("sweep=o", "seed=0,1,2", "budget.steps=150", "name=seconds:0.05")
    first = shell.start(*arguments)
    until(lambda: len(run_dirs(sweep)) == 2)
    os.killpg(first.pid, signal.SIGKILL)  # the terminal dies
    first.wait()
    second = shell.start(*arguments)
    text = read_until(second, "[0:")  # the first line of the display: from here on it handles Ctrl-C
    second.send_signal(signal.SIGINT)
    text += second.communicate(timeout=30)[0]
    assert "already queued or running" in text and "the runs go on" in text and second.returncode == 130
    shell.train(*arguments)
    assert all(len(record(r)["segments"]) == 1 and steps(r) == list(range(1, 151)) for r in run_dirs(sweep))
    assert len(run_dirs(sweep)) == 3


def test_a_killed_supervisor_loses_no_run(shell: Shell) -> None:
    sweep = shell.runs / "k"
    arguments = (
        "sweep=k",
        "seed=0,1,2",
        "budget.steps=20",
        "name=hold:10",
    )  # however slow the machine, none ends before 'go'
    shell.train(*arguments, "launch.wait=false")
    until(lambda: len([r for r in run_dirs(sweep) if steps(r)]) == 2)
    supervisor = next(p for p in Path("/proc").glob("[0-9]*") if _is_supervisor(p, sweep))
    os.kill(int(supervisor.name), signal.SIGKILL)
    until(lambda: not is_locked(sweep / ".launch" / "supervisor.lock"))
    second = shell.start(*arguments)
    text = read_until(second, "already queued or running")
    (sweep / "go").touch()
    text += second.communicate(timeout=120)[0]
    assert second.returncode == 0 and re.search("[23] already queued or running", text), text
    assert len(run_dirs(sweep)) == 3
    assert all(record(r)["status"] == "finished" and len(record(r)["segments"]) == 1 for r in run_dirs(sweep))


def test_cancel_saves_and_retry_continues(shell: Shell) -> None:
    sweep = shell.runs / "c"
    shell.train("sweep=c", "seed=0,1,2", "budget.steps=60", "name=seconds:0.05", "launch.wait=false")
    until(lambda: [r for r in run_dirs(sweep) if len(steps(r)) > 3])
    assert "3 of 3 runs were queued or running" in shell.sweep("cancel", str(sweep))
    until(lambda: not any(is_locked(r / "lock") for r in run_dirs(sweep)))
    assert {record(r)["status"] for r in run_dirs(sweep)} == {"interrupted"}
    assert shell.sweep("status", str(sweep)).count("cancelled") >= 3
    shell.sweep("retry", str(sweep))
    assert all(steps(r) == list(range(1, 61)) for r in run_dirs(sweep)) and len(run_dirs(sweep)) == 3


def test_two_sweeps_at_once_never_share_a_gpu(tmp_path: Path) -> None:
    gpus = {"CUDA_VISIBLE_DEVICES": "4,6"}
    shell = Shell(tmp_path / "runs", env=gpus)
    both = [shell.start(f"sweep={name}", "seed=0,1", "budget.steps=15", "name=seconds:0.05") for name in ("a", "b")]
    texts = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], texts
    spans = []
    for name in ("a", "b"):
        for run in run_dirs(shell.runs / name):
            (segment,) = record(run)["segments"]
            assert segment["gpus"] in ("4", "6") and not record(run)["shared"]
            spans.append((segment["gpus"], segment["start"], (run / "run.json").stat().st_mtime))
    for gpu in ("4", "6"):
        mine = sorted(s[1:] for s in spans if s[0] == gpu)
        assert all(end <= start for (_, end), (start, _) in zip(mine, mine[1:])), "one run a GPU at a time"


def test_slots_count_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCKS, str(tmp_path))
    slots = Slots.of(ClusterConfig(devices=2), ["0", "1", "2", "3", "4"])
    assert slots.workers == 2 and not slots.shared(9)
    first, second, third = slots.take(), slots.take(), slots.take()
    assert first and second and third is None
    assert {name for name, _ in first + second} == {"gpu-0", "gpu-1", "gpu-2", "gpu-3"}
    for _, fd in first + second:
        os.close(fd)
    assert slots.take() is not None
    assert Slots.of(ClusterConfig(workers=4), ["0", "1"]).shared(4), "two runs on each GPU"
    assert not Slots.of(ClusterConfig(workers=4), ["0", "1"]).shared(1)
    assert Slots.of(ClusterConfig(workers=3), []).shared(2) and not Slots.of(ClusterConfig(workers=3), []).shared(1)


def test_bad_input_starts_nothing(shell: Shell, tmp_path: Path) -> None:
    for override, said in {
        "cluster.nodes=2": "error: cluster: gpus_per_node must be set where nodes is 2",
        "grpo.vllm=server": "error: cluster.devices: grpo.vllm=server needs a device for the server and one for the trainer",
        "cluster.accelerator=H9000": "error: cluster.accelerator: accelerator must be one of",
        "launch.usd_per_gpu_hour=1,2": "error: launch.usd_per_gpu_hour: rows 1 and 0 are one run",
        "model=nope": "error: model=nope: no such option; options are ",
    }.items():
        out = shell.train("sweep=bad", override, ok=False)
        assert any(line.startswith(said) for line in out.splitlines()), out
        assert "Traceback" not in out
    out = Shell(Path("/proc/none")).train("sweep=bad", ok=False)
    assert "cannot write /proc/none" in out and "Traceback" not in out
    assert not jobs(shell.runs / "bad")
    shell.train("sweep=hand", "seed=0,1", "budget.steps=2", "launch.dry_run=true")
    manifest = shell.runs / "hand" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"steps": 2', '"steps": 3'))
    out = shell.train("sweep=hand", "seed=0,1", "budget.steps=2", ok=False)
    assert "must be as the launcher wrote it" in out and not jobs(shell.runs / "hand")


def _is_supervisor(process: Path, sweep: Path) -> bool:
    try:
        return f"sweeps.launching.local\0{sweep.resolve()}" in (process / "cmdline").read_text()
    except OSError:
        return False
