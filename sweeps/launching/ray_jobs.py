"""The Ray engine: one job a run through Ray's Jobs API, so that the driver survives whoever submitted it.

Nothing is pickled: the entrypoint is the worker's command line, GPUs are assigned by Ray. Runs on one node only; several
nodes a run need Slurm. The folder of runs must be the same path on all nodes.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError, ScalingError
from sweeps.config import RunConfig
from sweeps.files import read_json
from sweeps.launching.jobs import Job, Notes
from sweeps.launching.layout import lay_out
from sweeps.launching.local import explain
from sweeps.worker import INTERRUPTED

__all__ = ["RayError", "cancel", "check", "reachable", "refresh", "start"]


class RayError(ScalingError):
    """The Jobs API did not do as asked."""


def reachable(address: str) -> str | None:
    """Why the Jobs API at ``address`` cannot be used; None where it can."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=10) as answer:
            return None if answer.status == 200 else f"status {answer.status}"
    except urllib.error.HTTPError as error:
        return None if error.code in (401, 403) else f"status {error.code}"  # it answers, with token authentication
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def check(configs: Sequence[RunConfig]) -> None:
    """Refuse an unreachable cluster before anything is submitted.

    Raises:
        ConfigError: Ray is not installed, its Jobs API does not answer, or no node has the GPUs of a run.
    """
    try:
        import ray.job_submission  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"cluster.engine: ray needs the package ray[default] ({error}): pip install 'ray[default]'"
        ) from error
    for address in sorted({c.cluster.ray.address for c in configs}):
        if why := reachable(address):
            raise ConfigError(
                f"cluster.ray.address: must be a Ray dashboard's address, {address} does not answer: {why}"
            )


def start(notes: Notes, jobs: Sequence[Job], configs: Mapping[str, RunConfig]) -> list[Job]:
    """Submit a job a run; returns them with their numbers, noted."""
    out = []
    for job in jobs:
        config = configs[job.run_id]
        cluster, attempt = config.cluster, job.attempt + 1
        log = notes.log_path(job.run_id, attempt)
        module = "sweeps.worker" if lay_out(config).plain else "sweeps.launching.roles"
        end = _end_path(notes, job.run_id)
        end.unlink(missing_ok=True)
        # the shell notes the exit code, which the Jobs API does not pass on, and keeps the log beside the run
        run = f"{shlex.quote(sys.executable)} -m {module} {shlex.quote(job.config)}"
        note = f'printf \'{{"attempt": {attempt}, "returncode": %d}}\' $code > {shlex.quote(str(end))}'
        script = f"mkdir -p {shlex.quote(str(log.parent))} {shlex.quote(str(end.parent))}; {run} >> {shlex.quote(str(log))} 2>&1 & child=$!; trap 'kill -TERM $child' TERM; wait $child; code=$?; "
        script += f"while kill -0 $child 2>/dev/null; do wait $child; code=$?; done; {note}; exit $code"
        env = job.environment()
        try:
            job_id = _client(cluster.ray.address).submit_job(
                entrypoint=f"bash -c {shlex.quote(script)}", runtime_env={"env_vars": env}, entrypoint_num_cpus=cluster.ray.cpus,
                entrypoint_num_gpus=cluster.devices if cluster.accelerator != "cpu" else None,
                metadata={"run_id": job.run_id, "sweep": notes.sweep_dir.name},
            )  # fmt: skip
        except RuntimeError as error:
            raise RayError(f"Ray refused the job: {str(error).splitlines()[-1]}") from error
        job = job.but(
            job_id=job_id,
            job_ids=(*job.job_ids, job_id),
            attempt=attempt,
            log=str(log),
            submitted=time.time(),
            host=cluster.ray.address,
        )
        notes.write(job)
        out.append(job)
    return out


def refresh(notes: Notes, jobs: Sequence[Job]) -> list[Job]:
    """The jobs as they are now, by the Jobs API and by the exit codes that they noted.

    Raises:
        RayError: the Jobs API does not answer.
    """
    active = [j for j in jobs if j.active and j.job_id]
    states: dict[str, tuple[str, str]] = {}
    for address in {str(j.host) for j in active}:
        states |= {
            str(d.submission_id): (str(getattr(d.status, "value", d.status)), d.message or "") for d in _listed(address)
        }
    out = []
    for job in jobs:
        if job in active:
            job = _state(
                notes,
                job,
                *states.get(str(job.job_id), ("GONE", "the cluster does not know the job: it was restarted")),
            )
            if not job.active:
                notes.write(job)
        out.append(job)
    return out


def cancel(notes: Notes, jobs: Sequence[Job]) -> None:
    """Ask Ray to stop the jobs: SIGTERM first, with a few seconds to save."""
    for job in jobs:
        if job.job_id and job.active:
            _client(str(job.host)).stop_job(job.job_id)
            notes.write(job.but(state="cancelled", ended=time.time()))


def _state(notes: Notes, job: Job, state: str, message: str) -> Job:
    end = read_json(_end_path(notes, job.run_id))
    if end.get("attempt") == job.attempt:
        code = int(end["returncode"])
        code = 128 - code if code > 128 else code  # the shell's way of saying a signal
        return job.but(
            state="ended",
            returncode=code,
            cause=None if code in (0, INTERRUPTED) else explain(code, Path(job.log)),
            ended=time.time(),
        )
    if state == "PENDING":
        return job.but(state="queued")
    if state == "RUNNING":
        return job.but(state="running")
    if state == "SUCCEEDED":
        return job.but(state="ended", returncode=0, ended=time.time())
    if state == "STOPPED":
        return job.but(state="cancelled", cause="Ray says STOPPED", ended=time.time())
    words = message.strip().splitlines()
    return job.but(
        state="ended",
        returncode=1,
        cause=f"Ray says {state}: {words[-1] if words else 'no message'}",
        ended=time.time(),
    )


def _listed(address: str) -> list[Any]:
    try:
        return _client(address).list_jobs()
    except (RuntimeError, ConnectionError) as error:
        raise RayError(f"Ray's Jobs API at {address} does not answer: {str(error).splitlines()[0]}") from error


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient  # pyright: ignore[reportMissingImports]

    try:
        return JobSubmissionClient(address)
    except (RuntimeError, ConnectionError) as error:
        raise RayError(f"Ray's Jobs API at {address} does not answer: {str(error).splitlines()[0]}") from error


def _end_path(notes: Notes, run_id: str) -> Path:
    return (notes.folder / "ends" / f"{run_id}.json").resolve()
