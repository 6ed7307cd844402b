"""How to split a budget between pretraining and RL: the size, the tokens and the RL compute of the highest score.

The answer comes with the band of splits that score as well, and lies within the fitted range of the surface; a split at
an edge of it is marked as such.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling._checks import check_level
from scaling.errors import ScalingError
from scaling.pretraining._surface_parts import median_and_band, range_text
from scaling.pretraining.surface import SurfaceFit
from scaling.words import percent

__all__ = ["Split", "best_split"]

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

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import best_split, fit_surface, study_runs
        >>> split = best_split(fit_surface(study_runs(bundled_runs()), draws=50, held_out=False), 3e11)
        >>> 0 <= split.rl_share <= 1
        True
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
            f"  best share over the draws: {percent(self.level)} interval {self.rl_share_interval[0]:.0%} to "
            f"{self.rl_share_interval[1]:.0%}",
            f"  score {self.score[0]:.3f}, {percent(self.level)} interval {self.score[1]:.3f} to {self.score[2]:.3f}",
        ]
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

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import fit_surface, study_runs
        >>> surface = fit_surface(study_runs(bundled_runs()), draws=50, held_out=False)
        >>> split = best_split(surface, 3e11)
        >>> low, high = split.near_optimal
        >>> low <= split.rl_share <= high
        True
    """
    if not 0 < total_flops < np.inf:
        raise ScalingError(f"total_flops must be finite and > 0 FLOP, got {total_flops!r}")
    if not amortised_over >= 1:
        raise ScalingError(f"amortised_over must be >= 1 run, got {amortised_over!r}")
    if not 0 <= tolerance < np.inf:
        raise ScalingError(f"tolerance must be a difference in score >= 0, got {tolerance!r}")
    check_level(level)
    box = surface.fitted_range()
    share = 1 / (1 + np.exp(-np.linspace(-7.0, 5.0, 241)))
    n = np.geomspace(*box["params"], 41)
    grid_n, grid_s = np.meshgrid(n, share, indexing="ij")
    pre, rl = amortised_over * total_flops * (1 - grid_s), total_flops * grid_s
    tokens = pre / (_FLOPS_PER_PARAM_TOKEN * grid_n)
    inside = _within(tokens, box["tokens"]) & _within(rl, box["rl_flops"])
    if not inside.any():
        raise ScalingError(
            f"no split of {total_flops:.3g} FLOPs lies in the fitted range (tokens {range_text(box['tokens'])}, RL FLOPs "
            f"{range_text(box['rl_flops'])}, parameters {range_text(box['params'])}): try a budget nearer to the runs'"
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
        score=median_and_band(values[:, best], level),
        tolerance=tolerance,
        level=level,
        notes=tuple(dict.fromkeys(notes)),
    )


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
