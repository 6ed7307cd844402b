"""Evaluation after the fact as a multirun of worker processes, with nobody in place of a model."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from scaling import load_runs
from scaling.records import read_lines
from tests.launching.running import Shell, finished_run, jobs


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "runs", overrides=("cluster.workers=2",))


def folder_of(sweep: Path) -> Path:
    (found,) = (sweep / ".evaluate").iterdir()
    return found


def test_a_multirun_appends_at_the_checkpoints_own_cost_and_is_not_repeated(shell: Shell) -> None:
    sweep = shell.runs / "s"
    runs = [finished_run(sweep, seed=seed) for seed in (0, 1)]
    arguments = (str(sweep), "checkpoints=log2", "benchmarks=[held_out]", "k=4")
    out = shell.evaluate(*arguments, "launch.dry_run=true")
    assert "2 runs, 4 evaluations to add" in out and "dry run: nothing was started" in out
    total = next(line for line in out.splitlines() if line.startswith("total")).split()
    assert total[1:3] == ["4", str(2 * 2 * 8 * 4)], "runs x checkpoints x problems x k"
    assert not jobs(folder_of(sweep)) and not (runs[0] / "evals.jsonl").exists()

    out = shell.evaluate(*arguments)
    assert "2 to start" in out and "2 at a time on this machine" in out and "4 evaluations added" in out
    for run in runs:
        lines = [row for row, _ in read_lines(run / "evals.jsonl")[0]]
        assert [(x["step"], x["cost"]["training_flops"], x["k"], x["successes"]) for x in lines] == [
            (1, 1e9, 4, [2] * 8), (8, 8e9, 4, [2] * 8),
        ]  # fmt: skip
        table = load_runs(run)
        assert table.runs.iloc[0]["total_flops"] == 8e9, "the axis has no evaluation in it"
        assert table.runs.iloc[0]["gpu_hours_paid"] == pytest.approx(2 / 3600), "the bill has"
    assert "finished" in shell.sweep("status", str(folder_of(sweep))) and "2/2" in shell.sweep(
        "status", str(folder_of(sweep))
    )
    assert len(load_runs(sweep).runs) == 2, "the folder of an evaluation is no run"
    out = shell.evaluate(*arguments)
    assert "2 finished before" in out and "0 evaluations added" in out


def test_failures_are_listed_others_go_on_and_the_same_command_continues(shell: Shell) -> None:
    sweep = shell.runs / "f"
    bad, good = finished_run(sweep, seed=0, name="raise:4"), finished_run(sweep, seed=1)
    arguments = (str(sweep), "checkpoints=all", "k=2")
    out = shell.evaluate(*arguments, ok=False)
    assert (
        "1 of 2 runs did not finish" in out
        and "failed: ValueError: boom at checkpoint 4" in out
        and "6 evaluations added" in out
    )
    assert len(read_lines(good / "evals.jsonl")[0]) == 4 and len(read_lines(bad / "evals.jsonl")[0]) == 2
    record = json.loads((bad / "run.json").read_text())
    (bad / "run.json").write_text(json.dumps({**record, "name": ""}))
    out = shell.sweep("retry", str(folder_of(sweep)))
    assert "1 to start" in out and [row["step"] for row, _ in read_lines(bad / "evals.jsonl")[0]] == [1, 2, 4, 8]


def test_a_live_run_and_wrong_settings_are_refused_in_one_line(tmp_path: Path) -> None:
    from sweeps.evaluate import main

    run = finished_run(tmp_path / "l")
    with (run / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match=f"^error: {run} is in use by another process: wait for it, or name other"):
            main([str(run), "k=2"])
    (tmp_path / "empty").mkdir()
    for arguments, said in {
        (str(run), "benchmarks=nope"): "error: benchmarks: 'nope' is neither a benchmark of the run's task nor a task",
        (str(run), "k=0"): "error: k: Input should be greater than or equal to 1; settings are checkpoints, ",
        (str(run), "cluster.devices=2"): "error: cluster.devices: an evaluation samples each run on one device, got 2",
        (str(run), "cluster.nope=2"): "error: cluster.nope: unknown key",
        (str(run), "cluster=nope"): "error: cluster=nope: no such option; options are local, ray, slurm",
        (str(tmp_path / "empty"),): "error: no run lies there",
    }.items():
        with pytest.raises(SystemExit) as refused:
            main(arguments)
        assert str(refused.value).startswith(said) and "\n" not in str(refused.value)
    assert not (run / "evals.jsonl").exists() and not list(tmp_path.glob("l/.evaluate/*/.launch/jobs/*"))
