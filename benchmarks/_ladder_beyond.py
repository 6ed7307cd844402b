"""Far beyond the fitted compute: a forecast written before a run, and the run against it."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Mapping, Sequence
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
TOGETHER = "all seeds"


def forecasts(
    table: RunTable, names: Sequence[str], windows: Mapping[str, int] = WINDOWS, *, together: bool = False
) -> dict[str, Any]:
    """Median and 90 % band of each curve at multiples of its window's compute, by each method.

    Args:
        table: a collected study.
        names: its runs.
        windows: name -> last step that is fitted.
        together: also the runs as seeds of one law, forecast as their mean (`TOGETHER`).

    Returns:
        Plain values, ready for JSON: where the forecast was made, and one entry a run and window.
    """
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    out: list[dict[str, Any]] = []
    groups = {name: [name] for name in names} | ({TOGETHER: list(names)} if together else {})
    for name, members in groups.items():
        for window, steps in windows.items():
            curves = [curve_of(table, member, up_to=steps) for member in members]
            last = float(np.mean([curve.compute[-1] for curve in curves]))
            entry: dict[str, Any] = {
                "run": name, "window": window, "evaluations": sum(map(len, curves)), "last_flops": last, "methods": {},
            }  # fmt: skip
            for method in METHODS:
                try:
                    values = _method(method)(curves, AHEAD * last, LEVEL)
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


def read(data: Path) -> RunTable:
    """The tables that `ladder.py collect` wrote."""
    return RunTable(**{name: pd.read_parquet(data / f"{name}.parquet") for name in ("runs", "steps", "evals")})


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


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean accuracy at mean compute, evaluation by evaluation, as far as all curves go."""
    if len(curves) == 1:
        return curves[0]
    n = min(map(len, curves))
    return Curve(
        compute=np.mean([c.compute[:n] for c in curves], 0), performance=np.mean([c.performance[:n] for c in curves], 0),
        axis=curves[0].axis, metric=curves[0].metric, run_id=TOGETHER,
    )  # fmt: skip


def scored(made: dict[str, Any], table: RunTable) -> list[dict[str, Any]]:
    """Each forecast against the longer run of the same settings: errors beyond the window, and whether the last point is covered."""
    times, rows = np.asarray(made["times"]), []
    for entry in made["forecasts"]:
        found = [name for name in table.runs["name"] if entry["run"] == TOGETHER or same_settings(entry["run"], name)]
        if not found:
            continue
        curve = mean_curve([curve_of(table, name) for name in found])
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


def draw(rows: Mapping[str, dict[str, Any]], far: RunTable, path: Path) -> None:
    """The long runs and the ensemble's forecasts of them: a row a source of the forecast, a column a run; then their mean."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "beyond"  # the same curves give the same file
    names = sorted(far.runs["name"])
    entries = [entry for some in rows.values() for entry in some["forecasts"]]
    colours = dict(zip(dict.fromkeys(entry["window"] for entry in entries), ("#E69F00", "#0072B2")))
    columns = {name: [name] for name in names} | (
        {TOGETHER: names} if any(e["run"] == TOGETHER for e in entries) else {}
    )
    size = (2.3 * len(columns) + 0.6, 0.8 + 1.8 * len(rows))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, sharex=True, sharey=True, squeeze=False)
    for line, (source, some) in zip(axes, rows.items()):
        for axis, (column, members) in zip(line, columns.items()):
            for member in members:
                curve = curve_of(far, member)
                axis.plot(
                    curve.compute,
                    curve.performance,
                    color="black",
                    lw=1.0 / len(members),
                    alpha=0.6 if len(members) > 1 else 1,
                )
            for entry in some["forecasts"]:
                band = entry["methods"]["ensemble"]
                if not same_settings(entry["run"], column) or "refused" in band:
                    continue
                at, colour = np.asarray(some["times"]) * entry["last_flops"], colours[entry["window"]]
                axis.fill_between(at, band["low"], band["high"], color=colour, alpha=0.25, lw=0)
                axis.plot(at, band["median"], color=colour, lw=1.2, ls=":")
                axis.axvline(entry["last_flops"], color=colour, lw=0.6)
            axis.set(xscale="log", ylim=(0, 1))
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
        line[0].set_ylabel(f"held-out pass@1;\n{source}", fontsize=8)
    for axis, name in zip(axes[0], columns):
        axis.set_title(name.partition("-scratch_")[2] or name, fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("RL compute [FLOP]", fontsize=8)
    handles = [plt.Line2D([], [], color="black", label="the run")]
    handles += [plt.Line2D([], [], color=c, ls=":", label=f"forecast from {window}") for window, c in colours.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.set_layout_engine("constrained")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def same_settings(run: str, longer: str) -> bool:
    """Whether a forecast's run is the long one or a shorter one of its settings and seed."""
    if TOGETHER in (run, longer):
        return run == longer
    stem, seed = run.rsplit("-s", 1)
    head, other = longer.rsplit("-s", 1)
    return seed == other and (head == stem or head.startswith(f"{stem}-t"))


def _method(name: str) -> Forecaster:
    return last_value if name == "last_value" else LawForecaster(name)
