"""reasoning-gym families (optional package): procedural problems with their own scoring, unlimited and seeded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from scaling.errors import ConfigError
from sweeps.schema import Strict
from sweeps.tasks.base import Benchmark
from sweeps.tasks.controls import RewardKind, as_reward

__all__ = ["GymConfig", "GymTask"]


class GymConfig(Strict):
    """Settings of one reasoning-gym family."""

    name: Literal["gym"] = "gym"
    family: str = Field(description="name of the dataset in reasoning-gym, e.g. chain_sum")
    settings: dict[str, Any] = Field({}, description="its own settings, e.g. {min_terms: 2, max_terms: 6}")
    held_out: int = Field(256, ge=1)
    held_out_seed: int = Field(999, ge=0)
    chat: bool = False
    template: str = "{question}\nGive the final answer alone in <answer> and </answer>.\n"
    max_completion_length: int = Field(512, ge=1)
    reward: RewardKind = "correct"
    guess_rate: float = Field(0.0, ge=0, lt=1, description="chance of a blind guess, where the family has few answers")
    solved_at: float = Field(1.0, gt=0, le=1, description="score from which a completion counts as correct")


class GymTask:
    """A reasoning-gym family as a `Task`."""

    name = "gym"

    def __init__(self, config: GymConfig) -> None:
        self.config = config
        self.chat = config.chat
        self.max_completion_length = config.max_completion_length

    def training_rows(self, *, n: int, seed: int) -> list[dict[str, Any]]:
        """``n`` problems; those whose question is held out are left out."""
        held_out = {self._text(entry) for entry in self._held_out}
        rows: list[dict[str, Any]] = []
        for block in range(100):
            data = self._dataset(size=n, seed=seed * 1009 + 7 + block)
            rows += [{"prompt": self._prompt(e), "answer": _dump(e)} for e in data if self._text(e) not in held_out]
            if len(rows) >= n:
                return rows[:n]
        raise ConfigError(
            f"task.family={self.config.family} has too few problems beside the {self.config.held_out} held out; lower task.held_out"
        )

    def benchmarks(self) -> dict[str, Benchmark]:
        """``held_out``: problems of the same family and settings under another seed."""
        return {
            "held_out": Benchmark(
                name="held_out",
                prompts=[self._prompt(e) for e in self._held_out],
                answers=[_dump(e) for e in self._held_out],
                guess_rate=self.config.guess_rate,
                max_completion_length=self.max_completion_length,
            )
        }

    def reward_functions(self) -> list[Callable[..., list[float]]]:
        """``correct``, or the control."""
        return [as_reward(self.config.reward, correct=self.verify, well_formed=self.well_formed)]

    def verify(self, completions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """1.0 where the family's own scoring reaches ``solved_at``."""
        scorer = self._held_out_data
        scores = (
            scorer.score_answer(answer=self.extract_answer(c), entry=json.loads(a))
            for c, a in zip(completions, answers, strict=True)
        )
        return [1.0 if score >= self.config.solved_at else 0.0 for score in scores]

    def well_formed(self, completions: Sequence[str]) -> list[float]:
        """1.0 where there is a non-empty <answer></answer>."""
        return [1.0 if self.extract_answer(c) else 0.0 for c in completions]

    def extract_answer(self, completion: str) -> str | None:
        """What stands in the last <answer></answer>."""
        start = completion.rfind("<answer>")
        end = completion.find("</answer>", start)
        return completion[start + len("<answer>") : end].strip() if start >= 0 and end >= 0 else None

    @cached_property
    def _held_out_data(self) -> Any:
        return self._dataset(size=self.config.held_out, seed=self.config.held_out_seed)

    @cached_property
    def _held_out(self) -> list[dict[str, Any]]:
        return list({self._text(e): e for e in self._held_out_data}.values())

    def _dataset(self, *, size: int, seed: int) -> Any:
        try:
            import reasoning_gym  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError("task gym needs the package reasoning-gym: pip install reasoning-gym") from error
        try:
            return reasoning_gym.create_dataset(self.config.family, size=size, seed=seed, **self.config.settings)
        except (ValueError, TypeError, AssertionError) as error:
            raise ConfigError(
                f"task.family={self.config.family}: {error}; see reasoning-gym's gallery for families and settings"
            ) from error

    def _text(self, entry: dict[str, Any]) -> str:
        return entry["question"]

    def _prompt(self, entry: dict[str, Any]) -> Any:
        text = self.config.template.format(question=entry["question"])
        return [{"role": "user", "content": text}] if self.config.chat else text


def _dump(entry: dict[str, Any]) -> str:
    return json.dumps({k: entry[k] for k in ("question", "answer", "metadata") if k in entry}, default=str)
