"""When a run is evaluated, and what is written: a callback around `sweeps.evaluation`.

Dense while the curve rises, then regular, thinned so that evaluation stays below its share of the run's FLOPs. The cadence
never changes the weights: every evaluation restores all random states.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from scaling import records
from scaling.cost import ComputeCost
from scaling.errors import ConfigError
from scaling.flops import ModelShape
from scaling.metrics import blind_guess_pass_at_k, pass_at_k, sampling_error
from sweeps.config import BenchmarkConfig, EvalConfig
from sweeps.evaluation import Sampled, majority_accuracy, sample
from sweeps.meter import Meter
from sweeps.ranks import first_rank_works, first_says
from sweeps.tasks.base import Benchmark, Task

__all__ = ["Evaluator", "evaluation_steps"]


def evaluation_steps(*, early: Sequence[int], every: int, last: int, affordable: float) -> list[int]:
    """Steps to evaluate at: the early ones, then every ``every``, thinned to at most ``affordable`` in number.

    Thinning doubles ``every`` first, then keeps a log-spaced part of the early steps; the first and the last step stay.

    Args:
        early: steps of the dense phase.
        every: spacing after it [step].
        last: last step of the run.
        affordable: evaluations that fit the share of compute, the first and last included [1].

    Example:
        >>> evaluation_steps(early=[0, 2, 4, 8], every=10, last=40, affordable=100)
        [0, 2, 4, 8, 10, 20, 30, 40]
        >>> evaluation_steps(early=[0, 2, 4, 8], every=10, last=40, affordable=4)
        [0, 2, 8, 40]
    """
    dense = sorted({s for s in early if 0 <= s <= last} | {0})
    spacing = every
    while True:
        regular = [s for s in range(spacing, last + 1, spacing) if s > dense[-1]]
        steps = sorted({*dense, *regular, last})
        if len(steps) <= affordable or not regular or regular == [last]:
            break
        spacing *= 2
    inner = [s for s in steps if 0 < s < last]
    if len(steps) > affordable:
        room = max(0, int(affordable) - 2)
        picks = np.unique(np.linspace(0, len(inner) - 1, room).round().astype(int)) if room else []
        inner = [inner[i] for i in picks]
    return sorted({0, *inner, last})


class Evaluator(TrainerCallback):
    """Evaluates a run on its benchmarks and appends to evals.jsonl."""

    def __init__(
        self,
        *,
        config: EvalConfig,
        task: Task,
        tokenizer: Any,
        shape: ModelShape,
        meter: Meter,
        directory: Path,
        segment: int,
        planned: Callable[[int, ComputeCost], tuple[int, float]],
        shown: int = 0,
        state: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        state = state or {}
        self.config, self.task, self.tokenizer, self.shape = config, task, tokenizer, shape
        self.meter, self.segment, self.planned, self.shown, self.say = meter, segment, planned, shown, say
        self.out = records.Appender(directory / records.EVALS)
        self.benchmarks = task.benchmarks()
        unknown = sorted(set(config.benchmarks) - set(self.benchmarks))
        if unknown:
            raise ConfigError(
                f"eval.benchmarks.{unknown[0]}: unknown benchmark; task {task.name} has {', '.join(sorted(self.benchmarks))}"
            )
        self.settings = {name: config.benchmarks.get(name, BenchmarkConfig()) for name in self.benchmarks}
        for name, setting in self.settings.items():
            _check_pass_k(name, setting, self.benchmarks[name])
        self.one_cost = float(state.get("point_flops", 0.0))  # model FLOPs of one evaluation point [FLOP]
        self.base_cost = float(state.get("base_flops", 0.0))  # of the base, best decoding included [FLOP]
        self.points = int(state.get("points", 0))
        self.model: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Step 0: the base, sampled and under its best decoding."""
        self.model = model
        if state.global_step == 0:
            self.evaluate(0, base=True)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Evaluate where the schedule, a milestone or the end of the run says so."""
        step = state.global_step
        if first_says(control.should_training_stop or self.meter.milestone or step in self._schedule(step)):
            self.evaluate(step)

    def close(self) -> None:
        """Close the records."""
        self.out.close()

    def _schedule(self, step: int) -> list[int]:
        last, total = self.planned(step, self.meter.cost)
        affordable = (
            1 + (self.config.max_share * total - self.base_cost) / self.one_cost if self.one_cost else float("inf")
        )
        return evaluation_steps(early=self.config.early, every=self.config.every, last=last, affordable=affordable)

    def evaluate(self, step: int, *, base: bool = False) -> None:
        """Evaluate all benchmarks that are due at ``step`` and write their lines.

        The first rank does it for all; where each rank holds a part of the weights, all sample the same and the first writes.
        """
        with first_rank_works():
            if self.meter.is_main or self._sharded:
                self._evaluate(step, base=base)

    @property
    def _sharded(self) -> bool:
        return self.meter.counter is not None and is_sharded(self.meter.counter.trainer)

    def _evaluate(self, step: int, *, base: bool) -> None:
        start = time.perf_counter()
        total, rows, regular = ComputeCost(), {}, 0.0
        for name, benchmark in self.benchmarks.items():
            setting = self.settings[name]
            if self.points % setting.thin and not base:
                continue
            sampled = self._sample(benchmark, setting, step, k=setting.k, temperature=setting.temperature)
            self._write(step, name, setting, "sampled", sampled.successes, sampled, temperature=setting.temperature)
            total = total + sampled.cost
            regular += sampled.cost.evaluation_flops
            rows |= self._scores(name, benchmark, setting, sampled)
            if setting.greedy or base:
                greedy = self._sample(benchmark, setting, step, k=1, temperature=None)
                self._write(step, name, setting, "greedy", greedy.successes, greedy, temperature=0.0)
                total = total + greedy.cost
                regular += greedy.cost.evaluation_flops if setting.greedy else 0.0
                rows[f"eval/{name}/greedy"] = greedy.accuracy
            if self.shown and self.meter.tracker is not None:
                self.meter.tracker.log_completions(step, _examples(name, benchmark, sampled, self.shown))
            if base and self.meter.is_main:
                self.say(_base_line(name, benchmark, sampled))
        if not base or not self.one_cost:  # what a later point will cost: without the base's best decoding, done once
            self.one_cost = regular or self.one_cost
        if base:
            total = total + self._best_decoding(step)
            self.base_cost = total.evaluation_flops
        self.points += 1
        self.meter.ledger["evaluation"] = {
            "point_flops": self.one_cost,
            "base_flops": self.base_cost,
            "points": self.points,
        }
        self.meter.evaluated(total, time.perf_counter() - start, rows)

    def _best_decoding(self, step: int) -> ComputeCost:
        """The base under its best decoding: reinforcement that only undoes bad decoding has taught nothing."""
        total = ComputeCost()
        for name, benchmark in self.benchmarks.items():
            setting = self.settings[name]
            if hasattr(self.task, "banned_tokens_for_trace"):
                banned = self.task.banned_tokens_for_trace()  # type: ignore[attr-defined]
                forced = self._sample(benchmark, setting, step, k=1, temperature=None, begin_suppress_tokens=banned)
                self._write(step, name, setting, "forced_trace", forced.successes, forced, temperature=0.0)
                total = total + forced.cost
            if self.config.best_decoding_k and hasattr(self.task, "extract_answer"):
                k = self.config.best_decoding_k
                many = self._sample(benchmark, setting, step, k=k, temperature=setting.temperature)
                votes = majority_accuracy(many, self.task, benchmark.answers[: len(many.successes)])
                self._write(step, name, setting, f"maj@{k}", votes, many, temperature=setting.temperature, k=1)
                total = total + many.cost
        return total

    def _sample(self, benchmark: Benchmark, setting: BenchmarkConfig, step: int, **how: Any) -> Sampled:
        trainer = self.meter.counter.trainer if self.meter.counter is not None and self._sharded else None
        with whole_model(trainer, self.model) as model:
            return sample(
                model, self.tokenizer, self.task, benchmark, shape=self.shape,
                max_completion_length=setting.max_completion_length or None, problems=setting.problems or None,
                batch=self.config.batch, seed=self.config.seed * 1_000_003 + step, **how,
            )  # fmt: skip

    def _write(
        self, step: int, name: str, setting: BenchmarkConfig, decoding: str, successes: list[int], sampled: Sampled,
        *, temperature: float, k: int | None = None,
    ) -> None:  # fmt: skip
        if not self.meter.is_main:
            return
        self.out.write({
            "segment": self.segment, "step": step, "time": round(time.time(), 3), "cost": self.meter.cost.to_dict(),
            "benchmark": name, "k": k or sampled.k, "successes": successes,
            "sampling": {
                "decoding": decoding, "temperature": temperature, "top_p": 1.0, "seed": self.config.seed,
                "max_completion_length": setting.max_completion_length or self.benchmarks[name].max_completion_length,
            },
            "completion_length": sampled.mean_length, "truncation_rate": sampled.truncation_rate,
            "guess_rate": self.benchmarks[name].guess_rate,
        })  # fmt: skip

    def _scores(self, name: str, benchmark: Benchmark, setting: BenchmarkConfig, sampled: Sampled) -> dict[str, float]:
        rows = {
            f"eval/{name}/pass@1": sampled.accuracy,
            f"eval/{name}/stderr": sampling_error(sampled.successes, sampled.k),
            f"eval/{name}/completion_length": sampled.mean_length,
            f"eval/{name}/truncation_rate": sampled.truncation_rate,
            f"eval/{name}/guess_rate": benchmark.guess_rate,
        }
        for k in setting.pass_k:
            rows[f"eval/{name}/pass@{k}"] = float(pass_at_k(sampled.successes, sampled.k, k).mean())
        return rows


def is_sharded(trainer: Any) -> bool:
    """Whether a rank holds only a part of the weights (FSDP, DeepSpeed): one rank alone cannot run the model."""
    return bool(getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False))


@contextlib.contextmanager
def whole_model(trainer: Any, model: Any) -> Iterator[Any]:
    """The model for sampling: ``model`` itself, or gathered over the ranks of a trainer that shards it, as TRL does."""
    if trainer is None:
        yield model
        return
    from trl.models.utils import unwrap_model_for_generation

    with (
        unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as whole,
        trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        yield whole


def _check_pass_k(name: str, setting: BenchmarkConfig, benchmark: Benchmark) -> None:
    for k in setting.pass_k:
        if k > setting.k:
            raise ConfigError(f"eval.benchmarks.{name}.pass_k must be at most k={setting.k}, got {k}: raise k")
        guess = blind_guess_pass_at_k(benchmark.guess_rate, k)
        if guess > 0.5:
            raise ConfigError(
                f"eval.benchmarks.{name}.pass_k: pass@{k} is refused, blind guessing alone reaches {guess:.2f} "
                f"(guess rate {benchmark.guess_rate:.3f}); lower k or widen the answer space"
            )


def _base_line(name: str, benchmark: Benchmark, sampled: Sampled) -> str:
    return (
        f"{name}: base accuracy {sampled.accuracy:.3f} on {len(sampled.successes)} problems "
        f"(a blind guess is right {benchmark.guess_rate:.3f} of the time)"
    )


def _examples(name: str, benchmark: Benchmark, sampled: Sampled, n: int) -> list[dict[str, Any]]:
    return [
        {"benchmark": name, "prompt": str(benchmark.prompts[i]), "completion": sampled.completions[i * sampled.k],
         "answer": benchmark.answers[i], "successes": sampled.successes[i]}
        for i in range(min(n, len(sampled.successes)))
    ]  # fmt: skip
