"""The study file: which runs, which are left out and why, how they are fitted; and everything that follows from it.

    title: What RL adds to three small models
    runs:
      - path: runs/ladder                     # run folders, read only; relative to this file
        where: params > 1e5                   # of the runs table, as pandas.DataFrame.query reads it
      - import: logs/verl.log                 # or any source of scaling.importers
        source: verl
    exclude:
      - run: ladder-7                         # run id or name; * matches anything
        reason: collapsed at step 300
    benchmark: chain/held-out
    axis: total_flops
    fit_after: 1e11                           # unit of the axis; leave out to fit every evaluation
    factors: [model, recipe_hash]             # runs that agree in these are seeds of one law
    law: ensemble
    draws: 1000
    seed: 0

`run_study` rebuilds every figure, table and number of it; `compare_studies` says what changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scaling
from scaling import _study_print as to_print
from scaling._study_file import Exclusion, Source, Study, load_study
from scaling._study_runs import select
from scaling.curve import Curve
from scaling.report.provenance import digest
from scaling.report.tables import write_table
from scaling.runs import RunTable

if TYPE_CHECKING:
    import pandas as pd

    from scaling.fitting import Fit

__all__ = ["Exclusion", "Source", "Study", "StudyResult", "compare_studies", "load_study", "run_study"]

MULTIPLES = (2.0, 4.0, 10.0)  # forecasts at so many times the last evaluation


@dataclass(frozen=True, eq=False)
class StudyResult:
    """A study that was run: its curves, its fits, and the record of what they were made from.

    Attributes:
        study: the file.
        table: the runs, exclusions taken out.
        excluded: run id -> reason.
        curves: group -> curves, one a run.
        fits: group -> fit.
        record: the contents of ``study.json``: settings, versions, hashes of the runs, every number.

    Example:
        See `run_study`.

        >>> sorted(StudyResult.__dataclass_fields__)
        ['curves', 'excluded', 'fits', 'record', 'study', 'table']
    """

    study: Study
    table: RunTable
    excluded: Mapping[str, str]
    curves: Mapping[str, list[Curve]]
    fits: Mapping[str, Fit]
    record: Mapping[str, Any]


def run_study(
    study: Study,
    out: str | Path | None = None,
    *,
    progress: Callable[[Iterable[Any], int, str], Iterable[Any]] | None = None,
) -> StudyResult:
    r"""Load, fit, and write everything that follows from a study file.

    Args:
        study: from `load_study`.
        out: folder to write to: ``study.json``, tidy ``runs``, ``curves``, ``fits`` and ``forecasts`` as CSV and JSON,
            ``evals.parquet``, ``fits/*.npz`` with their draws (`scaling.load_fit`), ``figures/``, and for LaTeX
            ``table.tex`` (booktabs), ``numbers.tex``, ``methods.tex``, ``references.bib``. None writes nothing.
        progress: wraps the iteration over fits, for a progress bar.

    Raises:
        ConfigError: an exclusion or a query matches no run.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with scaling.Recorder(folder / "runs" / "first", gpus=8, accelerator="H100-SXM") as run:
        ...     for score in (10, 18, 25, 30, 33, 35, 36, 37, 37, 38, 38, 38):  # of 100 items
        ...         run.step(seconds=900.0)
        ...         run.eval(benchmark="held_out", successes=[1] * score + [0] * (100 - score), k=1)
        >>> _ = (folder / "study.yaml").write_text("title: One run\nruns: [{path: runs}]\naxis: gpu_hours\ndraws: 100\n")
        >>> result = run_study(load_study(folder / "study.yaml"), folder / "out")
        >>> [str(fit.status) for fit in result.fits.values()]
        ['identified']
        >>> (folder / "out" / "table.tex").exists()
        True
    """
    from scaling.fitting import fit

    table, excluded = select(study)
    if study.benchmark is None and table.evals["benchmark"].nunique() == 1:
        study = replace(study, benchmark=str(table.evals["benchmark"].iloc[0]))
    curves = _by_size(
        table.curves(benchmark=study.benchmark, metric=study.metric, axis=study.axis, by=list(study.factors))
    )
    fits: dict[str, Fit] = {}
    names = list(curves)
    for name in progress(names, len(names), "fitting") if progress else names:
        fits[name] = fit(curves[name], law=study.law, fit_after=study.fit_after, draws=study.draws, seed=study.seed)
    result = StudyResult(study, table, excluded, curves, fits, _record(study, table, excluded, curves, fits))
    if out is not None:
        _write(result, Path(out))
    return result


def compare_studies(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two ``study.json``: runs, settings, versions, and every number that moved, one line each.

    Example:
        >>> compare_studies({"runs": {"a": "1"}, "numbers": {}}, {"runs": {"a": "1", "b": "2"}, "numbers": {}})
        ['run added: b']
    """
    lines = []
    before, after = old.get("runs", {}), new.get("runs", {})
    lines += [f"run added: {run}" for run in after if run not in before]
    lines += [f"run removed: {run}" for run in before if run not in after]
    lines += [
        f"run changed: {run} (its records have other contents)"
        for run in after
        if before.get(run, after[run]) != after[run]
    ]
    for part in ("settings", "versions"):
        a, b = old.get(part, {}), new.get(part, {})
        lines += [f"{part[:-1]} {k}: {a.get(k)} -> {b.get(k)}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
    a, b = old.get("numbers", {}), new.get("numbers", {})
    for group in sorted({*a, *b}):
        if group not in a or group not in b:
            lines.append(f"group {'added' if group in b else 'removed'}: {group}")
            continue
        for key in b[group]:
            if not _same(a[group].get(key), b[group][key]):
                lines.append(f"{group}: {key} {_shown(a[group].get(key))} -> {_shown(b[group][key])}")
    return lines


def _by_size(curves: Mapping[str, list[Curve]]) -> dict[str, list[Curve]]:
    def params(name: str) -> float:
        value = curves[name][0].labels.get("params")
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.inf

    return {name: curves[name] for name in sorted(curves, key=lambda name: (params(name), name))}


def _record(
    study: Study,
    table: RunTable,
    excluded: Mapping[str, str],
    curves: Mapping[str, list[Curve]],
    fits: Mapping[str, Fit],
) -> dict[str, Any]:
    rows = table.runs.to_dict("records")
    return {
        "title": study.title,
        "settings": study.settings(),
        "versions": to_print.versions() | {"rl-scaling": scaling.__version__},
        "runs": {str(r["run_id"]): digest(Path(str(r["path"]))) for r in rows},
        "excluded": dict(excluded),
        "numbers": {name: _numbers(study, curves[name], found) for name, found in fits.items()},
    }


def _numbers(study: Study, members: list[Curve], found: Fit) -> dict[str, Any]:
    last = max(float(c.compute.max()) for c in members)
    final = [float(c.finite().performance[-1]) for c in members if len(c.finite())]
    out: dict[str, Any] = {
        "runs": len(members),
        "evaluations": sum(map(len, members)),
        "largest_compute": last,
        "final": sum(final) / len(final) if final else None,
        "verdict": str(found.status),
        "identified": bool(found.identified),
    }
    if not found.draws.size:
        return out | {"message": found.message}
    for key in ("asymptote", "efficiency_exponent", "c_mid", "r_0"):
        if key == "asymptote" and not found.identified:  # what is not identified is not a number
            out["asymptote_at_least"] = _finite(found.interval(key, study.level)[0])
            continue
        out[key] = [_finite(v) for v in found.interval(key, study.level)]
    band = found.forecast([m * last for m in MULTIPLES], level=study.level)
    for i, multiple in enumerate(MULTIPLES):
        out[f"forecast_at_{multiple:g}x"] = [_finite(v[i]) for v in (band.low, band.median, band.high)]
    return out


def _write(result: StudyResult, out: Path) -> None:
    frames = _frames(result)
    (out / "fits").mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        write_table(frame, out, name)
        frame.to_parquet(out / f"{name}.parquet", index=False)
    result.table.evals.to_parquet(out / "evals.parquet", index=False)
    for i, (name, found) in enumerate(result.fits.items()):
        if found.draws.size:
            found.save(out / "fits" / f"{i:03d}-{to_print.slug(name)}.npz")
    (out / "table.tex").write_text(to_print.table(result.record), encoding="utf-8")
    (out / "numbers.tex").write_text(to_print.numbers(result.record), encoding="utf-8")
    methods = to_print.methods(result.record, result.table)
    (out / "methods.txt").write_text(methods + "\n", encoding="utf-8")
    (out / "methods.tex").write_text(to_print.escape(methods) + "\n", encoding="utf-8")
    (out / "references.bib").write_text(to_print.bibliography(result.record), encoding="utf-8")
    to_print.figures(result.curves, result.fits, out / "figures", level=result.study.level)
    # last, so that its presence says that the rest is complete
    (out / "study.json").write_text(json.dumps(result.record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _frames(result: StudyResult) -> dict[str, pd.DataFrame]:
    import pandas as pd

    points, parameters, forecasts = [], [], []
    for name, members in result.curves.items():
        low, high = result.fits[name].window
        for c in members:
            errors = c.stderr if c.stderr is not None else [math.nan] * len(c)
            points += [
                {"group": name, "run_id": c.run_id, "axis": c.axis, "compute": float(x), "metric": c.metric,
                 "performance": float(y), "stderr": float(e), "fitted": bool(low <= x <= high)}
                for x, y, e in zip(c.compute, c.performance, errors)
            ]  # fmt: skip
        numbers = result.record["numbers"][name]
        row: dict[str, Any] = {"group": name}
        for key, value in numbers.items():
            if key.startswith("forecast_at_"):
                at = float(key.removeprefix("forecast_at_").removesuffix("x")) * numbers["largest_compute"]
                forecasts.append({"group": name, "compute": at, **dict(zip(("low", "median", "high"), value))})
            elif isinstance(value, list):
                row[f"{key}_low"], row[f"{key}_high"] = value
            else:
                row[key] = value
        parameters.append(row)
    runs: Any = result.table.runs
    return {
        "runs": runs[[c for c in runs.columns if c != "path"]],
        "curves": pd.DataFrame(points),
        "fits": pd.DataFrame(parameters),
        "forecasts": pd.DataFrame(forecasts, columns=["group", "compute", "low", "median", "high"]),
    }


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return all(_same(x, y) for x, y in zip(a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return a == b


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_shown(v) for v in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
