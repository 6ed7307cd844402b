"""The verdict: does this curve determine its asymptote, and if not, how much more compute would?

Yes needs all of: a pooled 90 % interval no wider than MAX_WIDTH; a C_mid that lies inside the window with confidence; no drift
about the law that would carry the score as far as that; laws without an asymptote rejected, by their evidence on the whole window
and by a back-test (fitted on the evaluations up to half of C_max they must not give the rest twice the likelihood that a saturating
law gives it); and a power law, fitted where a sigmoid tends to one (beyond 1.5 C_mid), that agrees on the asymptote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.data import MIN_EVALS, Prepared
from scaling.fitting.draws import drift_at, drifting, quantile
from scaling.fitting.marginal import Series
from scaling.fitting.posterior import integrate
from scaling.fitting.prior import Prior
from scaling.fitting.status import Status
from scaling.laws import LAWS, Law, Power

__all__ = ["MAX_WIDTH", "Verdict", "judge", "more_compute"]

Array = NDArray[np.float64]
MAX_WIDTH = 0.1  # of the 90 % interval of a share; of a reward, the same fraction of (A - first score) / 0.36
MAX_C_MID = 0.6  # upper 95 % limit of C_mid / C_max
MAX_RIVAL = 0.05  # weight of laws without an asymptote
PRECISION = 0.02  # what "settled" means: half-width of the 90 % interval, the margin of arXiv:2510.13786
_SATURATING = tuple(name for name, law in LAWS.items() if law.saturating)
_RIVALS = ("linear_log", "log_linear")
_DRAWS = 150
_LAW_ALONE = Prior(drift=0.0)


@dataclass(frozen=True)
class Verdict:
    """Outcome with its reasons.

    Attributes:
        status: the outcome.
        message: its reasons.
        wide: whether the width of the asymptote's interval is among them, which more compute narrows.
    """

    status: Status
    message: str
    wide: bool = False


def judge(draws: NDArray[Any], weights: dict[str, float], data: Prepared, bounds: dict, *, gain: float) -> Verdict:
    """Judge a fit.

    Args:
        draws: its table of draws.
        weights: law -> weight.
        data: what was fitted.
        bounds: parameter -> (low, high).
        gain: rise of the score over the window, the yardstick where scores are no shares.
    """
    saturating = np.isin(draws["law"], [k for k, law in LAWS.items() if law.saturating])
    if not any(LAWS[k].saturating for k in weights):
        return Verdict(Status.NO_ASYMPTOTE, f"only saturating laws ({', '.join(_SATURATING)}) have an asymptote")
    noise = float(np.median(draws["sigma"])) / np.sqrt(max(s.y.size for s in data.series))
    if abs(gain) < 4 * noise:
        return Verdict(Status.NO_TREND, f"the score moves by {gain:+.4f} over the window, within its noise")
    if gain < 0:
        return Verdict(Status.NO_TREND, f"the score falls over the window, by {-gain:.4f}")
    if not saturating.any():
        return Verdict(Status.NOT_IDENTIFIED, "laws without an asymptote describe the curve")
    ending = saturating & ~drifting(draws)
    if not ending.any():
        return Verdict(Status.NOT_IDENTIFIED, "the curve leaves every law")
    low, high = quantile(draws["asymptote"][ending], [0.05, 0.95])
    allowed = MAX_WIDTH if data.unit else MAX_WIDTH / 0.36 * gain
    reasons = []
    wide = bool(high - low > allowed)
    if wide:
        reasons.append(f"its 90 % interval [{low:.3f}, {high:.3f}] is wider than {allowed:.3g}")
    last = data.window[1]
    if "c_mid" in (draws.dtype.names or ()):
        c_mid = draws["c_mid"][~np.isnan(draws["c_mid"])]
        if c_mid.size > 0.05 * draws.size and (edge := quantile(c_mid, [0.95])[0]) > MAX_C_MID * last:
            reasons.append(f"C_mid may be as large as {edge / last:.2g} x C_max")
    rival = 1.0 - sum(w for k, w in weights.items() if LAWS[k].saturating)
    if rival > MAX_RIVAL:
        reasons.append(f"laws without an asymptote keep a weight of {rival:.2f}")
    ahead = drift_at(draws, data, np.array([4.0 * last]), np.random.default_rng(0))[:, 0]
    least, most = quantile(ahead, [0.05, 0.95])
    if most - least > allowed:
        reasons.append(f"the curve leaves every law, by [{least:+.3f}, {most:+.3f}] at 4 x C_max")
    if not reasons:  # the dearer tests only where the cheap ones pass
        reasons = [
            r
            for s in data.positive
            for r in (_back_test(s, bounds, data.unit), _agreement(s, draws, bounds, allowed))
            if r
        ]
    if reasons:
        return Verdict(Status.NOT_IDENTIFIED, "; ".join(dict.fromkeys(reasons)), wide)
    return Verdict(Status.IDENTIFIED, f"asymptote in [{low:.3f}, {high:.3f}] (90 %)")


def _cut(s: Series, keep: NDArray[np.bool_]) -> Series:
    ref = float(s.x[keep].mean())
    return Series(s.x[keep] - ref, s.y[keep], s.s[keep], s.x_ref + ref)


def _back_test(s: Series, bounds: dict, unit: bool) -> str:
    """A reason, if a law without an asymptote, from the first half, predicts the rest better, or nothing can be said of it."""
    first = s.x <= s.x.max() - np.log(2.0)
    if first.sum() < MIN_EVALS or (~first).sum() < 3:
        return (
            f"no back-test: it needs {MIN_EVALS} evaluations up to half of C_max and 3 beyond, "
            f"got {first.sum()} and {(~first).sum()}"
        )
    past, rest = _cut(s, first), _cut(s, ~first)
    x = rest.x + rest.x_ref - past.x_ref
    score = {k: _log_score(LAWS[k], past, x, rest.y, bounds) for k in _RIVALS if unit or k != "log_linear"}
    rivals = list(score)
    for name in sorted(
        _SATURATING, key=lambda k: len(LAWS[k].nonlinear)
    ):  # the dear ones only where the cheap have not won
        least = _log_score(LAWS[name], past, x, rest.y, bounds) + np.log(2.0)
        rivals = [k for k in rivals if score[k] >= least]
        if not rivals:
            return ""
    return f"the back-test does not reject {LAWS[rivals[0]].__name__}: from the first half of the window it predicts the rest better"


def _log_score(law: type[Law], past: Series, x: Array, y: Array, bounds: dict) -> float:
    """Log predictive density of the mean of the later scores."""
    got = integrate(law, past, prior=_LAW_ALONE, bounds=bounds).draw(_DRAWS, np.random.default_rng(0))
    with np.errstate(over="ignore"):
        predicted = law.evaluate(np.exp(x)[None, :], **{k: v[:, None] for k, v in got.parameters.items()}).mean(1)
    sd = got.sigma * np.sqrt(np.minimum((1 + got.rho) / (1 - got.rho) / y.size, 1.0))
    return float(np.log(np.mean(np.exp(-0.5 * ((y.mean() - predicted) / sd) ** 2) / sd) + 1e-300))


def _agreement(s: Series, draws: NDArray[Any], bounds: dict, allowed: float) -> str:
    """A reason, if a power law fitted beyond C_mid has another asymptote than the sigmoid."""
    rows = np.isin(draws["law"], ["sigmoid", "weibull"]) & ~drifting(draws)
    if rows.mean() < 0.05:
        return ""
    start = np.log(np.median(draws["c_mid"][rows]) * 1.5) - s.x_ref
    late = s.x >= start
    if late.sum() < 8 or s.x.max() - s.x[late].min() < np.log(2.0):
        return ""
    power = (
        integrate(Power, _cut(s, late), prior=_LAW_ALONE, bounds=bounds)
        .draw(_DRAWS, np.random.default_rng(0))
        .parameters["asymptote"]
    )
    a, b = np.quantile(power, [0.05, 0.5, 0.95]), np.quantile(draws["asymptote"][rows], [0.05, 0.5, 0.95])
    if max(a[0] - b[2], b[0] - a[2]) <= allowed / 2:  # a power law is only the sigmoid's limit: it may lie beside it
        return ""
    return f"Power says [{a[0]:.3f}, {a[2]:.3f}] and Sigmoid [{b[0]:.3f}, {b[2]:.3f}]"


def more_compute(
    draws: NDArray[Any], data: Prepared, *, precision: float = PRECISION, most: float = 20.0, count: int = 200
) -> Array:
    """How many times C_max would settle the asymptote to +-``precision`` (90 %), for ``count`` draws; ``inf`` above ``most``.

    For each draw of a saturating law, its own noise is assumed to go on and evaluations to keep the spacing of the window's
    second half; the error of A follows from the whitened Jacobian.
    """
    rows = np.flatnonzero(np.isin(draws["law"], _SATURATING))
    rows = rows[:: max(1, rows.size // count)][:count]
    s = data.series[0]
    c = np.exp(s.x[s.x > -50] + s.x_ref)
    step = max((c[-1] - c[c.size // 2]) / max(c.size - 1 - c.size // 2, 1), 1e-3 * c[-1])
    factors = np.geomspace(1.0, most, 16)
    out = np.full(rows.size, np.inf)
    for j, factor in enumerate(factors):
        extra = np.arange(c[-1] + step, factor * c[-1] * (1 + 1e-9), step)
        stride = max(1, extra.size // 300)
        x = np.concatenate([c, extra[::stride]])
        x_log = np.log(x) - s.x_ref
        todo = np.flatnonzero(np.isinf(out))
        for name in _SATURATING:
            mine = todo[draws["law"][rows[todo]] == name]
            if not mine.size:
                continue
            d = draws[rows[mine]]
            law = LAWS[name]
            u, amplitude = law.encode({k: d[k] for k in law.parameter_names()}, s.x_ref)
            basis, tangent = law.design(x_log, u)
            jacobian = np.concatenate([basis, tangent * amplitude[:, None, None]], 1)
            r = d["rho"][:, None, None]
            white = jacobian.copy()
            white[:, :, 1:] = (jacobian[:, :, 1:] - r * jacobian[:, :, :-1]) / np.sqrt(1 - r * r)
            information = white @ white.transpose(0, 2, 1)
            scale = 1.0 / np.sqrt(np.maximum(np.einsum("gii->gi", information), 1e-280))
            scaled = information * scale[:, :, None] * scale[:, None, :] + 1e-12 * np.eye(information.shape[1])
            variance = np.linalg.inv(scaled)[:, 0, 0] * scale[:, 0] ** 2
            half = 1.645 * d["sigma"] * np.sqrt(np.maximum(variance, 0.0))
            out[mine[half <= precision]] = factors[j]
    return out
