"""What a report is about: runs grouped into size x recipe, their curves on every axis, and the fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from scaling.curve import Curve
from scaling.errors import ScalingError, UnknownName
from scaling.fitting import Fit, fit
from scaling.plot import Look, looks
from scaling.report.groups import Group, group_runs, main_benchmark, main_decoding
from scaling.runs import RunTable

__all__ = ["Analysis", "Group", "gather", "main_benchmark"]

FULL_RUNS = 24
PARALLEL_RUNS = 48
AXES = ("gpu_hours", "total_flops", "pretraining_flops_ratio")


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A fit seen on an axis that is ``factor`` x its own: exact, since compute enters every law as a ratio to a scale.

    It answers what figures ask: ``window`` and ``forecast``.
    """

    fit: Fit
    factor: float

    @property
    def window(self) -> tuple[float, float]:
        """Fitted window in the unit of the new axis."""
        low, high = self.fit.window
        return low * self.factor, high * self.factor

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
    evals: Any = table.evals
    if benchmark:
        evals = evals[(evals["benchmark"] == benchmark) & (evals["decoding"] == decoding)]
    scores = RunTable(table.runs, table.steps.iloc[:0], evals)  # all that the curves are made of
    for axis in AXES:
        found = {g.name: _curves_of(scores, g, axis, curves, notes) for g in groups} if benchmark else {}
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
    judged = "total_flops" if curves["total_flops"] else "gpu_hours"  # the axis of tables; others are drawn only
    factors = {g.name: _factor(curves["total_flops"], curves["gpu_hours"], g.name) for g in groups}
    work = [
        (axis, g.name, curves[axis][g.name], _after(curves, axis, g.name, fit_after))
        for axis in ("gpu_hours", "total_flops")
        for g in groups
        if g.name in curves[axis] and not (axis == "gpu_hours" and (g.shared or factors[g.name]))
    ]
    found = _fit_all([(c, law, after, draws, seed, axis == judged) for axis, _, c, after in work], processes)
    results = progress(found, len(work), "fitting curves") if progress else found
    for (axis, name, _, _), result in zip(work, results):
        if isinstance(result, str):
            notes.append(f"{name} was not fitted on {axis}: {result}")
        else:
            fits[axis][name] = result
    for group in groups:
        done, factor = fits["total_flops"].get(group.name), factors[group.name]
        if done is not None and factor and not group.shared:
            fits["gpu_hours"][group.name] = Rescaled(done, factor)
        if done is not None and group.name in curves["pretraining_flops_ratio"]:
            fits["pretraining_flops_ratio"][group.name] = Rescaled(done, 1 / group.pretraining_flops)
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
    curves, law, fit_after, draws, seed, judged = job
    try:
        found = fit(curves, law=law, fit_after=fit_after, draws=draws, seed=seed)
        if judged:
            str(found.status)  # where it is fitted: in a process of its own
        return found
    except UnknownName:
        raise
    except ScalingError as error:
        return str(error)


def _curves_of(
    scores: RunTable, group: Group, axis: str, known: Mapping[str, Mapping[str, list[Curve]]], notes: list[str]
) -> list[Curve]:
    """Curves of a group for display and fitting; runs that lack the axis are left out (the caller says so).

    Args:
        scores: evaluations on one benchmark under one decoding.
        group: whose curves.
        axis: the axis.
        known: curves on the axes before this one.
        notes: what could not be done is added.
    """
    evals: Any = scores.evals
    part: Any = evals[evals["run_id"].isin(group.run_ids)]
    part = part[part[axis].notna()]
    if axis != "pretraining_flops_ratio" and len(part) and not (part[axis] > 0).any():
        return []  # nothing was metered on this axis
    if part.empty:
        return []
    for other, curves in known.items():
        moved = _moved(curves.get(group.name, []), part, other, axis)
        if moved:
            return moved
    runs: Any = scores.runs[scores.runs["run_id"].isin(set(part["run_id"]))]
    if group.shared and axis == "gpu_hours":  # to be shown, never fitted
        runs = runs.assign(shared=False)
    try:
        grouped = RunTable(runs, scores.steps, part).curves(axis=axis, by="run_id")
    except ScalingError as error:
        notes.append(f"{group.name} is not shown on {axis}: {error}")
        return []
    return [curve for members in grouped.values() for curve in members]


def _moved(curves: list[Curve], part: Any, other: str, axis: str) -> list[Curve] | None:
    """Curves known on another axis with their compute replaced; None where they are not of the very same evaluations."""
    part = part.sort_values("step", kind="stable")
    rows, old, new = part.groupby("run_id", sort=False).indices, part[other].to_numpy(float), part[axis].to_numpy(float)
    out = []
    for curve in curves:
        at = rows.get(curve.run_id, [])
        if not np.array_equal(curve.compute, old[at]) or (np.diff(new[at]) < 0).any():
            return None
        out.append(replace(curve, compute=new[at], axis=axis))
    return out if len(out) == len(rows) else None


def _factor(flops: Mapping[str, list[Curve]], hours: Mapping[str, list[Curve]], name: str) -> float | None:
    """Hours for one FLOP, where that is the same at every evaluation of the group, as with derived costs; else None."""
    by_run = {c.run_id: c.compute for c in hours.get(name, [])}
    pairs = [(c.compute, by_run.get(c.run_id)) for c in flops.get(name, [])]
    if not pairs or len(pairs) != len(by_run) or any(h is None or h.shape != f.shape for f, h in pairs):
        return None
    f, h = (np.concatenate(side) for side in zip(*pairs))
    factor = float(h.sum() / f.sum()) if f.sum() > 0 else 0.0
    return factor if factor > 0 and np.allclose(h, factor * f, rtol=1e-9, atol=0.0) else None


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
