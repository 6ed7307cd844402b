"""Fits of a report's groups on every axis, over several processes while the caller does something else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.curve import Curve
from scaling.errors import ScalingError, UnknownName
from scaling.fitting import Fit, fit
from scaling.report.groups import Group

__all__ = ["AXES", "Fitting", "Rescaled"]

PARALLEL_RUNS = 48  # below, starting processes takes longer than it saves
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
class _Job:
    """One fit that is to be made."""

    axis: str
    group: str
    curves: list[Curve]
    fit_after: float | None
    judged: bool  # whether its verdict is read


class Fitting:
    """The fits of some groups: begun when made, there after `finish`.

    Where they are shared among processes these work while the caller goes on; the numbers are the same.

    Args:
        curves: axis -> group name -> curves, one a run.
        groups: the groups.
        settings: law, draws, seed, fit_after.
        processes: at most so many; one does everything in `finish`.
    """

    def __init__(
        self,
        curves: Mapping[str, Mapping[str, list[Curve]]],
        groups: Sequence[Group],
        settings: Mapping[str, Any],
        *,
        processes: int = 1,
    ) -> None:
        self._curves, self._groups = curves, groups
        self._options = {key: settings[key] for key in ("law", "draws", "seed")}
        self._factors = {g.name: _factor(curves["total_flops"], curves["gpu_hours"], g.name) for g in groups}
        judged = "total_flops" if curves["total_flops"] else "gpu_hours"  # the axis of tables; others are drawn only
        self._jobs = [
            _Job(
                axis, g.name, curves[axis][g.name], _after(curves, axis, g.name, settings["fit_after"]), axis == judged
            )
            for axis in ("gpu_hours", "total_flops")
            for g in groups
            if g.name in curves[axis] and not (axis == "gpu_hours" and (g.shared or self._factors[g.name]))
        ]
        self._pool: ProcessPoolExecutor | None = None
        self._begun: dict[int, Future[Fit | str]] = {}
        if processes > 1 and sum(len(job.curves) for job in self._jobs) >= PARALLEL_RUNS:
            self._pool = ProcessPoolExecutor(min(processes, len(self._jobs)))
            longest = sorted(
                range(len(self._jobs)), key=lambda i: (not self._jobs[i].judged, -len(self._jobs[i].curves))
            )
            self._begun = {i: self._pool.submit(_fit_one, self._jobs[i], self._options) for i in longest}

    def __enter__(self) -> Fitting:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def finish(
        self, progress: Callable[[Iterable[Any], int, str], Iterable[Any]] | None = None
    ) -> tuple[dict[str, dict[str, Fit | Rescaled]], list[str]]:
        """Axis -> group name -> fit, and what could not be fitted and why."""
        fits: dict[str, dict[str, Any]] = {axis: {} for axis in AXES}
        notes: list[str] = []
        results = self._results()
        for job, result in zip(
            self._jobs, progress(results, len(self._jobs), "fitting curves") if progress else results
        ):
            if isinstance(result, str):
                notes.append(f"{job.group} was not fitted on {job.axis}: {result}")
            else:
                fits[job.axis][job.group] = result
        for group in self._groups:
            done, factor = fits["total_flops"].get(group.name), self._factors[group.name]
            if done is not None and factor and not group.shared:
                fits["gpu_hours"][group.name] = Rescaled(done, factor)
            if done is not None and group.name in self._curves["pretraining_flops_ratio"]:
                fits["pretraining_flops_ratio"][group.name] = Rescaled(done, 1 / group.pretraining_flops)
        return fits, notes

    def _results(self) -> Iterator[Fit | str]:
        for i, job in enumerate(self._jobs):
            yield self._begun[i].result() if i in self._begun else _fit_one(job, self._options)


def _fit_one(job: _Job, options: Mapping[str, Any]) -> Fit | str:
    """A fit, or why there is none."""
    try:
        found = fit(job.curves, fit_after=job.fit_after, **options)
        if job.judged:
            str(found.status)  # where it is fitted: in a process of its own
        return found
    except UnknownName:
        raise
    except ScalingError as error:
        return str(error)


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
