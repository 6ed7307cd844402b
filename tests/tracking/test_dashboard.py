"""The W&B workspace and report: built without a login, saved once, updated in place."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tracking_runs import write_run_dir

pytest.importorskip("wandb_workspaces")

from scaling import load_runs, records
from scaling.cli import cli
from scaling.report.gather import Rescaled, gather
from sweeps.dashboard import STATE, Dashboard, build_report, build_workspace, describe, save, spec
from sweeps.tracking import open_tracker
from sweeps.wandb_fit import curve_rows, log_fits, markdown_summary, parameter_rows
from sweeps.wandb_rows import record_rows

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")  # of wandb-workspaces
BOARD = Dashboard(entity="team", project="study", benchmarks=("chain/x", "math"))


def plots(sections: list[dict]) -> list[dict]:
    return [p["config"] for s in sections for p in s["panels"] if p["viewType"] == "Run History Line Plot"]


def test_workspace_is_built_without_a_login():
    section = spec(BOARD)["workspace"]["section"]
    sections = section["panelBankConfig"]["sections"]
    assert [s["name"] for s in sections] == [
        "Held-out accuracy", "Against pretraining", "Fitted curves", "Training", "Compute",
    ]  # fmt: skip
    drawn = {(p["metrics"][0], p["xAxis"]) for p in plots(sections)}
    by_hours = {
        "eval/chain/x/pass@1", "eval/math/pass@1", "train/reward", "train/completion_length", "train/entropy",
        "train/truncation_rate", "train/zero_variance_fraction", "compute/mfu",
    }  # fmt: skip
    assert {(key, "gpu_hours") for key in by_hours} <= drawn
    assert ("eval/math/pass@1", "pretraining_flops_ratio") in drawn
    assert {p["groupBy"] for p in plots(sections)} == {"params.value"}
    assert section["runSets"][0]["grouping"][0]["name"] == "params.value"
    text = json.dumps(sections)
    assert "fit/figure" in text and "fit/parameters" in text


def test_panels_show_what_a_run_logs(tmp_path):
    """Every key of the dashboard that the records of this run can feed is among the rows of its mirror."""
    rows = record_rows(write_run_dir(tmp_path / "a", "a"))
    logged = {key for row in rows for key in row}
    sections = spec(Dashboard("team", "study", ("chain/x",)))["workspace"]["section"]["panelBankConfig"]["sections"]
    keys = {p["metrics"][0] for p in plots(sections)} | {p["xAxis"] for p in plots(sections)}
    not_here = {
        "train/entropy", "train/truncation_rate", "train/zero_variance_fraction", "train/kl", "compute/mfu",
        "compute/utilisation",
    }  # fmt: skip
    assert keys - logged == not_here


def test_report_is_built_without_a_login():
    blocks = spec(BOARD, summary="**Fits**")["report"]["blocks"]
    text = json.dumps(blocks)
    assert "**Fits**" in text and "eval/chain/x/pass@1" in text and "not identified" in text
    with pytest.raises(ValueError, match="extra|unexpected|Unexpected"):
        type(build_report(BOARD, runset=False))(project="p", entity="e", colour="red")
    assert build_workspace(BOARD).name == "rl-scaling: study"


def test_saved_once_then_updated_in_place(server, tmp_path):
    first = save(BOARD, tmp_path, summary="one")
    assert not first.updated and len(server.views) == 2
    assert json.loads((tmp_path / STATE).read_text())["team/study"]["workspace"] == first.workspace
    second = save(BOARD, tmp_path, summary="two")
    assert second.updated and (second.workspace, second.report) == (first.workspace, first.report)
    assert len(server.views) == 2
    report = next(v for v in server.views.values() if v["type"] == "runs")
    assert "two" in report["spec"] and '"one"' not in report["spec"]
    server.views.clear()  # deleted in the app
    third = save(BOARD, tmp_path)
    assert not third.updated and len(server.views) == 2


@pytest.fixture
def ladder(tmp_path):
    for i, params in enumerate((1000, 4000)):
        write_run_dir(
            tmp_path / "runs" / f"r{i}", f"r{i}", steps=40, every=4, recipe_hash="recipe",
            model={"name": f"size|{params}<b>", "params": params},
        )  # fmt: skip
    return tmp_path / "runs"


def test_fit_tables_have_intervals_and_verdicts(ladder):
    analysis = gather(load_runs(ladder), draws=50)
    rows = parameter_rows(analysis)
    assert len(rows) == 2
    for row in rows:
        assert row["verdict"] and {"asymptote_low", "asymptote_high", "c_mid_low", "c_mid_high"} <= set(row)
        assert not any(name in row for name in ("c_mid", "r_0", "efficiency_exponent"))  # no number without an interval
    curves = curve_rows(analysis)
    assert {c["axis"] for c in curves} == set(analysis.fits) and {c["group"] for c in curves} == {
        r["group"] for r in rows
    }
    assert all(c["low"] <= c["median"] <= c["high"] for c in curves)
    text = markdown_summary(analysis)
    assert text.count("\n| ") == 3 and "<b>" not in text and "size|" not in text


def test_a_fit_seen_on_another_axis_keeps_its_verdict():
    band = SimpleNamespace(median=np.full(100, 0.5), low=np.full(100, 0.4), high=np.full(100, 0.6))
    for identified in (True, False):
        fit = SimpleNamespace(identified=identified, forecast=lambda compute, level: band)
        analysis: Any = SimpleNamespace(
            fits={"gpu_hours": {"g": Rescaled(fit, 2.0)}},  # type: ignore[arg-type]
            curves={"gpu_hours": {"g": [SimpleNamespace(compute=np.array([1.0, 4.0]))]}},
        )
        rows = curve_rows(analysis)
        assert len(rows) == 100 and {row["asymptote_identified"] for row in rows} == {identified}
        assert [row["extrapolated"] for row in rows].count(False) == 50


def test_fits_are_one_run_updated_in_place(server, ladder):
    analysis = gather(load_runs(ladder), draws=50)
    for _ in range(2):
        log_fits(analysis, project="study", entity=None)
    assert list(server.runs) == [("study", "rl-scaling-fits")]
    run = server.runs["study", "rl-scaling-fits"]
    assert run.job_type == "fit" and run.summary["fit/parameters"]["nrows"] == 2
    assert run.summary["fit/figure"]["_type"] == "plotly-file"


def test_command_line(server, ladder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(cli, ["wandb", "dashboard", str(ladder)])
    assert done.exit_code == 0, done.output
    assert "RunTable(2 runs" in done.output and "-> team/study" in done.output and "(new)" in done.output
    again = CliRunner().invoke(cli, ["wandb", "dashboard", str(ladder), "--no-fit", "--no-report"])
    assert "(updated)" in again.output and len(server.views) == 2


def test_dry_run_needs_no_login(ladder):
    done = CliRunner().invoke(cli, ["wandb", "dashboard", str(ladder), "--dry-run", "--no-fit"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)) == {"workspace", "report"}
    refused = CliRunner().invoke(cli, ["wandb", "dashboard", str(ladder)])
    assert refused.exit_code == 1 and "needs credentials" in refused.output


def test_several_projects_need_a_name(ladder, tmp_path):
    open_tracker(mode="disabled", directory=ladder, run_id="x").finish()
    write_run_dir(ladder / "other", "other", steps=4, config={"tracking": {"project": "another"}})
    assert records.read_run(ladder / "other").config["tracking"]["project"] == "another"
    with pytest.raises(ValueError, match="several projects, another, study: name one with --project"):
        describe([ladder], project=None, entity=None, offline=True)
