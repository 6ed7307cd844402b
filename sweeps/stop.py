"""A polite stop: signals set a flag, the trainer polls it at each step's end, saves and leaves.

Slurm sends SIGUSR2 before the time limit and at preemption, `rl-scaling sweep cancel` sends SIGTERM, the launcher sends
SIGUSR1 to the ranks of a run with several processes; all leave a grace period in which a checkpoint is written.
"""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["SIGNALS", "install", "request", "requested"]

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_flag = threading.Event()


def requested() -> bool:
    """Whether this process was asked to save and leave."""
    return _flag.is_set()


def request() -> None:
    """Ask for the stop, as a signal does."""
    _flag.set()


def install(*, keyboard: bool = False) -> None:
    """Let `SIGNALS` ask for the stop instead of ending the process; call it in the main thread, before long work.

    Args:
        keyboard: let the first Ctrl-C ask as well; the second ends the process.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: _flag.set())
    if keyboard:
        signal.signal(signal.SIGINT, _first_interrupt)


def _first_interrupt(*_: object) -> None:
    _flag.set()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(2, b"\nstopping: saved at the end of this step; Ctrl-C again ends at once\n")  # print is not for handlers
