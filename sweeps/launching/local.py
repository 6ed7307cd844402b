"""The local engine: worker processes on this machine, a device each, under a supervisor that outlives its shell.

``python -m sweeps.launching.local SWEEP_DIR`` is that supervisor. It takes queued jobs in order as devices become free.
A device is a lock file shared by all sweeps of this user on this machine; the worker inherits the lock, so that a device
stays taken exactly as long as the process that uses it, whatever becomes of the supervisor.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scaling.errors import ConfigError
from scaling.records import RUN
from sweeps.cluster import ClusterConfig
from sweeps.files import read_json, write_json
from sweeps.launching.jobs import Job, Notes, is_locked, process_start, read_config
from sweeps.launching.layout import lay_out
from sweeps.launching.status import DONE
from sweeps.worker import INTERRUPTED

__all__ = ["Slots", "cancel", "refresh", "start", "visible_gpus"]

POLL = 0.2
START_SECONDS = 60.0  # a supervisor needs about one
EXCEPTION = re.compile(r"(\[\w+\]:\s*)?[\w.]*(Error|Exception|Interrupt|Timeout|Missing|UnknownName): \S")
LOST_PEER = re.compile(r"Connection (closed|reset) by peer|remote process exited|NCCL communicator was aborted")
KILLED_RANK = re.compile(r"Signal \d+ \((SIG(?!TERM)\w+)\) received by PID")
LOCKS = "RL_SCALING_DEVICE_LOCKS"


class Slots:
    """The devices of this machine that a sweep may use.

    Attributes:
        names: one lock name a slot; several slots may share a GPU where more workers than GPUs are asked for.
        per_run: devices a run needs [1].
    """

    def __init__(self, names: Sequence[str], per_run: int) -> None:
        self.names, self.per_run = tuple(names), per_run

    @classmethod
    def of(cls, cluster: ClusterConfig, gpus: Sequence[str] | None = None) -> Slots:
        """Slots for runs with these settings.

        Raises:
            ConfigError: a run needs more GPUs than there are.
        """
        gpus = list(visible_gpus() if gpus is None else gpus)
        if cluster.accelerator == "cpu" or not gpus:
            if cluster.gpus_per_node:
                raise ConfigError(
                    f"cluster.gpus_per_node: must be 0 on a machine without GPUs, got {cluster.gpus_per_node}: use cluster=slurm"
                )
            cores = len(os.sched_getaffinity(0))
            workers = cluster.workers or max(1, cores // cluster.threads)
            return cls([f"cpu-{i}" for i in range(workers)], 1)
        if cluster.devices > len(gpus):
            raise ConfigError(
                f"cluster.devices: must be at most the {len(gpus)} GPUs of this machine, got {cluster.devices}"
            )
        at_once = len(gpus) // cluster.devices
        workers = cluster.workers or at_once
        layers = max(1, -(-workers // at_once))  # runs on one GPU at a time
        names = [f"gpu-{gpu}" + (f".{layer}" if layer else "") for layer in range(layers) for gpu in gpus]
        return cls(names[: workers * cluster.devices], cluster.devices)

    @property
    def workers(self) -> int:
        """Runs at a time."""
        return len(self.names) // self.per_run

    def shared(self, runs: int) -> bool:
        """Whether ``runs`` runs would share a device: several on one CPU or one GPU."""
        devices = {name.partition(".")[0] for name in self.names} if not self.names[0].startswith("cpu-") else {"cpu"}
        return min(runs, self.workers) * self.per_run > len(devices)

    def take(self) -> list[tuple[str, int]] | None:
        """Lock the devices of one run: ``(name, file descriptor)`` each; None where too few are free."""
        taken: list[tuple[str, int]] = []
        folder = Path(os.environ.get(LOCKS) or Path(tempfile.gettempdir()) / f"rl-scaling-{os.getuid()}")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in self.names:
            fd = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            taken.append((name, fd))
            if len(taken) == self.per_run:
                return taken
        for _, fd in taken:
            os.close(fd)
        return None


def visible_gpus() -> list[str]:
    """Indices of the GPUs that this process may use; ``CUDA_VISIBLE_DEVICES`` decides where it is set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part for part in chosen.split(",") if part and part != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return found.stdout.split() if found.returncode == 0 else []


def start(notes: Notes, jobs: Sequence[Job], slots: Slots) -> None:
    """Queue jobs and make sure that a supervisor is alive to run them; the caller holds the notes."""
    for job in jobs:
        notes.write(job)
    write_json(notes.folder / "local.json", {"slots": slots.names, "per_run": slots.per_run})
    ensure(notes)


