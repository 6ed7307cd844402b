"""Tasks: one module a family. `TaskConfig` is the union of their settings, `build` turns settings into a `Task`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from sweeps.tasks.base import Benchmark, Task
from sweeps.tasks.chain import ChainConfig, ChainTask
from sweeps.tasks.countdown import CountdownConfig, CountdownTask
from sweeps.tasks.custom import CustomConfig, CustomTask
from sweeps.tasks.gym import GymConfig, GymTask
from sweeps.tasks.math import MathConfig, MathTask
from sweeps.tasks.mix import MixConfig, MixTask

__all__ = ["Benchmark", "ChainConfig", "ChainTask", "Task", "TaskConfig", "build"]

TaskConfig = Annotated[
    ChainConfig | CountdownConfig | CustomConfig | GymConfig | MathConfig | MixConfig, Field(discriminator="name")
]

_FAMILIES: dict[type, Any] = {
    ChainConfig: ChainTask,
    CountdownConfig: CountdownTask,
    CustomConfig: CustomTask,
    GymConfig: GymTask,
    MathConfig: MathTask,
}


def build(config: Any) -> Any:
    """The task that ``config`` (a `TaskConfig`) describes."""
    if isinstance(config, MixConfig):
        return MixTask(config, build)
    return _FAMILIES[type(config)](config)
