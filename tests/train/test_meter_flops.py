"""The hardware ledger against torch's own counter on a real GRPO step, each phase within 1 %."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([], id="on-policy"),
        pytest.param(["grpo.updates_per_rollout=2"], id="old log-probabilities"),
        pytest.param(["grpo.beta=0.05"], id="reference model"),
        pytest.param(["grpo.micro_batch=8", "grpo.gradient_checkpointing=true"], id="recomputation"),
    ],
)
def test_hardware_flops_equal_what_torch_counts(small, overrides, tmp_path):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sweeps.counting import Counter
    from sweeps.grpo import build_trainer
    from sweeps.models import load, shape_of
    from sweeps.pretrain import pretrain
    from sweeps.tasks import build

    config = small("budget.steps=2", *overrides)
    task = build(config.task)
    base = pretrain(config.model, task, config.pretrain, config.bases_dir, progress=False)
    model, tokenizer = load(config.model, task, path=base.path)
    model.set_attn_implementation("eager")
    trainer = build_trainer(
        config, model=model, tokenizer=tokenizer, task=task, rows=task.training_rows(n=64, seed=0),
        output_dir=tmp_path / "out", base=base.path if config.grpo.beta else None,
    )  # fmt: skip
    trainer.args.save_strategy = "no"
    if trainer.ref_model is not None:
        trainer.ref_model.set_attn_implementation("eager")
    counter = Counter(trainer, shape_of(config.model, task))
    measured = {"generation": 0, "scoring": 0, "training": 0}
    inside = {"prepare": 0}

    # TRL's head accumulates its gradients with addmm_, in place, for which torch's counter has no formula of its own
    in_place = {torch.ops.aten.addmm_: lambda out, a, b, *args, out_val=None, **kwargs: 2 * a[0] * a[1] * b[1]}

    def counted(name, phase, skip=lambda: False):
        original = getattr(trainer, name)

        def wrapper(*args, **kwargs):
            if skip():
                return original(*args, **kwargs)
            with FlopCounterMode(display=False, custom_mapping=in_place) as mode:
                out = original(*args, **kwargs)
            if phase == "prepare":
                inside["prepare"] += mode.get_total_flops()
            else:
                measured[phase] += mode.get_total_flops()
            return out

        setattr(trainer, name, wrapper)

    counted("_generate_single_turn", "generation")
    counted("_get_per_token_logps_and_entropies", "scoring", skip=torch.is_grad_enabled)
    counted("_prepare_inputs", "prepare")
    counted("training_step", "training")
    trainer.train()
    measured["training"] -= inside["prepare"]
    for phase, flops in measured.items():
        ours = counter.values.get(f"{phase}_hardware_flops", 0.0)
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
