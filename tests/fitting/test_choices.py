"""`benchmarks/choices.py`: the library's own constants are those of `coverage.py`, others are not, and nothing is done twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import scaling

from .simulate import curve

ROOT = Path(__file__).resolve().parents[2]
OWN = {"coverage", "choices"}  # another package is called coverage too


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    before = {name: sys.modules.pop(name) for name in OWN & set(sys.modules)}
    yield
    for name in [n for n in sys.modules if n in OWN or n.startswith("_choices_")]:
        del sys.modules[name]
    sys.modules.update(before)


def test_present_constants_score_as_in_coverage_and_a_second_command_adds_nothing(benchmarks, tmp_path: Path, capsys):
    import choices
    import coverage
    from _choices_settings import PRESENT, SETTINGS
    from _choices_store import read

    arguments = ["--table", "odds", "--only", "intervals|weibull|3|1", "--draws", "100", "--out", str(tmp_path)]
    choices.main([*arguments, "--studies", "2"])
    results = read(tmp_path)
    cells = [c for c in coverage.cells(("intervals",)) if "intervals|weibull|3|1" in c.key]
    assert len(cells) == 2
    for cell in cells:
        want = coverage.reduce_cell([coverage.study(cell, i, 100) for i in range(2)])
        got = results.get(PRESENT.key, cell.key, 2)
        for target in ("asymptote", "forecast"):
            assert got[target].hit.mean() == want[f"ensemble:{target}"]["cover"]
            assert np.median(got[target].width) == pytest.approx(want[f"ensemble:{target}"]["width"], rel=1e-4)
        without = results.get(SETTINGS["odds"]["0, 1, 3 (no Weibull in the mixture)"].key, cell.key, 2)
        assert not np.allclose(without["forecast"].width, got["forecast"].width, rtol=1e-3)

    file = tmp_path / "choices.jsonl"
    once = file.read_text()
    choices.main([*arguments, "--studies", "2"])
    assert file.read_text() == once
    file.write_text(once[:-30])  # killed while it wrote its last line
    choices.main([*arguments, "--studies", "3"])
    again = read(tmp_path)
    assert again.broken == 1
    for (setting, design), chunks in again.chunks.items():
        studies = [
            i for first, line in chunks.items() for i in range(first, first + len(line["scores"]["forecast"]["hit"]))
        ]
        assert sorted(studies) == [0, 1, 2], (setting, design)
    lines = 2 * (len(SETTINGS["odds"]) + 1)  # of two designs; the profile's beside the settings'
    assert len(file.read_text().splitlines()) == (1 + lines) + (
        1 + lines
    )  # of the torn chunk all three studies, of others one
    capsys.readouterr()
    choices.main([*arguments, "--print"])
    page = capsys.readouterr().out
    assert "2 of 2 designs, 3 studies each" in page and "| **.5, 4, 15** |" in page
    with pytest.raises(SystemExit, match="--draws 100"):
        choices.main([*arguments[:4], "--out", str(tmp_path)])


def test_every_constant_of_a_setting_changes_the_fit_and_is_put_back(benchmarks):
    from _choices_settings import PRESENT, Setting, constants

    early, late = curve(ratio=0.6, n=20, rho=0.6, seed=4), curve(ratio=3.0, n=40, rho=0.6, seed=4)

    def widths(setting: Setting | None) -> list[float]:
        def fitted() -> list[float]:
            bands = [scaling.fit(c, draws=150).forecast([4 * c.compute[-1]]) for c in (early, late)]
            return [float(b.high[0] - b.low[0]) for b in bands]

        if setting is None:
            return fitted()
        with constants(setting):
            return fitted()

    plain = widths(None)
    assert widths(PRESENT) == plain
    for other in (
        Setting(weibull=0.0), Setting(power=2000.0), Setting(log_linear=500.0), Setting(onset=0.0), Setting(lam=1.0),
        Setting(evidence=0.0), Setting(rho_power=0.0), Setting(rho_max=0.6), Setting(drift=0.5),
    ):  # fmt: skip
        assert widths(other) != plain, other
    assert widths(None) == plain
    with constants(Setting(weibull=0.0, onset=0.0)):
        assert "weibull" not in scaling.fit(late, draws=50).weights


def test_sums_are_curves_of_their_seed_that_no_setting_changes(benchmarks):
    from _choices_designs import SUMS, study

    first, other, exponentials = (study(d, 0, 40)["ensemble:from 25 %"] for d in SUMS)
    assert first[2] != other[2] and first[2] != exponentials[2]
    assert study(SUMS[0], 0, 40)["ensemble:from 25 %"] == first
    assert json.dumps(first)
