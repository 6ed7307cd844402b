"""The Markdown page of `choices.py`: a table of coverage for every choice, with paired differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from _choices_designs import CUTS, DESIGNS, PROFILE, SUMS, WINDOWS, Design, Sums, Window
from _choices_settings import PRESENT, SETTINGS, Setting, reference
from _choices_store import Results, Scores
from coverage import PROFILES, Cell

Found = dict[Design, dict[str, Scores]]
Which = Callable[[Design], bool]

TITLES = {
    "odds": "Prior odds of the laws (Weibull, power, log-linear; to a sigmoid's 1)",
    "lambda": "LAMBDA: the price of a parameter",
    "onset": "Odds of the onset",
    "noise": "The density of the noise's autocorrelation, (1 - rho)^power",
    "drift": "Probability of a drift about the law",
}
_LAWS = ("sigmoid", "power", "log_linear")


def page(results: Results, tables: list[str], *, only: str = "") -> str:
    parts = ["# How the constants of the default mixture were chosen\n", _head(results)]
    for table in tables:
        chosen = [d for d in DESIGNS[table] if only in d.key]
        got, counts = _collect(results, table, chosen)
        if not counts:
            parts.append(f"## {TITLES[table]}\n\nNo design has been done in every setting.\n")
            continue
        parts.append(f"## {TITLES[table]}\n\n{_reached(chosen, counts)}\n")
        if table == "onset":
            parts.append(_windows(got, table))
        parts.append(_intervals(results, got, table))
        parts += [_others(got, table)] if table in ("odds", "noise", "drift") else []
        parts.append(_sums(got, table))
    return "\n".join(part for part in parts if part)


def _head(results: Results) -> str:
    sessions = results.sessions
    lines = [
        "Nominal 90 % intervals of `scaling.fit(curve)` under other constants, on simulated studies: the designs of",
        "[coverage.md](coverage.md), windows that end before C_mid, and curves of no law here. All rows of a table are fits of the same",
        "curves. Bold is what the library has (of LAMBDA also in the mixture in which it was chosen); a difference is that to the bold row,",
        "of all designs together but the Weibull's, ± one standard error, paired by curve. One design's coverage has a standard error of .03",
        "at 100 studies, so the lowest of a hundred designs that all cover .93 is about .86 by chance: compare it between rows only.",
        "",
    ]
    for command in dict.fromkeys(s["command"] for s in sessions):
        lines.append(f"    {command}")
    commits, dates = (sorted({s[k] for s in sessions}) for k in ("commit", "date"))
    lines.append(
        f"\nCommit {', '.join(commits)}; {', '.join(dates)}; {', '.join(sorted({str(s['draws']) for s in sessions}))} draws a fit; "
        f"{results.cpu / 3600:.2f} CPU hours.\n"
    )
    return "\n".join(lines)


def _collect(results: Results, table: str, designs: list[Design]) -> tuple[dict[str, Found], dict[Design, int]]:
    """Label -> design -> target -> studies that every setting of the table has."""
    settings = SETTINGS[table]
    counts = {d: min(results.done(s.key, d.key) for s in settings.values()) for d in designs}
    counts = {d: n for d, n in counts.items() if n}
    got = {label: {d: results.get(s.key, d.key, n) for d, n in counts.items()} for label, s in settings.items()}
    return got, counts


def _reached(chosen: list[Design], counts: dict[Design, int]) -> str:
    texts = []
    for name, sums in (("designs", False), ("draws of curves of no law", True)):
        n = [count for d, count in counts.items() if isinstance(d, Sums) is sums]
        of = sum(isinstance(d, Sums) is sums for d in chosen)
        if of:
            span = f"{min(n)} to {max(n)}" if n and min(n) < max(n) else f"{n[0]}" if n else "0"
            texts.append(f"{len(n)} of {of} {name}, {span} {'curves' if sums else 'studies'} each")
    return "Reached: " + "; ".join(texts) + "."


def _intervals(results: Results, got: dict[str, Found], table: str) -> str:
    """Mean and lowest coverage by truth, for the forecast and the asymptote."""
    found = next(iter(got.values()))
    truths = [t for t in (*_LAWS, "weibull") if any(_truth(d) == t for d in found)]
    out = []
    for target, name in (("forecast", "Forecast at 4 x C_max"), ("asymptote", "Asymptote")):
        mine = [t for t in truths if target == "forecast" or t != "log_linear"]
        if not mine:
            continue
        several = any(t in _LAWS for t in mine)
        counts = {t: sum(_truth(d) == t for d in found) for t in mine}
        head = ["setting", *(f"{t} curves ({counts[t]})" for t in mine)]
        if several:
            head += ["all but weibull", "difference", "at rho .9", "width / profile's"]
        rows = []
        for label, setting in SETTINGS[table].items():
            cells = [_mean_low(got[label], target, lambda d, t=t: _truth(d) == t) for t in mine]
            if several:
                laws: Which = lambda d: _truth(d) in _LAWS  # noqa: E731
                base = got[reference(table, setting)]
                cells += [
                    _mean_low(got[label], target, laws),
                    _difference(got[label], base, target, laws),
                    _mean_low(
                        got[label], target, lambda d: _truth(d) in _LAWS and isinstance(d, Cell) and d.rho == 0.9
                    ),
                    _relative_width(results, got[label], target),
                ]
            elif "weibull" in mine:
                cells.append(
                    _difference(got[label], got[reference(table, setting)], target, lambda d: _truth(d) == "weibull")
                )
            rows.append((setting, label, cells))
        if not several:
            head.append("difference")
        out.append(
            f"{name}: coverage, mean and lowest design (number of designs in brackets).\n\n{_table(table, head, rows)}"
        )
    return "\n".join(out)


def _windows(got: dict[str, Found], table: str) -> str:
    """The early windows, a column each."""
    there = [w for w in WINDOWS if w in next(iter(got.values()))]
    if not there:
        return ""
    columns = (f"B {w.cell.b:g}, rho {w.cell.rho:g}, {w.cell.n} evaluations, sd {w.noise:g}" for w in there)
    head = ["setting", *columns, "forecast: difference", "asymptote: difference"]
    rows = []
    for label, setting in SETTINGS[table].items():
        base = got[reference(table, setting)]
        cells = [", ".join(_number(got[label][w][t].hit.mean()) for t in ("forecast", "asymptote")) for w in there]
        cells += [_difference(got[label], base, t, _is_window) for t in ("forecast", "asymptote")]
        rows.append((setting, label, cells))
    text = "Windows that end at C_mid / 2, sigmoid truths: coverage of the forecast at 4 x C_max, of the asymptote."
    return f"{text}\n\n{_table(table, head, rows)}"


def _others(got: dict[str, Found], table: str) -> str:
    """The other parts of coverage.py."""
    columns: list[tuple[str, str, Which]] = [
        ("before C_mid: asymptote", "asymptote", _part("early")),
        ("before C_mid: forecast at 2 x", "forecast at 2 x", _part("early")),
        ("before C_mid: forecast at 4 x", "forecast at 4 x", _part("early")),
        ("three seeds: asymptote", "asymptote", _part("seeds")),
        ("benchmark band", "benchmark", _part("items")),
        ("verdict designs: asymptote", "asymptote", _part("verdict")),
    ]
    found = next(iter(got.values()))
    columns = [c for c in columns if any(c[2](d) for d in found)]
    groups = (("no", "says yes at or before C_mid"), ("yes", "says yes at 5 C_mid"), ("mix", "covers when yes"))
    verdicts = [(g, text) for g, text in groups if any(_part("verdict")(d) and _extra(d) == g for d in found)]
    if not columns and not verdicts:
        return ""
    rows = []
    for label, setting in SETTINGS[table].items():
        cells = [_mean_low(got[label], target, which) for _, target, which in columns]
        for group, _ in verdicts:
            mine = [s["asymptote"] for d, s in got[label].items() if _part("verdict")(d) and _extra(d) == group]
            yes, hit = np.concatenate([s.extra > 0 for s in mine]), np.concatenate([s.hit for s in mine])
            cells.append(
                _number(hit[yes].mean() if group == "mix" and yes.any() else np.nan if group == "mix" else yes.mean())
            )
        rows.append((setting, label, cells))
    head = ["setting", *(c[0] for c in columns), *(text for _, text in verdicts)]
    return f"The other parts of coverage.py: coverage, mean and lowest design.\n\n{_table(table, head, rows)}"


def _sums(got: dict[str, Found], table: str) -> str:
    out = []
    for design in SUMS:
        if design not in next(iter(got.values())):
            continue
        head = ["setting"]
        for cut in CUTS:
            head += [f"from {100 * cut:g} %: coverage", "difference", "RMSE", "mean width"]
        rows = []
        for label, setting in SETTINGS[table].items():
            base, cells = got[reference(table, setting)], []
            for cut in CUTS:
                target = f"from {100 * cut:g} %"
                s = got[label][design][target]
                rmse = _number(np.sqrt((s.extra**2).mean()), 4)
                difference = _difference(got[label], base, target, lambda d, design=design: d == design)
                cells += [_number(s.hit.mean()), difference, rmse, _number(s.width.mean())]
            rows.append((setting, label, cells))
        count = got[next(iter(got))][design][f"from {100 * CUTS[0]:g} %"].hit.size
        text = f"Curves of no law: sums of two or three {design.kind}, seed {design.seed}, {count} curves; forecasts of the window's end."
        out.append(f"{text}\n\n{_table(table, head, rows)}")
    return "\n".join(out)


def _table(table: str, head: list[str], rows: list[tuple[Setting, str, list[str]]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for setting, label, cells in rows:
        bold = setting == PRESENT or reference(table, setting) == label
        lines.append("| " + " | ".join(f"**{c}**" if bold and c else c for c in (label, *cells)) + " |")
    return "\n".join(lines) + "\n"


def _mean_low(found: Found, target: str, which: Which) -> str:
    cover = [s[target].hit.mean() for d, s in found.items() if which(d) and target in s]
    return f"{_number(np.mean(cover))}, {_number(min(cover))}" if cover else ""


def _difference(found: Found, base: Found, target: str, which: Which) -> str:
    """Mean difference of coverage to the base row, with the standard error over studies within designs."""
    pairs = [s[target].hit.astype(float) - base[d][target].hit for d, s in found.items() if which(d) and target in s]
    if found is base or not pairs:
        return ""
    mean = np.mean([p.mean() for p in pairs])
    error = np.sqrt(sum(p.var(ddof=1) / p.size for p in pairs if p.size > 1)) / len(pairs)
    return f"{_number(mean, signed=True)} ± {_number(error, 4 if 0 < error < 0.001 else 3)}"


def _relative_width(results: Results, found: Found, target: str) -> str:
    """Median over designs of the median width over that of the profile interval that knows rho."""
    ratios = []
    for design, scores in found.items():
        known = results.get(PROFILE, design.key, PROFILES)
        if _truth(design) in _LAWS and target in scores and target in known:
            ratios.append(np.median(scores[target].width) / max(float(np.median(known[target].width)), 1e-12))
    return f"{np.median(ratios):.2f}" if ratios else ""


def _truth(design: Design) -> str:
    return design.truth if isinstance(design, Cell) and design.part == "intervals" else ""


def _extra(design: Design) -> str:
    return design.extra if isinstance(design, Cell) else ""


def _part(part: str) -> Which:
    return lambda design: isinstance(design, Cell) and design.part == part


def _is_window(design: Design) -> bool:
    return isinstance(design, Window)


def _number(value: float | np.floating, digits: int = 3, *, signed: bool = False) -> str:
    """As in the other pages: no zero before the point; nothing where there is no value."""
    if not np.isfinite(value):
        return ""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and "0." in text[:3] else text
