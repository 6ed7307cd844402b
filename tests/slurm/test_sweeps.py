"""Sweeps on a real Slurm: arrays with failures, preemption, time limits, lost nodes, cancellation, reruns, no accounts."""

from __future__ import annotations

import json
import signal
import time

import pytest

from scaling.records import read_lines
from tests.launching.running import Shell, finished_run, jobs, read_until, record, run_dirs, steps, until
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm


def test_array_of_twelve_with_two_failing_then_a_grown_grid(shell: Shell, cluster: Cluster) -> None:
    sweep = shell.runs / "s"
    out = shell.train("sweep=s", "seed=range(12)", "budget.steps=10", "name=raise:5@3_kill:5@7", ok=False)
    assert "12 rows, 12 runs" in out and "2 of 12 runs did not finish" in out
    assert "seed=3: failed: ValueError: boom at step 5 of seed 3" in out and "seed=7: failed: " in out
    found = jobs(sweep)
    assert len({j["job_id"].partition("_")[0] for j in found}) == 1, "one array"
    assert all(j["log"] in out for j in found if j["returncode"])
    array = ("sacct", "-X", "-n", "-P", "-o", "State", "-j", found[0]["job_id"].partition("_")[0])
    until(  # the accounts follow a moment later
        lambda: sorted(cluster.run(*array).split()) == ["COMPLETED"] * 10 + ["FAILED"] * 2, what="Slurm's states"
    )
    out = shell.train("sweep=s", "seed=range(13)", "budget.steps=10")
    assert "1 to start, 2 to resume, 10 finished before" in out
    assert {record(d)["status"] for d in run_dirs(sweep)} == {"finished"} and len(run_dirs(sweep)) == 13
    assert shell.sweep("status", str(sweep)).count(" finished ") == 13


@pytest.mark.parametrize("name", ["seconds:0.2", "seconds:0.05_saving:2"], ids=["in-training", "in-a-checkpoint"])
def test_preemption_saves_requeues_and_continues(shell: Shell, cluster: Cluster, name: str) -> None:
    launched = shell.start(
        "sweep=p",
        "budget.steps=40" if "saving" not in name else "budget.steps=12",
        f"name={name}",
        "cluster.slurm.partition=scavenge",
    )
    (run,) = until(lambda: [d for d in run_dirs(shell.runs / "p") if len(steps(d)) > 5], what="a step")
    time.sleep(0.5)  # with a slow checkpoint this is inside its writing
    cluster.run("sbatch", "-p", "main", "-N4", "--gpus-per-node=2", "--exclusive", "-o", "/dev/null", "--wrap=sleep 3")
    text = launched.communicate(timeout=120)[0]
    assert launched.returncode == 0, text
    segments = record(run)["segments"]
    assert len(segments) == 2 and segments[1]["restarts"] == "1" and segments[1]["resumed_from"] >= 5
    done = steps(run)
    assert done == list(range(1, done[-1] + 1)), "saved within the grace period: no step is lost or done twice"
    assert len(jobs(shell.runs / "p")) == 1


def test_time_limit_twice_and_bounded_attempts(shell: Shell) -> None:
    limits = ("cluster.slurm.time_minutes=1", "cluster.slurm.grace_seconds=55", "name=seconds:0.25")
    patient = shell.start("sweep=t", "budget.steps=260", *limits)
    bounded = shell.start("sweep=b", "budget.steps=100000", *limits, "cluster.slurm.max_attempts=2")
    assert patient.wait(240) == 0, patient.communicate()[0]
    (run,) = run_dirs(shell.runs / "t")
    assert len(record(run)["segments"]) >= 3 and steps(run) == list(range(1, 261))
    text = bounded.communicate(timeout=180)[0]
    assert bounded.returncode == 1 and "gave up after 2 attempts" in text


def test_a_node_set_down_sends_its_run_elsewhere(shell: Shell, cluster: Cluster) -> None:
    launched = shell.start("sweep=n", "budget.steps=40", "name=seconds:0.2")
    (run,) = until(lambda: [d for d in run_dirs(shell.runs / "n") if len(steps(d)) > 6])
    node = record(run)["segments"][0]["host"]
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        text = launched.communicate(timeout=120)[0]
    finally:
        cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    assert launched.returncode == 0, text
    segments = record(run)["segments"]
    assert len(segments) == 2 and segments[1]["host"] != node and segments[1]["resumed_from"] >= 5
    until(lambda: "down" not in cluster.run("sinfo", "-h", "-o", "%t"))


def test_scancel_is_listed_and_others_finish(shell: Shell, cluster: Cluster) -> None:
    launched = shell.start("sweep=c", "seed=0,1,2", "budget.steps=60", "name=seconds:0.1")
    running = until(
        lambda: [j for j in jobs(shell.runs / "c") if j["job_id"]] if len(run_dirs(shell.runs / "c")) == 3 else []
    )
    cluster.run("scancel", running[1]["job_id"])
    until(lambda: [d for d in run_dirs(shell.runs / "c") if len(steps(d)) > 5])
    assert "cancelled" in shell.sweep("cancel", str(shell.runs / "c"), running[2]["run_id"])
    text = launched.communicate(timeout=120)[0]
    assert launched.returncode == 1 and "2 of 3 runs did not finish" in text and text.count("cancelled") >= 2
    out = shell.sweep("retry", str(shell.runs / "c"))
    assert "2 to resume" in out or "1 to start, 1 to resume" in out
    assert all(record(d)["status"] == "finished" for d in run_dirs(shell.runs / "c"))


