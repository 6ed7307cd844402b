"""The examples in the core's docstrings run as printed, and what most people call has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
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


# modules whose functions, and the classes these return, are called from outside
MODULES = (
    "flops", "metrics", "ratio", "plan", "pretraining", "collapse", "reference", "hardware", "compare", "backtest", "plot",
    "records", "runs", "fitting", "curve", "forecast", "cost", "recorder", "conventions", "workload", "shapes", "ledger_table",
    "architectures", "bundled", "errors", "factors", "importers", "law", "laws", "report", "study", "throughput",
)  # fmt: skip


def public_names() -> list[tuple[str, str]]:
    import scaling

    found = [(f"scaling.{scaling._HOME[name]}", name) for name in scaling.__all__]
    for name in MODULES:
        module = importlib.import_module(f"scaling.{name}")
        found += [
            (module.__name__, n)
            for n in module.__all__
            if inspect.isroutine(v := getattr(module, n)) or inspect.isclass(v)
        ]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("module", "name"), public_names())
def test_public_names_have_an_example(module, name):
    assert ">>>" in (getattr(importlib.import_module(module), name).__doc__ or ""), f"{module}.{name} has no example"
