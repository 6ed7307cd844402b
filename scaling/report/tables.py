"""The tables of a report as pandas frames, and their files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.fitting import Fit
from scaling.report.gather import Analysis, gather
from scaling.report.groups import Group
from scaling.runs import RunTable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["asymptote_text", "base_scores", "last_scores", "summary_frame", "summary_table", "write_table"]


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
    runs: Any = a.table.runs[a.table.runs["run_id"].isin(group.run_ids)]
    evals: Any = a.table.evals[a.table.evals["run_id"].isin(group.run_ids)]
    evals = evals[evals["benchmark"] == a.benchmark] if len(evals) else evals
    base, best, which = base_scores(evals)
    last = last_scores(evals, a.decoding)
    found = a.fits.get(a.axis, {}).get(group.name)
    low, high = found.interval("asymptote", 0.9) if isinstance(found, Fit) else (-math.inf, math.inf)
    share = (runs["total_flops"] / runs["pretraining_flops"]).max()
    return {
        "group": group.name,
        "params": group.params,
        "runs": len(runs),
        "base_sampled": base,
        "base_best_decoding": best,
        "best_decoding": which,
        "final": float(last.mean()) if last.size else math.nan,
        "asymptote_low": float(low),
        "asymptote_high": float(high),
        "verdict": _verdict(found),
        "rl_flops_share": float(share),
        "gpu_hours": float(runs["gpu_hours"].sum()),
        "gpu_hours_paid": float(runs["gpu_hours_paid"].sum()),
    }


def asymptote_text(row: Mapping[str, Any]) -> str:
    """The asymptote as printed: an interval with its verdict, or a bound where it is not identified."""
    low, high, verdict = row["asymptote_low"], row["asymptote_high"], row["verdict"]
    if verdict == "identified":
        return f"{low:.3f} to {high:.3f} (identified)"
    if verdict == "asymptote not identified":
        return f"not identified (above {max(low, 0.0):.3f} at 95 %)" if math.isfinite(low) else "not identified"
    return str(verdict)


def _verdict(found: Any) -> str:
    if found is None:
        return "not fitted"
    return str(found.status) if found.draws.size else f"{found.status}: {found.message}"


def base_scores(evals: Any) -> tuple[float, float, str]:
    """Accuracy at step 0, mean over runs: sampled, and under the best decoding recorded, with its name."""
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


def last_scores(evals: Any, decoding: str) -> np.ndarray:
    """Accuracy at the last evaluation of each run."""
    sampled = evals[evals["decoding"] == decoding] if len(evals) else evals
    if not len(sampled):
        return np.array([])
    last = sampled.sort_values("step", kind="stable").groupby("run_id")["pass@1"].last()
    return last.dropna().to_numpy(float)


def write_table(frame: pd.DataFrame, folder: Path, name: str) -> None:
    """Write a table as ``name.csv`` and ``name.json``.

    In CSV, a text cell that a spreadsheet would run as a formula gets a leading apostrophe; JSON is exact. Numbers that
    are not finite are empty and null.
    """
    rows: list[dict[str, Any]] = [{str(k): _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]
    text = json.dumps(rows, indent=1, allow_nan=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow([str(c) for c in frame.columns])
        writer.writerows([[_cell(v) for v in row.values()] for row in rows])


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return "" if value is None else value
