"""Coverage of nominal 90 % intervals, and rates of the verdict, on simulated studies.

    python benchmarks/coverage.py --workers 16 --out coverage.json   # all parts, 400 studies a cell
    python benchmarks/coverage.py --table coverage.json              # print the tables again

Parts (``--part``):
  intervals  one run; truths Sigmoid, Power, LogLinear, Weibull; ``law="sigmoid"`` and the default; asymptote and forecast at 4 x C_max,
             beside the width of the profile interval that knows the true autocorrelation
  early      the same default where data end before C_mid; forecasts at 2 and 4 x C_max
  verdict    how often ``Fit.identified`` says yes, and coverage of the asymptote when it does
  seeds      three seeds with real spread between them
  items      500 items and 8 samples each: the benchmark's and the population's band

Finished cells are kept in ``--out`` and skipped when the command is given again.
"""
# ruff: noqa: E402

from __future__ import annotations

import os

for _key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_key, "1")

import argparse
import json
import multiprocessing
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _coverage_tables import PARTS, tables

from scaling import Curve, fit
from scaling.fitting.data import prepare
from scaling.fitting.profile import profile_interval
from scaling.laws import LAWS, Law, LogLinear, Power, Sigmoid, Weibull

C_MID, ASYMPTOTE, R_0, NOISE = 1000.0, 0.61, 0.25, 0.006
PROFILES = 40  # studies a cell that also get a profile interval; only its median width is used
FORMS = ("sigmoid", "ensemble")


@dataclass(frozen=True)
class Cell:
    part: str
    truth: str
    ratio: float
    b: float
    rho: float
    n: int
    spacing: str = "linear"
    extra: str = ""

    @property
    def key(self) -> str:
        return f"{self.part}|{self.truth}|{self.ratio:g}|{self.b:g}|{self.rho:g}|{self.n}|{self.spacing}|{self.extra}"


def truth(cell: Cell) -> Law:
    if cell.truth == "sigmoid":
        return Sigmoid(asymptote=ASYMPTOTE, efficiency_exponent=cell.b, c_mid=C_MID, r_0=R_0)
    if cell.truth == "power":
        return Power(asymptote=ASYMPTOTE, efficiency_exponent=cell.b, scale=(ASYMPTOTE - R_0) * C_MID**cell.b)
    if cell.truth == "weibull":
        return Weibull(asymptote=ASYMPTOTE, shape=cell.b, c_mid=C_MID, r_0=R_0)
    k = cell.b / 10  # the error falls slowly: R = R_0 at a tenth of C_mid
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


