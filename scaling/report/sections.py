"""The order of a report, and its summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from scaling.curve import AXES
from scaling.report.agreement import agreement
from scaling.report.costs import costs
from scaling.report.fits import accuracy, asymptotes, back_test, forecasts
from scaling.report.gather import Analysis
from scaling.report.page import Section, Table
from scaling.report.provenance import provenance, unknown
from scaling.report.recipes import recipes
from scaling.report.relative import against_pretraining, on_the_ledger
from scaling.report.tables import asymptote_text, summary_frame
from scaling.report.text import count, number, percent, plural, score
from scaling.report.training import health, more_samples

Made = dict[Callable[..., Section | None], Section | None]

__all__ = ["all_sections", "unfitted_sections"]


def all_sections(a: Analysis, *, command: str = "", made: Made | None = None) -> list[Section]:
    """Every section that the runs allow, in order; those ``made`` already are taken as they are."""
    made = made or unfitted_sections(a, command=command)
    order = (
        summary, accuracy, asymptotes, forecasts, back_test, recipes, costs, agreement, health, more_samples,
        against_pretraining, on_the_ledger, unknown, provenance,
    )  # fmt: skip
    found = [made[section] if section in made else section(a) for section in order]
    return [section for section in found if section is not None]


def unfitted_sections(a: Analysis, *, command: str = "") -> Made:
    """The sections that no fit enters, by the function that makes them: they can be made while fits are."""
    makers = (costs, agreement, health, more_samples, against_pretraining, on_the_ledger)
    return {make: make(a) for make in makers} | {provenance: provenance(a, command=command)}


def summary(a: Analysis) -> Section:
    """The table: base, final, asymptote with verdict, cost."""
    frame: Any = summary_frame(a)
    known = int((frame["verdict"] == "identified").sum())
    runs = a.table.runs
    lead = (
        f"{plural(len(runs), 'run')} in {plural(len(a.groups), 'group')} of size and recipe; the asymptote is "
        f"identified in {known}; "
        f"{number(frame['gpu_hours_paid'].sum())} GPU-hours paid."
    )
    shown = pd.DataFrame(
        {
            "size and recipe": frame["group"],
            "parameters": frame["params"].map(count),
            "runs": frame["runs"],
            "base, sampled": frame["base_sampled"].map(score),
            "base, best decoding": [
                f"{score(v)} ({w})" if w else "–" for v, w in zip(frame["base_best_decoding"], frame["best_decoding"])
            ],
            "final": frame["final"].map(score),
            "asymptote, 90 %": [asymptote_text(r) for r in frame.to_dict("records")],
            "RL / pretraining FLOPs": frame["rl_flops_share"].map(percent),
            "GPU-hours": frame["gpu_hours"].map(number),
        }
    )
    caption = (
        f"Accuracy is pass@1 on {a.benchmark or 'no benchmark'}. Asymptotes are fitted against {AXES[a.axis][0]} "
        f"({a.settings['law']}, {a.settings['draws']} draws). GPU-hours are those fitted: without evaluation, "
        "start-up and redone work."
    )
    return Section("summary", "Summary", lead, (Table(shown, caption, "summary", frame),))
