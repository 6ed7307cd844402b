"""Countdown: reach a target from a few numbers with + - * /, each number used at most once. Unlimited, seeded, offline."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from sweeps.schema import Strict
from sweeps.tasks.base import Benchmark
from sweeps.tasks.controls import RewardKind, as_reward

__all__ = ["CountdownConfig", "CountdownTask", "value_of"]

_PROMPT = (
    "Using the numbers {numbers}, each at most once, and the operations + - * / and brackets, write an expression that equals "
    "{target}. Think step by step, then give the expression alone in <answer> and </answer>.\n"
)


class CountdownConfig(Strict):
    """Settings of countdown."""

    name: Literal["countdown"] = "countdown"
    numbers_min: int = Field(3, ge=2, le=6)
    numbers_max: int = Field(4, ge=2, le=6)
    largest: int = Field(99, ge=2, description="numbers are 1 to this [1]")
    target_max: int = Field(999, ge=2, description="targets are 1 to this [1]")
    held_out: int = Field(512, ge=1)
    held_out_seed: int = Field(999, ge=0)
    chat: bool = False
    max_completion_length: int = Field(512, ge=1)
    reward: RewardKind = "correct"

    @model_validator(mode="after")
    def _check(self) -> CountdownConfig:
        if self.numbers_min > self.numbers_max:
            raise ValueError(f"task.numbers_min must be <= numbers_max={self.numbers_max}, got {self.numbers_min}")
        return self


class CountdownTask:
    """Countdown as a `Task`; an answer is checked by evaluating it exactly, never by comparing texts.

    Example:
        >>> task = CountdownTask(CountdownConfig(held_out=2))
        >>> task.verify(["<answer>(1 + 2) * 3</answer>", "<answer>9</answer>"], ["9 | 1 2 3", "9 | 1 2 3"])
        [1.0, 0.0]
    """

    name = "countdown"

    def __init__(self, config: CountdownConfig) -> None:
        self.config = config
        self.chat = config.chat
        self.max_completion_length = config.max_completion_length

    def training_rows(self, *, n: int, seed: int) -> list[dict[str, Any]]:
        """``n`` problems with a solution; none of them is held out; a longer list begins with a shorter one."""
        rng, rows = random.Random(f"countdown {seed}"), []
        while len(rows) < n:
            answer = self._problem(rng)
            if answer not in self._held_out_set:
                rows.append({"prompt": self._prompt(answer), "answer": answer})
        return rows

    def benchmarks(self) -> dict[str, Benchmark]:
        """``held_out``: different problems of the training distribution."""
        return {
            "held_out": Benchmark(
                name="held_out",
                prompts=[self._prompt(answer) for answer in self._held_out],
                answers=self._held_out,
                guess_rate=0.0,  # a constant expression uses constant numbers; it fits no other problem's numbers
                max_completion_length=self.max_completion_length,
            )
        }

    def reward_functions(self) -> list[Callable[..., list[float]]]:
        """``correct``, or the control."""
        return [as_reward(self.config.reward, correct=self.verify, well_formed=self.well_formed)]

    def verify(self, completions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """1.0 where the last <answer> is an expression over the given numbers that equals the target."""
        return [1.0 if _solves(self.extract_answer(c), a) else 0.0 for c, a in zip(completions, answers, strict=True)]

    def well_formed(self, completions: Sequence[str]) -> list[float]:
        """1.0 where there is an <answer> that is an arithmetic expression, right or wrong."""
        return [1.0 if value_of(self.extract_answer(c) or "") is not None else 0.0 for c in completions]

    def extract_answer(self, completion: str) -> str | None:
        """What stands in the last <answer></answer>; None where there is none."""
        start = completion.rfind("<answer>")
        end = completion.find("</answer>", start)
        return completion[start + len("<answer>") : end].strip() if start >= 0 and end >= 0 else None

    @cached_property
    def _held_out(self) -> list[str]:
        rng, found = random.Random(f"countdown held out {self.config.held_out_seed}"), {}
        while len(found) < self.config.held_out:
            found[self._problem(rng)] = None
        return list(found)

    @cached_property
    def _held_out_set(self) -> set[str]:
        return set(self._held_out)

    def _problem(self, rng: random.Random) -> str:
        """``target | numbers``: the target is the value of a random expression over all the numbers."""
        while True:
            numbers = [
                rng.randint(1, self.config.largest)
                for _ in range(rng.randint(self.config.numbers_min, self.config.numbers_max))
            ]
            values = [Fraction(x) for x in numbers]
            while len(values) > 1:
                a, b = (values.pop(rng.randrange(len(values))) for _ in range(2))
                values.append(rng.choice([a + b, a - b, a * b, a / b if b else a + b]))
            target = values[0]
            if target.denominator == 1 and 1 <= target <= self.config.target_max and target not in numbers:
                return f"{target} | {' '.join(map(str, sorted(numbers)))}"

    def _prompt(self, answer: str) -> Any:
        target, numbers = answer.split(" | ")
        text = _PROMPT.format(numbers=", ".join(numbers.split()), target=target)
        return [{"role": "user", "content": text}] if self.config.chat else text


def value_of(expression: str) -> tuple[Fraction, list[int]] | None:
    """Exact value and the numbers used; None where the text is not an expression of whole numbers with + - * /.

    Example:
        >>> value_of("(1 + 2) / 4")
        (Fraction(3, 4), [1, 2, 4])
        >>> value_of("2 ** 9") is None
        True
    """
    if len(expression) > 200:
        return None
    used: list[int] = []

    def visit(node: ast.AST) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            used.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.BinOp):
            a, b = visit(node.left), visit(node.right)
            match node.op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
        raise ValueError

    try:
        return visit(ast.parse(expression.replace("×", "*").replace("÷", "/"), mode="eval").body), used
    except (ValueError, SyntaxError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _solves(expression: str | None, answer: str) -> bool:
    found = value_of(expression or "")
    if found is None:
        return False
    target, numbers = answer.split(" | ")
    left = list(map(int, numbers.split()))
    for number in found[1]:
        if number not in left:
            return False
        left.remove(number)
    return found[0] == int(target)
