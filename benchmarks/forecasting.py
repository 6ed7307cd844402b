"""Score forecasting methods on any folder of learning curves: table, per-curve results, and the README's figure.

    python benchmarks/forecasting.py CURVES                    a folder of tidy CSV files (form below), or one file
    python benchmarks/forecasting.py CURVES --method my_module:my_forecast
    python benchmarks/forecasting.py --qwen DIR --docs docs    the seven public Qwen2.5 curves; rewrites table and figure
    python benchmarks/forecasting.py --rewards --docs docs     training reward of the studies in this repository; rewrites its table

Tidy form, one row an evaluation, any number of files in the folder (``*.csv``):

    curve,compute,score            required: name of the curve, cumulative compute (any unit), score
    seed,stderr,axis,metric        optional: which seed of the curve, standard error, what compute and score are

A method is a function ``(prefix, compute, level) -> (median, low, high)``: ``prefix`` is the list of `scaling.Curve` (one a
seed) up to the cut, ``compute`` where to forecast, and the three results have the shape of ``compute``. It is scored beside
our laws, the ensemble and the baselines by `scaling.backtest`, on the same cuts.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import csv
import datetime as dt
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from _forecast_figure import Panel, draw

from scaling import Curve
from scaling.backtest import Backtest, Forecaster, LawForecaster, backtest, last_value
from scaling.fitting.prior import Prior

ROOT = Path(__file__).resolve().parents[1]
QWEN = "qwen25_base_holdout_flops.csv"
QWEN_SOURCE = (
    "Data: held-out accuracy of GRPO on Qwen2.5 base models, Tan et al., arXiv:2509.25300, read off the published figures; "
    "compute is 6NT."
)
REWARDS = {"CPU": "scaling/data/ladder", "GPU": "docs/results/gpu_ladder", "GPU, larger": "docs/results/gpu_large"}
REWARDS_SOURCE = (
    "Data: training reward, the share of correct rollouts, of the GRPO runs and their controls in the bundled ladder, `gpu_ladder` and "
    "`gpu_large`; compute is FLOPs."
)
BLOCKS = 100
TITLES = {
    "": "Forecasting, scored",
    "forecasting_rewards": "Forecasts of dense reward curves, scored",
    "forecasting_public": "Forecasts of public curves, scored",
}
EVERY_CURVE = 100  # curves up to which each has its line


def read_folder(folder: Path) -> dict[str, list[Curve]]:
    """Curves in the tidy form, by name; the seeds of one curve are one entry."""
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else [folder]
    if not files:
        raise SystemExit(f"no *.csv in {folder}")
    out: dict[str, list[Curve]] = {}
    for path in files:
        table = pd.read_csv(path)
        lacking = {"curve", "compute", "score"} - set(table.columns)
        if lacking:
            raise SystemExit(f"{path} lacks {', '.join(sorted(lacking))}; it has {', '.join(table.columns)}")
        table["curve"] = table["curve"].astype(str)
        keys = ["curve", "seed"] if "seed" in table else ["curve"]
        for key, part in table.groupby(keys, sort=False):
            curve = Curve(
                compute=part["compute"],
                performance=part["score"],
                stderr=part["stderr"] if "stderr" in part else None,
                axis=str(part["axis"].iloc[0]) if "axis" in part else "compute",
                metric=str(part["metric"].iloc[0]) if "metric" in part else "accuracy",
                run_id=" ".join(map(str, key)),
            )
            out.setdefault(str(key[0]), []).append(curve)
    return out


def convert_qwen(folder: Path, target: Path) -> Path:
    """The public Qwen2.5 curves (test loss = 1 - accuracy) in the tidy form; smallest model first."""
    rows = []
    with (folder / QWEN).open() as file:
        for row in csv.DictReader(file):
            score = 1 - float(row["test_loss"])
            rows.append(
                (float(row["params"]), row["model"], row["cumulative_flops_6NT"], score, "total_flops", "pass@1")
            )
    rows.sort(key=lambda r: r[0])
    path = target / "qwen25_base.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["curve", "compute", "score", "axis", "metric"])
        writer.writerows([f"Qwen2.5 {name}", *rest] for _, name, *rest in rows)
    return path


def convert_rewards(root: Path, target: Path) -> Path:
    """Training reward (prompts fresh, nothing filtered) of every run of the studies in this repository, in the tidy form.

    Runs of more than 150 steps in some hundred blocks of as many steps each.
    """
    parts = []
    for name, folder in REWARDS.items():
        steps = pd.read_parquet(
            root / folder / "steps.parquet", columns=["run_id", "step", "cumulative_total_flops", "reward"]
        )
        for run, table in steps.dropna().sort_values("step").groupby("run_id"):
            size = max(1, len(table) // BLOCKS) if len(table) > 1.5 * BLOCKS else 1
            table = table.iloc[: len(table) // size * size]
            block = table.groupby(np.arange(len(table)) // size)
            parts.append(
                pd.DataFrame(
                    {"curve": f"{name} {run}", "compute": block["cumulative_total_flops"].last(), "score": block["reward"].mean()}
                )
            )  # fmt: skip
    path = target / "rewards.csv"
    pd.concat(parts).assign(axis="total_flops", metric="pass@1").to_csv(path, index=False)
    return path


def load_method(name: str) -> tuple[str, Forecaster]:
    module, sign, function = name.partition(":")
    if not sign:
        raise SystemExit(f"--method must be module:function, got {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    return function, getattr(importlib.import_module(module), function)


def figure(curves: dict[str, list[Curve]], result: Backtest, *, fraction: float, source: str, draws: int) -> str:
    forecaster = LawForecaster("ensemble", draws)
    rows = result.table[(result.table["method"] == "ensemble") & (result.table["fraction"] == fraction)].set_index(
        "curve"
    )
    panels = []
    for name, seeds in curves.items():
        row = rows.loc[name]
        if row["status"] != "ok":
            continue
        end = max(c.compute[-1] for c in seeds)
        prefix = [c.before(row["cut"]) for c in seeds]
        ahead = np.linspace(row["cut"], end, 80)
        median, low, high = forecaster(prefix, ahead, result.level)
        stays = float(last_value(prefix, ahead[:1], result.level)[0][0])
        compute, score = (np.concatenate([getattr(c.finite(), k) for c in seeds]) for k in ("compute", "performance"))
        panels.append(
            Panel(name, compute, score, row["cut"], ahead, median, low, high, stays, row["final"], bool(row["covered"]))
        )
    inside = int(rows["covered"].sum())
    skilled = int((rows["skill_last_value"] > 0).sum())
    unit = "FLOP" if next(iter(curves.values()))[0].axis == "total_flops" else next(iter(curves.values()))[0].axis
    return draw(
        panels,
        title="Forecasts from the first quarter against what happened",
        subtitle=(
            f"Held-out accuracy against RL compute. Each forecast saw the first {fraction:.0%}; its {result.level:.0%} band holds the "
            f"end in {inside} of {len(rows)}, its error is below that of “the last value stays” in {skilled} of {len(rows)}."
        ),
        unit=unit,
        level=result.level,
        source=source,
    )


def markdown(result: Backtest, *, title: str, command: str, source: str) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        f"# {title}",
        "",
        "Printed by",
        "",
        f"    {command}",
        "",
        f"at commit {commit or 'unknown'}, {dt.date.today().isoformat()}. {source}",
        "",
        "RMSE and bias (forecast less observed) are over the evaluations after the cut; the final value is the mean of the last "
        "five evaluations; skill is 1 - RMSE / RMSE of the baseline. `last_value`: the mean of the last five evaluations "
        "before the cut stays. `ensemble` is the default of `scaling.fit`.",
    ]
    scores = result.scores()
    for fraction, part in scores.groupby("fraction"):
        n = int(part["curves"].max())
        lines += [
            "",
            f"## Fitted on the first {fraction:.0%} of compute ({n} curves, {result.level:.0%} bands)",
            "",
            "| method | mean RMSE | worst RMSE | mean bias | final value in the band | mean width | mean skill against last value "
            "| beats last value | beats log-linear |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for r in part.to_dict("records"):
            refused = f" ({r['refused']} refused)" if r["refused"] else ""
            n = int(r["curves"])
            lines.append(
                f"| {r['method']}{refused} | {r['rmse']:.4f} | {r['rmse_worst']:.4f} | {r['bias']:+.4f} | {r['covered']} of {n} | "
                f"{r['width']:.3f} | {r['skill_last_value']:+.2f} | {r['better_than_last_value']} of {n} | "
                f"{r['better_than_log_linear']} of {n} |"
            )
        name, best = result.best_form(float(fraction))  # type: ignore[arg-type]
        ours = float(part.loc[part["method"] == "ensemble", "rmse"].iloc[0])
        lines += [
            "",
            f"The ensemble's mean RMSE is {ours / best:.2f} x that of the best single law in hindsight ({name}).",
        ]
    if result.table["curve"].nunique() > EVERY_CURVE:
        return "\n".join(lines) + "\n"
    lines += ["", "## The ensemble, curve by curve", ""]
    lines += [
        "| curve | cut | fitted | RMSE | final | forecast | band | inside | skill against last value |",
        "|" + "---|" * 9,
    ]
    for r in result.table[result.table["method"] == "ensemble"].to_dict("records"):
        if r["status"] != "ok":
            lines.append(f"| {r['curve']} | {r['fraction']:.0%} | {r['n_fit']} | {r['status']} | | | | | |")
            continue
        lines.append(
            f"| {r['curve']} | {r['fraction']:.0%} | {r['n_fit']} | {r['rmse']:.4f} | {r['final']:.3f} | {r['forecast']:.3f} | "
            f"{r['low']:.3f} to {r['high']:.3f} | {'yes' if r['covered'] else 'no'} | {r['skill_last_value']:+.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="?", type=Path, help="folder of tidy CSV files, or one file")
    parser.add_argument("--qwen", type=Path, metavar="DIR", help=f"folder with {QWEN}; converted on the fly")
    parser.add_argument("--rewards", action="store_true", help="training rewards of the studies in this repository")
    parser.add_argument(
        "--drift",
        type=float,
        nargs="+",
        default=[],
        metavar="P",
        help="score the ensemble with such a prior drift as well",
    )
    parser.add_argument(
        "--method", action="append", default=[], metavar="MODULE:FUNCTION", help="a method to score as well"
    )
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.25, 0.5], help="cuts (default: 0.25 0.5)")
    parser.add_argument("--level", type=float, default=0.9, help="of the bands (default: 0.9)")
    parser.add_argument("--draws", type=int, default=1000, help="draws of each fit (default: 1000)")
    parser.add_argument("--figure", type=Path, metavar="FILE.svg", help="draw the forecasts from the first cut")
    parser.add_argument(
        "--docs", type=Path, metavar="DIR", help="write results/ and, of --qwen, figures/ below this folder"
    )
    parser.add_argument(
        "--page", default="", help="name of the page below results/ (default: forecasting, forecasting_rewards)"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the tidy scores here")
    parser.add_argument("--source", default="", help="where the curves are from, for figure and table")
    args = parser.parse_args()
    source = args.source or (QWEN_SOURCE if args.qwen else REWARDS_SOURCE if args.rewards else "")
    with tempfile.TemporaryDirectory() as scratch:
        if args.qwen:
            args.curves = convert_qwen(args.qwen, Path(scratch))
        elif args.rewards:
            args.curves = convert_rewards(ROOT, Path(scratch))
        if args.curves is None:
            default = Path(
                os.environ.get("SCALING_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
            )
            parser.error(f"name a folder of curves, or --qwen DIR (for instance --qwen {default / 'qwen25_base_grpo'})")
        curves = read_folder(args.curves)
    methods = dict(load_method(name) for name in args.method)
    for share in args.drift:
        methods[f"ensemble, drift {share:g}"] = LawForecaster("ensemble", args.draws, prior=Prior(drift=share))
    result = backtest(curves, args.fractions, methods=methods, level=args.level, draws=args.draws)
    print(result.summary())
    if args.csv:
        result.table.to_csv(args.csv, index=False)
    picture = args.figure
    if args.docs:
        if args.qwen:
            picture = picture or args.docs / "figures" / "forecasts_first_quarter.svg"
        words = ["python", *sys.argv]
        if args.qwen:
            words = ["DIR" if word == str(args.qwen) else word for word in words]
        name = args.page or ("forecasting_rewards" if args.rewards else "forecasting")
        page = args.docs / "results" / f"{name}.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(markdown(result, title=TITLES.get(name, TITLES[""]), command=" ".join(words), source=source))
        print(f"table:  {page}")
    if picture:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(figure(curves, result, fraction=args.fractions[0], source=source, draws=args.draws))
        print(f"figure: {picture}")


if __name__ == "__main__":
    main()
