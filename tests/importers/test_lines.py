"""The text of step lines and the lines themselves are the same, whatever is in them."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.importers.lines import EvalColumns, StepColumns, eval_dicts, eval_text

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


@settings(max_examples=150, deadline=None)
@given(columns())
def test_text_is_the_json_of_the_lines(held):
    lines = held.dicts()
    read = [json.loads(line) for line in held.text().decode().split("\n")[:-1]]
    assert read == lines
    # whole numbers stay floats, so that a column has one type on either way
    for line, row in zip(lines, read):
        for part in ("cost", "metrics"):
            assert {k: type(v) for k, v in row[part].items()} == {k: type(v) for k, v in line[part].items()}


@st.composite
def evaluations(draw):
    rows = draw(st.integers(1, 4))
    parts = []
    for i in range(draw(st.integers(0, 3))):
        where = np.array(sorted(draw(st.sets(st.integers(0, rows), min_size=1))))
        n = len(where)
        group = st.dictionaries(NAMES, st.lists(NUMBERS, min_size=n, max_size=n), max_size=3)
        cost = {k: np.nan_to_num(np.abs(np.array(v, dtype=float))) for k, v in draw(group).items()}
        metrics = {k: np.array(v, dtype=float) for k, v in draw(group).items()}
        score = np.nan_to_num(np.array(draw(st.lists(NUMBERS, min_size=n, max_size=n)), dtype=float))
        constant = {"sampling": {"decoding": draw(NAMES)}} | draw(st.sampled_from([{}, {"k": 4}]))
        parts.append(EvalColumns(f"b{i}{draw(NAMES)}", where, where // 2, where, cost, score, metrics, constant))
    return parts


@settings(max_examples=100, deadline=None)
@given(evaluations())
def test_text_of_evaluations_is_the_json_of_the_lines_in_the_order_of_the_log(parts):
    lines = eval_dicts(parts)
    assert [json.loads(line) for line in eval_text(parts).decode().split("\n")[:-1]] == lines
    places = [(line["step"], line["benchmark"]) for line in lines]
    names = {part.benchmark: i for i, part in enumerate(parts)}
    assert places == sorted(places, key=lambda p: (p[0], names[p[1]]))