def ensure(notes: Notes) -> None:
    """Start a supervisor if none is alive; the caller holds the notes.

    One that is alive looks for new jobs before it leaves, and leaves only while it holds the notes: none is missed.
    """
    if is_locked(notes.folder / "supervisor.lock") or not (notes.folder / "local.json").is_file():
        return
    with (notes.folder / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "sweeps.launching.local", str(notes.sweep_dir.resolve())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def refresh(notes: Notes, jobs: Sequence[Job]) -> list[Job]:
    """The jobs as they are now: without a supervisor, nothing is queued and a process that vanished has ended."""
    if is_locked(notes.folder / "supervisor.lock"):
        return list(jobs)
    out = []
    for job in jobs:
        if job.state == "running" and not job.alive:
            job = _vanished(notes, job)
        elif job.state == "queued" and time.time() - job.submitted > START_SECONDS:
            job = job.but(
                state="ended", returncode=1, cause=f"no supervisor took it: see {notes.folder / 'supervisor.log'}"
            )
        out.append(job)
    return out


def cancel(notes: Notes, jobs: Sequence[Job]) -> None:
    """Take queued jobs back and ask running ones to save and stop; the caller holds the notes."""
    for job in jobs:
        if job.pid is not None and job.state == "running" and job.alive:
            os.kill(job.pid, signal.SIGTERM)
        notes.write(job.but(state="cancelled", ended=time.time()))


def supervise(sweep_dir: Path) -> None:
    """Run queued jobs until none is left."""
    notes = Notes(sweep_dir)
    with (notes.folder / "supervisor.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another one is at work and will find the new jobs
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        children: dict[str, subprocess.Popen[bytes]] = {}
        while _turn(notes, children):
            time.sleep(POLL)


def _turn(notes: Notes, children: dict[str, subprocess.Popen[bytes]]) -> bool:
    """Note what ended, start what fits; False when nothing is left (decided under the lock, so no new job is missed)."""
    with notes.changing():
        jobs = notes.jobs()
        for run_id, job in jobs.items():
            child = children.get(run_id)
            if child is not None and child.poll() is not None:
                del children[run_id]
                jobs[run_id] = _ended(job, child.returncode)
                notes.write(jobs[run_id])
            elif child is None and job.engine == "local" and job.state == "running" and not job.alive:
                jobs[run_id] = _vanished(notes, job)
                notes.write(jobs[run_id])
        queued = sorted(
            (j for j in jobs.values() if j.engine == "local" and j.state == "queued"), key=lambda j: j.submitted
        )
        slots = _slots(notes)
        for job in queued:
            taken = slots.take()
            if taken is None:
                if not children and job.cause is None:
                    notes.write(job.but(cause="waiting for a device: all are in use by other runs of this user"))
                break
            children[job.run_id], jobs[job.run_id] = _spawn(notes, job, taken)
            notes.write(jobs[job.run_id])
        busy = any(j.engine == "local" and j.active for j in jobs.values()) or bool(children)
        return busy


def _vanished(notes: Notes, job: Job) -> Job:
    """The end of a process that outlived the supervisor which could have read its exit code: its records say how."""
    code = 0 if read_json(notes.sweep_dir / job.run_id / RUN).get("status") in (*DONE, "interrupted") else 1
    words = last_words(Path(job.log))
    return job.but(
        state="ended",
        ended=time.time(),
        returncode=code,
        cause=f"its process vanished; last line: {words or 'none'}" if code else None,
    )


def _slots(notes: Notes) -> Slots:
    body = json.loads((notes.folder / "local.json").read_text(encoding="utf-8"))
    return Slots(body["slots"], body["per_run"])


def _spawn(notes: Notes, job: Job, taken: list[tuple[str, int]]) -> tuple[subprocess.Popen[bytes], Job]:
    attempt = job.attempt + 1
    log = notes.log_path(job.run_id, attempt)
    log.parent.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ)
    if taken[0][0].startswith("gpu-"):
        env["CUDA_VISIBLE_DEVICES"] = ",".join(name[4:].partition(".")[0] for name, _ in taken)
    env |= job.environment()
    module = "sweeps.worker" if _plain(job) else "sweeps.launching.roles"
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", module, job.config], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, env=env, pass_fds=[fd for _, fd in taken],
        )  # fmt: skip
    for _, fd in taken:
        os.close(fd)
    started = job.but(
        state="running", attempt=attempt, log=str(log), pid=child.pid, pid_start=process_start(child.pid), host=os.uname().nodename,
        devices=tuple(name for name, _ in taken), started=time.time(), ended=None, returncode=None, cause=None,
    )  # fmt: skip
    return child, started


def _plain(job: Job) -> bool:
    """Whether a run is one process."""
    return lay_out(read_config(Path(job.config))).plain


def _ended(job: Job, returncode: int) -> Job:
    state = "cancelled" if job.state == "cancelled" else "ended"
    cause = None if returncode in (0, INTERRUPTED) else explain(returncode, Path(job.log))
    return job.but(state=state, ended=time.time(), returncode=returncode, cause=cause)


def explain(returncode: int, log: Path) -> str:
    """One line on why a worker ended: its last words, and the signal if there was one."""
    last = last_words(log)
    if returncode < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-returncode).name
            hint = " (the kernel kills processes that use up the memory)" if name == "SIGKILL" else ""
            return f"killed by {name}{hint}" + (f"; last line: {last}" if last else "")
    return last or f"exit code {returncode} without a word"


def last_words(log: Path) -> str:
    """`last_words_of` the end of a file; empty where there is none."""
    try:
        with log.open("rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 65536))
            return last_words_of(f.read().decode("utf-8", "replace"))
    except FileNotFoundError:
        return ""


def last_words_of(text: str) -> str:
    """The line of a log that says why it ended: the last exception with a message, else the last line with a word.

    Of several ranks the one that failed counts, neither those that lost their peer by it nor the agents that end them.
    """
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if re.search(r"\w", line)]
    recent = lines[-600:]  # every rank and every agent adds a traceback
    raised = [line for line in recent if EXCEPTION.match(line) and not line.startswith("torch.distributed.elastic")]
    causes = [line for line in raised if not LOST_PEER.search(line)]
    if not causes and (killed := [m for line in recent if (m := KILLED_RANK.search(line))]):
        return f"a rank was killed by {killed[0].group(1)} (the kernel kills processes that use up the memory)"
    found = causes or raised or lines
    return re.sub(r"^\[\w+\]:\s*", "", found[-1])[:300] if found else ""


def main() -> None:
    """Entry point of the supervisor."""
    parser = argparse.ArgumentParser(
        prog="python -m sweeps.launching.local", description="Run the queued jobs of a sweep."
    )
    parser.add_argument("sweep_dir", type=Path)
    supervise(parser.parse_args().sweep_dir)


if __name__ == "__main__":
    main()
