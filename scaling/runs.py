"""`load_runs` -> `RunTable`: three tidy tables of any number of runs, cost summed over restarts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling import records, run_cache
from scaling.columnar import ArrayCost, Columns, join, merge_columns
from scaling.cost import COST_FIELDS, ComputeCost
from scaling.curve import Curve, check_axis
from scaling.errors import RecordError, ScalingError, UnknownName
from scaling.metrics import pass_at_k, sampling_error

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunTable", "load_runs"]

# one run: its row of runs, its steps (rows, or columns where the file was plain), its rows of evals, what was skipped
Assembled = tuple[dict[str, Any], list[dict[str, Any]] | Columns, list[dict[str, Any]], list[records.Skipped]]

QUICK_BYTES = 1 << 14  # below this, reading line by line takes no time

AXIS_COLUMNS = (
    "gpu_hours", "total_flops", "tokens", "rollouts", "pretraining_flops_ratio", "pretraining_gpu_hours_ratio",
)  # fmt: skip


NO_STEPS = ["run_id", "step", "segment", "gpu_seconds", *COST_FIELDS]
NO_EVALS = ["run_id", "step", "benchmark", "decoding", "pass@1"]


@dataclass(frozen=True, eq=False)
class RunTable:
    """Runs, their steps and their evaluations as three tidy pandas tables.

    Attributes:
        runs: one row a run: ``run_id``, ``name``, ``model``, ``params``, ``recipe_hash``, ``base_hash``,
            ``accelerator``, ``devices``, ``shared``, ``pretraining_flops`` [FLOP], ``pretraining_gpu_hours`` [GPU h],
            ``gpu_hours`` [GPU h] (laws are fitted against it), ``gpu_hours_paid`` [GPU h] (the bill),
            ``redone_gpu_hours`` [GPU h], ``total_flops`` [FLOP], ``tokens`` [token], ``rollouts``, ``steps``,
            ``segments``, ``confidence``, ``path``.
        steps: one row an optimiser step (the newest where it was redone): ``run_id``, ``step``, ``segment``, the
            increments of cost by their names in `ComputeCost` plus ``gpu_seconds`` (without evaluation), the metrics
            (``reward``, ``completion_length``, ...), and the cumulative axes ``cumulative_<axis>``.
        evals: one row an evaluation: ``run_id``, ``step``, ``benchmark``, ``decoding``, ``temperature``, ``k``,
            ``n_items``, ``successes`` (per item), ``pass@1``, ``stderr``, ``completion_length``, ``truncation_rate``,
            and the cumulative axes by their names.
        skipped: lines that were not read, and why.
    """

    runs: pd.DataFrame
    steps: pd.DataFrame
    evals: pd.DataFrame
    skipped: tuple[records.Skipped, ...] = field(default=())

    def __repr__(self) -> str:
        lost = f", {len(self.skipped)} lines skipped (see .skipped)" if self.skipped else ""
        return f"RunTable({len(self.runs)} runs, {len(self.steps)} steps, {len(self.evals)} evaluations{lost})"

    def select(self, run_ids: Iterable[str]) -> RunTable:
        """The table of the named runs only."""
        keep = set(run_ids)
        return RunTable(
            runs=self.runs[self.runs["run_id"].isin(keep)].reset_index(drop=True),
            steps=self.steps[self.steps["run_id"].isin(keep)].reset_index(drop=True),
            evals=self.evals[self.evals["run_id"].isin(keep)].reset_index(drop=True),
            skipped=self.skipped,
        )

    def curves(
        self,
        *,
        benchmark: str | None = None,
        metric: str = "pass@1",
        axis: str = "gpu_hours",
        by: str | Sequence[str] | None = None,
        decoding: str | None = None,
        k: int | None = None,
        temperature: float | None = None,
        force: bool = False,
    ) -> dict[str, list[Curve]]:
        """Curves of a held-out benchmark, grouped.

        Args:
            benchmark: which benchmark; may be left out when there is one only.
            metric: ``pass@1``, ``pass@k`` (unbiased, k up to the samples taken), ``completion_length``,
                ``truncation_rate``, or a metric of the steps table such as ``reward``.
            axis: one of `scaling.curve.AXES`; a run that lacks it raises, it is never replaced by another.
            by: column(s) of ``runs`` whose values name the groups; each run alone by default.
            decoding: ``sampled`` or ``greedy``; default: sampled where it was recorded, else the one that was.
            k: samples a problem; where a run was evaluated with several, the default is the setting it was evaluated with
                most often (evaluation after the fact adds others), never a mixture.
            temperature: as ``k``.
            force: pool runs in a group although their evaluations differ in k, temperature, decoding or reward range.

        Returns:
            group name -> curves, one a run (seeds of one law, when ``by`` is the recipe and size).

        Raises:
            UnknownName: no such benchmark, metric, axis or column.
            ScalingError: the axis is not known for a run, its hours were metered on a shared device, or the runs of a
                group were evaluated or rewarded differently.

        Example:
            >>> table = load_runs("runs/demo")  # doctest: +SKIP
            >>> table.curves(axis="total_flops", by="model")  # doctest: +SKIP
        """
        check_axis(axis)
        columns = [by] if isinstance(by, str) else list(by or ["run_id"])
        for column in columns:
            if column not in self.runs.columns:
                raise UnknownName(f"by must be a column of runs ({', '.join(self.runs.columns)}), got {column!r}")
        self._check_axis_usable(axis)
        if metric in self.steps.columns and not metric.startswith("pass@"):
            if not force:
                ranges = dict(zip(self.runs["run_id"], self.runs.get("reward_range", [])))
                self._check_pooled(columns, {k: {v} for k, v in ranges.items() if isinstance(v, str)}, "reward range")
            return self._step_curves(metric, axis, columns)
        evals = _one_setting(self._pick(benchmark, decoding), k=k, temperature=temperature)
        if not force:
            settings: dict[str, set[Any]] = {}
            for run_id, *one in evals[["run_id", "k", "temperature", "decoding"]].itertuples(index=False):
                settings.setdefault(run_id, set()).add(", ".join(map(str, one)))
            self._check_pooled(columns, settings, "k, temperature, decoding")
        groups: dict[str, list[Curve]] = {}
        by_run = dict(list(evals.groupby("run_id", sort=False)))
        for row in self.runs.to_dict("records"):
            part = by_run.get(row["run_id"])
            if part is None:
                continue
            name = " ".join(str(row[c]) for c in columns)
            groups.setdefault(name, []).append(_eval_curve(part, row, metric=metric, axis=axis))
        return groups

    def _check_pooled(self, columns: list[str], settings: dict[str, set[Any]], what: str) -> None:
        """Refuse a group of runs that have no setting in common."""
        first: dict[str, str] = {}
        for row in self.runs.to_dict("records"):
            run_id, name = row["run_id"], " ".join(str(row[c]) for c in columns)
            if run_id not in settings:
                continue
            other = first.setdefault(name, run_id)
            if not settings[run_id] & settings[other]:
                raise ScalingError(
                    f"runs {other} and {run_id} of group {name!r} cannot be pooled, their {what} differ: "
                    f"{_words(settings[other])} and {_words(settings[run_id])}; group them apart, or pass force=True"
                )

    def _pick(self, benchmark: str | None, decoding: str | None) -> pd.DataFrame:
        names = sorted(self.evals["benchmark"].unique()) if len(self.evals) else []
        if benchmark is None:
            if len(names) != 1:
                raise UnknownName(f"benchmark must be named, there are {len(names)}: {', '.join(names) or 'none'}")
            benchmark = names[0]
        if benchmark not in names:
            raise UnknownName(f"benchmark must be one of {', '.join(names) or '(none recorded)'}, got {benchmark!r}")
        known = sorted(self.evals.loc[self.evals["benchmark"] == benchmark, "decoding"].unique())
        if decoding is None:
            decoding = known[0] if len(known) == 1 else "sampled"
        part = self.evals[(self.evals["benchmark"] == benchmark) & (self.evals["decoding"] == decoding)]
        if part.empty:
            raise UnknownName(f"decoding of {benchmark} must be one of {', '.join(known)}, got {decoding!r}")
        return part

    def _check_axis_usable(self, axis: str) -> None:
        if axis in ("gpu_hours", "pretraining_gpu_hours_ratio") and len(self.runs) and self.runs["shared"].any():
            shared = self.runs.loc[self.runs["shared"], "run_id"]
            raise ScalingError(
                f"GPU-hours cannot be an axis: {len(shared)} run(s), first {shared.iloc[0]}, shared their device with "
                "other runs, so their hours are noise; use axis='total_flops'"
            )

    def _step_curves(self, metric: str, axis: str, columns: list[str]) -> dict[str, list[Curve]]:
        groups: dict[str, list[Curve]] = {}
        by_run = dict(list(self.steps.groupby("run_id", sort=False)))
        for row in self.runs.to_dict("records"):
            part = by_run.get(row["run_id"])
            if part is None:
                continue
            part = part[part[metric].notna()]
            if part.empty:
                continue
            column = "step" if axis == "step" else f"cumulative_{axis}"
            x = _axis_values(part[column].to_numpy(float), axis, row)
            curve = Curve(
                compute=x, performance=part[metric].to_numpy(float), axis=axis, metric=metric, run_id=row["run_id"],
                labels=_labels(row),
            )  # fmt: skip
            groups.setdefault(" ".join(str(row[c]) for c in columns), []).append(curve)
        return groups


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


def load_runs(path: str | Path | Iterable[str | Path], *, strict: bool = False) -> RunTable:
    """Load run directories into a `RunTable`.

    Args:
        path: a run directory, a folder that holds some at any depth, or several of these.
        strict: raise on the first bad line instead of counting it in ``RunTable.skipped``.

    Returns:
        The runs found, sorted by path.

    Raises:
        RecordError: no run directory is found, a run.json cannot be read, or (strict) a line is bad.

    Example:
        >>> load_runs("runs/demo")  # doctest: +SKIP
        RunTable(3 runs, 360 steps, 72 evaluations)
    """
    paths = [Path(path)] if isinstance(path, (str, Path)) else [Path(p) for p in path]
    found = [run for p in paths for run in find_runs(p)]
    if not found:
        raise RecordError(f"no run directory (a folder with run.json) under {', '.join(map(str, paths)) or 'no path'}")
    table = run_cache.load(found, lambda: build_table(_load_all(found)))
    return build_table(_load_all(found), strict=True) if strict and table.skipped else table  # raises, naming the run


def build_table(parts: Iterable[Assembled], *, strict: bool = False) -> RunTable:
    """Join runs as `assemble` returns them: the one way a `RunTable` comes to be, from disk or from a foreign log.

    Raises:
        RecordError: two runs share an id, or (strict) a line is bad.
    """
    import pandas as pd

    runs, rows, columns, evals, skipped, seen = [], [], [], [], [], {}
    for row, step_rows, eval_rows, bad in parts:
        if row["run_id"] in seen:
            raise RecordError(
                f"run id {row['run_id']} is in {seen[row['run_id']]} and in {row['path']}: load one of them"
            )
        seen[row["run_id"]] = row["path"]
        if strict and bad:
            raise RecordError(f"{row['path']}: {bad[0]}")
        runs.append(row)
        if isinstance(step_rows, list) and step_rows and columns:  # runs stay in their order
            columns.append((row["run_id"], _columns_of(step_rows)))
        elif isinstance(step_rows, list):
            rows.extend(step_rows)
        else:
            if rows:
                columns += [(i, _columns_of(list(part))) for i, part in groupby(rows, key=lambda r: r["run_id"])]
                rows = []
            columns.append((row["run_id"], step_rows))
        evals.extend(eval_rows)
        skipped.extend(bad)
    return RunTable(
        runs=pd.DataFrame(runs),
        steps=pd.DataFrame(join(columns)) if columns else pd.DataFrame(rows, columns=None if rows else NO_STEPS),
        evals=pd.DataFrame(evals, columns=None if evals else NO_EVALS),
        skipped=tuple(skipped),
    )


def find_runs(path: Path) -> list[Path]:
    """Run directories at or below ``path``, sorted; a run directory is not searched further."""
    if not path.exists():
        raise RecordError(f"{path} must exist")
    if records.is_run(path):
        return [path]
    out: list[Path] = []
    for child in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        out.extend(find_runs(child))
    return out


def _load_all(found: Sequence[Path]) -> Iterable[Assembled]:
    """Every run in order; parsing leaves the interpreter, so a few threads help."""
    if len(found) < 4:
        return [_load_one(path) for path in found]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(_load_one, found))


def _load_one(path: Path) -> Assembled:
    record = records.read_run(path)
    eval_lines, bad_evals = records.read_lines(path / records.EVALS)
    quick = _quick_steps(record, path / records.STEPS)
    if quick is not None:
        return _complete(record, *quick, eval_lines, path=path, bad=bad_evals)
    step_lines, bad_steps = records.read_lines(path / records.STEPS)
    return assemble(record, step_lines, eval_lines, path=path, skipped=[*bad_steps, *bad_evals])


def _quick_steps(record: records.RunRecord, path: Path) -> tuple[Columns, ComputeCost, ComputeCost] | None:
    """Steps of a plain file as columns, cost in all, cost redone; None where it must be read line by line."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(raw) < QUICK_BYTES:
        return None
    unknown = frozenset(record.provenance.get("unknown_axes") or ())
    pre = record.pretraining() or {}

    merged = merge_columns(
        raw, _kept_until(record), lambda cost: _axes(cost, pre.get("flops"), pre.get("gpu_hours"), unknown)
    )
    return None if merged is None else (merged.columns, merged.total, merged.redone)


