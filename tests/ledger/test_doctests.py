"""The examples in the docstrings of the ledger, of what relates RL to pretraining, and of planning."""

import doctest
import importlib

import pytest

MODULES = (
    "scaling.flops", "scaling.shapes", "scaling.conventions", "scaling.hardware", "scaling.ratio", "scaling.reference",
    "scaling.workload", "scaling.throughput", "scaling.plan", "scaling.pretraining.joint",
    "scaling.pretraining._joint_laws", "scaling.pretraining.bases", "scaling.pretraining._surface_parts",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0
