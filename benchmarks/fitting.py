"""Speed of the sigmoid solver against named peers: same data, same resamples, one thread, CPU time, interleaved.

    python benchmarks/fitting.py [--resamples 1000] [--rounds 3] [--peer-python PYTHON_WITH_simple-scaling-laws]

Prints how many times longer each peer takes for the same work, and the worst relative excess of our objective over the peer's
(negative: ours is lower on every resample). Slow peers are timed on some of the resamples and scaled up. The L(N, D) rows are
in ``fitting_loss.py``.
"""
# ruff: noqa: E402

from __future__ import annotations

import os

for _key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_key] = "1"

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import curve_fit, least_squares

from scaling import Curve, Sigmoid, fit
from scaling.fitting.solver import solve

LAW = Sigmoid(asymptote=0.61, efficiency_exponent=1.9, c_mid=2500.0, r_0=0.2)
N, NOISE, RHO = 100, 0.006, 0.3
# the box all solvers share, in (A, R_0, ln B, log-odds at the window's centre)
LOW, HIGH = np.array([0.0, 0.0, np.log(0.05), -8.0]), np.array([1.0, 1.0, np.log(10.0), 8.0])


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    from scipy.signal import lfilter

    rng = np.random.default_rng(seed)
    compute = np.linspace(200.0, 20000.0, N)
    noise = lfilter([1.0], [1.0, -RHO], rng.normal(size=N + 50))[50:] * NOISE * np.sqrt(1 - RHO**2)
    return compute, LAW(compute) + noise


def resamples(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, N, N), minlength=N) for _ in range(count)]).astype(float)


def model(x: np.ndarray, a: float, r: float, b: float, z: float) -> np.ndarray:
    s = 1.0 / (1.0 + np.exp(-np.clip(np.exp(b) * x + z, -500, 500)))
    return r + (a - r) * s


def jacobian(x: np.ndarray, a: float, r: float, b: float, z: float) -> np.ndarray:
    bx = np.exp(b) * x
    s = 1.0 / (1.0 + np.exp(-np.clip(bx + z, -500, 500)))
    d = (a - r) * s * (1 - s)
    return np.stack([s, 1 - s, d * bx, d], axis=1)