def assemble(
    record: records.RunRecord,
    step_lines: Iterable[tuple[dict[str, Any], int]],
    eval_lines: Iterable[tuple[dict[str, Any], int]],
    *,
    path: Path,
    skipped: Iterable[records.Skipped] = (),
) -> Assembled:
    """One run's row, step rows and evaluation rows from its record and its lines with their numbers.

    ``record.provenance["unknown_axes"]`` names axes whose cost the run's log does not hold: they are NaN, never 0.
    """
    bad = list(skipped)
    unknown = frozenset(record.provenance.get("unknown_axes") or ())
    kept_until = _kept_until(record)
    costs: dict[tuple[int, int], dict[str, float]] = {}
    metrics: dict[tuple[int, int], dict[str, Any]] = {}
    redone = ComputeCost()
    for row, number in step_lines:
        reason = records.check_step(row)
        if reason:
            bad.append(records.Skipped(records.STEPS, number, reason))
            continue
        segment, step = row.get("segment", 0), row["step"]
        if step > kept_until.get(segment, math.inf):
            redone = redone + ComputeCost(**row.get("cost", {}))
            continue
        total = costs.setdefault((step, segment), {})
        for key, value in row.get("cost", {}).items():
            total[key] = total.get(key, 0) + value
        metrics.setdefault((step, segment), {}).update(row.get("metrics", {}))
    pre = record.pretraining() or {}
    pre_flops, pre_hours = pre.get("flops"), pre.get("gpu_hours")
    steps, total = [], ComputeCost()
    for key in sorted(costs):
        cost = ComputeCost(**costs[key])
        total = total + cost
        if not metrics[key]:  # a line of pure cost (start-up, evaluation after the last step) is no step of its own
            if key[0] == 0 or any((key[0], s) in metrics and metrics[key[0], s] for s in range(key[1] + 1)):
                continue
        row = {"run_id": record.run_id, "step": key[0], "segment": key[1]}
        row |= {name: getattr(cost, name) for name in COST_FIELDS} | {"gpu_seconds": cost.gpu_seconds}
        row |= {f"cumulative_{a}": v for a, v in _axes(total, pre_flops, pre_hours, unknown).items()}
        steps.append(row | metrics[key])
    return _complete(record, steps, total, redone, eval_lines, path=path, bad=bad)


