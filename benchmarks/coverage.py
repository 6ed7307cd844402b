"""Coverage of nominal 90 % intervals on simulated studies.

    python benchmarks/coverage.py --studies 400 --workers 16 --out coverage.json
    python benchmarks/coverage.py --table coverage.json          # print the tables again

Each cell (truth, C_max / C_mid, B, lag-1 noise, evaluations, spacing) simulates studies of one run, fits them by
``law="sigmoid"`` and by the default, and scores the asymptote (saturating truths) and the forecast at 4 x C_max. Finished cells
are kept in ``--out`` and skipped when the command is given again.
"""

from __future__ import annotations

import os

for _key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_key, "1")

import argparse
import json
import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from scaling import Curve, fit
from scaling.fitting.data import prepare
from scaling.fitting.profile import profile_interval
from scaling.laws import LAWS, LogLinear, Power, Sigmoid

C_MID, ASYMPTOTE, R_0, NOISE = 1000.0, 0.61, 0.25, 0.006


@dataclass(frozen=True)
class Cell:
    truth: str
    ratio: float
    b: float
    rho: float
    n: int
    spacing: str = "linear"

    @property
    def key(self) -> str:
        return f"{self.truth}|{self.ratio:g}|{self.b:g}|{self.rho:g}|{self.n}|{self.spacing}"


def truth(cell: Cell):
    if cell.truth == "sigmoid":
        return Sigmoid(asymptote=ASYMPTOTE, efficiency_exponent=cell.b, c_mid=C_MID, r_0=R_0)
    if cell.truth == "power":
        return Power(asymptote=ASYMPTOTE, efficiency_exponent=cell.b, scale=(ASYMPTOTE - R_0) * C_MID**cell.b)
    # error falls by a power; R = 0.25 at a tenth of C_mid; b / 10 is the exponent
    k = cell.b / 10
    return LogLinear(log_error=float(np.log(1 - R_0) + k * np.log(C_MID / 10)), exponent=k)


def compute_of(cell: Cell) -> np.ndarray:
    last = cell.ratio * C_MID
    first = last / cell.n if cell.spacing == "linear" else last / 50
    if cell.truth == "power":
        first = max(first, C_MID)  # below, the power law is under R_0
    elif cell.truth == "log_linear":
        first = max(first, C_MID / 10)
    return np.linspace(first, last, cell.n) if cell.spacing == "linear" else np.geomspace(first, last, cell.n)


def ar1(rng: np.random.Generator, n: int, rho: float, sd: float) -> np.ndarray:
    from scipy.signal import lfilter

    e = rng.normal(size=n) * np.sqrt(1 - rho**2)
    e[0] /= np.sqrt(1 - rho**2)
    return sd * lfilter([1.0], [1.0, -rho], e)


def cells(which: str) -> list[Cell]:
    out = []
    rhos = (0.0, 0.3, 0.6, 0.9)
    if which == "quick":
        for ratio, b in ((3, 0.7), (3, 2.0), (6, 1.0), (20, 0.7), (20, 2.0)):
            for rho in (0.0, 0.6, 0.9):
                out.append(Cell("sigmoid", ratio, b, rho, 40 if rho != 0.6 else 100))
        for ratio, b in ((3, 0.7), (8, 1.3), (20, 2.0)):
            for rho in (0.0, 0.9):
                out.append(Cell("power", ratio, b, rho, 40 if rho else 100, "geometric"))
        for ratio, b in ((3, 0.7), (20, 2.0)):
            for rho in (0.0, 0.9):
                out.append(Cell("log_linear", ratio, b, rho, 40 if rho else 100, "linear"))
        return out
    for ratio in (3, 7, 20):
        for b in (0.7, 1.2, 2.0):
            for i, rho in enumerate(rhos):
                for j, n in enumerate((40, 100)):
                    out.append(Cell("sigmoid", ratio, b, rho, n, "linear" if (i + j) % 2 else "geometric"))
    for ratio in (3, 7, 20):
        for b in (0.7, 1.2, 2.0):
            for i, rho in enumerate(rhos):
                out.append(Cell("power", ratio, b, rho, (40, 100)[(i + int(ratio)) % 2], "linear" if i % 2 else "geometric"))
    for ratio in (3, 20):
        for b in (0.7, 2.0):
            for i, rho in enumerate(rhos):
                out.append(Cell("log_linear", ratio, b, rho, (40, 100)[i % 2], "geometric" if i % 2 else "linear"))
    return out


def study(cell: Cell, index: int, draws: int, forms: tuple[str, ...], options: dict) -> dict[str, list[float]]:
    """One study: for each form and target (low, high), and the width of the profile interval that knows rho."""
    rng = np.random.default_rng([index, *np.frombuffer(cell.key.encode(), dtype=np.uint8)])
    law, c = truth(cell), compute_of(cell)
    y = np.clip(law(c) + ar1(rng, cell.n, cell.rho, NOISE), 0.0, 1.0)
    curve = Curve(compute=c, performance=y)
    out: dict[str, list[float]] = {}
    target = 4 * c[-1]
    for form in forms:
        f = fit(curve, law=form, draws=draws, seed=index, **options)
        if cell.truth != "log_linear":
            out[f"{form}:asymptote"] = [*f.interval("asymptote"), ASYMPTOTE, float(f.identified)]
        band = f.forecast([target])
        out[f"{form}:forecast"] = [float(band.low[0]), float(band.high[0]), float(law(target)), float(f.identified)]
    series = prepare(curve).positive[0]
    own = LAWS[cell.truth]
    if cell.truth != "log_linear":
        out["profile:asymptote"] = [*profile_interval(own, series, rho=cell.rho), ASYMPTOTE, 1.0]
    out["profile:forecast"] = [*profile_interval(own, series, at=target, rho=cell.rho), float(law(target)), 1.0]
    return out


