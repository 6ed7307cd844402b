"""The pretraining stage: a base model trained from scratch, once for all runs that use it.

    BASES/<base_hash>/        config.json, model.safetensors, tokenizer files, base.json   (complete: appears by rename)
    BASES/<base_hash>.partial/state.pt, log.jsonl                                          (while it trains; resumes from here)

Batch ``i`` depends on the seed and on ``i`` alone, so a resumed pretraining ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from scaling.errors import ConfigError
from sweeps.bases import partial_folder, publish, read_record
from sweeps.models import ScratchModel, load, shape_of
from sweeps.schema import Strict

__all__ = ["BaseRecord", "PretrainConfig", "base_hash", "pretrain", "read_base"]

BASE, STATE = "base.json", "state.pt"
_SAVE_EVERY = 20.0  # seconds between resumable states
_VALIDATION = 2048  # texts in each of the two held-out losses


class PretrainConfig(Strict):
    """Settings of pretraining; all of them are part of the base's identity."""

    steps: int = Field(ge=1, description="optimiser steps [1]")
    batch: int = Field(ge=1, description="texts a step [1]")
    learning_rate: float | None = Field(
        gt=0, description="peak rate; null only for public models, which are not pretrained"
    )
    warmup_steps: int = Field(50, ge=0, description="linear warm-up; then a cosine down to `final_share` of the peak")
    final_share: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    adam_beta2: float = Field(0.98, gt=0, lt=1)
    threads: int = Field(1, ge=1, description="CPU threads; part of the identity, since sums depend on their order")
    seed: int = Field(0, ge=0, description="of weights and texts; the seed of reinforcement learning is another")


@dataclass(frozen=True, kw_only=True)
class BaseRecord:
    """What a pretraining produced and cost (``base.json``).

    Attributes:
        base_hash: hash of all that determines the weights.
        path: folder with model and tokenizer.
        parameters: all parameters, embeddings included [1].
        tokens: real tokens of all texts, prompts included, padding not [token].
        sequences: texts [1].
        flops: model FLOPs: real tokens, causal attention, head on scored positions [FLOP].
        hardware_flops: executed FLOPs: padded rectangle, full-square attention [FLOP].
        seconds: wall time of the optimiser steps that the weights contain [s].
        devices: devices used [1].
        gpu_hours: devices x seconds / 3600 [GPU h]; hours of ``accelerator``.
        accelerator: device name, ``cpu`` without one.
        held_out_loss: mean loss on correct texts of the held-out problems [nat/token].
        validation_loss: mean loss on fresh texts of the pretraining distribution [nat/token].
        config: model, task and pretraining settings.
        versions: of the packages that computed it.
    """

    base_hash: str
    path: str
    parameters: int
    tokens: int
    sequences: int
    flops: float
    hardware_flops: float
    seconds: float
    devices: int
    gpu_hours: float
    accelerator: str
    held_out_loss: float
    validation_loss: float
    config: Mapping[str, Any]
    versions: Mapping[str, str]

    def stage(self) -> dict[str, Any]:
        """The pretraining stage for ``run.json``."""
        return {
            "stage": "pretrain",
            "base_hash": self.base_hash,
            "tokens": self.tokens,
            "flops": self.flops,
            "flops_source": "measured",
            "hardware_flops": self.hardware_flops,
            "gpu_hours": self.gpu_hours,
            "accelerator": self.accelerator,
            "devices": self.devices,
            "seconds": self.seconds,
            "held_out_loss": self.held_out_loss,
            "validation_loss": self.validation_loss,
            "source": "pretrained here",
            "comparable": True,
        }


def base_hash(model: ScratchModel, task: Any, config: PretrainConfig) -> str:
    """Twelve hex digits that change with anything that changes the pretrained weights, and with nothing else.

    Args:
        model: sizes; its name and hyperparameters are left out (the rate is in ``config``).
        task: the task's settings; its reward is left out.
        config: the pretraining.
    """
    if not hasattr(task, "pretraining_identity"):
        raise ConfigError(
            f"model {model.name} is trained from scratch and needs a task with texts to pretrain on (task=chain), "
            f"got task {task.name}; take a public model with model="
        )
    body = {"model": model.identity(), "task": task.pretraining_identity(), "pretrain": config.model_dump()}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


def read_base(folder: Path) -> BaseRecord | None:
    """The record of a finished base, or None where there is none; its path is where it lies now."""
    body = read_record(folder / BASE)
    return BaseRecord(**body) if body is not None else None


def pretrain(
    model_config: ScratchModel,
    task: Any,
    config: PretrainConfig,
    directory: str | Path,
    *,
    progress: bool = True,
    report: Callable[[int, int], None] = lambda step, total: None,
) -> BaseRecord:
    """Pretrain a base, or find it finished in ``directory``.

    Two processes that want one base train it once: the second waits for the first. A killed pretraining continues from its
    last state. The global random state is left as it was.

    Args:
        model_config: sizes.
        task: a built task with ``pretraining_stream``, ``held_out_batch`` and ``tokenizer``.
        config: the pretraining.
        directory: where bases lie, one folder each, named by its hash.
        progress: show a progress bar.
        report: called now and then with the steps done and to do.
    """
    from filelock import FileLock

    if config.learning_rate is None:
        raise ConfigError(f"pretrain.learning_rate must be set to pretrain {model_config.name}, got null")
    digest = base_hash(model_config, task.config, config)
    folder = Path(directory) / digest
    found = read_base(folder)
    if found is not None:
        return found
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create bases_dir {directory}: {error.strerror}; choose another") from error
    with FileLock(f"{folder}.lock"):
        found = read_base(folder)
        if found is None:
            _train(model_config, task, config, folder, digest, progress, report)
            found = read_base(folder)
    assert found is not None
    return found


