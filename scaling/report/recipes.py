"""Recipes compared at equal compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from scaling import plot
from scaling.compare import Comparison, Contrast, compare
from scaling.curve import AXES
from scaling.errors import ScalingError
from scaling.report.gather import Analysis
from scaling.report.groups import Group
from scaling.report.page import Figure, Note, Section, Table
from scaling.report.text import flops, number, plural, some

__all__ = ["recipes"]


def recipes(a: Analysis) -> Section | None:
    """Differences at equal compute, speed-up, asymptotes, of the recipes tried on one base."""
    bases: dict[tuple[str, Any], list[Group]] = {}
    for group in a.groups:
        if group.name in a.fitted:
            flops_known = group.pretraining_flops if math.isfinite(group.pretraining_flops) else None
            bases.setdefault((group.model, flops_known), []).append(group)
    several = {key: groups for key, groups in bases.items() if len({g.recipe_hash for g in groups}) > 1}
    if not several:
        return None
    if not a.settings.get("full"):
        lead = f"{plural(len(several), 'base')} had several recipes; they are compared when the report is asked for with --full."
        return Section("recipes", "Recipes at equal compute", lead)
    found: dict[str, Comparison] = {}
    refused: list[str] = []
    for (model, known), groups in several.items():
        title = model if sum(key[0] == model for key in several) == 1 else f"{model}, {flops(known or math.nan)} FLOPs"
        curves = {g.recipe: list(a.curves[a.axis][g.name]) for g in groups}
        options = {"law": a.settings["law"], "draws": a.settings["draws"], "seed": a.settings["seed"]}
        try:
            with np.errstate(over="ignore"):  # compute that is never reached is infinite
                found[title] = compare(curves, factors=("recipe_hash",), **options)
        except ScalingError as error:
            refused.append(f"{title}: not compared: {error}")
    if not found:
        return Section(
            "recipes", "Recipes at equal compute", "The recipes could not be compared.", (Note(tuple(refused)),)
        )
    decided = [
        f"{pair.other if c.median > 0 else pair.baseline} ({title})"
        for title, comparison in found.items()
        for pair in comparison.pairs
        for c in [_at_shared_end(pair)]
        if c is not None and c.status == "ok" and (c.low > 0 or c.high < 0)
    ]
    lead = (
        f"At the largest compute that both recipes reached, the interval decides for {some(decided)}."
        if decided
        else "At the largest compute that both recipes reached, no interval decides for a recipe."
    )
    raw = pd.concat([comparison.table.assign(base=title) for title, comparison in found.items()], ignore_index=True)
    lines = [*refused, *(f"{title}: {flag}" for title, comparison in found.items() for flag in comparison.flags)]
    lines += [
        f"{title}: the recipes differ in {name}: {', '.join(f'{k} {v}' for k, v in values.items())}"
        for title, comparison in found.items()
        for name, values in comparison.factors.items()
        if name != "recipe_hash"  # what the recipes are named by already
    ]
    caption = (
        f"Against {AXES[a.axis][0]}, 90 % intervals. Speed-up: how many times less compute for the same score. Exponents are "
        "compared only where the asymptotes agree, after refitting with a common one. A dash: not a number to quote."
    )
    parts: list[Any] = [
        Figure(
            plot.differences(found, axis=a.axis),
            "Difference in held-out pass@1 at equal compute; hollow where a recipe is extrapolated.",
        ),
        Table(_shown(found), caption, "recipes", raw),
    ]
    return Section("recipes", "Recipes at equal compute", lead, (*parts, *([Note(tuple(lines))] if lines else [])))


def _at_shared_end(pair: Any) -> Contrast | None:
    """The difference at the largest compute that both reached."""
    inside = [c for c in pair.difference if c.status == "ok" and math.isfinite(c.median)]
    return max(inside, key=lambda c: c.compute) if inside else None


def _shown(found: dict[str, Comparison]) -> pd.DataFrame:
    rows = []
    for title, comparison in found.items():
        for pair in comparison.pairs:
            end = _at_shared_end(pair)
            speed = next((s for s, d in zip(pair.speed_up, pair.difference) if d is end), None)
            rows.append(
                {
                    "base": title,
                    "recipe": pair.other,
                    "against": pair.baseline,
                    "at": flops(end.compute) if end else "–",
                    "difference": _signed(end),
                    "speed-up": _plain(speed),
                    "asymptote": _signed(pair.asymptote),
                    "exponent": _signed(pair.exponent),
                    "paired over": pair.paired,
                }
            )
    return pd.DataFrame(rows)


def _signed(c: Contrast | None) -> str:
    if c is None or c.status != "ok" or not math.isfinite(c.median):
        return "–"
    return f"{c.median:+.3f} ({c.low:+.3f} to {c.high:+.3f})".replace("-", "−")


def _plain(c: Contrast | None) -> str:
    if c is None or c.status != "ok" or not math.isfinite(c.median):
        return "–"
    return f"{number(c.median)} ({number(c.low)} to {number(c.high)})"
