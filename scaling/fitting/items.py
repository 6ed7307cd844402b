"""The error a benchmark shares with a whole curve: its items are a sample of a population of items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.curve import Curve
from scaling.errors import ScalingError

__all__ = ["ItemError", "item_error"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ItemError:
    """Variance of a benchmark's score around the population's: ratio * p (1 - p) / n_items.

    Attributes:
        n_items: items of the benchmark.
        ratio: variance of the items' success probabilities over that of a coin, in [0, 1]; 1 where it is not known.
        source: how the ratio was found.
    """

    n_items: int
    ratio: float
    source: str

    def sd(self, score: Array) -> Array:
        """Standard deviation at a score."""
        p = np.clip(score, 0.0, 1.0)
        return np.sqrt(self.ratio * p * (1.0 - p) / self.n_items)


def item_error(curves: tuple[Curve, ...], n_items: int | None = None) -> ItemError:
    """Item error from per-item counts where known, else from the number of items.

    The covariance over items between successive evaluations holds the spread of the items' success probabilities and none of
    the sampling noise.

    Raises:
        ScalingError: neither counts, nor ``n_items``, nor standard errors are known.
    """
    ratios, m = [], 0
    for curve in curves:
        if curve.successes is None or not curve.samples_per_item or len(curve) < 2 or curve.successes.shape[1] < 2:
            continue
        share = curve.successes / curve.samples_per_item
        m = share.shape[1]
        late = share[-max(2, len(share) // 3) :]
        centred = late - late.mean(1, keepdims=True)
        between = (centred[1:] * centred[:-1]).sum(1) / (m - 1)
        p = late.mean(1)
        coin = np.sqrt(np.maximum(p[1:] * (1 - p[1:]) * p[:-1] * (1 - p[:-1]), 1e-12))
        ratios.append(float(np.mean(between / coin)))
    if ratios:
        return ItemError(m, float(np.clip(np.mean(ratios), 0.0, 1.0)), "per-item counts")
    if n_items is None:
        errors = [(c.performance, c.stderr) for c in curves if c.stderr is not None]
        found = [
            p * (1 - p) / s**2
            for p, s in errors
            for p, s in [(p[np.isfinite(p) & (s > 0)], s[np.isfinite(p) & (s > 0)])]
        ]
        sizes = np.concatenate(found) if found else np.zeros(0)
        if not sizes.size:
            raise ScalingError(
                "of='population' needs the number of items: give curves with per-item counts or standard errors (--stderr COL of a "
                "table), or fit(..., n_items=...)"
            )
        return ItemError(max(1, round(float(np.median(sizes)))), 1.0, "p(1-p)/m, m from the standard errors")
    if n_items < 1:
        raise ScalingError(f"n_items must be at least 1, got {n_items}")
    return ItemError(int(n_items), 1.0, "p(1-p)/m, no per-item counts")
