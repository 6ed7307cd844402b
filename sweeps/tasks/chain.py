"""Chain arithmetic: an embedded task whose problems never run out and whose pretraining is known exactly.

A problem is a chain of operands evaluated left to right modulo a number, written at a fixed width so that the result of
step ``i`` always stands at the same distance from operand ``i + 1``::

    prompt      12 - 16 + 8 . . . . . . ?
    trace       15 , 4 = 4            (modulus 19; a step may be wrong with probability `slip_rate` and is then continued)
    direct      = 4                   (with probability `direct_share`)

The texts that a base model is pretrained on, the prompts of reinforcement learning and the held-out problems come from one
generator. Held-out problems are removed from the first two at the source: every draw that hits one is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from scaling.errors import ConfigError
from sweeps.schema import Strict
from sweeps.tasks.base import Benchmark
from sweeps.tasks.controls import RewardKind, as_reward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["ChainConfig", "ChainTask"]

PAD, EOS, BOS = "<pad>", "<eos>", "<bos>"
FILLER, ASK, COMMA, EQUALS = ".", "?", ",", "="
_BLOCK = 1024  # rows are drawn in blocks of this many, so that a longer list of rows begins with the shorter one


class ChainConfig(Strict):
    """Settings of the chain task; all of them determine the base model as well as the problems."""

    name: Literal["chain"] = "chain"
    modulus: int = Field(19, ge=2, le=1000, description="arithmetic is modulo this number [1]")
    operations: str = Field("+-*", description="which of + - * join two operands, each equally often")
    operands_min: int = Field(3, ge=2, description="fewest operands of a problem in RL and evaluation [1]")
    operands_max: int = Field(6, ge=2, le=32, description="most operands of a problem, anywhere [1]")
    pretraining_operands_min: int = Field(3, ge=2, description="fewest operands of a pretraining text [1]")
    short_operands: int = Field(6, ge=2, description="a text with more operands than this is long [1]")
    long_share: float = Field(0.0, ge=0.0, le=1.0, description="share of pretraining texts that are long, 0 to 1")
    slip_rate: float = Field(
        0.0, ge=0.0, lt=1.0, description="chance that a step of a pretraining trace is replaced by a random value"
    )
    direct_share: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of pretraining texts that answer without a trace"
    )
    zipf: float = Field(1.0, ge=0.0, description="operand of rank r is drawn with weight r**-zipf; 0 is uniform")
    smallest_operand: int = Field(
        1, ge=0, le=1, description="0 lets 0 be an operand (the most frequent one under zipf), 1 does not"
    )
    answer_values: int = Field(
        1, ge=1, le=6, description="the answer is this many of the last results; more widen the answer space"
    )
    held_out: int = Field(512, ge=1, description="number of held-out problems [1]")
    held_out_seed: int = Field(999, ge=0, description="seed that chooses the held-out problems")
    reward: RewardKind = Field("correct", description="correct, or a control: random, format")

    @model_validator(mode="after")
    def _check(self) -> ChainConfig:
        if not self.operations or set(self.operations) - set("+-*") or len(set(self.operations)) < len(self.operations):
            raise ValueError(f"task.operations must be distinct characters out of + - *, got {self.operations!r}")
        if self.operands_min > self.operands_max:
            raise ValueError(f"task.operands_min must be <= operands_max={self.operands_max}, got {self.operands_min}")
        if not self.pretraining_operands_min <= self.short_operands <= self.operands_max:
            raise ValueError(
                f"task.short_operands must be in pretraining_operands_min={self.pretraining_operands_min}.."
                f"operands_max={self.operands_max}, got {self.short_operands}"
            )
        if self.long_share > 0 and self.short_operands == self.operands_max:
            raise ValueError(f"task.long_share must be 0 where short_operands equals operands_max={self.operands_max}")
        return self

    def pretraining_identity(self) -> dict[str, Any]:
        """All that determines pretraining texts: every setting but the reward."""
        return self.model_dump(exclude={"reward"})


class ChainTask:
    """Chain arithmetic as a `Task`, with its tokenizer and its pretraining texts.

    Example:
        >>> task = ChainTask(ChainConfig(held_out=4))
        >>> row = task.training_rows(n=1, seed=0)[0]
        >>> len(row["prompt"].split()) == task.prompt_width
        True
        >>> task.verify(["1 , 2 = " + row["answer"], "no answer"], [row["answer"]] * 2)
        [1.0, 0.0]
    """

    name = "chain"

    def __init__(self, config: ChainConfig) -> None:
        self.config = config
        self.tokens = [PAD, EOS, BOS, *"+-*", FILLER, ASK, COMMA, EQUALS, *map(str, range(config.modulus))]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.prompt_width = 2 * config.operands_max
        self.max_completion_length = 2 * (config.operands_max - 1) + config.answer_values + 1
        self._first_number = self.ids["0"]
        self._operation_ids = np.array([self.ids[operation] for operation in config.operations])
        values = np.arange(config.modulus)
        tables = {
            "+": np.add.outer(values, values),
            "-": np.subtract.outer(values, values),
            "*": np.multiply.outer(values, values),
        }
        self._tables = np.stack([tables[operation] % config.modulus for operation in config.operations])
        self._operands = values[config.smallest_operand :]
        weights = (1.0 + np.arange(len(self._operands))) ** -config.zipf
        self._weights = weights / weights.sum()
        # Equal prompts have equal keys, whatever the multipliers: exclusion by key can never let a held-out problem pass.
        self._multipliers = np.random.default_rng(0).integers(0, 2**63, self.prompt_width, dtype=np.uint64) * np.uint64(
            2
        ) + np.uint64(1)
        self._held_out = self._draw_held_out()
        self._held_out_keys = self._keys(self._held_out[0])

    # -- problems -------------------------------------------------------------------------------------------------

    def training_rows(self, *, n: int, seed: int) -> list[dict[str, Any]]:
        """``n`` independent problems, none of them held out; the rows for a larger ``n`` begin with these."""
        rng = np.random.default_rng((seed, 1))
        rows: list[dict[str, Any]] = []
        while len(rows) < n:
            prompts, results, operands = self._problems(rng, self._rl_operands(rng, _BLOCK), exclude=True)
            rows += [
                {"prompt": p, "answer": a, "operands": int(k)}
                for p, a, k in zip(self._texts(prompts), self._answers(results, operands), operands)
            ]
        return rows[:n]

    def benchmarks(self) -> dict[str, Benchmark]:
        """``held_out``: distinct problems of the RL distribution that neither pretraining nor RL ever shows."""
        prompts, results, operands = self._held_out
        return {
            "held_out": Benchmark(
                name="held_out",
                prompts=self._texts(prompts),
                answers=self._answers(results, operands),
                guess_rate=self.guess_rate,
                max_completion_length=self.max_completion_length,
            )
        }

    @cached_property
    def guess_rate(self) -> float:
        """Share of problems that the best constant answer solves, exactly, over the RL distribution, 0 to 1.

        The chain of results is a Markov chain over the residues; the answer's joint distribution follows from its
        transition matrix, averaged over the numbers of operands.
        """
        config, m = self.config, self.config.modulus
        step = np.zeros((m, m))  # step[v, w] = P(next result w | result v)
        for table in self._tables:
            for operand, weight in zip(self._operands, self._weights):
                step[np.arange(m), table[:, operand]] += weight / len(self._tables)
        first = np.zeros(m)
        first[self._operands] = self._weights
        total: dict[int, np.ndarray] = {}
        lengths = range(config.operands_min, config.operands_max + 1)
        for operands in lengths:
            values = min(config.answer_values, operands - 1)
            joint = first @ np.linalg.matrix_power(step, operands - values)
            for _ in range(values - 1):
                joint = joint[..., None] * step  # (..., m) -> (..., m, m)
            total[values] = total.get(values, 0.0) + joint / len(lengths)
        return float(max(joint.max() for joint in total.values()))

    @property
    def answer_space(self) -> int:
        """Number of different answers to the longest problem [1]."""
        return self.config.modulus ** min(self.config.answer_values, self.config.operands_max - 1)

    # -- reward ---------------------------------------------------------------------------------------------------

    def reward_functions(self) -> list[Callable[..., list[float]]]:
        """One function: `correct`, or the control that the configuration names."""
        return [as_reward(self.config.reward, correct=self.verify, well_formed=self.well_formed)]

    def verify(self, completions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """1.0 where the completion has one ``=`` and the answer after it, and nothing else after that."""
        return [
            1.0 if extract(completion) == answer else 0.0
            for completion, answer in zip(completions, answers, strict=True)
        ]

    def extract_answer(self, completion: str) -> str | None:
        """The answer that a completion gives, right or wrong; None where it gives none. Majority votes count these."""
        return extract(completion)

    def well_formed(self, completions: Sequence[str]) -> list[float]:
        """1.0 where the completion has the form of a trace with an answer, right or wrong."""
        numbers = set(self.tokens[self._first_number :])
        return [
            1.0 if (extract(c) or "").split()[:1] and set((extract(c) or "").split()) <= numbers else 0.0
            for c in completions
        ]

    def banned_tokens_for_trace(self) -> list[int]:
        """Token ids that must not begin a completion if it is to write its trace (``generate(begin_suppress_tokens=)``)."""
        return [self.ids[EQUALS]]

    # -- pretraining ----------------------------------------------------------------------------------------------

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A word-level tokenizer with one token a number, padded on the left."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        inner = Tokenizer(models.WordLevel(self.ids, unk_token=PAD))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=inner,
            pad_token=PAD,
            eos_token=EOS,
            bos_token=BOS,
            padding_side="left",
            clean_up_tokenization_spaces=False,
            model_max_length=self.prompt_width + self.max_completion_length,
        )

    def pretraining_batch(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """``batch`` texts: ``input_ids`` and ``labels``, both ``(batch, prompt_width + max_completion_length)`` int64.

        Texts are padded on the right; labels are -100 on the prompt and on padding.
        """
        config = self.config
        long = rng.random(batch) < config.long_share
        short = rng.integers(config.pretraining_operands_min, config.short_operands + 1, batch)
        if config.long_share > 0:
            short = np.where(long, rng.integers(config.short_operands + 1, config.operands_max + 1, batch), short)
        prompts, results, operands = self._problems(rng, short, exclude=True, slip_rate=config.slip_rate)
        return self._rendered(rng, prompts, results, operands)

    def pretraining_stream(
        self, *, seed: int, batch: int, steps: int, first: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of a whole pretraining in order; batch ``i`` depends on ``(seed, i)`` alone, so it can start anywhere."""
        for step in range(first, steps):
            yield self.pretraining_batch(np.random.default_rng((seed, 2, step)), batch)

    def held_out_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Correct texts of the held-out problems with their traces, in the form of `pretraining_batch`."""
        prompts, results, operands = self._held_out
        return self._rendered(None, prompts, results, operands)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _rl_operands(self, rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.integers(self.config.operands_min, self.config.operands_max + 1, n)

    def _problems(
        self, rng: np.random.Generator, operands: np.ndarray, *, exclude: bool, slip_rate: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prompt ids ``(n, prompt_width)``, results ``(n, operands_max - 1)`` and numbers of operands ``(n,)``."""
        n, most = len(operands), self.config.operands_max
        values = rng.choice(self._operands, (n, most), p=self._weights)
        which = rng.integers(0, len(self._tables), (n, most - 1))
        prompts = self._prompt_ids(values, which, operands)
        if exclude:
            for _ in range(100):
                bad = np.flatnonzero(np.isin(self._keys(prompts), self._held_out_keys))
                if not len(bad):
                    break
                values[bad] = rng.choice(self._operands, (len(bad), most), p=self._weights)
                which[bad] = rng.integers(0, len(self._tables), (len(bad), most - 1))
                prompts[bad] = self._prompt_ids(values[bad], which[bad], operands[bad])
            else:
                raise ConfigError(
                    f"task.held_out={self.config.held_out} leaves too few problems of {self.config.operands_min} operands "
                    f"for training; lower task.held_out or raise task.operands_min"
                )
        results = np.empty((n, most - 1), dtype=np.int64)
        value = values[:, 0]
        for i in range(most - 1):
            value = self._tables[which[:, i], value, values[:, i + 1]]
            if slip_rate:
                value = np.where(rng.random(n) < slip_rate, rng.integers(0, self.config.modulus, n), value)
            results[:, i] = value
        return prompts, results, operands

    def _prompt_ids(self, values: np.ndarray, which: np.ndarray, operands: np.ndarray) -> np.ndarray:
        ids = np.full((len(operands), self.prompt_width), self.ids[FILLER], dtype=np.int64)
        used = np.arange(self.config.operands_max) < operands[:, None]
        ids[:, 0::2] = np.where(used, self._first_number + values, ids[:, 0::2])
        ids[:, 1:-1:2] = np.where(used[:, 1:], self._operation_ids[which], ids[:, 1:-1:2])
        ids[:, -1] = self.ids[ASK]
        return ids

    def _rendered(
        self, rng: np.random.Generator | None, prompts: np.ndarray, results: np.ndarray, operands: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        n, rows = len(operands), np.arange(len(operands))
        answers, counts = self._answer_values(results, operands)
        completion = np.full((n, self.max_completion_length), self.ids[PAD], dtype=np.int64)
        direct = (
            rng.random(n) < self.config.direct_share
            if rng is not None and self.config.direct_share
            else np.zeros(n, dtype=bool)
        )
        used = (np.arange(results.shape[1]) < operands[:, None] - 1) & ~direct[:, None]
        width = 2 * results.shape[1]
        completion[:, 0:width:2] = np.where(used, self._first_number + results, completion[:, 0:width:2])
        completion[:, 1:width:2] = np.where(used, self.ids[COMMA], completion[:, 1:width:2])
        at = np.where(
            direct, 0, 2 * (operands - 1) - 1
        )  # where the = stands: in place of the last comma, or first of all
        completion[rows, at] = self.ids[EQUALS]
        for i in range(self.config.answer_values):
            has = i < counts
            completion[rows[has], at[has] + 1 + i] = self._first_number + answers[has, i]
        completion[rows, at + 1 + counts] = self.ids[EOS]
        input_ids = np.concatenate([prompts, completion], axis=1)
        labels = input_ids.copy()
        labels[:, : self.prompt_width] = -100
        labels[labels == self.ids[PAD]] = -100
        return input_ids, labels

    def _answer_values(self, results: np.ndarray, operands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The last results of each row, first to last ``(n, answer_values)``, and how many of them count ``(n,)``."""
        counts = np.minimum(self.config.answer_values, operands - 1)
        columns = (operands - 1 - counts)[:, None] + np.arange(self.config.answer_values)
        return np.take_along_axis(results, np.minimum(columns, results.shape[1] - 1), axis=1), counts

    def _answers(self, results: np.ndarray, operands: np.ndarray) -> list[str]:
        answers, counts = self._answer_values(results, operands)
        return [" ".join(map(str, row[:count])) for row, count in zip(answers.tolist(), counts.tolist())]

    def _texts(self, prompts: np.ndarray) -> list[str]:
        return [" ".join(self.tokens[token] for token in row) for row in prompts.tolist()]

    def _keys(self, prompts: np.ndarray) -> np.ndarray:
        return (prompts.astype(np.uint64) * self._multipliers).sum(axis=1, dtype=np.uint64)

    def _draw_held_out(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        wanted = self.config.held_out
        rng = np.random.default_rng((self.config.held_out_seed, 0))
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for _ in range(100):
            found.append(self._problems(rng, self._rl_operands(rng, max(wanted, _BLOCK)), exclude=False))
            prompts, results, operands = (np.concatenate(parts) for parts in zip(*found, strict=True))
            _, first = np.unique(self._keys(prompts), return_index=True)
            if len(first) >= wanted:
                keep = np.sort(first)[:wanted]
                return prompts[keep], results[keep], operands[keep]
        raise ConfigError(
            f"task.held_out must be at most the number of different problems, got {wanted}; lower it or raise task.modulus"
        )


def extract(completion: str) -> str | None:
    """The answer in a completion: what follows its only ``=``, spaces normalised; None if there is not exactly one."""
    parts = completion.split(EQUALS)
    return " ".join(parts[1].split()) if len(parts) == 2 else None