def cells(parts: tuple[str, ...]) -> list[Cell]:
    out: list[Cell] = []
    rhos = (0.0, 0.3, 0.6, 0.9)
    spacings = ("geometric", "linear")
    if "intervals" in parts:
        for ratio in (3, 7, 20):
            for b in (0.7, 1.2, 2.0):
                for i, rho in enumerate(rhos):
                    for j, n in enumerate((40, 100)):
                        out.append(Cell("intervals", "sigmoid", ratio, b, rho, n, spacings[(i + j) % 2]))
                    n = (40, 100)[(i + int(ratio)) % 2]
                    out.append(Cell("intervals", "power", ratio, b, rho, n, spacings[i % 2]))
                    if ratio != 7 and b != 1.2:
                        out.append(
                            Cell("intervals", "log_linear", ratio, b, rho, (40, 100)[i % 2], spacings[1 - i % 2])
                        )
        for ratio, b, rho, n, spacing in (
            (3, 1.0, 0.0, 40, "linear"), (3, 0.7, 0.6, 100, "geometric"), (7, 1.0, 0.3, 100, "linear"),
            (7, 0.7, 0.9, 40, "linear"), (3, 1.2, 0.9, 100, "linear"), (2, 1.0, 0.3, 60, "linear"),
        ):  # fmt: skip
            out.append(Cell("intervals", "weibull", ratio, b, rho, n, spacing))
    if "early" in parts:
        for ratio in (0.5, 0.7):
            for b in (1.2, 2.0, 3.0):
                for i, rho in enumerate((0.0, 0.6)):
                    out.append(Cell("early", "sigmoid", ratio, b, rho, (40, 100)[i], spacings[(i + int(b)) % 2]))
    if "verdict" in parts:
        for b in (0.7, 1.2, 2.0):
            for rho in (0.0, 0.3):
                for i, ratio in enumerate((0.5, 0.75, 1.0)):
                    out.append(
                        Cell("verdict", "sigmoid", ratio, b, rho, (40, 100)[i % 2], spacings[(i + (rho > 0)) % 2], "no")
                    )
        for b in (1.5, 2.0):
            for rho in (0.0, 0.3):
                for i, n in enumerate((40, 100)):
                    out.append(Cell("verdict", "sigmoid", 5, b, rho, n, spacings[(i + (rho > 0)) % 2], "yes"))
        for ratio in (2, 4, 8, 20):
            for b in (0.7, 1.2, 2.0):
                for i, rho in enumerate((0.0, 0.5, 0.9)):
                    out.append(Cell("verdict", "sigmoid", ratio, b, rho, (40, 100, 60)[i], spacings[i % 2], "mix"))
                    if ratio > 2:
                        out.append(Cell("verdict", "power", ratio, b, rho, (100, 60, 40)[i], spacings[i % 2], "mix"))
    if "seeds" in parts:
        for ratio, b, rho, n, extra in (
            (10, 1.5, 0.3, 40, "sd .005"),
            (10, 1.5, 0.3, 40, "sd .01"),
            (5, 1.5, 0.3, 40, "sd .015"),
            (10, 1.5, 0.0, 100, "sd .02"),
            (20, 1.0, 0.6, 100, "sd .01"),
        ):
            out.append(Cell("seeds", "sigmoid", ratio, b, rho, n, "linear", extra))
    if "items" in parts:
        for extra in ("counts", "n_items"):
            for ratio, b in ((5, 1.5), (15, 1.0)):
                out.append(Cell("items", "sigmoid", ratio, b, 0.0, 40, "linear", extra))
    return out


Scores = dict[str, list[float]]  # "form:target" -> [low, high, truth, identified]


def study(cell: Cell, index: int, draws: int, forms: tuple[str, ...] = FORMS) -> Scores:
    """Fits of one simulated curve; ``forms`` of the part intervals, where other parts have the default alone."""
    rng = _rng(cell, index)
    if cell.part == "intervals":
        return _intervals(cell, index, draws, rng, forms)
    return {"early": _early, "verdict": _verdict, "seeds": _seeds, "items": _items}[cell.part](cell, index, draws, rng)


def _rng(cell: Cell, index: int) -> np.random.Generator:
    return np.random.default_rng([index, *np.frombuffer(cell.key.encode(), dtype=np.uint8)])


def simulated(cell: Cell, index: int, *, noise: float = NOISE) -> tuple[Law, Curve]:
    """The true law and the curve of study ``index``."""
    return _simulated(cell, _rng(cell, index), noise)


def _simulated(cell: Cell, rng: np.random.Generator, noise: float = NOISE) -> tuple[Law, Curve]:
    law, c = truth(cell), compute_of(cell)
    return law, Curve(compute=c, performance=np.clip(law(c) + ar1(rng, cell.n, cell.rho, noise), 0.0, 1.0))


def _intervals(cell: Cell, index: int, draws: int, rng: np.random.Generator, forms: tuple[str, ...]) -> Scores:
    law, curve = _simulated(cell, rng)
    target = 4 * curve.compute[-1]
    out: Scores = {}
    for form in forms:
        f = fit(curve, law=form, draws=draws, seed=index)
        if cell.truth != "log_linear":
            out[f"{form}:asymptote"] = [*f.interval("asymptote"), ASYMPTOTE, 0.0]
        band = f.forecast([target])
        out[f"{form}:forecast"] = [float(band.low[0]), float(band.high[0]), float(law(target)), 0.0]
    return out


