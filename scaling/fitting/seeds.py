"""Several seeds of one law: the mean law over seeds and its uncertainty.

Every seed has its own parameters, normal around the law's with a spread that is itself unknown (half-t prior with half a degree of
freedom, scaled by `Law.seed_spread`). Three seeds hardly tell their own spread; resampling them would cover far too little
(.63 of nominal .90). The posterior is sampled in two stages: each seed's own draws, then Gibbs steps on the law and the spread
in which a seed moves among its own draws by Metropolis steps (Lunn et al. 2013, doi:10.1111/rssc.12007).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from scaling.fitting.posterior import Posterior

__all__ = ["Pooled", "pool_seeds"]

Array = NDArray[np.float64]
_DF = 0.5
_STEPS = 240


@dataclass(frozen=True, eq=False)
class Pooled:
    """Draws of the mean law and of the law of one further seed, and the spread between seeds of each parameter."""

    mean: dict[str, Array]
    new_seed: dict[str, Array]
    spread: dict[str, Array]


def pool_seeds(
    seeds: list[Posterior], *, draws: int, bounds: dict[str, tuple[float, float]], rng: np.random.Generator
) -> Pooled:
    """Pool the posteriors of several seeds of one law.

    Args:
        seeds: posterior of each seed.
        draws: draws wanted; each is the end of a chain of its own.
        bounds: parameter -> (low, high) of the mean law.
        rng: source of randomness.
    """
    law = seeds[0].law
    names = law.parameter_names()
    log = np.array([name in law.positive for name in names])
    count = len(seeds)
    theta = np.stack(
        [np.stack([np.log(p.parameters[k]) if lg else p.parameters[k] for k, lg in zip(names, log)], -1) for p in seeds]
    )
    log_prior = np.stack([p.log_prior for p in seeds])
    order = np.argsort(theta[:, :, 0], axis=1)  # neighbours in the first parameter are neighbours in the walk
    theta = np.take_along_axis(theta, order[:, :, None], 1)
    log_prior = np.take_along_axis(log_prior, order, 1)
    size, d = theta.shape[1:]
    scale = np.array([law.seed_spread[name] for name in names])[:, None]
    low, high = (ends[:, None] for ends in _limits(names, log, bounds))
    # arrays are (d, seeds, draws), draws of all seeds under each other: the long axis last is the quick one
    pool, pool_prior = np.ascontiguousarray(theta.reshape(-1, d).T), log_prior.ravel()
    first = np.arange(count)[:, None] * size  # of each seed in the pool
    at = rng.integers(0, size, (draws, count)).T.copy()
    now, prior_now = np.take(pool, first + at, axis=1), np.take(pool_prior, first + at)
    mu = now.mean(1)
    variance = np.maximum(now.var(1), scale**2)
    square = (now - mu[:, None]) ** 2
    share = (count - 1.0) / count  # one volume prior for the law, not one for every seed
    for step in range(_STEPS):
        if step % 2:
            reach = max(2, size // 30)
            new = at + rng.integers(-reach, reach + 1, (draws, count)).T
            valid = (new >= 0) & (new < size)
            np.clip(new, 0, size - 1, out=new)
        else:
            new, valid = rng.integers(0, size, (draws, count)).T, True
        trial, prior_trial = np.take(pool, first + new, axis=1), np.take(pool_prior, first + new)
        change = trial - mu[:, None]
        change *= change
        np.subtract(square, change, out=change)
        change *= (0.5 / variance)[:, None]
        gain = change.sum(0)
        gain -= share * (prior_trial - prior_now)
        accept = valid & (np.log(rng.random((draws, count))).T < gain)
        for old, trying in ((at, new), (now, trial), (prior_now, prior_trial)):
            np.copyto(old, trying, where=accept)
        mu = _normal_between(now.mean(1), np.sqrt(variance / count), low, high, rng.random((draws, d)).T)
        square = now - mu[:, None]
        square *= square
        # half-t spread as a scale mixture of inverse gammas
        mixing = (_DF / variance + 1.0 / scale**2) / rng.gamma((_DF + 1) / 2, 1.0, (draws, d)).T
        variance = (_DF / mixing + square.sum(1) / 2) / rng.gamma((_DF + count) / 2, 1.0, (draws, d)).T
    fresh = _normal_between(mu, np.sqrt(variance), low, high, rng.random((draws, d)).T)

    def unpack(values: Array) -> dict[str, Array]:
        return {k: np.exp(v) if lg else v for k, v, lg in zip(names, values, log)}

    return Pooled(unpack(mu), unpack(fresh), dict(zip(names, np.sqrt(variance))))


def _limits(
    names: tuple[str, ...], log: NDArray[np.bool_], bounds: dict[str, tuple[float, float]]
) -> tuple[Array, Array]:
    ends = np.array(
        [bounds.get(name, (-np.inf, np.inf)) if not lg else (-np.inf, np.inf) for name, lg in zip(names, log)]
    )
    for i, name in enumerate(names):
        if name == "log_error":  # its bounds are those of exp(log_error)
            ends[i] = -np.inf, np.inf
    return ends[:, 0], ends[:, 1]


def _normal_between(loc: Array, sd: Array, low: Array, high: Array, uniform: Array) -> Array:
    a, b = ndtr((low - loc) / sd), ndtr((high - loc) / sd)
    inside = ndtri(np.clip(a + uniform * (b - a), 1e-12, 1 - 1e-12))
    return np.clip(loc + sd * inside, low, high)
