"""Fitted curves and their table as a W&B run of job type ``fit``, for the dashboard; one run a project, updated in place."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.wandb_mirror import wandb_settings

if TYPE_CHECKING:
    from scaling.report.gather import Analysis

__all__ = ["CURVES", "FIGURE", "PARAMETERS", "curve_rows", "log_fits", "markdown_summary", "parameter_rows"]

PARAMETERS, CURVES, FIGURE = "fit/parameters", "fit/curves", "fit/figure"
RUN_ID = "rl-scaling-fits"
LEVEL = 0.9
POINTS = 100  # of a curve [1]
EXTEND = 4.0  # beyond the last evaluation


def parameter_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """One row a group: the report's summary and 90 % intervals of the law's parameters; no number without its interval."""
    from scaling.fitting import Fit
    from scaling.report.tables import asymptote_text, summary_frame

    rows = []
    for row in summary_frame(analysis).to_dict("records"):
        found = analysis.fits.get(analysis.axis, {}).get(str(row["group"]))
        out = {str(k): _plain(v) for k, v in row.items()}
        out |= {"axis": analysis.axis, "asymptote": asymptote_text(row)}
        for name in ("efficiency_exponent", "c_mid", "r_0"):
            low, high = found.interval(name, LEVEL) if isinstance(found, Fit) else (-math.inf, math.inf)
            out |= {f"{name}_low": _plain(low), f"{name}_high": _plain(high)}
        rows.append(out)
    return rows


def curve_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """The fitted median and band of each group on each axis, at `POINTS` computes from the first to beyond the last."""
    from scaling.fitting import Fit

    rows = []
    for axis, fits in analysis.fits.items():
        for group, found in fits.items():
            x = np.concatenate([curve.compute for curve in analysis.curves[axis][group]])
            x = x[x > 0]
            if not x.size:
                continue
            grid = np.geomspace(x.min(), x.max() * EXTEND, POINTS)
            band = found.forecast(grid, level=LEVEL)
            identified = (found if isinstance(found, Fit) else found.fit).identified
            for compute, *y in zip(grid, band.median, band.low, band.high):
                if not np.isfinite(y).all():  # a refused fit draws no curve; its verdict is in the other table
                    continue
                median, low, high = map(float, y)
                rows.append({
                    "group": group, "axis": axis, "compute": float(compute), "median": median, "low": low, "high": high,
                    "extrapolated": bool(compute > x.max()), "asymptote_identified": bool(identified),
                })  # fmt: skip
    return rows


def markdown_summary(analysis: Analysis) -> str:
    """The table of fits in words, as Markdown: asymptotes as intervals with their verdict."""
    lines = [
        f"Held-out benchmark: {_cell(analysis.benchmark)}; fits against {analysis.axis}; intervals are 90 %.",
        "",
        "| size and recipe | runs | base | final | asymptote | RL / pretraining FLOPs | GPU-hours |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in parameter_rows(analysis):
        cells = [
            row["group"], row["runs"], _share(row["base_sampled"]), _share(row["final"]), row["asymptote"],
            _number(row["rl_flops_share"]), _number(row["gpu_hours"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
    return "\n".join(lines)


def log_fits(analysis: Analysis, *, project: str, entity: str | None, timeout: float = 120.0) -> str:
    """Log the tables and the figure; returns the run's URL. The newest are what the dashboard shows."""
    import wandb

    from scaling import plot

    with tempfile.TemporaryDirectory(prefix="rl-scaling-fit-") as folder:
        run = wandb.init(
            project=project,
            entity=entity,
            id=RUN_ID,
            name="fits",
            group="fits",
            job_type="fit",
            config={"benchmark": analysis.benchmark, **dict(analysis.settings)},
            mode="online",
            resume="allow",
            reinit="create_new",
            dir=folder,
            settings=wandb_settings(finish_timeout=timeout, x_disable_stats=True),
        )
        try:
            row: dict[str, Any] = {
                PARAMETERS: _table(parameter_rows(analysis)),
                CURVES: _table(curve_rows(analysis)),
            }
            axis = "gpu_hours" if analysis.fits.get("gpu_hours") else analysis.axis
            if analysis.curves.get(axis):
                figure = plot.curves(
                    analysis.curves[axis], fits=analysis.fits.get(axis), y_title=f"{analysis.benchmark}: pass@1",
                    style=analysis.style,
                )  # fmt: skip
                row[FIGURE] = wandb.Plotly(figure)
            run.log(row)
        finally:
            run.finish()
            url = run.url
    return str(url)


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import wandb

    columns: list[Any] = list(dict.fromkeys(key for row in rows for key in row)) or ["group"]
    return wandb.Table(columns=columns, data=[[row.get(c) for c in columns] for row in rows], allow_mixed_types=True)


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _share(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"


def _cell(value: Any) -> str:
    """Text that cannot break out of a Markdown table cell or carry HTML."""
    text = " ".join(str(value).split())
    for char in "\\|<>&*_`[]":
        text = text.replace(char, f"&#{ord(char)};")
    return text