def profiles(cell: Cell, index: int) -> Scores:
    """The profile intervals of the true law that knows rho, for the very curve of an intervals study."""
    law, curve = simulated(cell, index)
    series, own, target = prepare(curve).positive[0], LAWS[cell.truth], 4 * curve.compute[-1]
    out: Scores = {}
    if cell.truth != "log_linear":
        out["profile:asymptote"] = [*profile_interval(own, series, rho=cell.rho), ASYMPTOTE, 0.0]
    out["profile:forecast"] = [*profile_interval(own, series, at=target, rho=cell.rho), float(law(target)), 0.0]
    return out


def _early(cell: Cell, index: int, draws: int, rng: np.random.Generator) -> Scores:
    law, curve = _simulated(cell, rng)
    f, last = fit(curve, draws=draws, seed=index), curve.compute[-1]
    out: Scores = {"ensemble:asymptote": [*f.interval("asymptote"), ASYMPTOTE, 0.0]}
    for times in (2, 4):
        band = f.forecast([times * last])
        out[f"ensemble:forecast at {times} x"] = [
            float(band.low[0]),
            float(band.high[0]),
            float(law(times * last)),
            0.0,
        ]
    return out


def _verdict(cell: Cell, index: int, draws: int, rng: np.random.Generator) -> Scores:
    _, curve = _simulated(cell, rng)
    f = fit(curve, draws=draws, seed=index)
    return {"ensemble:asymptote": [*f.interval("asymptote"), ASYMPTOTE, float(f.identified)]}


def _seeds(cell: Cell, index: int, draws: int, rng: np.random.Generator) -> Scores:
    sd = float(cell.extra.split()[1])
    c = compute_of(cell)
    curves = []
    for seed in range(3):
        law = Sigmoid(
            asymptote=ASYMPTOTE + rng.normal(0, sd), efficiency_exponent=cell.b * np.exp(rng.normal(0, 5 * sd)),
            c_mid=C_MID * np.exp(rng.normal(0, 10 * sd)), r_0=R_0,
        )  # fmt: skip
        curves.append(Curve(compute=c, performance=law(c) + ar1(rng, cell.n, cell.rho, NOISE), run_id=str(seed)))
    f = fit(curves, draws=draws, seed=index)
    target = 4 * c[-1]
    band, mean = f.forecast([target]), truth(cell)(target)
    return {
        "ensemble:asymptote": [*f.interval("asymptote"), ASYMPTOTE, 0.0],
        "ensemble:forecast": [float(band.low[0]), float(band.high[0]), float(mean), 0.0],
    }


def _items(cell: Cell, index: int, draws: int, rng: np.random.Generator) -> Scores:
    """Items whose success probability moves from r_i to a_i along one sigmoid, so that any mean over items is a sigmoid."""
    m, k, nu = 500, 8, 1.5
    c = compute_of(cell)
    a = rng.beta(ASYMPTOTE * nu, (1 - ASYMPTOTE) * nu, m)
    shape = Sigmoid(asymptote=1.0, efficiency_exponent=cell.b, c_mid=C_MID, r_0=0.0)
    p = a[None, :] * (R_0 / ASYMPTOTE + (1 - R_0 / ASYMPTOTE) * shape(c)[:, None])
    hits = rng.binomial(k, np.clip(p, 0, 1))
    counts = {"successes": hits, "samples_per_item": k} if cell.extra == "counts" else {}
    curve = Curve(compute=c, performance=hits.mean(1) / k, **counts)
    f = fit(curve, draws=draws, seed=index, n_items=None if counts else m)
    target = 4 * c[-1]
    gained = R_0 / ASYMPTOTE + (1 - R_0 / ASYMPTOTE) * float(shape(target))
    out: Scores = {}
    for of, level in (("benchmark", float(a.mean())), ("population", ASYMPTOTE)):
        band = f.forecast([target], of=of)
        out[f"ensemble:{of}"] = [float(band.low[0]), float(band.high[0]), level * gained, 0.0]
    band = f.forecast([target])
    out["ensemble:benchmark band, population truth"] = [
        float(band.low[0]),
        float(band.high[0]),
        ASYMPTOTE * gained,
        0.0,
    ]
    return out


