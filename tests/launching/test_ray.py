"""The Ray engine on a local cluster of Ray's own: submission, GPUs, a killed worker, a submitter that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launching.running import Shell, jobs, record, run_dirs, steps, until

pytest.importorskip("ray.job_submission", reason="ray[default] is not installed")

PORT, DASHBOARD = 26379, 28265


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_DISABLE_IMPORT_WARNING": "1"}
    folder = Path("/tmp") / f"ray-test-{os.getpid()}"  # sockets need a short path
    cli = [sys.executable, "-m", "ray.scripts.scripts"]
    argv = [*cli, "start", "--head", f"--port={PORT}", "--num-cpus=4", "--num-gpus=4", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={DASHBOARD}", "--disable-usage-stats", f"--temp-dir={folder}", "--block"]  # fmt: skip
    with (tmp_path_factory.mktemp("ray") / "head.log").open("w") as log:
        head = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
    from sweeps.launching.ray_jobs import reachable

    url = f"http://127.0.0.1:{DASHBOARD}"
    until(lambda: reachable(url) is None, seconds=90, what="Ray's dashboard")
    yield url
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)


@pytest.fixture
def shell(address: str, tmp_path: Path) -> Shell:
    return Shell(
        tmp_path / "runs",
        env={"RAY_AUTH_MODE": "disabled"},
        overrides=("cluster=ray", f"cluster.ray.address={address}"),
    )


def test_gpus_are_assigned_and_a_killed_worker_is_noticed(shell: Shell) -> None:
    out = shell.train("sweep=r", "seed=0,1,2", "budget.steps=8", "name=kill:4@1_seconds:0.1", ok=False)
    assert "1 of 3 runs did not finish" in out and "seed=1: failed: killed by SIGKILL" in out
    gpus = [record(d)["segments"][0]["gpus"] for d in run_dirs(shell.runs / "r")]
    assert len(set(gpus)) == 3 and set(gpus) <= set("0123"), "a GPU each"
    out = shell.train("sweep=r", "seed=0,1,2", "budget.steps=8")
    assert "1 to resume, 2 finished before" in out
    assert all(record(d)["status"] == "finished" for d in run_dirs(shell.runs / "r"))


def test_the_submitter_may_die_and_cancel_saves(shell: Shell) -> None:
    sweep = shell.runs / "d"
    arguments = ("sweep=d", "seed=0,1", "budget.steps=150", "name=seconds:0.1")
    first = shell.start(*arguments)
    until(lambda: len(run_dirs(sweep)) == 2, seconds=90)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert "2 already queued or running" in shell.train(*arguments, "launch.wait=false")
    (one, two) = jobs(sweep)
    assert "cancelled" in shell.sweep("cancel", str(sweep), one["run_id"])
    until(lambda: record(sweep / one["run_id"])["status"] == "interrupted", seconds=30)
    assert "1 already queued or running" in shell.train(*arguments)
    assert all(steps(d) == list(range(1, 151)) for d in run_dirs(sweep))
    assert len(record(sweep / two["run_id"])["segments"]) == 1


def test_an_unreachable_address_is_refused(tmp_path: Path) -> None:
    out = Shell(tmp_path / "runs").train("cluster=ray", "cluster.ray.address=http://127.0.0.1:1", ok=False)
    assert "error: cluster.ray.address: must be a Ray dashboard's address, http://127.0.0.1:1 does not answer" in out
    assert not jobs(tmp_path / "runs" / "default")
