"""Curves of several sizes as one padded array, and the resampling of their residuals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scaling.curve import Curve
from scaling.errors import ScalingError

__all__ = ["JointData", "joint_data"]

Array = NDArray[np.float64]
MIN_EVALS = 4


@dataclass(frozen=True)
class JointData:
    """Evaluations of all sizes, shape ``(n_sizes, n_points)``, padded; curves of one size lie side by side.

    Attributes:
        params: sizes, ascending [1], shape ``(n_sizes,)``.
        log_compute: ln compute, ``-inf`` at compute 0.
        score: performance.
        weight: 1 where there is an evaluation, 0 where padded.
        curve: which curve of its size a point is from, -1 where padded.
        axis: unit of compute.
        metric: unit of the score.
        skipped: reason -> evaluations left out.
    """

    params: Array
    log_compute: Array
    score: Array
    weight: Array
    curve: NDArray[np.int64]
    axis: str
    metric: str
    skipped: dict[str, int]

    @property
    def points(self) -> Array:
        """Evaluations of each size, shape ``(n_sizes,)``."""
        return self.weight.sum(axis=1)

    @cached_property
    def reference(self) -> float:
        """Centre of ln compute, common to all sizes."""
        return float(np.mean(self.log_compute[(self.weight > 0) & np.isfinite(self.log_compute)]))

    @cached_property
    def centred(self) -> Array:
        """Centred ln compute."""
        return self.log_compute - self.reference

    def without(self, row: int) -> JointData:
        """The same data less one size."""
        keep = np.arange(len(self.params)) != row
        return JointData(
            self.params[keep], self.log_compute[keep], self.score[keep], self.weight[keep], self.curve[keep],
            self.axis, self.metric, self.skipped,
        )  # fmt: skip


def joint_data(curves_by_params: Mapping[float, Curve | Iterable[Curve]], *, needs_positive: bool) -> JointData:
    """Check and pad. Curves whose metric ends in ``loss`` are losses L; their score is 1 - L.

    Args:
        curves_by_params: parameters [1] -> curves of that size (seeds).
        needs_positive: whether the law has no value at compute 0, so that such evaluations are left out and counted.

    Raises:
        ScalingError: fewer than three sizes, too few evaluations, unlike axes or metrics, or sizes that are no numbers.
    """
    if not isinstance(curves_by_params, Mapping):
        raise ScalingError(f"curves_by_params must map parameters to curves, got {type(curves_by_params).__name__}")
    sizes: list[tuple[float, list[Curve]]] = []
    for params, curves in curves_by_params.items():
        if isinstance(params, bool) or not isinstance(params, (int, float, np.number)) or not 0 < params < np.inf:
            raise ScalingError(f"sizes must be numbers of parameters > 0, got {params!r}")
        listed = [curves] if isinstance(curves, Curve) else list(curves)
        if not listed or not all(isinstance(curve, Curve) for curve in listed):
            raise ScalingError(f"size {params:g} must have a list of Curves, got {listed!r:.80}")
        sizes.append((float(params), listed))
    if len(sizes) < 3:
        found = ", ".join(f"{params:g}" for params, _ in sizes) or "none"
        raise ScalingError(
            f"a joint law needs at least 3 sizes, got {len(sizes)} ({found}): with one size use scaling.fit"
        )
    kinds = {(curve.axis, curve.metric) for _, curves in sizes for curve in curves}
    if len(kinds) > 1:
        raise ScalingError(f"curves must share axis and metric, got {', '.join(map(str, sorted(kinds)))}")
    skipped: dict[str, int] = {}
    rows = [_rows(params, curves, needs_positive, skipped) for params, curves in sorted(sizes)]
    width = max(len(row[0]) for row in rows)
    x, y = np.zeros((len(rows), width)), np.zeros((len(rows), width))
    weight, which = np.zeros((len(rows), width)), np.full((len(rows), width), -1)
    for i, (lx, ly, ids) in enumerate(rows):
        x[i, : lx.size], y[i, : lx.size], weight[i, : lx.size], which[i, : lx.size] = lx, ly, 1.0, ids
    axis, metric = kinds.pop()
    seen = y[weight > 0]
    if not metric.endswith("loss") and (seen.min() < -0.1 or seen.max() > 1.1):  # noise of a corrected score aside
        raise ScalingError(
            f"scores of a joint law must lie within [0, 1], got {metric} from {seen.min():g} to {seen.max():g}: divide percentages "
            "by 100, or bring rewards to shares"
        )
    if np.ptp(seen) <= 1e-12 * np.abs(seen).max():
        raise ScalingError(f"every {metric} of every size is {seen[0]:g}: there is nothing to fit")
    if metric.endswith("loss"):
        y = np.where(weight > 0, 1 - y, 0.0)
    return JointData(np.array(sorted(p for p, _ in sizes)), x, y, weight, which, axis, metric, skipped)


def _rows(
    params: float, curves: list[Curve], needs_positive: bool, skipped: dict[str, int]
) -> tuple[Array, Array, Array]:
    parts = []
    for number, curve in enumerate(curves):
        finite = np.isfinite(curve.performance)
        keep = finite & (curve.compute > 0) if needs_positive else finite
        for reason, lost in (("not finite", ~finite), ("at compute 0", finite & ~keep)):
            if lost.any():
                skipped[reason] = skipped.get(reason, 0) + int(lost.sum())
        with np.errstate(divide="ignore"):
            parts.append((np.log(curve.compute[keep]), curve.performance[keep], np.full(int(keep.sum()), number)))
    x, y, ids = (np.concatenate(columns) for columns in zip(*parts))
    if np.unique(x).size < MIN_EVALS:
        raise ScalingError(
            f"size {params:g} must have at least {MIN_EVALS} evaluations at different compute, "
            f"got {np.unique(x).size}: evaluate more often, or leave the size out"
        )
    return x, y, ids


def autocorrelation(data: JointData, residual: Array) -> Array:
    """Lag-one autocorrelation of each size's residuals within curves, ``(n_sizes,)``, from 0 to 0.9."""
    pair = (data.curve[:, 1:] == data.curve[:, :-1]) & (data.curve[:, 1:] >= 0)
    top = np.sum(residual[:, 1:] * residual[:, :-1] * pair, axis=1)
    bottom = np.sum(residual**2 * data.weight, axis=1)
    return np.clip(top / np.maximum(bottom, 1e-300), 0.0, 0.9)


def resample(data: JointData, residual: Array, draws: int, rng: np.random.Generator) -> Array:
    """Residuals resampled in circular moving blocks within their curves, ``(draws, n_sizes, n_points)``."""
    out = np.zeros((draws, *residual.shape))
    for i in range(len(data.params)):
        for number in np.unique(data.curve[i][data.curve[i] >= 0]):
            at = np.flatnonzero(data.curve[i] == number)
            n, values = at.size, residual[i, at]
            block = max(1, round(n ** (1 / 3)))
            starts = rng.integers(0, n, size=(draws, -(-n // block)))
            picks = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :n] % n
            out[:, i, at] = values[picks] - values.mean()
    return out
