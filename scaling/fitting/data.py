"""From curves to what the solver needs: checks, the window, and relative errors. Nothing is dropped without being counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scaling.curve import Curve
from scaling.errors import ScalingError
from scaling.fitting.marginal import Series
from scaling.fitting.noise import noise_scale, sampling_errors
from scaling.law import FAR

__all__ = ["Prepared", "in_unit_interval", "prepare", "within_groups"]

Array = NDArray[np.float64]
MIN_EVALS = 5
MIN_DISTINCT = 4  # values of compute
MAX_EVALS = 500  # beyond this, neighbouring evaluations are averaged
_SHARES = ("pass@", "avg@", "maj@", "accuracy", "acc", "success", "solve")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Checked curves.

    Attributes:
        curves: as given, in canonical order.
        series: what is fitted, one a curve.
        positive: the same without evaluations at zero compute, for laws that start later.
        window: (low, high) compute that was fitted.
        unit: whether scores are shares confined to [0, 1].
        skipped: reason -> number of evaluations left out.
        notes: one line each on what was done to the data.
    """

    curves: tuple[Curve, ...]
    series: tuple[Series, ...]
    positive: tuple[Series, ...]
    window: tuple[float, float]
    unit: bool
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def replaced(self, series: list[Series]) -> Prepared:
        """The same data with other series."""
        positive = tuple(
            s if a is b else Series(s.x[s.x > -FAR], s.y[s.x > -FAR], s.s[s.x > -FAR], s.x_ref)
            for s, a, b in zip(series, self.series, self.positive)
        )
        return replace(self, series=tuple(series), positive=positive)


def in_unit_interval(metric: str) -> bool:
    """Whether the metric is a share by its name (pass@k, accuracy, ...), so that scores outside [0, 1] are an error."""
    return metric.lower().split("/")[-1].startswith(_SHARES)


def prepare(curves: Curve | Iterable[Curve], *, fit_after: float | None = None) -> Prepared:
    """Check curves and turn them into series.

    Raises:
        ScalingError: no curve, different axes or metrics, or a share outside [0, 1].
    """
    try:
        given = [curves] if isinstance(curves, Curve) else list(curves)
    except TypeError as error:
        raise ScalingError(f"fit needs Curve objects, got {type(curves).__name__}") from error
    if not given:
        raise ScalingError("fit needs at least one curve, got none")
    for item in given:
        if not isinstance(item, Curve):
            raise ScalingError(
                f"fit needs Curve objects, got {type(item).__name__}; build scaling.Curve(compute=..., performance=...)"
            )
    for name in ("axis", "metric"):
        found = sorted({getattr(c, name) for c in given})
        if len(found) > 1:
            raise ScalingError(f"curves fitted together must share one {name}, got {', '.join(found)}; fit them apart")
    unit = in_unit_interval(given[0].metric)
    given.sort(key=lambda c: (c.run_id, c.compute.tobytes(), c.performance.tobytes()))
    if fit_after is not None and not (np.isfinite(fit_after) and fit_after >= 0):
        raise ScalingError(f"fit_after must be a compute >= 0, got {fit_after}")
    series, positive, skipped, notes = [], [], {}, []
    low, high = np.inf, 0.0
    for curve in given:
        x, y = curve.compute, curve.performance
        where = f" (run {curve.run_id!r})" if curve.run_id else ""
        finite = np.isfinite(y)
        _count(skipped, "score is NaN or infinite", int((~finite).sum()))
        inside = finite if fit_after is None else finite & (x >= fit_after)
        _count(
            skipped, f"before fit_after={fit_after:g}" if fit_after is not None else "", int((finite & ~inside).sum())
        )
        bad = y[finite][(y[finite] < 0) | (y[finite] > 1)]
        if unit and bad.size:
            raise ScalingError(
                f"{curve.metric} must lie within [0, 1], got {bad[np.argmax(np.abs(bad))]:g}{where}; "
                "divide percentages by 100, or name the metric 'reward' if it is not a share"
            )
        known = sampling_errors(curve)
        x, y = x[inside], y[inside]
        se = np.ones(x.size) if known is None else known[inside]
        if x.size:
            low, high = min(low, x[0]), max(high, x[-1])
        if x.size > MAX_EVALS:
            notes.append(
                f"{x.size} evaluations averaged in {MAX_EVALS} groups of neighbours, whose noise is given{where}"
            )
            x, y, se = _average(x, y, se)
        made = _series(x, y, se)
        series.append(made if known is None else _scaled(made, noise_scale(made.x, made.y, se)))
        se = series[-1].s
        keep = x > 0
        positive.append(series[-1] if keep.all() else _series(x[keep], y[keep], se[keep]))
    if len({round(s.x_ref, 12) for s in series}) > 1:  # seeds share one reference: their coordinates are comparable
        ref = float(np.mean([s.x_ref for s in positive if s.y.size]))
        series = [_shift(s, ref) for s in series]
        positive = [_shift(s, ref) for s in positive]
    window = (float(low), float(high)) if np.isfinite(low) else (0.0, 0.0)
    return Prepared(tuple(given), tuple(series), tuple(positive), window, unit, skipped, tuple(notes))


def _count(skipped: dict[str, int], reason: str, number: int) -> None:
    if number:
        skipped[reason] = skipped.get(reason, 0) + number


def _series(x: Array, y: Array, se: Array) -> Series:
    with np.errstate(divide="ignore"):
        log_x = np.log(x)
    seen = log_x[np.isfinite(log_x)]
    ref = float(seen.mean()) if seen.size else 0.0
    scale = se / np.exp(np.mean(np.log(se))) if se.size else se
    return Series(np.maximum(log_x - ref, -FAR), y, scale, ref)


def _scaled(s: Series, scale: Array) -> Series:
    return Series(s.x, s.y, scale / np.exp(np.mean(np.log(scale))), s.x_ref) if scale.size else s


def _shift(s: Series, ref: float) -> Series:
    return Series(np.where(s.x > -FAR, s.x + (s.x_ref - ref), s.x), s.y, s.s, ref)


def within_groups(curves: Iterable[Curve], fit_after: float | None = None) -> float:
    """Standard deviation of an evaluation around the mean of its group, which the fitted noise lacks; 0 where none were averaged."""
    squares = []
    for curve in curves:
        y = curve.performance[np.isfinite(curve.performance) & (curve.compute >= (fit_after or 0.0))]
        if y.size > MAX_EVALS:
            groups = np.array_split(y, MAX_EVALS)
            squares.append(sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / y.size)
        elif y.size:
            squares.append(0.0)
    return float(np.sqrt(np.mean(squares))) if squares else 0.0


def _average(x: Array, y: Array, se: Array) -> tuple[Array, Array, Array]:
    groups = np.array_split(np.arange(x.size), MAX_EVALS)
    take = [g[0] for g in groups]
    size = np.array([g.size for g in groups])
    return (np.add.reduceat(x, take) / size, np.add.reduceat(y, take) / size, np.add.reduceat(se, take) / size)
