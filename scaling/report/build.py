"""`write`: runs in, a folder with one self-contained page and its tables out."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.report import page
from scaling.report.gather import gather
from scaling.report.sections import all_sections
from scaling.report.tables import summary_frame, write_csv
from scaling.runs import RunTable

__all__ = ["write"]


def write(
    table: RunTable,
    out: str | Path,
    *,
    title: str = "RL scaling report",
    benchmark: str | None = None,
    law: str = "ensemble",
    fit_after: float | None = None,
    draws: int = 400,
    seed: int = 0,
    progress: Callable[[Iterable[Any], int, str], Iterable[Any]] | None = None,
) -> Path:
    """Write ``out/index.html``, one self-contained page, and the same tables as CSV and JSON beside it.

    Args:
        table: the runs, from `scaling.load_runs` or an importer.
        out: folder of the report; made if it is missing, files of the same names are replaced.
        title: heading of the page.
        benchmark: which held-out benchmark to fit; by default the one that most runs have.
        law: as for `scaling.fit`.
        fit_after: leave out evaluations before this compute [FLOP].
        draws: draws behind the intervals [1].
        seed: of the draws.
        progress: wraps the iteration over fits, for a progress bar.

    Returns:
        The path of the page.

    Raises:
        ScalingError: there is no run, or the folder cannot be written.

    Example:
        >>> write(load_runs("runs/demo"), "report/")  # doctest: +SKIP
        PosixPath('report/index.html')
    """
    if not len(table.runs):
        raise ScalingError("a report needs at least one run, the table has none")
    analysis = gather(
        table, benchmark=benchmark, law=law, fit_after=fit_after, draws=draws, seed=seed, progress=progress
    )  # fmt: skip
    text = page.render(title, all_sections(analysis), footer="Written by rl-scaling report.")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tables(analysis, folder)
        target = folder / "index.html"
        tmp = folder / f".index.html.{os.getpid()}.tmp"
        tmp.write_text(text, encoding="utf-8")
        os.replace(tmp, target)
    except OSError as error:
        raise ScalingError(
            f"cannot write the report to {folder}: {error.strerror}; free space or choose another --out"
        ) from error
    return target


def _tables(analysis: Any, folder: Path) -> None:
    frame = summary_frame(analysis)
    write_csv(frame, folder / "summary.csv")
    rows = [{k: _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]
    (folder / "summary.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
