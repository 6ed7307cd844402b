"""math-verify behind worker processes with a hard time limit: a check that hangs is ended and counted, never silently 0."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scaling.errors import ScalingError

__all__ = ["MathVerifier"]

_START = 120.0  # seconds a worker may take to import sympy on a loaded machine


class MathVerifier:
    r"""Checks answers in ``workers`` processes; threads of the caller share it.

    Attributes:
        counts: outcomes so far, by name: ``correct``, ``wrong``, ``unparsed`` (the completion gives no answer), ``timeout``,
            ``error``.
        workers: processes [1].
        limit: seconds one check may take before its process is ended [s].

    Example:
        >>> with MathVerifier(workers=1) as verifier:
        ...     verifier.outcomes([r"so \boxed{0.5}", "none"], [r"\frac{1}{2}", "3"])
        ['correct', 'unparsed']
    """

    def __init__(self, *, workers: int = 2, limit: float = 10.0) -> None:
        self.workers, self.limit = workers, limit
        self.counts: Counter[str] = Counter()
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._all: list[_Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def outcomes(self, completions: Sequence[str], answers: Sequence[str]) -> list[str]:
        """Outcome of each completion against its gold answer, ``(n,)``."""
        replies = self._ask([{"gold": a, "text": c} for c, a in zip(completions, answers, strict=True)])
        out = [reply["outcome"] for reply in replies]
        self.counts.update(out)
        return out

    def unparsed_golds(self, answers: Sequence[str]) -> list[str]:
        """The gold answers that math-verify cannot read."""
        replies = self._ask([{"gold": a} for a in answers])
        return [a for a, reply in zip(answers, replies) if reply["outcome"] != "parsed"]

    def extract(self, completions: Sequence[str]) -> list[str | None]:
        """The answer that each completion gives, in a normal form; None where it gives none."""
        return [reply.get("answer") for reply in self._ask([{"text": c} for c in completions])]

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        with self._lock:
            for worker in self._all:
                worker.end()
            self._all.clear()
        self._local = threading.local()

    def __enter__(self) -> MathVerifier:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="verifier")
        return list(self._pool.map(self._one, requests))

    def _one(self, request: dict[str, Any]) -> dict[str, Any]:
        worker: _Worker | None = getattr(self._local, "worker", None)
        if worker is None or not worker.alive():
            worker = self._local.worker = _Worker()
            with self._lock:
                for dead in [w for w in self._all if not w.alive()]:
                    dead.end()
                    self._all.remove(dead)
                self._all.append(worker)
        return worker.ask(request, self.limit)


class _Worker:
    """One process and its pipes."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sweeps.tasks._verify_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=environment, bufsize=0,
        )  # fmt: skip
        self._selector = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        if self._line(_START) is None:
            self.end()
            raise ScalingError(
                "the answer checker did not start: is math-verify installed? (pip install 'rl-scaling[train]')"
            )

    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write((json.dumps(request) + "\n").encode())
            line = self._line(limit)
        except BrokenPipeError:
            line = None
        if line is None:
            died = not self.alive()
            self.end()
            return {"outcome": "error", "reason": "the checker died"} if died else {"outcome": "timeout"}
        return json.loads(line)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._selector.close()

    def _line(self, limit: float) -> bytes | None:
        """The next line, or None when it does not come in time or the process has ended."""
        import time

        assert self.process.stdout is not None
        until, data = time.monotonic() + limit, b""
        while not data.endswith(b"\n"):
            if not self._selector.select(max(0.0, until - time.monotonic())):
                return None
            part = self.process.stdout.read(65536)
            if not part:
                return None
            data += part
        return data
