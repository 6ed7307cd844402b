"""The supervised stage between pretraining and reinforcement learning, with its cost: TRL's `SFTTrainer`, configured.

Three kinds: ``data`` (warm start on given prompts and completions), ``rejection`` (the model's own samples that the task
verified, Yuan et al. 2023, arXiv:2308.01825) and ``continued`` (more of the task's pretraining texts). Each is a stage of
the run's chain; given ``flops``, each is a control at equal compute.

    BASES/<stage_hash>/    model, tokenizer, stage.json    (complete: appears by rename)
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from scaling.errors import ConfigError
from sweeps.bases import partial_folder, publish, read_record
from sweeps.devices import one_gpu
from sweeps.models import HubModel, ScratchModel, load, shape_of
from sweeps.schema import Strict

__all__ = ["SftConfig", "SftRecord", "run_sft", "stage_hash"]

STAGE = "stage.json"
_IGNORED = -100


class SftConfig(Strict):
    """Settings of the supervised stage; all of them are part of its identity."""

    kind: Literal["data", "rejection", "continued"]
    steps: int | None = Field(None, ge=1, description="optimiser steps [1]; with `flops`, whichever comes first")
    flops: float | None = Field(None, gt=0, description="budget in model FLOPs, sampling included [FLOP]")
    batch: int = Field(64, ge=1, description="texts a step [1]")
    micro_batch: int = Field(0, ge=0, description="texts a forward-backward pass; 0 means all of a step")
    learning_rate: float = Field(1e-5, gt=0)
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    seed: int = Field(0, ge=0)
    path: str | None = Field(None, description="kind data: JSONL or parquet with the two columns below")
    prompt_column: str = "prompt"
    completion_column: str = "completion"
    prompts: int = Field(
        2048, ge=1, description="kind rejection: training rows sampled from, a repeated prompt once [1]"
    )
    samples: int = Field(8, ge=1, description="kind rejection: completions sampled a prompt [1]")
    keep: int = Field(4, ge=1, description="kind rejection: different verified completions kept a prompt, at most [1]")
    temperature: float = Field(1.0, gt=0, description="kind rejection: of the sampling")
    sampling_batch: int = Field(1024, ge=1, description="kind rejection: completions generated at once [1]")

    @model_validator(mode="after")
    def _check(self) -> SftConfig:
        if self.steps is None and self.flops is None:
            raise ValueError("sft.steps or sft.flops must be set")
        if (self.kind == "data") != (self.path is not None):
            raise ValueError(
                f"sft.path belongs to sft.kind=data and to no other, got kind={self.kind}, path={self.path!r}"
            )
        if self.micro_batch and self.batch % self.micro_batch:
            raise ValueError(f"sft.micro_batch must divide sft.batch={self.batch}, got {self.micro_batch}")
        return self


@dataclass(frozen=True, kw_only=True)
class SftRecord:
    """What a supervised stage produced and cost (``stage.json``).

    Attributes:
        stage_hash: hash of the settings and of the stage it starts from.
        parent: hash of the stage it starts from.
        path: folder with model and tokenizer.
        kind: of `SftConfig`.
        steps: optimiser steps done [1].
        texts: different texts trained on [1].
        tokens: tokens trained on, prompts included, padding not [token].
        sampling_flops: model FLOPs of sampling, kind rejection [FLOP].
        training_flops: model FLOPs of forward and backward passes [FLOP].
        seconds: wall time of sampling and training [s].
        devices: devices used [1].
        gpu_hours: devices x seconds / 3600 [GPU h].
        accelerator: device name, ``cpu`` without one.
        accepted: kind rejection: share of samples that were correct, 0 to 1; else None.
        loss: last logged training loss [nat/token].
        config: the settings.
    """

    stage_hash: str
    parent: str
    path: str
    kind: str
    steps: int
    texts: int
    tokens: int
    sampling_flops: float
    training_flops: float
    seconds: float
    devices: int
    gpu_hours: float
    accelerator: str
    accepted: float | None
    loss: float | None
    config: Mapping[str, Any]

    @property
    def flops(self) -> float:
        """Model FLOPs of the whole stage [FLOP]."""
        return self.sampling_flops + self.training_flops

    def stage(self) -> dict[str, Any]:
        """The stage for ``run.json``; continued pretraining counts as ``midtrain``, the other kinds as ``sft``."""
        body = {k: v for k, v in asdict(self).items() if k not in ("path", "config")}
        name = "midtrain" if self.kind == "continued" else "sft"
        return {"stage": name, "flops": self.flops, "flops_source": "measured", "source": "trained here", **body}


def stage_hash(config: SftConfig, parent: str) -> str:
    """Twelve hex digits of the settings and of the stage before."""
    body = {"sft": config.model_dump(), "parent": parent, "data": _fingerprint(config)}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


def run_sft(
    config: SftConfig,
    *,
    model_config: ScratchModel | HubModel,
    task: Any,
    base: str | Path | None,
    parent: str,
    directory: str | Path,
    progress: bool = True,
) -> SftRecord:
    """Run the stage, or find it finished in ``directory``.

    Args:
        config: the stage.
        model_config: for the shape, and the weights where ``base`` is None.
        task: prompts, verifier, pretraining texts.
        base: folder of the stage before; None for a hub model.
        parent: hash of the stage before.
        directory: where stages lie, one folder each, named by its hash.
        progress: show progress bars.

    Raises:
        ConfigError: no texts to train on, a missing column, a task without pretraining texts.
    """
    from filelock import FileLock

    digest = stage_hash(config, parent)
    folder = Path(directory) / digest
    Path(directory).mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        found = _read(folder)
        if found is None:
            _train(config, model_config, task, base, parent, folder, digest, progress)
            found = _read(folder)
    assert found is not None
    return found


def _train(
    config: SftConfig, model_config: Any, task: Any, base: Any, parent: str, folder: Path, digest: str, progress: bool
) -> None:
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    disable_progress_bars()
    start = time.perf_counter()
    cuda = torch.cuda.is_available()
    model: Any
    model, tokenizer = load(model_config, task, path=base)
    model.to("cuda" if cuda else "cpu")
    shape = shape_of(model_config, task)
    texts, sampling_flops, accepted = _texts(config, model, tokenizer, task, shape)
    if not texts["input_ids"]:
        raise ConfigError(
            f"sft.kind={config.kind} has no texts to train on; rejection needs a base that solves some problems"
        )
    left = None if config.flops is None else config.flops - sampling_flops
    if left is not None and left <= 0:
        raise ConfigError(
            f"sft.flops={config.flops:.3g} is spent by sampling alone ({sampling_flops:.3g}); lower sft.prompts or sft.samples"
        )
    micro = config.micro_batch or config.batch
    arguments = one_gpu(
        SFTConfig(
            output_dir=str(partial_folder(folder)),
            max_steps=config.steps or 10_000_000,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=config.batch // micro,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.lr_schedule,
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
            data_seed=config.seed,
            max_length=None,
            use_cpu=not cuda,
            bf16=cuda and next(model.parameters()).dtype == torch.bfloat16,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            disable_tqdm=not progress,
            remove_unused_columns=False,
            log_level="warning",
        )
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(texts), processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    spent = _count(trainer, shape)
    trainer.add_callback(_budget(spent, left))
    torch.manual_seed(config.seed)
    trainer.train()
    seconds = time.perf_counter() - start
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    record = SftRecord(
        stage_hash=digest,
        parent=parent,
        path=str(folder),
        kind=config.kind,
        steps=trainer.state.global_step,
        texts=len(texts["input_ids"]),
        tokens=int(spent["tokens"]),
        sampling_flops=sampling_flops,
        training_flops=spent["flops"],
        seconds=seconds,
        devices=1,
        gpu_hours=seconds / 3600,
        accelerator=torch.cuda.get_device_name() if cuda else "cpu",
        accepted=accepted,
        loss=losses[-1] if losses and math.isfinite(losses[-1]) else None,
        config=config.model_dump(),
    )
    publish(folder, model.to("cpu"), tokenizer, STAGE, asdict(record))


def _texts(
    config: SftConfig, model: Any, tokenizer: Any, task: Any, shape: Any
) -> tuple[dict[str, list], float, float | None]:
    """Rows of ``input_ids`` and ``labels``, the FLOPs of sampling them, and the share of samples accepted."""
    if config.kind == "continued":
        return _continued(config, task, shape), 0.0, None
    if config.kind == "data":
        from sweeps.tasks.rows import read_rows

        rows = read_rows(str(config.path), columns=(config.prompt_column, config.completion_column))
        pairs = [(row[config.prompt_column], str(row[config.completion_column])) for row in rows]
        return _encode(tokenizer, pairs), 0.0, None
    pairs, flops, accepted = _verified_samples(config, model, tokenizer, task, shape)
    return _encode(tokenizer, pairs), flops, accepted


def _continued(config: SftConfig, task: Any, shape: Any) -> dict[str, list]:
    import numpy as np

    from scaling.flops import pretraining_flops

    if not hasattr(task, "pretraining_batch"):
        raise ConfigError(f"sft.kind=continued needs a task with pretraining texts (chain), got {task.name}")
    out: dict[str, list] = {"input_ids": [], "labels": []}
    spent, step = 0.0, 0
    while (config.steps is None or step < config.steps) and (config.flops is None or spent < config.flops):
        input_ids, labels = task.pretraining_batch(np.random.default_rng((config.seed, 4, step)), config.batch)
        scored = (labels != _IGNORED).sum(axis=1)
        lengths = (task.prompt_width + scored).tolist()
        out["input_ids"] += [row[:n].tolist() for row, n in zip(input_ids, lengths)]
        out["labels"] += [row[:n].tolist() for row, n in zip(labels, lengths)]
        spent += pretraining_flops(shape, lengths, scored_positions=scored)
        step += 1
    return out


def _verified_samples(
    config: SftConfig, model: Any, tokenizer: Any, task: Any, shape: Any
) -> tuple[list, float, float]:
    from sweeps.evaluation import sample
    from sweeps.tasks.base import Benchmark

    rows = list({repr(row["prompt"]): row for row in task.training_rows(n=config.prompts, seed=config.seed)}.values())
    prompts, answers = [row["prompt"] for row in rows], [row["answer"] for row in rows]
    benchmark = Benchmark(
        name="sft", prompts=prompts, answers=answers, guess_rate=0.0, max_completion_length=task.max_completion_length
    )
    sampled = sample(
        model, tokenizer, task, benchmark, shape=shape, k=config.samples, temperature=config.temperature,
        batch=config.sampling_batch, seed=config.seed,
    )  # fmt: skip
    k = config.samples
    right = task.verify(sampled.completions, [a for a in answers for _ in range(k)])
    pairs: list[tuple[Any, str]] = []
    for i, prompt in enumerate(prompts):
        good = dict.fromkeys(
            c for c, r in zip(sampled.completions[i * k : (i + 1) * k], right[i * k : (i + 1) * k]) if r > 0.5
        )
        pairs += [(prompt, completion) for completion in list(good)[: config.keep]]
    return pairs, sampled.cost.evaluation_flops, sum(right) / len(right)


def _encode(tokenizer: Any, pairs: list[tuple[Any, str]]) -> dict[str, list]:
    """Token ids of prompt, completion and end token; labels on the last two."""
    out: dict[str, list] = {"input_ids": [], "labels": []}
    for prompt, completion in pairs:
        if isinstance(prompt, str):
            before = tokenizer(prompt)["input_ids"]
        else:
            before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)[
                "input_ids"
            ]
        after = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        out["input_ids"].append([*before, *after])
        out["labels"].append([_IGNORED] * len(before) + after)
    return out


def _count(trainer: Any, shape: Any) -> dict[str, float]:
    """Wrap the loss of this trainer so that tokens and FLOPs add up in the returned dict."""
    from scaling.flops import pretraining_flops

    spent = {"tokens": 0.0, "flops": 0.0}
    original: Callable[..., Any] = trainer.compute_loss

    @functools.wraps(original)
    def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        lengths = inputs["attention_mask"].sum(dim=1).cpu().numpy()
        scored = (inputs["labels"] != _IGNORED).sum(dim=1).cpu().numpy()
        spent["tokens"] += float(lengths.sum())
        spent["flops"] += pretraining_flops(shape, lengths, scored_positions=scored)
        return original(model, inputs, *args, **kwargs)

    trainer.compute_loss = counted
    return spent


def _budget(spent: dict[str, float], left: float | None) -> Any:
    from transformers import TrainerCallback

    class Budget(TrainerCallback):
        """Stop once the FLOPs are spent, at most one step over."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if left is not None and spent["flops"] >= left:
                control.should_training_stop = True

    return Budget()


def _fingerprint(config: SftConfig) -> str:
    if config.path is None:
        return ""
    try:
        return hashlib.sha256(Path(config.path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"sft.path must be a readable file, got {config.path}: {error.strerror}") from error


def _read(folder: Path) -> SftRecord | None:
    body = read_record(folder / STAGE)
    return SftRecord(**body) if body is not None else None