def test_rerun_during_a_live_sweep_submits_nothing_twice_and_ctrl_c_leaves_it(shell: Shell, cluster: Cluster) -> None:
    before = time.monotonic()
    out = shell.train("sweep=l", "seed=0,1", "budget.steps=40", "name=seconds:0.15", "launch.wait=false")
    assert "rl-scaling sweep status" in out and time.monotonic() - before < 60
    again = shell.start("sweep=l", "seed=0,1", "budget.steps=40", "name=seconds:0.15")
    text = read_until(again, "] ")
    again.send_signal(signal.SIGINT)
    text += again.communicate(timeout=60)[0]
    assert (
        "2 already queued or running" in text
        and "the runs go on" in text
        and "sweep cancel" in text
        and again.returncode == 130
    )
    shell.train("sweep=l", "seed=0,1", "budget.steps=40", "name=seconds:0.15")
    assert all(len(j["job_ids"]) == 1 for j in jobs(shell.runs / "l"))
    assert all(steps(d) == list(range(1, 41)) for d in run_dirs(shell.runs / "l"))


def test_two_sweeps_on_one_node_have_their_own_gpus(shell: Shell) -> None:
    where = "+cluster.slurm.sbatch.nodelist=n0"
    both = [shell.start(f"sweep={name}", "budget.steps=30", "name=seconds:0.1", where) for name in ("g1", "g2")]
    assert [p.wait(120) for p in both] == [0, 0]
    (a,), (b,) = (record(run_dirs(shell.runs / name)[0])["segments"] for name in ("g1", "g2"))
    assert a["host"] == b["host"] == "n0" and {a["gpus"], b["gpus"]} == {"0", "1"}


def test_hours_agree_with_slurms_accounts(shell: Shell) -> None:
    shell.train("sweep=r", "seed=0,1", "budget.steps=50", "name=seconds:0.2")
    out = shell.sweep("reconcile", str(shell.runs / "r"), "--startup", "6")
    assert "total" in out and "<-" not in out


def test_without_accounts_failures_are_still_noticed(shell: Shell, cluster: Cluster) -> None:
    cluster.stop("slurmdbd")
    try:
        out = shell.train("sweep=a", "seed=0,1,2", "budget.steps=8", "name=kill:5@1_exit:5@2", ok=False, timeout=60)
        assert "2 of 3 runs did not finish" in out
        assert "cannot" not in out
        assert "sacct must answer" in shell.sweep("reconcile", str(shell.runs / "a"), ok=False)
    finally:
        cluster.start("slurmdbd")


def test_an_evaluation_is_one_array_survives_preemption_and_lists_its_failure(shell: Shell, cluster: Cluster) -> None:
    sweep = shell.runs / "e"
    bad = finished_run(sweep, seed=0, name="raise:4")
    good = [finished_run(sweep, seed=seed, name="seconds:0.7", steps=tuple(range(1, 13))) for seed in (1, 2)]
    evaluation = shell.start_evaluation(str(sweep), "k=2", "cluster.slurm.partition=scavenge")
    until(lambda: [r for r in good if len(read_lines(r / "evals.jsonl")[0]) > 1], what="an evaluation")
    cluster.run("sbatch", "-p", "main", "-N4", "--gpus-per-node=2", "--exclusive", "-o", "/dev/null", "--wrap=sleep 2")
    text = evaluation.communicate(timeout=180)[0]
    assert evaluation.returncode == 1 and "3 runs, 28 evaluations to add" in text and "submitted 3 jobs: " in text, text
    assert (
        "1 of 3 runs did not finish" in text
        and "ValueError: boom at checkpoint 4" in text
        and "26 evaluations added" in text
    )
    for run in good:
        assert [row["step"] for row, _ in read_lines(run / "evals.jsonl")[0]] == list(range(1, 13)), "each once"
    (folder,) = (sweep / ".evaluate").iterdir()
    found = jobs(folder)
    assert len({j["job_id"].partition("_")[0] for j in found}) == 1, "one array, an element a run"
    ends = [json.loads(p.read_text()) for p in (folder / ".launch" / "ends").glob("*.json")]
    assert sorted(end["attempt"] for end in ends) == [1, 2, 2], "the good ones were preempted and requeued"
    job = next(j for j in found if j["run_id"] == bad.name)
    until(lambda: cluster.run("sacct", "-X", "-n", "-P", "-o", "State", "-j", job["job_id"]).split() == ["FAILED"])


def test_a_controller_that_goes_away_ends_neither_watcher_nor_run(shell: Shell, cluster: Cluster) -> None:
    launched = shell.start("sweep=o", "budget.steps=60", "name=seconds:0.25")
    (run,) = until(lambda: [d for d in run_dirs(shell.runs / "o") if len(steps(d)) > 3])
    cluster.stop("slurmctld")
    try:
        text = read_until(launched, "still watching")
    finally:
        cluster.start("slurmctld")
    text += launched.communicate(timeout=120)[0]
    assert launched.returncode == 0 and "1 finished" in text, text
    assert steps(run) == list(range(1, 61)) and len(record(run)["segments"]) == 1


def test_what_slurm_would_refuse_is_refused_first(shell: Shell, cluster: Cluster) -> None:
    for override, said in {
        "cluster.slurm.partition=nope": "error: cluster.slurm.partition: must be one of main, scavenge, got 'nope'",
        "cluster.gpus_per_node=3": "error: cluster.gpus_per_node: must be at most 2, the GPUs of a node of this cluster, got 3",
        "cluster.slurm.constraint=nope": "error: cluster.slurm: sbatch says: ",
        "cluster.nodes=5": "error: cluster.nodes: must be at most 4, the nodes of this cluster, got 5",
        "cluster.slurm.memory_gb=90000": "error: cluster.slurm.memory_gb: must be at most ",
    }.items():
        out = shell.train("sweep=bad", override, ok=False)
        assert [line for line in out.splitlines() if line.startswith(said)], out
    assert not jobs(shell.runs / "bad")
