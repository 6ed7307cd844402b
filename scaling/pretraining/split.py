"""Decisions from a surface: how to split a budget between pretraining and RL, and what RL is worth in pretraining.

`best_split` finds the size, the tokens and the RL compute of the highest score for a total budget, with the band of
splits that score as well. `worth` says how many times more pretraining would give the score of an RL run: once against
the base's best decoding and once against plain sampling, because RL that only undoes bad decoding is worth something by
the second alone. Both answer within the fitted range; beyond it they say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import ScalingError
from scaling.pretraining._surface_parts import fit_offset_exponential
from scaling.pretraining.bases import StudyRun, groups
from scaling.pretraining.surface import SurfaceFit

__all__ = ["Split", "Worth", "WorthAgainst", "best_split", "worth"]

Array = NDArray[np.float64]
_FLOPS_PER_PARAM_TOKEN = 6.0  # Kaplan et al. 2020, arXiv:2001.08361: C = 6 N D


@dataclass(frozen=True)
class Split:
    """The best split of a total budget and the band within which the choice does not matter.

    Attributes:
        total_flops: budget of this run [FLOP].
        amortised_over: runs that share the base; this run pays 1 / ``amortised_over`` of it.
        params: best size [parameters].
        tokens: its pretraining tokens [token].
        pretraining_flops: cost of the base, all of it [FLOP].
        rl_flops: RL compute [FLOP].
        rl_share: RL's share of this run's budget [1].
        rl_share_interval: its interval over the draws: what the data leave open.
        near_optimal: (least, largest) share whose score, at its best size, is within ``tolerance`` of the best.
        near_optimal_params: the same for the size [parameters].
        score: expected score at the best split, with (low, high).
        tolerance: what counts as no difference in score [1].
        level: of the intervals.
        notes: what must be said beside the numbers.
    """

    total_flops: float
    amortised_over: float
    params: float
    tokens: float
    pretraining_flops: float
    rl_flops: float
    rl_share: float
    rl_share_interval: tuple[float, float]
    near_optimal: tuple[float, float]
    near_optimal_params: tuple[float, float]
    score: tuple[float, float, float]
    tolerance: float
    level: float
    notes: tuple[str, ...]

    def summary(self) -> str:
        """The split as text."""
        base = (
            "the base paid by this run"
            if self.amortised_over == 1
            else f"the base shared by {self.amortised_over:g} runs"
        )
        low, high = self.near_optimal
        lines = [
            f"{self.total_flops:.3g} FLOPs, {base}: {self.params:.3g} parameters, {self.tokens:.3g} tokens, "
            f"{self.rl_share:.0%} on RL ({self.rl_flops:.3g} FLOPs)",
            f"  within {self.tolerance:g} of the best score: RL's share from {low:.0%} to {high:.0%}, sizes from "
            f"{self.near_optimal_params[0]:.3g} to {self.near_optimal_params[1]:.3g}",
            f"  best share over the draws: {self.level:.0%} interval {self.rl_share_interval[0]:.0%} to "
            f"{self.rl_share_interval[1]:.0%}",
            f"  score {self.score[0]:.3f}, {self.level:.0%} interval {self.score[1]:.3f} to {self.score[2]:.3f}",
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


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
            f"{self.score[0]:.3f} ({self.level:.0%} interval {self.score[1]:.3f} to {self.score[2]:.3f})",
        ]
        lines.extend(f"  {item}" for item in (self.best_decoding, self.sampled) if item is not None)
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def best_split(
    surface: SurfaceFit,
    total_flops: float,
    *,
    amortised_over: float = 1,
    tolerance: float = 0.005,
    level: float = 0.9,
) -> Split:
    """The size, tokens and RL compute of the highest expected score for ``C_pre / m + C_RL = total_flops``.

    Args:
        surface: a fitted surface with L(N, D).
        total_flops: budget of this run [FLOP].
        amortised_over: m, how many runs share the base; 1: this run pays it all.
        tolerance: difference in score that does not matter [1].
        level: of the intervals.

    Raises:
        ScalingError: the budget is not positive, or no split of it lies within the fitted range.
    """
    if not 0 < total_flops < np.inf:
        raise ScalingError(f"total_flops must be finite and > 0 FLOP, got {total_flops!r}")
    if not amortised_over >= 1:
        raise ScalingError(f"amortised_over must be >= 1 run, got {amortised_over!r}")
    box = _range(surface)
    share = 1 / (1 + np.exp(-np.linspace(-7.0, 5.0, 241)))
    n = np.geomspace(*box["params"], 41)
    grid_n, grid_s = np.meshgrid(n, share, indexing="ij")
    pre, rl = amortised_over * total_flops * (1 - grid_s), total_flops * grid_s
    tokens = pre / (_FLOPS_PER_PARAM_TOKEN * grid_n)
    inside = _within(tokens, box["tokens"]) & _within(rl, box["rl_flops"])
    if not inside.any():
        raise ScalingError(
            f"no split of {total_flops:.3g} FLOPs lies in the fitted range (tokens {_text(box['tokens'])}, RL FLOPs "
            f"{_text(box['rl_flops'])}, parameters {_text(box['params'])}): try a budget nearer to the runs'"
        )
    grid_n, grid_s, tokens, rl, pre = (x[inside] for x in (grid_n, grid_s, tokens, rl, pre))
    values = surface.values(grid_n, tokens, rl)
    mean = np.median(values, axis=0)
    best = int(np.argmax(mean))
    near = mean >= mean[best] - tolerance
    tail = (1 - level) / 2
    shares = grid_s[np.argmax(values, axis=1)]
    notes = list(surface.notes)
    edges = _edges({"tokens": tokens, "rl_flops": rl, "params": grid_n}, best, box)
    if edges:
        notes.append(
            f"the best split lies at the edge of the fitted range of {', '.join(edges)}: the optimum may lie beyond"
        )
    seen = max(float(np.nanmax(run.curve.performance)) for run in surface.runs)
    if mean[best] > seen + tolerance:
        notes.append(f"its score {mean[best]:.3f} is above every run's ({seen:.3f}): the surface knows no saturation")
    if surface.loss_fit is not None and not surface.loss_fit.identified:
        notes.append(f"L(N, D) is not identified ({surface.loss_fit.status})")
    return Split(
        total_flops=float(total_flops),
        amortised_over=float(amortised_over),
        params=float(grid_n[best]),
        tokens=float(tokens[best]),
        pretraining_flops=float(pre[best]),
        rl_flops=float(rl[best]),
        rl_share=float(grid_s[best]),
        rl_share_interval=(float(np.quantile(shares, tail)), float(np.quantile(shares, 1 - tail))),
        near_optimal=(float(grid_s[near].min()), float(grid_s[near].max())),
        near_optimal_params=(float(grid_n[near].min()), float(grid_n[near].max())),
        score=_three(values[:, best], level),
        tolerance=tolerance,
        level=level,
        notes=tuple(dict.fromkeys(notes)),
    )


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
    """
    box = _range(surface)
    for name, value in (("params", params), ("tokens", tokens), ("rl_flops", rl_flops)):
        low, high = box[name]
        if not low * 0.99 <= value <= high * 1.01:
            raise ScalingError(f"{name} must lie in the fitted range {_text(box[name])}, got {value:.3g}")
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
        score=_three(after, level),
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
    points = np.sqrt(np.array([1.5, 1.0, 0.5]))
    weights = rng.choice(np.concatenate([points, -points]), size=(len(losses), base.max() + 1))[:, base]
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


