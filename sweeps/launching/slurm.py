"""The Slurm engine: one job a run through submitit, the runs of a grid in one array.

submitit writes the batch script, requeues at the warning signal and bounds the attempts. Python is the batch step itself
(``exec``, no ``srun`` around it), so that it alone gets the signal and can start the steps of a run's roles.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError, ScalingError
from sweeps.cluster import ClusterConfig
from sweeps.config import RunConfig
from sweeps.files import read_json
from sweeps.launching.attempt import SlurmAttempt
from sweeps.launching.jobs import Job, Notes
from sweeps.launching.local import last_words, last_words_of

__all__ = ["SlurmError", "accounting", "cancel", "check", "refresh", "start"]

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
AT_WORK = {"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}
QUIET = {"", "None", "Priority"}  # a reason to wait that nobody has to act on
TIMEOUT = 120  # seconds that a Slurm command may take


class SlurmError(ScalingError):
    """A Slurm command failed; the message is its own."""


def check(configs: Sequence[RunConfig]) -> None:
    """Refuse what Slurm would refuse, before anything is submitted.

    Raises:
        ConfigError: no Slurm here, no such partition, more GPUs than a node has, or what ``sbatch --test-only`` says.
    """
    if not shutil.which("sbatch"):
        raise ConfigError(
            "cluster.engine: slurm needs sbatch on this machine, it is not on PATH: launch from a login node, or use cluster=local"
        )
    errors = []
    for cluster in _distinct(configs):
        try:
            _check_one(cluster)
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))


def start(notes: Notes, jobs: Sequence[Job], configs: Mapping[str, RunConfig]) -> list[Job]:
    """Submit jobs: an array for each distinct set of cluster settings; returns them with their numbers, noted."""
    import submitit

    folder = notes.folder / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    submitted: list[Job] = []
    for cluster in _distinct([configs[j.run_id] for j in jobs]):
        part = [j for j in jobs if configs[j.run_id].cluster == cluster]
        slurm = cluster.slurm
        executor = submitit.SlurmExecutor(
            folder=str(folder), max_num_timeout=slurm.max_attempts, python="exec " + shlex.quote(sys.executable)
        )
        executor.update_parameters(
            job_name=f"rl-{notes.sweep_dir.name}", time=slurm.time_minutes, nodes=1, ntasks_per_node=1, stderr_to_stdout=True, use_srun=False,
            array_parallelism=slurm.at_once, setup=_setup(part[0], slurm.setup), additional_parameters=_options(cluster),
        )  # fmt: skip
        work = [
            SlurmAttempt(config=j.config, end=str(_end_path(notes, j.run_id).resolve()), grace_seconds=slurm.grace_seconds, max_attempts=slurm.max_attempts)
            for j in part
        ]  # fmt: skip
        for j in part:
            _end_path(notes, j.run_id).unlink(missing_ok=True)
        try:
            with executor.batch():
                handles = [executor.submit(attempt) for attempt in work]
        except Exception as error:  # submitit raises its own and CalledProcessError alike; the text is Slurm's
            raise SlurmError(f"sbatch refused: {_last_line(str(error))}") from error
        for j, handle in zip(part, handles):
            job = j.but(
                job_id=handle.job_id, job_ids=(*j.job_ids, handle.job_id), attempt=j.attempt + 1, log=str(folder.resolve() / f"{handle.job_id}_0_log.out"),
                submitted=time.time(),
            )  # fmt: skip
            notes.write(job)
            submitted.append(job)
    return submitted


def refresh(notes: Notes, jobs: Sequence[Job]) -> list[Job]:
    """The jobs as they are now, by squeue, by what the attempt left behind, by sacct where there is one.

    Raises:
        SlurmError: the controller does not answer.
    """
    active = [j for j in jobs if j.active and j.job_id]
    if not active:
        return list(jobs)
    waiting = queue()
    states = {name: state for name, (state, _) in waiting.items()}
    gone = [j for j in active if states.get(str(j.job_id), "") not in WAITING | AT_WORK]
    unknown = [str(j.job_id) for j in gone if str(j.job_id) not in states and _end(notes, j) is None]
    states |= _sacct_states(unknown) if unknown else {}
    out = []
    for job in jobs:
        if job not in active:
            out.append(job)
            continue
        state = states.get(str(job.job_id), "GONE")
        if state in WAITING:
            reason = waiting[str(job.job_id)][1]
            job = job.but(state="queued", cause=None if reason in QUIET else f"Slurm says {reason}")
        elif state in AT_WORK:
            job = job.but(state="running", cause=None)
        else:
            job = _ended(notes, job, state)
            notes.write(job)
        out.append(job)
    return out


def cancel(notes: Notes, jobs: Sequence[Job]) -> None:
    """``scancel``: running jobs get SIGTERM and Slurm's KillWait to save."""
    ids = [str(j.job_id) for j in jobs if j.job_id and j.active]
    if ids:
        _run(["scancel", *ids])
        for job in jobs:
            notes.write(job.but(state="cancelled", ended=time.time()))


