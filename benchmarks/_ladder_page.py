"""The page of a ladder study: arms against each other, curves and forecasts, RL against pretraining, from its packed files."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _ladder_beyond import draw as draw_far
from _ladder_beyond import forecasts, read, scored
from _ladder_plans import WINDOW

from scaling import RunTable
from scaling.backtest import backtest
from scaling.bundled import arm_differences
from scaling.errors import ScalingError
from scaling.metrics import mean_interval
from scaling.pretraining import best_split, fit_joint, fit_surface, headline, study_runs, worth

CANNOT = """No exponent, asymptote or best share of a large model follows from models of a few hundred thousand parameters on one embedded
task. What the study can show: that the ledger is exact, that the intervals and forecasts behave on real curves of this trainer, and
that a gain means little without its controls."""


def page(data: Path, figures: Path, *, title: str, commands: Iterable[str], notes: str = "") -> str:
    """The page as Markdown; draws its figure of curves."""
    arms = pd.read_csv(data / "arms.csv")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    out = [f"# {title}", "", notes.strip(), "", *(f"    {command}" for command in commands), "",
           f"Page written at commit {commit}, {dt.date.today().isoformat()}. {CANNOT}", ""]  # fmt: skip
    kinds = [k for k in ("acquisition", "elicitation", "budgets", "grid") if k in set(arms["piece"])]
    table = read(data) if kinds or "beyond" in set(arms["piece"]) else None
    for kind in kinds:
        assert table is not None
        mine, runs = arms[arms["piece"] == kind], table.runs
        chosen = table.select(runs.loc[(runs["sweep"] == kind) & (runs["reward"] == "correct"), "run_id"])
        out += ["", f"## {kind.capitalize()}: the arms", "", *_arms(mine), "", *_gains(mine)]
        name = f"{data.name}_{kind}.svg"
        draw(chosen, figures / name)
        out += ["", f"![{kind}: held-out accuracy against RL FLOPs](../figures/{name})"]
        out += ["", f"## {kind.capitalize()}: forecasts", "", *_forecasts(chosen)]
        out += ["", f"## {kind.capitalize()}: against pretraining", "", *_against(chosen)]
    if ((arms["piece"] == "rates") & (arms["arm"] == "grpo")).any():
        out += ["", "## Learning rates by size", "", *_rates(arms)]
    if (data / "forecast.json").is_file() and table is not None and "beyond" in set(table.runs["sweep"]):
        far = table.select(table.runs.loc[table.runs["sweep"] == "beyond", "run_id"])
        out += [
            "",
            "## Far beyond the fitted compute",
            "",
            *_beyond(json.loads((data / "forecast.json").read_text()), far, figures / f"{data.name}_beyond.svg"),
        ]
    if "recipes" in set(arms["piece"]):
        out += ["", "## The recipes", "", *_recipes(arms[arms["piece"] == "recipes"])]
    if "slips" in set(arms["piece"]):
        out += ["", "## The slip rate", "", *_slips(arms)]
    return "\n".join(out) + "\n"


def _interval(values: Iterable[float], *, of: int | None = None) -> str:
    """Mean with Student's 90 % interval; says how many values there are where they are not ``of``."""
    x = np.asarray([v for v in values if np.isfinite(v)], dtype=float)
    if x.size < 3:
        return f"{x.mean():+.3f} (n={x.size}, no interval)" if x.size else "not run"
    low, high = mean_interval(x)
    return f"{x.mean():+.3f} [{low:+.3f}, {high:+.3f}]" + ("" if of in (None, x.size) else f" (n={x.size})")