def _kept_until(record: records.RunRecord) -> dict[int, float]:
    """The last step of each segment that was kept: later segments restart from their checkpoint."""
    resumed = {i: s.get("resumed_from") for i, s in enumerate(record.segments)}
    return {
        i: min((r for j, r in resumed.items() if j > i and r is not None), default=math.inf)
        for i in range(len(resumed) + 1)
    }


def _complete(
    record: records.RunRecord,
    steps: list[dict[str, Any]] | Columns,
    total: ComputeCost,
    redone: ComputeCost,
    eval_lines: Iterable[tuple[dict[str, Any], int]],
    *,
    path: Path,
    bad: list[records.Skipped],
) -> Assembled:
    """Evaluations and the run's own row, once its steps are merged."""
    unknown = frozenset(record.provenance.get("unknown_axes") or ())
    kept_until = _kept_until(record)
    pre = record.pretraining() or {}
    pre_flops, pre_hours = pre.get("flops"), pre.get("gpu_hours")
    evals: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row, number in eval_lines:
        reason = records.check_eval(row)
        if reason:
            bad.append(records.Skipped(records.EVALS, number, reason))
            continue
        if row["step"] > kept_until.get(row.get("segment", 0), math.inf):
            continue  # its step was redone from an earlier checkpoint and evaluated again
        out = _eval_row(record.run_id, row, pre_flops, pre_hours, unknown)
        evals[out["benchmark"], out["decoding"], out["k"], out["temperature"], out["step"]] = out  # newest wins
    run = {
        "run_id": record.run_id, "name": record.name or path.name, "sweep": record.sweep,
        "model": record.model.get("name", ""), "params": record.model.get("params", math.nan),
        "recipe_hash": record.recipe_hash, "base_hash": record.base_hash,
        "seed": (record.config.get("seed") if isinstance(record.config, dict) else None),
        "accelerator": record.accelerator, "devices": record.devices, "shared": bool(record.shared),
        "pretraining_flops": math.nan if pre_flops is None else pre_flops,
        "pretraining_gpu_hours": math.nan if pre_hours is None else pre_hours,
        "pretraining_tokens": _number(pre.get("tokens")),
        "pretraining_loss": _number(pre.get("validation_loss", pre.get("loss"))),
        "pretraining_comparable": bool(pre.get("comparable", True)),
        "hyperparameters_tuned": _tuned(record.config),
        "pretraining_source": pre.get("source", ""),
        "gpu_hours": total.gpu_hours, "gpu_hours_paid": total.gpu_hours_paid + redone.gpu_hours_paid,
        "redone_gpu_hours": redone.gpu_hours_paid,
        "total_flops": total.total_flops, "tokens": total.tokens, "rollouts": total.rollouts,
        "steps": max((r["step"] for r in steps), default=0) if isinstance(steps, list) else int(max(steps["step"])), "segments": len(record.segments),
        "status": record.status, "confidence": record.confidence,
        "trainer": record.provenance.get("trainer", ""), "path": str(path),
        "reward_range": _text((record.provenance.get("semantics") or {}).get("reward_range")),
    } | _settings(record.config)  # fmt: skip
    run |= {f"total_{name}": getattr(total, name) for name in COST_FIELDS if name.endswith("flops")}
    run |= dict.fromkeys(unknown & run.keys(), math.nan)
    if "gpu_hours" in unknown:
        run["gpu_hours_paid"] = math.nan
    return run, steps, list(evals.values()), bad