def _train(
    model_config: ScratchModel,
    task: Any,
    config: PretrainConfig,
    folder: Path,
    digest: str,
    progress: bool,
    report: Callable[[int, int], None],
) -> None:
    import torch
    from tqdm import tqdm

    peak = float(config.learning_rate or 0)
    partial = partial_folder(folder)
    partial.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        model: Any
        model, tokenizer = load(model_config, task, seed=config.seed)
        model.to(device)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=peak,
            betas=(0.9, config.adam_beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        done = _restore(partial / STATE, model, optimizer, device)
        first, start, saved = done["step"], time.perf_counter(), time.perf_counter()
        stream = task.pretraining_stream(seed=config.seed, batch=config.batch, steps=config.steps, first=first)
        bar = tqdm(
            stream,
            desc=f"pretraining {model_config.name}",
            initial=first,
            total=config.steps,
            disable=not progress,
            mininterval=1.0,
        )
        width = task.max_completion_length
        shape = shape_of(model_config, task)
        model.train()
        for step, (input_ids, labels) in enumerate(bar, start=first):
            for group in optimizer.param_groups:
                group["lr"] = peak * _rate(config, step)
            loss = _loss(model, input_ids, labels, width, device)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            tokens, flops, hardware = _cost(shape, input_ids, labels, task.prompt_width)
            done = {"step": step + 1, "tokens": done["tokens"] + tokens, "flops": done["flops"] + flops,
                    "hardware_flops": done["hardware_flops"] + hardware, "seconds": done["seconds"]}  # fmt: skip
            if step % 10 == 0:
                report(step + 1, config.steps)
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            now = time.perf_counter()
            if now - saved > _SAVE_EVERY:
                done["seconds"] += now - start
                start = saved = now
                _save_state(partial / STATE, model, optimizer, done)
        if device == "cuda":
            torch.cuda.synchronize()  # the last steps are still queued
        seconds = done["seconds"] + time.perf_counter() - start
        losses = _held_out_losses(model, task, config, width, device)
        record = BaseRecord(
            base_hash=digest,
            path=str(folder),
            parameters=sum(p.numel() for p in model.parameters()),
            tokens=int(done["tokens"]),
            sequences=config.steps * config.batch,
            flops=done["flops"],
            hardware_flops=done["hardware_flops"],
            seconds=seconds,
            devices=1,
            gpu_hours=seconds / 3600,
            accelerator=torch.cuda.get_device_name() if device == "cuda" else "cpu",
            held_out_loss=losses[0],
            validation_loss=losses[1],
            config={
                "model": model_config.model_dump(),
                "task": task.config.model_dump(),
                "pretrain": config.model_dump(),
            },
            versions={name: _version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
        )
        publish(folder, model.to("cpu"), tokenizer, BASE, asdict(record))
    finally:
        torch.set_num_threads(threads)


def _rate(config: PretrainConfig, step: int) -> float:
    """Share of the peak rate at ``step``: linear warm-up times a cosine down to ``final_share``."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return min(1.0, (step + 1) / max(1, config.warmup_steps)) * (config.final_share + (1 - config.final_share) * cosine)


def _loss(model: Any, input_ids: Any, labels: Any, width: int, device: str) -> Any:
    """Mean cross-entropy of the completion's tokens [nat/token]; the head runs on the last ``width + 1`` positions alone."""
    import torch

    ids = torch.from_numpy(input_ids).to(device)
    targets = torch.from_numpy(labels[:, -width:].copy()).to(device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=width + 1).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-100
    )


def _cost(shape: Any, input_ids: Any, labels: Any, prompt_width: int) -> tuple[int, float, float]:
    """Real tokens, model FLOPs and hardware FLOPs of one optimiser step."""
    from scaling.flops import pretraining_flops, training_hardware_flops

    scored = (labels != -100).sum(axis=1)
    lengths = prompt_width + scored
    batch, width = input_ids.shape
    hardware = training_hardware_flops(
        shape,
        batch=batch,
        prompt_width=prompt_width,
        completion_width=width - prompt_width,
        scored_positions=width - prompt_width + 1,
    )
    return int(lengths.sum()), pretraining_flops(shape, lengths, scored_positions=scored), hardware


def _held_out_losses(model: Any, task: Any, config: PretrainConfig, width: int, device: str) -> tuple[float, float]:
    import numpy as np
    import torch

    model.eval()
    fresh = task.pretraining_batch(np.random.default_rng((config.seed, 3)), _VALIDATION)
    with torch.no_grad():
        held_out, validation = (
            float(_loss(model, ids, labels, width, device)) for ids, labels in (task.held_out_batch(), fresh)
        )
    return held_out, validation


def _restore(path: Path, model: Any, optimizer: Any, device: str) -> dict[str, Any]:
    import torch

    fresh = {"step": 0, "tokens": 0, "flops": 0.0, "hardware_flops": 0.0, "seconds": 0.0}
    if not path.is_file():
        return fresh
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["done"]


def _save_state(path: Path, model: Any, optimizer: Any, done: dict[str, Any]) -> None:
    import torch

    tmp = path.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}, tmp)
    os.replace(tmp, path)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
