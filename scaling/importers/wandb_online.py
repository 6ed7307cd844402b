"""Pulls complete W&B histories from a server: in parallel, never sampled, cached, refreshed only when a run grew.

Runs are listed with their configuration in one request a page. A run's exported parquet files are downloaded and its live
tail is scanned; both are put together by ``_step``. What was read is kept with the server's row count and state, so that
the next pull asks only for runs that changed, and of those only for what is new. A rate limit (429) pauses all workers.

Tried against a loopback stand-in with wandb's real client; never against the hosted service.
"""

from __future__ import annotations

import functools
import logging
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scaling.errors import ForeignLogError
from scaling.importers.expression import from_config
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.series import History
from scaling.importers.values import digest, redact
from scaling.importers.wandb_offline import cache_folder, history_of, load_history, save_history, to_raw
from scaling.records import Skipped

__all__ = ["pull"]

PER_PAGE = 100
T = TypeVar("T")


def pull(
    path: str,
    mapping: TrainerMapping | None = None,
    progress: Callable[[int], Any] | None = None,
    *,
    cache: str | Path | bool | None = None,
    workers: int = 8,
    filters: dict[str, Any] | None = None,
    patience: float = 600.0,
) -> list[RawRun]:
    """Pull the runs of a project, or one run.

    Args:
        path: ``entity/project`` or ``entity/project/run_id``; the server is wandb's own setting (``WANDB_BASE_URL``).
        mapping: names and semantics, or None to recognise each run's trainer.
        progress: called with 1 a run.
        cache: folder of the cache; None: the user's cache folder; False: none.
        workers: runs fetched at once; more than 8 gained nothing.
        filters: W&B's own filters of runs, such as ``{"tags": "grpo"}``.
        patience: how long rate limits and failures are waited out, for each request [s].

    Raises:
        ForeignLogError: wandb is not installed or not logged in, the project cannot be read, or no run has a history.
    """
    try:
        import wandb
    except ImportError as error:
        raise ForeignLogError("reading a W&B server needs wandb: pip install 'rl-scaling[wandb]'") from error
    folder = cache_folder(cache)
    limiter = _Patience(patience)
    with _quiet():
        try:
            api = wandb.Api(timeout=60)  # pyright: ignore[reportAttributeAccessIssue]
        except Exception as error:
            raise ForeignLogError(
                f"W&B refused the login: {_say(error)}; run `wandb login` or set WANDB_API_KEY"
            ) from None
        server = str(api.settings.get("base_url"))

        def one(run: Any) -> tuple[Any, _Pulled]:
            pulled = _fetch(run, folder, limiter, server)
            if progress:
                progress(1)
            return run, pulled

        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            # runs are fetched while the next page of the list is on its way
            pulled = [job.result() for job in [pool.submit(one, run) for run in _list(api, path, filters, limiter)]]
        out = []
        for run, got in pulled:
            if not got.history.count:
                continue
            raw = to_raw(
                [got.history], name=str(run.name or run.id), source="W&B server", files=[f"{path if path.count('/') == 1 else path.rsplit('/', 1)[0]}/{run.id}"],
                config=dict(run.config), gpus=0, gpu_type="", mapping=mapping,
            )  # fmt: skip
            raw.skipped += got.skipped
            raw.status = {"finished": "finished", "running": "running", "crashed": "failed", "failed": "failed"}.get(
                run.state, "interrupted"
            )
            if from_config(raw.mapping.gpus, raw.config) is None and not _timed_per_gpu(raw):
                _add_host(raw, run)
            out.append(raw)
    if not out:
        raise ForeignLogError(f"{path}: {len(pulled)} run(s), none with a history" if pulled else f"{path} has no runs")
    return out


def _list(api: Any, path: str, filters: dict[str, Any] | None, limiter: _Patience) -> Iterator[Any]:
    """The runs asked for, with their configuration and row count, a page a request."""
    if path.count("/") == 2:
        yield limiter.call(lambda: api.run(path), path)
        return
    runs = api.runs(path, filters=filters, order="+created_at", per_page=PER_PAGE, lazy=False)
    i = 0
    while True:
        try:
            run = limiter.call(functools.partial(runs.__getitem__, i), path)
        except IndexError:
            return
        yield run
        i += 1


@dataclass
class _Pulled:
    history: History
    skipped: list[Skipped] = field(default_factory=list)