def scipy_starts(x: np.ndarray, y: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> float:
    """Best of 12 random starts of the bounded trust-region solver with its analytic Jacobian."""
    root = np.sqrt(w)
    best = np.inf
    for _ in range(12):
        start = [rng.uniform(0.3, 0.95), rng.uniform(0.02, 0.3), rng.uniform(-1.0, 1.5), rng.uniform(-3.0, 3.0)]
        got = least_squares(
            lambda p: root * (model(x, *p) - y), start, jac=lambda p: root[:, None] * jacobian(x, *p), bounds=(LOW, HIGH),
            xtol=1e-12, ftol=1e-12, gtol=1e-12,
        )  # fmt: skip
        best = min(best, 2 * got.cost)
    return best


def scipy_warm(x: np.ndarray, y: np.ndarray, w: np.ndarray, start: np.ndarray) -> float:
    """One bounded curve_fit from the optimum of the data."""
    keep = w > 0
    sigma = 1.0 / np.sqrt(w[keep])
    got, _ = curve_fit(model, x[keep], y[keep], p0=start, sigma=sigma, bounds=(LOW, HIGH))
    return float((w * (model(x, *got) - y) ** 2).sum())


def scalerl(compute: np.ndarray, y: np.ndarray, r_0: float) -> float:
    """The procedure of arXiv:2510.13786 App. A.5: a grid of A and C_mid, curve_fit for B."""
    best = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for a in np.arange(0.450, 0.8001, 0.005):
            for c_mid in np.linspace(100, 40000, 100):
                shape = _shape(a, c_mid, r_0)
                try:
                    b, _ = curve_fit(shape, compute, y)
                except RuntimeError:
                    continue
                best = min(best, float(((shape(compute, *b) - y) ** 2).sum()))
    return best


def _shape(a: float, c_mid: float, r_0: float) -> Callable[[np.ndarray, float], np.ndarray]:
    def shape(c: np.ndarray, b: float) -> np.ndarray:
        return r_0 + (a - r_0) / (1 + (c_mid / c) ** b)

    return shape


def cpu(work: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    got = work()
    return time.process_time() - start, got


def excess(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.max((ours - theirs) / theirs))


def sigmoid_rows(count: int, rounds: int) -> list[list[str]]:
    compute, y = data()
    x = np.log(compute) - np.log(compute).mean()
    weights = resamples(count)
    few, warm = min(20, count), min(200, count)
    point = solve(Sigmoid, x, y)
    start = np.concatenate([point.coefficients[0], point.u[0]])
    ours, cold, hot, whole = [], [], [], []
    for r in range(rounds):  # interleaved, so that the machine's moods hit all alike
        t, solution = cpu(lambda: solve(Sigmoid, x, y, weights=weights))
        ours.append(t)
        rng = np.random.default_rng(r)
        t, best = cpu(lambda rng=rng: np.array([scipy_starts(x, y, w, rng) for w in weights[:few]]))
        cold.append(t * count / few)
        t, near = cpu(lambda: np.array([scipy_warm(x, y, w, start) for w in weights[:warm]]))
        hot.append(t * count / warm)
        curve = Curve(compute=compute, performance=y)
        whole.append(cpu(lambda curve=curve: fit(curve, law="sigmoid", draws=count))[0])
    base = float(np.median(ours))
    note = f"all converged: {bool(solution.converged.all())}"
    return [
        [f"{count} sigmoid resamples, {N} points", "ours (solver)", f"{base * 1e3:.0f} ms", "1", "", note],
        ["", "ours: all of fit(law='sigmoid')", f"{np.median(whole) * 1e3:.0f} ms", f"{np.median(whole) / base:.1f}", "", ""],
        ["", "scipy least_squares, 12 starts, bounded", f"{np.median(cold):.1f} s", f"{np.median(cold) / base:.0f}",
         f"{excess(solution.objective[:few], best):.1e}", ">= 300"],
        ["", "scipy curve_fit, warm, bounded", f"{np.median(hot):.2f} s", f"{np.median(hot) / base:.0f}",
         f"{excess(solution.objective[:warm], near):.1e}", ">= 15"],
    ]  # fmt: skip


def scalerl_row(rounds: int) -> list[list[str]]:
    compute, y = data()
    x = np.log(compute) - np.log(compute).mean()
    r_0 = LAW.r_0
    repeat = 50
    times = []
    for _ in range(rounds):
        t, _ = cpu(lambda: [solve(Sigmoid, x, y, fixed={"r_0": r_0}) for _ in range(repeat)])
        times.append(t / repeat)
    theirs, best = cpu(lambda: scalerl(compute, y, r_0))
    solution = solve(Sigmoid, x, y, fixed={"r_0": r_0})
    base = float(np.median(times))
    return [
        ["one sigmoid curve, R_0 known", "ours (solver)", f"{base * 1e3:.2f} ms", "1", "", ""],
        ["", "ScaleRL App. A.5: 71 x 100 curve_fit", f"{theirs:.2f} s", f"{theirs / base:.0f}",
         f"{excess(solution.objective, np.array([best])):.1e}", ">= 1000"],
    ]  # fmt: skip


def peer_row(python: str, count: int, rounds: int) -> list[list[str]]:
    """simple-scaling-laws 0.2.0 in its own interpreter (it needs Python 3.12)."""
    script = Path(__file__).with_name("_peer_simple_scaling_laws.py")
    compute, y = data()
    x = np.log(compute) - np.log(compute).mean()
    point = solve(Sigmoid, x, y)
    fitted = model(x, *point.coefficients[0], *point.u[0])
    rng = np.random.default_rng(2)
    rows = fitted + rng.choice(y - fitted, (count, N))
    few = min(100, count)
    ours, theirs, best = [], [], np.zeros(few)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, compute=compute, y=y, rows=rows[:few])
        for _ in range(rounds):
            t, solution = cpu(lambda: solve(Sigmoid, x, rows))
            ours.append(t)
            got = json.loads(
                subprocess.run([python, str(script), str(path)], capture_output=True, text=True, check=True).stdout
            )
            theirs.append(got["seconds_per_draw"] * count)
            best = np.array(got["objective"])
    base = float(np.median(ours))
    return [
        [f"{count} residual resamples", "ours (solver)", f"{base * 1e3:.0f} ms", "1", "", ""],
        ["", "simple-scaling-laws 0.2.0, bounded-rational", f"{np.median(theirs):.2f} s", f"{np.median(theirs) / base:.0f}",
         f"{excess(solution.objective[:few], best):.1e}", ">= 40"],
    ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", default="", help="interpreter that has simple-scaling-laws 0.2.0")
    args = parser.parse_args(argv)
    rows = sigmoid_rows(args.resamples, args.rounds)
    if args.peer_python:
        rows += peer_row(args.peer_python, args.resamples, args.rounds)
    else:
        print("simple-scaling-laws left out: give --peer-python", file=sys.stderr)
    rows += scalerl_row(args.rounds)
    print("| work | code | CPU time | times ours | worst relative excess of our objective | wanted |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
