"""``rl-scaling compare``: recipes at equal compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scaling.cli._output import drawable
from scaling.cli._sources import Source, echo_notes, read_source, source_options
from scaling.errors import ScalingError

if TYPE_CHECKING:
    from scaling.compare import Comparison


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="[NAME=]RUNS|FILE ...")
@source_options
@click.option("--baseline", metavar="NAME", help="Recipe to compare with; the first by default.")
@click.option(
    "--at",
    type=float,
    multiple=True,
    metavar="COMPUTE",
    help="Compare here; may be given again. Default: 1/4, 1/2, 1 and 4 times what both reached.",
)
@click.option("--law", default="ensemble", show_default=True, help="Law to fit, as for 'rl-scaling fit'.")
@click.option(
    "--of",
    type=click.Choice(["benchmark", "population"]),
    default="benchmark",
    show_default=True,
    help="Scores on these very items, or on all the items they are a sample of.",
)
@click.option(
    "--factor",
    "factors",
    multiple=True,
    metavar="SETTING",
    help="A setting in which curves of one recipe may differ, or in which scores were measured differently.",
)
@click.option("--margin", type=float, default=0.02, show_default=True, help="Asymptotes this near are taken to agree.")
@click.option(
    "--fit-after",
    type=float,
    metavar="COMPUTE",
    help="Leave out evaluations before this; none are left out unless asked.",
)
@click.option("--level", type=click.FloatRange(0.5, 0.999), default=0.9, show_default=True, help="Of the intervals.")
@click.option("--draws", type=click.IntRange(50, 100_000), default=1000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write compare.csv and compare.html here.")
def compare(
    sources: tuple[str, ...],
    baseline: str | None,
    at: tuple[float, ...],
    law: str,
    of: str,
    factors: tuple[str, ...],
    margin: float,
    fit_after: float | None,
    level: float,
    draws: int,
    seed: int,
    out: Path | None,
    **columns: Any,
) -> None:
    """Compare recipes: one table whose --by column names them, or one source a recipe.

    \b
    rl-scaling compare sweep.csv --compute gpu_hours --score accuracy --by recipe --seed-column seed
    rl-scaling compare dapo=runs/dapo cispo=runs/cispo --compute total_flops
    rl-scaling compare runs/ --by recipe_hash --baseline 3f2a

    Prints the difference at equal compute, the effective speed-up (how much less compute for the same score), the
    difference in asymptote, and in exponent once the asymptotes agree; settings in which the recipes differ are named.
    """  # noqa: D301  # fmt: skip
    from scaling.compare import compare as compare_curves

    groups: dict[str, list[Any]] = {}
    named = [_split(source) for source in sources]
    for name, path in named:
        data = read_source(path, **columns)
        echo_notes(data.notes)
        if len(named) == 1:
            groups = dict(data.groups)
        else:
            key = name or path.stem
            if key in groups:
                raise ScalingError(f"two sources are called {key!r}: name them, as in a={path} b=...")
            groups[key] = data.curves()
    if len(groups) < 2:
        raise ScalingError(
            f"found one recipe only ({', '.join(groups)}): name the column that tells recipes apart with --by, "
            "or give one source a recipe (a=PATH b=PATH)"
        )
    result = compare_curves(
        groups, baseline=baseline, at=at or None, law=law, level=level, of=of, margin=margin, factors=factors,
        fit_after=fit_after, draws=draws, seed=seed,
    )  # fmt: skip
    click.echo(result.summary())
    if out is not None:
        _write(out, result, Source(groups), level)


def _split(source: str) -> tuple[str, Path]:
    name, sign, path = source.partition("=")
    if not sign or Path(source).exists():
        return "", Path(source)
    if not name or not path:
        raise ScalingError(f"a source must be PATH or NAME=PATH, got {source!r}")
    return name, Path(path)


def _write(out: Path, result: Comparison, data: Source, level: float) -> None:
    from scaling.plot import curves as draw

    out.mkdir(parents=True, exist_ok=True)
    result.table.to_csv(out / "compare.csv", index=False)
    figure = draw(drawable(data.groups)[0], fits=result.fits, level=level)
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white", height=560)
    figure.write_html(out / "compare.html", include_plotlyjs=True, full_html=True)
    click.echo(f"\ntable:  {out / 'compare.csv'}\nfigure: {out / 'compare.html'}")
