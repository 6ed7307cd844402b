"""What a report is about: runs grouped into size x recipe, their curves on every axis, and the fits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scaling import records
from scaling.curve import Curve
from scaling.errors import RecordError, ScalingError, UnknownName
from scaling.fitting import Fit, fit
from scaling.plot import Look, looks
from scaling.runs import RunTable

__all__ = ["Analysis", "Group", "gather", "main_benchmark"]

FULL_RUNS = 24
PARALLEL_RUNS = 48
AXES = ("gpu_hours", "total_flops", "pretraining_flops_ratio")
BASE_DECODINGS = ("greedy", "forced_trace")  # and maj@k: a base's best decoding at step 0

# keys of a configuration that never tell recipes apart
_NOT_RECIPE = (
    "seed",
    "model",
    "budget",
    "cluster",
    "tracking",
    "eval",
    "launch",
    "hydra",
    "pretrain",
    "output",
    "name",
    "sweep",
)


@dataclass(frozen=True)
class Group:
    """Runs of one law: the same model, pretraining and recipe, differing in seeds."""

    name: str
    model: str
    params: float
    recipe: str
    recipe_hash: str
    pretraining_flops: float
    run_ids: tuple[str, ...]
    shared: bool


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A fit seen on an axis that is ``factor`` x its own: exact, since compute enters every law as a ratio to a scale.

    It answers what figures ask: ``window``, ``identified`` and ``forecast``.
    """

    fit: Fit
    factor: float

    @property
    def window(self) -> tuple[float, float]:
        """Fitted window in the unit of the new axis."""
        low, high = self.fit.window
        return low * self.factor, high * self.factor

    @property
    def identified(self) -> bool:
        """Of the fit itself."""
        return self.fit.identified

    def forecast(self, compute: Any, *, level: float = 0.9) -> Any:
        """The fit's forecast at the same compute in its own unit."""
        return self.fit.forecast(np.asarray(compute, dtype=float) / self.factor, level=level)


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything the sections of a report read.

    Attributes:
        table: the runs.
        benchmark: the held-out benchmark that is fitted, or None where there is none.
        groups: in order of size, then recipe.
        curves: axis -> group name -> curves of pass@1, one a run; an axis is missing where no run has it.
        fits: axis -> group name -> fit.
        notes: what could not be done, and why, one line each.
        decoding: under which the fitted scores were taken.
        settings: law, draws, seed, fit_after: what the fits were asked for.
    """

    table: RunTable
    benchmark: str | None
    groups: tuple[Group, ...]
    curves: Mapping[str, Mapping[str, list[Curve]]]
    fits: Mapping[str, Mapping[str, Fit | Rescaled]]
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    decoding: str = "sampled"

    @cached_property
    def style(self) -> dict[str, Look]:
        """How each group is drawn, the same in every figure."""
        named = {
            g.name: [
                Curve(
                    compute=[],
                    performance=[],
                    labels={"model": g.model, "params": g.params, "recipe_hash": g.recipe_hash},
                )
            ]
            for g in self.groups
        }
        return looks(named)

    @cached_property
    def rows_by_run(self) -> dict[str, np.ndarray]:
        """Positions of each run's rows in the steps table."""
        steps: Any = self.table.steps
        return {str(run): np.asarray(rows) for run, rows in steps.groupby("run_id", sort=False).indices.items()}

    @property
    def fitted(self) -> dict[str, Fit]:
        """Fits on the axis of tables that were not refused."""
        return {k: f for k, f in self.fits.get(self.axis, {}).items() if isinstance(f, Fit) and f.draws.size}

    @property
    def axis(self) -> str:
        """The axis of tables: total_flops, or GPU-hours where no run has FLOPs."""
        return "total_flops" if self.fits.get("total_flops") or not self.fits.get("gpu_hours") else "gpu_hours"


