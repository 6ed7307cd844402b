"""Fixtures: no account, and the loopback stand-in of a W&B server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def load(name: str, path: Path):
    """A module of the tests, importable by its name wherever pytest was started."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


load("wandb_server", HERE.parent / "wandb_server.py")
load("tracking_runs", HERE / "tracking_runs.py")


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A running stand-in; this process's wandb is pointed at it and torn down afterwards."""
    wandb = pytest.importorskip("wandb")
    with sys.modules["wandb_server"].WandbServer() as running:
        for name, value in running.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield running
        wandb.teardown()
    assert running.unknown == []
