"""W&B: which of its three forms a path is (an offline log, a CSV of the UI, a project on a server)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping

__all__ = ["read"]

_ONLINE = re.compile(r"^[\w.-]+/[\w.-]+(/[\w-]+)?$")


def read(
    paths: Iterable[str | Path],
    mapping: TrainerMapping | None,
    progress: Callable[[int], Any] | None = None,
    **options: Any,
) -> list[RawRun]:
    """Read W&B runs.

    Args:
        paths: ``.wandb`` files, folders with them, CSV exports, or ``entity/project`` and ``entity/project/run``.
        mapping: names and semantics; None: recognised from the keys of each run.
        progress: called with the bytes read.
        options: ``cache`` (a folder, or False) for logs and pulls; those of `scaling.importers.wandb_online.pull`.

    Raises:
        ForeignLogError: a path is none of these.
    """
    logs: list[Path] = []
    exports: list[Path] = []
    online: list[str] = []
    for one in paths:
        path = Path(one)
        if path.is_dir():
            found = sorted({f.resolve(): f for f in path.rglob("*.wandb") if f.is_file()}.values())
            tables = [] if found else sorted(path.rglob("*.csv"))
            if not found and not tables:
                raise ForeignLogError(f"{path} holds neither .wandb logs nor CSV exports of W&B")
            logs += found
            exports += tables
        elif path.is_file():
            (exports if path.suffix == ".csv" else logs).append(path)
        elif _ONLINE.match(str(one)):
            online.append(str(one))
        else:
            raise ForeignLogError(f"{one} must exist, or be ENTITY/PROJECT or ENTITY/PROJECT/RUN on a W&B server")
    out: list[RawRun] = []
    if logs:
        from scaling.importers.wandb_offline import read_logs

        out += read_logs(logs, mapping, progress, cache=options.get("cache"))
    if exports:
        from scaling.importers.wandb_csv import read_exports

        out += read_exports(exports, mapping)
    for project in online:
        from scaling.importers.wandb_online import pull

        out += pull(project, mapping, progress, **options)
    return out
