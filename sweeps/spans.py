"""`Spans`: how long the phases of a step took on the device, without holding it up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Spans"]


class Spans:
    """Marks at the borders of phases, turned into seconds once a step is over.

    On CUDA a mark is an event in the device's queue: it carries the moment at which the device got there, which is what a clock
    read after waiting for the device would show, and nothing waits. Elsewhere it is the wall clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any, int]] = []
        self._later: list[Callable[[], None]] = []

    def mark(self) -> Any:
        """This moment in the device's queue."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, name: str, start: Any, *, less: bool = False) -> None:
        """Count the time from ``start`` to now to ``name``; ``less`` takes it off."""
        self._spans.append((name, start, self.mark(), -1 if less else 1))

    def later(self, work: Callable[[], None]) -> None:
        """Do this when settling: what reads a number off the device would wait for it now."""
        self._later.append(work)

    def settle(self) -> dict[str, float]:
        """Seconds by name since the last call [s]; waits for the last mark."""
        spans, self._spans, later, self._later = self._spans, [], self._later, []
        out: dict[str, float] = {}
        if self._cuda and spans:
            spans[-1][2].synchronize()
        for name, start, end, sign in spans:
            seconds = start.elapsed_time(end) / 1e3 if self._cuda else end - start
            out[name] = out.get(name, 0.0) + sign * seconds
        for work in later:
            work()
        return out
