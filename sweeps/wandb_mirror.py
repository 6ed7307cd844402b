"""`WandbTracker`: the worker that mirrors one run to W&B and cannot hurt it.

All calls into wandb happen in one daemon thread behind a bounded queue: a slow, dead or lying server, a killed
``wandb-core`` or a full disk can neither raise into the training loop nor hold it up.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.files import write_json
from sweeps.tracking import Tracker, blank_secrets

__all__ = ["MIRROR", "STEP", "X_AXIS", "WandbTracker", "define_axes", "wandb_settings"]

STEP, X_AXIS = "train/global_step", "gpu_hours"
MIRROR = Path("wandb") / "mirror.json"  # in the run directory: where its mirror is

INIT_TIMEOUT = 15.0  # [s] then the mirror falls back to offline files
FINISH_TIMEOUT = 20.0  # [s] upload time granted at the end of a run; the rest waits on disk
GRACE = 10.0  # [s] beyond it before wandb-core is given up
QUEUE_ROWS = 10_000  # rows held while the server is slow to start
GIVE_UP_AFTER = 3  # consecutive failures
BURST = 2.0  # [s] rows are sent together every so often: one by one they take the interpreter from the training loop each time

# completion samples: rows a table, tables a segment, characters a cell
MAX_TABLE_ROWS, MAX_TABLES, MAX_TEXT = 32, 50, 2000


class WandbTracker(Tracker):
    """Mirror of one run, driven by one daemon thread; use `sweeps.tracking.open_tracker`."""

    def __init__(
        self, *, mode: str, directory: Path, identity: Mapping[str, Any], config: Mapping[str, Any], resume: bool
    ) -> None:
        self.mode, self.lost, self.failure = mode, 0, None
        self._directory, self._identity, self._config, self._resume = directory, dict(identity), dict(config), resume
        self._queue: queue.Queue[dict[str, Any] | int] = queue.Queue(QUEUE_ROWS)  # an int ends it: the exit code
        self._samples: tuple[int, Sequence[Mapping[str, Any]]] | None = None
        self._tables, self._errors, self._last_x, self._closed = 0, 0, 0.0, False
        self._ending = threading.Event()
        self._already = -1  # the last step the server has: rows redone after a restart are not sent twice
        self._thread = threading.Thread(target=self._work, name="wandb-mirror", daemon=True)
        self._thread.start()

    def log(self, row: Mapping[str, float]) -> None:
        """Queue one row; a full queue (the server has been stuck for long) counts it as lost instead of waiting."""
        if self._closed:
            return
        item: dict[str, Any] = {key: n for key, value in row.items() if (n := number(value)) is not None}
        self._last_x = item.get(X_AXIS, self._last_x)
        if self._samples is not None:
            (step, samples), self._samples = self._samples, None
            item["completions"] = (step, samples)
        self._put(item)

    def log_completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep a table of samples for the next row: at most 32 rows, 2000 characters a cell, 50 tables a segment."""
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
        self._ending.set()
        self._thread.join(FINISH_TIMEOUT + GRACE)
        if self._thread.is_alive():
            self._fail("end", f"no answer within {FINISH_TIMEOUT + GRACE:g} s")
            _kill_core()
            self._thread.join(GRACE)
        if self.lost:
            self._say(f"at least {self.lost} rows were not mirrored (first reason: {self.failure})")

    # -- the worker thread: the only place that touches wandb --------------------------------------------------------

    def _work(self) -> None:
        run = self._start()
        item = self._queue.get()
        while isinstance(item, dict):
            if self._queue.empty():  # the first of a burst
                self._ending.wait(BURST)
            if run is None or self._errors >= GIVE_UP_AFTER:
                self.lost += 1
            else:
                self._send(run, item)
            item = self._queue.get()
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
        define_axes(run)
        if mode == "online" and self._resume:
            self._already = int(run.summary.get(STEP, -1))
        body: dict[str, Any] = {"mode": mode, **self._identity}
        if mode == "online":
            body |= {"entity": run.entity, "url": run.url}
        write_json(self._directory / MIRROR, body)
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

        if wandb.run is not None:  # somebody else's, in the same process: it must live on
            return
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
        self.failure = str(blank_secrets(f"could not {what}: {text}"))
        self._say(f"{self.failure}; training and its records are not affected")

    def _say(self, what: str) -> None:
        print(
            f"W&B mirror: {what}; to bring the server up to date later: rl-scaling wandb sync {self._directory}",
            file=sys.stderr,
            flush=True,
        )


def define_axes(run: Any) -> None:
    """Every metric against GPU-hours: a single glob, since which of two overlapping globs wins is left to chance."""
    run.define_metric(X_AXIS)
    run.define_metric("*", step_metric=X_AXIS, step_sync=False)  # True would write an x of 0 where none was logged


def wandb_settings(**changes: Any) -> Any:
    """Settings of every wandb session of this project: quiet, bounded in time, no console capture, no code upload."""
    import wandb

    # On a full disk every line of wandb's debug.log would be a traceback on stderr; wandb-core keeps its own log.
    logging.getLogger("wandb").setLevel(logging.CRITICAL)
    base = {
        "init_timeout": INIT_TIMEOUT, "finish_timeout": FINISH_TIMEOUT, "finish_timeout_raises": True, "console": "off",
        "silent": True, "disable_code": True, "disable_job_creation": True, "save_code": False,
        "x_save_requirements": False,
        "x_disable_meta": True,  # host, git and the command line, which may hold a secret; run.json has what matters
        "x_transaction_log_flush_interval": 1.0,  # [s] a kill -9 loses this and a burst of offline rows, not fifteen seconds
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


def number(value: Any) -> float | int | None:
    """``value`` as a plain number, or None where it is not one (numpy and torch scalars are)."""
    if hasattr(value, "item"):
        value = value.item()
    return value if isinstance(value, (int, float)) else None


def _table_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: _cell(value) for key, value in row.items()} for row in rows[:MAX_TABLE_ROWS]]


def _cell(value: Any) -> Any:
    if (n := number(value)) is not None:
        return n
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
