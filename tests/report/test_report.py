"""The report as its readers meet it: numbers against known truths, files, escaping, a browser."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from click.testing import CliRunner

import scaling
from scaling import report
from scaling.cli import cli


@pytest.fixture(scope="module")
def table(study):
    return scaling.load_runs(study)


@pytest.fixture(scope="module")
def written(table, tmp_path_factory):
    return report.write(table, tmp_path_factory.mktemp("report"), draws=300)


def test_summary_table_recovers_known_truths(table, make_runs):
    frame = report.summary_table(table, draws=300).set_index("group")
    assert list(frame.index) == [size.name for size in make_runs.SIZES]
    for size in make_runs.SIZES[:2]:  # risen to ten times c_mid: identified, and the interval is near the truth
        row = frame.loc[size.name]
        assert row["verdict"] == "identified"
        assert row["asymptote_low"] - 0.02 < size.truth.asymptote < row["asymptote_high"] + 0.02
        assert row["base_sampled"] == pytest.approx(size.truth.r_0, abs=0.03)
    last = frame.loc[make_runs.SIZES[2].name]
    assert last["verdict"] == "asymptote not identified"
    assert frame["rl_flops_share"].tolist() == pytest.approx([4e12 / 6e13, 1.2e13 / 5.4e14, 4e13 / 6e15])
    assert (frame["base_best_decoding"] >= frame["base_sampled"]).all()


def test_page_is_one_file_with_plotly_once_and_no_outside_reference(written):
    text = written.read_text(encoding="utf-8")
    assert len(text) < 10e6
    assert text.count("<script>") == 2  # plotly.js once, and ours
    head = text[: text.index("<script>")]
    assert not re.search(r'(?:src|href)="(?!#|data:)', head)
    assert "default-src 'none'" in head


def test_tables_lie_beside_the_page(written):
    rows = json.loads((written.parent / "summary.json").read_text())
    frame = pd.read_csv(written.parent / "summary.csv")
    assert [row["group"] for row in rows] == frame["group"].tolist()
    assert rows[0]["final"] == pytest.approx(frame["final"][0])


def test_shared_device_shows_gpu_hours_but_fits_flops_only(make_runs, tmp_path):
    make_runs.write_study(tmp_path / "runs", sizes=make_runs.SIZES[:1], seeds=1, shared=True)
    from scaling.report.gather import gather

    analysis = gather(scaling.load_runs(tmp_path / "runs"), draws=100)
    assert analysis.curves["gpu_hours"] and not analysis.fits["gpu_hours"]
    assert analysis.fits["total_flops"] and analysis.fits["pretraining_flops_ratio"]
    assert any("shared a device" in note for note in analysis.notes)
    page = report.write(scaling.load_runs(tmp_path / "runs"), tmp_path / "out", draws=100)
    assert "device shared by several runs" in page.read_text(encoding="utf-8")


def test_command_writes_the_report(study, tmp_path):
    result = CliRunner().invoke(cli, ["report", str(study), "--out", str(tmp_path / "r"), "--draws", "50"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "r" / "index.html").is_file()


@pytest.mark.parametrize("option", [{"law": "sigmiod"}, {"draws": 5}, {"seed": -1}])
def test_options_of_no_fit_are_an_error_and_no_report_without_fits(table, tmp_path, option):
    with pytest.raises(scaling.ScalingError, match=next(iter(option))):
        report.write(table, tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


def test_command_says_what_is_missing(tmp_path):
    result = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert "no run directory" in result.output


@pytest.mark.browser
def test_every_figure_is_drawn_without_console_error_or_request(written, browser_module, tmp_path):
    with browser_module.Browser() as browser:
        browser.open(written.as_uri())
        browser.wait("document.documentElement.dataset.ready")
        figures = browser.run("return document.querySelectorAll('.plot').length")
        assert figures >= 5
        assert browser.run("return document.querySelectorAll('.plot[data-drawn] .main-svg').length") >= figures
        assert browser.console() == []
        assert browser.requests() == []


HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg onload=window.hacked=1>',
    "<a href='javascript:window.hacked=1'>link</a>",
    '=HYPERLINK("http://localhost","x")',
    "%{customdata[0]} $\\alpha$ \u2028 \x00 `${window.hacked = 1}`",
]


@pytest.fixture(scope="module")
def hostile(make_runs, tmp_path_factory):
    """Runs whose names, models, benchmarks, recipes and metrics try to run code."""
    root = tmp_path_factory.mktemp("hostile")
    for i, text in enumerate(HOSTILE):
        size = make_runs.Size(text, 1e5 * (i + 1), 6e13 * (i + 1), make_runs.SIZES[0].truth)
        make_runs.write_run_dir(
            root / f"r{i}", size, run_id=f"{i}{text}", name=text, loss_type=text, benchmark=HOSTILE[0], steps=60,
            extra_metrics=[text], accelerator=text,
        )  # fmt: skip
    table = scaling.load_runs(root)
    return report.write(
        table, tmp_path_factory.mktemp("hostile-report"), draws=50, title=HOSTILE[0], command=HOSTILE[1]
    )


def test_hostile_names_are_text(hostile):
    text = hostile.read_text(encoding="utf-8")
    assert text.count("<script>") == 2 and "<img src=x" not in text and "<svg onload" not in text
    body = text[: text.index("<script>")]
    assert "window.hacked" in body  # the names are shown
    assert "</script><script>" not in body
    cells = pd.read_csv(hostile.parent / "runs.csv", keep_default_na=False)["name"]
    assert not cells.str.startswith("=").any() and cells.str.startswith("'=").sum() == 1
    exact = [row["name"] for row in json.loads((hostile.parent / "runs.json").read_text())]
    assert exact == HOSTILE


@pytest.mark.browser
def test_hostile_names_do_not_execute(hostile, browser_module):
    with browser_module.Browser() as browser:
        browser.open(hostile.as_uri())
        browser.wait("document.documentElement.dataset.ready")
        assert browser.run("return window.hacked === undefined")
        assert browser.run("return document.querySelectorAll('main img, main a, .plot a').length") == 0
        assert browser.console() == []
        assert browser.requests() == []
        drawn = browser.run("return document.querySelectorAll('.plot[data-drawn]').length")
        assert drawn == browser.run("return document.querySelectorAll('.plot').length") > 5


@pytest.mark.browser
def test_dark_mode_hover_and_print(written, browser_module):
    with browser_module.Browser() as browser:
        browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        browser.open(written.as_uri())
        browser.wait("document.documentElement.dataset.ready")
        ground = "return getComputedStyle(document.body).backgroundColor"
        assert browser.run(ground) == "rgb(20, 24, 29)"
        text = "return document.querySelector('.plot .xtitle').style.fill"
        dark = browser.run(text)
        for _ in range(2):  # auto -> light -> dark
            browser.run("document.getElementById('theme').click()")
            assert browser.run("return document.getElementById('theme').textContent") in ("theme: light", "theme: dark")
        assert browser.run(text) == dark
        browser.run("document.getElementById('theme').click(); document.getElementById('theme').click()")
        assert browser.run(ground) == "rgb(255, 255, 255)"
        assert browser.run(text) != dark
        x, y = browser.run(
            "const p = document.querySelectorAll('.plot .points path')[4]; p.scrollIntoView({block: 'center'});"
            "const r = p.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]"
        )
        for offset in (8, 0):
            browser.devtools("Input.dispatchMouseEvent", type="mouseMoved", x=x + offset, y=y)
        browser.wait("document.querySelector('.hoverlayer .hovertext')", 5)
        pdf = browser.devtools("Page.printToPDF", printBackground=True)["data"]
        assert len(pdf) > 100_000
        assert browser.console() == []


def test_recipes_are_compared_and_the_faster_is_told(make_runs, tmp_path):
    recipes = (("dapo", 1.0), ("cispo", 3.0))
    root = make_runs.write_study(tmp_path / "runs", sizes=make_runs.SIZES[2:], seeds=1, recipes=recipes)
    page = report.write(scaling.load_runs(root), tmp_path / "out", draws=200, law="sigmoid")
    text = page.read_text(encoding="utf-8")
    assert "Recipes at equal compute" in text and "the interval decides for grpo.loss_type=cispo" in text
    rows = json.loads((tmp_path / "out" / "recipes.json").read_text())
    ends = [r for r in rows if r["quantity"] == "difference" and r["status"] == "ok"]
    sign = {"grpo.loss_type=cispo": 1, "grpo.loss_type=dapo": -1}
    assert all(sign[r["other"]] * r["median"] > 0 for r in ends)
    names = [g["group"] for g in json.loads((tmp_path / "out" / "summary.json").read_text())]
    assert names == ["scratch-1m · grpo.loss_type=cispo", "scratch-1m · grpo.loss_type=dapo"]


def test_quick_leaves_out_the_back_test(table, tmp_path):
    report.write(table, tmp_path / "full", draws=50, law="sigmoid")
    report.write(table, tmp_path / "quick", draws=50, law="sigmoid", full=False)
    assert (tmp_path / "full" / "backtest.csv").is_file() and not (tmp_path / "quick" / "backtest.csv").exists()


def test_lost_work_and_restarts_are_told(make_runs, tmp_path):
    make_runs.write_run_dir(tmp_path / "r", make_runs.SIZES[0], run_id="r", restart_at=120)
    page = report.write(scaling.load_runs(tmp_path), tmp_path / "out", draws=50, law="sigmoid", full=False)
    row = json.loads((tmp_path / "out" / "cost.json").read_text())[0]
    assert row["redone_gpu_hours"] == pytest.approx(10 * 2.0 / 3600, rel=0.1)
    assert row["gpu_hours_paid"] == pytest.approx(row["gpu_hours"] + row["redone_gpu_hours"])
    assert "0123abcd 4567ef01" in page.read_text(encoding="utf-8")


def test_runs_without_evaluation_or_pretraining_still_make_a_report(make_runs, tmp_path):
    run = make_runs.write_run_dir(tmp_path / "r", make_runs.SIZES[0], run_id="r", pretraining=False, steps=30)
    (run / "evals.jsonl").unlink()
    page = report.write(scaling.load_runs(tmp_path), tmp_path / "out", draws=50)
    text = page.read_text(encoding="utf-8")
    assert "no held-out evaluation is recorded" in text
    assert report.summary_table(scaling.load_runs(tmp_path))["verdict"].tolist() == ["not fitted"]


def test_groups_are_told_apart_whatever_differs_within_a_size():
    from scaling import plot

    def group(size, recipe, flops):
        labels = {"model": f"m{size}", "params": 1e6 * size, "recipe_hash": recipe, "pretraining_flops": flops}
        return [scaling.Curve(compute=[1.0], performance=[0.1], labels=labels)]

    kinds = [(s, r, f * s) for s in range(1, 12) for r in ("a", "b") for f in (1e12, 4e12, 9e12)]
    looks = plot.looks({str(kind): group(*kind) for kind in kinds})
    assert len(set(looks.values())) == len(kinds)
    assert len({looks[str(k)].colour for k in kinds if k[0] == 3}) == 1, "one colour a size"
    assert len({looks[str(k)].dash for k in kinds if k[0] < 9 and k[1:] == ("a", 1e12 * k[0])}) == 1, (
        "one dash a variant"
    )


def test_many_points_are_drawn_faint_below_the_lines(monkeypatch):
    import numpy as np

    from scaling import plot

    c = np.geomspace(1.0, 100.0, 30)
    curve = scaling.Curve(compute=c, performance=0.6 - 0.3 / (1 + c / 10), stderr=np.full(30, 0.01))
    fits = {"a": scaling.fit(curve, law="sigmoid", draws=50)}
    few = plot.curves({"a": [curve]}, fits=fits)
    monkeypatch.setattr(plot, "CROWDED", 10)
    many = plot.curves({"a": [curve]}, fits=fits)
    points = [next(t for t in figure.data if t.mode == "markers") for figure in (few, many)]
    assert points[0].error_y.array is not None and points[1].error_y.array is None
    np.testing.assert_array_equal(points[0].y, points[1].y)
    order = [[t.mode for t in figure.data if t.fill is None].index("markers") for figure in (few, many)]
    assert order[0] > order[1] == 0


def test_a_section_has_one_legend_and_it_names_every_group(table):
    analysis = report.gather.gather(table, draws=50)
    section = report.fits.accuracy(analysis)
    figures = [part.figure for part in section.parts if isinstance(part, report.page.Figure)]
    named = [[t.name for t in f.data if t.showlegend and f.layout.showlegend is not False] for f in figures]
    assert len(figures) == 3 and sorted(named[0]) == sorted(g.name for g in analysis.groups)
    assert named[1:] == [[], []]
    assert all("as above" in part.caption for part in section.parts[1:])


def test_thinning_moves_no_fitted_line(make_runs, tmp_path):
    """The drawn median is the fit's own forecast, whatever number of steps was drawn."""
    import numpy as np

    from scaling import plot
    from scaling.report.gather import gather

    make_runs.write_run_dir(tmp_path / "r", make_runs.SIZES[0], run_id="r", steps=400, eval_every=2)
    analysis = gather(scaling.load_runs(tmp_path), draws=100, law="sigmoid")
    name, fit = next(iter(analysis.fitted.items()))
    figure = plot.curves({name: analysis.curves["total_flops"][name]}, fits={name: fit})
    line = next(t for t in figure.data if t.mode == "lines" and t.fill is None)
    assert np.allclose(line.y, fit.forecast(np.asarray(line.x, float)).median, atol=1e-5)
    ratio = analysis.fits["pretraining_flops_ratio"][name]
    x = np.array([1e11, 1e12, 1e13])
    assert np.allclose(ratio.forecast(x / 6e13).median, fit.forecast(x).median)


