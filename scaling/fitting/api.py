"""`fit`: the front door of the fitting core."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scaling.curve import Curve
from scaling.errors import ScalingError
from scaling.fitting.data import MIN_EVALS, Prepared, prepare
from scaling.fitting.posterior import Posterior, Prior, posterior
from scaling.fitting.result import Fit
from scaling.laws import LAWS, Law, law_named

__all__ = ["fit"]

ENSEMBLE = ("sigmoid", "power", "log_linear", "linear_log")


def fit(
    curves: Curve | Iterable[Curve],
    *,
    law: str | type[Law] = "ensemble",
    fit_after: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Fit:
    """Fit a law, or the ensemble of laws, to one curve or to several seeds of one.

    Args:
        curves: a curve, or the curves of several seeds of one recipe.
        law: ``"ensemble"`` or the name of one law.
        fit_after: leave out evaluations before this compute [unit of the axis]; none are left out unless asked.
        draws: draws behind the intervals.
        seed: of the draws.

    Raises:
        ScalingError: the curves cannot be fitted together, or a share is outside [0, 1].
        UnknownName: no such law.
    """
    if draws < 1:
        raise ScalingError(f"draws must be at least 1, got {draws}")
    names = ENSEMBLE if law == "ensemble" else (law_named(law).name,)
    data = prepare(curves, fit_after=fit_after)
    n = min((s.y.size for s in data.series), default=0)
    if n < MIN_EVALS:
        return Fit.refused(data, str(law), f"too few evaluations: {n}, at least {MIN_EVALS} are needed")
    if names == ("sigmoid",):
        names = ("sigmoid", "power", "log_linear")
    members = {}
    for name in names:
        series = data.series if LAWS[name].starts_at_zero else data.positive
        members[name] = posterior(LAWS[name], series[0], draws=draws, rng=np.random.default_rng([seed, len(name)]), prior=Prior(**PRIOR))
    weights = _weights(members, data)
    return Fit.build(data, str(law) if law == "ensemble" else names[0], members, weights, draws, seed)


PRIOR = {"rho_power": -0.5}
LAMBDA = 1.0


def _weights(members: dict[str, Posterior], data: Prepared) -> dict[str, float]:
    size = {name: len(LAWS[name].nonlinear) + len(LAWS[name].linear) for name in members}
    n = data.series[0].y.size
    sigma = min(float(np.median(m.sigma)) for m in members.values())
    unit = 0.5 * np.log(2 * np.pi * n * sigma**2 * LAMBDA**2)
    score = {name: m.log_evidence - size[name] * unit for name, m in members.items()}
    best = max(score.values())
    raw = {name: float(np.exp(s - best)) for name, s in score.items()}
    total = sum(raw.values())
    return {name: w / total for name, w in raw.items()}
