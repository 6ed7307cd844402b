"""Fixtures: no account, and the loopback stand-in of a W&B server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def load_server_module():
    """tests/wandb_server.py, wherever pytest was started."""
    path = Path(__file__).resolve().parent.parent / "wandb_server.py"
    spec = importlib.util.spec_from_file_location("wandb_server", path)
    assert spec and spec.loader
    module = sys.modules.setdefault("wandb_server", importlib.util.module_from_spec(spec))
    if not hasattr(module, "WandbServer"):
        spec.loader.exec_module(module)
    return module


load_server_module()


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
    with load_server_module().WandbServer() as running:
        for name, value in running.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield running
        wandb.teardown()
    assert running.unknown == []
