"""Collapsed runs, found by a stated rule and named; nothing is dropped because of it.

A run is called *collapsed* when one of these holds, and *at risk* when only the last does:

* **score falls**: the best rise-then-fall (unimodal) fit of the score leaves at most 0.6 of the squared residuals of
  the best non-decreasing fit; and from where half of the fall is behind it to the end, the score is on average lower
  than over as many evaluations before, by at least a quarter of the gain, by 15 % of its height and by four standard
  errors;
* **truncation**: mean truncation rate over the last tenth of the run above 15 %;
* **entropy gone**: mean entropy over the last tenth below 0.05 nat and below a tenth of its mean over the first tenth;
* *at risk*: truncation between 10 % and 15 % (arXiv:2510.13786 saw 10 to 15 % before instabilities).

Both fits are least squares on at most 40 means of neighbouring evaluations. Entropy that more than trebles is named
beside a falling score, as it tells divergence from premature certainty.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling.curve import Curve
from scaling.errors import ScalingError

if TYPE_CHECKING:
    import pandas as pd

    from scaling.runs import RunTable

__all__ = ["Collapse", "collapse_table", "find_collapse", "find_collapses"]

Array = NDArray[np.float64]

LOST_SHARE = 0.25  # of the gain
RESIDUAL_SHARE = 0.6  # of the non-decreasing fit's squared residuals
FALL_SHARE = 0.15  # of the score's height
DEVIATIONS = 4.0  # standard errors of the difference of the two means
TRUNCATION_RISK, TRUNCATION_LIMIT = 0.10, 0.15  # [1]
ENTROPY_FLOOR, ENTROPY_SHARE, ENTROPY_RISE = 0.05, 0.1, 3.0  # [nat], [1], [1]
_BINS = 40
_FEWEST = 8  # evaluations below which a fall cannot be told from noise


@dataclass(frozen=True)
class Collapse:
    """What was found about one run.

    Attributes:
        run_id: the run.
        verdict: ``"none"``, ``"at risk"``, ``"collapsed"``, or ``"too short"`` (fewer than 8 evaluations and no other
            sign).
        signs: what was seen, in words with numbers.
        peak_compute: compute at the peak of the fitted score [unit of the axis]; NaN without a fall.
        onset_compute: compute at which half of the fall is behind it [unit of the axis]; NaN without a fall.
        lost_share: share of the gain given back by the end [1]; 0 without a fall.
        axis: the compute axis.

    Example:
        >>> found = Collapse("a", "collapsed", ("entropy gone, 0.9 to 0.01 nat",))
        >>> bool(found), str(found)
        (True, 'run a collapsed: entropy gone, 0.9 to 0.01 nat')
    """

    run_id: str
    verdict: str
    signs: tuple[str, ...] = ()
    peak_compute: float = float("nan")
    onset_compute: float = float("nan")
    lost_share: float = 0.0
    axis: str = ""

    def __bool__(self) -> bool:
        return self.verdict in ("collapsed", "at risk")

    def __str__(self) -> str:
        return f"run {self.run_id or '(unnamed)'} {self.verdict}" + (f": {'; '.join(self.signs)}" if self.signs else "")


def find_collapse(score: Curve, *, truncation: Curve | None = None, entropy: Curve | None = None) -> Collapse:
    """Apply the rule of this module to one run.

    Args:
        score: held-out score or training reward against compute.
        truncation: truncation rate [0 to 1] against compute, where recorded.
        entropy: token entropy [nat] against compute, where recorded.

    Example:
        >>> import numpy as np
        >>> c = np.arange(1.0, 41.0)
        >>> fine = find_collapse(Curve(compute=c, performance=0.6 - 0.4 / c, run_id="a"))
        >>> bad = find_collapse(Curve(compute=c, performance=np.where(c < 25, 0.6 - 0.4 / c, 0.2), run_id="b"))
        >>> fine.verdict, bad.verdict, bad.onset_compute
        ('none', 'collapsed', 25.0)
    """
    signs: list[str] = []
    collapsed = risk = False
    peak = onset = float("nan")
    lost = 0.0
    enough = len(score.finite()) >= _FEWEST
    fall = _fall(score) if enough else None
    if fall is not None:
        collapsed = True
        peak, onset, lost, top, end = fall
        signs.append(
            f"{score.metric} falls from {top:.3g} to {end:.3g} after {score.axis} {peak:.4g}, {lost:.0%} of its gain"
        )
    if truncation is not None and len(truncation.finite()):
        rate = _tenth(truncation, last=True)
        if rate > TRUNCATION_RISK:
            collapsed |= rate > TRUNCATION_LIMIT
            risk = True
            signs.append(f"truncation {rate:.0%} over the last tenth")
    if entropy is not None and len(entropy.finite()):
        first, last = _tenth(entropy, last=False), _tenth(entropy, last=True)
        if last < ENTROPY_FLOOR and last < ENTROPY_SHARE * first:
            collapsed = True
            signs.append(f"entropy gone, {first:.2g} to {last:.2g} nat")
        elif fall is not None and last > ENTROPY_RISE * first:
            signs.append(f"entropy rises from {first:.2g} to {last:.2g} nat")
    quiet = "none" if enough else "too short"
    verdict = "collapsed" if collapsed else "at risk" if risk else quiet
    return Collapse(score.run_id, verdict, tuple(signs), peak, onset, lost, score.axis)


def find_collapses(
    table: RunTable, *, axis: str = "step", score: str = "reward", benchmark: str | None = None
) -> dict[str, Collapse]:
    """Apply the rule to every run of a `RunTable`, on its training ``score`` or, with ``benchmark``, on a held-out one.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> found = find_collapses(bundled_runs("acquisition", reward="random"))
        >>> sorted({one.verdict for one in found.values()} - {"none", "at risk", "collapsed", "too short"})
        []
    """
    wanted = {"score": score, "truncation": "truncation_rate", "entropy": "entropy"}
    found: dict[str, dict[str, Curve]] = {}
    for role, metric in wanted.items():
        if role == "score" and benchmark is not None:
            groups = table.curves(benchmark=benchmark, axis=axis)
        elif metric in table.steps.columns:
            groups = table.curves(metric=metric, axis=axis, force=True)
        elif role == "score":
            raise ScalingError(f"steps record no {metric!r}: name the score, or a benchmark")
        else:
            continue
        for members in groups.values():
            for curve in members:
                found.setdefault(curve.run_id, {})[role] = curve
    return {
        run_id: find_collapse(parts["score"], truncation=parts.get("truncation"), entropy=parts.get("entropy"))
        for run_id, parts in found.items()
        if "score" in parts
    }


def collapse_table(found: Iterable[Collapse]) -> pd.DataFrame:
    """The findings as a table, one row a run, runs without signs included.

    Example:
        >>> collapse_table([Collapse("a", "none"), Collapse("b", "collapsed", ("entropy gone",))])["verdict"].tolist()
        ['none', 'collapsed']
    """
    import pandas as pd

    rows = [
        {
            "run_id": c.run_id, "verdict": c.verdict, "signs": "; ".join(c.signs), "peak_compute": c.peak_compute,
            "onset_compute": c.onset_compute, "lost_share": c.lost_share, "axis": c.axis,
        }
        for c in found
    ]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["run_id", "verdict", "signs", "peak_compute", "onset_compute", "lost_share", "axis"]
    )


def _fall(score: Curve) -> tuple[float, float, float, float, float] | None:
    """(peak compute, onset compute, lost share, top, end) if the score falls by the rule, else None."""
    from scipy.optimize import isotonic_regression

    x, y, w = _binned(score.finite())
    rising = isotonic_regression(y, weights=w).x
    against = float(np.sum(w * (y - rising) ** 2))
    if against <= 0:
        return None
    best, fitted = against, rising
    both = _rising_losses(y, w) + _rising_losses(y[::-1], w[::-1])[::-1]  # up to k, down from k
    k = 1 + int(np.argmin(both[1:-1])) if len(y) > 1 else 0
    if k and both[k] < against:
        up = isotonic_regression(y[:k], weights=w[:k]).x
        down = isotonic_regression(y[k:], weights=w[k:], increasing=False).x
        fitted = np.concatenate([up, down])
        best = float(np.sum(w * (y - fitted) ** 2))
    peak = int(np.argmax(fitted))
    start, summit, end = float(fitted[: peak + 1].min()), float(fitted[peak]), float(fitted[-1])
    lost = fitted <= (summit + end) / 2
    after = np.flatnonzero(lost & (np.arange(len(y)) > peak))
    if best > RESIDUAL_SHARE * against or len(after) < 2:
        return None
    onset = int(after[0])
    before = slice(max(0, onset - len(after)), onset)
    top, low = float(np.average(y[before], weights=w[before])), float(np.average(y[onset:], weights=w[onset:]))
    sd = np.sqrt(best / w.mean() / max(len(y) - 4, 1))
    error = sd * np.sqrt(1 / len(y[before]) + 1 / len(after))
    if top - low < max(LOST_SHARE * (top - start), FALL_SHARE * abs(top), DEVIATIONS * error):
        return None
    return float(x[peak]), float(x[onset]), min((top - end) / max(top - min(start, end), 1e-300), 1.0), top, end


def _rising_losses(y: Array, w: Array) -> Array:
    """Loss of the best rising fit to the first k values, for k = 0 to n, by pooling adjacent violators once."""
    losses = [0.0]
    blocks: list[tuple[float, float, float]] = []  # level, weight, loss up to and with the block
    for level, weight in zip(y.tolist(), w.tolist()):
        inside = 0.0
        while blocks and blocks[-1][0] >= level:
            other, more, until = blocks.pop()
            inside += (
                until - (blocks[-1][2] if blocks else 0.0) + weight * more / (weight + more) * (level - other) ** 2
            )
            level = (weight * level + more * other) / (weight + more)
            weight += more
        blocks.append((level, weight, (blocks[-1][2] if blocks else 0.0) + inside))
        losses.append(blocks[-1][2])
    return np.array(losses)


def _binned(curve: Curve) -> tuple[Array, Array, Array]:
    """First compute, mean score and weight of at most 40 groups of neighbouring evaluations."""
    count, more = divmod(len(curve), min(_BINS, len(curve)))
    size = np.full(min(_BINS, len(curve)), count)
    size[:more] += 1
    first = np.cumsum(size) - size
    return curve.compute[first], np.add.reduceat(curve.performance, first) / size, size.astype(float)


def _tenth(curve: Curve, *, last: bool) -> float:
    values = curve.finite().performance
    count = max(1, len(values) // 10)
    return float(values[-count:].mean() if last else values[:count].mean())
