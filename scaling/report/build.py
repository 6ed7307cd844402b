"""`write`: runs in, a folder with one self-contained page and its tables out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import scaling
from scaling.errors import ScalingError
from scaling.report import page
from scaling.report.fitting import Fitting
from scaling.report.gather import collect
from scaling.report.sections import all_sections, unfitted_sections
from scaling.report.tables import write_table
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
    full: bool | None = None,
    processes: int = 1,
    command: str = "",
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
        full: also back-test the forecasts and compare recipes; by default with at most 24 runs.
        processes: fits are shared among so many processes where there are many; the numbers are the same.
        command: how the report was asked for, written into its provenance.
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
    analysis = collect(table, benchmark=benchmark, law=law, fit_after=fit_after, draws=draws, seed=seed, full=full)
    with Fitting(analysis.curves, analysis.groups, analysis.settings, processes=processes) as fitting:
        made = unfitted_sections(analysis, command=command)  # while the fits are made
        analysis = analysis.with_fits(fitting, progress)
    sections = all_sections(analysis, command=command, made=made)
    text = page.render(
        title, sections, footer=f"Written by rl-scaling {scaling.__version__}. Tables: the CSV and JSON files beside."
    )
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for section in sections:
            for part in section.parts:
                if isinstance(part, page.Table) and part.name and part.raw is not None:
                    write_table(part.raw, folder, part.name)
        target = folder / "index.html"
        tmp = folder / f".index.html.{os.getpid()}.tmp"
        tmp.write_text(text, encoding="utf-8")
        os.replace(tmp, target)
    except OSError as error:
        raise ScalingError(
            f"cannot write the report to {folder}: {error.strerror}; free space or choose another --out"
        ) from error
    return target