def gather(
    table: RunTable,
    *,
    benchmark: str | None = None,
    law: str = "ensemble",
    fit_after: float | None = None,
    draws: int = 400,
    seed: int = 0,
    full: bool | None = None,
    processes: int = 1,
    progress: Callable[[Iterable[Any], int, str], Iterable[Any]] | None = None,
) -> Analysis:
    """Group the runs, collect the curves on every axis and fit them.

    Args:
        table: the runs.
        benchmark: which held-out benchmark to fit; by default the one that most runs have.
        law: as for `scaling.fit`.
        fit_after: leave out evaluations before this compute, in the unit of ``total_flops`` [FLOP]; on the other axes the
            evaluations of the same steps are left out.
        draws: draws behind the intervals [1].
        seed: of the draws.
        full: whether the report also back-tests its forecasts and compares recipes, which fits each group three times
            more; by default with at most 24 runs.
        processes: fits are shared among so many processes where there are many; the numbers are the same.
        progress: wraps the iteration over fits, for a progress bar: ``progress(items, total, label)``.

    Raises:
        UnknownName: the benchmark is not among those recorded.
    """
    notes: list[str] = []
    benchmark = main_benchmark(table, benchmark, notes)
    decoding = main_decoding(table, benchmark, notes)
    groups = group_runs(table)
    curves: dict[str, dict[str, list[Curve]]] = {}
    for axis in AXES:
        found = {g.name: _curves_of(table, g, benchmark, decoding, axis, notes) for g in groups} if benchmark else {}
        curves[axis] = {name: members for name, members in found.items() if members}
        lacking = [name for name, members in found.items() if not members]
        if lacking and benchmark:
            what = "pretraining FLOPs" if axis.startswith("pretraining") else axis
            notes.append(f"no {what} known for {_some(lacking)}: not shown on that axis")
    shared = [g.name for g in groups if g.shared]
    if shared:
        notes.append(
            f"{_some(shared)} shared a device with other runs: GPU-hours are shown but not fitted; FLOPs are fitted"
        )
    fits: dict[str, dict[str, Any]] = {axis: {} for axis in AXES}
    work = [
        (axis, g.name, curves[axis][g.name], _after(curves, axis, g.name, fit_after))
        for axis in ("gpu_hours", "total_flops")
        for g in groups
        if g.name in curves[axis] and not (axis == "gpu_hours" and g.shared)
    ]
    found = _fit_all([(c, law, after, draws, seed) for _, _, c, after in work], processes)
    results = progress(found, len(work), "fitting curves") if progress else found
    for (axis, name, _, _), result in zip(work, results):
        if isinstance(result, str):
            notes.append(f"{name} was not fitted on {axis}: {result}")
        else:
            fits[axis][name] = result
    for group in groups:
        if group.name in fits["total_flops"] and group.name in curves["pretraining_flops_ratio"]:
            scaled = Rescaled(fits["total_flops"][group.name], 1 / group.pretraining_flops)
            fits["pretraining_flops_ratio"][group.name] = scaled
    return Analysis(
        table,
        benchmark,
        tuple(groups),
        curves,
        fits,
        tuple(notes),
        {
            "law": law,
            "draws": draws,
            "seed": seed,
            "fit_after": fit_after,
            "level": 0.9,
            "full": len(table.runs) <= FULL_RUNS if full is None else full,
        },
        decoding,
    )


def _fit_all(work: list[tuple[Any, ...]], processes: int) -> Iterator[Fit | str]:
    """Fits in order, or why there is none; over several processes where that is asked for and worth their start."""
    if processes <= 1 or sum(len(curves) for curves, *_ in work) < PARALLEL_RUNS:
        yield from map(_fit_one, work)
        return
    with ProcessPoolExecutor(min(processes, len(work))) as pool:
        yield from pool.map(_fit_one, work)


def _fit_one(job: tuple[Any, ...]) -> Fit | str:
    curves, law, fit_after, draws, seed = job
    try:
        found = fit(curves, law=law, fit_after=fit_after, draws=draws, seed=seed)
        str(found.status)  # judged where it is fitted
        return found
    except UnknownName:
        raise
    except ScalingError as error:
        return str(error)


def main_benchmark(table: RunTable, benchmark: str | None, notes: list[str] | None = None) -> str | None:
    """The benchmark asked for, else the one that most runs (then most evaluations) have; None where there is none."""
    sampled: Any = table.evals
    if len(sampled) and (sampled["step"] > 0).any():
        sampled = sampled[sampled["step"] > 0]
    if benchmark is not None:
        known = sorted(sampled["benchmark"].unique()) if len(sampled) else []
        if benchmark not in known:
            raise UnknownName(f"benchmark must be one of {', '.join(known) or '(none recorded)'}, got {benchmark!r}")
        return benchmark
    if not len(sampled):
        if notes is not None:
            notes.append("no held-out evaluation is recorded: nothing can be fitted")
        return None
    counts: Any = sampled.groupby("benchmark").agg(runs=("run_id", "nunique"), rows=("run_id", "size"))
    best = counts.sort_values(["runs", "rows"], ascending=False, kind="stable").index[0]
    if len(counts) > 1 and notes is not None:
        notes.append(f"of {len(counts)} benchmarks {best} is fitted; choose another with --benchmark")
    return str(best)


def main_decoding(table: RunTable, benchmark: str | None, notes: list[str]) -> str:
    """``sampled`` where trained models were sampled on the benchmark, else the decoding most used on them."""
    evals: Any = table.evals
    if benchmark is None:
        return "sampled"
    part = evals[(evals["benchmark"] == benchmark) & (evals["step"] > 0)]
    counts = part["decoding"].value_counts()
    if "sampled" in counts.index or not len(counts):
        return "sampled"
    notes.append(f"no trained model was sampled on {benchmark}: its scores are under {counts.index[0]} decoding")
    return str(counts.index[0])