def _uneven(table):
    """The same runs with hours that are no multiple of their FLOPs, as measured hours are not."""
    evals = table.evals.assign(gpu_hours=table.evals["gpu_hours"] ** 1.05)
    return scaling.RunTable(table.runs, table.steps, evals)


def test_several_processes_give_the_same_numbers(table, monkeypatch):
    from scaling.report import fitting, gather

    one = gather.gather(_uneven(table), draws=100, law="sigmoid")
    monkeypatch.setattr(fitting, "PARALLEL_RUNS", 1)
    two = gather.gather(_uneven(table), draws=100, law="sigmoid", processes=2)
    for axis in ("gpu_hours", "total_flops"):
        assert one.fits[axis]
        for name, found in one.fits[axis].items():
            assert two.fits[axis][name].interval("asymptote") == found.interval("asymptote")
            assert two.fits[axis][name].status == found.status


def test_hours_in_proportion_to_flops_are_not_fitted_twice_and_their_band_is_that_of_a_fit(table):
    import numpy as np

    from scaling.report.gather import Rescaled, gather

    given, uneven = (gather(t, draws=100, law="sigmoid") for t in (table, _uneven(table)))
    assert given.fits["gpu_hours"] and set(given.fits["gpu_hours"]) == set(uneven.fits["gpu_hours"])
    assert not any(isinstance(f, Rescaled) for f in uneven.fits["gpu_hours"].values())
    for name, scaled in given.fits["gpu_hours"].items():
        assert isinstance(scaled, Rescaled)
        own = scaling.fit(given.curves["gpu_hours"][name], draws=100, law="sigmoid")
        assert scaled.window == pytest.approx(own.window, rel=1e-9)
        at = np.geomspace(own.window[1] / 20, own.window[1] * 4, 9)
        np.testing.assert_allclose(scaled.forecast(at).low, own.forecast(at).low, atol=1e-6)
        np.testing.assert_allclose(scaled.forecast(at).high, own.forecast(at).high, atol=1e-6)


