"""Every figure of `scaling.plot` once, on simulated runs: ``python analysis/gallery.py OUT.html``."""

from __future__ import annotations

import html
import sys
import tempfile
from pathlib import Path
from typing import Any

import example_runs

import scaling
from scaling import plot


def figures() -> list[tuple[str, str, Any]]:
    """(title, the line that drew it, figure) of each figure."""
    ladder = scaling.load_runs(example_runs.write_ladder(tempfile.mkdtemp()))
    two = example_runs.write_ladder(
        tempfile.mkdtemp(), bases=example_runs.BASES[:1], recipes={"dapo": 1.0, "cispo": 2.0}
    )
    recipes = scaling.load_runs(two)
    curves = ladder.curves(axis="total_flops", by="model")
    fits = {name: scaling.fit(c, draws=300, seed=0) for name, c in curves.items()}
    style = plot.looks(curves)
    by_recipe = recipes.curves(axis="total_flops", by="recipe_hash")
    comparison = scaling.compare(by_recipe, factors=("recipe_hash",), draws=300, seed=0)
    back = scaling.backtest(curves, laws=["ensemble"], draws=300)
    reward = ladder.curves(metric="reward", axis="gpu_hours", by="model")
    rows = {"held-out pass@1 [0 to 1]": ladder.curves(axis="gpu_hours", by="model"), "reward [1]": reward}
    rows["entropy [nat]"] = ladder.curves(metric="entropy", axis="gpu_hours", by="model")
    rows["completion length [token]"] = ladder.curves(metric="completion_length", axis="gpu_hours", by="model")
    scope: dict[str, Any] = locals() | {"plot": plot}
    held_out = 'points=("held-out pass@1 [0 to 1]",)'
    shown = [
        ("Evaluations against compute, with fits", "plot.curves(curves, fits=fits)"),
        ("A metric of every step", "plot.dense_curves(reward)"),
        ("Panels on one axis", f"plot.panels(rows, columns=2, {held_out})"),
        ("Asymptotes with verdicts", "plot.asymptotes(fits, style=style)"),
        ("Forecasts against what happened", "plot.backtest(back.table)"),
        ("Two recipes", "plot.curves(by_recipe, fits=comparison.fits)"),
        ("Recipes at equal compute", 'plot.differences({"sim-0.5B": comparison}, axis="total_flops")'),
    ]
    return [(title, code, eval(code, scope)) for title, code in shown]


def main(out: Path) -> None:
    """Write the gallery as one page."""
    parts = []
    for number, (title, code, figure) in enumerate(figures()):
        drawn = figure.to_html(full_html=False, include_plotlyjs=number == 0)
        parts.append(f"<h2>{html.escape(title)}</h2><pre>{html.escape(code)}</pre>{drawn}")
    out.write_text('<!DOCTYPE html><meta charset="utf-8"><title>Gallery</title>' + "".join(parts), encoding="utf-8")
    print(f"gallery: {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "gallery.html"))
