"""The launch estimate: activations against what autograd keeps, memory against allocations, the command."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from scaling.errors import ScalingError
from scaling.flops import ModelShape
from sweeps import estimate as module
from sweeps.estimate import Machine, activation_floats, memory, seconds_per_step

pytestmark = pytest.mark.train


def kept_floats(config: Any, *, attention: str = "sdpa", batch: int = 4, width: int = 32) -> float:
    """Floats that autograd keeps for one layer and token, parameters left out, by counting storages."""
    import torch
    from transformers import AutoModelForCausalLM

    def count(layers: int) -> int:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = ["full_attention"] * layers
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        ids = torch.randint(0, 50, (batch, width))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return sum(kept.values()) // 4

    return (count(4) - count(2)) / 2 / batch / width


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 2}),
        ("llama", {"head_dim": 32}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16, "num_key_value_heads": 2}),
        ("olmo2", {}),
    ],
)
def test_activations_are_what_autograd_keeps(architecture: str, sizes: dict[str, int]):
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        architecture,
        **{
            "vocab_size": 50,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            **sizes,
        },
    )
    shape = ModelShape.from_config(config.to_dict())
    assert activation_floats(shape) == pytest.approx(kept_floats(config), rel=0.01)
    if architecture == "llama" and not sizes:  # eager attention repeats grouped keys and values
        assert activation_floats(shape, eager_width=32) == pytest.approx(
            kept_floats(config, attention="eager"), rel=0.02
        )


def test_memory_against_published_rules_of_thumb():
    """Weights, gradients and Adam of a 7B model in float32 take 16 bytes a parameter; the cache by hand."""
    shape = ModelShape(
        hidden_size=3584,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        intermediate_size=18944,
        vocab_size=152064,
        tied=False,
    )
    need = memory(shape, micro_batch=4, rollouts=64, prompt_length=512, completion_length=3584, activation_bytes=2.2)
    assert need.weights + need.gradients + need.optimizer == 16 * shape.params
    assert need.cache == 64 * 4096 * 28 * 2 * 4 * 128 * 2
    small = memory(
        shape,
        micro_batch=4,
        rollouts=64,
        prompt_length=512,
        completion_length=3584,
        activation_bytes=2.2,
        gradient_checkpointing=True,
    )
    assert small.activations < 0.15 * need.activations
    assert need.peak == max(need.training, need.generation)


def test_time_has_the_right_limits():
    shape = ModelShape(
        hidden_size=3584,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        intermediate_size=18944,
        vocab_size=152064,
        tied=False,
    )
    machine = Machine.of("H100-SXM", devices=8)
    common = {"rollouts": 512, "prompt_length": 512, "completion_length": 2048}
    generation, training = seconds_per_step(shape, machine, **common)
    assert generation > 2048 * 28 * machine.layer_seconds, "never below the floor of a decoding step"
    assert training > 6 * shape.params * 512 * 2048 / 8 / machine.flops_per_second
    twice = seconds_per_step(shape, machine, **{**common, "rollouts": 1024})
    assert 1.9 < twice[1] / training < 2.1 and twice[0] < 2 * generation
    assert seconds_per_step(shape, machine, **common, updates_per_rollout=4)[0] == pytest.approx(generation / 4)


def test_a_mixture_of_experts_is_refused():
    shape = ModelShape(
        hidden_size=64, num_layers=2, num_heads=4, intermediate_size=0, vocab_size=30, tied=True, num_experts=8, experts_per_token=2,
        moe_intermediate_size=32, num_moe_layers=2,
    )  # fmt: skip
    with pytest.raises(ScalingError, match="dense"):
        activation_floats(shape)


def test_command_prints_whether_it_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert module.main(["model=scratch_96", "accelerator=H100-SXM", "devices=2"]) == 0
    out = capsys.readouterr().out
    assert "fits" in out and "s a step" in out and "256 rollouts" in out
    assert module.main(["model=scratch_96", "accelerator=H100-SXM", "grpo.group_size=1"]) == 1
    assert "group_size" in capsys.readouterr().err
    assert module.main(["--help"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ["model=qwen2.5_0.5b", "model.name_or_path=.", "accelerator=H100-SXM"],
            1,
            "error: model.name_or_path must be",
        ),
        (["model=scratch_16", "accelerator=H100-SXM", "devices=2"], 0, "scratch_16 on H100-SXM: prompts of 10 and "),
        (["model=scratch_16", "accelerator=H100-SXM", "devices=x"], 1, "error: devices: must be a whole number"),
        (["model=nope"], 1, "error: model=nope: no such option; options are "),
    ],
)
def test_the_command_in_a_process_of_its_own(arguments, code, words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.estimate", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code and (done.stderr if code else done.stdout).startswith(words), done.stderr
    assert "Traceback" not in done.stderr