@pytest.fixture
def shared_verl_log(shared_data):
    path = shared_data / "verl_qwen2_7b_gpg" / "qwen2-7b_math.log"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the outside data")
    return path


def test_an_imported_run_flows_on_and_its_hacked_reward_is_told(shared_verl_log, tmp_path):
    from scaling import importers

    table = importers.load(shared_verl_log, source="verl")
    page = report.write(table, tmp_path / "out", draws=100, benchmark="DigitalLearningGmbH/MATH-lighteval")
    text = page.read_text(encoding="utf-8")
    assert "its scores are under greedy decoding" in text
    row = json.loads((tmp_path / "out" / "agreement.json").read_text())[0]
    assert row["whole_reward_change"] > 0.05 and row["whole_accuracy_change"] < 0
    assert row["rank_correlation"] < 0 and row["verdict"].startswith("part ways")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())[0]["verdict"] != "identified"


def test_reward_and_accuracy_that_part_ways_are_told():
    import numpy as np

    from scaling.report.agreement import _change, _verdict

    rng, n = np.random.default_rng(0), 40
    error = np.full(n, 0.01)
    up, flat = np.linspace(0.2, 0.6, n), np.full(n, 0.5)
    noise = rng.normal(0, 0.01, (4, n))

    def verdict(reward, accuracy):
        pairs = [[_change(v, error, first=f) for v in (reward, accuracy)] for f in (0.0, 0.5)]
        return _verdict(*pairs)

    assert verdict(up + noise[0], up + noise[1]) == "agree"
    assert verdict(up + noise[0], 0.8 - up + noise[1]).startswith("part ways")
    assert verdict(up + noise[0], flat + noise[1]) == "reward moves, held-out within noise"
    late = np.where(np.arange(n) < n // 2, up, 0.8 - up)  # rises, then falls in the second half
    assert verdict(up + noise[0], late + noise[1]).startswith("part ways")
