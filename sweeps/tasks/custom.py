"""A user's own reward: a function by import path over problems of a file, guarded against raising, hanging and nonsense."""

from __future__ import annotations

import importlib
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from scaling.errors import ConfigError, ScalingError
from sweeps.schema import Strict
from sweeps.tasks.base import Benchmark
from sweeps.tasks.math import MathConfig, MathTask
from sweeps.tasks.rows import RowsConfig

__all__ = ["CustomConfig", "CustomTask", "guarded", "load_function"]


class CustomConfig(Strict):
    """Problems of a file or dataset with a reward function of the user's."""

    name: Literal["custom"] = "custom"
    train: RowsConfig
    benchmarks: dict[str, RowsConfig] = {}
    function: str = Field(
        description="module:function, called as TRL does: f(prompts=, completions=, answer=) -> list of numbers"
    )
    solved_at: float = Field(1.0, description="reward from which a completion counts as correct in evaluation")
    seconds: float = Field(60.0, gt=0, description="one call may take so long [s]")
    held_out: int = Field(256, ge=1)
    held_out_seed: int = Field(999, ge=0)
    chat: bool = False
    template: str = "{problem}\n"
    max_completion_length: int = Field(1024, ge=1)
    guess_rate: float = Field(0.0, ge=0, lt=1)


class CustomTask(MathTask):
    """As the math task, with the user's function in place of math-verify."""

    name = "custom"

    def __init__(self, config: CustomConfig) -> None:
        shared = config.model_dump(exclude={"name", "function", "solved_at", "seconds", "train", "benchmarks"})
        super().__init__(MathConfig(name="math", train=config.train, benchmarks=config.benchmarks, **shared))
        self.custom = config
        self.function = guarded(load_function(config.function), seconds=config.seconds)

    def reward_functions(self) -> list[Callable[..., list[float]]]:
        """The user's function, guarded; logged under its own name."""
        return [self.function]

    def verify(self, completions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """1.0 where the user's function gives ``solved_at`` or more."""
        rewards = self.function(prompts=[""] * len(completions), completions=list(completions), answer=list(answers))
        return [1.0 if reward >= self.custom.solved_at else 0.0 for reward in rewards]

    def extract_answer(self, completion: str) -> str | None:
        """The whole completion: majority votes need exact agreement."""
        return completion.strip() or None

    def benchmarks(self) -> dict[str, Benchmark]:
        """As the math task."""
        return super().benchmarks()

    def _readable(self, problems: list, path: str) -> list:
        return problems


def load_function(path: str) -> Callable[..., Any]:
    """The function named ``module:function``; the working directory is searched too.

    Raises:
        ConfigError: the module or the function is missing, or importing it fails.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"task.function must be module:function, got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(
            f"task.function={path}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        have = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ConfigError(
            f"task.function={path}: {module_name} has no function {name!r}; it has {', '.join(have[:8]) or 'none'}"
        )
    return function


def guarded(function: Callable[..., Any], *, seconds: float) -> Callable[..., list[float]]:
    """The function with a time limit, its exceptions named, and its result checked: one finite number a completion."""
    name = getattr(function, "__name__", "reward")

    def reward(completions: Sequence[Any], **kwargs: Any) -> list[float]:
        box: dict[str, Any] = {}

        def call() -> None:
            try:
                box["value"] = function(completions=completions, **kwargs)
            except BaseException as error:
                box["error"] = error

        thread = threading.Thread(target=call, daemon=True, name=f"reward {name}")
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            raise ScalingError(
                f"reward function {name} took more than {seconds:g} s for {len(completions)} completions; fix it or raise task.seconds"
            )
        if "error" in box:
            error = box["error"]
            raise ScalingError(
                f"reward function {name} raised {type(error).__name__}: {error}; first completion: {str(completions[0])[:80]!r}"
            ) from error
        return _numbers(box["value"], name, len(completions))

    reward.__name__ = name
    return reward


def _numbers(value: Any, name: str, n: int) -> list[float]:
    try:
        numbers = [float(x) for x in value]
    except (TypeError, ValueError) as error:
        raise ScalingError(
            f"reward function {name} must return a list of numbers, got {type(value).__name__}: {error}"
        ) from error
    if len(numbers) != n:
        raise ScalingError(f"reward function {name} must return one number a completion ({n}), got {len(numbers)}")
    if not all(math.isfinite(x) for x in numbers):
        raise ScalingError(
            f"reward function {name} must return finite numbers, got {next(x for x in numbers if not math.isfinite(x))}"
        )
    return numbers
