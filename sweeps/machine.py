"""The machine that a run's time is estimated for: an accelerator by its table, or this processor, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Machine", "calibrate_cpu"]


@dataclass(frozen=True)
class Machine:
    """What time is estimated for.

    Attributes:
        name: for display.
        flops_per_second: achieved in large matrix products by one device: peak x utilisation [FLOP/s].
        bytes_per_second: achieved memory bandwidth of one device [byte/s].
        layer_seconds: floor of one layer's forward pass [s].
        decoding_seconds: floor of one decoding step outside the layers: head, sampling, bookkeeping [s].
        trainer_seconds: of an optimiser step outside the model, per rollout: tokenising, rewards, data [s].
        devices: working in parallel on rollouts and training [1].
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    layer_seconds: float
    decoding_seconds: float
    trainer_seconds: float
    devices: int = 1

    @staticmethod
    def of(accelerator: str, *, devices: int = 1, utilisation: float = 0.35) -> Machine:
        """From the table of accelerators: 35 % of the dense bf16 peak, 60 % of the bandwidth, 0.8 ms a layer and token.

        The floor is of ``transformers.generate`` without compilation: launch overhead, measured on one H200.
        """
        from scaling.hardware import accelerator as known

        chip = known(accelerator)
        return Machine(chip.name, utilisation * chip.peak("bf16"), 0.6 * chip.bandwidth, 0.8e-3, 1.5e-3, 1e-4, devices)


def calibrate_cpu(threads: int = 1) -> Machine:
    """Speeds of this processor, measured in a few seconds: a matrix product, an activation, and decoding of tiny models.

    CPU seconds are measured, so that other work on the machine does not count.
    """
    import time

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def best(run: Any, times: int) -> float:
        out = float("inf")
        for _ in range(times):
            start = time.process_time()
            run()
            out = min(out, time.process_time() - start)
        return out / threads

    def decoding(layers: int) -> float:
        """CPU seconds of one decoding step of a model too small for arithmetic to matter [s]."""
        sizes: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
        with torch.random.fork_rng():
            model: Any = LlamaForCausalLM(
                LlamaConfig(**sizes, num_hidden_layers=layers, eos_token_id=None, pad_token_id=0)
            ).eval()
            ids = torch.ones(8, 2, dtype=torch.long)
            run = lambda: model.generate(ids, attention_mask=ids, max_new_tokens=17, do_sample=True)  # noqa: E731
            return best(run, 3) / 17

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(4096, 96), torch.randn(96, 384)  # long and narrow, as activations times weights are
        rate = 2 * 4096 * 96 * 384 / best(lambda: [a @ b for _ in range(20)], 5) * 20
        big = torch.randn(1_000_000)
        moved = 3 * 4 * 1_000_000 / best(lambda: [torch.nn.functional.silu(big) for _ in range(20)], 5) * 20
        one, three = decoding(1), decoding(3)
    finally:
        torch.set_num_threads(before)
    layer = max(0.0, (three - one) / 2)
    return Machine("cpu", rate, moved, layer, max(0.0, one - layer), 3e-4)