def _range(surface: SurfaceFit) -> dict[str, tuple[float, float]]:
    rl = [run.curve.compute[run.curve.compute > 0] for run in surface.runs]
    return {
        "params": (min(r.params for r in surface.runs), max(r.params for r in surface.runs)),
        "tokens": (min(r.tokens for r in surface.runs), max(r.tokens for r in surface.runs)),
        "rl_flops": (float(min(c.min() for c in rl)), float(max(c.max() for c in rl))),
    }


def _within(values: Array, limits: tuple[float, float]) -> NDArray[np.bool_]:
    return (values >= limits[0] * 0.999) & (values <= limits[1] * 1.001)


def _edges(values: dict[str, Array], best: int, box: dict[str, tuple[float, float]]) -> list[str]:
    """Names of what lies within 3 % of an end of its fitted range."""
    names = {"tokens": "tokens", "rl_flops": "RL compute", "params": "sizes"}
    out = []
    for key, array in values.items():
        low, high = box[key]
        if array[best] < low * 1.03 or array[best] > high / 1.03:
            out.append(names[key])
    return out


def _three(values: Array, level: float) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return float(middle), float(low), float(high)


def _text(limits: Iterable[float]) -> str:
    low, high = limits
    return f"{low:.3g} to {high:.3g}"
