"""The examples in the core's docstrings run as printed, and what most people call has one."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def with_examples() -> list[str]:
    paths = sorted(p for p in (ROOT / "scaling").rglob("*.py") if ">>>" in p.read_text(encoding="utf-8"))
    return [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in paths]


@pytest.mark.parametrize("name", with_examples())
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def public_names() -> list[tuple[str, str]]:
    import scaling

    found = [(f"scaling.{scaling._HOME[name]}", name) for name in scaling.__all__]
    for module in ("flops", "metrics", "ratio", "plan", "pretraining", "collapse", "reference", "hardware"):
        names = importlib.import_module(f"scaling.{module}").__all__
        found += [(f"scaling.{module}", name) for name in names if name[0].islower()]
    return found


@pytest.mark.parametrize(("module", "name"), public_names())
def test_public_names_have_an_example(module, name):
    assert ">>>" in (getattr(importlib.import_module(module), name).__doc__ or ""), f"{module}.{name} has no example"
