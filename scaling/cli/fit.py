"""``rl-scaling fit``: table, verdict and figure from any file of scores against compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from scaling.cli._output import amount, band, drawable
from scaling.cli._sources import echo_collapses, echo_notes, read_source, source_options
from scaling.words import percent

if TYPE_CHECKING:
    from scaling.fitting import Fit

_LAWS = ("ensemble", "sigmoid", "weibull", "power", "log_linear", "linear_log", "constant")


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE|RUNS")
@source_options
@click.option("--law", type=click.Choice(_LAWS), default="ensemble", show_default=True, help="Law to fit.")
@click.option(
    "--fit-after",
    type=float,
    metavar="COMPUTE",
    help="Leave out evaluations before this; none are left out unless asked.",
)
@click.option(
    "--drift",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="PROBABILITY",
    help="That a curve leaves its law; .01 by default. With .2 bands are wider, and hold on dense real curves too.",
)
@click.option("--level", type=click.FloatRange(0.5, 0.999), default=0.9, show_default=True, help="Of the intervals.")
@click.option(
    "--draws", type=click.IntRange(50, 100_000), default=1000, show_default=True, help="Draws behind the intervals."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--full", is_flag=True, help="Print the whole summary of each fit, with its sensitivity to the window.")
@click.option(
    "--backtest", "do_backtest", is_flag=True, help="Also score forecasts from the first 25 % and 50 % of compute."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR|FILE.html", help="Where the figure goes; default fit.html."
)
@click.option("--no-figure", is_flag=True, help="Print only.")
def fit(
    source: Path,
    law: str,
    fit_after: float | None,
    drift: float | None,
    level: float,
    draws: int,
    seed: int,
    full: bool,
    do_backtest: bool,
    out: Path | None,
    no_figure: bool,
    **columns: Any,
) -> None:
    """Fit a scaling curve to the scores in FILE (csv, tsv, parquet, jsonl) or in run folders.

    \b
    rl-scaling fit curve.csv --compute gpu_hours --score accuracy
    rl-scaling fit sweep.csv --compute flops --score eval_acc --percent --by model --seed-column seed
    rl-scaling fit runs/demo --compute total_flops --by model

    Prints for each curve the asymptote (what the score tends to) with its interval, how steep and how far along the
    curve is, a forecast at four times the compute, and whether the data determine the asymptote at all. If they do
    not, it says so, and the lower bound is what you may quote.
    """  # noqa: D301
    data = read_source(source, **columns)
    echo_notes(data.notes)
    collapsed = echo_collapses(data)
    from scaling.fitting import fit as fit_curves

    fits = {}
    for name, curves in _progress(data.groups.items(), len(data.groups)):
        fits[name] = fit_curves(curves, law=law, fit_after=fit_after, drift=drift, draws=draws, seed=seed)
    rows = [row(name, fitted, level=level) for name, fitted in fits.items()]
    for line in _table(rows, level):
        click.echo(line)
    click.echo()
    for name, fitted in fits.items():
        whole = full or len(fits) == 1
        click.echo(fitted.summary(full=full) if whole else verdict(name, fitted))
    if do_backtest:
        from scaling.backtest import backtest as run_backtest

        click.echo("\n" + run_backtest(data.groups, level=level, draws=draws, seed=seed).summary())
    if not no_figure:
        target = _target(out)
        _write(target, data.groups, fits, level=level, collapsed=collapsed)
        click.echo(f"\nfigure: {target}")
        if out is not None and target.parent == out:
            import pandas as pd

            pd.DataFrame(rows).to_csv(out / "fit.csv", index=False)
            click.echo(f"table:  {out / 'fit.csv'}")


def row(name: str, fitted: Fit, *, level: float) -> dict[str, Any]:
    """One line of the table as plain values."""
    last = fitted.window[1]
    at = fitted.forecast([4 * last], level=level)
    out: dict[str, Any] = {"curve": name, "evaluations": sum(len(c) for c in fitted.curves), "law": fitted.form}
    for parameter in ("asymptote", "efficiency_exponent", "c_mid"):
        out[f"{parameter}_low"], out[f"{parameter}_high"] = fitted.interval(parameter, level)
    out |= {
        "last_compute": last, "forecast_4x": float(at.median[0]), "forecast_4x_low": float(at.low[0]),
        "forecast_4x_high": float(at.high[0]), "identified": bool(fitted.identified), "status": str(fitted.status),
    }  # fmt: skip
    return out


def verdict(name: str, fitted: Fit) -> str:
    """The verdict in few lines: why, what may be quoted instead of an asymptote, and what would settle it."""
    lines = [line.strip() for line in fitted.summary().splitlines()]
    told = [line for line in lines if line.startswith(("asymptote not identified:", "to settle"))]
    return "\n".join(
        [f"{name}: {fitted.status}" + (f" ({fitted.message})" if fitted.message else ""), *("  " + x for x in told)]
    )


def _table(rows: list[dict[str, Any]], level: float) -> list[str]:
    width = max(5, *(len(str(r["curve"])) for r in rows))
    lines = [
        f"{'curve':<{width}} {'evals':>6}  {f'asymptote A, {percent(level)}':<20} {'exponent B':<16} {'C_mid':<22}"
        f" {'at 4 x the compute':<26} verdict"
    ]
    for r in rows:
        steep, middle = band(r["efficiency_exponent_low"], r["efficiency_exponent_high"], 2), "-"
        if np.isinf(r["efficiency_exponent_low"]):  # a Weibull curve has another
            steep = "-"
        if np.isfinite(r["c_mid_low"]):
            middle = f"[{amount(r['c_mid_low'])}, {amount(r['c_mid_high'])}]"
        asymptote = band(r["asymptote_low"], r["asymptote_high"])
        if not r["identified"]:  # an interval of what is not determined would be quoted
            asymptote = f">= {r['asymptote_low']:.3f}" if np.isfinite(r["asymptote_low"]) else "-"
            steep = middle = "-"
        ahead = "-"
        if np.isfinite(r["forecast_4x"]):
            ahead = f"{r['forecast_4x']:.3f} {band(r['forecast_4x_low'], r['forecast_4x_high'])}"
        lines.append(
            f"{r['curve']!s:<{width}} {r['evaluations']:>6}  {asymptote:<20} {steep:<16} {middle:<22} {ahead:<26} {r['status']}"
        )
    return lines


def _target(out: Path | None) -> Path:
    if out is None:
        return Path("fit.html")
    if out.suffix in (".html", ".htm"):
        out.parent.mkdir(parents=True, exist_ok=True)
        return out
    out.mkdir(parents=True, exist_ok=True)
    return out / "fit.html"


def _write(
    target: Path, groups: dict[str, Any], fits: dict[str, Fit], *, level: float, collapsed: dict[str, str]
) -> None:
    from scaling.plot import curves as draw
    from scaling.plot import stamp

    shown, thinned = drawable(groups)
    figure = draw(shown, fits=fits, level=level)
    words = [thinned] if thinned else []
    words += [f"{name}: {f.status}" for name, f in fits.items() if not f.identified] + list(collapsed.values())
    if words:
        stamp(figure, "; ".join(words[:3]) + (" ..." if len(words) > 3 else ""))
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white", height=560)
    figure.write_html(target, include_plotlyjs=True, full_html=True)


def _progress(items: Any, total: int) -> Any:
    if total < 8:
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc="fits", unit="curve", leave=False)
