"""Joint laws over model sizes: `fit_joint` and its result, with the error of leaving each size out.

The estimate is least squares on the score, as published. Intervals come from a parametric bootstrap with two kinds of
noise: residuals resampled in blocks within their curves, and deviations of whole sizes from the law (a random effect
whose spread is estimated as in meta-analysis, DerSimonian & Laird 1986), because with a handful of sizes it is these
that limit what is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling._checks import check_draws, check_seed
from scaling.curve import Curve
from scaling.errors import UnknownName
from scaling.pretraining._joint_data import JointData, autocorrelation, joint_data, resample
from scaling.pretraining._joint_laws import JOINT_LAWS, least_squares
from scaling.pretraining._joint_result import FEW_SIZES, HeldOutSize, JointFit, band
from scaling.pretraining.bases import caveats

__all__ = ["HeldOutSize", "JointFit", "fit_joint"]

Array = NDArray[np.float64]
_WIDE_ASYMPTOTE = 0.1  # an asymptote whose 90 % interval is wider is not identified
_MISSES = 0.5  # bands of 90 % that hold less of the sizes left out are said to be too narrow


def fit_joint(
    curves_by_params: Mapping[float, Curve | Iterable[Curve]],
    *,
    law: str = "log_linear",
    draws: int = 400,
    seed: int = 0,
    held_out: bool = True,
) -> JointFit:
    """Fit one law to the curves of several model sizes.

    ``law="log_linear"``: ``ln L(N, C) = -k(N) ln C + E(N)`` with ``k(N) = K_max/(1 + N_0/N)`` and E(N) free (Tan et
    al., arXiv:2509.25300, eqs. 1 and 2), L = 1 - score. ``law="sigmoid"``: arXiv:2510.13786 eq. 1 with logit A(N) and
    ln C_mid(N) straight lines in ln N and one B.

    Args:
        curves_by_params: parameters [1] -> curves of that size; several curves are seeds. Scores in [0, 1], one axis;
            where the metric's name ends in ``loss`` they are taken as L.
        law: ``log_linear`` or ``sigmoid``.
        draws: bootstrap refits behind the intervals.
        seed: of the draws.
        held_out: whether to fit again without each size (the summary prints the errors).

    Returns:
        `JointFit` with ``.law``, ``.interval(name)``, ``.forecast(params, compute)``, ``.held_out`` and ``.summary()``.

    Raises:
        ScalingError: fewer than 3 sizes, a size without enough evaluations, or curves of unlike axes.
        UnknownName: no such law.

    Example:
        >>> import numpy as np, scaling
        >>> compute = np.geomspace(1e17, 1e20, 30)
        >>> curves = {}
        >>> for n in (5e8, 2e9, 7e9, 2e10, 7e10):
        ...     loss = 0.9 * (compute / 1e17) ** (-0.15 / (1 + 15e9 / n))
        ...     curves[n] = [scaling.Curve(compute=compute, performance=1 - loss, axis="total_flops")]
        >>> fit = fit_joint(curves, draws=20)
        >>> round(fit.law.k_max, 3), round(fit.law.n_0 / 1e9, 1)
        (0.15, 15.0)
    """
    if law not in JOINT_LAWS:
        raise UnknownName(f"law must be one of {', '.join(JOINT_LAWS)}, got {law!r}")
    check_draws(draws, least=10)
    check_seed(seed)
    form = JOINT_LAWS[law]
    data = joint_data(curves_by_params, needs_positive=form.needs_positive)
    notes = _notes(curves_by_params, data)
    fit = _fit(form, data, draws=draws, seed=seed)
    if held_out:
        errors = _leave_one_out(form, data, fit, draws=draws, seed=seed)
        held = sum(e.inside * e.points for e in errors) / sum(e.points for e in errors)
        if held < _MISSES:
            notes = (
                f"leaving one size out, the 90% bands hold {held:.0%} of its evaluations: the sizes differ in more than the law "
                "knows (in pretraining tokens?), and its intervals are too narrow",
                *notes,
            )
        return replace(fit, held_out=errors, notes=notes)
    return replace(fit, notes=notes)


def _fit(form: Any, data: JointData, *, draws: int, seed: int, starts: Array | None = None) -> JointFit:
    theta, cost = least_squares(form, data, data.score[None], form.starts(data) if starts is None else starts)
    best = theta[int(np.argmin(cost))][None]
    local = form.local(best, data)
    fitted, level = form.parts(local, best, data, data.score[None])
    residual = (data.score - fitted[0]) * data.weight
    rng = np.random.default_rng(seed)
    spread, rest = _size_spread(form, best, data, residual)
    # sizes deviate from the law, then evaluations from their size
    shift = rng.standard_t(max(len(data.params) - 2, 2), size=(draws, *local.shape[1:])) * spread
    many = np.repeat(best, draws, axis=0)
    moved, _ = form.parts(local + shift, many, data, np.broadcast_to(fitted, (draws, *fitted.shape[1:])))
    scores = moved + resample(data, rest, draws, rng)
    drawn, _ = least_squares(form, data, scores, many)
    _, levels = form.parts(form.local(drawn, data), drawn, data, scores)
    seen = data.score[data.weight > 0]
    rss = float(np.sum(residual**2))
    return JointFit(
        law=form.build(best[0], level[0], data),
        draws=form.decode(drawn, levels, data),
        data=data,
        status=_status(form, drawn, data),
        rmse=float(np.sqrt(rss / seen.size)),
        r_squared=1 - rss / max(float(np.sum((seen - seen.mean()) ** 2)), 1e-300),
        size_spread=tuple(float(s) for s in spread),
        held_out=(),
        notes=(),
        _theta=drawn,
        _levels=levels,
        _seed=seed,
    )


def _size_spread(form: Any, theta: Array, data: JointData, residual: Array) -> tuple[Array, Array]:
    """Spread of whole sizes around the law in each local parameter, and the residuals with those deviations taken out.

    One Gauss-Newton step frees the local parameters of each size; their scatter beyond their own standard errors is the
    spread (method of moments of DerSimonian & Laird, or expectation-maximisation where there are two). Residuals are
    inflated for the degrees of freedom they lost.
    """
    local = form.local(theta, data)
    width = local.shape[2]
    base, _ = form.parts(local, theta, data, data.score[None])
    slopes = np.empty((*residual.shape, width))
    for j in range(width):
        step = local.copy()
        step[:, :, j] += 1e-4
        slopes[:, :, j] = (form.parts(step, theta, data, data.score[None])[0] - base)[0] / 1e-4
    slopes *= data.weight[:, :, None]
    normal = np.einsum("snj,snk->sjk", slopes, slopes)
    ridge = 1e-6 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(width) + 1e-12 * np.eye(width)
    moment = np.einsum("snj,sn->sj", slopes, residual)
    deviation = np.linalg.solve(normal + ridge, moment[:, :, None])[:, :, 0]
    rest = (residual - np.einsum("snj,sj->sn", slopes, deviation)) * data.weight
    freedom = np.maximum(data.points - width - 1, 1)
    rho = autocorrelation(data, rest)
    noise = np.maximum(np.sum(rest**2, axis=1) / freedom * (1 + rho) / (1 - rho), 1e-300)
    precision, score = normal / noise[:, None, None], moment / noise[:, None]
    lost = form.shared / width  # what the shared parameters have already taken from each local one
    if width == 1:
        spread = _method_of_moments(deviation[:, 0], precision[:, 0, 0], lost)
    else:
        spread = _expectation_maximisation(precision, score, lost)
    return spread, rest * np.sqrt(data.points / freedom)[:, None]


def _method_of_moments(deviation: Array, precision: Array, lost: float) -> Array:
    excess = float(np.sum(precision * deviation**2)) - max(deviation.size - lost, 1.0)
    scale = float(np.sum(precision) - np.sum(precision**2) / np.sum(precision))
    return np.array([np.sqrt(max(0.0, excess / max(scale, 1e-300)))])


def _expectation_maximisation(precision: Array, score: Array, lost: float) -> Array:
    """Spread of correlated local parameters; a direction that no size determines keeps the start's spread."""
    sizes, width = score.shape
    spread = np.full(width, 0.3)
    for _ in range(100):
        covariance = np.linalg.inv(precision + np.diag(1 / np.maximum(spread, 1e-4) ** 2))
        mean = np.einsum("sjk,sk->sj", covariance, score)
        total = np.sum(mean**2 + np.einsum("sjj->sj", covariance), axis=0)
        spread = np.sqrt(total / max(sizes - 0.5 * lost, 1.0))
    return np.minimum(spread, 1.0)


