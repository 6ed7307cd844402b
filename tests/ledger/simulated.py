"""A simulated study from a known surface: bases of several sizes and budgets, seeds, and RL on each."""

import numpy as np

from scaling.curve import Curve
from scaling.pretraining import LossLaw, OffsetExponential, StudyRun

LOSS = LossLaw(E=0.4, A=30.0, B=900.0, alpha=0.4, beta=0.45)
LEVEL = OffsetExponential(offset=0.03, amplitude=60.0, rate=9.0)
A, B, C = -0.10, 0.016, 0.006
C_REF = 1e16
BEST, SAMPLED = 0.8, 0.5  # the base's score under its best decoding and under plain sampling, relative to f


def slope(params, tokens):
    return A + B * np.log10(tokens) + C * np.log10(params)


def expected(params, tokens, compute):
    return LEVEL(LOSS(params, tokens)) + slope(params, tokens) * np.log10(compute / C_REF)


def study(rng, *, sizes=5, budgets=3, seeds=3, noise=0.01, base_noise=0.01, tokens=None, caveats=()):
    """Runs; ``tokens`` fixes the pretraining tokens of every size (as public families do)."""
    runs = []
    for params in np.geomspace(5e6, 5e8, sizes):
        for data in 20 * params * np.geomspace(1 / 3, 3, budgets) if tokens is None else [tokens]:
            for seed in range(seeds):
                loss = float(LOSS(params, data) * np.exp(0.002 * rng.normal()))
                compute = 6 * params * data * np.geomspace(0.003, 0.6, 16)
                score = LEVEL(loss) + slope(params, data) * np.log10(compute / C_REF)
                score = score + base_noise * rng.normal() + noise * rng.normal(size=16)
                runs.append(
                    StudyRun(
                        params=float(params),
                        tokens=float(data),
                        pretraining_flops=float(6 * params * data),
                        loss=loss,
                        base=f"{params:.0f}-{data:.0f}-{seed}",
                        curve=Curve(compute=compute, performance=score, axis="total_flops", run_id=f"run{len(runs)}"),
                        base_sampled=float(SAMPLED * LEVEL(loss) + 0.005 * rng.normal()),
                        base_best=float(BEST * LEVEL(loss) + 0.005 * rng.normal()),
                        caveats=caveats,
                    )
                )
    return runs