def _columns_of(rows: list[dict[str, Any]]) -> Columns:
    """Rows as columns, as pandas would make them; ``run_id`` is left out."""
    import pandas as pd

    frame = pd.DataFrame(rows).drop(columns="run_id")
    return {name: frame[name].to_numpy() if frame[name].dtype.kind in "iuf" else frame[name].tolist() for name in frame}


def _words(values: set[Any]) -> str:
    return " | ".join(sorted(map(str, values)))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _axes(
    cost: ComputeCost | ArrayCost, pre_flops: float | None, pre_hours: float | None, unknown: frozenset[str]
) -> dict[str, Any]:
    axes = {
        "gpu_hours": cost.gpu_hours,
        "total_flops": cost.total_flops,
        "tokens": cost.tokens,
        "rollouts": cost.rollouts,
        "pretraining_flops_ratio": cost.total_flops / pre_flops if pre_flops else math.nan,
        "pretraining_gpu_hours_ratio": cost.gpu_hours / pre_hours if pre_hours else math.nan,
    }
    for name, ratio in (("total_flops", "pretraining_flops_ratio"), ("gpu_hours", "pretraining_gpu_hours_ratio")):
        if name in unknown:
            axes[ratio] = math.nan
    return axes | dict.fromkeys(unknown & axes.keys(), math.nan)


