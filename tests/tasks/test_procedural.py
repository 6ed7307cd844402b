"""Countdown and reasoning-gym."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import ConfigError
from sweeps.tasks import build
from sweeps.tasks.countdown import CountdownConfig, value_of
from sweeps.tasks.gym import GymConfig


def solvable(target: int, numbers: tuple[int, ...]) -> bool:
    """Whether some expression over some of the numbers gives the target, by search."""

    def reach(values: tuple[Fraction, ...]) -> bool:
        if target in values:
            return True
        for (i, a), (j, b) in itertools.permutations(enumerate(values), 2):
            rest = tuple(v for k, v in enumerate(values) if k not in (i, j))
            if any(reach((*rest, c)) for c in (a + b, a - b, a * b, *([a / b] if b else []))):
                return True
        return False

    return reach(tuple(map(Fraction, numbers)))


def test_countdown_problems_are_solvable_held_out_and_seeded():
    task = build(CountdownConfig(numbers_max=3, largest=12, target_max=60, held_out=40))
    held_out = task.benchmarks()["held_out"]
    rows = task.training_rows(n=300, seed=0)
    assert len(set(held_out.answers)) == 40 and not set(held_out.answers) & {row["answer"] for row in rows}
    assert rows[:50] == task.training_rows(n=50, seed=0) and rows != task.training_rows(n=300, seed=1)
    for row in rows[:25]:
        target, numbers = row["answer"].split(" | ")
        assert solvable(int(target), tuple(map(int, numbers.split())))
        assert target in row["prompt"] and all(x in row["prompt"] for x in numbers.split())


def test_countdown_checks_by_value_and_by_the_numbers_used():
    task = build(CountdownConfig(held_out=1))
    gold = "24 | 1 5 5 5"
    right = ["<answer>5 * (5 - 1 / 5)</answer>", "I try <answer>5</answer> no, <answer> (5-1/5)*5 </answer>"]
    wrong = [
        "<answer>24</answer>", "<answer>5*5-1</answer> = 24"[:-5] + "0", "<answer>5+5+5+5+5-1</answer>", "5*(5-1/5)", "<answer></answer>",
        "<answer>__import__('os')</answer>", "<answer>5*(5-1/5)", "<answer>1/0</answer>", "<answer>-5</answer>", "<answer>2**9</answer>",
    ]  # fmt: skip
    assert task.verify(right, [gold] * 2) == [1.0, 1.0]
    assert task.verify(["<answer>5*5-1</answer>"], ["24 | 1 5 5 5"]) == [1.0], (
        "each number at most once: not all are needed"
    )
    wrong.pop(1)
    assert task.verify(wrong, [gold] * len(wrong)) == [0.0] * len(wrong)
    assert task.well_formed(["<answer>1+1</answer>", "<answer>x</answer>", "1"]) == [1.0, 0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="0123456789+-*/() .eEjx_'\"[]", max_size=40))
def test_value_of_never_raises_and_agrees_with_python(text: str):
    found = value_of(text)
    if found is not None:
        assert float(found[0]) == pytest.approx(float(eval(text)), rel=1e-9)


def test_gym_family_or_its_absence_is_said():
    pytest.importorskip("reasoning_gym", reason="optional package reasoning-gym")
    task = build(GymConfig(family="chain_sum", settings={"min_terms": 2, "max_terms": 3}, held_out=8))
    rows, bench = task.training_rows(n=30, seed=0), task.benchmarks()["held_out"]
    assert not {r["prompt"] for r in rows} & set(bench.prompts)
    import json

    good = [f"<answer>{json.loads(a)['answer']}</answer>" for a in bench.answers]
    assert task.verify(good, bench.answers) == [1.0] * len(good) and task.verify(
        ["<answer>x</answer>"], bench.answers[:1]
    ) == [0.0]
    with pytest.raises(ConfigError, match="no_such"):
        build(GymConfig(family="no_such")).benchmarks()


def test_gym_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match="pip install reasoning-gym"):
        build(GymConfig(family="chain_sum")).benchmarks()
