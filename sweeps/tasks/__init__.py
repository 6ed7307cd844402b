"""Tasks: one module a family. `TaskConfig` is the union of their settings, `build` turns settings into a `Task`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sweeps.tasks.base import Benchmark, Task
from sweeps.tasks.chain import ChainConfig, ChainTask

__all__ = ["Benchmark", "ChainConfig", "ChainTask", "Task", "TaskConfig", "build"]

TaskConfig = Annotated[ChainConfig, Field(description="settings of one task; `name` says which family")]


def build(config: TaskConfig) -> Task:
    """The task that ``config`` describes."""
    return ChainTask(config)
