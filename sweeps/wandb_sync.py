"""Bring the W&B server up to date from the records, without duplicates: after an outage, or for offline runs.

The records are the truth, so what is missing on the server is found by comparing the two (`sweeps.wandb_rows`). Only
what is missing is sent; then the server is read again to see that it arrived. Works from any machine that sees the run
directories, a login node included.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling import records
from scaling.errors import ConfigError, ScalingError
from scaling.runs import find_runs
from sweeps.files import read_json
from sweeps.tracking import blank_secrets, credentials
from sweeps.wandb_mirror import MIRROR, define_axes, wandb_settings
from sweeps.wandb_rows import Part, Row, lacking_rows, parts_of, record_rows

__all__ = ["SyncResult", "Target", "follow_runs", "mirror_place", "sync_runs"]

LIVE_SECONDS = 600.0  # a run that wrote a step this recently and mirrors online by itself is left alone
SETTLE = (0.0, 1.0, 3.0, 8.0)  # [s] waits before each look whether the rows sent have arrived
RETRY = 20.0  # [s] after a server that did not answer was asked
UNREADABLE = "unreadable"
SELF = "mirrors itself online right now, so its mirror is left alone (--force overrides)"


@dataclass(frozen=True)
class Target:
    """Where a run's mirror is on the server."""

    project: str
    entity: str | None
    run_id: str


@dataclass(frozen=True)
class SyncResult:
    """What one run's sync came to; rows are counted as the records count them: one a step.

    Attributes:
        path: the run directory.
        target: its place on the server.
        rows: rows in the records [1].
        present: of these, complete on the server before [1].
        sent: rows sent now [1].
        missing: still not on the server afterwards [1].
        note: why nothing was done, or what failed; empty where all went well.
        url: the run's page.
    """

    path: Path
    target: Target | None = None
    rows: int = 0
    present: int = 0
    sent: int = 0
    missing: int = 0
    note: str = ""
    url: str = ""

    @property
    def complete(self) -> bool:
        """Whether the server has all that the records have, or the run sees to it itself."""
        return self.note == SELF or (not self.note and self.missing == 0)


def sync_runs(
    paths: Iterable[Path],
    *,
    project: str | None = None,
    entity: str | None = None,
    timeout: float = 300.0,
    force: bool = False,
    progress: Callable[[list[Path]], Iterable[Path]] = iter,
) -> list[SyncResult]:
    """Send what the server lacks of each run; one run's failure does not stop the others.

    Args:
        paths: run directories or folders of them.
        project: project on the server; by default where the run itself mirrors.
        entity: user or team; by default where the run itself mirrors.
        timeout: upload time granted to one run [s].
        force: also send for a run that is mirroring itself online right now (its rows may then appear twice).
        progress: wraps the list of runs, for a progress bar.

    Raises:
        ConfigError: there are no credentials for the server.
        RecordError: no run directory is found.
    """
    with _Session(project=project, entity=entity, timeout=timeout, force=force) as session:
        return [session.sync(path, verify=True) for path in progress(_found(paths))]


def follow_runs(
    paths: Sequence[Path],
    *,
    report: Callable[[SyncResult], None],
    interval: float = 30.0,
    max_hours: float = 168.0,
    sleep: Callable[[float], None] = time.sleep,
    **how: Any,
) -> list[SyncResult]:
    """`sync_runs` again and again, new run directories included, until every run has ended and is complete.

    A run is on the server as *running* until its records say how it ended.

    Args:
        paths: run directories or folders of them.
        report: called with every result that sent something, failed or completed a run.
        interval: wait between two looks [s].
        max_hours: stop after this long in any case [h].
        sleep: how to wait.
        **how: ``project``, ``entity``, ``timeout`` and ``force`` of `sync_runs`.
    """
    last: dict[Path, tuple[object, SyncResult]] = {}
    deadline = time.monotonic() + max_hours * 3600
    with _Session(**how) as session:
        while True:
            open_runs = 0
            for path in _found(paths):
                version, status = _version(path), _status(path)
                before = last.get(path)
                if before is None or before[0] != version or not before[1].complete:
                    result = session.sync(path, verify=status != "running")
                    if before is None or result.sent or result.note != before[1].note:
                        report(result)
                    last[path] = (version, result)
                open_runs += status == "running" or (status != UNREADABLE and not last[path][1].complete)
            if not open_runs or time.monotonic() + interval > deadline:
                return [result for _, result in last.values()]
            sleep(interval)


