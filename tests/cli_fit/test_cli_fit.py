"""``rl-scaling fit``, ``forecast`` and ``compare`` by hand: what they print, and what they say of bad input."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result

Run = Callable[..., Result]
C = np.linspace(10, 1000, 40)
Y = 0.2 + 0.4 / (1 + (120 / C) ** 1.5) + np.random.default_rng(0).normal(0, 0.004, 40)


def table(path: Path, **columns: object) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def error(result: Result) -> str:
    """The one line of an error."""
    assert result.exit_code != 0, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]


def test_the_first_thing_a_user_types(cli_run: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "curve.csv", hours=C, accuracy=Y)
    result = cli_run("fit", path, "--compute", "hours", "--score", "accuracy")
    assert result.exit_code == 0, result.output
    assert "identified" in result.stdout
    assert "asymptote A, 90%" in result.stdout
    html = (tmp_path / "fit.html").read_text()
    assert "plotly" in html.lower()
    assert "accuracy" in html


def test_fit_without_torch_or_plotly_unless_it_draws(tmp_path: Path) -> None:
    path = table(tmp_path / "curve.csv", hours=C, accuracy=Y)
    code = (
        "import sys; from click.testing import CliRunner; from scaling.cli import cli\n"
        f"r = CliRunner().invoke(cli, ['fit', {str(path)!r}, '--compute', 'hours', '--score', 'accuracy', '--no-figure'])\n"
        "assert r.exit_code == 0, r.output\n"
        "bad = {'torch', 'transformers', 'trl', 'wandb', 'hydra', 'plotly'} & {m.split('.')[0] for m in sys.modules}\n"
        "print(sorted(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_groups_and_seeds(cli_run: Run, sweep_csv: Path, tmp_path: Path) -> None:
    args = ("--compute", "gpu_hours", "--score", "accuracy", "--by", "recipe", "--seed-column", "seed")
    result = cli_run("fit", sweep_csv, *args, "--out", tmp_path / "out", "--draws", 200)
    assert result.exit_code == 0, result.output
    got = pd.read_csv(tmp_path / "out" / "fit.csv").set_index("curve")
    assert set(got.index) == {"slow", "fast"}
    assert (got["evaluations"] == 120).all()
    assert got.loc["slow", "c_mid_low"] > got.loc["fast", "c_mid_high"]
    assert (tmp_path / "out" / "fit.html").exists()


def test_a_curve_that_has_barely_begun_gets_a_bound_and_no_asymptote(cli_run: Run, tmp_path: Path) -> None:
    early = slice(0, 12)
    path = table(tmp_path / "early.csv", hours=C[early] / 10, accuracy=0.2 + 0.4 / (1 + (120 / (C[early] / 10)) ** 1.5))
    noisy = pd.read_csv(path)
    noisy["accuracy"] += np.random.default_rng(1).normal(0, 0.004, len(noisy))
    noisy.to_csv(path, index=False)
    result = cli_run("fit", path, "--compute", "hours", "--score", "accuracy", "--no-figure")
    assert result.exit_code == 0
    assert "not identified" in result.stdout or "no trend" in result.stdout
    assert ">=" in result.stdout


def test_columns_that_are_not_there_are_answered_with_those_that_are(cli_run: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "curve.csv", hours=C, accuracy=Y)
    line = error(cli_run("fit", path, "--compute", "gpu_hours", "--score", "acc"))
    assert "'gpu_hours', 'acc'" in line
    assert "hours, accuracy" in line
    assert "it has: hours, accuracy" in error(
        cli_run("fit", path, "--compute", "hours", "--score", "accuracy", "--by", "x")
    )
    assert "--compute COL; " in error(cli_run("fit", path))
    assert "hours, accuracy" in error(cli_run("fit", path, "--compute", "hours"))


@pytest.mark.parametrize("kind", ["tsv", "parquet", "jsonl", "csv.gz"])
def test_other_kinds_of_file(cli_run: Run, tmp_path: Path, kind: str) -> None:
    frame, path = pd.DataFrame({"hours": C, "accuracy": Y}), tmp_path / f"curve.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    result = cli_run("fit", path, "--compute", "hours", "--score", "accuracy", "--no-figure", "--draws", 100)
    assert result.exit_code == 0, result.output


def test_missing_values_are_left_out_and_counted(cli_run: Run, tmp_path: Path) -> None:
    y = Y.copy()
    y[[3, 7]] = np.nan
    result = cli_run("fit", table(tmp_path / "a.csv", h=C, acc=y), "--compute", "h", "--score", "acc", "--no-figure")
    assert result.exit_code == 0
    assert "note: 2 of 40 rows" in result.stderr


def test_repeated_rows_and_decreasing_compute_are_said(cli_run: Run, tmp_path: Path) -> None:
    c, y = np.concatenate([C, C[-3:], C[:1]]), np.concatenate([Y, Y[-3:], Y[:1] + 0.001])
    result = cli_run("fit", table(tmp_path / "a.csv", h=c, acc=y), "--compute", "h", "--score", "acc", "--no-figure")
    assert result.exit_code == 0
    assert "3 repeated rows" in result.stderr
    assert "h decreases at line 45" in result.stderr


def test_accuracies_outside_0_to_1_are_not_fitted_in_silence(cli_run: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", h=C, eval_acc=100 * Y, score=100 * Y, accuracy=Y + 0.6)
    base = ("fit", path, "--compute", "h", "--no-figure", "--draws", 100, "--score")
    assert "--percent" in error(cli_run(*base, "eval_acc"))
    assert "outside 0 to 1" in error(cli_run(*base, "accuracy"))
    good = cli_run(*base, "eval_acc", "--percent")
    assert good.exit_code == 0
    loose = cli_run(*base, "score")
    assert loose.exit_code == 0
    assert "taken as a reward" in loose.stderr
    assert cli_run(*base, "eval_acc", "--reward").exit_code == 0


def test_few_constant_and_flat_curves_are_named_results(cli_run: Run, tmp_path: Path) -> None:
    few = cli_run(
        "fit", table(tmp_path / "a.csv", h=C[:4], acc=Y[:4]), "--compute", "h", "--score", "acc", "--no-figure"
    )
    assert few.exit_code == 0
    assert "too few evaluations" in few.stdout
    path = table(tmp_path / "b.csv", h=C, acc=np.full(40, 0.3))
    same = cli_run("fit", path, "--compute", "h", "--score", "acc", "--no-figure")
    assert same.exit_code == 0
    assert "constant" in same.stdout
    assert "nan" not in same.stdout.lower()
    drawn = cli_run("fit", path, "--compute", "h", "--score", "acc")
    assert drawn.exit_code == 0, drawn.output


def test_a_million_points_are_fitted(cli_run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    c = np.linspace(1, 1000, 1_000_000)
    frame = pd.DataFrame({"h": c, "acc": 0.2 + 0.4 / (1 + (120 / c) ** 1.5) + rng.normal(0, 0.05, c.size)})
    path = tmp_path / "big.parquet"
    frame.to_parquet(path)
    result = cli_run("fit", path, "--compute", "h", "--score", "acc", "--draws", 100, "--reward")
    assert result.exit_code == 0, result.output
    assert "1000000" in result.stdout
    html = (tmp_path / "fit.html").read_text()
    assert "means of up to 200 neighbouring evaluations" in html
    assert len(html) < 6_000_000


HOSTILE = {
    "empty.csv": ("", "is empty"),
    "header.csv": ("h,acc\n", "holds no rows"),
    "text.csv": ("h,acc\n1,0.2\n2,oops\n", "line 3: acc must be a number, got 'oops'"),
    "negative.csv": ("h,acc\n-1,0.2\n2,0.3\n", "compute must be >= 0"),
    "infinite.csv": ("h,acc\n1,0.2\ninf,0.3\n", "compute must be finite"),
    "blank.csv": ("h,acc\n,\n,\n", "has both h and acc"),
    "semicolons.csv": ("h;acc\n1;0.2\n", "it has: h;acc; its columns look separated by semicolons"),
    "tabs.csv": (
        "h\tacc\n1\t0.2\n",
        "separated by tabs: save it with commas (and decimal points) or name the file .tsv",
    ),
    "thousands.csv": ('h,acc\n"1,000",0.2\n', "got '1,000' (1 such rows): without % sign, unit or comma"),
    "percent.csv": ("h,acc\n1,20.5%\n", "got '20.5%' (1 such rows): without % sign"),
    "dates.jsonl": ('{"h": "2024-01-01", "acc": 0.1}', "h must be a number, got '2024-01-01'"),
    "beyond.csv": (f"h,acc\n{'9' * 400},0.2\n", "h must be a number below 1e308"),
    "ragged.csv": ("h,acc\n1,0.2\n1,2,3,4\n", "cannot read"),
    "broken.jsonl": ('{"h": 1, "acc"', "cannot read"),
    "nested.jsonl": (json.dumps({"h": [1, 2], "acc": 0.1}), "must be a number"),
    "not.parquet": ("h,acc\n1,2\n", "cannot read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line_errors(cli_run: Run, tmp_path: Path, name: str) -> None:
    text, expected = HOSTILE[name]
    (tmp_path / name).write_text(text)
    for command in (("fit", "--no-figure"), ("forecast",)):
        line = error(cli_run(command[0], tmp_path / name, *command[1:], "--compute", "h", "--score", "acc"))
        assert expected in line
        assert len(line) < 400


def test_binary_rubbish_and_missing_paths(cli_run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(bytes(range(256)) * 10)
    error(cli_run("fit", tmp_path / "x.csv", "--compute", "h", "--score", "acc"))
    assert "no such file" in error(cli_run("fit", tmp_path / "nowhere.csv", "--compute", "h", "--score", "acc"))
    (tmp_path / "empty").mkdir()
    error(cli_run("fit", tmp_path / "empty"))
    assert "only for table files" in error(cli_run("fit", tmp_path / "empty", "--percent"))


def test_odd_names_and_a_collapsed_curve_reach_the_output(cli_run: Run, tmp_path: Path) -> None:
    y = Y.copy()
    y[28:] = 0.15 + np.random.default_rng(2).normal(0, 0.004, 12)
    path = table(tmp_path / "ü.csv", h=C, acc=y, who=["<b>größe %{x}</b>"] * 40)
    result = cli_run("fit", path, "--compute", "h", "--score", "acc", "--by", "who")
    assert result.exit_code == 0, result.output
    assert "warning: run <b>größe" in result.stderr
    assert "collapsed" in result.stderr
    html = (tmp_path / "fit.html").read_text()
    assert "<b>größe" not in html
    assert "collapsed" in html


def test_bytes_that_are_no_text_or_no_whole_file_are_said(cli_run: Run, tmp_path: Path) -> None:
    text = pd.DataFrame({"h": C, "acc": Y}).to_csv(index=False)
    (tmp_path / "excel.csv").write_bytes(text.encode("utf-16"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text.encode())[:200])
    args = ("--compute", "h", "--score", "acc", "--no-figure")
    assert "save it as UTF-8" in error(cli_run("fit", "excel.csv", *args))
    assert "cannot read cut.csv.gz" in error(cli_run("fit", "cut.csv.gz", *args))


def test_files_as_they_come(cli_run: Run, tmp_path: Path) -> None:
    """A byte-order mark, an index for a column, FLOPs beyond 64 bits, capital endings: read like any other."""
    frame = pd.DataFrame({"wall_time": 1e9 * C, "acc": Y, "flops": [int(c) * 10**21 for c in C]})
    lines = "".join(json.dumps(row) + "\n" for row in frame.to_dict("records"))
    (tmp_path / "bom.jsonl").write_text("\ufeff" + lines, encoding="utf-8")
    frame.drop(columns="flops").to_csv(tmp_path / "A.TSV", index=False, sep="\t")
    frame.drop(columns="flops").set_index("wall_time").to_parquet(tmp_path / "INDEXED.PARQUET")
    seen = set()
    for name in ("bom.jsonl", "A.TSV", "INDEXED.PARQUET"):
        args = ("--compute", "wall_time", "--score", "acc", "--draws", 60, "--no-figure")
        result = cli_run("fit", name, *args)
        assert result.exit_code == 0, result.output
        seen.add(next(line for line in result.stdout.splitlines() if "asymptote A  " in line))
    assert len(seen) == 1
    flops = cli_run("fit", "bom.jsonl", "--compute", "flops", "--score", "acc", "--draws", 60, "--no-figure")
    assert flops.exit_code == 0, flops.output
    assert "flops 1e+22 to 1e+24" in flops.stdout


def test_dates_are_no_compute(cli_run: Run, tmp_path: Path) -> None:
    for kind, values in (("datetime", pd.date_range("2024-01-01", periods=40)), ("timedelta", pd.to_timedelta(C, "h"))):
        pd.DataFrame({"when": values, "acc": Y}).to_parquet(tmp_path / f"{kind}.parquet")
        line = error(cli_run("fit", f"{kind}.parquet", "--compute", "when", "--score", "acc"))
        assert f"when must be a number, got {kind}" in line
        assert "hours since the start" in line


def test_rows_without_a_name_are_not_lost(cli_run: Run, tmp_path: Path) -> None:
    frame = pd.DataFrame({"h": np.tile(C, 2), "acc": np.tile(Y, 2), "model": ["a"] * 40 + [None] * 40})
    path = table(tmp_path / "a.csv", **frame)
    args = ("fit", path, "--compute", "h", "--score", "acc", "--no-figure", "--draws", 60)
    by = cli_run(*args, "--by", "model")
    assert "note: 40 rows have no model" in by.stderr
    assert "(missing): identified" in by.stdout
    seeds = cli_run(*args, "--seed-column", "model")
    assert "80 evaluations of 2 curves" in seeds.stdout


def test_what_tells_curves_apart_is_named_once(cli_run: Run, sweep_csv: Path) -> None:
    args = ("fit", sweep_csv, "--compute", "gpu_hours", "--score", "accuracy", "--no-figure", "--draws", 60)
    assert "--seed-column seed is in --by" in error(cli_run(*args, "--by", "seed", "--seed-column", "seed"))
    assert "the numbers of 'accuracy'" in error(cli_run(*args, "--by", "accuracy"))
    assert cli_run(*args, "--by", "recipe,seed,recipe").exit_code == 0


def test_scores_that_are_doubted_are_named(cli_run: Run, tmp_path: Path) -> None:
    args = ("--compute", "h", "--score", "acc", "--no-figure", "--draws", 60)
    path = table(tmp_path / "a.csv", h=C, acc=Y)
    assert "is it a share already?" in cli_run("fit", path, *args, "--percent").stderr
    whole = table(tmp_path / "b.csv", h=C, acc=np.where(C == C[3], np.inf, Y))
    assert "left out: 1 (score is NaN or infinite)" in cli_run("fit", whole, *args).stdout
    mixed = table(tmp_path / "c.csv", h=np.repeat(C, 2), acc=np.stack([Y, Y + 0.01], 1).ravel())
    assert "40 rows have the same h as another and another acc" in cli_run("fit", mixed, *args).stderr


def test_tables_print_no_infinities(cli_run: Run, tmp_path: Path) -> None:
    plateau = table(tmp_path / "a.csv", h=C, acc=0.6 - 0.4 * 0.5 ** ((C / 120) ** 2) + (Y - Y.round(2)) / 5)
    fitted = cli_run("fit", plateau, "--compute", "h", "--score", "acc", "--no-figure", "--level", 0.999)
    assert "asymptote A, 99.9%" in fitted.stdout
    assert "identified" in fitted.stdout
    assert "inf" not in fitted.stdout
    flat = table(tmp_path / "b.csv", h=C, acc=np.full(40, 0.5))
    scored = cli_run("fit", flat, "--compute", "h", "--score", "acc", "--no-figure", "--backtest")
    assert "refused" in scored.stdout
    assert "nan" not in scored.stdout


def test_an_output_that_cannot_be_written_is_a_one_line_error(cli_run: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", h=C, acc=Y)
    for command in ("fit", "forecast"):
        line = error(
            cli_run(command, path, "--compute", "h", "--score", "acc", "--draws", 60, "--out", path / "b.html")
        )
        assert "cannot use" in line
    wrong = cli_run("fit", path, "--compute", "h", "--score", "acc", "--seed", "-1")
    assert "Invalid value for '--seed'" in error(wrong)


# ---- forecast
# ------------------------------------------------------------------------------------------------------------


def test_forecast_of_a_table(cli_run: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", h=C, acc=Y)
    result = cli_run(
        "forecast", path, "--compute", "h", "--score", "acc", "--until", "4x", "--reach", 0.5, "--reach", 0.9,
        "--gain", 0.2, "--out", tmp_path / "f" / "ahead.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "at       4000 ( 4.00x)" in result.stdout
    assert "reaches 0.5 at h" in result.stdout
    assert "never with probability 1.00" in result.stdout
    assert "gains more than 0.2 by h 4000 with probability 0.00" in result.stdout
    assert (tmp_path / "f" / "ahead.html").exists()
    absolute = cli_run("forecast", path, "--compute", "h", "--score", "acc", "--until", "2000")
    assert "at       2000 ( 2.00x)" in absolute.stdout
    behind = cli_run("forecast", path, "--compute", "h", "--score", "acc", "--until", "500")
    assert "not beyond the compute so far" in behind.stdout


@pytest.mark.parametrize("until", ["1x", "x", "-3", "nan", "soon", "infx"])
def test_impossible_horizons_are_refused(cli_run: Run, tmp_path: Path, until: str) -> None:
    path = table(tmp_path / "a.csv", h=C, acc=Y)
    assert "--until" in error(cli_run("forecast", path, "--compute", "h", "--score", "acc", f"--until={until}"))


def test_population_without_items_says_what_it_needs(cli_run: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", h=C, acc=Y, se=np.sqrt(Y * (1 - Y) / 500))
    base = ("forecast", path, "--compute", "h", "--score", "acc", "--of", "population")
    assert "items" in error(cli_run(*base))
    result = cli_run(*base, "--stderr", "se")
    assert result.exit_code == 0
    assert "p(1-p)/m" in result.stdout


def test_forecast_of_a_running_runs_records(cli_run: Run, run_folder: Path) -> None:
    result = cli_run("forecast", run_folder / "a", "--until", "4x", "--compute", "total_flops")
    assert result.exit_code == 0, result.output
    assert "total_flops" in result.stdout
    assert "( 4.00x)" in result.stdout
    evals = run_folder / "a" / "evals.jsonl"
    whole = evals.read_bytes()
    evals.write_bytes(whole[:-25])  # a line that is just being written
    try:
        torn = cli_run("forecast", run_folder, "--until", "2x", "--compute", "total_flops")
        assert torn.exit_code == 0, torn.output
        assert "( 2.00x)" in torn.stdout
    finally:
        evals.write_bytes(whole)
    assert "axis must be one of" in error(cli_run("forecast", run_folder, "--compute", "hours"))


# ---- compare
# -------------------------------------------------------------------------------------------------------------


def test_compare_by_a_column(cli_run: Run, sweep_csv: Path, tmp_path: Path) -> None:
    args = ("--compute", "gpu_hours", "--score", "accuracy", "--by", "recipe", "--seed-column", "seed", "--at", "300")
    result = cli_run("compare", sweep_csv, *args, "--draws", 200, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "fast against slow" in result.stdout
    assert "3 shared seeds" in result.stdout
    got = pd.read_csv(tmp_path / "out" / "compare.csv").set_index("quantity")
    assert got.loc["speed_up", "low"] < 2 < got.loc["speed_up", "high"]
    assert (tmp_path / "out" / "compare.html").exists()


def test_compare_one_source_a_recipe_and_mistakes(cli_run: Run, sweep_csv: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(sweep_csv)
    for name, part in frame.groupby("recipe"):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    columns = ("--compute", "gpu_hours", "--score", "accuracy", "--seed-column", "seed", "--draws", 100)
    result = cli_run("compare", "a=slow.csv", "b=fast.csv", *columns, "--at", 300)
    assert result.exit_code == 0, result.output
    assert "b against a" in result.stdout
    assert "found one recipe only" in error(cli_run("compare", "slow.csv", *columns))
    assert "baseline must be one of" in error(cli_run("compare", "slow.csv", "fast.csv", *columns, "--baseline", "x"))
    assert "two sources are called 'a'" in error(cli_run("compare", "a=slow.csv", "a=fast.csv", *columns))
    frame.loc[frame["seed"] == 1, "staleness"] = 0
    frame.to_csv(sweep_csv, index=False)
    pooled = error(cli_run("compare", sweep_csv, *columns, "--by", "recipe"))
    assert "differ in staleness" in pooled
    assert (
        cli_run("compare", sweep_csv, *columns, "--by", "recipe", "--factor", "staleness", "--at", 300).exit_code == 0
    )


@pytest.mark.parametrize("command", ["fit", "forecast", "compare"])
def test_help_teaches(cli_run: Run, command: str) -> None:
    result = cli_run(command, "--help")
    assert result.exit_code == 0
    assert f"rl-scaling {command}" in result.stdout
    assert "--compute COL" in result.stdout


def test_run_folders_show_their_collapse_and_epochs(cli_run: Run, run_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(run_folder / "a", tmp_path / name / "run")
    steps = tmp_path / "b" / "run" / "steps.jsonl"
    rows = [json.loads(line) for line in steps.read_text().splitlines()]
    for row in rows:
        row["metrics"] |= {"truncation_rate": 0.3, "epoch": row["step"] / 20}
    steps.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fitted = cli_run("fit", "b", "--compute", "total_flops", "--no-figure", "--draws", 100)
    assert fitted.exit_code == 0, fitted.output
    assert "warning: run a collapsed: truncation 30% over the last tenth" in fitted.stderr
    compared = cli_run("compare", "a", "b", "--compute", "total_flops", "--draws", 100)
    assert compared.exit_code == 0, compared.output
    assert "b: " in compared.stdout
    assert "beyond the fourth epoch" in compared.stdout
