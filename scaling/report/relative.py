"""RL relative to pretraining: the user's runs, and where they stand among published ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from scaling import ledger_table, plot
from scaling.errors import ScalingError
from scaling.ratio import FlopRatio
from scaling.report.gather import Analysis
from scaling.report.page import Figure, Section, Table, Text
from scaling.report.tables import base_scores, last_scores
from scaling.report.text import flops, percent, plural, score

__all__ = ["against_pretraining", "on_the_ledger"]


def against_pretraining(a: Analysis) -> Section | None:
    """Score of base and trained model against the pretraining FLOPs of the base."""
    rows = []
    for group in a.groups:
        if not math.isfinite(group.pretraining_flops):
            continue
        evals: Any = a.table.evals[
            a.table.evals["run_id"].isin(group.run_ids) & (a.table.evals["benchmark"] == a.benchmark)
        ]
        base, best, _ = base_scores(evals)
        last = last_scores(evals, a.decoding)
        if not last.size or not math.isfinite(base):
            continue
        rows.append(
            {
                "group": group.name,
                "pretraining_flops": group.pretraining_flops,
                "params": group.params,
                "base": base,
                "base_stderr": _stderr(evals[evals["step"] == 0], a.decoding),
                "best_decoding": best,
                "final": float(last.mean()),
                "final_stderr": _stderr(
                    evals[evals["step"] == evals.groupby("run_id")["step"].transform("max")], a.decoding
                ),
                "gain_over_best_decoding": float(last.mean()) - best,
                "rl_flops": float(a.table.runs.loc[a.table.runs["run_id"].isin(group.run_ids), "total_flops"].max()),
            }
        )
    if len(rows) < 2:
        return None
    frame: Any = pd.DataFrame(rows)
    gained = int((frame["gain_over_best_decoding"] > 1.645 * frame["final_stderr"]).sum())
    lead = (
        f"RL ends above the best decoding of its own base, beyond 90 % sampling error, in {gained} of "
        f"{plural(len(frame), 'group')}; "
        "a gain over plain sampling alone may only be better decoding."
    )
    shown = pd.DataFrame(
        {
            "size and recipe": frame["group"],
            "pretraining FLOPs": frame["pretraining_flops"].map(flops),
            "RL FLOPs, longest run": frame["rl_flops"].map(flops),
            "share": [percent(r / p) for r, p in zip(frame["rl_flops"], frame["pretraining_flops"])],
            "base, sampled": frame["base"].map(score),
            "base, best decoding": frame["best_decoding"].map(score),
            "after RL": frame["final"].map(score),
            "gain over best decoding": frame["gain_over_best_decoding"].map(score),
        }
    )
    parts: list[Figure | Table] = [
        Figure(
            plot.against_pretraining(frame, style=a.style),
            "Held-out pass@1 of base and trained model against pretraining FLOPs, with "
            "90 % sampling error. Sizes differ in parameters and in tokens, so this is no law of pretraining.",
        ),
        Table(
            shown, "Scores are at the end of training, at whatever RL compute each group reached.", "pretraining", frame
        ),
    ]
    return Section("pretraining", "Against pretraining compute", lead, (*parts, Text(tuple(_exchange(a)))))


def _exchange(a: Analysis) -> list[str]:
    """Headline quantities, the best split and the worth of RL, or why there are none."""
    from scaling.pretraining import best_split, fit_surface, headline, study_runs, worth

    try:
        runs = study_runs(a.table, benchmark=a.benchmark)
        lines = headline(runs).summary().splitlines()
    except ScalingError as error:
        return [f"Exchange rate, best split and worth of RL: not given, {error}."]
    try:
        with np.errstate(over="ignore"):  # a trial of the search may be infinitely bad
            surface = fit_surface(runs, held_out=False)
        spent = max(runs, key=lambda run: run.pretraining_flops)
        rl = float(spent.curve.compute.max())
        told = worth(surface, params=spent.params, tokens=spent.tokens, rl_flops=rl).summary().splitlines()
        split = best_split(surface, spent.pretraining_flops + rl).summary().splitlines()
    except ScalingError as error:
        return [*lines, f"Best split and worth of RL: not given, {error}."]
    return [*lines, *told, *split]


def on_the_ledger(a: Analysis) -> Section | None:
    """The user's runs beside published RL runs, by FLOPs."""
    own, known = _points(ledger_table.yours(a.table)), _points(ledger_table.published())
    if not own:
        return None
    mine, published = ([p["rl_flops"] / p["base_flops"] for p in points] for points in (own, known))
    spread = percent(min(mine))
    if max(mine) > 1.001 * min(mine):
        spread += f" to {percent(max(mine))}"
    lead = (
        f"The RL of these runs took {spread} of the FLOPs of their pretraining; of the {len(known)} published runs "
        f"whose FLOPs can be counted, {percent(min(published))} to {percent(max(published))}."
    )
    table = pd.DataFrame([p["line"].cells() for p in known], columns=list(ledger_table.COLUMNS))
    raw = pd.DataFrame(
        [
            {"whose": w, **_flat(p["line"].record())}
            for w, points in (("published", known), ("these runs", own))
            for p in points
        ]
    )
    caption = (
        "Published runs: ~ derived by us, ' read in a third-party text, ? not verified, * the base is not one "
        "pretraining. GPU-hour "
        "ratios and FLOP ratios are different quantities; neither is computed from the other."
    )
    return Section(
        "ledger",
        "On the reference ledger",
        lead,
        (
            Figure(
                plot.ledger(known, [p for p in own if p["rl_flops"] > 0]),
                "RL FLOPs against pretraining FLOPs; dotted lines are equal shares.",
            ),
            Table(table, caption, "ledger", raw),
        ),
    )


def _points(lines: list[ledger_table.LedgerLine]) -> list[dict[str, Any]]:
    """The lines whose two sides are known in FLOPs, as points of the figure."""
    return [
        {
            "run": line.name,
            "rl_flops": line.flops.rl,
            "base_flops": line.flops.pretraining,
            "trust": "; ".join(line.notes[:1]),
            "line": line,
        }
        for line in lines
        if isinstance(line.flops, FlopRatio)
    ]


def _stderr(evals: Any, decoding: str) -> float:
    """Standard error of the mean over runs, from sampling within each."""
    part = evals[evals["decoding"] == decoding]["stderr"].to_numpy(float)
    return float(np.sqrt(np.nansum(part**2)) / part.size) if part.size else math.nan


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    return {
        k: ("; ".join(map(str, v)) if isinstance(v, (list, tuple)) else v) for k, v in record.items() if k != "trust"
    }
