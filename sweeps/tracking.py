"""The W&B mirror of one run: everything it shows is in the records already, so losing it costs the run nothing.

All calls into wandb happen in one worker thread behind a bounded queue: a slow, dead or lying server, a killed
``wandb-core`` or a full disk can neither raise into the training loop nor hold it up. What could not be mirrored is
counted, reported once, and brought to the server later from the records by ``rl-scaling wandb sync``.

Layout on the server: every metric is drawn against ``gpu_hours`` (one ``*`` definition), with ``total_flops`` and
``pretraining_flops_ratio`` in the same rows as other axes; ``train/<metric>``, ``eval/<benchmark>/<metric>``,
``compute/<quantity>``.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import netrc
import os
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scaling.errors import ConfigError

__all__ = ["Tracker", "WandbTracker", "open_tracker", "wandb_settings"]

MODES = ("auto", "online", "offline", "disabled")
STEP, X_AXIS = "train/global_step", "gpu_hours"
MIRROR = Path("wandb") / "mirror.json"  # in the run directory: where its mirror is

INIT_TIMEOUT = 15.0  # [s] then the mirror falls back to offline files
FINISH_TIMEOUT = 20.0  # [s] upload time granted at the end of a run; the rest waits on disk
GRACE = 10.0  # [s] beyond it before wandb-core is given up
QUEUE_ROWS = 10_000  # rows held while the server is slow to start
GIVE_UP_AFTER = 3  # consecutive failures

MAX_TABLE_ROWS, MAX_TABLES, MAX_TEXT = 32, 50, 2000  # completion samples: rows a table, tables a run, characters a cell


class Tracker:
    """A mirror that mirrors nothing (mode ``disabled``); the interface of all trackers. No method ever raises.

    Attributes:
        mode: ``online``, ``offline`` or ``disabled``: what really happens, not what was asked for.
        lost: rows that did not reach the mirror so far [1].
        failure: the first failure in words, or None.
    """

    mode: str = "disabled"
    lost: int = 0
    failure: str | None = None

    def log(self, row: Mapping[str, float]) -> None:
        """Mirror one row; it holds ``gpu_hours`` and ``train/global_step``. Returns at once."""

    def log_completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Mirror a bounded table of samples with the next row."""

    def finish(self, exit_code: int = 0) -> None:
        """End this segment of the mirror; bounded in time."""


