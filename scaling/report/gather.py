"""What a report is about: runs grouped into size x recipe, their curves on every axis, and the fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from scaling._checks import check_draws, check_seed
from scaling.curve import Curve
from scaling.errors import ScalingError
from scaling.fitting import Fit
from scaling.laws import law_named
from scaling.plot import Look, looks
from scaling.report.fitting import AXES, Fitting, Rescaled
from scaling.report.groups import Group, group_runs, main_benchmark, main_decoding
from scaling.runs import RunTable

__all__ = ["Analysis", "Group", "Rescaled", "collect", "gather", "main_benchmark"]

FULL_RUNS = 24


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything the sections of a report read.

    Attributes:
        table: the runs.
        benchmark: the held-out benchmark that is fitted, or None where there is none.
        groups: in order of size, then recipe.
        curves: axis -> group name -> curves of pass@1, one a run; an axis is missing where no run has it.
        fits: axis -> group name -> fit; empty until they are made.
        notes: what could not be done, and why, one line each.
        decoding: under which the fitted scores were taken.
        settings: law, draws, seed, fit_after: what the fits were asked for.
    """

    table: RunTable
    benchmark: str | None
    groups: tuple[Group, ...]
    curves: Mapping[str, Mapping[str, list[Curve]]]
    fits: Mapping[str, Mapping[str, Fit | Rescaled]] = field(default_factory=dict)
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
                    labels={
                        "model": g.model,
                        "params": g.params,
                        "recipe_hash": g.recipe_hash,
                        "pretraining_flops": g.pretraining_flops,
                    },
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

    def with_fits(
        self,
        fitting: Fitting,
        progress: Callable[[Iterable[Any], int, str], Iterable[Any]] | None = None,
    ) -> Analysis:
        """The same with its fits, once they are made."""
        fits, notes = fitting.finish(progress)
        return replace(self, fits=fits, notes=(*self.notes, *notes))

    @property
    def fitted(self) -> dict[str, Fit]:
        """Fits on the axis of tables that were not refused."""
        return {k: f for k, f in self.fits.get(self.axis, {}).items() if isinstance(f, Fit) and f.draws.size}

    @property
    def axis(self) -> str:
        """The axis of tables: total_flops, or GPU-hours where no run has FLOPs."""
        return "total_flops" if self.curves.get("total_flops") or not self.curves.get("gpu_hours") else "gpu_hours"


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
    """Group the runs, collect the curves on every axis and fit them: `collect`, then `Fitting`.

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
    collected = collect(table, benchmark=benchmark, law=law, fit_after=fit_after, draws=draws, seed=seed, full=full)
    with Fitting(collected.curves, collected.groups, collected.settings, processes=processes) as fitting:
        return collected.with_fits(fitting, progress)


def collect(
    table: RunTable,
    *,
    benchmark: str | None = None,
    law: str = "ensemble",
    fit_after: float | None = None,
    draws: int = 400,
    seed: int = 0,
    full: bool | None = None,
) -> Analysis:
    """`gather` without the fits: groups, curves and settings."""
    if law != "ensemble":
        law_named(law)  # an unknown one is an error, not a report without fits
    check_draws(draws)
    check_seed(seed)
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
    return Analysis(
        table,
        benchmark,
        tuple(groups),
        curves,
        notes=tuple(notes),
        settings={
            "law": law,
            "draws": draws,
            "seed": seed,
            "fit_after": fit_after,
            "level": 0.9,
            "full": len(table.runs) <= FULL_RUNS if full is None else full,
        },
        decoding=decoding,
    )


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


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
