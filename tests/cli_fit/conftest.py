"""Tables and run folders for the tests of the commands fit, forecast and compare."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from scaling import Sigmoid
from scaling.cli import cli


@pytest.fixture
def cli_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run ``rl-scaling ARGS`` in a fresh folder; a crash is re-raised, an error message is a result."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> Result:
        result = CliRunner().invoke(cli, [str(a) for a in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def sweep_csv(tmp_path: Path) -> Path:
    """Two recipes (one twice as fast), three seeds each, settings beside the scores."""
    rng, c = np.random.default_rng(1), np.geomspace(5, 2000, 40)
    rows = []
    for recipe, c_mid in (("slow", 120.0), ("fast", 60.0)):
        for seed in range(3):
            y = Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=c_mid, r_0=0.2)(c) + rng.normal(0, 0.004, c.size)
            rows.append(pd.DataFrame({"gpu_hours": c, "accuracy": y, "recipe": recipe, "seed": seed, "staleness": 8}))
    path = tmp_path / "sweep.csv"
    pd.concat(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One synthetic run directory of known truth."""
    name = "make_runs_for_cli"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "report" / "make_runs.py")
    assert spec
    assert spec.loader
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("runs")
    module.write_run_dir(folder / "a", module.SIZES[0], run_id="a", steps=120)
    return folder
