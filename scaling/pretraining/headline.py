"""The headline quantities of a study that relates RL to pretraining, in the order in which they can be known.

1. the score at a fixed RL compute, 2. the gain per decade of RL compute, 3. the local exchange rate -d ln C_pre / d ln
C_RL at equal score; none of them needs an asymptote. Only then 4. the asymptote. Each against pretraining loss, against
N and against D, with intervals from a wild bootstrap over bases. Where ln N and ln D do not vary independently, their
separate effects are refused and the condition number says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling._checks import check_draws, check_level, check_seed
from scaling.errors import ScalingError
from scaling.pretraining.bases import StudyRun, check_runs, condition_number, groups
from scaling.pretraining.surface import COLLINEAR
from scaling.words import percent

__all__ = ["Effect", "Headline", "headline"]

Array = NDArray[np.float64]
_FEW_SIZES = 5
_WINDOW = 0.75  # decades of compute on either side within which a run's local line is fitted
_FEWEST = 3  # evaluations in that window

_AGAINST = {
    "loss": "per nat of pretraining loss",
    "params": "per decade of parameters, tokens held",
    "tokens": "per decade of tokens, parameters held",
}
_PATH = {
    "pretraining_flops": "along the study's pretraining FLOPs",
    "params": "by more parameters on the same tokens",
    "tokens": "by more tokens for the same parameters",
}


@dataclass(frozen=True)
class Effect:
    """A number with its interval, or a reason why there is none.

    Attributes:
        quantity: what it is about, e.g. ``score``.
        against: ``mean``, ``loss``, ``params``, ``tokens`` or ``pretraining_flops``.
        value: estimate, NaN where refused.
        low: lower end of the interval.
        high: upper end.
        level: nominal coverage.
        status: ``"ok"``, or why the number is refused or not identified.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import headline, study_runs
        >>> mean = headline(study_runs(bundled_runs()), draws=200).score[0]
        >>> mean.low < mean.value < mean.high
        True
    """

    quantity: str
    against: str
    value: float
    low: float
    high: float
    level: float
    status: str = "ok"

    def __str__(self) -> str:
        what = (_PATH if self.quantity == "exchange rate" else _AGAINST).get(self.against, self.against)
        if self.status != "ok":
            return f"{what}: {self.status}"
        return f"{what}: {self.value:+.4g} ({percent(self.level)} interval {self.low:+.4g} to {self.high:+.4g})"


@dataclass(frozen=True)
class Headline:
    """The headline quantities.

    Attributes:
        compute: the fixed RL compute [FLOP].
        score: score at it: mean, and its change with loss, N and D.
        gain_per_decade: score per decade of RL compute there, likewise.
        exchange_rate: -d ln C_pre / d ln C_RL at equal score, along the study's loss, by more parameters, by more data.
        asymptote: A against N, where asymptotes were given; empty otherwise.
        condition: condition number of (ln N, ln D).
        runs: how many runs reach the compute, and how many there are.
        exploratory: whether there are fewer than five sizes.
        notes: what must be said beside the numbers.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import headline, study_runs
        >>> len(headline(study_runs(bundled_runs()), draws=200).score) > 0
        True
    """

    compute: float
    score: tuple[Effect, ...]
    gain_per_decade: tuple[Effect, ...]
    exchange_rate: tuple[Effect, ...]
    asymptote: tuple[Effect, ...]
    condition: float
    runs: tuple[int, int]
    exploratory: bool
    notes: tuple[str, ...]

    def summary(self) -> str:
        """All of it as text, in order."""
        used, total = self.runs
        lines = [f"at {self.compute:.3g} FLOPs of RL ({used} of {total} runs reach it)"]
        for title, effects in (
            ("score", self.score),
            ("gain per decade of RL compute", self.gain_per_decade),
            ("exchange rate -d ln C_pre / d ln C_RL at equal score", self.exchange_rate),
            ("asymptote", self.asymptote),
        ):
            if effects:
                lines.append(f"  {title}")
                lines.extend(f"    {effect}" for effect in effects)
        lines.append(f"  condition number of (ln N, ln D): {self.condition:.3g}")
        lines.extend(f"  note: {note}" for note in self.notes)
        return "\n".join(lines)


def headline(
    runs: Iterable[StudyRun],
    *,
    compute: float | None = None,
    asymptotes: Mapping[float, tuple[float, float]] | None = None,
    level: float = 0.9,
    draws: int = 2000,
    seed: int = 0,
    force: bool = False,
) -> Headline:
    """Score, gain and exchange rate at a fixed RL compute, against pretraining loss, parameters and tokens.

    Each run gives its score and slope at ``compute`` by a straight line in log compute through its evaluations within
    0.75 decades. Runs that do not reach it are left out and counted.

    Args:
        runs: RL runs with their bases.
        compute: the fixed RL compute [FLOP]; default the middle of the range that most runs cover.
        asymptotes: parameters [1] -> (A, standard error) of sizes whose asymptote is identified, e.g. from
            `fit_joint` or `scaling.fit`; without it A is not spoken of.
        level: of the intervals.
        draws: of the wild bootstrap over bases.
        seed: of the draws.
        force: keep runs on distilled or pruned bases, whose cost is not what made them.

    Raises:
        ScalingError: too few runs reach ``compute``.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import study_runs
        >>> mean = headline(study_runs(bundled_runs())).score[0]
        >>> mean.low < mean.value < mean.high
        True
    """
    check_draws(draws)
    check_seed(seed)
    check_level(level)
    found, notes = check_runs(runs, least=4, what="the headline", force=force)
    at = _common_compute(found) if compute is None else float(compute)
    if not 0 < at < np.inf:
        raise ScalingError(f"compute must be finite and > 0 FLOP, got {compute!r}")
    local = [(run, line) for run in found if (line := _local_line(run, at)) is not None]
    if len(local) < 4 or len({(run.params, run.tokens) for run, _ in local}) < 3:
        raise ScalingError(f"compute {at:.3g} FLOP must be reached by at least 4 runs on 3 bases, got {len(local)}")
    used = [run for run, _ in local]
    values = np.array([line for _, line in local])
    condition = condition_number((run.params for run in used), (run.tokens for run in used))
    fits = _Regressions(used, condition, draws=draws, seed=seed)
    few = len({run.params for run in used}) < _FEW_SIZES
    if few:
        notes.append(
            f"exploratory: {len({r.params for r in used})} sizes, at least {_FEW_SIZES} are needed across sizes"
        )
    if any(run.loss is None for run in used):
        notes.append("some bases have no measured pretraining loss: nothing is related to it")
    return Headline(
        compute=at,
        score=fits.effects("score", values[:, 0], level),
        gain_per_decade=fits.effects("gain per decade", values[:, 1], level),
        exchange_rate=fits.exchange(values, level),
        asymptote=_asymptote(asymptotes, level) if asymptotes else (),
        condition=condition,
        runs=(len(used), len(found)),
        exploratory=few,
        notes=tuple(notes),
    )


def _common_compute(runs: list[StudyRun]) -> float:
    """Geometric middle of the longest stretch of compute that the most runs cover."""
    spans = np.array([(c[c > 0].min(), c.max()) for c in (run.curve.compute for run in runs)])
    grid = np.geomspace(spans.min(), spans.max(), 400)
    covering = np.sum((spans[:, :1] <= grid) & (grid <= spans[:, 1:]), axis=0)
    best = np.flatnonzero(covering == covering.max())
    stretch = max(np.split(best, np.flatnonzero(np.diff(best) > 1) + 1), key=len)
    return float(np.sqrt(grid[stretch[0]] * grid[stretch[-1]]))


def _local_line(run: StudyRun, compute: float) -> tuple[float, float] | None:
    """Score at ``compute`` and slope per decade, or None where the run does not reach it."""
    keep = np.isfinite(run.curve.performance) & (run.curve.compute > 0)
    x = np.log10(run.curve.compute[keep] / compute)
    y = run.curve.performance[keep]
    if x.max() < -1e-9 or x.min() > 1e-9:
        return None
    near = np.abs(x) <= _WINDOW
    if near.sum() < _FEWEST or np.ptp(x[near]) < 0.05:
        near = np.argsort(np.abs(x))[:_FEWEST]
    slope, score = np.polyfit(x[near], y[near], 1)
    return float(score), float(slope)


class _Regressions:
    """Least squares on loss, on (log10 N, log10 D) and on log10 C_pre, with a wild bootstrap over bases."""

    def __init__(self, runs: list[StudyRun], condition: float, *, draws: int, seed: int) -> None:
        self.condition, self.runs = condition, runs
        base = groups(runs)
        rng = np.random.default_rng(seed)
        points = np.sqrt(np.array([1.5, 1.0, 0.5]))
        self.weights = rng.choice(np.concatenate([points, -points]), size=(draws, base.max() + 1))[:, base]
        n, d = (np.log10([getattr(run, name) for run in runs]) for name in ("params", "tokens"))
        self.designs: dict[str, tuple[Array, ...]] = {}
        if condition <= COLLINEAR:
            self.designs = {"params": (n, d), "tokens": (n, d)}
        pre = np.log10([run.pretraining_flops for run in runs])
        if np.ptp(pre) > 1e-6:
            self.designs["pretraining_flops"] = (pre,)
        if all(run.loss is not None for run in runs) and np.ptp([float(run.loss or 0) for run in runs]) > 1e-9:
            self.designs["loss"] = (np.array([float(run.loss or 0) for run in runs]),)

    def slope(self, against: str, y: Array) -> tuple[float, Array]:
        """Coefficient of one regressor: the estimate and its draws."""
        columns = self.designs[against]
        design = np.stack([np.ones_like(y), *(column - column.mean() for column in columns)], axis=1)
        inverse = np.linalg.pinv(design)
        fitted = design @ (inverse @ y)
        rest = (y - fitted) * np.sqrt(y.size / max(y.size - design.shape[1], 1))
        which = 2 if against == "tokens" else 1
        return float((inverse @ y)[which]), (fitted + self.weights * rest) @ inverse[which]

    def effects(self, quantity: str, y: Array, level: float) -> tuple[Effect, ...]:
        rest = (y - y.mean()) * np.sqrt(y.size / (y.size - 1))
        out = [_effect(quantity, "mean", float(y.mean()), y.mean() + np.mean(self.weights * rest, axis=1), level)]
        for against in ("loss", "params", "tokens"):
            if against in self.designs:
                value, drawn = self.slope(against, y)
                out.append(_effect(quantity, against, value, drawn, level))
            elif against != "loss":
                out.append(Effect(quantity, against, np.nan, -np.inf, np.inf, level, self._refusal()))
        return tuple(out)

    def exchange(self, values: Array, level: float) -> tuple[Effect, ...]:
        """(dS / d log10 C_RL) / (dS / d log10 C_pre), the second along loss, by parameters and by tokens."""
        rest = (values[:, 1] - values[:, 1].mean()) * np.sqrt(len(values) / (len(values) - 1))
        rl = float(values[:, 1].mean()), values[:, 1].mean() + np.mean(self.weights * rest, axis=1)
        out = []
        for against in ("pretraining_flops", "params", "tokens"):
            if against not in self.designs:
                out.append(Effect("exchange rate", against, np.nan, -np.inf, np.inf, level, self._refusal()))
                continue
            value, drawn = self.slope(against, values[:, 0])
            low, _ = _interval(drawn, level)
            if low <= 0:
                status = "not identified: the score's gain from pretraining cannot be told from zero"
                out.append(Effect("exchange rate", against, np.nan, -np.inf, np.inf, level, status))
            else:
                out.append(_effect("exchange rate", against, rl[0] / value, rl[1] / drawn, level))
        return tuple(out)

    def _refusal(self) -> str:
        return (
            f"refused: ln N and ln D do not vary independently (condition number {self.condition:.3g}, at most "
            f"{COLLINEAR:g}); vary tokens at fixed size"
        )


def _asymptote(asymptotes: Mapping[float, tuple[float, float]], level: float) -> tuple[Effect, ...]:
    """Weighted line of logit A in log10 N through sizes whose asymptote is identified."""
    if len(asymptotes) < 3:
        status = f"refused: {len(asymptotes)} sizes have an identified asymptote, at least 3 are needed"
        return (Effect("asymptote", "params", np.nan, -np.inf, np.inf, level, status),)
    from scipy.special import stdtrit

    n = np.log10(np.array(list(asymptotes), dtype=float))
    a, error = (np.array(column, dtype=float) for column in zip(*asymptotes.values()))
    weight = 1 / np.maximum(error, 1e-6) ** 2
    centre = float(np.sum(weight * n) / np.sum(weight))
    power = float(np.sum(weight * (n - centre) ** 2))
    slope = float(np.sum(weight * (n - centre) * a) / power)
    mean = float(np.sum(weight * a) / np.sum(weight))
    freedom = len(n) - 2
    # scatter beyond the stated errors widens the interval, scatter within them does not narrow it
    excess = max(1.0, float(np.sum(weight * (a - mean - slope * (n - centre)) ** 2)) / freedom)
    reach = float(stdtrit(freedom, (1 + level) / 2)) * np.sqrt(excess / power)
    return (Effect("asymptote", "params", slope, slope - reach, slope + reach, level),)


def _effect(quantity: str, against: str, value: float, drawn: Array, level: float) -> Effect:
    low, high = _interval(drawn, level)
    return Effect(quantity, against, value, low, high, level)


def _interval(drawn: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