class _Session:
    """What the runs of one command share: the client, and what it has sent (a server may show new rows late)."""

    def __init__(
        self, *, project: str | None = None, entity: str | None = None, timeout: float = 300.0, force: bool = False
    ) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError("wandb sync needs the package wandb: pip install 'rl-scaling[wandb]'")
        if credentials() is None:
            raise ConfigError("wandb sync needs credentials: set WANDB_API_KEY or run 'wandb login', then repeat")
        self.project, self.entity, self.timeout, self.force = project, entity, timeout, force
        self.sent: dict[Target, set[Part]] = {}
        self._client: Any = None
        self._retry_after, self._refusal = 0.0, ""

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *exc: object) -> None:
        import wandb

        wandb.teardown()

    def sync(self, path: Path, *, verify: bool) -> SyncResult:
        result = SyncResult(path)
        try:
            record, rows = records.read_run(path), record_rows(path)
            target = self._target(path, record)
            result = replace(result, target=target, rows=len(rows))
            if not self.force and _mirrors_itself(path, record):
                return replace(result, note=SELF)
            server = self._look(target)
            present = server.parts | self.sent.get(target, set())
            lacking = lacking_rows(rows, present)
            result = replace(result, present=len(rows) - len(lacking), missing=len(lacking), url=server.url)
            if lacking or (record.status != "running" and server.state not in ("finished", "failed")):
                url = _send(path, record, target, lacking, rows, timeout=self.timeout, new=server.state is None)
                self.sent[target] = present | {part for row in lacking for part in parts_of(row)}
                result = replace(result, sent=len(lacking), missing=0, url=url)
                if verify:
                    result = replace(result, missing=self._wait_for(target, rows, len(lacking)))
        except ScalingError as error:
            result = replace(result, note=str(error))
        except Exception as error:  # of the client or of the server: reported, and the next run is tried
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            result = replace(result, note=str(blank_secrets(text)))
            self._reset()
        return result

    def _target(self, path: Path, record: records.RunRecord) -> Target:
        project, entity = mirror_place(path)
        entity = self.entity or entity or self._api().default_entity
        return Target(project=self.project or project, entity=entity, run_id=record.run_id)

    def _api(self) -> Any:
        if self._client is None:
            import wandb

            if time.monotonic() < self._retry_after:
                raise ScalingError(self._refusal)
            wandb.setup(settings=wandb_settings())
            try:
                self._client = wandb.Api(timeout=30)
            except Exception as error:  # no server, or it does not accept the key: the same for all runs of this look
                text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                self._refusal = f"W&B does not answer or refuses the credentials: {blank_secrets(text)}"
                self._retry_after = time.monotonic() + RETRY
                raise ScalingError(self._refusal) from error
        return self._client

    def _look(self, target: Target) -> _OnServer:
        """What the server has of a run.

        Raises:
            ScalingError: it hands out fewer rows than it says it has; sending then would make duplicates.
        """
        where = f"{target.entity}/{target.project}"
        try:
            found = list(self._api().runs(where, filters={"name": target.run_id}, lazy=False))
        except ValueError as error:
            if "Could not find project" not in str(error):
                raise
            found = []
        if not found:
            return _OnServer(None, "", set())
        run = found[0]
        parts, last = set(), -1
        for row in run.scan_history(page_size=2000, use_cache=False):
            parts |= parts_of(row)
            last = max(last, int(row.get("_step", -1)))
        expected = max(int(run.lastHistoryStep), int(run.summary.get("_step", -1)))
        if last < expected and not self.force:
            raise ScalingError(
                f"the server has rows of run {target.run_id} up to its row {expected} but hands out those up to {last} "
                "only: sync again in a minute (--force sends what it does not show, at the risk of duplicates)"
            )
        return _OnServer(run.state, run.url, parts)

    def _wait_for(self, target: Target, rows: Sequence[Row], sent: int) -> int:
        missing = sent
        for wait in SETTLE:
            time.sleep(wait)
            try:
                missing = len(lacking_rows(rows, self._look(target).parts))
            except ScalingError:  # not all shown yet
                continue
            if not missing:
                break
        return missing

    def _reset(self) -> None:
        """Stop what a failed upload may still be doing, so that what the server has does not change behind our back."""
        import wandb

        self._client = None
        try:
            wandb.teardown()
        except (Exception, SystemExit):  # the upload has failed already, and was reported
            pass


