"""Fixtures of the report's tests: synthetic studies of known truth, and a headless browser where there is one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def make_runs() -> ModuleType:
    """The module that writes synthetic run directories."""
    return _load("make_runs")


@pytest.fixture(scope="session")
def study(make_runs, tmp_path_factory) -> Path:
    """Three sizes, two seeds, one recipe."""
    return make_runs.write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def browser_module() -> ModuleType:
    """The headless browser, or a skip that says what is missing."""
    module = _load("browser")
    reason = module.missing()
    if reason:
        pytest.skip(reason)
    return module
