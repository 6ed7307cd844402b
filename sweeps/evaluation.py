"""Sampling a model on a benchmark: per-item success counts and their cost, leaving training's random state untouched."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scaling import flops
from scaling.cost import ComputeCost
from scaling.flops import ModelShape
from sweeps.tasks.base import Benchmark, Task

__all__ = ["Sampled", "majority_accuracy", "random_state_untouched", "sample"]


@dataclass(frozen=True)
class Sampled:
    """Completions of a benchmark under one decoding.

    Attributes:
        successes: correct completions an item, shape ``(n_items,)``.
        k: completions an item [1].
        completions: texts, item by item, shape ``(n_items * k,)``.
        mean_length: mean completion length, end token included [token].
        truncation_rate: share of completions cut at the length limit, 0 to 1.
        cost: FLOPs and wall seconds of one device, in the evaluation fields [FLOP], [s].
    """

    successes: list[int]
    k: int
    completions: list[str]
    mean_length: float
    truncation_rate: float
    cost: ComputeCost

    @property
    def accuracy(self) -> float:
        """Mean over items and samples: pass@1."""
        return sum(self.successes) / max(1, self.k * len(self.successes))


@contextlib.contextmanager
def random_state_untouched() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch (all devices) on exit."""
    # the legacy global generator too: libraries below may draw from it
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    task: Task,
    benchmark: Benchmark,
    *,
    shape: ModelShape,
    k: int = 1,
    temperature: float | None = 1.0,
    max_completion_length: int | None = None,
    problems: int | None = None,
    batch: int = 512,
    seed: int = 0,
    begin_suppress_tokens: Sequence[int] = (),
) -> Sampled:
    """Sample ``k`` completions of every problem and verify them.

    Args:
        model: a causal language model; its training mode and all random states are as before on return.
        tokenizer: pads on the left.
        task: verifies completions.
        benchmark: problems, answers.
        shape: for the cost.
        k: completions a problem; 1 under greedy decoding [1].
        temperature: None decodes greedily.
        max_completion_length: completions are cut here; the benchmark's own by default [token].
        problems: first so many problems only.
        batch: completions generated at once [1].
        seed: of the sampling.
        begin_suppress_tokens: ids that may not begin a completion (the forced trace).
    """
    from transformers import GenerationConfig

    start = time.perf_counter()
    length = max_completion_length or benchmark.max_completion_length
    prompts, answers = list(benchmark.prompts[:problems]), list(benchmark.answers[:problems])
    config = GenerationConfig(
        max_new_tokens=length, do_sample=temperature is not None, num_beams=1,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=_eos_ids(model, tokenizer),
        bos_token_id=tokenizer.bos_token_id, begin_suppress_tokens=list(begin_suppress_tokens) or None,
        **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature is not None else {}),
    )  # fmt: skip
    end_ids = torch.tensor(config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id])
    rows = [i for i in range(len(prompts)) for _ in range(k)]
    texts: list[str] = []
    lengths: list[int] = []
    model_flops = hardware_flops = 0.0
    truncated = 0
    was_training = model.training
    model.eval()
    with random_state_untouched():
        torch.manual_seed(seed)
        for first in range(0, len(rows), batch):
            encoded = _encode(tokenizer, [prompts[i] for i in rows[first : first + batch]]).to(model.device)
            width = encoded["input_ids"].shape[1]
            ids = model.generate(**encoded, generation_config=config)[:, width:].cpu()
            ended = torch.isin(ids, end_ids)
            real = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, ids.shape[1])
            truncated += int((~ended.any(dim=1)).sum())
            keep = torch.arange(ids.shape[1]) < real[:, None]
            texts += tokenizer.batch_decode(
                [row[mask].tolist() for row, mask in zip(ids, keep)], skip_special_tokens=True
            )
            lengths += real.tolist()
            prompt_lengths = encoded["attention_mask"].sum(dim=1).cpu().numpy()
            model_flops += flops.generation_flops(shape, prompt_lengths, real.numpy())
            hardware_flops += flops.generation_hardware_flops(
                shape, batch=len(ids), prompt_width=width, completion_width=ids.shape[1]
            )
    model.train(was_training)
    correct = np.array(task.verify(texts, [answers[i] for i in rows]), dtype=float).reshape(-1, k)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Sampled(
        successes=[int(n) for n in (correct > 0.5).sum(axis=1)],
        k=k,
        completions=texts,
        mean_length=float(np.mean(lengths)),
        truncation_rate=truncated / max(1, len(rows)),
        cost=ComputeCost(
            evaluation_flops=model_flops,
            evaluation_hardware_flops=hardware_flops,
            evaluation_gpu_seconds=time.perf_counter() - start,
        ),
    )


def majority_accuracy(sampled: Sampled, task: Any, answers: Sequence[str]) -> list[int]:
    """maj@k: 1 where the most frequent extracted answer of an item is right; ties go to the first seen.

    The task names its extraction as ``extract_answer(completion) -> str | None``; completions without an answer do not
    vote.
    """
    out = []
    for i, answer in enumerate(answers):
        texts = sampled.completions[i * sampled.k : (i + 1) * sampled.k]
        votes = Counter(a for a in map(task.extract_answer, texts) if a is not None)
        if not votes:
            out.append(0)
            continue
        winner = votes.most_common(1)[0][0]
        chosen = next(t for t in texts if task.extract_answer(t) == winner)
        out.append(int(task.verify([chosen], [answer])[0] > 0.5))
    return out


def _encode(tokenizer: Any, prompts: list[Any]) -> Any:
    if isinstance(prompts[0], str):
        return tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
    return tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True,
        tokenizer_kwargs={"padding_side": "left"},
    )  # fmt: skip


def _eos_ids(model: Any, tokenizer: Any) -> list[int]:
    ids = getattr(model.generation_config, "eos_token_id", None)
    known = set(ids if isinstance(ids, list) else [ids]) | {tokenizer.eos_token_id}
    return sorted(i for i in known if i is not None)