def group_runs(table: RunTable) -> list[Group]:
    """Runs grouped by model, pretraining FLOPs and recipe, in order of parameters."""
    names = recipe_names(table)
    runs = table.runs
    keyed: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in runs.to_dict("records"):
        flops = float(row["pretraining_flops"])
        key = (str(row["model"] or row["name"]), None if math.isnan(flops) else flops, str(row["recipe_hash"]))
        keyed.setdefault(key, []).append(row)
    sizes = {key[0]: len({k[1] for k in keyed if k[0] == key[0]}) for key in keyed}
    recipes = {key[2] for key in keyed}
    out, used = [], set()
    for (model, flops, recipe), rows in keyed.items():
        name = model or "run"
        if sizes[model] > 1:
            name += f" · {flops:.2g} pretraining FLOPs" if flops else " · pretraining unknown"
        if len(recipes) > 1:
            name += f" · {names[recipe]}"
        while name in used:  # two recipes may differ in nothing the configuration shows
            name += f" · {recipe[:6] or 'other'}"
        used.add(name)
        out.append(
            Group(
                name,
                model,
                float(rows[0]["params"]),
                names[recipe],
                recipe,
                math.nan if flops is None else flops,
                tuple(r["run_id"] for r in rows),
                any(r["shared"] for r in rows),
            )
        )
    return sorted(
        out, key=lambda g: (g.params if math.isfinite(g.params) else math.inf, g.model, g.pretraining_flops, g.recipe)
    )


def recipe_names(table: RunTable) -> dict[str, str]:
    """Recipe hash -> a short name made of the settings in which the recipes differ.

    Example:
        >>> recipe_names(table)  # doctest: +SKIP
        {'9c1f': 'grpo.loss_type=dapo', '77ab': 'grpo.loss_type=cispo'}
    """
    configs: dict[str, dict[str, str]] = {}
    for row in table.runs.drop_duplicates("recipe_hash").to_dict("records"):
        try:
            config = records.read_run(Path(row["path"])).config if row.get("path") else {}
        except (RecordError, OSError):  # imported or moved: the hash still names it
            config = {}
        configs[str(row["recipe_hash"])] = _flat(config)
    keys = sorted({key for config in configs.values() for key in config})
    differing = [key for key in keys if len({config.get(key) for config in configs.values()}) > 1]
    out = {}
    for recipe, config in configs.items():
        text = ", ".join(f"{key}={config.get(key, 'unset')}" for key in differing[:3])
        out[recipe] = text or (f"recipe {recipe[:8]}" if recipe else "recipe unknown")
    return out


def _flat(config: Any, prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for key, value in (config or {}).items() if isinstance(config, Mapping) else ():
        if not prefix and str(key) in _NOT_RECIPE:
            continue
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return out


def _curves_of(
    table: RunTable, group: Group, benchmark: str | None, decoding: str, axis: str, notes: list[str]
) -> list[Curve]:
    """Curves of a group for display and fitting; runs that lack the axis are left out (the caller says so)."""
    evals: Any = table.evals
    part: Any = evals[
        evals["run_id"].isin(group.run_ids) & (evals["benchmark"] == benchmark) & (evals["decoding"] == decoding)
    ]
    part = part[part[axis].notna()]
    if axis != "pretraining_flops_ratio" and len(part) and not (part[axis] > 0).any():
        return []  # nothing was metered on this axis
    if part.empty:
        return []
    usable = table.select(part["run_id"].unique())
    if group.shared and axis == "gpu_hours":  # to be shown, never fitted
        usable = RunTable(usable.runs.assign(shared=False), usable.steps, usable.evals)
    try:
        grouped = usable.curves(benchmark=benchmark, axis=axis, by="run_id", decoding=decoding)
    except ScalingError as error:
        notes.append(f"{group.name} is not shown on {axis}: {error}")
        return []
    return [curve for members in grouped.values() for curve in members]


def _after(
    curves: Mapping[str, Mapping[str, list[Curve]]], axis: str, name: str, fit_after: float | None
) -> float | None:
    """The same cut in the unit of ``axis``: the first evaluation kept on total_flops is the first kept here."""
    if fit_after is None or axis == "total_flops":
        return fit_after
    by_flops = {c.run_id: c for c in curves["total_flops"].get(name, [])}
    cuts = []
    for curve in curves[axis][name]:
        other = by_flops.get(curve.run_id)
        if other is not None and (other.compute >= fit_after).any() and len(other) == len(curve):
            cuts.append(curve.compute[(other.compute >= fit_after).argmax()])
    return float(min(cuts)) if cuts else None


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