def _eval_row(
    run_id: str, row: dict[str, Any], pre_flops: float | None, pre_hours: float | None, unknown: frozenset[str]
) -> dict[str, Any]:
    sampling = row.get("sampling") or {}
    counts, k = row.get("successes"), row.get("k")
    cost = ComputeCost(**row.get("cost", {}))
    out: dict[str, Any] = {
        "run_id": run_id, "step": row["step"], "segment": row.get("segment", 0), "benchmark": row["benchmark"],
        "decoding": sampling.get("decoding", "sampled"), "temperature": sampling.get("temperature"),
        "k": k, "n_items": len(counts) if counts is not None else row.get("n_items"),
        "successes": counts,
        "completion_length": row.get("completion_length", math.nan),
        "truncation_rate": row.get("truncation_rate", math.nan),
    }  # fmt: skip
    if counts is not None and k:
        out["pass@1"] = float(np.mean(counts)) / k if counts else math.nan
        out["stderr"] = sampling_error(counts, k)
    else:
        out["pass@1"], out["stderr"] = row.get("score", math.nan), row.get("stderr", math.nan)
    # further scores of the same samples: maj@8, best@8, pass@8 as a foreign trainer computed it
    return row.get("metrics", {}) | out | _axes(cost, pre_flops, pre_hours, unknown)


