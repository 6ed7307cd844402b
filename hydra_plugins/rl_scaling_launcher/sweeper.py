"""Hydra's own sweeper, less its trial composition of every row: the launcher composes and validates each row anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.errors import HydraException

__all__ = ["RlScalingSweeper"]


class RlScalingSweeper(BasicSweeper):
    """`BasicSweeper` that is quick on large grids and says in one line that a folder cannot be written."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: done by the launcher, for all rows and with all errors."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run the grid."""
        try:
            return super().sweep(arguments)
        except OSError as error:
            if isinstance(error, HydraException):  # a missing option of a group is an OSError to Hydra
                raise
            from scaling.errors import ConfigError

            raise ConfigError(
                f"cannot write {error.filename}: {error.strerror}; choose another runs_dir or free space"
            ) from error
