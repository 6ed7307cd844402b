"""The tables of `coverage.py`, from the results of its cells."""

from __future__ import annotations

import numpy as np

PARTS = ("intervals", "early", "verdict", "seeds", "items")


def tables(results: dict[str, dict], *, every_cell: bool = True) -> str:
    out: list[str] = []
    by_part = {part: {k: r for k, r in results.items() if k.startswith(part)} for part in PARTS}
    if by_part["intervals"]:
        out += _interval_tables(by_part["intervals"], every_cell)
    if by_part["verdict"]:
        out += _verdict_table(by_part["verdict"])
    for part in ("early", "seeds", "items"):
        if by_part[part]:
            out += _plain_table(part, by_part[part])
    return "\n".join(out)


def _interval_tables(results: dict[str, dict], every_cell: bool) -> list[str]:
    columns = [(f, t) for f in ("sigmoid", "ensemble") for t in ("asymptote", "forecast")]
    rows: dict[tuple[str, str], list] = {c: [] for c in columns}
    lines = [
        "| truth | C_max / C_mid | B | rho | n | spacing | " + " | ".join(f"{f}: {t}" for f, t in columns) + " |",
        "|---" * 10 + "|",
    ]
    for key, r in results.items():
        parts = key.split("|")[1:7]
        cell = []
        for form, target in columns:
            s = r.get(f"{form}:{target}")
            if s is None:
                cell.append("")
                continue
            ratio = s["width"] / max(r[f"profile:{target}"]["width"], 1e-12)
            rows[form, target].append((parts[0], s["cover"], ratio))
            cell.append(f"{s['cover']:.3f}, {s['width']:.3f} (x {ratio:.2f})")
        lines.append("| " + " | ".join([*parts, *cell]) + " |")
    out = ["", "### Intervals: summary over cells", ""]
    out += [
        "| law | target | truth | cells | mean coverage | lowest cell | cells below .84 | median width / profile |",
        "|---" * 8 + "|",
    ]
    for (form, target), got in rows.items():
        for which in ("all but weibull", "sigmoid", "power", "log_linear", "weibull"):
            mine = [g for g in got if which == g[0] or (which.startswith("all") and g[0] != "weibull")]
            if mine:
                cover = np.array([g[1] for g in mine])
                out.append(
                    f"| {form} | {target} | {which} | {len(mine)} | {cover.mean():.3f} | {cover.min():.3f} | "
                    f"{int((cover < 0.84).sum())} | {np.median([g[2] for g in mine]):.2f} |"
                )
    if every_cell:
        out += [
            "",
            "### Intervals: every cell (coverage, median width, width over that of the profile interval knowing rho)",
            "",
            *lines,
        ]
    return out


def _verdict_table(results: dict[str, dict]) -> list[str]:
    out = [
        "",
        "### Verdict",
        "",
        "| group | cells | studies | says yes | lowest cell | highest cell | covers when yes |",
        "|---" * 7 + "|",
    ]
    for group, text in (
        ("no", "data end at or before C_mid"),
        ("yes", "C_max = 5 C_mid, B >= 1.5, rho <= .3"),
        ("mix", "mix of designs"),
    ):
        mine = [r["ensemble:asymptote"] for k, r in results.items() if k.endswith(group)]
        if mine:
            yes, hits = sum(r["yes_count"] for r in mine), sum(r["yes_hits"] for r in mine)
            total = sum(r["n"] for r in mine)
            out.append(
                f"| {text} | {len(mine)} | {total} | {yes / total:.3f} | {min(r['yes'] for r in mine):.3f} | "
                f"{max(r['yes'] for r in mine):.3f} | {hits / yes:.3f} |" if yes else f"| {text} | {len(mine)} | {total} | 0.000 | 0 | 0 | |"
            )  # fmt: skip
    return out


def _plain_table(part: str, results: dict[str, dict]) -> list[str]:
    out = [
        "",
        f"### {part.capitalize()}",
        "",
        "| C_max / C_mid | B | rho | n | design | target | coverage | median width |",
        "|---" * 8 + "|",
    ]
    for key, r in results.items():
        _, _, ratio, b, rho, n, _, extra = key.split("|")
        for name, s in r.items():
            out.append(
                f"| {ratio} | {b} | {rho} | {n} | {extra} | {name.split(':')[1]} | {s['cover']:.3f} | {s['width']:.3f} |"
            )
    return out
