"""A study for print: LaTeX table, macros, methods paragraph, BibTeX, and figures at column width."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling._plot_style import DASHES, Z90, looks
from scaling.curve import AXES, Curve

if TYPE_CHECKING:
    from scaling.fitting import Fit
    from scaling.runs import RunTable

COLUMN_INCHES = 3.25  # one column of a two-column paper
_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "x", "cross": "+"}
_LINES: dict[str, Any] = dict(zip(DASHES, ("-", "--", ":", "-.", (0, (8, 3)), (0, (8, 3, 1, 3)))))

# what a law or a metric is cited by: authors (family name first), title, arXiv id, year
_PAPERS = {
    "khatri2025art": ("Khatri, Devvrit and others", "The Art of Scaling Reinforcement Learning Compute for {LLMs}", "2510.13786", 2025),
    "tan2025scaling": ("Tan, Zelin and others", "Scaling Behaviors of {LLM} Reinforcement Learning Post-Training", "2509.25300", 2025),
    "chen2021evaluating": ("Chen, Mark and others", "Evaluating Large Language Models Trained on Code", "2107.03374", 2021),
}  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {name: metadata.version(name) for name in ("numpy", "scipy", "pandas")}


def slug(name: str) -> str:
    """A name as part of a file name.

    Example:
        >>> slug("Qwen/Qwen2.5 · ../x")
        'Qwen-Qwen2.5-x'
    """
    safe = re.sub(r"[^A-Za-z0-9_.=-]|\.{2,}", "-", name)
    return re.sub(r"-{2,}", "-", safe).strip("-.")[:60] or "group"


def escape(text: str) -> str:
    r"""Text as LaTeX prints it.

    Example:
        >>> print(escape("50 % of a_b & c"))
        50 \% of a\_b \& c
    """
    table = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(table.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def table(record: Mapping[str, Any]) -> str:
    """The table of asymptotes with intervals and verdicts, in booktabs."""
    settings, unit = record["settings"], _unit(record)
    level = f"{settings['level']:.0%}"
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lrrlrr}",
        r"\toprule",
        rf"group & runs & final & asymptote, {escape(level)} & $C_\mathrm{{mid}}$ [{escape(unit)}] & exponent $B$ \\",
        r"\midrule",
    ]
    for name, n in record["numbers"].items():
        final = "--" if n["final"] is None else f"{n['final']:.3f}"
        row = [
            escape(name),
            str(n["runs"]),
            final,
            _asymptote(n),
            _span(n.get("c_mid")),
            _span(n.get("efficiency_exponent")),
        ]
        lines.append(" & ".join(row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def numbers(record: Mapping[str, Any]) -> str:
    r"""Macros: ``\rlscaling{group.key}`` prints a number, and is an error where there is none."""
    lines = [
        r"% \rlscaling{group.key} prints a number of the study; a key that does not exist is an error",
        r"\makeatletter",
        r"\newcommand{\rlscaling}[1]{\ifcsname rls@\detokenize{#1}\endcsname\csname rls@\detokenize{#1}\endcsname"
        r"\else\PackageError{rlscaling}{no number '\detokenize{#1}'}{see numbers.tex}\fi}",
    ]
    for name, values in record["numbers"].items():
        for key, value in values.items():
            shown = _number(value)
            lines.append(rf"\expandafter\def\csname rls@{slug(name)}.{key}\endcsname{{{shown}}}")
    return "\n".join([*lines, r"\makeatother", ""])


def methods(record: Mapping[str, Any], runs: RunTable) -> str:
    """A paragraph that says what was counted, what was fitted to what, and what was left out."""
    s = record["settings"]
    label = AXES[s["axis"]][0]
    confidence = sorted(set(runs.runs["confidence"]))
    parts = [
        f"We fitted {s['metric']} on {s['benchmark'] or 'the held-out benchmark'} against {label} in {len(record['numbers'])} "
        f"groups of {len(record['runs'])} runs; runs that agree in {', '.join(s['factors'])} are seeds of one law.",
        "RL model FLOPs count real tokens, causal attention and the output head on the positions scored, summed over generation, "
        "scoring and training; evaluation is not part of them."
        if "flops" in s["axis"]
        else "GPU-hours are devices times wall time of training, without evaluation, start-up and work redone after restarts.",
        f"The cost of the runs was {' and '.join(confidence)}.",
        f"We used the {s['law']} of rl-scaling {record['versions']['rl-scaling']} with {s['draws']} draws and seed {s['seed']}; "
        f"intervals are {s['level']:.0%}".replace("%", " %")
        + ", and an asymptote is given only where it was identified.",
        f"Evaluations before {s['fit_after']:.3g} {_unit(record)} were not fitted."
        if s["fit_after"]
        else "Every evaluation was fitted; none was left out by a window.",
    ]
    if record["excluded"]:
        told = "; ".join(f"{run} ({reason})" for run, reason in record["excluded"].items())
        n = len(record["excluded"])
        parts.append(f"{n} {'run was' if n == 1 else 'runs were'} excluded: {told}.")
    else:
        parts.append("No run was excluded.")
    return " ".join(parts)


def bibliography(record: Mapping[str, Any]) -> str:
    """BibTeX of what was used."""
    used = ["khatri2025art"]
    if record["settings"]["law"] in ("ensemble", "log_linear"):
        used.append("tan2025scaling")
    if re.fullmatch(r"pass@\d\d*", record["settings"]["metric"]) and record["settings"]["metric"] != "pass@1":
        used.append("chen2021evaluating")
    entries = []
    for key in used:
        authors, title, arxiv, year = _PAPERS[key]
        entries.append(
            f"@misc{{{key},\n  author = {{{authors}}},\n  title = {{{title}}},\n  year = {{{year}}},\n"
            f"  eprint = {{{arxiv}}},\n  archivePrefix = {{arXiv}},\n}}\n"
        )
    version = record["versions"]["rl-scaling"]
    entries.append(  # a type and fields that plain BibTeX knows
        f"@misc{{rlscaling,\n  author = {{{{The rl-scaling authors}}}},\n  title = {{rl-scaling}},\n"
        f"  note = {{Version {version}}},\n}}\n"
    )
    return "\n".join(entries)


def figures(
    curves: Mapping[str, list[Curve]], fits: Mapping[str, Fit], folder: Path, *, level: float = 0.9
) -> list[Path]:
    """The figures: interactive HTML always, PDF and SVG with embedded fonts where matplotlib is installed."""
    from scaling import plot

    folder.mkdir(parents=True, exist_ok=True)
    interactive = folder / "curves.html"
    plot.curves(curves, fits=fits, level=level).write_html(interactive, include_plotlyjs=True, full_html=True)
    written = [interactive]
    if util.find_spec("matplotlib") is None:
        note = folder / "README.txt"
        note.write_text("PDF and SVG figures need matplotlib: pip install 'rl-scaling[print]'\n", encoding="utf-8")
        return [*written, note]
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    settings: Any = {"pdf.fonttype": 42, "svg.fonttype": "path", "font.size": 8, "svg.hashsalt": "rl-scaling"}
    with matplotlib.rc_context(settings):
        for name, drawn in (("curves", _curves(curves, fits, level)), ("asymptotes", _asymptotes(curves, fits, level))):
            for ending in ("pdf", "svg"):
                target = folder / f"{name}.{ending}"
                stamp: dict[str, Any] = {"CreationDate": None} if ending == "pdf" else {"Date": None}
                drawn.savefig(target, bbox_inches="tight", metadata=stamp)
                written.append(target)
    return written


def _curves(curves: Mapping[str, list[Curve]], fits: Mapping[str, Fit], level: float) -> Any:
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    figure = Figure(figsize=(COLUMN_INCHES, 2.4))
    axes = figure.subplots()
    style = looks(curves)
    seen = np.concatenate([c.compute for members in curves.values() for c in members])
    least = seen[seen > 0].min() / 3
    first = next(c for members in curves.values() for c in members)
    for name, members in curves.items():
        look, found = style[name], fits[name]
        x = np.concatenate([c.compute for c in members])
        y = np.concatenate([c.performance for c in members])
        e = np.concatenate([c.stderr if c.stderr is not None else np.full(len(c), np.nan) for c in members])
        fitted = (x >= found.window[0]) & (x <= found.window[1])
        for part, face in ((fitted, look.colour), (~fitted, "none")):  # what was not fitted is hollow
            axes.errorbar(
                np.where(x > 0, x, least)[part], y[part], yerr=Z90 * e[part], fmt=_MARKERS[look.symbol], ms=2.5, lw=0,
                elinewidth=0.5, mew=0.5, color=look.colour, markerfacecolor=face,
                label=name.replace("$", r"\$") if face != "none" else None,
            )  # fmt: skip
        grid = np.geomspace(x[x > 0].min(), x.max() * 4, 200)  # some laws diverge towards zero compute
        band = found.forecast(grid, level=level)
        if not np.isfinite(band.low).all():
            continue
        axes.fill_between(grid, band.low, band.high, color=look.colour, alpha=0.15, lw=0)
        inside = (grid >= found.window[0]) & (grid <= found.window[1])
        axes.plot(grid[inside], band.median[inside], ls=_LINES[look.dash], lw=1, color=look.colour)
        axes.plot(grid[grid > found.window[1]], band.median[grid > found.window[1]], ls=":", lw=0.8, color=look.colour)
    axes.set_xscale("log")
    axes.set_xlabel(first.axis_label())
    axes.set_ylabel(first.metric)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return figure


def _asymptotes(curves: Mapping[str, list[Curve]], fits: Mapping[str, Fit], level: float) -> Any:
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    figure = Figure(figsize=(COLUMN_INCHES, 0.6 + 0.28 * len(fits)))
    axes = figure.subplots()
    style = looks(curves)
    for row, (name, found) in enumerate(fits.items()):
        colour = style[name].colour
        low, high = found.interval("asymptote", level)
        if found.identified:
            axes.plot([low, high], [row, row], color=colour, lw=1.5)
            axes.plot(found.interval("asymptote", 0.5), [row, row], color=colour, lw=4, solid_capstyle="butt")
        elif math.isfinite(low):
            axes.annotate(
                "",
                xy=(1.0, row),
                xytext=(max(low, 0), row),
                arrowprops={"arrowstyle": "->", "color": colour, "ls": ":"},
            )
            axes.text(max(low, 0), row - 0.25, "not identified", fontsize=6)
    axes.set_yticks(range(len(fits)), [name.replace("$", r"\$") for name in fits])
    axes.set_ylim(len(fits) - 0.5, -0.7)
    axes.set_xlim(right=1.0)
    axes.set_xlabel("asymptote of pass@1")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _unit(record: Mapping[str, Any]) -> str:
    return AXES[record["settings"]["axis"]][1]


def _asymptote(n: Mapping[str, Any]) -> str:
    if n["identified"]:
        return f"{n['asymptote'][0]:.3f}--{n['asymptote'][1]:.3f}"
    if n.get("asymptote_at_least") is not None:
        return f"not identified ($\\geq {max(n['asymptote_at_least'], 0):.3f}$)"
    return escape(n["verdict"])


def _span(value: Any) -> str:
    return "--" if not value or None in value else f"{_number(value[0])}--{_number(value[1])}"


def _number(value: Any) -> str:
    if isinstance(value, list) and len(value) == 3:  # low, median, high
        return f"{_number(value[1])} ({_number(value[0])} to {_number(value[2])})"
    if isinstance(value, list):
        return " to ".join(_number(v) for v in value)
    if value is None:
        return "unknown"
    if isinstance(value, bool) or not isinstance(value, float):
        return escape(str(value))
    if value and not 1e-3 <= abs(value) < 1e5:
        exponent = math.floor(math.log10(abs(value)))
        return rf"\ensuremath{{{value / 10.0**exponent:.2f}\times10^{{{exponent}}}}}"
    return f"{value:.3g}"
