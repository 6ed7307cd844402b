"""Commands that the training packages add to ``rl-scaling``, found by entry point; each module is imported on use."""

from __future__ import annotations

import importlib
from typing import Any

_COMMANDS = {"sweep": "sweep", "doctor": "doctor", "wandb_group": "wandb"}  # command -> module under sweeps.cli

__all__ = ["doctor", "sweep", "wandb_group"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _COMMANDS:
        value = getattr(importlib.import_module(f"sweeps.cli.{_COMMANDS[name]}"), name)
        globals()[name] = value  # over the submodule of the same name, which the import has just bound here
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
