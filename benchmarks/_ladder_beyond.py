"""Far beyond the fitted compute: a forecast written before a run, and the run against it."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling import Curve, RunTable
from scaling.backtest import Forecaster, LawForecaster, last_value
from scaling.errors import ScalingError

LEVEL = 0.9
WINDOWS = {"200 steps": 200, "400 steps": 400}  # what the fit sees
AHEAD = np.geomspace(1.0, 12.0, 26)  # times the compute of the window
METHODS = ("ensemble", "log_linear", "last_value")


def forecasts(data: Path, names: Sequence[str]) -> dict[str, Any]:
    """Median and 90 % band of each curve at multiples of its window's compute, by each method.

    Args:
        data: folder of a collected study.
        names: its runs.

    Returns:
        Plain values, ready for JSON: where the forecast was made, and one entry a run and window.
    """
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    table = RunTable(**{name: pd.read_parquet(data / f"{name}.parquet") for name in ("runs", "steps", "evals")})
    out: list[dict[str, Any]] = []
    for name in names:
        for window, steps in WINDOWS.items():
            curve = curve_of(table, name, up_to=steps)
            entry: dict[str, Any] = {
                "run": name, "window": window, "evaluations": len(curve), "last_flops": float(curve.compute[-1]), "methods": {},
            }  # fmt: skip
            for method in METHODS:
                try:
                    values = _method(method)([curve], AHEAD * curve.compute[-1], LEVEL)
                    entry["methods"][method] = {
                        k: [round(float(x), 5) for x in v]
                        for k, v in zip(("median", "low", "high"), values, strict=True)
                    }
                except ScalingError as error:
                    entry["methods"][method] = {"refused": str(error)}
            out.append(entry)
    return {
        "made_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "commit": commit, "level": LEVEL,
        "axis": "total_flops", "times": [round(float(x), 6) for x in AHEAD], "forecasts": out,
    }  # fmt: skip


def curve_of(table: RunTable, name: str, *, up_to: int | None = None) -> Curve:
    """Held-out accuracy of one run against its FLOPs, from its first optimiser step on."""
    run = table.runs.loc[table.runs["name"] == name, "run_id"].iloc[0]
    own = table.evals[
        (table.evals["run_id"] == run) & (table.evals["decoding"] == "sampled") & (table.evals["step"] > 0)
    ]
    if up_to is not None:
        own = own[own["step"] <= up_to]
    own = own.sort_values("total_flops")
    return Curve(
        compute=own["total_flops"], performance=own["pass@1"], stderr=own["stderr"], axis="total_flops", metric="pass@1", run_id=name,
    )  # fmt: skip


def scored(made: dict[str, Any], table: RunTable) -> list[dict[str, Any]]:
    """Each forecast against the longer run of the same base: errors beyond the window, and whether the last point is covered."""
    times, rows = np.asarray(made["times"]), []
    longer = {name: name.rsplit("-s", 1) for name in table.runs["name"]}
    for entry in made["forecasts"]:
        stem, seed = entry["run"].rsplit("-s", 1)
        found = [n for n, (head, s) in longer.items() if s == seed and head.startswith(f"{stem}-t")]
        if not found:
            continue
        curve = curve_of(table, found[0])
        far = curve.compute / entry["last_flops"]
        later = (far > 1) & (far <= times[-1])
        for method, band in entry["methods"].items():
            row: dict[str, Any] = {
                "run": entry["run"],
                "window": entry["window"],
                "method": method,
                "points": int(later.sum()),
            }
            if "refused" in band or not later.any():
                rows.append({**row, "outcome": band.get("refused", "the run did not get beyond the window")})
                continue
            median, low, high = (
                np.interp(np.log(far[later]), np.log(times), band[k]) for k in ("median", "low", "high")
            )
            seen = curve.performance[later]
            rows.append({
                **row, "times": float(far[later][-1]), "observed": float(seen[-1]), "forecast": float(median[-1]),
                "low": float(low[-1]), "high": float(high[-1]), "rmse": float(np.sqrt(np.mean((median - seen) ** 2))),
                "inside": float(np.mean((low <= seen) & (seen <= high))),
            })  # fmt: skip
    return rows


def _method(name: str) -> Forecaster:
    return last_value if name == "last_value" else LawForecaster(name)
