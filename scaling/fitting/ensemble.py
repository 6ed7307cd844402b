"""How much each law of an ensemble counts: its evidence, with a mild price on parameters and stated prior odds.

The evidence of a law is the integral of the likelihood over its parameters, rho and sigma, with the density of the parameters
flat in prediction space: |J'J|^(1/2) divided by (2 pi)^(1/2) LAMBDA sigma sqrt(n) for every parameter. LAMBDA = 1 is the unit
information prior behind BIC. A smaller one asks less of a further parameter; it was chosen by simulation (docs/which-law.md),
on curves of the laws themselves and on curves of none of them (sums of sigmoids): at 1 a power law or a straight line in log
compute wins too often on curves that a sigmoid made; at 0.1 a sigmoid too often on curves of a log-linear law. The odds were
chosen on simulated curves of every law: a power law and a log-linear one (the corner A = 1 of a sigmoid) need more than a
sigmoid's, or slow noise is taken for the bend of a sigmoid; a Weibull less, or it takes curves with a heavy tail. Tempering the
evidence or equal weights widened the bands and raised the error, so neither is done.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scaling.fitting.posterior import Marginal
from scaling.fitting.prior import Prior
from scaling.laws import LAWS, Law

__all__ = ["LAMBDA", "LIMIT_ODDS", "ODDS", "ONSET", "evidence_weights", "member"]

LAMBDA = 0.2
ONSET = "onset"
ODDS = {"weibull": 0.5, "power": 4.0, "log_linear": 15.0, ONSET: 2.0}  # to a sigmoid's 1, in the ensemble
LIMIT_ODDS = {"power": 2.5, "log_linear": 9.0, ONSET: 2.0}  # of a sigmoid's limits, for `law="sigmoid"`


def member(name: str, prior: Prior | None = None) -> tuple[type[Law], Prior]:
    """Law and prior of a member of a mixture.

    ``onset`` is the sigmoid in a window that ends before C_mid: the data then know R_0, B and the size of the first rise, and
    nothing of A. The volume of all four parameters would all but rule that corner out, since predictions hardly change along
    it; here A has a flat density, and the volume is that of the other three.
    """
    prior = prior or Prior()
    if name == ONSET:
        return LAWS["sigmoid"], replace(prior, flat=("asymptote",), onset=True)
    return LAWS[name], prior


def evidence_weights(members: dict[str, list[Marginal]], *, odds: dict[str, float]) -> dict[str, float]:
    """Weight of each law, summing to one.

    Args:
        members: law name -> its integral for every seed, all on the same points.
        odds: law name -> prior odds, 1 where not named: `ODDS` or `LIMIT_ODDS`.
    """
    seeds = range(len(next(iter(members.values()))))
    sigma = [min(m[s].sigma for m in members.values()) for s in seeds]
    sizes = [next(iter(members.values()))[s].problem.series.x.size for s in seeds]
    score = {}
    for name, integrals in members.items():
        k = integrals[0].size
        total = sum(m.log_evidence - 0.5 * k * np.log(2 * np.pi * sigma[s] ** 2) for s, m in enumerate(integrals))
        score[name] = total - 0.5 * k * np.log(LAMBDA**2 * sum(sizes)) + np.log(odds.get(name, 1.0))
    top = max(score.values())
    raw = {name: float(np.exp(value - top)) for name, value in score.items()}
    whole = sum(raw.values())
    return {name: value / whole for name, value in raw.items()}
