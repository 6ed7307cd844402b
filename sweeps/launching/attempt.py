"""One attempt of a run inside a Slurm job: what submitit pickles, runs, and asks to checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.files import write_json
from sweeps.launching.roles import Processes
from sweeps.worker import INTERRUPTED

__all__ = ["SlurmAttempt"]

RESERVE = 10.0  # seconds of the grace period left for requeueing


@dataclass(frozen=True, kw_only=True)
class SlurmAttempt:
    """Runs the processes of a run in the job's nodes; the job's exit code is the run's.

    Attributes:
        config: path of the resolved configuration.
        end: file that says how the attempt ended.
        grace_seconds: time to save after the warning signal [s].
        max_attempts: attempts over requeues, this job's first included.
    """

    config: str
    end: str
    grace_seconds: int
    max_attempts: int

    def __call__(self) -> str:
        """Run; raise with the reason where the run failed, so that Slurm records FAILED."""
        attempt = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1
        if attempt > self.max_attempts:
            cause = f"gave up after {self.max_attempts} attempts (cluster.slurm.max_attempts): raise the time limit or ask for more attempts"
            self._note(1, cause, attempt)
            raise RuntimeError(cause)
        key = int(os.environ.get("SLURM_JOB_ID", os.getpid()))
        processes = Processes(Path(self.config), hosts=_hosts(), key=key)
        _RUNNING[:] = [processes]
        try:
            processes.start()
            code = processes.wait()
        except RuntimeError as error:
            self._note(1, str(error), attempt)
            raise
        if code == INTERRUPTED and not processes.asked:
            # the run was signalled behind our back: Slurm is about to kill or requeue this job, which must not end first
            time.sleep(self.grace_seconds + 60)
        self._note(code, None, attempt)
        if code:
            sys.stdout.flush()
            raise RuntimeError(f"the run ended with exit code {code}: see the lines above")
        return "done"

    def checkpoint(self) -> Any:
        """Called by submitit at the warning signal: let the run save, then ask for the requeue."""
        from submitit.helpers import DelayedSubmission

        for processes in _RUNNING:
            code = processes.save(max(5.0, self.grace_seconds - RESERVE))
            print(f"asked to save: exit code {code}", flush=True)
            processes.stop()
        return DelayedSubmission(self)

    def _note(self, code: int, cause: str | None, attempt: int) -> None:
        write_json(
            Path(self.end),
            {"job_id": job_id(), "returncode": code, "cause": cause, "attempt": attempt, "time": time.time()},
        )


_RUNNING: list[Processes] = []  # of this process; kept out of the pickled object


def job_id() -> str:
    """This job as Slurm names it, ``array_task`` in an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")


def _hosts() -> list[str]:
    nodes = os.environ.get("SLURM_JOB_NODELIST")
    if not nodes or int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) == 1:
        return ["localhost"]
    return subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
    ).stdout.split()
