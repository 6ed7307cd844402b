"""Modules that carry the name of their one function: `scaling.compare` and `scaling.backtest`.

Importing a submodule binds it in the package under its name, over the function that `scaling.__getattr__` would have given;
so the module itself can be called like the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


def make_callable(name: str) -> None:
    """Let the module ``name`` be called like the function of its own name."""
    sys.modules[name].__class__ = _CallableModule
