"""Accuracy against compute: curves with their fits, asymptotes with their verdicts, forecasts."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from scaling import plot
from scaling.curve import AXES
from scaling.fitting import Fit
from scaling.fitting.status import Status
from scaling.report.gather import Analysis
from scaling.report.page import Figure, Note, Pair, Section, Table
from scaling.report.tables import asymptote_text, summary_frame
from scaling.report.text import flops, interval, number, plural, score

__all__ = ["accuracy", "asymptotes", "back_test", "forecasts"]

GAIN = 0.01  # a gain in pass@1 worth continuing for, in the stop-or-continue column


def accuracy(a: Analysis) -> Section:
    """Held-out accuracy against compute on every axis, with the fits."""
    parts: list[Figure | Pair | Table | Note] = []
    shown = {axis: groups for axis, groups in a.curves.items() if groups}
    first = next(iter(shown.values()), {})
    for axis, groups in shown.items():
        legend = "shared" if not parts else "none" if set(groups) <= set(first) else "own"  # one for the section
        shared = axis == "gpu_hours" and any(g.shared for g in a.groups if g.name in groups)
        fits = a.fits.get(axis, {})
        figure = plot.curves(groups, fits=fits, y_title="held-out pass@1 [0 to 1]", style=a.style, legend=legend)
        if shared:
            plot.stamp(figure, "device shared by several runs: GPU-hours shown, not fitted")
        if a.settings.get("fit_after") and axis == "total_flops":
            figure.add_vline(x=a.settings["fit_after"], line={"dash": "dot", "width": 1, "color": "#888888"})
        crowded = sum(len(c) for members in groups.values() for c in members) > plot.CROWDED
        parts.append(Figure(figure, _caption(axis, bool(fits), shared, crowded, legend)))
    if not parts:
        return Section(
            "accuracy", "Accuracy against compute", "No held-out evaluation is recorded, so nothing is fitted."
        )
    after = a.settings.get("fit_after")
    window = f"from {flops(after)} FLOPs on" if after else "to all evaluations, none left out"
    lead = (
        f"Held-out pass@1 on {a.benchmark} against {plural(len(parts), 'compute axis').replace('axiss', 'axes')}; "
        f"laws are fitted {window}: "
        "the line is solid over the fitted window and dotted where it is extrapolated."
    )
    return Section("accuracy", "Accuracy against compute", lead, tuple(parts))


def asymptotes(a: Analysis) -> Section | None:
    """Asymptotes with intervals and verdicts, and the other parameters."""
    fits = a.fitted
    frame: Any = summary_frame(a)
    if frame.empty or not a.benchmark:
        return None
    known = frame["verdict"] == "identified"
    lead = f"The asymptote is identified in {int(known.sum()) or 'none'} of {plural(len(frame), 'group')}" + (
        "." if known.all() else "; where it is not, no asymptote is printed, only what it is above."
    )
    rows = []
    for row in frame.to_dict("records"):
        fit = fits.get(row["group"])
        cells: dict[str, Any] = {"size and recipe": row["group"], "asymptote, 90 %": asymptote_text(row)}
        for key, title in (
            ("efficiency_exponent", "efficiency exponent"),
            ("c_mid", f"C_mid [{AXES[a.axis][1]}]"),
            ("r_0", "R_0"),
        ):
            cells[f"{title}, 90 %"] = _parameter(fit, key)
        cells["law"] = _law(fit)
        rows.append(cells)
    parts: list[Figure | Pair | Table | Note] = []
    judged = {name: fit for name, fit in fits.items() if fit.status in (Status.IDENTIFIED, Status.NOT_IDENTIFIED)}
    if judged:
        figure = plot.asymptotes(judged, style=a.style)
        parts.append(
            Figure(
                figure,
                "Asymptote of held-out pass@1: 50 % interval thick, 90 % thin; where it is not identified, the "
                "95 % lower bound alone.",
            )
        )
    caption = (
        f"R = R_0 + (A - R_0) / (1 + (C_mid / C)^B) (arXiv:2510.13786, eq. 1), C in {AXES[a.axis][0]}; "
        f"{a.settings['draws']} draws. "
        "Only saturating laws have an asymptote, so its interval is that of those laws alone. It holds for "
        "this recipe, "
        "this benchmark and this decoding."
    )
    parts.append(Table(pd.DataFrame(rows), caption, "asymptotes", _parameters_frame(a, fits)))
    return Section("asymptotes", "Asymptotes", lead, tuple(parts))


def forecasts(a: Analysis) -> Section | None:
    """What more compute is expected to bring: the stop-or-continue table."""
    fits = a.fitted
    if not fits:
        return None
    rows, raw = [], []
    for name, fit in fits.items():
        last = float(max(c.compute.max() for c in fit.curves))
        band = fit.forecast([last, 2 * last, 4 * last])
        chance = fit.gain(by=2 * last, more_than=GAIN)
        raw.append(
            {
                "group": name,
                "axis": a.axis,
                "compute": last,
                "now": float(band.median[0]),
                **{
                    f"{k}_{x}x": float(getattr(band, k)[i])
                    for i, x in ((1, 2), (2, 4))
                    for k in ("median", "low", "high")
                },
                f"chance_of_gain_above_{GAIN:g}_by_2x": float(chance),
            }
        )
        rows.append(
            {
                "size and recipe": name,
                f"compute so far [{AXES[a.axis][1]}]": flops(last) if a.axis == "total_flops" else number(last),
                "fitted now": score(band.median[0]),
                "at 2 x, 90 %": interval(band.low[1], band.high[1]),
                "at 4 x, 90 %": interval(band.low[2], band.high[2]),
                f"chance of > {GAIN:g} more by 2 x": f"{chance:.0%}".replace("%", " %"),
            }
        )
    still = sum(r[f"chance_of_gain_above_{GAIN:g}_by_2x"] > 0.5 for r in raw)
    lead = (
        f"With twice the compute, {still} of {plural(len(raw), 'group')} would more likely than not gain over "
        f"{GAIN:g} in pass@1."
    )
    caption = f"Forecasts of the curve on {a.benchmark} against {AXES[a.axis][0]}, for the same recipe trained on."
    return Section(
        "forecasts", "Forecasts", lead, (Table(pd.DataFrame(rows), caption, "forecasts", pd.DataFrame(raw)),)
    )


def back_test(a: Analysis) -> Section | None:
    """How good forecasts from the first quarter and half of each group would have been."""
    curves = a.curves.get(a.axis, {})
    if not a.settings.get("full") or not a.fitted:
        return None
    from scaling.backtest import backtest

    named = {name: list(curves[name]) for name in a.fitted}
    result = backtest(named, laws=["ensemble"], draws=a.settings["draws"], seed=a.settings["seed"])
    table: Any = result.table
    good = table[(table["method"] == "ensemble") & (table["status"] == "ok")]
    if good.empty:
        return None
    told = []
    for fraction, part in good.groupby("fraction"):
        better = int((part["skill_last_value"] > 0).sum())
        told.append(
            f"from the first {_percent(fraction)} the 90 % band covered the final score in {int(part['covered'].sum())} "
            f"of {len(part)} and the forecast beat 'the last value stays' in {better}"
        )
    rows = [
        {
            "size and recipe": row["curve"],
            "fitted on the first": _percent(row["fraction"]),
            "final score": score(row["final"]),
            "forecast, 90 %": f"{score(row['forecast'])} ({interval(row['low'], row['high'])})",
            "RMSE over the rest": score(row["rmse"]),
            "skill against 'last value stays'": f"{row['skill_last_value']:+.2f}".replace("-", "−"),
        }
        for row in good.to_dict("records")
    ]
    caption = (
        "Each group cut at a share of its compute, fitted before the cut and scored after it, on the same benchmark items. "
        "Skill: 1 − RMSE / RMSE of the forecast that the last value stays; below 0 the forecast was worse than that."
    )
    parts = (
        Figure(
            plot.backtest(table),
            "Forecasts of the final score against what happened; bars that cross the line cover it.",
        ),
        Table(pd.DataFrame(rows), caption, "backtest", table),
    )
    return Section("backtest", "Back-test of the forecasts", _capital("; ".join(told)) + ".", parts)


def _percent(share: Any) -> str:
    return f"{float(share):.0%}".replace("%", " %")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _caption(axis: str, fitted: bool, shared: bool, crowded: bool, legend: str) -> str:
    error = "too many for their error bars" if crowded else "with 90 % sampling error"
    text = f"Held-out pass@1 against {AXES[axis][0]}. Points {error}; the point at 0 is the base model."
    if legend == "none":
        text += " Colours and markers as above."
    if shared:
        return text + " GPU-hours of runs that shared a device are noise, so no law is fitted to them."
    if fitted:
        return text + " Line and band: median and 90 % interval of the curve, extrapolated to 4 x the last evaluation."
    return text


def _parameter(fit: Fit | None, name: str) -> str:
    if fit is None:
        return "–"
    low, high = fit.interval(name, 0.9)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{number(low)} to {number(high)}" if high < 1e5 else f"{flops(low)} to {flops(high)}"


def _law(fit: Fit | None) -> str:
    if fit is None:
        return "–"
    shares = sorted(fit.weights.items(), key=lambda item: -item[1])
    return (
        ", ".join(f"{name}\u202f{weight:.0%}".replace("%", "\u202f%") for name, weight in shares if weight >= 0.01)
        or fit.form
    )


def _parameters_frame(a: Analysis, fits: dict[str, Fit]) -> pd.DataFrame:
    rows = []
    for name, fit in fits.items():
        row: dict[str, Any] = {
            "group": name,
            "axis": a.axis,
            "status": str(fit.status),
            "identified": bool(fit.identified),
        }
        for key in ("asymptote", "efficiency_exponent", "c_mid", "r_0"):
            row[f"{key}_low"], row[f"{key}_high"] = (float(v) for v in fit.interval(key, 0.9))
        row["window_low"], row["window_high"] = (float(v) for v in fit.window)
        rows.append(row | {f"weight_{law}": float(w) for law, w in fit.weights.items()})
    return pd.DataFrame(rows)
