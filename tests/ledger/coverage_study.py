"""Coverage of the joint laws', the surface's, the split's and the worth's intervals; writes
docs/results/ledger_coverage.md.

python tests/ledger/coverage_study.py --out docs/results/ledger_coverage.md     (about 6 minutes on one core)
"""

from __future__ import annotations

import datetime
import importlib.util
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

HERE = Path(__file__).resolve().parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def joint_rows(runs):
    from scaling.pretraining import fit_joint

    test = load("test_joint")
    cases = {
        "6 sizes, white noise": {},
        "6 sizes, noise with memory .4": {"memory": 0.4},
        "6 sizes, whole sizes off the law (.006 in k)": {"spread": 0.006},
        "4 sizes": {"sizes": 4},
        "6 sizes, 3 seeds each": {"seeds": 3},
    }
    for label, kind in cases.items():
        rng, hits = np.random.default_rng(11), np.zeros(2)
        for run in tqdm(range(runs), desc=label, leave=False):
            fit = fit_joint(test.loss_curves(rng, **kind), draws=200, seed=run, held_out=False)
            for i, (name, truth) in enumerate((("k_max", test.K_MAX), ("n_0", test.N_0))):
                low, high = fit.interval(name)
                hits[i] += low <= truth <= high
        yield label, {"K_max": hits[0] / runs, "N_0": hits[1] / runs}
    rng, hits, total = np.random.default_rng(12), 0, 0
    few = max(runs // 4, 10)
    for run in tqdm(range(few), desc="sigmoid", leave=False):
        curves, truth = test.sigmoid_curves(rng)
        fit = fit_joint(curves, law="sigmoid", draws=100, seed=run, held_out=False)
        for params, a in truth.items():
            _, low, high = fit.asymptote(params)
            hits, total = hits + (low <= a <= high), total + 1
    yield f"joint sigmoid, 5 sizes ({few} studies)", {"A(N)": hits / total}


def surface_rows(runs):
    from scaling.pretraining import best_split, fit_surface, worth

    test = load("test_surface")
    sim = test.sim
    rng = np.random.default_rng(13)
    hits: dict[str, list[bool]] = {}
    truth = {"offset": 0.03, "amplitude": 60, "rate": 9, "a": sim.A, "b": sim.B, "c": sim.C}
    for run in tqdm(range(runs), desc="surface", leave=False):
        found = sim.study(rng)
        fit = fit_surface(found, c_ref=sim.C_REF, draws=200, seed=run, held_out=False)
        for name, value in truth.items():
            low, high = fit.interval(name)
            hits.setdefault(name, []).append(low <= value <= high)
        split = best_split(fit, 1e16)
        share, score = test.best_of_truth(found, 1e16)
        low, high = split.rl_share_interval
        hits.setdefault("best share (to .01)", []).append(low - 0.01 <= share <= high + 0.01)
        hits.setdefault("best share in the near-optimal band", []).append(
            split.near_optimal[0] <= share <= split.near_optimal[1]
        )
        hits.setdefault("score at the best split", []).append(split.score[1] <= score <= split.score[2])
        answer = worth(fit, params=5e7, tokens=1e9, rl_flops=1e15)
        for label, against, factor in (
            ("worth, best decoding", answer.best_decoding, sim.BEST),
            ("worth, plain sampling", answer.sampled, sim.SAMPLED),
        ):
            true = test.true_worth(factor, 5e7, 1e9, 1e15)
            hits.setdefault(label, []).append(against.low <= true <= against.high)
    yield "surface, 45 runs on 45 bases", {name: float(np.mean(values)) for name, values in hits.items()}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--runs", default=200, show_default=True, help="Simulated studies a row.")
def main(out, runs):
    """Simulate studies from known laws, fit them, and count how often 90 % intervals hold the truth."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    lines = [
        "# Coverage of intervals across sizes and bases",
        "",
        f"Command: `python tests/ledger/coverage_study.py --out docs/results/ledger_coverage.md --runs {runs}`, "
        f"commit {commit}, {datetime.date.today()}.",
        "",
        f"Share of {runs} simulated studies of known law whose nominal 90 % interval holds the truth (standard error about "
        f"{np.sqrt(0.09 / runs):.3f}).",
        "",
        "| study | quantity | covered |",
        "|---|---|---|",
    ]
    for label, rates in [*joint_rows(runs), *surface_rows(max(runs // 2, 10))]:
        lines.extend(f"| {label} | {name} | {rate:.2f} |" for name, rate in rates.items())
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