def open_tracker(
    *,
    mode: str = "auto",
    directory: str | Path,
    run_id: str,
    project: str = "rl-scaling",
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Tracker:
    """Open the mirror of a run and say in one line where it goes and why.

    Args:
        mode: ``auto`` (``WANDB_MODE`` if set; else online where credentials exist, else offline), ``online``,
            ``offline`` or ``disabled``.
        directory: the run directory; offline files go to its ``wandb/``.
        run_id: id on the server; the same over all segments of a run.
        project: project on the server.
        entity: user or team on the server; its default where None.
        name: display name.
        group: runs of one recipe and size.
        tags: free labels.
        config: the resolved configuration; values of secret environment variables are blanked.
        resume: whether an earlier segment of this run may have been mirrored already.

    Raises:
        ConfigError: the mode is not known. Nothing else ever raises, here or in the tracker's methods.

    Example:
        >>> tracker = open_tracker(mode="disabled", directory="runs/a", run_id="a")
        W&B: disabled (tracking.mode=disabled)
        >>> tracker.log({"gpu_hours": 0.5, "train/global_step": 1, "train/reward": 0.25})
        >>> tracker.finish()
    """
    mode, reason = resolve_mode(mode)
    where = ""
    if mode == "offline":
        where = f"; browse with: wandb leet {directory}"
    elif mode == "online":
        where = f"; project {entity + '/' if entity else ''}{project}, run {run_id}"
    print(f"W&B: {mode} ({reason}){where}", flush=True)
    if mode == "disabled":
        return Tracker()
    hide = _secrets()
    identity = {
        "project": project, "entity": entity, "id": run_id, "name": _blank(name, hide), "group": _blank(group, hide),
        "tags": _blank(list(tags), hide),
    }  # fmt: skip
    return WandbTracker(
        mode=mode, directory=Path(directory), identity=identity, config=_blank(dict(config or {}), hide), resume=resume
    )


def resolve_mode(mode: str) -> tuple[str, str]:
    """What a requested mode comes to on this machine, and why.

    Raises:
        ConfigError: the mode is not one of auto, online, offline, disabled.
    """
    if mode not in MODES:
        raise ConfigError(f"tracking.mode must be one of {', '.join(MODES)}, got {mode!r}")
    reason = f"tracking.mode={mode}"
    if mode == "auto" and os.environ.get("WANDB_MODE") in MODES[1:]:
        mode, reason = os.environ["WANDB_MODE"], f"WANDB_MODE={os.environ['WANDB_MODE']}"
    if mode == "disabled":
        return mode, reason
    if importlib.util.find_spec("wandb") is None:
        return "disabled", "the package wandb is not installed: pip install 'rl-scaling[wandb]'"
    if mode == "offline":
        return mode, reason
    source = credentials()
    if source:
        return "online", f"credentials from {source}"
    hint = "no credentials: set WANDB_API_KEY or run 'wandb login' to mirror online"
    return "offline", hint if mode == "auto" else f"{reason}, but {hint}"


def credentials() -> str | None:
    """Where credentials for the W&B server come from, or None; the credentials themselves are not returned."""
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(variable):
            return variable
    return "netrc" if _netrc_key() else None


class WandbTracker(Tracker):
    """Mirror of one run, driven by one daemon thread; use `open_tracker`."""

    def __init__(
        self, *, mode: str, directory: Path, identity: Mapping[str, Any], config: Mapping[str, Any], resume: bool
    ) -> None:
        self.mode, self.lost, self.failure = mode, 0, None
        self._directory, self._identity, self._config, self._resume = directory, dict(identity), dict(config), resume
        self._queue: queue.Queue[dict[str, Any] | int] = queue.Queue(QUEUE_ROWS)  # an int ends it: the exit code
        self._samples: tuple[int, Sequence[Mapping[str, Any]]] | None = None
        self._tables, self._errors, self._last_x, self._closed = 0, 0, 0.0, False
        self._already = -1  # the last step the server has: rows redone after a restart are not sent twice
        self._thread = threading.Thread(target=self._work, name="wandb-mirror", daemon=True)
        self._thread.start()

    def log(self, row: Mapping[str, float]) -> None:
        """Queue one row; a full queue (the server has been stuck for long) counts it as lost instead of waiting."""
        if self._closed:
            return
        item: dict[str, Any] = {key: number for key, value in row.items() if (number := _number(value)) is not None}
        self._last_x = item.get(X_AXIS, self._last_x)
        if self._samples is not None:
            (step, samples), self._samples = self._samples, None
            item["completions"] = (step, samples)
        self._put(item)

    def log_completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep a table of samples for the next row: at most 32 rows, 2000 characters a cell, 50 tables a run."""
        if not self._closed and rows and self._tables < MAX_TABLES:
            self._tables += 1
            self._samples = (int(step), _table_rows(rows))

    def finish(self, exit_code: int = 0) -> None:
        """Flush and end this segment within `FINISH_TIMEOUT` plus some grace; unsent rows stay on disk."""
        if self._closed:
            return
        if self._samples is not None:
            self.log({X_AXIS: self._last_x, STEP: self._samples[0]})
        self._closed = True
        try:
            self._queue.put(int(exit_code), timeout=1.0)
        except queue.Full:
            self._fail("end", "the queue is full")
        self._thread.join(FINISH_TIMEOUT + GRACE)
        if self._thread.is_alive():
            self._fail("end", f"no answer within {FINISH_TIMEOUT + GRACE:g} s")
            _kill_core()
            self._thread.join(GRACE)
        if self.lost:
            self._say(f"{self.lost} rows were not mirrored (first reason: {self.failure})")

    # -- the worker thread: the only place that touches wandb --------------------------------------------------------

    def _work(self) -> None:
        run = self._start()
        while True:
            item = self._queue.get()
            if not isinstance(item, dict):
                break
            if run is None or self._errors >= GIVE_UP_AFTER:
                self.lost += 1
            else:
                self._send(run, item)
        self._end(run, item)

    def _start(self) -> Any:
        modes = ["online", "offline"] if self.mode == "online" else [self.mode]
        for mode in modes:
            try:
                run = self._init(mode)
            except Exception as error:  # whatever goes wrong in the mirror, training goes on
                last = mode == modes[-1]
                self._fail("start" if last else "start online, mirroring to offline files instead", error)
                self._teardown()  # the failed run would hold its id
            else:
                self.mode = mode
                return run
        return None

    def _init(self, mode: str) -> Any:
        import wandb

        self._directory.mkdir(parents=True, exist_ok=True)
        wandb.setup(settings=wandb_settings())  # before anything else: the login message heeds these settings only
        run = wandb.init(
            **self._identity,
            mode=mode,  # pyright: ignore[reportArgumentType]
            dir=self._directory,
            config=self._config,
            job_type="rl",
            resume="allow",
            reinit="create_new",
            settings=wandb_settings(),
        )
        run.define_metric(X_AXIS)
        run.define_metric("*", step_metric=X_AXIS, step_sync=False)
        if mode == "online" and self._resume:
            self._already = int(run.summary.get(STEP, -1))
        body: dict[str, Any] = {"mode": mode, **self._identity}
        if mode == "online":
            body |= {"entity": run.entity, "url": run.url}
        _replace(self._directory / MIRROR, json.dumps(body, indent=1))
        return run

    def _send(self, run: Any, item: dict[str, Any]) -> None:
        step = item.get(STEP, math.inf)
        trains = any(key.startswith("train/") and key != STEP for key in item)
        if step < self._already or (step == self._already and trains):
            return
        try:
            samples = item.pop("completions", None)
            if samples is not None:
                item["completions"] = _table(*samples)
            run.log(item)
            self._errors = 0
        except Exception as error:  # see _start
            self._errors += 1
            self.lost += 1
            self._fail("log", error)

    def _end(self, run: Any, exit_code: int) -> None:
        if run is None:
            return
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # see _start
            self._fail("end", error)
        self._teardown()
        trouble = _core_trouble(run.settings.log_internal)
        if trouble:
            self._fail("mirror all rows", trouble)

    def _teardown(self) -> None:
        import wandb

        try:
            wandb.teardown()  # waits until the files are complete, and ends wandb-core
        except (Exception, SystemExit) as error:  # it exits with wandb-core's code
            self._fail("end", error)

    def _put(self, item: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.lost += 1
            self._fail("log", f"{QUEUE_ROWS} rows are waiting already")

    def _fail(self, what: str, error: object) -> None:
        if self.failure is not None:
            return
        kind = f"{type(error).__name__}: " if isinstance(error, BaseException) else ""
        text = " ".join(f"{kind}{error}".split())[:300]
        self.failure = str(_blank(f"could not {what}: {text}", _secrets()))
        self._say(f"{self.failure}; training and its records are not affected")

    def _say(self, what: str) -> None:
        print(
            f"W&B mirror: {what}; to bring the server up to date later: rl-scaling wandb sync {self._directory}",
            file=sys.stderr,
            flush=True,
        )


def wandb_settings(**changes: Any) -> Any:
    """Settings of every wandb session of this project: quiet, bounded in time, no console capture, no code upload."""
    import wandb

    # On a full disk every line of wandb's debug.log would be a traceback on stderr; wandb-core keeps its own log.
    logging.getLogger("wandb").setLevel(logging.CRITICAL)
    base = {
        "init_timeout": INIT_TIMEOUT, "finish_timeout": FINISH_TIMEOUT, "finish_timeout_raises": True, "console": "off",
        "silent": True, "disable_code": True, "disable_job_creation": True, "save_code": False,
        "x_save_requirements": False,
        "x_transaction_log_flush_interval": 1.0,  # [s] a kill -9 loses one second of offline rows, not fifteen
    }  # fmt: skip
    return wandb.Settings(**(base | changes))


def _core_trouble(log: str) -> str | None:
    """What wandb-core gave up on, from its own log: finish() does not say (HTTP 400, a full disk)."""
    try:
        with open(log, encoding="utf-8", errors="replace") as lines:
            found = (line for line in lines if "filestream: fatal error" in line or "failed to save record" in line)
            first = next(found, None)
        return str(json.loads(first)["msg"]) if first else None
    except (OSError, ValueError, KeyError):
        return None


def _number(value: Any) -> float | int | None:
    if hasattr(value, "item"):
        value = value.item()
    return value if isinstance(value, (int, float)) else None


def _table_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: _cell(value) for key, value in row.items()} for row in rows[:MAX_TABLE_ROWS]]


def _cell(value: Any) -> Any:
    number = _number(value)
    if number is not None:
        return number
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} [{len(text) - MAX_TEXT} more characters]"


def _table(step: int, rows: Sequence[Mapping[str, Any]]) -> Any:
    import wandb

    columns = list(dict.fromkeys(key for row in rows for key in row))
    return wandb.Table(columns=["step", *columns], data=[[step, *(row.get(c) for c in columns)] for row in rows])


def _kill_core() -> None:
    # wandb has no public way to give up a hung wandb-core, and its exit hook would wait for it for ever
    from wandb.sdk import wandb_setup

    connection = getattr(getattr(wandb_setup, "_singleton", None), "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        process.kill()
        process.wait()


def _netrc_key() -> str | None:
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        entry = netrc.netrc(os.environ.get("NETRC") or None).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return entry[2] if entry else None


def _secrets() -> tuple[str, ...]:
    named = (v for k, v in os.environ.items() if k.upper().endswith(("KEY", "TOKEN", "SECRET", "PASSWORD")))
    return tuple(v for v in (*named, _netrc_key()) if v and len(v) >= 8)


def _blank(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
    elif isinstance(value, Mapping):
        return {key: _blank(v, secrets) for key, v in value.items()}
    elif isinstance(value, (list, tuple)):
        return [_blank(v, secrets) for v in value]
    return value


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
