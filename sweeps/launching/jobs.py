"""The launcher's own notes: one small JSON file a run under ``<sweep>/.launch``, replaced atomically.

    SWEEP/manifest.json, manifest.csv     what was planned
    SWEEP/.launch/configs/<run_id>.json   resolved configuration, as the worker reads it
    SWEEP/.launch/jobs/<run_id>.json      where the run was sent and what became of the process
    SWEEP/.launch/logs/<run_id>.<n>.log   output of attempt n
    SWEEP/.launch/code/<hash>/            code snapshots

The records in the run directory are the truth about a run; a job file only says who was asked to work on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import RecordError
from sweeps.files import write_json

if TYPE_CHECKING:
    from sweeps.config import RunConfig

__all__ = ["Job", "Notes", "is_locked", "process_start", "read_config"]

ACTIVE = ("queued", "running")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was asked of an engine for one run.

    Attributes:
        run_id: which run.
        label: for people.
        engine: local, slurm or ray.
        state: queued, running, ended or cancelled.
        config: path of the resolved configuration.
        log: path of the current attempt's log.
        attempt: from 1.
        job_id: of the scheduler, e.g. ``1234_5``.
        job_ids: of all its submissions so far.
        pid: of a local process.
        pid_start: its start time, which tells it from a later process of the same number [clock tick].
        host: where it runs or ran.
        returncode: exit code; negative for a signal.
        cause: one line on a failure.
        code: folder of the code snapshot; empty for the checkout itself.
        commit: of the code, ``+`` where it had changes.
        devices: device names given to a local process.
        submitted: [s since 1970].
        started: [s since 1970].
        ended: [s since 1970].
    """

    run_id: str
    label: str
    engine: str
    state: str
    config: str
    log: str = ""
    attempt: int = 0
    job_id: str | None = None
    job_ids: tuple[str, ...] = ()
    pid: int | None = None
    pid_start: int | None = None
    host: str | None = None
    returncode: int | None = None
    cause: str | None = None
    code: str = ""
    commit: str = ""
    devices: tuple[str, ...] = ()
    submitted: float = 0.0
    started: float | None = None
    ended: float | None = None

    @property
    def active(self) -> bool:
        """Whether an engine still has it, as far as noted."""
        return self.state in ACTIVE

    @property
    def alive(self) -> bool:
        """Whether its local process exists."""
        return self.pid is not None and process_start(self.pid) == self.pid_start

    def environment(self) -> dict[str, str]:
        """Variables of the run's processes: the snapshot before the working directory, and the commit for the records."""
        env = {k: v for k, v in os.environ.items() if k.startswith("RL_SCALING_")}
        env |= {"RL_SCALING_COMMIT": self.commit} if self.commit else {}
        if not self.code:
            return env
        parts = [self.code, *os.environ.get("PYTHONPATH", "").split(os.pathsep), os.getcwd()]
        return env | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(p for p in parts if p)), "PYTHONSAFEPATH": "1"}

    def but(self, **changes: Any) -> Job:
        """A copy with changes."""
        return replace(self, **changes)


class Notes:
    """The ``.launch`` folder of a sweep."""

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self.folder = sweep_dir / ".launch"

    def config_path(self, run_id: str) -> Path:
        """Where a run's resolved configuration lies."""
        return self.folder / "configs" / f"{run_id}.json"

    def log_path(self, run_id: str, attempt: int) -> Path:
        """Log of one attempt."""
        return self.folder / "logs" / f"{run_id}.{attempt}.log"

    def read(self, run_id: str) -> Job | None:
        """The job of a run, or None where none was ever asked for."""
        return self._read(self.folder / "jobs" / f"{run_id}.json")

    def jobs(self) -> dict[str, Job]:
        """All jobs by run id."""
        found = (self._read(path) for path in sorted((self.folder / "jobs").glob("*.json")))
        return {job.run_id: job for job in found if job is not None}

    def write(self, job: Job) -> None:
        """Replace a job's file."""
        write_json(self.folder / "jobs" / f"{job.run_id}.json", asdict(job))

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the sweep's notes: what is read and written inside is one change, whoever else launches or cancels."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "notes.lock").open("ab") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield

    def _read(self, path: Path) -> Job | None:
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RecordError(f"{path} must be JSON: {error}; remove it, the run's records are elsewhere") from error
        known = {f.name for f in fields(Job)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items() if k in known}
        return Job(**values)


def read_config(path: Path) -> RunConfig:
    """The configuration in a worker's file; what an evaluation adds to it is left out."""
    from sweeps.config import RunConfig

    body = json.loads(path.read_text(encoding="utf-8"))
    body.pop("evaluate", None)
    return RunConfig.model_validate_json(json.dumps(body))


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock file ``path``; a file that is missing is not held."""
    try:
        with path.open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two lookers do not see each other
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def process_start(pid: int) -> int | None:
    """Start time of a living process [clock tick since boot]; None where there is none, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])
