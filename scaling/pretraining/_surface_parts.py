"""Parts of the surface fit: lines of single runs, the level function, and the errors of leaving bases out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import ScalingError
from scaling.pretraining.bases import StudyRun, condition_number
from scaling.pretraining.loss import LossFit, fit_loss

Array = NDArray[np.float64]
COLLINEAR = 10.0  # condition number of (ln N, ln D) above which their effects are not separated


@dataclass(frozen=True)
class OffsetExponential:
    """f(L) = offset + amplitude exp(-rate L) of the pretraining loss L.

    Attributes:
        offset: score at infinite loss [1].
        amplitude: factor [1].
        rate: per nat of loss.

    Example:
        >>> f = OffsetExponential(offset=0.0314, amplitude=129.85, rate=12.85)  # arXiv:2607.16097, C_ref = 1e20
        >>> round(float(f(0.5)), 3)
        0.242
    """

    offset: float
    amplitude: float
    rate: float

    def __call__(self, loss: ArrayLike) -> Array:
        """Score at a pretraining loss [nats per token]."""
        return self.offset + self.amplitude * np.exp(-self.rate * np.asarray(loss, dtype=float))


def fit_offset_exponential(loss: Array, score: Array) -> tuple[Array, Array]:
    """Least squares of ``offset + amplitude exp(-rate L)`` for a batch: the rate on a grid, the rest in closed form.

    Args:
        loss: shape ``(n,)``.
        score: shape ``(batch, n)``.

    Returns:
        (offset, amplitude, rate) ``(batch, 3)`` and the fitted scores ``(batch, n)``.
    """
    span = max(float(np.ptp(loss)), 1e-12)
    low = float(loss.min())
    rates = np.broadcast_to(np.geomspace(1e-3, 40, 120) / span, (len(score), 120))
    y_mean = score.mean(axis=1, keepdims=True)
    rows = np.arange(len(score))
    for _ in range(3):  # the grid, then two finer ones between the neighbours of its best point
        z = np.exp(-rates[:, :, None] * (loss - low))  # (batch, grid, n), 1 at the least loss
        centred = z - z.mean(axis=2, keepdims=True)
        power = np.sum(centred**2, axis=2)
        product = np.einsum("bgn,bn->bg", centred, score - y_mean)
        amplitude = np.maximum(product / power, 0.0)  # a better base never scores lower
        best = np.argmax(amplitude * (2 * product - amplitude * power), axis=1)
        left, right = rates[rows, np.maximum(best - 1, 0)], rates[rows, np.minimum(best + 1, rates.shape[1] - 1)]
        chosen, size, shape = rates[rows, best], amplitude[rows, best], z[rows, best]
        rates = np.geomspace(left, right, 17, axis=1)
    offset = y_mean[:, 0] - size * shape.mean(axis=1)
    fitted = offset[:, None] + size[:, None] * shape
    return np.stack([offset, size * np.exp(chosen * low), chosen], axis=1), fitted


def per_run_lines(runs: list[StudyRun], c_ref: float) -> tuple[Array, Array]:
    """Level at C_ref and slope per decade of each run, by least squares, shape ``(n_runs,)`` each."""
    levels, slopes = [], []
    for run in runs:
        keep = np.isfinite(run.curve.performance) & (run.curve.compute > 0)
        x = np.log10(run.curve.compute[keep] / c_ref)
        if np.ptp(x) < 1e-6:
            raise ScalingError(f"{run.curve.run_id or 'a run'}: its evaluations must differ in compute")
        slope, level = np.polyfit(x, run.curve.performance[keep], 1)
        levels.append(level)
        slopes.append(slope)
    return np.array(levels), np.array(slopes)


def slope_design(runs: list[StudyRun]) -> Array:
    """Columns 1, log10 T, log10 N, shape ``(n_runs, 3)``."""
    return np.array([[1.0, np.log10(run.tokens), np.log10(run.params)] for run in runs])


def slope_basis(runs: list[StudyRun], condition: float) -> Array:
    """Columns that span what the runs can tell apart: all three, or the mean and the one direction that varies."""
    if condition <= COLLINEAR:
        return np.eye(3)
    inner = slope_design(runs)[:, 1:]
    direction = np.linalg.svd(inner - inner.mean(axis=0))[2][0]
    return np.array([[1.0, 0.0], [0.0, direction[0]], [0.0, direction[1]]])


def fit_losses(runs: list[StudyRun], seed: int, draws: int = 400) -> tuple[LossFit | None, str]:
    """L(N, D) of the bases, or None and why not; the second is also what to say beside a doubtful one."""
    bases = {(run.params, run.tokens, run.loss): run for run in runs}
    if len(bases) < 8:
        return None, f"L(N, D) is not fitted to {len(bases)} bases (8 are needed): predictions need a measured loss"
    n, d, y = (np.array(values) for values in zip(*[(p, t, float(loss or 0)) for p, t, loss in bases]))
    fit = fit_loss(n, d, y, draws=draws, seed=seed)
    return fit, "" if fit.identified else f"L(N, D): {fit.status}; used within the range of the bases only"


def left_out(runs: list[StudyRun], label: NDArray[np.int64], c_ref: float, *, predict_loss: bool = False) -> float:
    """Root mean square error over the evaluations of each group left out in turn."""
    errors = []
    for group in np.unique(label):
        inside = [run for run, g in zip(runs, label) if g != group]
        loss_fit = fit_losses(inside, seed=0, draws=1)[0] if predict_loss else None
        if len({run.loss for run in inside}) < 4 or (predict_loss and loss_fit is None):
            continue
        errors.extend(_errors(inside, [run for run, g in zip(runs, label) if g == group], c_ref, loss_fit))
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan")


def folds(runs: list[StudyRun]) -> NDArray[np.int64]:
    """Five folds over the different (N, D)."""
    cells = {cell: i % 5 for i, cell in enumerate(sorted({(run.params, run.tokens) for run in runs}))}
    return np.array([cells[run.params, run.tokens] for run in runs])


def sizes_left_out(runs: list[StudyRun], c_ref: float) -> dict[float, float]:
    """Error of each size left out, where the rest still has 4 different losses."""
    out = {}
    for params in sorted({run.params for run in runs}):
        inside = [run for run in runs if run.params != params]
        if len({run.loss for run in inside}) >= 4:
            errors = _errors(inside, [run for run in runs if run.params == params], c_ref, None)
            out[params] = float(np.sqrt(np.mean(np.square(errors))))
    return out


def _errors(inside: list[StudyRun], outside: list[StudyRun], c_ref: float, loss_fit: LossFit | None) -> list[float]:
    level, slope = per_run_lines(inside, c_ref)
    f, _ = fit_offset_exponential(np.array([float(run.loss or 0) for run in inside]), level[None])
    law = OffsetExponential(*map(float, f[0]))
    condition = condition_number((run.params for run in inside), (run.tokens for run in inside))
    basis = slope_basis(inside, condition)
    g = np.linalg.lstsq(slope_design(inside) @ basis, slope, rcond=None)[0]
    errors = []
    for run in outside:
        loss = float(loss_fit.law(run.params, run.tokens)) if loss_fit else float(run.loss or 0)
        keep = np.isfinite(run.curve.performance) & (run.curve.compute > 0)
        steepness = float((slope_design([run]) @ basis @ g)[0])
        predicted = law(loss) + steepness * np.log10(run.curve.compute[keep] / c_ref)
        errors.extend(predicted - run.curve.performance[keep])
    return errors


def baseline(runs: list[StudyRun], base: NDArray[np.int64]) -> float:
    """Error of the other bases' mean score."""
    errors = []
    for group in np.unique(base):
        inside = [float(np.nanmean(run.curve.performance)) for run, g in zip(runs, base) if g != group]
        for run, g in zip(runs, base):
            if g == group:
                keep = np.isfinite(run.curve.performance) & (run.curve.compute > 0)
                errors.extend(np.mean(inside) - run.curve.performance[keep])
    return float(np.sqrt(np.mean(np.square(errors))))


def wild_weights(base: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Array:
    """Weights of a wild bootstrap, one a base (Webb 2014: six points, for few groups), shape ``(draws, n_runs)``."""
    points = np.sqrt(np.array([1.5, 1.0, 0.5]))
    return rng.choice(np.concatenate([points, -points]), size=(draws, base.max() + 1))[:, base]


def median_and_band(values: Array, level: float) -> tuple[float, float, float]:
    """(median, low, high) over draws."""
    low, middle, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return float(middle), float(low), float(high)


def range_text(limits: tuple[float, float]) -> str:
    """A range in words."""
    return f"{limits[0]:.3g} to {limits[1]:.3g}"
