"""The device a run is on: its name as `scaling.hardware` knows it, and its peak."""

from __future__ import annotations

from typing import Any

from scaling.errors import ConfigError, UnknownName
from scaling.hardware import accelerator, accelerators, peak_flops

__all__ = ["accelerator_name", "bf16_autocast", "one_gpu", "stated_peak"]

COMPILED_NEEDS_FLOAT32 = (
    "generation=compiled needs float32: the static cache cannot hold what bfloat16 autocast computes"
)


def accelerator_name(given: str = "auto") -> str:
    """``given``, or for ``auto`` the canonical name of the first accelerator, ``cpu`` without one.

    Raises:
        UnknownName: the driver's name of the accelerator is not in the table; nothing is guessed in its place.
    """
    if given != "auto":
        return given
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    reported = torch.cuda.get_device_name(0)
    try:
        return accelerator(reported).name
    except UnknownName as error:
        raise UnknownName(
            f"accelerator {reported!r} has no dense peak in the table: set cluster.accelerator to the one of "
            f"{', '.join(accelerators())} that it is, or to a name of your own (utilisation then stays out of the records)"
        ) from error


def bf16_autocast(*, dtype: str, generation: str) -> bool:
    """Whether a run of these settings of ``grpo`` computes under bfloat16 autocast on this device; ``auto`` does where it can.

    Raises:
        ConfigError: ``auto`` means bfloat16 here, and generation is compiled.
    """
    import torch

    if dtype != "auto":
        return dtype == "bfloat16"
    half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if half and generation == "compiled":
        raise ConfigError(
            f"grpo: {COMPILED_NEEDS_FLOAT32}, got dtype=auto, which is bfloat16 on this device: set grpo.dtype=float32"
        )
    return half


def one_gpu(arguments: Any) -> Any:
    """Trainer arguments that use one GPU in this process, however many are visible: several GPUs are for several ranks.

    With more, `transformers.Trainer` would wrap the model in `DataParallel`, which TRL refuses.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def stated_peak(accelerator: str) -> float | None:
    """Dense bf16 peak [FLOP/s]; None where the table has none: a CPU, or a name of the user's own.

    Example:
        >>> stated_peak("cpu") is None
        True
    """
    try:
        return peak_flops(accelerator)
    except UnknownName:
        return None
