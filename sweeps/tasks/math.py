"""Mathematical problems with a checkable answer: any dataset with a prompt and an answer column, checked by math-verify."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from scaling.errors import ConfigError
from sweeps.schema import Strict
from sweeps.tasks.base import Benchmark
from sweeps.tasks.controls import RewardKind, as_reward, text_of
from sweeps.tasks.overlap import ngram_overlap, same_text
from sweeps.tasks.rows import Problem, RowsConfig, last_boxed, load_problems
from sweeps.tasks.verifier import MathVerifier

__all__ = ["MathConfig", "MathTask"]

_SHOWN = 3  # examples in a message


class MathConfig(Strict):
    """Settings of the math task."""

    name: Literal["math"] = "math"
    train: RowsConfig | None = Field(
        None, description="training problems, `held_out` of them set aside for evaluation; null: benchmarks only"
    )
    benchmarks: dict[str, RowsConfig] = Field(
        {}, description="further benchmarks by name (transfer; never averaged with held_out)"
    )
    held_out: int = Field(
        256, ge=1, description="problems cut from train for evaluation of the training distribution [1]"
    )
    held_out_seed: int = Field(999, ge=0)
    chat: bool = Field(False, description="prompts as chat messages (needs a chat template) rather than plain text")
    system: str | None = Field(None, description="system message, with chat")
    template: str = Field(
        "{problem}\nReason step by step, and put your final answer within \\boxed{{}}.\n",
        description="what a text prompt becomes; prompts that are messages already stay as they are",
    )
    max_completion_length: int = Field(2048, ge=1, description="completions are cut here [token]")
    reward: RewardKind = Field("correct", description="correct, or a control: random, format")
    format_weight: float = Field(
        0.0, ge=0, description="a second reward of this size for an answer in \\boxed{}, scored apart"
    )
    verifier_workers: int = Field(2, ge=1, le=64, description="processes that check answers [1]")
    verifier_seconds: float = Field(
        10.0, gt=0, description="one check may take so long before its process is ended [s]"
    )
    max_unparsed_share: float = Field(
        0.05, ge=0, le=1, description="refuse a dataset with more unreadable gold answers than this"
    )
    guess_rate: float = Field(
        0.0, ge=0, lt=1, description="chance that a blind guess is right; measured from the answers if larger"
    )
    ngram: int = Field(13, ge=2, description="words in a row that count as overlap of training and evaluation")

    @model_validator(mode="after")
    def _check(self) -> MathConfig:
        if "{problem}" not in self.template:
            raise ValueError(f"task.template must contain {{problem}}, got {self.template!r}")
        if self.train is None and not self.benchmarks:
            raise ValueError("task.train or task.benchmarks must be set")
        if "held_out" in self.benchmarks:
            raise ValueError(
                "task.benchmarks.held_out is the name of the split cut from train; name the benchmark differently"
            )
        return self


class MathTask:
    """Problems and a verifier, as a `Task`; data is loaded when it is first asked for."""

    name = "math"

    def __init__(self, config: MathConfig) -> None:
        self.config = config
        self.max_completion_length = config.max_completion_length
        self.chat = config.chat
        self.verifier = MathVerifier(workers=config.verifier_workers, limit=config.verifier_seconds)
        self._notes: list[str] = []

    def training_rows(self, *, n: int, seed: int) -> list[dict[str, Any]]:
        """``n`` rows: one shuffle of the training problems after another, so that each occurs equally often."""
        train, _ = self._split
        rng, rows = random.Random(f"math {seed}"), []
        while len(rows) < n:
            order = list(range(len(train)))
            rng.shuffle(order)
            rows += [{"prompt": self._prompt(train[i][0]), "answer": train[i][1]} for i in order]
        return rows[:n]

    def benchmarks(self) -> dict[str, Benchmark]:
        """``held_out`` (the training distribution) first, then the named ones (transfer)."""
        problems = ({"held_out": self._split[1]} if self.config.train else {}) | self._transfer
        return {
            name: Benchmark(
                name=name,
                prompts=[self._prompt(p) for p, _ in rows],
                answers=[a for _, a in rows],
                guess_rate=max(self.config.guess_rate, _most_frequent([a for _, a in rows])),
                max_completion_length=self.max_completion_length,
            )
            for name, rows in problems.items()
        }

    def notes(self) -> list[str]:
        """Lines to print before training: rows left out, unreadable answers, overlap of training and evaluation."""
        train, held_out = self._split if self.config.train else ([], [])
        lines = list(self._notes)
        for name, rows in (({"held_out": held_out} if held_out else {}) | self._transfer).items():
            shared = ngram_overlap([p for p, _ in train], [p for p, _ in rows], n=self.config.ngram)
            lines.append(
                f"{name}: {len(rows)} problems, {len(shared)} share {self.config.ngram} words in a row with a training prompt"
            )
        return lines

    def reward_functions(self) -> list[Callable[..., list[float]]]:
        """``correct`` (or the control), then ``format`` where it has a weight."""
        if self.config.reward == "correct":
            functions: list[Callable[..., list[float]]] = [self._correct()]
        else:
            functions = [as_reward(self.config.reward, correct=self.verify, well_formed=self.well_formed)]
        if self.config.format_weight and self.config.reward != "format":
            weight = self.config.format_weight

            def format(completions: Sequence[Any], **_: Any) -> list[float]:
                return [weight * x for x in self.well_formed([text_of(c) for c in completions])]

            functions.append(format)
        return functions

    def _correct(self) -> Callable[..., list[float]]:
        def correct(completions: Sequence[Any], answer: Sequence[str], log_metric: Any = None, **_: Any) -> list[float]:
            outcomes = self.verifier.outcomes([text_of(c) for c in completions], answer)
            if log_metric is not None:  # TRL's: what could not be checked is seen in every log, never silently 0
                for name in ("unparsed", "timeout", "error"):
                    log_metric(f"verifier/{name}", outcomes.count(name) / max(1, len(outcomes)))
            return [1.0 if outcome == "correct" else 0.0 for outcome in outcomes]

        return correct

    def verify(self, completions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """1.0 where math-verify finds the completion's answer equal to the gold answer."""
        return [1.0 if outcome == "correct" else 0.0 for outcome in self.verifier.outcomes(completions, answers)]

    def well_formed(self, completions: Sequence[str]) -> list[float]:
        r"""1.0 where the completion has a closed, non-empty ``\boxed{}``, right or wrong."""
        return [1.0 if last_boxed(completion) else 0.0 for completion in completions]

    def extract_answer(self, completion: str) -> str | None:
        """The answer in a normal form, for majority votes."""
        return self.verifier.extract([completion])[0]

    @cached_property
    def _split(self) -> tuple[list[Problem], list[Problem]]:
        if self.config.train is None:
            raise ConfigError(
                f"this task has benchmarks only ({', '.join(self.config.benchmarks)}): train on another, or set task.train.path"
            )
        problems, without = load_problems(self.config.train)
        if without:
            self._notes.append(f"{self.config.train.path}: {without} rows without prompt or answer left out")
        problems = self._readable(problems, self.config.train.path)
        distinct = list({same_text(prompt): (prompt, answer) for prompt, answer in reversed(problems)}.values())[::-1]
        if len(distinct) < len(problems):
            self._notes.append(f"{self.config.train.path}: {len(problems) - len(distinct)} repeated prompts dropped")
        if len(distinct) < 2 * self.config.held_out:
            raise ConfigError(
                f"task.held_out must be at most half of the {len(distinct)} different problems of {self.config.train.path}, got {self.config.held_out}"
            )
        random.Random(self.config.held_out_seed).shuffle(distinct)
        held_out, train = distinct[: self.config.held_out], distinct[self.config.held_out :]
        evaluation = {same_text(p) for rows in self._transfer.values() for p, _ in rows}
        kept = [row for row in train if same_text(row[0]) not in evaluation]
        if len(kept) < len(train):
            self._notes.append(
                f"{self.config.train.path}: {len(train) - len(kept)} training prompts that are benchmark prompts dropped"
            )
        return kept, held_out

    @cached_property
    def _transfer(self) -> dict[str, list[Problem]]:
        out = {}
        for name, rows in self.config.benchmarks.items():
            problems, without = load_problems(rows)
            if without:
                self._notes.append(f"{rows.path}: {without} rows without prompt or answer left out")
            out[name] = self._readable(problems, rows.path)
        return out

    def _readable(self, problems: list[Problem], path: str) -> list[Problem]:
        unparsed = set(self.verifier.unparsed_golds(sorted({answer for _, answer in problems})))
        bad = [answer for _, answer in problems if answer in unparsed]
        if len(bad) > self.config.max_unparsed_share * len(problems):
            raise ConfigError(
                f"{path}: {len(bad)} of {len(problems)} gold answers cannot be read as mathematics, e.g. {bad[:_SHOWN]}; "
                f"check answer_column and answer_from, or raise task.max_unparsed_share={self.config.max_unparsed_share}"
            )
        if bad:
            self._notes.append(f"{path}: {len(bad)} unreadable gold answers left out, e.g. {bad[:_SHOWN]}")
        return [row for row in problems if row[1] not in unparsed]

    def _prompt(self, prompt: Any) -> Any:
        if not isinstance(prompt, str):
            return [dict(message) for message in prompt]
        text = self.config.template.format(problem=prompt)
        if not self.config.chat:
            return text
        system = [{"role": "system", "content": self.config.system}] if self.config.system else []
        return [*system, {"role": "user", "content": text}]


def _most_frequent(answers: Sequence[str]) -> float:
    """Share of the most frequent answer: what the best constant guess scores, 0 to 1."""
    return max(answers.count(a) for a in set(answers)) / len(answers) if answers else 0.0
