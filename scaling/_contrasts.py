"""Differences and ratios of two fits, from their draws: score and speed-up at a compute, asymptote, exponent, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling.comparison import Contrast
from scaling.curve import Curve
from scaling.fitting.draws import at_compute, drifting

if TYPE_CHECKING:
    from scaling.fitting import Fit

__all__ = ["asymptotes", "at", "contrast", "exponents", "pool"]

Array = NDArray[np.float64]
_NODES = 5  # values of the common asymptote that the exponents are refitted at


def at(x: Fit, y: Fit, compute: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draws of (score of y less score of x) and of the speed-up of y over x, at ``compute``."""
    size = min(x.draws.size, y.draws.size)
    left, right = rng.permutation(x.draws.size)[:size], rng.permutation(y.draws.size)[:size]
    score = x.simulate([compute])[left, 0]
    there = y.simulate([compute])[right, 0]
    # a drift of y moves the law with it
    beside = there - at_compute(y.draws[right], np.array([compute]))[:, 0]
    with np.errstate(divide="ignore", over="ignore"):
        return there - score, compute / _reach_each(y.draws[right], score - beside)


def _reach_each(draws: NDArray, score: Array) -> Array:
    """Compute at which every draw reaches its own score; ``inf`` where it never does."""
    from scaling.laws import LAWS

    out = np.full(draws.size, np.inf)
    for name in np.unique(draws["law"]):
        rows = draws["law"] == name
        law = LAWS[str(name)]
        out[rows] = law.solve(score[rows], **{k: draws[k][rows] for k in law.parameter_names()})
    return out


def pool(values: list[Array], rng: np.random.Generator) -> Array:
    """Draws of the mean over seeds of a per-seed contrast; several seeds on a t-scale of their own spread."""
    if len(values) == 1:
        return values[0]
    count = len(values)
    middle = np.array([v.mean() for v in values])
    within = float(np.sqrt(np.mean([v.var() for v in values]) / count))
    between = float(middle.std(ddof=1) / np.sqrt(count))
    size = min(v.size for v in values)
    # the spread of seed means holds the fits' own error already; by chance it can fall below that error
    spread = np.maximum(between * np.abs(rng.standard_t(count - 1, size)), within * np.abs(rng.standard_normal(size)))
    return middle.mean() + spread * rng.choice([-1.0, 1.0], size)


def asymptotes(
    fit_a: Fit, fit_b: Fit, couples: list[tuple[Fit, Fit]], level: float, margin: float, rng: np.random.Generator
) -> tuple[Contrast, tuple[float, float]]:
    """Difference in A, and (common A, its error) where the two agree."""
    nothing = (float("nan"), float("nan"))
    one, two = _finite(fit_a.draws, "asymptote"), _finite(fit_b.draws, "asymptote")
    if not one.size or not two.size:
        return Contrast("asymptote", float("nan"), -np.inf, np.inf, status="the law has no asymptote"), nothing
    per_seed = [(_finite(x.draws, "asymptote"), _finite(y.draws, "asymptote")) for x, y in couples]
    if all(x.size and y.size for x, y in per_seed):
        gaps = [rng.choice(y, 2000) - rng.choice(x, 2000) for x, y in per_seed]
    else:
        gaps = [rng.choice(two, 2000) - rng.choice(one, 2000)]
    pooled = pool(gaps, rng)
    sides = zip(*couples) if len(couples) > 1 else ((fit_a,), (fit_b,))
    loose = [
        name for name, side in zip(("the baseline's", "the other's"), sides) if not all(f.identified for f in side)
    ]
    if loose:
        status = f"asymptote not identified ({' and '.join(loose)})"
        return contrast("asymptote", pooled, level, status=status, better_above=0.0), nothing
    out = contrast("asymptote", pooled, level, better_above=0.0)
    if out.low > margin or out.high < -margin:
        return out, nothing
    return out, _common(one, two)


def exponents(
    curves: Sequence[tuple[Sequence[Curve], Sequence[Curve]]],
    couples: list[tuple[Fit, Fit]],
    asymptote: Contrast,
    common: tuple[float, float],
    level: float,
    options: dict,
    seed: int,
    rng: np.random.Generator,
) -> Contrast:
    """Difference in B after refitting both recipes with the same A, over the error of that A; seed by seed where paired."""
    from scipy.special import ndtri

    from scaling.fitting import fit

    nothing = Contrast("efficiency_exponent", float("nan"), -np.inf, np.inf)
    if not np.isfinite(common[0]):
        why = asymptote.status if asymptote.status != "ok" else "asymptotes differ: exponents describe different gains"
        return replace(nothing, status=why)
    pooled = []
    nodes = _NODES if len(couples) == 1 else 3
    for (a, b), (x, y) in zip(curves, couples):
        # a seed has an asymptote of its own
        middle, error = (
            common if len(couples) == 1 else _common(_finite(x.draws, "asymptote"), _finite(y.draws, "asymptote"))
        )
        gaps = []
        for k in range(nodes):
            value = middle + error * float(ndtri((k + 0.5) / nodes))
            bounds = {"asymptote": (value - 1e-4, value + 1e-4)}
            settings = {**options, "law": "sigmoid", "draws": max(options["draws"] // nodes, 100), "bounds": bounds}
            steep = [_exponent_draws(fit(list(side), seed=seed + k, **settings), value) for side in (a, b)]
            if not all(s.size for s in steep):
                return replace(nothing, status=f"no sigmoid with the common asymptote {value:.3f} fits both")
            gaps.append(rng.choice(steep[1], 400) - rng.choice(steep[0], 400))
        pooled.append(np.concatenate(gaps))
    return contrast("efficiency_exponent", pool(pooled, rng), level, better_above=0.0)


def _common(one: Array, two: Array) -> tuple[float, float]:
    """Precision-weighted mean of two asymptotes and its standard error."""
    if not one.size or not two.size:
        return float("nan"), float("nan")
    precision = np.array([1 / max(v.var(), 1e-12) for v in (one, two)])
    middle = float(np.average([np.median(one), np.median(two)], weights=precision))
    return middle, float(1 / np.sqrt(precision.sum()))


def _exponent_draws(fitted: Fit, asymptote: float) -> Array:
    if not {"asymptote", "efficiency_exponent"} <= set(fitted.draws.dtype.names or ()):
        return np.zeros(0)  # refused, or all weight went to a limit of the law that has no such parameters
    near = np.abs(fitted.draws["asymptote"] - asymptote) < 2e-4  # a limit of the law may have another asymptote
    values = fitted.draws["efficiency_exponent"][near]
    return values[np.isfinite(values)]


def contrast(
    quantity: str,
    values: Array,
    level: float,
    *,
    better_above: float,
    compute: float = float("nan"),
    status: str = "ok",
) -> Contrast:
    from scaling.fitting.draws import quantile

    low, median, high = quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return Contrast(quantity, median, low, high, compute, float(np.mean(values > better_above)), status)


def _finite(draws: NDArray, name: str) -> Array:
    if name not in (draws.dtype.names or ()):
        return np.zeros(0)
    values = draws[name][~drifting(draws)] if name == "asymptote" else draws[name]  # a drift has no end
    return values[np.isfinite(values)]
