"""Simulated curves for the tests of the fitting core."""

from __future__ import annotations

import numpy as np

from scaling import Curve, Sigmoid
from scaling.law import Law

LAW = Sigmoid(asymptote=0.61, efficiency_exponent=1.5, c_mid=1000.0, r_0=0.25)


def ar1(rng: np.random.Generator, n: int, rho: float, sd: float) -> np.ndarray:
    e = rng.normal(size=n)
    out = np.empty(n)
    out[0] = e[0]
    for t in range(1, n):
        out[t] = rho * out[t - 1] + np.sqrt(1 - rho**2) * e[t]
    return sd * out


def curve(
    law: Law = LAW, *, ratio: float = 8.0, n: int = 40, sd: float = 0.006, rho: float = 0.0, seed: int = 0, **fields
) -> Curve:
    """A run of ``n`` evaluations evenly spaced up to ``ratio`` x 1000."""
    rng = np.random.default_rng(seed)
    compute = np.linspace(ratio * 1000.0 / n, ratio * 1000.0, n)
    return Curve(compute=compute, performance=np.clip(law(compute) + ar1(rng, n, rho, sd), 0, 1), **fields)
