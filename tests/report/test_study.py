"""The study file: what it refuses, what it rebuilds, and what it says has changed."""

from __future__ import annotations

import json
import shutil
from importlib import util

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from scaling import _study_print as to_print
from scaling.cli import cli
from scaling.errors import ConfigError
from scaling.study import compare_studies, load_study, run_study

BODY = {
    "title": "Three small models",
    "runs": [{"path": "runs", "where": "params > 2e5"}],
    "exclude": [{"run": "scratch-1m-dapo-1", "reason": "a node failed & the log_file is gone"}],
    "fit_after": "1e10",
    "factors": ["model"],
    "law": "sigmoid",
    "draws": 100,
}


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    shutil.copytree(study, root / "runs")
    (root / "study.yaml").write_text(yaml.safe_dump(BODY))
    return root


@pytest.fixture(scope="module")
def result(folder):
    return run_study(load_study(folder / "study.yaml"), folder / "out")


def test_runs_are_chosen_and_left_out_as_the_file_says(result):
    assert sorted(result.table.runs["run_id"]) == ["scratch-1m-dapo-0", "scratch-300k-dapo-0", "scratch-300k-dapo-1"]
    assert result.excluded == {"scratch-1m-dapo-1": BODY["exclude"][0]["reason"]}
    assert list(result.curves) == ["scratch-300k", "scratch-1m"]
    assert len(result.curves["scratch-300k"]) == 2


def test_tidy_tables_hold_every_point_and_say_which_were_fitted(result, folder):
    points = pd.read_csv(folder / "out" / "curves.csv")
    assert len(points) == sum(len(c) for members in result.curves.values() for c in members)
    assert (points.loc[points["compute"] < 1e10, "fitted"] == False).all()  # noqa: E712
    assert points.loc[points["compute"] > 1e12, "fitted"].all()
    assert pd.read_parquet(folder / "out" / "evals.parquet")["run_id"].nunique() == 3
    assert list((folder / "out" / "fits").glob("*.npz"))


def test_what_is_not_identified_is_no_number(result, folder):
    numbers = result.record["numbers"]["scratch-1m"]
    assert not numbers["identified"] and "asymptote" not in numbers
    text = (folder / "out" / "table.tex").read_text()
    assert "not identified" in text and r"\toprule" in text
    fits = pd.read_csv(folder / "out" / "fits.csv").set_index("group")
    assert pd.isna(fits.loc["scratch-1m", "asymptote_low"])
    low, high = result.record["numbers"]["scratch-300k"]["asymptote"]
    assert fits.loc["scratch-300k", "asymptote_low"] == pytest.approx(low)
    assert low - 0.02 < 0.72 < high + 0.02  # the truth of the synthetic runs


def test_methods_paragraph_names_window_law_and_exclusions(folder):
    text = (folder / "out" / "methods.txt").read_text()
    for part in ("sigmoid", "1e+10 FLOP", "100 draws", "chain/held-out", "1 run was excluded", "a node failed"):
        assert part in text
    assert r"\&" in (folder / "out" / "methods.tex").read_text()
    entries = (folder / "out" / "references.bib").read_text().strip().split("\n\n")
    assert "2510.13786" in entries[0]
    for entry in entries:  # what plain BibTeX sorts and prints without a warning
        assert (
            entry.startswith("@misc{")
            and "author = {" in entry
            and "title = {" in entry
            and entry.count("{") == entry.count("}")
        )


def test_macros_give_the_numbers_of_the_record(result, folder):
    text = (folder / "out" / "numbers.tex").read_text()
    low, high = result.record["numbers"]["scratch-300k"]["asymptote"]
    assert rf"\csname rls@scratch-300k.asymptote\endcsname{{{low:.3g} to {high:.3g}}}" in text


def test_print_figures_have_embedded_fonts(folder):
    figures = folder / "out" / "figures"
    assert (figures / "curves.html").stat().st_size > 1e6
    if util.find_spec("matplotlib") is None:
        assert "matplotlib" in (figures / "README.txt").read_text()
        pytest.skip("matplotlib is not installed: pip install 'rl-scaling[print]'")
    pdf = (figures / "curves.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert (figures / "asymptotes.svg").read_text().startswith("<?xml")


def test_rebuilding_changes_nothing_and_a_new_run_is_named(folder, result, make_runs):
    again = run_study(load_study(folder / "study.yaml"))
    assert compare_studies(json.loads((folder / "out" / "study.json").read_text()), again.record) == []
    size = make_runs.SIZES[1]
    extra = make_runs.write_run_dir(folder / "runs" / "extra", size, run_id="extra", seed=9)
    try:
        lines = compare_studies(result.record, run_study(load_study(folder / "study.yaml")).record)
    finally:
        shutil.rmtree(extra)
    assert "run added: extra" in lines
    assert any(line.startswith("scratch-300k: asymptote") for line in lines)
    assert not any(line.startswith("scratch-1m") for line in lines)


def test_commands(folder):
    runner = CliRunner()
    done = runner.invoke(cli, ["study", "run", str(folder / "study.yaml"), "--out", str(folder / "cli")])
    assert done.exit_code == 0, done.output
    assert "left out scratch-1m-dapo-1: a node failed" in done.output
    same = runner.invoke(
        cli, ["study", "diff", str(folder / "study.yaml"), "--out", str(folder / "cli"), "--exit-code"]
    )
    assert same.exit_code == 0 and "nothing changed" in same.output
    body = BODY | {"seed": 1}
    (folder / "other.yaml").write_text(yaml.safe_dump(body))
    changed = runner.invoke(
        cli, ["study", "diff", str(folder / "other.yaml"), "--out", str(folder / "cli"), "--exit-code"]
    )
    assert changed.exit_code == 1 and "setting seed: 0 -> 1" in changed.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axs": "gpu_hours"}, "unknown axs; known are"),
        ({"title": ""}, "'title' is missing"),
        ({"runs": [{"path": "runs", "import": "x"}]}, "either 'path'"),
        ({"runs": [{"import": "x"}]}, "'import' needs 'source'"),
        ({"exclude": [{"run": "a"}]}, "never left out without a reason"),
        ({"axis": "hours"}, "axis must be one of"),
        ({"draws": "many"}, "draws must be a number"),
        ({"seed": 1.5}, "seed must be int"),
        ({"runs": "runs"}, "'runs' must be a list"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, change, message):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BODY | change))
    with pytest.raises(ConfigError, match=message) as caught:
        load_study(tmp_path / "s.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exclude": [{"run": "nobody", "reason": "x"}]}, "no run has the id or name 'nobody'"),
        ({"exclude": [{"run": "*", "reason": "x"}]}, "every run is left out"),
        ({"runs": [{"path": "runs", "where": "parms > 1"}]}, "is no query of the runs table"),
        ({"runs": [{"path": "runs", "where": "params > 1e99"}]}, "matches none of 6 runs"),
        ({"runs": [{"path": "runs"}, {"path": "runs"}]}, "are in two sources"),
    ],
)
def test_a_selection_that_selects_nothing_is_refused(folder, change, message):
    (folder / "bad.yaml").write_text(yaml.safe_dump(BODY | change))
    with pytest.raises(ConfigError, match=message):
        run_study(load_study(folder / "bad.yaml"))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "s.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="must be YAML"):
        load_study(tmp_path / "s.yaml")


def test_names_are_safe_in_files_and_in_latex():
    assert "/" not in to_print.slug("../../etc/passwd") and ".." not in to_print.slug("../../etc/passwd")
    assert to_print.escape(r"\input{x}_%") == r"\textbackslash{}input\{x\}\_\%"
