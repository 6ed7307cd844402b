"""The table of draws, and what is evaluated on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws import LAWS

__all__ = ["at_compute", "draw_table", "quantile", "reach"]

Array = NDArray[np.float64]
# what a limit of the sigmoid says of the sigmoid's own parameters
_LIMIT = {"power": {"c_mid": 0.0, "r_0": -np.inf}, "log_linear": {"c_mid": 0.0, "r_0": -np.inf}}


def draw_table(parts: list[tuple[str, dict[str, Array], Array, Array]], *, as_sigmoid: bool = False) -> NDArray[Any]:
    """Structured array with a row for each draw; parameters a law lacks are NaN.

    Args:
        parts: (law, parameters, rho, sigma) of each member.
        as_sigmoid: fill the sigmoid's parameters of its limits.
    """
    names = sorted(
        {key for _, parameters, _, _ in parts for key in parameters} | (set(_LIMIT["power"]) if as_sigmoid else set())
    )
    size = sum(len(rho) for _, _, rho, _ in parts)
    table = np.zeros(size, dtype=[("law", "U12"), *[(k, float) for k in (*names, "rho", "sigma")]])
    at = 0
    for law, parameters, rho, sigma in parts:
        rows = slice(at, at + len(rho))
        table["law"][rows], table["rho"][rows], table["sigma"][rows] = law, rho, sigma
        limit = _LIMIT.get(law, {}) if as_sigmoid else {}
        if as_sigmoid and law == "log_linear":
            limit = {**limit, "efficiency_exponent": parameters["exponent"]}
        for key in names:
            table[key][rows] = parameters.get(key, limit.get(key, np.nan))
        at += len(rho)
    return table


def at_compute(draws: NDArray[Any], compute: Array) -> Array:
    """Score of every draw at every compute, shape ``(draws, n)``."""
    out = np.full((draws.size, compute.size), np.nan)
    for name in np.unique(draws["law"]):
        rows = draws["law"] == name
        law = LAWS[str(name)]
        out[rows] = law.evaluate(compute[None, :], **{k: draws[k][rows][:, None] for k in law.parameter_names()})
    return out


def reach(draws: NDArray[Any], score: float) -> Array:
    """Compute at which every draw reaches ``score``, ``inf`` where it never does."""
    out = np.full(draws.size, np.inf)
    for name in np.unique(draws["law"]):
        rows = draws["law"] == name
        law = LAWS[str(name)]
        out[rows] = law.solve(np.asarray(float(score)), **{k: draws[k][rows] for k in law.parameter_names()})
    return out


def quantile(values: Array, levels: list[float]) -> list[float]:
    """Quantiles of values that may be infinite: linear between finite neighbours, else the outer one of the two."""
    v = np.sort(values)
    out = []
    for level in levels:
        at = level * (v.size - 1)
        low, high = v[int(np.floor(at))], v[int(np.ceil(at))]
        if np.isfinite(low) and np.isfinite(high):
            out.append(float(low + (at - np.floor(at)) * (high - low)))
        else:
            out.append(float(low if level < 0.5 else high))
    return out
