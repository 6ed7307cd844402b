"""The text of step lines and the lines themselves are the same, whatever is in them."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.importers.lines import StepColumns

NUMBERS = st.one_of(
    st.just(np.nan),
    st.just(0.0),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**17), 10**17).map(float),
)
NAMES = st.one_of(
    st.sampled_from(["reward", "rollouts"]), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
)


@st.composite
def columns(draw):
    count = draw(st.integers(0, 5))
    group = st.dictionaries(NAMES, st.lists(NUMBERS, min_size=count, max_size=count), max_size=4)
    cost = {k: np.nan_to_num(np.abs(np.array(v, dtype=float))) for k, v in draw(group).items()}
    metrics = {k: np.array(v, dtype=float) for k, v in draw(group).items()}
    return StepColumns(np.arange(count) // 2, np.arange(count), cost, metrics)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(columns())
def test_text_is_the_json_of_the_lines(held):
    lines = held.dicts()
    read = [json.loads(line) for line in held.text().split("\n")[:-1]]
    assert read == lines
    # whole numbers stay floats, so that a column has one type on either way
    for line, row in zip(lines, read):
        for part in ("cost", "metrics"):
            assert {k: type(v) for k, v in row[part].items()} == {k: type(v) for k, v in line[part].items()}
