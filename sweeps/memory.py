"""What a run that ran out of memory says: one line with the estimate, what was being done, and what to lower."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError, ScalingError
from sweeps.config import RunConfig

__all__ = ["out_of_memory", "ran_out"]

_SIGNS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # CUDA, CPU, cuBLAS and cuDNN
# innermost first: file or function of the stack -> what was being done
_PLACES = {
    "_generate_single_turn": "generation",
    "evaluation.py": "evaluation",
    "pretrain.py": "pretraining",
    "sft.py": "the supervised stage",
}


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory, of a device or of the host, did not suffice."""
    return any(sign in str(error) for sign in _SIGNS) and isinstance(error, RuntimeError)


def out_of_memory(error: BaseException, config: RunConfig, task: Any, *, processes: int = 1) -> ConfigError:
    """The error to raise in place of ``error``.

    Args:
        error: as torch raised it, with its traceback.
        config: the run.
        task: built; its lengths enter the estimate.
        processes: of the run.
    """
    doing = _doing(error)
    asked = re.search(r"Tried to allocate ([\d.]+ \w+)|you tried to allocate (\d+ bytes)", str(error))
    wanted = f", {asked.group(1) or asked.group(2)} more did not fit" if asked else ""
    device = _device_memory()
    return ConfigError(
        f"out of memory in {doing}{device}{wanted}; {_estimate(config, task, processes)}; {_advice(doing, config, processes)}"
    )


def _doing(error: BaseException) -> str:
    frame, found = error.__traceback__, "training"
    while frame is not None:
        code = frame.tb_frame.f_code
        for name in (code.co_name, Path(code.co_filename).name):
            found = _PLACES.get(name, found)
        frame = frame.tb_next
    return found


def _device_memory() -> str:
    import torch

    if not torch.cuda.is_available():
        return ""
    total = torch.cuda.get_device_properties(0).total_memory
    return f" ({torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of the device's {total / 2**30:.2f} were in use)"


def _estimate(config: RunConfig, task: Any, processes: int) -> str:
    import torch

    from sweeps.estimate import run_memory
    from sweeps.models import shape_of

    try:
        need = run_memory(
            config, shape_of(config.model, task), devices=processes, half=torch.cuda.is_available() and config.grpo.half,
            prompt_length=getattr(task, "prompt_width", 512),
            completion_length=config.grpo.max_completion_length or task.max_completion_length,
        )  # fmt: skip
    except ScalingError as reason:  # a layer that the estimate does not cover
        return f"no estimate: {reason}"
    return f"estimated for GRPO: peak {need.peak / 2**30:.2f} GiB ({need})"


def _advice(doing: str, config: RunConfig, processes: int) -> str:
    grpo, again = config.grpo, "and run the same command: it continues this run"
    if doing == "evaluation":
        return f"lower eval.batch (now {config.eval.batch}) {again}"
    if doing == "pretraining":
        return f"lower pretrain.batch (now {config.pretrain.batch}), which is another base, or model.hidden_size and num_layers"
    if doing == "the supervised stage" and config.sft is not None:
        return "lower sft.micro_batch and run the same command"
    if doing == "generation":
        longer = "grpo.steps_per_generation, " if grpo.steps_per_generation > 1 else ""
        return (
            f"lower {longer}grpo.prompts_per_step (now {grpo.prompts_per_step}), grpo.group_size or "
            "grpo.max_completion_length, each of which makes it another run, or spread it over more devices"
        )
    per_device = grpo.rollouts_per_step // processes
    micro = min(grpo.micro_batch or per_device, per_device)
    smaller = next((n for n in range(micro // 2, 0, -1) if per_device % n == 0), None)
    checkpointing = "" if grpo.gradient_checkpointing else "grpo.gradient_checkpointing=true"
    if smaller is None:
        return (
            f"set {checkpointing} {again}"
            if checkpointing
            else "shard the model over more devices, or take a smaller one"
        )
    return f"set grpo.micro_batch={smaller} (now {micro}){' or ' + checkpointing if checkpointing else ''} {again}"
