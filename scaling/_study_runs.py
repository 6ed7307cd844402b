"""The runs of a study: loaded from all its sources, less those that it leaves out."""

from __future__ import annotations

import fnmatch
from typing import Any

from scaling._study_file import Source, Study
from scaling.errors import ConfigError
from scaling.runs import RunTable, load_runs

__all__ = ["select"]


def select(study: Study) -> tuple[RunTable, dict[str, str]]:
    """The runs that remain, and run id -> reason of those left out.

    Raises:
        ConfigError: an exclusion or a query matches no run, a run is in two sources, or none remains.
    """
    table = _concat([_load(study, source) for source in study.runs])
    excluded: dict[str, str] = {}
    for exclusion in study.exclude:
        rows = [
            row["run_id"]
            for row in table.runs.to_dict("records")
            if fnmatch.fnmatchcase(str(row["run_id"]), exclusion.run)
            or fnmatch.fnmatchcase(str(row["name"]), exclusion.run)
        ]
        if not rows:
            raise ConfigError(f"exclude: no run has the id or name {exclusion.run!r}; remove the line or correct it")
        excluded |= dict.fromkeys(rows, exclusion.reason)
    kept = [run for run in table.runs["run_id"] if run not in excluded]
    if not kept:
        raise ConfigError("exclude: every run is left out, nothing remains to fit")
    return table.select(kept), excluded


def _load(study: Study, source: Source) -> RunTable:
    if source.import_:
        from scaling.importers import load

        path = source.import_ if source.source == "wandb" else study.folder / source.import_
        mapping = (
            (study.folder / source.mapping) if source.mapping.endswith((".yaml", ".yml")) else source.mapping or None
        )
        table = load(path, source.source, mapping, gpus=source.gpus)
    else:
        table = load_runs(study.folder / source.path)
    if not source.where:
        return table
    try:
        rows: Any = table.runs.query(source.where, engine="python", local_dict={}, global_dict={})
    except Exception as error:  # pandas raises a dozen kinds for what a query may get wrong
        columns = ", ".join(table.runs.columns)
        raise ConfigError(
            f"where: {source.where!r} is no query of the runs table ({error}); columns are {columns}"
        ) from error
    if rows.empty:
        raise ConfigError(
            f"where: {source.where!r} matches none of {len(table.runs)} runs in {source.path or source.import_}"
        )
    return table.select(rows["run_id"])


def _concat(tables: list[RunTable]) -> RunTable:
    import pandas as pd

    if len(tables) == 1:
        return tables[0]
    runs = pd.concat([t.runs for t in tables], ignore_index=True)
    twice = runs["run_id"][runs["run_id"].duplicated()].unique()
    if len(twice):
        raise ConfigError(f"runs: {len(twice)} run(s) are in two sources, first {twice[0]}: name each once")
    steps, evals = (pd.concat([getattr(t, n) for t in tables], ignore_index=True) for n in ("steps", "evals"))
    return RunTable(runs=runs, steps=steps, evals=evals, skipped=tuple(s for t in tables for s in t.skipped))
