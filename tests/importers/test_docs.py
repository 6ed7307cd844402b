"""docs/importing.md says what the shipped mappings say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from scaling.importers import load_mapping
from scaling.importers.reference import metric_table, semantics_table

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "importing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "table"), [("metrics", metric_table), ("semantics", semantics_table)])
def test_tables_are_those_of_the_mappings(name, table):
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", PAGE, re.S)
    assert found and found[1] == table(), "run: python -m scaling.importers.reference"


def test_example_mappings_load():
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert len(examples) == 2
    for text in examples:
        assert load_mapping(yaml.safe_load(text)).metrics
