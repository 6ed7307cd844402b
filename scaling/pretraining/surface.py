"""The surface of Shen et al. (arXiv:2607.16097): R = f(L_pretraining) + g(N, T) (log10 C_RL - log10 C_ref).

f is an offset exponential in the base's pretraining loss, g = a + b log10 T + c log10 N. As published, each run is
fitted by least squares first, then f and g to the runs' levels and slopes. Intervals are from a wild bootstrap over
bases. The form is a straight line in log compute: it has no asymptote and holds where no run saturates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling._checks import check_draws, check_level, check_seed
from scaling.errors import ScalingError, UnknownName
from scaling.pretraining._loss_result import LossFit, losses
from scaling.pretraining._surface_parts import (
    COLLINEAR,
    OffsetExponential,
    baseline,
    fit_losses,
    fit_offset_exponential,
    folds,
    left_out,
    per_run_lines,
    sizes_left_out,
    slope_basis,
    slope_design,
    wild_weights,
)
from scaling.pretraining.bases import StudyRun, check_runs, condition_number, groups
from scaling.words import percent

__all__ = ["COLLINEAR", "OffsetExponential", "SurfaceFit", "SurfaceLaw", "fit_surface"]

Array = NDArray[np.float64]
_FEW_SIZES = 5


@dataclass(frozen=True)
class SurfaceLaw:
    """R(C, N, T) = f(L) + (a + b log10 T + c log10 N) (log10 C - log10 C_ref).

    Attributes:
        f: level at C_ref against pretraining loss.
        a: slope per decade of RL compute at T = N = 1 [1].
        b: its change per decade of pretraining tokens; NaN where not separable.
        c: its change per decade of parameters; NaN where not separable.
        c_ref: C_ref [FLOP].

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import fit_surface, study_runs
        >>> law = fit_surface(study_runs(bundled_runs()), draws=20, held_out=False).law
        >>> law.f.rate > 0
        True
    """

    f: OffsetExponential
    a: float
    b: float
    c: float
    c_ref: float


@dataclass(frozen=True, repr=False, eq=False)
class SurfaceFit:
    """A fitted surface with its draws and its leave-one-out errors.

    Attributes:
        law: the estimate.
        runs: what it was fitted to.
        status: ``"ok"``, or what is not identified, in words.
        condition: condition number of (ln N, ln D).
        leave_one_base_out: root mean square error of the score over the evaluations of bases left out in turn.
        leave_one_size_out: the same by size: parameters -> error.
        with_predicted_loss: the same when a fifth of the (N, D) is left out at a time and their loss is predicted by an
            L(N, D) fitted to the rest, or NaN.
        baseline: error of the other bases' mean score, at any compute: no model.
        loss_fit: L(N, D), where it could be fitted.
        notes: what must be said beside the numbers.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import fit_surface, study_runs
        >>> surface = fit_surface(study_runs(bundled_runs()), draws=50, held_out=False)
        >>> low, high = surface.interval("rate")
        >>> low < surface.law.f.rate < high
        True
    """

    law: SurfaceLaw
    runs: tuple[StudyRun, ...]
    status: str
    condition: float
    leave_one_base_out: float
    leave_one_size_out: Mapping[float, float]
    with_predicted_loss: float
    baseline: float
    loss_fit: LossFit | None
    notes: tuple[str, ...]
    _f: Array = field(default_factory=lambda: np.zeros((0, 3)))
    _g: Array = field(default_factory=lambda: np.zeros((0, 3)))
    _basis: Array = field(default_factory=lambda: np.zeros((3, 3)))

    @property
    def exploratory(self) -> bool:
        """Whether there are too few sizes for more than a look."""
        return len({run.params for run in self.runs}) < _FEW_SIZES

    def fitted_range(self) -> dict[str, tuple[float, float]]:
        """(least, largest) ``params`` [parameters], ``tokens`` [token] and ``rl_flops`` [FLOP] of the runs."""
        rl = [run.curve.compute[run.curve.compute > 0] for run in self.runs]
        return {
            "params": (min(r.params for r in self.runs), max(r.params for r in self.runs)),
            "tokens": (min(r.tokens for r in self.runs), max(r.tokens for r in self.runs)),
            "rl_flops": (float(min(c.min() for c in rl)), float(max(c.max() for c in rl))),
        }

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Percentile interval of ``offset``, ``amplitude``, ``rate``, ``a``, ``b`` or ``c``.

        Where ln N and ln D are not separable, ``a``, ``b`` and ``c`` have none: (-inf, inf).
        """
        names = {"offset": 0, "amplitude": 1, "rate": 2}
        if name in names:
            return _band(self._f[:, names[name]], level)
        if name not in ("a", "b", "c"):
            raise UnknownName(f"parameter must be one of offset, amplitude, rate, a, b, c, got {name!r}")
        if self.condition > COLLINEAR:
            return -np.inf, np.inf
        return _band((self._g @ self._basis.T)[:, ("a", "b", "c").index(name)], level)

    def values(self, params: ArrayLike, tokens: ArrayLike, compute: ArrayLike, loss: ArrayLike | None = None) -> Array:
        """Draws of the expected score, shape ``(draws, *shape)``, at broadcast sizes, tokens and RL compute [FLOP].

        Args:
            params: model size [parameters].
            tokens: pretraining tokens [token].
            compute: RL FLOPs [FLOP], > 0.
            loss: pretraining loss of the base [nats per token]; default: predicted by `loss_fit`, with its uncertainty.

        Raises:
            ScalingError: no loss is given and L(N, D) could not be fitted, or compute is not positive.
        """
        n, t, c = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (params, tokens, compute)))
        if not (np.all(n > 0) and np.all(t > 0)):
            raise ScalingError("sizes and tokens must be > 0")
        if not np.all(c > 0):
            raise ScalingError("RL compute must be > 0 FLOP: the surface is a straight line in log compute")
        level = self.level(n, t, loss)
        x = np.stack([np.ones_like(n), np.log10(t), np.log10(n)], axis=-1) @ self._basis
        slope = np.tensordot(self._g, x, axes=(1, -1))
        return level + slope * np.log10(c / self.law.c_ref)

    def level(self, params: Array, tokens: Array, loss: ArrayLike | None = None) -> Array:
        """Draws of f(L), shape ``(draws, *shape)``: the score at C_ref."""
        offset, amplitude, rate = (column.reshape(-1, *[1] * np.ndim(params)) for column in self._f.T)
        given = np.asarray(loss, dtype=float)[None] if loss is not None else self.losses(params, tokens)
        return offset + amplitude * np.exp(-rate * given)

    def losses(self, params: Array, tokens: Array) -> Array:
        """Draws of L(N, D), shape ``(draws, *shape)`` [nats per token]."""
        return _losses(self.loss_fit, params, tokens, len(self._f))

    def summary(self, *, level: float = 0.9) -> str:
        """The surface with intervals, errors and notes, as text."""
        law = self.law
        lines = [
            "R = f(L) + (a + b log10 T + c log10 N) (log10 C_RL - log10 C_ref), f(L) = offset + amplitude exp(-rate L)"
        ]
        sizes = len({run.params for run in self.runs})
        lines.append(
            f"  {len(self.runs)} runs, {len(set(groups(self.runs)))} bases, {sizes} sizes; C_ref {law.c_ref:.3g}"
        )
        for name, value in (("offset", law.f.offset), ("amplitude", law.f.amplitude), ("rate", law.f.rate)):
            lines.append(f"  {name:<10}{value:>12.4g}   {percent(level)} interval {_text(self.interval(name, level))}")
        if self.condition > COLLINEAR:
            lines.append("  a, b, c     not separable; see the verdict")
        else:
            for name in ("a", "b", "c"):
                value = getattr(law, name)
                lines.append(
                    f"  {name:<10}{value:>12.4g}   {percent(level)} interval {_text(self.interval(name, level))}"
                )
        lines.append(f"  verdict: {'identified' if self.status == 'ok' else self.status}")
        lines.append(f"  leaving one base out: error {self.leave_one_base_out:.4f} (no model: {self.baseline:.4f})")
        if np.isfinite(self.with_predicted_loss):
            lines.append(f"    with its loss predicted by L(N, D): {self.with_predicted_loss:.4f}")
        errors = ", ".join(f"{params:.3g}: {error:.4f}" for params, error in self.leave_one_size_out.items())
        lines.append(f"  leaving one size out: {errors or 'not possible'}")
        lines.extend(f"  note: {note}" for note in self.notes)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"SurfaceFit({self.law}, {'identified' if self.status == 'ok' else self.status})"


