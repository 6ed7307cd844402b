"""``rl-scaling forecast``: where a run is going, from its records so far or from any table."""

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


class _Until(click.ParamType):
    """``4x`` (times the compute so far) or an amount in the axis' unit."""

    name = "until"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, bool]:
        if isinstance(value, tuple):
            return value
        text = str(value).strip().lower()
        times = text.endswith("x")
        try:
            number = float(text.removesuffix("x"))
        except ValueError:
            self.fail(f"must be like 4x or 1e21, got {value!r}", param, ctx)
        if not (np.isfinite(number) and number > (1.0 if times else 0.0)):
            self.fail(f"must be beyond the compute so far (more than 1x), got {value!r}", param, ctx)
        return number, times


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="RUNS|FILE")
@click.option(
    "--until", type=_Until(), default="4x", show_default=True, help="4x = four times the compute so far; or an amount."
)
@click.option(
    "--reach", type=float, multiple=True, metavar="SCORE", help="Compute to reach this score; may be given again."
)
@click.option(
    "--gain", type=float, metavar="X", help="Probability of gaining more than X by --until: stop or continue?"
)
@source_options
@click.option("--law", default="ensemble", show_default=True, help="Law to fit, as for 'rl-scaling fit'.")
@click.option(
    "--drift", type=click.FloatRange(0, 1, max_open=True), metavar="PROBABILITY", help="As for 'rl-scaling fit'."
)
@click.option(
    "--fit-after",
    type=float,
    metavar="COMPUTE",
    help="Leave out evaluations before this; none are left out unless asked.",
)
@click.option(
    "--of",
    type=click.Choice(["benchmark", "population"]),
    default="benchmark",
    show_default=True,
    help="Score on these very items, or on all the items they are a sample of.",
)
@click.option(
    "--noise",
    type=click.Choice(["curve", "observation"]),
    default="curve",
    show_default=True,
    help="Band of the curve, or of one evaluation.",
)
@click.option("--level", type=click.FloatRange(0.5, 0.999), default=0.9, show_default=True, help="Of the bands.")
@click.option("--draws", type=click.IntRange(50, 100_000), default=1000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.html", help="Also draw the forecast into this file."
)
def forecast(
    source: Path,
    until: tuple[float, bool],
    reach: tuple[float, ...],
    gain: float | None,
    law: str,
    drift: float | None,
    fit_after: float | None,
    of: str,
    noise: str,
    level: float,
    draws: int,
    seed: int,
    out: Path | None,
    **columns: Any,
) -> None:
    """Forecast the score of RUNS (run folders, also of a run still going) or of a table FILE at more compute.

    \b
    rl-scaling forecast runs/demo/3f2a --until 4x
    rl-scaling forecast curve.csv --compute gpu_hours --score accuracy --until 5000 --reach 0.6 --gain 0.01

    --reach answers with a probability that the score is never reached; --gain with the probability that going on to --until
    is worth more than X.
    """  # noqa: D301  # fmt: skip
    data = read_source(source, **columns)
    echo_notes(data.notes)
    collapsed = echo_collapses(data)
    from scaling.fitting import fit

    fits: dict[str, Fit] = {}
    for name, curves in data.groups.items():
        fitted = fits[name] = fit(curves, law=law, fit_after=fit_after, drift=drift, draws=draws, seed=seed)
        for line in lines(name, fitted, until=until, reach=reach, gain=gain, of=of, noise=noise, level=level):
            click.echo(line)
    if out is not None:
        from scaling.plot import curves as draw
        from scaling.plot import stamp

        far = max(_end(f, until) / f.window[1] for f in fits.values() if f.window[1] > 0)
        figure = draw(drawable(data.groups)[0], fits=fits, level=level, extend=far)
        if collapsed:
            stamp(figure, "; ".join(collapsed.values()))
        figure.update_layout(paper_bgcolor="white", plot_bgcolor="white", height=560)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.write_html(out, include_plotlyjs=True, full_html=True)
        click.echo(f"figure: {out}")


def lines(
    name: str,
    fitted: Fit,
    *,
    until: tuple[float, bool],
    reach: tuple[float, ...],
    gain: float | None,
    of: str,
    noise: str,
    level: float,
) -> list[str]:
    """What is printed about one curve."""
    last, end = fitted.window[1], _end(fitted, until)
    count = sum(len(c) for c in fitted.curves)
    out = [f"{name}: {count} evaluations up to {fitted.axis} {last:.4g}; {fitted.status}"]
    if not len(fitted.draws):
        return [*out, f"  no forecast: {getattr(fitted, 'message', '') or fitted.status}"]
    if end <= last:
        return [*out, f"  --until {end:.4g} is not beyond the compute so far ({last:.4g})"]
    grid = np.geomspace(last, end, 4)
    ahead = fitted.forecast(grid, level=level, of=of, noise=noise)
    what = "the curve" if noise == "curve" else "one evaluation"
    on = "these very items" if of == "benchmark" else "all items they are a sample of"
    out.append(f"  forecast of {what} on {on}: median and {percent(level)} band")
    for c, middle, low, high in zip(grid, ahead.median, ahead.low, ahead.high):
        out.append(f"  at {c:>10.4g} ({c / last:>5.2f}x)  {middle:.3f}  {band(low, high)}")
    if ahead.note:
        out.append(f"  {ahead.note}")
    for score in reach:
        r = fitted.compute_to_reach(score, level=level)
        if np.isinf(r.low):
            out.append(f"  does not reach {score:g}: never with probability {r.never:.2f}")
            continue
        where = f"at {fitted.axis} {amount(r.median)}" if np.isfinite(r.median) else "more likely never than at all"
        out.append(
            f"  reaches {score:g} {where}, {percent(level)} interval {amount(r.low)} to {amount(r.high)}; "
            f"never with probability {r.never:.2f}"
        )
    if gain is not None:
        chance = fitted.gain(by=end, more_than=gain)
        out.append(f"  gains more than {gain:g} by {fitted.axis} {end:.4g} with probability {chance:.2f}")
    return out


def _end(fitted: Fit, until: tuple[float, bool]) -> float:
    number, times = until
    return number * fitted.window[1] if times else number
