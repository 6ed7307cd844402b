"""Several seeds of one law: the mean law over seeds and its uncertainty.

Every seed has its own parameters, normal around the law's with a spread that is itself unknown (half-t prior with 0.3 degrees of
freedom, scaled by `Law.seed_spread`). Three seeds hardly tell their own spread; resampling them would cover far too little
(.63 of nominal .90). The posterior is sampled in two stages: candidates from each seed's own posterior, then Gibbs steps on the
law and the spread in which a seed moves among its candidates by Metropolis steps (Lunn et al. 2013, doi:10.1111/rssc.12007).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from scaling.fitting.posterior import Posterior

__all__ = ["Pooled", "pool_seeds"]

Array = NDArray[np.float64]
_DF = 0.3  # chosen with the scale of A by the coverage of three seeds (docs/which-law.md)
_STEPS = 240


@dataclass(frozen=True, eq=False)
class Pooled:
    """Draws of the mean law and of the law of one further seed, the spread between seeds of each parameter, and the noise.

    Attributes:
        mean: parameter -> draws of the mean law.
        new_seed: the same of a further seed's law.
        spread: parameter -> draws of its standard deviation over seeds, of its logarithm where it is positive.
        rho: autocorrelation of the noise, the mean over seeds of draws of each.
        sigma: its standard deviation, the root mean square over seeds of draws of each.
    """

    mean: dict[str, Array]
    new_seed: dict[str, Array]
    spread: dict[str, Array]
    rho: Array
    sigma: Array


def pool_seeds(
    seeds: list[Posterior], *, draws: int, bounds: dict[str, tuple[float, float]], rng: np.random.Generator
) -> Pooled:
    """Pool the posteriors of several seeds of one law.

    Args:
        seeds: candidates of each seed, from `Marginal.candidates`.
        draws: draws wanted; each is the end of a chain of its own.
        bounds: parameter -> (low, high) of the mean law.
        rng: source of randomness.
    """
    law = seeds[0].law
    names = law.parameter_names()
    log = np.array([name in law.positive for name in names])
    count = len(seeds)
    theta = np.stack(
        [np.stack([_log(p.parameters[k]) if lg else p.parameters[k] for k, lg in zip(names, log)]) for p in seeds], 1
    )
    order = np.argsort(theta[0], axis=1)  # neighbours in the first parameter are neighbours in the walk
    share = (count - 1.0) / count  # one volume prior for the law, not one for every seed
    # a candidate outside the law's region has neither weight nor prior, and is never chosen
    own = np.stack([
        np.where(np.isfinite(p.log_weight), p.log_weight, -1e9) - share * np.where(np.isfinite(p.log_prior), p.log_prior, 0.0)
        for p in seeds
    ])  # fmt: skip
    d, size = theta.shape[0], theta.shape[2]
    scale = np.array([law.seed_spread[name] for name in names])[:, None]
    low, high = (ends[:, None] for ends in _limits(names, log, bounds))
    # arrays are (d + 1, seeds, draws), the candidate's own weight last: the long axis last is the quick one
    pool = np.take_along_axis(np.concatenate([theta, own[None]]), order[None], 2).reshape(d + 1, -1)
    first = (np.arange(count) * size)[:, None]  # of each seed in the pool
    at = rng.integers(0, size, (count, draws))
    now = np.take(pool, first + at, axis=1)
    mu = now[:-1].mean(1)
    variance = np.maximum(now[:-1].var(1), scale**2)
    square = (now[:-1] - mu[:, None]) ** 2
    reach = max(2, size // 30)
    for step in range(_STEPS):
        if step % 2:
            new = at + _below(2 * reach + 1, at.shape, rng) - reach
            valid = (new >= 0) & (new < size)
            np.clip(new, 0, size - 1, out=new)
        else:
            new, valid = _below(size, at.shape, rng), True
        trial = np.take(pool, first + new, axis=1)
        change = trial[:-1] - mu[:, None]
        change *= change
        np.subtract(square, change, out=change)
        change *= (0.5 / variance)[:, None]
        gain = change.sum(0)
        gain += trial[-1]
        gain -= now[-1]
        accept = valid & (np.log(np.float32(1) - rng.random(at.shape, dtype=np.float32)) < gain)
        at, now = np.where(accept, new, at), np.where(accept, trial, now)
        mu = _normal_between(now[:-1].mean(1), np.sqrt(variance / count), low, high, rng)
        np.subtract(now[:-1], mu[:, None], out=square)
        square *= square
        # half-t spread as a scale mixture of inverse gammas
        mixing = (_DF / variance + 1.0 / scale**2) / _gamma((_DF + 1) / 2, mu.shape, rng)
        variance = (_DF / mixing + square.sum(1) / 2) / _gamma((_DF + count) / 2, mu.shape, rng)
    fresh = _normal_between(mu, np.sqrt(variance), low, high, rng)
    # of every seed by itself
    own_draws = [rng.choice(size, draws, p=p.weights) for p in seeds]
    rho = np.mean([p.rho[i] for p, i in zip(seeds, own_draws)], axis=0)
    sigma = np.sqrt(np.mean([p.sigma[i] ** 2 for p, i in zip(seeds, own_draws)], axis=0))

    def unpack(values: Array) -> dict[str, Array]:
        return {k: np.exp(v) if lg else v for k, v, lg in zip(names, values, log)}

    return Pooled(unpack(mu), unpack(fresh), dict(zip(names, np.sqrt(variance))), rho, sigma)


def _log(values: Array) -> Array:
    return np.log(np.maximum(values, 1e-300))  # the scale of a power law that gains nothing is 0


def _limits(
    names: tuple[str, ...], log: NDArray[np.bool_], bounds: dict[str, tuple[float, float]]
) -> tuple[Array, Array]:
    ends = np.full((len(names), 2), (-np.inf, np.inf))
    for i, (name, lg) in enumerate(zip(names, log)):
        if name in bounds and name != "log_error":  # its bounds are those of exp(log_error)
            ends[i] = np.log(np.maximum(bounds[name], 1e-300)) if lg else bounds[name]
    return ends[:, 0], ends[:, 1]


def _below(end: int, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.intp]:
    """Integers from 0 to end - 1; single precision is enough below 2^24, and quicker than `integers`."""
    return np.minimum((rng.random(shape, dtype=np.float32) * np.float32(end)).astype(np.intp), end - 1)


def _gamma(shape: float, size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.floating]:
    """Gamma draws; of a shape below 1 by Stuart's theorem from one above, which is quicker."""
    if shape >= 1:
        return rng.standard_gamma(shape, size, dtype=np.float32)
    return rng.standard_gamma(shape + 1.0, size, dtype=np.float32) * rng.random(size) ** (1.0 / shape)


def _normal_between(loc: Array, sd: Array, low: Array, high: Array, rng: np.random.Generator) -> Array:
    """Normal draws confined to (low, high): the few outside are drawn anew, from inside, which is exact."""
    values = loc + sd * rng.standard_normal(loc.shape)
    off = (values < low) | (values > high)
    if off.any():
        loc, sd, low, high = (np.broadcast_to(part, values.shape)[off] for part in (loc, sd, low, high))
        a, b = ndtr((low - loc) / sd), ndtr((high - loc) / sd)
        inside = ndtri(np.clip(a + rng.random(loc.size) * (b - a), 1e-12, 1 - 1e-12))
        values[off] = np.clip(loc + sd * inside, low, high)
    return values