def _status(form: Any, theta: Array, data: JointData) -> str:
    """What the draws do not determine."""
    limits = form.limits(data)
    if form.name == "log_linear":
        at_bound = np.mean((theta <= limits[:, 0] + 1e-3) | (theta >= limits[:, 1] - 1e-3), axis=0)
        low, high = band(np.exp(theta[:, 1]), 0.9)
        rest = "only k(N) at the fitted sizes is known"
        if at_bound[0] > 0.05:
            return f"k_max and n_0 not identified, they run away together; {rest}"
        if at_bound[1] > 0.05 or high / low > 100:
            return f"n_0 not identified: from {low:.2g} to {high:.2g} parameters; {rest}"
        return "ok"
    wide = []
    for i, n in enumerate(data.params):
        a = 1 / (1 + np.exp(-(theta[:, 0] + theta[:, 1] * (np.log(n) - np.mean(np.log(data.params))))))
        low, high = band(a, 0.9)
        if high - low > _WIDE_ASYMPTOTE:
            wide.append(f"{data.params[i]:.3g}")
    return f"asymptote not identified at {', '.join(wide)} parameters" if wide else "ok"


def _leave_one_out(form: Any, data: JointData, fit: JointFit, *, draws: int, seed: int) -> tuple[HeldOutSize, ...]:
    out = []
    for row, params in enumerate(data.params):
        rest = data.without(row)
        starts = np.concatenate([fit._theta[:4], form.starts(rest)[::5]])
        refit = _fit(form, rest, draws=max(60, draws // 8), seed=seed, starts=starts)
        at = data.weight[row] > 0
        with np.errstate(over="ignore"):
            compute, score = np.exp(data.log_compute[row, at]), data.score[row, at]
        first = int(np.argmin(compute))
        blind = refit.values(float(params), compute)
        point = np.median(blind, axis=0)
        low, high = band(blind, 0.9)
        local = form.local_at(refit._theta, rest, float(params))
        anchor = form.through(local, refit._theta, rest, float(compute[first]), float(score[first]))
        anchored = np.median(form.predict(local, refit._theta, anchor, rest, compute), axis=0)
        others = np.delete(np.arange(compute.size), first)
        out.append(
            HeldOutSize(
                params=float(params),
                points=int(at.sum()),
                rmse=_rms(point - score),
                bias=float(np.mean(point - score)),
                inside=float(np.mean((score >= low) & (score <= high))),
                anchored_rmse=_rms((anchored - score)[others]),
                baseline_rmse=_rms(_nearest(rest, float(params), data.log_compute[row, at]) - score),
                extrapolates=bool(row in (0, len(data.params) - 1)),
            )
        )
    return tuple(out)


def _nearest(data: JointData, params: float, log_compute: Array) -> Array:
    """Scores of the nearest size at equal compute, its last score beyond its end."""
    row = int(np.argmin(np.abs(np.log(data.params / params))))
    at = data.weight[row] > 0
    x, y = data.log_compute[row, at], data.score[row, at]
    order = np.argsort(x)
    with np.errstate(invalid="ignore"):
        return np.interp(log_compute, x[order], y[order])


def _notes(curves_by_params: Mapping[float, Any], data: JointData) -> tuple[str, ...]:
    notes = [f"{count} evaluations left out: {reason}" for reason, count in data.skipped.items()]
    if len(data.params) < FEW_SIZES:
        notes.append(
            f"exploratory: {len(data.params)} sizes, at least {FEW_SIZES} are needed to say anything across sizes"
        )
    chips: set[str] = set()
    found: dict[str, list[str]] = {}
    for params, curves in curves_by_params.items():
        for curve in [curves] if isinstance(curves, Curve) else curves:
            for text in caveats(curve.labels):
                found.setdefault(text, []).append(f"{params:.3g}")
            chips.add(str(curve.labels.get("accelerator") or ""))
    notes.extend(f"{', '.join(dict.fromkeys(sizes))} parameters: {text}" for text, sizes in found.items())
    chips -= {""}
    if len(chips) > 1 and "gpu_hours" in data.axis:
        notes.append(f"hours of different chips are mixed ({', '.join(sorted(chips))}): compare in FLOPs")
    return tuple(dict.fromkeys(notes))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else float("nan")
