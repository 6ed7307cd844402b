"""Curves from a `RunTable`: of a held-out benchmark or of a metric of the steps, grouped and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.curve import Curve, check_axis
from scaling.errors import ScalingError, UnknownName
from scaling.metrics import pass_at_k
from scaling.run_rows import SETTINGS

if TYPE_CHECKING:
    import pandas as pd

    from scaling.run_table import RunTable

__all__ = ["curves_of"]


def curves_of(
    table: RunTable,
    *,
    benchmark: str | None,
    metric: str,
    axis: str,
    by: str | Sequence[str] | None,
    decoding: str | None,
    k: int | None,
    temperature: float | None,
    force: bool,
) -> dict[str, list[Curve]]:
    """`RunTable.curves`."""
    check_axis(axis)
    columns = [by] if isinstance(by, str) else list(by or ["run_id"])
    for column in columns:
        if column not in table.runs.columns:
            raise UnknownName(f"by must be a column of runs ({', '.join(table.runs.columns)}), got {column!r}")
    _check_axis_usable(table, axis)
    runs: dict[str, dict[str, Any]] = {row["run_id"]: row for row in table.runs.to_dict("records")}
    names = {run_id: " ".join(str(row[c]) for c in columns) for run_id, row in runs.items()}
    if metric in table.steps.columns and not metric.startswith("pass@"):
        if not force:
            ranges = {
                run_id: {row["reward_range"]}
                for run_id, row in runs.items()
                if isinstance(row.get("reward_range"), str)
            }
            _check_pooled(names, ranges, "reward range")
        rows, curve = _Rows(table.steps), _step_curve
    else:
        evals = _one_setting(_pick(table, benchmark, decoding), k=k, temperature=temperature)
        if not force:
            settings: dict[str, set[Any]] = {}
            known = evals[["run_id", "k", "temperature", "decoding"]].drop_duplicates()
            for run_id, *one in known.itertuples(index=False):
                settings.setdefault(run_id, set()).add(", ".join(map(str, one)))
            _check_pooled(names, settings, "k, temperature, decoding")
        rows, curve = _Rows(evals.sort_values("step", kind="stable")), _eval_curve
    groups: dict[str, list[Curve]] = {}
    for run_id, run in runs.items():
        made = curve(rows, rows.of(run_id), run, metric=metric, axis=axis)
        if made is not None:
            groups.setdefault(names[run_id], []).append(made)
    return groups


class _Rows:
    """A table as arrays, made once for all runs: pandas takes a millisecond for every run and column."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.by_run = frame.groupby("run_id", sort=False).indices
        self.columns: dict[str, np.ndarray] = {}

    def of(self, run_id: str) -> np.ndarray:
        """Positions of a run's rows."""
        return np.asarray(self.by_run.get(run_id, ()), dtype=np.intp)

    def __contains__(self, name: str) -> bool:
        return name in self.frame.columns

    def __call__(self, name: str, at: np.ndarray) -> np.ndarray:
        """A column at those positions."""
        if name not in self.columns:
            self.columns[name] = self.frame[name].to_numpy()
        return self.columns[name][at]

    def number(self, name: str, at: np.ndarray) -> np.ndarray:
        """A column at those positions as floats."""
        return self(name, at).astype(float)


def _check_axis_usable(table: RunTable, axis: str) -> None:
    if axis in ("gpu_hours", "pretraining_gpu_hours_ratio") and len(table.runs) and table.runs["shared"].any():
        shared = table.runs.loc[table.runs["shared"], "run_id"]
        raise ScalingError(
            f"GPU-hours cannot be an axis: {len(shared)} run(s), first {shared.iloc[0]}, shared their device with "
            "other runs, so their hours are noise; use axis='total_flops'"
        )


def _check_pooled(names: dict[str, str], settings: dict[str, set[Any]], what: str) -> None:
    """Refuse a group of runs that have no setting in common."""
    first: dict[str, str] = {}
    for run_id, name in names.items():
        if run_id not in settings:
            continue
        other = first.setdefault(name, run_id)
        if not settings[run_id] & settings[other]:
            raise ScalingError(
                f"runs {other} and {run_id} of group {name!r} cannot be pooled, their {what} differ: "
                f"{_words(settings[other])} and {_words(settings[run_id])}; group them apart, or pass force=True"
            )


def _pick(table: RunTable, benchmark: str | None, decoding: str | None) -> pd.DataFrame:
    """Evaluations of one benchmark under one decoding."""
    evals: Any = table.evals
    names = sorted(evals["benchmark"].unique()) if len(evals) else []
    if benchmark is None:
        if len(names) != 1:
            raise UnknownName(f"benchmark must be named, there are {len(names)}: {', '.join(names) or 'none'}")
        benchmark = names[0]
    if benchmark not in names:
        raise UnknownName(f"benchmark must be one of {', '.join(names) or '(none recorded)'}, got {benchmark!r}")
    known = sorted(evals.loc[evals["benchmark"] == benchmark, "decoding"].unique())
    if decoding is None:
        decoding = known[0] if len(known) == 1 else "sampled"
    part = evals[(evals["benchmark"] == benchmark) & (evals["decoding"] == decoding)]
    if part.empty:
        raise UnknownName(f"decoding of {benchmark} must be one of {', '.join(known)}, got {decoding!r}")
    return part