def signal_batch(job_id: str, name: str) -> None:
    """Signal the batch step of a job, as Slurm does before a time limit."""
    _run(["scancel", "--batch", f"--signal={name}", job_id])


def queue() -> dict[str, tuple[str, str]]:
    """State of this user's jobs that the controller still knows and what they wait for, array elements by ``array_task``."""
    shown = _run(["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r"])
    rows = [line.split("|", 2) for line in shown.splitlines() if line.count("|") >= 2]
    return {name: (state, reason) for name, state, reason in rows}


def accounting(job_ids: Sequence[str]) -> list[dict[str, Any]] | None:
    """Every attempt of the jobs by ``sacct -D`` (requeued ones included); None where the cluster keeps no accounts.

    Returns:
        ``job_id``, ``state``, ``seconds`` [s], ``devices`` (GPUs, or CPUs where no GPU was allocated) [1], ``gpus`` [1].
    """
    if not shutil.which("sacct") or not job_ids:
        return None
    try:
        shown = _run(
            ["sacct", "-D", "-X", "-P", "-n", "-o", "JobID,State,ElapsedRaw,AllocTRES", "-j", ",".join(job_ids)]
        )
    except SlurmError:
        return None
    rows = []
    for line in shown.splitlines():
        name, state, seconds, tres = line.split("|")
        parts = dict(p.split("=", 1) for p in tres.split(",") if "=" in p)
        rows.append(
            {
                "job_id": name,
                "state": state.split()[0],
                "seconds": int(seconds or 0),
                "gpus": int(parts.get("gres/gpu", 0)),
                "cpus": int(parts.get("cpu", 0)),
            }
        )
    return rows


def _check_one(cluster: ClusterConfig) -> None:
    shown = _run(["sinfo", "--noheader", "--format=%R|%G|%m|%D"])
    rows = [fields for line in shown.splitlines() if len(fields := line.strip().split("|")) == 4]
    slurm = cluster.slurm
    partitions = sorted({r[0] for r in rows})
    for name in (slurm.partition or "").split(","):
        if name and name not in partitions:
            raise ConfigError(f"cluster.slurm.partition: must be one of {', '.join(partitions)}, got {name!r}")
    names = (slurm.partition or "").split(",")
    mine = [r for r in rows if not slurm.partition or r[0] in names]
    where = f"partition {slurm.partition}" if slurm.partition else "this cluster"
    gpus = max((_gpus(r[1]) for r in mine), default=0)
    if cluster.gpus_per_node > gpus:
        raise ConfigError(
            f"cluster.gpus_per_node: must be at most {gpus}, the GPUs of a node of {where}, got {cluster.gpus_per_node}"
        )
    memory = max((int(r[2].rstrip("+")) for r in mine), default=0) // 1024
    if slurm.memory_gb is not None and 0 < memory < slurm.memory_gb:  # 0: the site does not state it
        raise ConfigError(
            f"cluster.slurm.memory_gb: must be at most {memory}, the memory of a node of {where}, got {slurm.memory_gb}"
        )
    nodes = max((sum(int(r[3]) for r in mine if r[0] == name) for name in {r[0] for r in mine}), default=0)
    if cluster.nodes > nodes:
        raise ConfigError(f"cluster.nodes: must be at most {nodes}, the nodes of {where}, got {cluster.nodes}")
    flags = [f"--{k}" if v is True else f"--{k}={v}" for k, v in _options(cluster).items() if v is not False]
    tried = subprocess.run(
        ["sbatch", "--test-only", f"--time={slurm.time_minutes}", "--ntasks-per-node=1", *flags, "--wrap=true"], capture_output=True, text=True, timeout=TIMEOUT
    )  # fmt: skip
    if tried.returncode:
        raise ConfigError(
            f"cluster.slurm: sbatch says: {_last_line(tried.stderr)}; correct partition, account, qos, constraint, reservation or sbatch"
        )