def _work(job):
    cell, indices, draws, forms, options = job
    return cell.key, [study(cell, i, draws, forms, options) for i in indices]


def reduce_cell(studies: list[dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    out = {}
    for key in studies[0]:
        a = np.array([s[key] for s in studies])
        hit = (a[:, 0] <= a[:, 2]) & (a[:, 2] <= a[:, 1])
        yes = a[:, 3] > 0
        out[key] = {
            "cover": float(hit.mean()),
            "below": float((a[:, 1] < a[:, 2]).mean()),
            "above": float((a[:, 0] > a[:, 2]).mean()),
            "width": float(np.median(a[:, 1] - a[:, 0])),
            "yes": float(yes.mean()),
            "yes_hits": int((hit & yes).sum()),
            "yes_count": int(yes.sum()),
            "n": len(a),
        }
    return out


def table(results: dict[str, dict], verbose: bool = True) -> str:
    lines = []
    forms = sorted({k.split(":")[0] for r in results.values() for k in r} - {"profile"}, reverse=True)
    targets = ("asymptote", "forecast")
    head = "| truth | C_max/C_mid | B | rho | n | spacing | " + " | ".join(f"{f} {t}" for f in forms for t in targets) + " |"
    lines += [head, "|" + "---|" * (6 + len(forms) * 2)]
    sums: dict[tuple, list] = {}
    for key, r in results.items():
        parts = key.split("|")
        row = []
        for f in forms:
            for t in targets:
                cell = r.get(f"{f}:{t}")
                if cell is None:
                    row.append("-")
                    continue
                ratio = cell["width"] / max(r[f"profile:{t}"]["width"], 1e-12)
                sums.setdefault((f, t), []).append((parts[0], cell["cover"], ratio, r[f"profile:{t}"]["cover"]))
                row.append(f"{cell['cover']:.3f} ({cell['below']:.2f}/{cell['above']:.2f}) w {cell['width']:.3f} x{ratio:.2f}")
        lines.append("| " + " | ".join([*parts, *row]) + " |")
    out = lines if verbose else []
    out += ["", "| law | target | truth | cells | mean coverage | lowest cell | median width / profile | profile knowing rho covers |", "|" + "---|" * 8]
    for (f, t), rows in sums.items():
        for which in ("all", "sigmoid", "power", "log_linear"):
            mine = [r for r in rows if which in ("all", r[0])]
            if not mine:
                continue
            cover = [r[1] for r in mine]
            out.append(
                f"| {f} | {t} | {which} | {len(mine)} | {np.mean(cover):.3f} | {min(cover):.3f} | "
                f"{np.median([r[2] for r in mine]):.2f} | {np.mean([r[3] for r in mine]):.3f} |"
            )
    return "\n".join(out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cells", default="full", help="full or quick")
    parser.add_argument("--only", default="", help="only cells whose key contains this")
    parser.add_argument("--forms", default="sigmoid,ensemble")
    parser.add_argument("--options", default="{}", help="JSON of further options of fit")
    parser.add_argument("--out", default="", help="file of results; cells already in it are skipped")
    parser.add_argument("--table", default="", help="print the tables of a file of results and stop")
    args = parser.parse_args(argv)
    if args.table:
        print(table(json.loads(Path(args.table).read_text())["cells"]))
        return
    out = Path(args.out) if args.out else None
    results: dict[str, dict] = json.loads(out.read_text())["cells"] if out and out.exists() else {}
    todo = [c for c in cells(args.cells) if args.only in c.key and c.key not in results]
    forms, options = tuple(args.forms.split(",")), json.loads(args.options)
    chunk = 25
    jobs = [
        (c, range(a, min(a + chunk, args.studies)), args.draws, forms, options) for c in todo for a in range(0, args.studies, chunk)
    ]
    parts: dict[str, list] = {}
    start = time.time()
    pool = multiprocessing.Pool(args.workers) if args.workers > 1 else None
    for key, got in (pool.imap(_work, jobs) if pool else map(_work, jobs)):
        parts.setdefault(key, []).extend(got)
        if len(parts[key]) == args.studies:
            results[key] = reduce_cell(parts.pop(key))
            if out:
                temporary = out.with_suffix(".tmp")
                temporary.write_text(json.dumps({"studies": args.studies, "draws": args.draws, "command": " ".join(sys.argv), "cells": results}))
                os.replace(temporary, out)
            print(f"[{time.time() - start:6.0f} s] {len(results)} cells, {key}", file=sys.stderr, flush=True)
    print(table(results))
    _ = asdict


if __name__ == "__main__":
    main()