def _arms(arms: pd.DataFrame) -> list[str]:
    wide = arms.pivot_table(index=["parameters", "pretrain_steps", "seed"], columns="arm", values="sampled")
    best = arms[arms["arm"] == "base"].set_index(["parameters", "pretrain_steps", "seed"])["best_decoding"]
    wide["best"] = best
    bare = wide.index.difference(wide.dropna(subset=["grpo"]).index)
    wide = wide.drop(bare)  # a mean of bases is over those that GRPO started from
    lines = [
        "Held-out accuracy under plain sampling (T = 1), mean over the seeds that have a GRPO run (an arm of fewer seeds says so); every arm "
        "spends the FLOPs of its GRPO run, sampling included."
        + (f" {len(bare)} further bases have no finished GRPO run and are left out." if len(bare) else ""),
        "", "| parameters | pretraining steps | seeds | base | base, best decoding | GRPO | continued pretraining | rejection SFT | random reward |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for (parameters, steps), group in wide.groupby(level=[0, 1]):
        cells = []
        for arm in ("base", "best", "grpo", "continued", "rejection", "random_reward"):
            values = group[arm].dropna() if arm in group else group["grpo"].iloc[:0]
            fewer = "" if len(values) == len(group) else f" (n={len(values)})"
            cells.append(f"{values.mean():.3f}{fewer}" if len(values) else "not run")
        lines.append(f"| {parameters:,} | {steps} | {len(group)} | {' | '.join(cells)} |")
    return lines


def _gains(arms: pd.DataFrame) -> list[str]:
    """Paired differences, by size, by pretraining budget and over the whole grid."""
    gain = arm_differences(arms).dropna(how="all")
    best = arms.set_index(["parameters", "pretrain_steps", "seed", "arm"])["best_decoding"].unstack("arm")
    gain.insert(1, "the same, both decoded at their best", best["grpo"] - best["base"])
    lines = [
        "GRPO's accuracy less that of each, paired by base; 90 % intervals are Student's t over the bases of a row, whatever else differs.",
        "",
        "| bases of | number | " + " | ".join(f"less {name}" for name in gain).replace("less the", "the") + " |",
        "|---" * (gain.shape[1] + 2) + "|",
    ]
    groups = [(f"{size:,} parameters", rows) for size, rows in gain.groupby(level="parameters")]
    groups += [(f"{steps} pretraining steps", rows) for steps, rows in gain.groupby(level="pretrain_steps")]
    for label, rows in [*groups, ("all", gain)]:
        count = int(rows.iloc[:, 0].notna().sum())
        shown = [_interval(rows[name], of=count) for name in rows]
        lines.append(f"| {label} | {count} | " + " | ".join(shown) + " |")
    return lines


def _forecasts(table: RunTable) -> list[str]:
    curves = table.curves(axis="total_flops", by="name")
    try:
        summary = backtest(curves, [0.25, 0.5], laws=["ensemble"], draws=300).summary()
    except ScalingError as error:
        summary = f"refused: {error}"
    return [
        "Each run's curve fitted on its first part and scored on the rest; the baselines are `last_value` and `log_linear`.", "",
        "```", *summary.splitlines(), "```",
    ]  # fmt: skip


def _against(table: RunTable) -> list[str]:
    runs = study_runs(table)
    budget = table.runs["name"].str.extract(r"-d(\d+)-")[0].astype(int)
    by_budget = {b: study_runs(table.select(table.runs.loc[budget == b, "run_id"])) for b in sorted(set(budget))}
    lines: list[str] = []

    def block(what: str, make: Callable[[], str]) -> None:
        try:
            text = make()
        except ScalingError as error:
            text = f"refused: {error}"
        lines.extend([what, "", "```", *text.splitlines(), "```", ""])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block("Headline quantities, with intervals from a wild bootstrap over bases:", lambda: headline(runs).summary())
        surface = None
        try:
            surface = fit_surface(runs)
        except ScalingError as error:
            lines.extend([f"R = f(loss) + g(N, T) log10 C_RL: refused: {error}", ""])
        if surface is not None:
            block(
                "R = f(loss) + g(N, T) log10 C_RL (arXiv:2607.16097), errors of leaving one out among it:",
                surface.summary,
            )
            place = np.log([[r.params, r.tokens] for r in runs])
            middle = runs[int(np.argmin(np.abs(place - np.median(place, axis=0)).sum(axis=1)))]
            spent = float(np.median([r.curve.compute[-1] for r in runs]))
            total = middle.pretraining_flops + spent
            block("The best split, the base paid by this run:", lambda: best_split(surface, total).summary())
            block("The best split, the base shared by ten runs:",
                  lambda: best_split(surface, total, amortised_over=10).summary())  # fmt: skip
            size = sorted({r.params for r in runs})[len({r.params for r in runs}) // 2]
            for steps, part in by_budget.items():
                own = next((r for r in part if r.params == size), None)
                if own is not None:
                    value = worth(surface, params=size, tokens=own.tokens, rl_flops=float(own.curve.compute[-1]))
                    block(f"What this RL is worth in pretraining, after {steps} pretraining steps:", value.summary)
        middle_budget = list(by_budget)[len(by_budget) // 2]
        by_size: dict[float, list[Any]] = {}
        for run in by_budget[middle_budget]:
            by_size.setdefault(run.params, []).append(run.curve)
        held = f"at {middle_budget} pretraining steps, for it knows sizes and no tokens"
        block(
            f"ln(1 - R) = -k(N) ln C + E(N) over sizes (arXiv:2509.25300), {held}:",
            lambda: fit_joint(by_size).summary(),
        )
        block(f"The sigmoid (arXiv:2510.13786) with A(N), C_mid(N) smooth in ln N and one B, {held}:",
              lambda: fit_joint(by_size, law="sigmoid").summary())  # fmt: skip
    return lines


def _rates(arms: pd.DataFrame) -> list[str]:
    """GRPO at half, once and twice the model's own rate, from the same base."""
    tried = arms[arms["piece"] == "rates"]
    bases = tried[["model", "pretrain_steps", "seed"]].drop_duplicates()
    own = arms[arms["piece"] == "grid"].merge(bases)
    both = pd.concat([own, tried])
    both = both[both["arm"].isin(["base", "grpo"])]
    wide = both.pivot_table(
        index=["parameters", "pretrain_steps", "seed", "rate_factor"], columns="arm", values="sampled"
    )
    rates = both[both["arm"] == "grpo"].set_index(["parameters", "pretrain_steps", "seed", "rate_factor"])["rate"]
    lines = [
        "| parameters | pretraining steps | seed | rate | times the model's own | base | GRPO |",
        "|---|---|---|---|---|---|---|",
    ]
    for (parameters, steps, seed, factor), row in wide.iterrows():  # pyright: ignore[reportGeneralTypeIssues]
        rate = rates.loc[(parameters, steps, seed, factor)]
        lines.append(
            f"| {parameters:,} | {steps} | {seed} | {rate:.3g} | {factor:g} | {row['base']:.3f} | {row['grpo']:.3f} |"
        )
    return lines


def _beyond(made: dict[str, Any], far: RunTable, figure: Path) -> list[str]:
    """Forecasts written before the compute was spent, against the runs; where they were fitted on other runs of the same
    settings, then also the same laws on the first part of each long run itself."""
    names = sorted(far.runs["name"])
    when = f"Forecasts of {made['made_at'][:16].replace('T', ' ')} UTC (`forecast.json`), committed before these runs"
    share = "`inside`: share of the evaluations beyond the window within the 90 % band."
    picture = f"![long runs and the ensemble's forecasts of them](../figures/{figure.name})"
    if set(names) <= {entry["run"] for entry in made["forecasts"]}:
        later = forecasts(far, names, {f"{n} steps": n for n in (WINDOW, 400)}, together=True)
        draw_far({"forecast before it was run": made, "back-test, present code": later}, far, figure)
        return [
            f"{when} went on, from their first steps. {share}", "", *_scores(scored(made, far)), "",
            "The present code on the same windows and on longer ones, made after the runs: a back-test.", "",
            *_scores(scored(later, far)), "", picture,
        ]  # fmt: skip
    own = forecasts(far, names)
    draw_far({"earlier run of the same settings": made, "first part of the run itself": own}, far, figure)
    return [
        f"{when} began, from shorter runs of the same settings. {share}", "", *_scores(scored(made, far)), "",
        "The same methods on the first part of each long run itself, made after the runs: a back-test. It has the right base, and says "
        "whether the laws or the change of base made an error above.", "", *_scores(scored(own, far)), "", picture,
    ]  # fmt: skip


def _scores(rows: Iterable[dict[str, Any]]) -> list[str]:
    lines = [
        "| run | fitted on | method | times the compute | observed at the end | forecast, 90 % band | RMSE | inside |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["run"].removeprefix("chain_acquisition-scratch_")
        if "outcome" in row:
            lines.append(f"| {name} | {row['window']} | {row['method']} | - | - | {row['outcome']} | - | - |")
            continue
        lines.append(
            f"| {name} | {row['window']} | {row['method']} | {row['times']:.1f} | {row['observed']:.3f} | {row['forecast']:.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}] | {row['rmse']:.3f} | {row['inside']:.0%} of {row['points']} |"
        )
    return lines


def _recipes(arms: pd.DataFrame) -> list[str]:
    """What each recipe gains over its own bases; a recipe learns if the interval's lower end is positive."""
    keyed = arms.set_index(["recipe", "seed", "arm"])
    sampled, best = keyed["sampled"].unstack("arm"), keyed["best_decoding"].unstack("arm")["base"]
    flops = keyed["flops"].unstack("arm")["grpo"]
    lines = ["| recipe | seeds | base | after | gain over plain sampling, 90 % | gain over best decoding, 90 % | RL FLOPs |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for recipe, part in sampled.dropna(subset=["grpo"]).groupby(level="recipe", sort=False):
        above = part["grpo"] - best.loc[part.index]
        lines.append(
            f"| `{recipe}` | {len(part)} | {part['base'].mean():.3f} | {part['grpo'].mean():.3f} | "
            f"{_interval(part['grpo'] - part['base'])} | {_interval(above)} | {flops.loc[part.index].mean():.3g} |"
        )
    return lines


def _slips(arms: pd.DataFrame) -> list[str]:
    at = arms[(arms["model"] == "scratch_48") & (arms["pretrain_steps"] == 300)]
    at = at[at["piece"].isin(["slips", "elicitation"])].assign(slip=at["slip_rate"].fillna(0.1))
    lines = [
        "Elicitation at 75,600 parameters and 300 pretraining steps; the best of greedy, forced trace and maj@16 is the best decoding.", "",
        "| slip rate | seeds | base | base, best decoding | GRPO | GRPO, best decoding | gain over best decoding | both decoded at their best |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for slip, group in at.groupby("slip"):
        keyed = group.set_index(["seed", "arm"])
        sampled, best = keyed["sampled"].unstack("arm"), keyed["best_decoding"].unstack("arm")
        if "grpo" in sampled:
            means = [sampled["base"], best["base"], sampled["grpo"], best["grpo"]]
            lines.append(
                f"| {slip:g} | {sampled['grpo'].notna().sum()} | "
                + " | ".join(f"{values.mean():.3f}" for values in means)
                + f" | {_interval(sampled['grpo'] - best['base'])} | {_interval(best['grpo'] - best['base'])} |"
            )
    return lines


def draw(table: RunTable, path: Path) -> None:
    """Curves as small multiples: one panel a size, one colour a pretraining budget, a line a seed."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "ladder"  # the same curves give the same file
    runs = table.runs.assign(budget=table.runs["name"].str.extract(r"-d(\d+)-")[0].astype(int))
    sizes, budgets = sorted(runs["params"].unique()), sorted(runs["budget"].unique())
    colours = dict(zip(budgets, ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")))
    figure, axes = plt.subplots(1, len(sizes), figsize=(2.3 * len(sizes) + 0.6, 2.6), sharey=True, squeeze=False)
    sampled = table.evals[(table.evals["decoding"] == "sampled") & (table.evals["total_flops"] > 0)]
    for axis, size in zip(axes[0], sizes):
        for row in runs[runs["params"] == size].to_dict("records"):
            own = sampled[sampled["run_id"] == row["run_id"]].sort_values("total_flops")
            axis.plot(own["total_flops"], own["pass@1"], color=colours[row["budget"]], lw=1.2, alpha=0.85)
        axis.set(xscale="log", title=f"{size:,} parameters", xlabel="RL compute [FLOP]", ylim=(0, 1))
        axis.title.set_fontsize(9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    axes[0][0].set_ylabel("held-out pass@1")
    handles = [plt.Line2D([], [], color=colours[b], label=f"{b} pretraining steps") for b in budgets]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(budgets), frameon=False, fontsize=8)
    figure.set_layout_engine("constrained")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
