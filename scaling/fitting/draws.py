"""The table of draws, and what is evaluated on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.data import Prepared
from scaling.fitting.drift import sample_drift
from scaling.laws import LAWS

__all__ = ["at_compute", "draw_table", "drift_at", "drifting", "quantile", "reach"]

Array = NDArray[np.float64]
# what a limit of the sigmoid says of the sigmoid's own parameters
_LIMIT = {"power": {"c_mid": 0.0, "r_0": -np.inf}, "log_linear": {"c_mid": 0.0, "r_0": -np.inf}}


def draw_table(
    parts: list[tuple[str, dict[str, Array], Array, Array, Array | float]], *, as_sigmoid: bool = False
) -> NDArray[Any]:
    """Structured array with a row for each draw; parameters a law lacks are NaN.

    Args:
        parts: (law, parameters, rho, sigma, drift) of each member.
        as_sigmoid: fill the sigmoid's parameters of its limits.
    """
    names = sorted(
        {key for _, parameters, *_ in parts for key in parameters} | (set(_LIMIT["power"]) if as_sigmoid else set())
    )
    size = sum(len(rho) for _, _, rho, *_ in parts)
    table = np.zeros(size, dtype=[("law", "U12"), *[(k, float) for k in (*names, "rho", "sigma", "drift")]])
    at = 0
    for law, parameters, rho, sigma, drift in parts:
        rows = slice(at, at + len(rho))
        table["law"][rows], table["rho"][rows], table["sigma"][rows], table["drift"][rows] = law, rho, sigma, drift
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


def drift_at(draws: NDArray[Any], data: Prepared, compute: Array, rng: np.random.Generator) -> Array:
    """Drift of every draw about its law at every compute, shape ``(draws, n)``; of a fit of one curve."""
    out = np.zeros((draws.size, compute.size))
    rows = np.flatnonzero(drifting(draws))
    if not rows.size:
        return out
    s, own = data.positive[0], draws[rows]
    with np.errstate(divide="ignore"):
        x = np.log(compute) - s.x_ref
    residual = (s.y - at_compute(own, np.exp(s.x + s.x_ref))) * s.weight
    out[rows] = sample_drift(s.drift, residual, own["sigma"], own["drift"], x, rng)
    return out


def drifting(draws: NDArray[Any]) -> NDArray[np.bool_]:
    """Which draws have a drift; none of those saved before there was one."""
    return draws["drift"] > 0 if "drift" in (draws.dtype.names or ()) else np.zeros(draws.size, bool)


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
