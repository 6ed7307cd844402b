"""The examples in the docstrings of fits of losses, back-tests, comparisons and collapse run as printed."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["backtest", "collapse", "compare", "pretraining.loss"])
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"scaling.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