@dataclass(frozen=True)
class _OnServer:
    state: str | None  # None: no such run
    url: str
    parts: set[Part]


def _found(paths: Iterable[Path]) -> list[Path]:
    return [run for path in paths for run in find_runs(Path(path))]


def _send(
    path: Path, record: records.RunRecord, target: Target, lacking: Sequence[Row], rows: Sequence[Row],
    *, timeout: float, new: bool,
) -> str:  # fmt: skip
    import wandb

    ended = record.status != "running"
    identity: dict[str, Any] = {}
    if new:  # an existing run may have been renamed or tagged by hand
        mirror = _mirror(path)
        model = record.model.get("name", "")
        identity = {
            "name": mirror.get("name") or record.name or path.name,
            "group": mirror.get("group") or f"{record.recipe_hash}-{model}",
            "tags": mirror.get("tags") or ([model] if model else []),
            "config": {**record.config, **_facts(record)},
        }
    with tempfile.TemporaryDirectory(prefix="rl-scaling-sync-") as folder:  # the run directory may be read-only
        run = wandb.init(
            project=target.project,
            entity=target.entity,
            id=target.run_id,
            job_type="rl",
            **blank_secrets(identity),
            mode="online",
            resume="allow",
            reinit="create_new",
            dir=folder,
            settings=wandb_settings(finish_timeout=timeout, x_update_finish_state=ended, x_disable_stats=True),
        )
        try:
            define_axes(run)
            for row in lacking:
                run.log(row)
            newest: Row = {}
            for row in rows:
                newest |= row
            run.summary.update(newest)  # rows that fill a gap must not become the newest values
        finally:
            run.finish(exit_code=1 if record.status == "failed" else 0)
    return str(run.url)


def _facts(record: records.RunRecord) -> dict[str, Any]:
    pretraining = record.pretraining() or {}
    return {
        "params": record.model.get("params"), "recipe_hash": record.recipe_hash, "base_hash": record.base_hash,
        "pretraining_flops": pretraining.get("flops"),
    }  # fmt: skip


def mirror_place(path: Path) -> tuple[str, str | None]:
    """Project and entity that a run mirrors to, or would by its configuration; the entity may be None: the account's."""
    mirror, tracking = _mirror(path), records.read_run(path).config.get("tracking") or {}
    project = mirror.get("project") or tracking.get("project") or "rl-scaling"
    return str(project), mirror.get("entity") or tracking.get("entity")


def _mirror(path: Path) -> dict[str, Any]:
    return read_json(path / MIRROR)


def _mirrors_itself(path: Path, record: records.RunRecord) -> bool:
    steps = path / records.STEPS
    fresh = steps.is_file() and time.time() - steps.stat().st_mtime < LIVE_SECONDS
    return record.status == "running" and _mirror(path).get("mode") == "online" and fresh


def _status(path: Path) -> str:
    try:
        return records.read_run(path).status
    except ScalingError:
        return UNREADABLE


def _version(path: Path) -> object:
    files = (path / name for name in (records.RUN, records.STEPS, records.EVALS))
    return tuple((f.stat().st_size, f.stat().st_mtime_ns) if f.is_file() else None for f in files)
