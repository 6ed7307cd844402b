"""Do training reward and held-out accuracy agree?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from scaling import plot
from scaling.report.gather import Analysis
from scaling.report.groups import Group
from scaling.report.page import Figure, Section, Table
from scaling.report.text import plural, score, some

__all__ = ["agreement"]


def agreement(a: Analysis) -> Section | None:
    """Do training reward and held-out accuracy agree?"""
    pairs: dict[str, Any] = {}
    rows, raw = [], []
    for group in a.groups:
        found = _paired(a, group)
        if found is None:
            continue
        reward, accuracy, stderr, reward_error = found
        pairs[group.name] = (reward, accuracy, stderr)
        whole = [_change(v, e, first=0.0) for v, e in ((reward, reward_error), (accuracy, stderr))]
        late = [_change(v, e, first=0.5) for v, e in ((reward, reward_error), (accuracy, stderr))]
        verdict = _verdict(whole, late)
        raw.append(
            {
                "group": group.name,
                "evaluations": len(reward),
                "rank_correlation": _rank_correlation(reward, accuracy),
                **{
                    f"{part}_{what}_change{suffix}": value
                    for part, both in (("whole", whole), ("late", late))
                    for what, pair in zip(("reward", "accuracy"), both)
                    for suffix, value in zip(("", "_stderr"), pair)
                },
                "verdict": verdict,
            }
        )
        rows.append(
            {
                "size and recipe": group.name,
                "evaluations": len(reward),
                "rank correlation": score(raw[-1]["rank_correlation"]),
                "reward": _signed(*whole[0]),
                "held-out": _signed(*whole[1]),
                "reward, second half": _signed(*late[0]),
                "held-out, second half": _signed(*late[1]),
                "verdict": verdict,
            }
        )
    if not rows:
        return None
    apart = [r["group"] for r in raw if r["verdict"].startswith("part")]
    lead = (
        f"Training reward rises while held-out accuracy falls in {some(apart)}: the reward there is not what the "
        "benchmark measures."
        if apart
        else f"Training reward and held-out accuracy do not part ways in {plural(len(rows), 'group')}."
    )
    parts = (
        Figure(
            plot.agreement(pairs, style=a.style),
            "Held-out pass@1 against training reward at the same steps, joined in the order of training; markers "
            "grow with training.",
        ),
        Table(
            pd.DataFrame(rows),
            "Mean of the last quarter of the evaluations less that of the first; second half: less that of the third; "
            "with 90 % error. They part ways where reward rises and accuracy falls by more than that error.",
            "agreement",
            pd.DataFrame(raw),
        ),
    )
    return Section("agreement", "Reward against held-out accuracy", lead, parts)


def _paired(a: Analysis, group: Group) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Reward (mean of the steps nearest to each evaluation), accuracy, and both errors, of the first run with both."""
    steps, evals = a.table.steps, a.table.evals
    if "reward" not in steps.columns or a.benchmark is None:
        return None
    at, values = steps["step"].to_numpy(int), steps["reward"].to_numpy(float)
    sampled: Any = evals[(evals["benchmark"] == a.benchmark) & (evals["decoding"] == a.decoding) & (evals["step"] > 0)]
    for run in group.run_ids:
        rows = a.rows_by_run.get(run)
        points: Any = sampled[sampled["run_id"] == run].sort_values("step")
        if rows is None or len(points) < 4:
            continue
        rows = rows[np.isfinite(values[rows])]
        known = points["step"].to_numpy(int)
        edges = np.r_[0, (known[1:] + known[:-1]) / 2, np.inf]
        place = np.searchsorted(edges, at[rows], side="right") - 1
        groups = [values[rows[place == i]] for i in range(len(known))]
        full = np.array([g.size > 0 for g in groups])
        if full.sum() < 4:
            continue
        reward = np.array([g.mean() for g in groups if g.size])
        error = np.array([g.std(ddof=1) / math.sqrt(g.size) if g.size > 1 else math.nan for g in groups if g.size])
        return reward, points["pass@1"].to_numpy(float)[full], points["stderr"].to_numpy(float)[full], error
    return None


def _change(values: np.ndarray, stderr: np.ndarray, *, first: float) -> tuple[float, float]:
    """Mean of the last quarter less that of the quarter that begins at ``first``, and its standard error.

    The error is the larger of that from sampling and that from the spread of the evaluations within each quarter.
    """
    n, width = len(values), max(1, len(values) // 4)
    parts = [slice(int(first * n), int(first * n) + width), slice(n - width, n)]
    variance = 0.0
    for part in parts:
        sampling = float(np.nansum(stderr[part] ** 2)) / width**2
        spread = float(np.nanvar(values[part], ddof=1)) / width if width > 1 else 0.0
        variance += max(sampling, spread)
    return float(np.nanmean(values[parts[1]]) - np.nanmean(values[parts[0]])), math.sqrt(variance)


def _verdict(whole: list[tuple[float, float]], late: list[tuple[float, float]]) -> str:
    """What reward and accuracy did together, over the run and in its second half."""
    z = 1.645
    for (gain, gain_error), (change, change_error) in (whole, late):
        if gain > z * gain_error and change < -z * change_error:
            return "part ways: reward up, held-out down"
    (gain, gain_error), (change, change_error) = whole
    moved, followed = abs(gain) > z * gain_error, abs(change) > z * change_error
    if not followed:
        return "reward moves, held-out within noise" if moved else "both within noise"
    return "agree" if moved and (gain > 0) == (change > 0) else "differ"


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    return float(np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1])  # Spearman's


def _signed(value: float, error: float) -> str:
    return f"{value:+.3f}\u00a0±\u00a0{1.645 * error:.3f}".replace("-", "−")
