"""The tables of a report as pandas frames, and their files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.fitting import Fit
from scaling.report.gather import Analysis, Group, gather
from scaling.runs import RunTable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["asymptote_text", "summary_frame", "summary_table", "write_csv"]


def summary_table(table: RunTable, **options: Any) -> pd.DataFrame:
    """One row a size and recipe: base accuracy, final accuracy, asymptote with interval and verdict, cost.

    Args:
        table: the runs.
        **options: as for `scaling.report.gather.gather`: ``benchmark``, ``law``, ``fit_after``, ``draws``, ``seed``.

    Returns:
        Columns ``group``, ``params`` [1], ``runs``, ``base_sampled``, ``base_best_decoding`` and ``best_decoding`` (which),
        ``final`` (mean over runs of their last evaluation), ``asymptote_low``, ``asymptote_high`` (90 %), ``verdict``,
        ``rl_flops_share`` (RL model FLOPs / pretraining FLOPs, of the run that went furthest), ``gpu_hours`` (sum over
        runs, as fitted) and ``gpu_hours_paid`` [GPU h].

    Example:
        >>> summary_table(load_runs("runs/demo"))  # doctest: +SKIP
    """
    return summary_frame(gather(table, **options))


def summary_frame(analysis: Analysis) -> pd.DataFrame:
    """`summary_table` of runs that are already gathered and fitted."""
    import pandas as pd

    return pd.DataFrame([_summary_row(analysis, g) for g in analysis.groups])


def _summary_row(a: Analysis, group: Group) -> dict[str, Any]:
    runs = a.table.runs[a.table.runs["run_id"].isin(group.run_ids)]
    evals = a.table.evals[a.table.evals["run_id"].isin(group.run_ids)]
    evals = evals[evals["benchmark"] == a.benchmark] if len(evals) else evals
    base, best, which = _base(evals)
    last = _last_scores(evals)
    found = a.fits.get(a.axis, {}).get(group.name)
    low, high = found.interval("asymptote", 0.9) if isinstance(found, Fit) else (-math.inf, math.inf)
    share = (runs["total_flops"] / runs["pretraining_flops"]).max()
    return {
        "group": group.name, "params": group.params, "runs": len(runs),
        "base_sampled": base, "base_best_decoding": best, "best_decoding": which,
        "final": float(last.mean()) if last.size else math.nan,
        "asymptote_low": float(low), "asymptote_high": float(high),
        "verdict": _verdict(found), "rl_flops_share": float(share),
        "gpu_hours": float(runs["gpu_hours"].sum()), "gpu_hours_paid": float(runs["gpu_hours_paid"].sum()),
    }  # fmt: skip


def asymptote_text(row: Mapping[str, Any]) -> str:
    """The asymptote as printed: an interval with its verdict, or a bound where it is not identified."""
    low, high, verdict = row["asymptote_low"], row["asymptote_high"], row["verdict"]
    if verdict == "identified":
        return f"{low:.3f} to {high:.3f} (identified)"
    if verdict == "asymptote not identified":
        return f"not identified (90 %: above {max(low, 0.0):.3f})" if math.isfinite(low) else "not identified"
    return str(verdict)


def _verdict(found: Any) -> str:
    if found is None:
        return "not fitted"
    if found.identified:
        return "identified"
    return "asymptote not identified" if found.status != "refused" else f"refused: {found.message}"


def _base(evals: pd.DataFrame) -> tuple[float, float, str]:
    """Accuracy at step 0: sampled, and under the best decoding recorded, with its name."""
    start = evals[evals["step"] == 0] if len(evals) else evals
    if not len(start):
        return math.nan, math.nan, ""
    means = start.groupby("decoding")["pass@1"].mean()
    sampled = float(means.get("sampled", math.nan))
    known = means.dropna()
    if known.empty:
        return sampled, math.nan, ""
    which = str(known.idxmax())
    return sampled, float(known.max()), which


def _last_scores(evals: pd.DataFrame) -> np.ndarray:
    sampled = evals[evals["decoding"] == "sampled"] if len(evals) else evals
    if not len(sampled):
        return np.array([])
    last = sampled.sort_values("step", kind="stable").groupby("run_id")["pass@1"].last()
    return last.dropna().to_numpy(float)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV; a text cell that a spreadsheet would run as a formula gets a leading apostrophe."""
    safe = frame.copy()
    for column in safe.columns:
        if safe[column].dtype == object or str(safe[column].dtype).startswith("str"):
            safe[column] = [f"'{v}" if isinstance(v, str) and v[:1] in "=+-@\t\r" and v else v for v in safe[column]]
    safe.to_csv(path, index=False)