def _fetch(run: Any, folder: Path | None, limiter: _Patience, server: str) -> _Pulled:
    """The rows of one run: from the cache if it did not grow, else the cached rows and what came after them."""
    where = "/".join(run.path)
    attributes = run._attrs
    count = attributes.get("historyLineCount")
    grown_to = (attributes.get("historyKeys") or {}).get("lastStep")
    stamp = f"{count} {grown_to} {run.state}"
    file = None if folder is None else folder / f"run-{digest(server, where)}.parquet"
    held = History({}, 0)
    if file is not None and (kept := load_history(file, None)) is not None:
        held, about = kept
        if about.get("of") == stamp and (count is not None or grown_to is not None):
            return _Pulled(held)
    new = limiter.call(lambda: _history(run, _last(held) + 1), where)
    history = History.joined([held, new]).by_step()
    if (
        count is not None and history.count < count and held.count
    ):  # the server rewrote what the cache holds: all of it anew
        history = limiter.call(lambda: _history(run, 0), where).by_step()
    skipped = []
    if count is not None and history.count < count:
        skipped.append(Skipped(where, 0, f"the server counts {count} rows, it gave {history.count}"))
    if file is not None:
        save_history(file, stamp, history, {"of": stamp})
    return _Pulled(history, skipped)


def _history(run: Any, first: float) -> History:
    """All rows from step ``first`` on: exports where there are some, the rest live."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        result = run.download_history_exports(folder, require_complete_history=False)
        exported = History.joined([history_of(pq.ParquetFile(path).read()) for path in result.paths])
        live = result.contains_live_data or not result.paths
    if "_step" in exported.columns:
        exported = exported.select(exported.columns["_step"] >= first)
    if not live:
        return exported
    rows = run.scan_history(min_step=int(max(first, _last(exported) + 1)), use_cache=False)
    return History.joined([exported, History.from_rows(rows)])


def _last(history: History) -> float:
    steps = history.columns.get("_step")
    return -1 if steps is None or not np.isfinite(steps).any() else float(np.nanmax(steps))


def _timed_per_gpu(raw: RawRun) -> bool:
    for _ in raw.rows.blocks():
        break
    choice = raw.mapping.quantities.get("tokens_per_gpu_second")
    return choice is not None and choice.pick(raw.rows.key_counts) is not None


def _add_host(raw: RawRun, run: Any) -> None:
    """GPUs from the run's metadata: one more request, made only where the hours need it."""
    metadata = run.metadata or {}
    if metadata.get("gpu_count"):
        raw.gpus, raw.accelerator = float(metadata["gpu_count"]), str(metadata.get("gpu") or "")


class _Patience:
    """Waits out rate limits and outages, all workers together, up to a time for each request."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._until = 0.0
        self._lock = threading.Lock()

    def call(self, ask: Callable[[], T], what: str) -> T:
        """``ask()``, again after a pause while the server is busy or away.

        Raises:
            ForeignLogError: it fails for another reason, or for longer than the limit.
        """
        started, delay = time.monotonic(), 1.0
        while True:
            time.sleep(max(0.0, self._until - time.monotonic()))
            try:
                return ask()
            except IndexError:  # the end of a list
                raise
            except Exception as error:  # wandb raises requests', its own and ValueError's without a common base
                if not _passing(error):
                    raise ForeignLogError(f"{what} cannot be read from W&B: {_say(error)}") from None
                if time.monotonic() - started + delay > self.limit:
                    raise ForeignLogError(
                        f"{what} cannot be read from W&B, which kept failing for {self.limit:.0f} s: {_say(error)}; what was read is "
                        "cached: try again later"
                    ) from None
            with self._lock:
                self._until = max(self._until, time.monotonic() + delay * random.uniform(0.8, 1.2))
            delay = min(2 * delay, 60.0)


def _passing(error: BaseException) -> bool:
    """Whether trying again can help: rate limits, server errors, lost connections."""
    text = f"{type(error).__name__} {error}".lower()
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status == 429 or status >= 500
    if any(
        word in text
        for word in ("not found", "permission", "unauthorized", "401", "403", "404", "could not find", "invalid")
    ):
        return False
    return any(
        word in text
        for word in ("429", "rate limit", "too many", "timeout", "timed out", "connection", "50", "commerror", "failed")
    )


def _say(error: BaseException) -> str:
    """One line of an error, without secrets."""
    return str(redact(" ".join(str(error).split())))[:300] or type(error).__name__


@contextmanager
def _quiet() -> Any:
    """Keep the client's own notices off the screen; errors are reported here."""
    logger = logging.getLogger("wandb")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
