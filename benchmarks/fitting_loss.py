"""Speed and correctness of `scaling.fit_loss` against scipy and the published replication's method, in one run.

    python benchmarks/fitting_loss.py --data DIR      DIR holds chinchilla/svg_extracted_data.csv

Same 240 points, same 4,000 resamples, one thread, CPU time. Rounds are interleaved: in each, our solver and all of
`fit_loss()` run on all resamples, and every peer on its share of them; a peer's time for 4,000 is its time per resample
times 4,000. Ratios are medians over rounds. "Excess" is our objective over the peer's on the same resample, less one: a
positive number is a resample where the peer found a lower objective.

Peers: `scipy.optimize.least_squares(loss="huber")` with an analytic Jacobian, warm-started at the optimum of all
points; and the replication's bootstrap (Besiroglu et al. 2024): BFGS from one published start, gradient by autograd
where that package is installed, else by finite differences. The second table holds small noisy designs, where one
start is not enough.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares, minimize

import scaling
from scaling.pretraining._loss_solver import Design, polish
from scaling.pretraining._loss_starts import solve

DELTA = 1e-3
HOFFMANN = np.array(
    [np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28]
)  # arXiv:2203.15556, the replication's start


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = []
    with (folder / "chinchilla" / "svg_extracted_data.csv").open() as file:
        for row in csv.DictReader(file):
            if row["Model Size"] and row["Training FLOP"] and row["loss"]:
                n, c = float(row["Model Size"]), float(row["Training FLOP"])
                rows.append((n, c / (6 * n), float(row["loss"])))
    n, d, loss = np.array(sorted(rows, key=lambda r: r[2])[:-5]).T  # the replication drops the five largest losses
    return n, d, loss


def huber_objective(theta: np.ndarray, ln: np.ndarray, ld: np.ndarray, target: np.ndarray) -> float:
    a, b, e, alpha, beta = theta
    r = np.abs(np.log(np.exp(a - alpha * ln) + np.exp(b - beta * ld) + np.exp(e)) - target)
    return float(np.where(r <= DELTA, 0.5 * r * r, DELTA * (r - 0.5 * DELTA)).sum())


def by_least_squares(start: np.ndarray, ln: np.ndarray, ld: np.ndarray, target: np.ndarray) -> np.ndarray:
    # random starts of the hard designs overflow on the way, which scipy survives
    np.seterr(over="ignore", invalid="ignore")

    def terms(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        return np.exp(t[0] - t[3] * ln), np.exp(t[1] - t[4] * ld), np.exp(t[2])

    def residual(t: np.ndarray) -> np.ndarray:
        a, b, e = terms(t)
        return np.log(a + b + e) - target

    def jacobian(t: np.ndarray) -> np.ndarray:
        a, b, e = terms(t)
        total = a + b + e
        a, b = a / total, b / total
        return np.stack([a, b, e / total, -a * ln, -b * ld], axis=1)

    # scipy's default tolerances (1e-8): tighter ones make it slower without a lower objective
    return least_squares(residual, start, jac=jacobian, loss="huber", f_scale=DELTA, x_scale="jac").x


def replication() -> tuple[str, object]:
    try:
        import autograd
        import autograd.numpy as anp
    except ModuleNotFoundError:
        return "BFGS, finite differences", None

    def objective(t, ln, ld, target):
        stack = anp.stack([t[0] - t[3] * ln, t[1] - t[4] * ld, t[2] + 0 * ln])
        top = anp.max(stack, axis=0)
        r = anp.abs(top + anp.log(anp.sum(anp.exp(stack - top), axis=0)) - target)
        return anp.sum(anp.where(r <= DELTA, 0.5 * r * r, DELTA * (r - 0.5 * DELTA)))

    return "BFGS, autograd", (objective, autograd.grad(objective))


def by_bfgs(method: object, ln: np.ndarray, ld: np.ndarray, target: np.ndarray) -> np.ndarray:
    if method is None:
        return minimize(huber_objective, HOFFMANN, args=(ln, ld, target), method="BFGS").x
    objective, gradient = method  # type: ignore[misc]
    return minimize(objective, HOFFMANN, args=(ln, ld, target), method="BFGS", jac=gradient).x


def race(
    data: tuple[np.ndarray, np.ndarray, np.ndarray], *, draws: int, rounds: int, scipy_share: int, bfgs_share: int
) -> None:
    n, d, loss = data
    fit = scaling.fit_loss(n, d, loss, draws=draws)
    ln, ld, target = np.log(n), np.log(d), np.log(loss)
    counts = fit.counts.astype(float)
    design = Design(n, d, loss)
    warm = np.array([np.log(fit.law.A), np.log(fit.law.B), np.log(fit.law.E), fit.law.alpha, fit.law.beta])
    name, method = replication()
    times: dict[str, list[float]] = {}
    excess: dict[str, list[float]] = {"scipy": [], "bfgs": []}
    rng = np.random.default_rng(0)
    order = rng.permutation(draws)
    for k in range(rounds):
        clock = time.process_time()
        solution = solve(design, counts, delta=DELTA)
        times.setdefault("ours, solver", []).append(time.process_time() - clock)
        clock = time.process_time()
        scaling.fit_loss(n, d, loss, draws=draws)
        times.setdefault("ours, all of fit_loss()", []).append(time.process_time() - clock)
        for label, key, share in (
            ("scipy least_squares huber, analytic J, warm", "scipy", scipy_share),
            (f"replication: {name}, one start", "bfgs", bfgs_share),
        ):
            rows = np.take(order, range(k * share, (k + 1) * share), mode="wrap")
            # the peers get the resampled points themselves, as their authors' code does
            picks = [np.repeat(np.arange(n.size), fit.counts[row]) for row in rows]
            samples = [(ln[p], ld[p], target[p]) for p in picks]
            clock = time.process_time()
            if key == "scipy":
                found = [by_least_squares(warm, *sample) for sample in samples]
            else:
                found = [by_bfgs(method, *sample) for sample in samples]
            times.setdefault(label, []).append((time.process_time() - clock) * draws / share)
            for row, theta, sample in zip(rows, found, samples):
                excess[key].append(solution.objective[row] / huber_objective(theta, *sample) - 1)
    print(f"{draws:,} log-Huber bootstraps of L(N, D), {n.size} points, each of ours from its own global start")
    print(f"{'':<48}{'CPU s':>9}{'x solver':>10}{'x fit_loss':>12}{'worst excess of ours':>23}{'compared':>10}")
    solver, whole = (np.array(times[x]) for x in ("ours, solver", "ours, all of fit_loss()"))
    for label, values in times.items():
        spent = np.array(values)
        key = "scipy" if "scipy" in label else "bfgs" if "BFGS" in label else ""
        worst = f"{max(excess[key]):>23.1e}{len(excess[key]):>10}" if key else ""
        line = f"{label:<48}{np.median(spent):>9.3f}{np.median(spent / solver):>10.1f}{np.median(spent / whole):>12.1f}"
        print(line + worst)
    print(
        f"largest Newton decrement left {fit.certificates['decrement'].max():.0e} relative to the objective; "
        f"resamples with a second basin in the pilot: {int((fit.certificates['basins'] > 1).sum())}"
    )


def hard(points: int, noise: float, *, seeds: int, draws: int, scipy_draws: int = 10) -> None:
    """Share of resamples above the best of 40 random starts of our Newton iteration, and of scipy for some of them."""
    above = total = peer_total = 0
    worst = spent = peer_spent = 0.0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        n, d = 10 ** rng.uniform(7.5, 10, points), 10 ** rng.uniform(9, 11.3, points)
        loss = (1.8 + 480 / n**0.35 + 2100 / d**0.37) * np.exp(rng.normal(0, noise, points))
        fit = scaling.fit_loss(n, d, loss, draws=draws, seed=seed)
        design, counts = Design(n, d, loss), fit.counts.astype(float)
        clock = time.process_time()
        solve(design, counts, delta=DELTA)
        spent += time.process_time() - clock
        ln, ld, y = design.n, design.d, np.log(loss)
        best = np.full(draws, np.inf)
        clock = time.process_time()
        for _ in range(40):
            start = np.array(
                [*(y.mean() + rng.uniform(-4, 0, 2)), y.min() + rng.uniform(-1.5, 0), *rng.uniform(0.05, 1.2, 2)]
            )
            ours = polish(design, np.tile(start, (draws, 1)), counts, np.arange(draws), delta=DELTA, reweighted_steps=4)
            best = np.minimum(best, ours.objective)
            before = time.process_time()
            for k in range(min(draws, scipy_draws)):
                p = np.repeat(np.arange(points), fit.counts[k])
                best[k] = min(best[k], huber_objective(by_least_squares(start, ln[p], ld[p], y[p]), ln[p], ld[p], y[p]))
            peer_spent += time.process_time() - before
        rise = fit.objectives / best - 1
        above += int(np.sum(rise > 1e-6))
        worst = max(worst, float(rise.max()))
        total += draws
        peer_total += min(draws, scipy_draws)
    print(
        f"{points} points, {noise:.0%} noise: {above / total:.2%} of {total} resamples above the best of 40 starts"
        f" (worst {worst:.1e}); {1e3 * spent / total:.2f} ms a resample, scipy's 40 {1e3 * peer_spent / peer_total:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCALING_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of outside data (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--scipy-share", type=int, default=500, help="resamples given to scipy in each round")
    parser.add_argument("--bfgs-share", type=int, default=25, help="resamples given to BFGS in each round")
    parser.add_argument("--hard-draws", type=int, default=200, help="resamples a small design (0: no table)")
    args = parser.parse_args()
    race(
        read(args.data), draws=args.draws, rounds=args.rounds, scipy_share=args.scipy_share, bfgs_share=args.bfgs_share
    )
    if args.hard_draws:
        for points, noise in ((16, 0.02), (30, 0.03)):
            hard(points, noise, seeds=6, draws=args.hard_draws)


if __name__ == "__main__":
    main()
