"""Several tasks in one run: rows drawn by weight, each scored by its own task, rewards logged by task."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sweeps.schema import Strict
from sweeps.tasks.base import Benchmark
from sweeps.tasks.chain import ChainConfig
from sweeps.tasks.countdown import CountdownConfig
from sweeps.tasks.custom import CustomConfig
from sweeps.tasks.gym import GymConfig
from sweeps.tasks.math import MathConfig

__all__ = ["MixConfig", "MixTask"]

_Single = Annotated[ChainConfig | CountdownConfig | CustomConfig | GymConfig | MathConfig, Field(discriminator="name")]
_MARK = "\x1e"  # joins label and answer, so that a benchmark's answers find their task again


class MixConfig(Strict):
    """A mixture: tasks and weights by label."""

    name: Literal["mix"] = "mix"
    tasks: dict[str, _Single] = Field(description="label -> settings of a task")
    weights: dict[str, float] = Field(description="label -> weight; shares of the rows are weights over their sum")

    @model_validator(mode="after")
    def _check(self) -> MixConfig:
        if set(self.tasks) != set(self.weights) or not self.tasks:
            raise ValueError(
                f"task.weights must have the labels of task.tasks ({', '.join(self.tasks)}), got {', '.join(self.weights)}"
            )
        if min(self.weights.values()) <= 0:
            raise ValueError(f"task.weights must be > 0, got {self.weights}")
        return self


class MixTask:
    """A mixture as a `Task`: benchmark ``<label>/<benchmark>`` of every task, a reward function ``<label>`` for each."""

    name = "mix"

    def __init__(self, config: MixConfig, build: Callable[[Any], Any]) -> None:
        self.config = config
        self.tasks = {label: build(task) for label, task in config.tasks.items()}
        self.chat = any(getattr(task, "chat", False) for task in self.tasks.values())
        self.max_completion_length = max(task.max_completion_length for task in self.tasks.values())

    def training_rows(self, *, n: int, seed: int) -> list[dict[str, Any]]:
        """``n`` rows with their label in ``task``, mixed row by row; answers carry the label too."""
        labels = list(self.config.weights)
        rng = random.Random(f"mix {seed}")
        drawn = rng.choices(labels, [self.config.weights[label] for label in labels], k=n)
        rows = {
            label: iter(self.tasks[label].training_rows(n=max(1, drawn.count(label)), seed=seed)) for label in labels
        }
        out = []
        for label in drawn:
            row = next(rows[label])
            out.append({"prompt": row["prompt"], "answer": f"{label}{_MARK}{row['answer']}", "task": label})
        return out

    def benchmarks(self) -> dict[str, Benchmark]:
        """All benchmarks of all tasks, those of the first task first; never averaged over tasks."""
        out = {}
        for label, task in self.tasks.items():
            for name, bench in task.benchmarks().items():
                full = f"{label}/{name}"
                answers = [f"{label}{_MARK}{answer}" for answer in bench.answers]
                out[full] = Benchmark(full, bench.prompts, answers, bench.guess_rate, bench.max_completion_length)
        return out

    def notes(self) -> list[str]:
        """The notes of every task, each with its label."""
        return [
            f"{label}: {line}" for label, task in self.tasks.items() if hasattr(task, "notes") for line in task.notes()
        ]

    def reward_functions(self) -> list[Callable[..., list[float | None]]]:
        """One a task, None on the rows of the others, so that the trainer logs the mean reward of each task by its label."""
        return [self._reward(label) for label in self.tasks]

    def verify(self, completions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Each completion by the task that its answer names."""
        out = [0.0] * len(completions)
        for label, rows in _by_label(answers).items():
            scores = self.tasks[label].verify(
                [completions[i] for i in rows], [answers[i].split(_MARK, 1)[1] for i in rows]
            )
            for i, score in zip(rows, scores):
                out[i] = score
        return out

    def extract_answer(self, completion: str) -> str | None:
        """The whole completion: the task is not known from a completion alone."""
        return completion.strip() or None

    def _reward(self, label: str) -> Callable[..., list[float | None]]:
        functions = self.tasks[label].reward_functions()

        def reward(
            prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[str], **_: Any
        ) -> list[float | None]:
            out: list[float | None] = [None] * len(completions)
            rows = _by_label(answer).get(label, [])
            if rows:
                columns = {
                    "prompts": [prompts[i] for i in rows],
                    "completions": [completions[i] for i in rows],
                    "answer": [answer[i].split(_MARK, 1)[1] for i in rows],
                }
                parts = [function(**columns) for function in functions]
                for i, *scores in zip(rows, *parts):
                    out[i] = sum(scores)
            return out

        reward.__name__ = label
        return reward


def _by_label(answers: Sequence[str]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        out.setdefault(answer.split(_MARK, 1)[0], []).append(i)
    return out
