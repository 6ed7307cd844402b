"""A fit in words, and how it moves with the fitted window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.fitting.data import MIN_EVALS
from scaling.fitting.draws import drifting, quantile
from scaling.fitting.identify import PRECISION, more_compute
from scaling.fitting.status import Status
from scaling.laws import LAWS
from scaling.words import percent

if TYPE_CHECKING:
    from scaling.fitting.result import Fit

__all__ = ["Cutoff", "cutoffs", "summarise"]

_LABELS = {
    "asymptote": "asymptote A", "efficiency_exponent": "efficiency exponent B", "c_mid": "C_mid", "r_0": "R_0", "scale": "scale D",
    "exponent": "exponent k", "slope": "slope", "level": "level", "rho": "noise lag-1", "sigma": "noise sd",
}  # fmt: skip
_TOLD = 0.1  # share of draws with a drift from which it is said


@dataclass(frozen=True)
class Cutoff:
    """The fit of a part of the window.

    Attributes:
        first: first compute fitted.
        last: last compute fitted.
        evaluations: how many.
        asymptote: 90 % interval.
        efficiency_exponent: 90 % interval.
        identified: the verdict on this part.
    """

    first: float
    last: float
    evaluations: int
    asymptote: tuple[float, float]
    efficiency_exponent: tuple[float, float]
    identified: bool


def cutoffs(
    fit: Fit, *, drop_first: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5), keep: tuple[float, ...] = (1.0, 0.75, 0.5)
) -> list[Cutoff]:
    """Refit without the first evaluations (shares ``drop_first``), and on the first ``keep`` of the evaluations alone."""
    from scaling.fitting.api import fit as refit

    known = ("law", "r_0", "r_0_stderr", "loss", "delta", "bounds", "drift")
    options: dict[str, Any] = {k: fit.options[k] for k in known if fit.options.get(k) is not None}
    compute = np.sort(np.unique(np.concatenate([c.compute[(c.compute >= fit.window[0])] for c in fit.curves])))
    parts = [(share, 1.0) for share in drop_first] + [(0.0, share) for share in keep if share < 1.0]
    out = []
    for drop, share in parts:
        part = compute[int(drop * compute.size) : max(int(np.ceil(share * compute.size)), 1)]
        if part.size < MIN_EVALS:
            continue
        got = refit(
            [c.before(part[-1]) for c in fit.curves], fit_after=float(part[0]), draws=400, seed=fit.seed, **options
        )
        out.append(
            Cutoff(
                float(part[0]),
                float(part[-1]),
                part.size,
                got.interval("asymptote"),
                got.interval("efficiency_exponent"),
                got.identified,
            )
        )
    return out


def summarise(fit: Fit, *, full: bool = False) -> str:
    """Lines of text; see `Fit.summary`."""
    count = sum(int(np.isfinite(c.performance).sum()) for c in fit.curves) - sum(
        v for k, v in fit.skipped.items() if k.startswith("before")
    )
    runs = f"{len(fit.curves)} curve{'s' if len(fit.curves) > 1 else ''}"
    lines = [
        f"{fit.form} fit of {fit.metric}: {count} evaluations of {runs}, {fit.axis} {fit.window[0]:.4g} to {fit.window[1]:.4g}"
    ]
    lines += [f"  left out: {number} ({reason})" for reason, number in fit.skipped.items()]
    lines += [f"  note: {note}" for note in fit.notes]
    if not fit.draws.size:
        return "\n".join([*lines, f"{fit.status}: {fit.message}"])
    if len(fit.weights) > 1:
        lines.append("  weights: " + ", ".join(f"{LAWS[k].__name__} {w:.2f}" for k, w in fit.weights.items()))
    if (leaving := float(drifting(fit.draws).mean())) >= _TOLD:
        lines.append(
            f"  drift: the curve leaves its law in {percent(leaving)} of the draws, and forecasts go on from where it is"
        )
    lines.append(f"  {'':24}{'median':>10}   90 % interval")
    for name, label in _LABELS.items():
        if name not in (fit.draws.dtype.names or ()) or not np.isfinite(fit.draws[name]).any():
            continue
        low, high = fit.interval(name)
        middle = quantile(fit.draws[name][~np.isnan(fit.draws[name])], [0.5])[0]
        unsettled = name == "asymptote" and not fit.identified
        lines.append(f"  {label:24}{'-' if unsettled else f'{middle:.4g}':>10}   [{low:.4g}, {high:.4g}]")
    lines.append(f"verdict: {fit.status} ({fit.message})")
    if fit.status in (Status.NOT_IDENTIFIED, Status.NO_TREND) and np.isfinite(low := fit.interval("asymptote")[0]):
        lines.append(f"  asymptote not identified: at least {low:.3f} (95 %)")
        lines.append(f"  to settle it{_settling(fit)}")
    ahead = fit.window[1] * np.array([2.0, 4.0])
    band = fit.forecast(ahead)
    for c, m, a, b, factor in zip(ahead, band.median, band.low, band.high, (2, 4)):
        lines.append(f"  forecast at {factor} x ({c:.4g}): {m:.3f} [{a:.3f}, {b:.3f}]")
    if full:
        lines += [
            "window sensitivity (90 % intervals):",
            f"  {'from':>10} {'to':>10} {'n':>5}   {'A':18} {'B':18} identified",
        ]
        for cut in cutoffs(fit):
            ends = (cut.asymptote, cut.efficiency_exponent)
            a, b = (f"[{low:.3f}, {high:.3f}]" if np.isfinite([low, high]).all() else "-" for low, high in ends)
            lines.append(
                f"  {cut.first:10.4g} {cut.last:10.4g} {cut.evaluations:5d}   {a:18} {b:18} {'yes' if cut.identified else 'no'}"
            )
    return "\n".join(lines)


def _settling(fit: Fit) -> str:
    """How much more compute would do, where the width of the interval is in doubt and compute narrows it; else what is."""
    if fit.status == Status.NO_TREND:
        return f": it must rise first, {fit.message}"
    if not fit.verdict.wide:
        return f": not a matter of its interval, which is narrow enough, but of this: {fit.message}"
    factors = more_compute(fit.draws, fit.data)
    low, middle, high = quantile(factors, [0.05, 0.5, 0.95]) if factors.size else (np.inf,) * 3
    goal = f" to +-{PRECISION}"
    if not np.isfinite(middle):
        return f"{goal}: more than 20 x the compute so far"
    if middle > 1.0:
        most = f"{high:.2g}" if np.isfinite(high) else "more than 20"
        return f"{goal}: {middle:.2g} x the compute so far (90 %: {low:.2g} to {most})"
    if len(fit.curves) > 1:  # the noise of a curve is small enough, so it is the seeds that differ
        return f"{goal}: more seeds rather than more compute, since it is the {len(fit.curves)} curves that differ"
    laws = {}
    for name in np.unique(fit.draws["law"]):
        rows = (fit.draws["law"] == name) & ~drifting(fit.draws)
        if LAWS[str(name)].saturating and rows.mean() >= 0.05:
            laws[LAWS[str(name)].__name__] = quantile(fit.draws["asymptote"][rows], [0.05, 0.95])
    told = " and ".join(f"{name} [{a:.3f}, {b:.3f}]" for name, (a, b) in laws.items())
    if len(laws) > 1:
        return f": the laws must agree first, each is narrow by itself: {told}"
    return f"{goal}: little more compute, if the noise is as small as most draws say"