def fit_surface(
    runs: Iterable[StudyRun],
    *,
    c_ref: float | None = None,
    loss_fit: LossFit | None = None,
    draws: int = 400,
    seed: int = 0,
    held_out: bool = True,
    force: bool = False,
) -> SurfaceFit:
    """Fit the surface of arXiv:2607.16097 to RL runs on bases of several sizes and pretraining budgets.

    Args:
        runs: RL runs with their bases; every base needs its measured pretraining loss.
        c_ref: reference RL compute [FLOP]; default the geometric mean of all evaluations.
        loss_fit: L(N, D), used where a prediction gives no loss; default fitted to the bases' losses where 8 or more
            differ.
        draws: of the wild bootstrap over bases.
        seed: of the draws.
        held_out: whether to fit again without each base and each size (the summary prints the errors).
        force: keep runs on distilled or pruned bases, whose cost is not what made them.

    Raises:
        ScalingError: fewer than 6 runs, fewer than 4 different losses, or a base without loss.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import study_runs
        >>> surface = fit_surface(study_runs(bundled_runs()), draws=50, held_out=False)
        >>> low, high = surface.interval("rate")
        >>> 0 < low < surface.law.f.rate < high
        True
    """
    check_draws(draws)
    check_seed(seed)
    found, notes = check_runs(runs, least=6, what="the surface", force=force)
    lacking = [run.curve.run_id or f"{run.params:.3g} parameters" for run in found if run.loss is None]
    if lacking:
        raise ScalingError(
            f"the surface needs every base's pretraining loss, {len(lacking)} lack it, first {lacking[0]}"
        )
    loss = np.array([float(run.loss or 0) for run in found])
    if len(np.unique(loss)) < 4:
        raise ScalingError(f"the surface needs bases of at least 4 different losses, got {len(np.unique(loss))}")
    if c_ref is None:
        every = np.concatenate([run.curve.compute[run.curve.compute > 0] for run in found])
        c_ref = float(np.exp(np.mean(np.log(every))))
    elif not 0 < c_ref < np.inf:
        raise ScalingError(f"c_ref must be > 0 FLOP and finite, got {c_ref!r}")
    level, slope = per_run_lines(found, c_ref)
    condition = condition_number((run.params for run in found), (run.tokens for run in found))
    basis = slope_basis(found, condition)
    design = slope_design(found) @ basis
    base = groups(found)
    rng = np.random.default_rng(seed)
    f_hat, f_fitted = fit_offset_exponential(loss, level[None])
    g_hat = np.linalg.lstsq(design, slope, rcond=None)[0]
    weights = wild_weights(base, draws, rng)
    f_rest = (level - f_fitted[0]) * np.sqrt(level.size / max(level.size - 3, 1))
    g_rest = (slope - design @ g_hat) * np.sqrt(slope.size / max(slope.size - design.shape[1], 1))
    f_draws, _ = fit_offset_exponential(loss, f_fitted + weights * f_rest)
    g_draws = (design @ g_hat + weights * g_rest) @ np.linalg.pinv(design).T
    if loss_fit is None:
        loss_fit, note = fit_losses(found, seed, draws=max(draws, 50))
        notes.extend(filter(None, (note,)))
    if loss_fit is not None and (lost := int(np.sum(~np.isfinite(loss_fit.draws).all(axis=1)))):
        notes.append(f"L(N, D): {lost} of {len(loss_fit.draws)} resamples have coefficients without bounds, left out")
    sizes = {run.params for run in found}
    if len(sizes) < _FEW_SIZES:
        notes.append(f"exploratory: {len(sizes)} sizes, at least {_FEW_SIZES} are needed to say anything across sizes")
    nan = float("nan")
    full = basis @ g_hat if condition <= COLLINEAR else np.full(3, np.nan)
    law = SurfaceLaw(OffsetExponential(*map(float, f_hat[0])), *map(float, full), c_ref=c_ref)
    return SurfaceFit(
        law=law,
        runs=tuple(found),
        status=_status(condition, f_draws),
        condition=condition,
        leave_one_base_out=left_out(found, base, c_ref) if held_out else nan,
        leave_one_size_out=sizes_left_out(found, c_ref) if held_out else {},
        with_predicted_loss=left_out(found, folds(found), c_ref, predict_loss=True) if held_out and loss_fit else nan,
        baseline=baseline(found, base),
        loss_fit=loss_fit,
        notes=tuple(notes),
        _f=f_draws,
        _g=g_draws,
        _basis=basis,
    )


def _losses(fit: LossFit | None, params: Array, tokens: Array, draws: int) -> Array:
    if fit is None:
        raise ScalingError("a prediction for a new base needs its loss, or L(N, D): pass loss= or loss_fit=")
    # a resample may let an exponent run away; the notes count these
    finite = fit.draws[np.isfinite(fit.draws).all(axis=1)]
    if len(finite) < len(fit.draws) / 2:
        raise ScalingError(
            f"L(N, D) predicts no loss: {len(fit.draws) - len(finite)} of {len(fit.draws)} resamples have coefficients "
            "without bounds; more values of N and D are needed"
        )
    return losses(finite[np.arange(draws) % len(finite)], params, tokens)


def _status(condition: float, f_draws: Array) -> str:
    problems = []
    if condition > COLLINEAR:
        problems.append(f"effects of N and D not separable (condition number {condition:.3g}, at most {COLLINEAR:g})")
    low, high = _band(f_draws[:, 2], 0.9)
    if high / max(low, 1e-12) > 30:
        problems.append("f's rate and offset not identified: levels are nearly straight in the loss")
    return "; ".join(problems) or "ok"


def _band(values: Array, level: float) -> tuple[float, float]:
    check_level(level)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _text(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4g} to {interval[1]:.4g}"
