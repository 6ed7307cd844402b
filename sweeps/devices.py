"""The device a run is on: its name as `scaling.hardware` knows it, and its peak."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING, Any

from scaling.errors import ConfigError, UnknownName
from scaling.hardware import accelerator, accelerators, peak_flops
from sweeps.ranks import world_size

if TYPE_CHECKING:
    from sweeps.config import RunConfig

__all__ = [
    "accelerator_name",
    "bf16_autocast",
    "compiled_generation",
    "few_compilers",
    "one_gpu",
    "set_products",
    "stated_peak",
]

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


def compiled_generation(config: RunConfig) -> bool:
    """Whether a run generates with a static cache and a compiled step on this device.

    ``grpo.generation=auto`` does for a model trained from scratch in float32 or tf32 on a GPU (``docs/results/gpu.md``: 1.2 to
    2.4 times as quick from 0.2M to 30M parameters), where nothing that it cannot be combined with is set and there is a C compiler.
    Several ranks generate plainly: compiled they were never measured.
    """
    import torch

    grpo = config.grpo
    if grpo.generation != "auto":
        return grpo.generation == "compiled"
    possible = (
        grpo.vllm == "off"
        and not grpo.half
        and not grpo.recipe.interrupt_after
        and not config.cluster.accelerate_config
    )
    alone = world_size() == 1
    return possible and alone and config.model.kind == "scratch" and torch.cuda.is_available() and _can_compile()


def _can_compile() -> bool:
    """Whether ``torch.compile`` finds what it needs for a GPU: Triton, which builds its launchers with a C compiler."""
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(name and shutil.which(name) for name in compilers)


def few_compilers(most: int = 4) -> None:
    """Let ``torch.compile`` start at most so many processes: by default it is one a core for every run of a machine."""
    import torch._inductor.config as inductor

    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ and (inductor.compile_threads or most) > most:
        inductor.compile_threads = most


def set_products(dtype: str) -> None:
    """Let this process compute float32 matrix products in TF32 on an accelerator where ``dtype`` is tf32; exactly, else.

    TF32 keeps float32's range and 10 bits of its fraction (NVIDIA A100 whitepaper, 2020). A CPU computes in float32 either way.

    Raises:
        ConfigError: the accelerator has no TF32.
    """
    import torch

    if not torch.cuda.is_available():
        return
    if dtype == "tf32" and torch.cuda.get_device_capability() < (8, 0):
        raise ConfigError(
            f"grpo.dtype=tf32 needs compute capability 8.0 (A100) or later, got {torch.cuda.get_device_name()}: "
            "set grpo.dtype=float32"
        )
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")


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
