"""What the ranks of one run settle among themselves: a stop, a decision of the first rank, a wait for it.

Signals and clocks reach ranks at different moments; a rank that decides alone leaves the others waiting in a collective
until its timeout. Every function here must be called by all ranks at the same step, and is free with a single rank.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

__all__ = ["agree", "first_rank_works", "first_says", "is_first", "world_size"]

PATIENCE = timedelta(days=7)
"""For work that the first rank does alone; a rank that dies meanwhile is noticed by the launcher of the ranks."""


def is_first() -> bool:
    """Whether this process writes records: the first rank, or the only one (set by torchrun and accelerate)."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """Processes of this run (set by torchrun and accelerate)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def agree(mine: bool) -> bool:
    """Whether any rank says so."""
    distributed = _distributed()
    if distributed is None:
        return mine
    import torch

    device = (
        torch.device("cuda", torch.cuda.current_device())
        if distributed.get_backend() == "nccl"
        else torch.device("cpu")
    )
    flag = torch.tensor(int(mine), device=device)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag.item())


def first_says(mine: bool) -> bool:
    """What the first rank says: its clock is the one that is recorded."""
    return agree(mine and is_first())


@contextlib.contextmanager
def first_rank_works() -> Iterator[None]:
    """The others wait at the end for what the first rank does inside, past the timeout of ordinary collectives."""
    distributed = _distributed()
    group = _patient_group() if distributed is not None else None  # before the work: making it is a collective, too
    yield
    if distributed is not None:
        distributed.barrier(group=group)


@functools.cache
def _patient_group() -> Any:
    """A group of all ranks that waits long, over the processor: no kernel sits on a GPU meanwhile."""
    import torch.distributed

    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)


def _distributed() -> Any:
    """`torch.distributed` where there are several ranks; torch is not imported for it."""
    found = sys.modules.get("torch.distributed")
    if found is None or not found.is_available() or not found.is_initialized() or found.get_world_size() == 1:
        return None
    return found