def _work(job):
    cell, indices, draws = job
    return cell.key, [study(cell, i, draws) if draws else profiles(cell, i) for i in indices]


def hits(a: np.ndarray) -> np.ndarray:
    """Whether rows of low, high, truth cover, shape ``(studies,)``."""
    return (a[:, 0] <= a[:, 2]) & (a[:, 2] <= a[:, 1])


def reduce_cell(studies: list[Scores]) -> dict[str, dict[str, float]]:
    out = {}
    for key in studies[0]:
        a = np.array([s[key] for s in studies if key in s])
        hit, yes = hits(a), a[:, 3] > 0
        out[key] = {
            "cover": float(hit.mean()), "below": float((a[:, 1] < a[:, 2]).mean()), "above": float((a[:, 0] > a[:, 2]).mean()),
            "width": float(np.median(a[:, 1] - a[:, 0])), "yes": float(yes.mean()), "yes_hits": int((hit & yes).sum()),
            "yes_count": int(yes.sum()), "n": len(a),
        }  # fmt: skip
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="studies a cell")
    parser.add_argument("--draws", type=int, default=300, help="draws a fit")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--part", default=",".join(PARTS), help="comma-separated parts")
    parser.add_argument("--only", default="", help="only cells whose key contains this")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th cell, for a quick look")
    parser.add_argument("--out", default="", help="file of results; cells already in it are skipped")
    parser.add_argument(
        "--profiles", default="", help="take profile intervals from this file: they know nothing of the fits"
    )
    parser.add_argument("--table", default="", help="print the tables of a file of results and stop")
    args = parser.parse_args(argv)
    if args.table:
        print(tables(json.loads(Path(args.table).read_text())["cells"]))
        return
    out = Path(args.out) if args.out else None
    results: dict[str, dict] = json.loads(out.read_text())["cells"] if out and out.exists() else {}
    wanted = [c for c in cells(tuple(args.part.split(","))) if args.only in c.key][:: args.every]
    todo = [c for c in wanted if c.key not in results]
    known = json.loads(Path(args.profiles).read_text())["cells"] if args.profiles else {}
    widths = {k: {t: v for t, v in cell.items() if t.startswith("profile")} for k, cell in known.items()}
    widths = {k: v for k, v in widths.items() if v}
    bare = [
        c for c in wanted
        if c.part == "intervals" and c.key not in widths and "profile:forecast" not in results.get(c.key, {})
    ]  # fmt: skip
    jobs = [(c, range(PROFILES), 0) for c in bare]  # first: quick, and done in one piece
    jobs += [(c, range(a, min(a + 20, args.studies)), args.draws) for c in todo for a in range(0, args.studies, 20)]
    parts: dict[str, list] = {}
    start = time.time()
    pool = multiprocessing.Pool(args.workers) if args.workers > 1 else None
    for key, got in pool.imap_unordered(_work, jobs) if pool else map(_work, jobs):
        if "profile:forecast" in got[0]:
            widths[key] = reduce_cell(got)
        else:
            parts.setdefault(key, []).extend(got)
            if len(parts[key]) == args.studies:
                results[key] = reduce_cell(parts.pop(key))
        if key in results:
            results[key] |= widths.get(key, {})
            if out:
                temporary = out.with_suffix(".tmp")
                temporary.write_text(json.dumps({"studies": args.studies, "draws": args.draws, "cells": results}))
                os.replace(temporary, out)
            print(
                f"[{time.time() - start:6.0f} s] {len(results)} of {len(wanted)} cells: {key}",
                file=sys.stderr,
                flush=True,
            )
    ordered = {c.key: results[c.key] for c in wanted if c.key in results}
    print(tables(ordered))


if __name__ == "__main__":
    main()
