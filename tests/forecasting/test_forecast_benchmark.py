"""`benchmarks/forecasting.py` scores any method on any folder of curves in the tidy form and draws a valid figure."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]


def run(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "forecasting.py"), *map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def test_a_folder_of_tidy_curves_and_a_method_of_ones_own(tmp_path: Path) -> None:
    rng, c = np.random.default_rng(0), np.linspace(20, 1000, 40)
    folder = tmp_path / "curves"
    folder.mkdir()
    for name, c_mid in (("small <1>", 60.0), ("large & wide", 200.0)):
        parts = []
        for seed in range(2):
            y = 0.2 + 0.4 / (1 + (c_mid / c) ** 1.4) + rng.normal(0, 0.005, c.size)
            parts.append(pd.DataFrame({"curve": name, "seed": seed, "compute": c, "score": y, "axis": "total_flops"}))
        pd.concat(parts).to_csv(folder / f"{c_mid:.0f}.csv", index=False)
    (tmp_path / "mine.py").write_text(
        "def halfway(prefix, compute, level):\n    y = 0.5 + 0 * compute\n    return y, y - 0.2, y + 0.2\n"
    )
    done = run(
        folder, "--method", "mine:halfway", "--draws", 60, "--figure", "f.svg", "--csv", "scores.csv", "--docs", "docs",
        "--source", "made up", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "halfway" in done.stdout
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert set(scores["method"]) >= {"halfway", "ensemble", "last_value", "log_linear"}
    assert set(scores["curve"]) == {"small <1>", "large & wide"}
    assert (scores["n_fit"] > 0).all()
    text = (tmp_path / "f.svg").read_text()
    ET.fromstring(text)
    assert "small &lt;1&gt;" in text
    assert "| halfway |" in (tmp_path / "docs" / "results" / "forecasting.md").read_text()


def test_a_table_in_another_form_is_refused_with_its_columns(tmp_path: Path) -> None:
    pd.DataFrame({"name": ["a"], "flops": [1.0], "acc": [0.1]}).to_csv(tmp_path / "x.csv", index=False)
    done = run(tmp_path, cwd=tmp_path)
    assert done.returncode != 0
    assert "lacks compute, curve, score; it has name, flops, acc" in done.stderr
