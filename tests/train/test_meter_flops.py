"""The hardware ledger against torch's own counter on a real GRPO step, each phase within 1 %."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # benchmarks/gpu.py counts so on a GPU

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([], id="on-policy"),
        pytest.param(["grpo.updates_per_rollout=2"], id="old log-probabilities"),
        pytest.param(["grpo.beta=0.05"], id="reference model"),
        pytest.param(["grpo.micro_batch=8", "grpo.gradient_checkpointing=true"], id="recomputation"),
        pytest.param(["grpo.generation=compiled", "grpo.dtype=float32"], id="static cache"),
    ],
)
def test_hardware_flops_equal_what_torch_counts(small, overrides, tmp_path):
    from _gpu_flops import counted_and_measured

    config = small("budget.steps=2", *overrides)
    counted, measured = counted_and_measured(config, tmp_path)
    for phase, flops in measured.items():
        ours = counted.get(f"{phase}_hardware_flops", 0.0)
        assert ours == pytest.approx(flops, rel=0.01), phase
    assert (measured["scoring"] > 0) == (bool(config.grpo.beta) or config.grpo.updates_per_rollout > 1)


def test_padding_changes_hardware_flops_and_not_model_flops(small):
    import numpy as np

    from scaling import flops
    from sweeps.models import shape_of
    from sweeps.tasks import build

    config = small()
    shape = shape_of(config.model, build(config.task))
    prompts, completions = np.array([5, 9, 12]), np.array([3, 7, 4])
    model = flops.training_flops(shape, prompts, completions)
    apart = sum(flops.training_flops(shape, prompts[i : i + 1], completions[i : i + 1]) for i in range(3))
    assert model == pytest.approx(apart)  # who a rollout is batched with does not matter
    narrow = flops.training_hardware_flops(shape, batch=3, prompt_width=12, completion_width=7)
    wide = flops.training_hardware_flops(shape, batch=3, prompt_width=16, completion_width=11)
    assert wide > narrow > model
