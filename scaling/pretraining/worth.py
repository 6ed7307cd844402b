"""What RL is worth in pretraining: how many times more pretraining gives the score of an RL run.

It is answered twice, against the base's best decoding and against plain sampling, because RL that only undoes bad
decoding is worth something by the second alone; and within the fitted range of the surface only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling._checks import check_level, check_seed
from scaling.errors import ScalingError
from scaling.pretraining._surface_parts import fit_offset_exponential, median_and_band, range_text, wild_weights
from scaling.pretraining.bases import StudyRun, groups
from scaling.pretraining.surface import SurfaceFit
from scaling.words import percent

__all__ = ["Worth", "WorthAgainst", "worth"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WorthAgainst:
    """How many times more pretraining gives the score of RL, against one way of decoding the base.

    Attributes:
        decoding: ``best decoding`` or ``plain sampling``.
        factor: median over draws of (pretraining FLOPs needed / pretraining FLOPs spent); inf where it cannot be
            reached.
        low: lower end of the interval.
        high: upper end, inf where more than (1 - level) / 2 of the draws cannot be reached.
        reachable: share of the draws in which pretraining alone reaches the score within the fitted range.
        range_end: the largest factor that the fitted range allows.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import fit_surface, study_runs, worth
        >>> runs = study_runs(bundled_runs())
        >>> surface = fit_surface(runs, draws=50, held_out=False)
        >>> answer = worth(surface, params=runs[0].params, tokens=runs[0].tokens, rl_flops=runs[0].curve.compute[-1])
        >>> answer.sampled.factor >= answer.best_decoding.factor  # plain sampling is the easier bar
        True
    """

    decoding: str
    factor: float
    low: float
    high: float
    reachable: float
    range_end: float

    def __str__(self) -> str:
        if not np.isfinite(self.factor):
            low = f"more than {self.low:.2g}" if np.isfinite(self.low) else f"more than {self.range_end:.2g}"
            return (
                f"against {self.decoding}: cannot be reached by pretraining alone in the fitted range "
                f"({low} times the pretraining; the range ends at {self.range_end:.2g})"
            )
        high = f"{self.high:.2g}" if np.isfinite(self.high) else f"beyond the fitted range ({self.range_end:.2g})"
        return f"against {self.decoding}: {self.factor:.2g} times the pretraining (interval {self.low:.2g} to {high})"


@dataclass(frozen=True)
class Worth:
    """What RL on a base is worth in pretraining of the same size on more tokens.

    Attributes:
        params: size [parameters].
        tokens: pretraining tokens of the base [token].
        rl_flops: RL compute [FLOP].
        score: expected score after RL, with (low, high).
        best_decoding: against the base's best decoding, or None where it was not measured.
        sampled: against plain sampling, or None.
        level: of the intervals.
        disagree: whether the two ways of decoding give different answers.
        notes: what must be said beside the numbers.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import fit_surface, study_runs, worth
        >>> runs = study_runs(bundled_runs())
        >>> surface = fit_surface(runs, draws=50, held_out=False)
        >>> answer = worth(surface, params=runs[0].params, tokens=runs[0].tokens, rl_flops=runs[0].curve.compute[-1])
        >>> answer.best_decoding.low <= answer.best_decoding.high
        True
    """

    params: float
    tokens: float
    rl_flops: float
    score: tuple[float, float, float]
    best_decoding: WorthAgainst | None
    sampled: WorthAgainst | None
    level: float
    disagree: bool
    notes: tuple[str, ...]

    def headline(self) -> str:
        """The one sentence to print first."""
        if self.disagree and self.best_decoding and self.sampled:
            return f"what RL is worth depends on how the base is decoded: {self.sampled}; {self.best_decoding}"
        return str(self.best_decoding or self.sampled)

    def summary(self) -> str:
        """All of it as text."""
        lines = [
            self.headline(),
            f"  {self.params:.3g} parameters, {self.tokens:.3g} tokens, {self.rl_flops:.3g} FLOPs of RL: score "
            f"{self.score[0]:.3f} ({percent(self.level)} interval {self.score[1]:.3f} to {self.score[2]:.3f})",
        ]
        lines.extend(f"  {item}" for item in (self.best_decoding, self.sampled) if item is not None)
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def worth(
    surface: SurfaceFit, *, params: float, tokens: float, rl_flops: float, level: float = 0.9, seed: int = 0
) -> Worth:
    """How many times more pretraining (same size, more tokens) gives the score that RL gives.

    The base's score is an offset exponential of its loss, fitted to the bases' scores under plain sampling and under
    their best decoding; the loss follows L(N, D). Factors are searched up to the tokens and losses of the fitted bases.

    Args:
        surface: a fitted surface with L(N, D) and bases' scores.
        params: size [parameters].
        tokens: pretraining tokens of the base [token].
        rl_flops: RL compute on it [FLOP].
        level: of the intervals.
        seed: of the bootstrap of the bases' scores.

    Raises:
        ScalingError: no base has a score of its own, or the point lies outside the fitted range.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import fit_surface, study_runs
        >>> runs = study_runs(bundled_runs())
        >>> surface = fit_surface(runs, draws=50, held_out=False)
        >>> answer = worth(surface, params=runs[0].params, tokens=runs[0].tokens, rl_flops=runs[0].curve.compute[-1])
        >>> answer.best_decoding.low <= answer.best_decoding.factor <= answer.best_decoding.high
        True
    """
    check_level(level)
    check_seed(seed)
    box = surface.fitted_range()
    for name, value in (("params", params), ("tokens", tokens), ("rl_flops", rl_flops)):
        low, high = box[name]
        if not low * 0.99 <= value <= high * 1.01:
            raise ScalingError(f"{name} must lie in the fitted range {range_text(box[name])}, got {value:.3g}")
    n, t = np.asarray(float(params)), np.asarray(float(tokens))
    after = surface.values(n, t, np.asarray(float(rl_flops)))
    factors = np.geomspace(box["tokens"][0] / tokens, box["tokens"][1] / tokens, 1000)
    losses = surface.losses(np.full_like(factors, params), factors * tokens)
    reached = losses >= min(float(run.loss or np.inf) for run in surface.runs) - 1e-9
    answers = {}
    for decoding, name in (("best decoding", "base_best"), ("plain sampling", "base_sampled")):
        known = [run for run in surface.runs if getattr(run, name) is not None]
        if len({run.loss for run in known}) >= 4:
            curves = _base_scores(known, name, losses, seed)
            answers[decoding] = _against(decoding, curves, reached, after, factors, level)
    if not answers:
        raise ScalingError(
            "worth needs the bases' own scores: evaluate at step 0 under plain sampling and under the best decoding"
        )
    best, plain = answers.get("best decoding"), answers.get("plain sampling")
    notes = list(surface.notes)
    if best is None:
        notes.append("the bases' best decoding was not measured: part of this worth may be decoding")
    return Worth(
        params=float(params),
        tokens=float(tokens),
        rl_flops=float(rl_flops),
        score=median_and_band(after, level),
        best_decoding=best,
        sampled=plain,
        level=level,
        disagree=best is not None and plain is not None and _disagree(best, plain),
        notes=tuple(dict.fromkeys(notes)),
    )


def _base_scores(runs: list[StudyRun], name: str, losses: Array, seed: int) -> Array:
    """Draws of the base's score along the path, from a wild bootstrap over bases, shape of ``losses``."""
    loss = np.array([float(run.loss or 0) for run in runs])
    score = np.array([float(getattr(run, name)) for run in runs])
    _, fitted = fit_offset_exponential(loss, score[None])
    base = groups(runs)
    rng = np.random.default_rng([seed, len(runs)])
    weights = wild_weights(base, len(losses), rng)
    rest = (score - fitted[0]) * np.sqrt(score.size / max(score.size - 3, 1))
    offset, amplitude, rate = (column[:, None] for column in fit_offset_exponential(loss, fitted + weights * rest)[0].T)
    return offset + amplitude * np.exp(-rate * losses)


def _against(
    decoding: str, curves: Array, reached: NDArray[np.bool_], after: Array, factors: Array, level: float
) -> WorthAgainst:
    """First factor at which each draw's base reaches the score after RL."""
    enough = (curves >= after[:, None]) & reached
    found = np.where(enough.any(axis=1), factors[np.argmax(enough, axis=1)], np.inf)
    end = float(np.median([factors[row].max() if row.any() else 1.0 for row in reached]))
    tail = (1 - level) / 2
    # an order statistic, so that infinity is never averaged with a number
    low, middle, high = np.quantile(found, [tail, 0.5, 1 - tail], method="inverted_cdf")
    return WorthAgainst(decoding, float(middle), float(low), float(high), float(np.isfinite(found).mean()), end)


def _disagree(one: WorthAgainst, other: WorthAgainst) -> bool:
    """Whether intervals do not overlap, or one is at most 1 (RL bought nothing) and the other is not."""
    apart = one.high < other.low or other.high < one.low
    return bool(apart or (one.low <= 1) != (other.low <= 1) or np.isfinite(one.factor) != np.isfinite(other.factor))
