"""The relative error of each evaluation: sampling of its items, known, and the training's own noise, estimated.

s_t^2 = se_t^2 + tau^2. se_t is the standard error given with the curve, or binomial from per-item counts (items fixed: only the
completions are sampled). tau, by likelihood on the residuals of a weighted fit, is what a beta-binomial adds to a binomial. Only
the shape of s over t is used: the noise's overall size is integrated out, since given errors often hold the items' common error,
which moves the whole curve and no evaluation against another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.curve import Curve
from scaling.fitting.solver import solve
from scaling.laws import Sigmoid

__all__ = ["noise_scale", "sampling_errors"]

Array = NDArray[np.float64]
_FACTORS = np.concatenate([[0.0], np.geomspace(0.1, 30.0, 24)])


def sampling_errors(curve: Curve) -> Array | None:
    """Standard error of each evaluation from sampling, shape ``(n_evals,)``; None where nothing is known.

    From counts of k completions an item: mean over items of p (1 - p) / k, unbiased by k / (k - 1), over the number of items;
    with k = 1, where items and completions cannot be told apart, of the mean score.
    """
    if curve.stderr is not None:
        se = curve.stderr
    elif curve.successes is not None and curve.samples_per_item and curve.successes.shape[1]:
        k, share = curve.samples_per_item, curve.successes / curve.samples_per_item
        mean = share.mean(1)
        variance = (share * (1 - share)).mean(1) / (k - 1) if k > 1 else mean * (1 - mean)
        se = np.sqrt(variance / share.shape[1])
    else:
        return None
    good = np.isfinite(se) & (se > 0)
    if not good.any():
        return None
    # an accuracy of exactly 0 or 1 has a nominal error of zero; it is not infinitely precise
    middle = float(np.median(se[good]))
    return np.maximum(np.where(good, se, middle), 0.25 * middle)


def noise_scale(x: Array, y: Array, se: Array) -> Array:
    """sqrt(se^2 + tau^2) with tau at its maximum likelihood, shape ``(n,)``, for centred log compute ``x``."""
    if y.size < 8 or np.ptp(se) <= 1e-9 * se.max() or np.ptp(y) == 0:
        return se
    # all candidates at once: rows of weights
    s = np.sqrt(se**2 + (_FACTORS[:, None] * np.median(se)) ** 2)
    wide = {"asymptote": (-np.inf, np.inf), "r_0": (-np.inf, np.inf)}
    got = solve(Sigmoid, x, y, weights=(np.median(se) / s) ** 2, bounds=wide)
    residual = (Sigmoid.basis(x, got.u) * got.coefficients[:, :, None]).sum(1) - y
    size = np.sqrt(np.mean((residual / s) ** 2, axis=1))  # the overall size is free: profiled
    value = -np.log(s).sum(1) - y.size * np.log(np.maximum(size, 1e-300))
    return s[int(np.argmax(value))]