def _eval_curve(part: pd.DataFrame, run: dict[str, Any], *, metric: str, axis: str) -> Curve:
    part = part.sort_values("step", kind="stable")
    x = part["step"].to_numpy(float) if axis == "step" else part[axis].to_numpy(float)
    x = _axis_values(x, axis, run)
    k = int(part["k"].iloc[0]) if part["k"].notna().all() else None
    counts = None
    if k and part["successes"].notna().all() and part["k"].nunique() == 1 and part["n_items"].nunique() == 1:
        counts = np.array(part["successes"].tolist(), dtype=float)
    stderr: np.ndarray | None = None
    if metric == "pass@1":
        y, stderr = part["pass@1"].to_numpy(float), part["stderr"].to_numpy(float)
    elif metric in part.columns and part[metric].notna().all():
        y, counts = part[metric].to_numpy(float), None
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
    return Curve(
        compute=x, performance=y, stderr=stderr, axis=axis, metric=metric, run_id=run["run_id"], successes=counts,
        samples_per_item=k if counts is not None else None, labels=_labels(run) | _measured(part),
    )  # fmt: skip


def _measured(part: pd.DataFrame) -> dict[str, Any]:
    """How a curve's scores were measured."""
    first = part.iloc[0]
    return {
        "benchmark": first["benchmark"],
        "decoding": first["decoding"],
        "eval_temperature": first["temperature"],
        "k": first["k"],
    }


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


# settings of a run that tell recipes apart, by their place in its configuration
SETTINGS = {
    "task": ("task", "name"),
    "group_size": ("grpo", "group_size"),
    "updates_per_rollout": ("grpo", "updates_per_rollout"),
    "temperature": ("grpo", "temperature"),
    "top_p": ("grpo", "top_p"),
    "max_completion_length": ("grpo", "max_completion_length"),
}


def _settings(config: Any) -> dict[str, Any]:
    """The `SETTINGS` of a run; None where its configuration (a foreign one) does not say."""
    out = dict.fromkeys(SETTINGS)
    for name, (group, key) in SETTINGS.items():
        part = config.get(group) if isinstance(config, dict) else None
        if isinstance(part, dict):
            out[name] = part.get(key)
    return out


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _tuned(config: Any) -> bool | None:
    """Whether hyperparameters were tuned for this size; None where the configuration does not say."""
    model = config.get("model") if isinstance(config, dict) else None
    hyper = model.get("hyperparameters") if isinstance(model, dict) else None
    return hyper.get("tuned") if isinstance(hyper, dict) else None