def _options(cluster: ClusterConfig) -> dict[str, Any]:
    """Options of sbatch."""
    slurm = cluster.slurm
    named = {k: getattr(slurm, k) for k in ("partition", "account", "qos", "constraint", "reservation", "exclude")}
    out: dict[str, Any] = {k: v for k, v in named.items() if v is not None}
    out |= {
        "nodes": cluster.nodes,
        "cpus-per-task": slurm.cpus_per_gpu * max(1, cluster.gpus_per_node),
        "requeue": True,
        "open-mode": "append",
    }
    out["signal"] = f"B:USR2@{slurm.grace_seconds}"
    if cluster.gpus_per_node:
        out["gpus-per-node"] = cluster.gpus_per_node
    if slurm.memory_gb is not None:
        out["mem"] = f"{slurm.memory_gb}G"
    return out | slurm.sbatch


def _setup(job: Job, lines: Sequence[str]) -> list[str]:
    """Shell lines before the run: the code snapshot first, then the user's own."""
    return [f"export {k}={shlex.quote(v)}" for k, v in job.environment().items()] + [
        f"cd {shlex.quote(os.getcwd())}",
        *lines,
    ]


def _ended(notes: Notes, job: Job, state: str) -> Job:
    end = _end(notes, job)
    if end is not None:
        code, cause = int(end["returncode"]), end["cause"]
        if code and not cause:
            cause = _cause(Path(job.log))
        return job.but(state="ended", returncode=code, cause=cause, ended=end["time"])
    if state == "COMPLETED":
        return job.but(state="ended", returncode=0, ended=time.time())
    said = (
        "left the queue without a word: cancelled, or its node was lost" if state == "GONE" else f"Slurm says {state}"
    )
    words = last_words(Path(job.log))
    if state.startswith("CANCELLED"):
        return job.but(state="cancelled", cause=said, ended=time.time())
    return job.but(
        state="ended", returncode=1, cause=said + (f"; last line: {words}" if words else ""), ended=time.time()
    )


def _cause(log: Path) -> str:
    """The worker's last words: before submitit's own account of the failure, which follows them."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return "no log"
    return (
        last_words_of(text.rpartition("\nsubmitit ERROR")[0].partition("\nsubmitit ERROR")[0] or text)
        or "no word in the log"
    )


def _end_path(notes: Notes, run_id: str) -> Path:
    return notes.folder / "ends" / f"{run_id}.json"


def _end(notes: Notes, job: Job) -> dict[str, Any] | None:
    body = read_json(_end_path(notes, job.run_id))
    return body if body.get("job_id") == job.job_id else None


def _sacct_states(ids: Sequence[str]) -> dict[str, str]:
    rows = accounting(ids)
    return {row["job_id"]: row["state"] for row in rows or []}


def _distinct(configs: Sequence[RunConfig]) -> list[ClusterConfig]:
    out: list[ClusterConfig] = []
    for config in configs:
        if config.cluster not in out:
            out.append(config.cluster)
    return out


def _gpus(gres: str) -> int:
    """GPUs of a node from sinfo's ``gpu:a100:8(S:0-1),...``."""
    count = 0
    for part in gres.split(","):
        fields = part.split("(")[0].split(":")
        if fields[0] == "gpu":
            count += int(fields[-1]) if fields[-1].isdigit() else 1
    return count


def _run(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{argv[0]} failed: {error}") from error
    if done.returncode:
        raise SlurmError(f"{argv[0]} failed: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Try ")]
    return lines[-1] if lines else "no reason given"
