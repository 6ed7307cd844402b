"""`Curve`: performance against compute of one run, the input of every fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import ScalingError, UnknownName

__all__ = ["AXES", "Curve"]

# axis -> (label, unit). The two ratios are different quantities and never convert into one another.
AXES: dict[str, tuple[str, str]] = {
    "gpu_hours": ("GPU-hours", "GPU h"),
    "total_flops": ("RL model FLOPs", "FLOP"),
    "tokens": ("tokens", "token"),
    "rollouts": ("rollouts", "1"),
    "step": ("optimiser steps", "1"),
    "pretraining_flops_ratio": ("RL FLOPs / pretraining FLOPs", "1"),
    "pretraining_gpu_hours_ratio": ("RL GPU-hours / pretraining GPU-hours", "1"),
}


@dataclass(frozen=True, eq=False)
class Curve:
    """Performance against cumulative compute of one run.

    Points are sorted by compute on construction, so their order in the input does not matter; those at one and the same compute
    are put in an order of no meaning that depends on their values alone, since a fit takes neighbours for neighbours in time.

    Attributes:
        compute: cumulative compute, shape ``(n_evals,)``, in the unit of ``axis``; finite and >= 0.
        performance: score, shape ``(n_evals,)``; may hold NaN, which fits count and report, never drop silently.
        stderr: standard error of each score from sampling its items and completions, shape ``(n_evals,)``, or None.
        axis: one of `AXES`, or a free name for a foreign axis.
        metric: what ``performance`` is, e.g. ``"pass@1"``.
        run_id: which run the points are from.
        successes: per-item success counts, shape ``(n_evals, n_items)``, where known.
        samples_per_item: completions sampled per item (k) behind ``successes``.
        labels: free facts about the run that may separate recipes (model, recipe hash, sampling temperature, ...).

    Raises:
        ScalingError: shapes differ, or compute is negative or not finite.

    Example:
        >>> curve = Curve(compute=[2.0, 1.0], performance=[0.5, 0.4], axis="gpu_hours", metric="pass@1")
        >>> curve.performance.tolist()
        [0.4, 0.5]
    """

    compute: NDArray[np.float64]
    performance: NDArray[np.float64]
    stderr: NDArray[np.float64] | None = None
    axis: str = "gpu_hours"
    metric: str = "pass@1"
    run_id: str = ""
    successes: NDArray[np.float64] | None = None
    samples_per_item: int | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        *,
        compute: ArrayLike,
        performance: ArrayLike,
        stderr: ArrayLike | None = None,
        axis: str = "gpu_hours",
        metric: str = "pass@1",
        run_id: str = "",
        successes: ArrayLike | None = None,
        samples_per_item: int | None = None,
        labels: dict[str, Any] | None = None,
    ) -> None:
        where = f" (run {run_id!r})" if run_id else ""
        x = _vector(compute, "compute", where)
        y = _vector(performance, "performance", where)
        if x.shape != y.shape:
            raise ScalingError(f"compute and performance must have equal lengths, got {x.size} and {y.size}{where}")
        if not np.all(np.isfinite(x)):
            raise ScalingError(
                f"compute must be finite, got {int((~np.isfinite(x)).sum())} NaN or infinite values{where}"
            )
        if np.any(x < 0):
            raise ScalingError(
                f"compute must be >= 0, got {x.min():g}{where}: is it cumulative, and from the run's start?"
            )
        se = None if stderr is None else _vector(stderr, "stderr", where)
        if se is not None and se.shape != x.shape:
            raise ScalingError(f"stderr must have the length of compute ({x.size}), got {se.size}{where}")
        if se is not None and np.any(se < 0):
            raise ScalingError(f"stderr must be >= 0, got {np.nanmin(se):g}{where}")
        counts = None if successes is None else _counts(successes, where)
        if counts is not None and (counts.ndim != 2 or len(counts) != x.size):
            raise ScalingError(f"successes must have shape (n_evals={x.size}, n_items), got {counts.shape}{where}")
        if counts is not None and not samples_per_item:
            raise ScalingError(f"successes needs samples_per_item (k), got {samples_per_item}{where}")
        if counts is not None and samples_per_item and np.any((counts < 0) | (counts > samples_per_item)):
            raise ScalingError(
                f"successes must lie between 0 and samples_per_item ({samples_per_item}), got "
                f"{np.nanmin(counts):g} to {np.nanmax(counts):g}{where}"
            )
        order = np.lexsort((*([] if se is None else [_scattered(se)]), _scattered(y), x))
        set_ = object.__setattr__
        set_(self, "compute", x[order])
        set_(self, "performance", y[order])
        set_(self, "stderr", None if se is None else se[order])
        set_(self, "axis", str(axis))
        set_(self, "metric", str(metric))
        set_(self, "run_id", str(run_id))
        set_(self, "successes", None if counts is None else counts[order])
        set_(self, "samples_per_item", samples_per_item)
        set_(self, "labels", dict(labels or {}))

    def __len__(self) -> int:
        return self.compute.size

    def _take(self, keep: NDArray[np.bool_]) -> Curve:
        return Curve(
            compute=self.compute[keep],
            performance=self.performance[keep],
            stderr=None if self.stderr is None else self.stderr[keep],
            axis=self.axis,
            metric=self.metric,
            run_id=self.run_id,
            successes=None if self.successes is None else self.successes[keep],
            samples_per_item=self.samples_per_item,
            labels=self.labels,
        )

    def before(self, compute: float) -> Curve:
        """The points with compute <= ``compute``."""
        return self._take(self.compute <= compute)

    def after(self, compute: float) -> Curve:
        """The points with compute >= ``compute``."""
        return self._take(self.compute >= compute)

    def finite(self) -> Curve:
        """The points whose performance is a finite number."""
        return self._take(np.isfinite(self.performance))

    def scaled(self, factor: float) -> Curve:
        """The same curve with all compute multiplied by ``factor`` > 0."""
        if not factor > 0:
            raise ScalingError(f"factor must be > 0, got {factor}")
        return Curve(**{**self._fields(), "compute": self.compute * factor})

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def axis_label(self) -> str:
        """Axis title with its unit, e.g. ``GPU-hours [GPU h]``."""
        if self.axis in AXES:
            label, unit = AXES[self.axis]
            return label if unit == "1" else f"{label} [{unit}]"
        return self.axis


def check_axis(axis: str) -> str:
    """Return ``axis`` if it is one of `AXES`, else raise `UnknownName` with the known ones."""
    if axis not in AXES:
        raise UnknownName(f"axis must be one of {', '.join(AXES)}, got {axis!r}")
    return axis


def _scattered(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """A key for each value that has nothing to do with its size (Fibonacci hashing of its bits)."""
    return (values + 0.0).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def _counts(values: ArrayLike, where: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ScalingError(f"successes must be numbers: {error}{where}") from error


def _vector(values: ArrayLike, name: str, where: str) -> NDArray[np.float64]:
    if isinstance(values, np.ma.MaskedArray):  # its hidden values are no data
        values = np.ma.filled(values.astype(float), np.nan)
    try:
        given = np.asarray(values)
        if given.dtype.kind in "mMc":
            raise TypeError("give e.g. hours since the start" if given.dtype.kind in "mM" else "complex values")
        out = np.asarray(values, dtype=float)
    except (
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ) as error:  # RuntimeError: a tensor that needs its gradient
        kind = getattr(values, "dtype", type(values).__name__)
        raise ScalingError(f"{name} must be numbers, got {kind}: {error}{where}") from error
    if out.ndim != 1:
        raise ScalingError(f"{name} must be one-dimensional, got shape {out.shape}{where}")
    return out
