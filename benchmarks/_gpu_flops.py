"""Hardware FLOPs of the meter against what torch counts while a real GRPO step runs, phase by phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def counted_and_measured(config: Any, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Train a run with eager attention and count twice.

    Args:
        config: a `RunConfig` of a scratch model.
        folder: scratch space.

    Returns:
        Fields of `ComputeCost` by the meter's counter, and FLOPs of generation, scoring and training by torch's.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sweeps.counting import Counter
    from sweeps.grpo import build_trainer
    from sweeps.models import load, shape_of
    from sweeps.pretrain import pretrain
    from sweeps.tasks import build

    task = build(config.task)
    base = pretrain(config.model, task, config.pretrain, config.bases_dir, progress=False)
    model, tokenizer = load(config.model, task, path=base.path)
    model.set_attn_implementation("eager")
    trainer = build_trainer(
        config, model=model, tokenizer=tokenizer, task=task, rows=task.training_rows(n=64, seed=0),
        output_dir=folder / "out", base=base.path if config.grpo.beta else None,
    )  # fmt: skip
    trainer.args.save_strategy = "no"
    settings: Any = trainer.generation_config
    settings.disable_compile = True  # torch's counter does not see into compiled code
    reference: Any = trainer.ref_model
    if reference is not None:
        reference.set_attn_implementation("eager")
    counter = Counter(trainer, shape_of(config.model, task))
    measured = {"generation": 0.0, "scoring": 0.0, "training": 0.0}
    inside = {"prepare": 0.0}

    # TRL's head accumulates its gradients in place, or with another output dtype, where torch's counter has no formula
    def product(accumulator: Any, a: Any, b: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    formulas = {torch.ops.aten.addmm_: product, torch.ops.aten.addmm: product}

    def counted(name: str, phase: str, skip: Any = lambda: False) -> None:
        original = getattr(trainer, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if skip():
                return original(*args, **kwargs)
            with FlopCounterMode(display=False, custom_mapping=formulas) as mode:
                out = original(*args, **kwargs)
            (inside if phase == "prepare" else measured)[phase] += mode.get_total_flops()
            return out

        setattr(trainer, name, wrapper)

    counted("_generate_single_turn", "generation")
    counted("_get_per_token_logps_and_entropies", "scoring", skip=torch.is_grad_enabled)
    counted("_prepare_inputs", "prepare")
    counted("training_step", "training")
    trainer.train()
    measured["training"] -= inside["prepare"]
    counter.settle()
    return counter.values, measured