def _one_setting(evals: pd.DataFrame, *, k: int | None, temperature: float | None) -> pd.DataFrame:
    """Evaluations of one (k, temperature) a run: the one asked for, else the one with most evaluations, then largest k."""
    for name, wanted in (("k", k), ("temperature", temperature)):
        if wanted is not None:
            known = sorted(evals[name].dropna().unique())
            evals = evals[evals[name] == wanted]
            if evals.empty:
                raise UnknownName(
                    f"{name} must be one of {', '.join(f'{v:g}' for v in known) or '(none recorded)'}, got {wanted}"
                )
    sizes = evals.groupby(["run_id", "k", "temperature"], dropna=False, sort=True).size().reset_index(name="n")
    best = sizes.sort_values(["n", "k"], kind="stable").drop_duplicates("run_id", keep="last")
    if len(best) == len(sizes):
        return evals
    return evals.merge(best.drop(columns="n"), on=["run_id", "k", "temperature"], how="inner")


def _step_curve(rows: _Rows, at: np.ndarray, run: dict[str, Any], *, metric: str, axis: str) -> Curve | None:
    """Curve of a metric of the steps; None where the run lacks it."""
    at = at[~np.isnan(rows.number(metric, at))]
    if not at.size:
        return None
    x = _axis_values(rows.number("step" if axis == "step" else f"cumulative_{axis}", at), axis, run)
    return Curve(
        compute=x, performance=rows.number(metric, at), axis=axis, metric=metric, run_id=run["run_id"], labels=_labels(run),
    )  # fmt: skip


def _eval_curve(rows: _Rows, at: np.ndarray, run: dict[str, Any], *, metric: str, axis: str) -> Curve | None:
    """Curve of a held-out benchmark; None where the run was not evaluated on it."""
    if not at.size:
        return None
    x = _axis_values(rows.number(axis, at), axis, run)
    ks, sizes, successes = rows.number("k", at), rows.number("n_items", at), rows("successes", at)
    k = None if np.isnan(ks).any() else int(ks[0])
    counts = None
    if (
        k
        and not any(s is None or isinstance(s, float) for s in successes)
        and (ks == k).all()
        and (sizes == sizes[0]).all()
    ):
        counts = np.array(successes.tolist(), dtype=float)
    stderr: np.ndarray | None = None
    if metric == "pass@1":
        y, stderr = rows.number("pass@1", at), rows.number("stderr", at)
    elif metric in rows and not np.isnan(rows.number(metric, at)).any():
        y, counts = rows.number(metric, at), None
    elif metric.startswith("pass@") and metric[5:].isdigit():
        if counts is None or k is None:
            raise ScalingError(
                f"{metric} needs per-item success counts with one k throughout; run {run['run_id']} has none"
            )
        y = np.array([pass_at_k(row, k, int(metric[5:])).mean() for row in counts])
        counts = None  # they are counts of pass@1
    else:
        raise UnknownName(
            "metric must be pass@1, pass@k, completion_length, truncation_rate or a column of evals or steps, "
            f"got {metric!r}"
        )
    if stderr is not None and not np.all(np.isfinite(stderr)):
        stderr = None
    first = at[:1]
    measured = {  # how the scores were measured
        name: rows(column, first).tolist()[0]
        for name, column in (("benchmark",) * 2, ("decoding",) * 2, ("eval_temperature", "temperature"), ("k", "k"))
    }
    return Curve(
        compute=x, performance=y, stderr=stderr, axis=axis, metric=metric, run_id=run["run_id"], successes=counts,
        samples_per_item=k if counts is not None else None, labels=_labels(run) | measured,
    )  # fmt: skip


def _axis_values(x: np.ndarray, axis: str, run: dict[str, Any]) -> np.ndarray:
    if np.isnan(x).any():
        what = "pretraining cost" if axis.startswith("pretraining") else f"cost for axis {axis}"
        raise ScalingError(f"run {run['run_id']} has no {what}: record it in run.json (stages), or use another axis")
    return x


def _labels(run: dict[str, Any]) -> dict[str, Any]:
    keys = ("model", "params", "recipe_hash", "seed", "confidence", "accelerator", "trainer")
    return {
        key: run.get(key)
        for key in (*keys, "pretraining_comparable", "hyperparameters_tuned", "reward_range", *SETTINGS)
    }


def _words(values: set[Any]) -> str:
    return " | ".join(sorted(map(str, values)))
