"""Where the time of a GRPO step goes, by size, rollouts a step and way to generate; each phase against the matrix-product rate.

Models have random weights: a completion ends by chance, at about the mean length of the task's own, and lengths vary as much;
``completion_length`` says what came out. Seconds are the meter's own. One process works through the cells and prints each as it ends; if it dies or falls silent,
the cell it was at is reported with the reason and another process takes the rest.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _gpu_common import MARK, Results, compose, environment, last_line, scratch, stream, table

SIZES = {"0.2M": (64, 3), "5M": (256, 5), "30M": (512, 7)}
ROLLOUTS = (256, 2048)
# dtype on a GPU, way to generate
VARIANTS = {
    "plain, float32": ("float32", "plain"),
    "compiled": ("float32", "compiled"),
    "plain, tf32": ("tf32", "plain"),
    "compiled, tf32": ("tf32", "compiled"),
    "plain": ("bfloat16", "plain"),
    "continuous batching": ("bfloat16", "continuous_batching"),
}
# variants of a group take turns, cell by cell; groups in the order in which they are worth knowing if time runs out
GROUPS = (("plain, float32", "compiled", "compiled, tf32"), ("plain",), ("plain, tf32",), ("continuous batching",))
WARM = 2
COLUMNS = ["size", "parameters", "rollouts", "variant", "warm-up s", "compile s", "s/step", "generation", "scoring", "training", "idle", "tokens/s",
           "generation util", "training util", "peak GiB", "outcome"]  # fmt: skip


def measure(
    *, device: str, tiny: bool, out: Path, seconds: float, patience: float, variants: Sequence[str] | None, steps: int
) -> bool:
    """All cells within ``seconds``, each within ``patience``; true if any was measured. Cells of an earlier call stay.

    ``variants`` take turns in the order given, cell by cell; ``steps`` are timed after the warm-up.
    """
    sizes = {"tiny": (16, 2), "small": (32, 2)} if tiny else SIZES
    rollouts = (16, 32) if tiny else ROLLOUTS
    cells = [
        {"size": s, "shape": sizes[s], "rollouts": r, "variant": v, "steps": steps}
        for group in ([tuple(dict.fromkeys(variants))] if variants else GROUPS)
        for r in rollouts
        for s in sizes
        for v in group
    ]
    results = Results(out, "speed", device, tiny=tiny, warm_up_steps=WARM)
    results.keep([c for c in results.before.get("cells", []) if c.get("outcome") == "measured"])
    have = {(c["size"], c["rollouts"], c["variant"]) for c in results.cells}
    cells = [c for c in cells if (c["size"], c["rollouts"], c["variant"]) not in have]
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as tmp:
        while cells and time.monotonic() < deadline:
            command = [
                sys.executable,
                str(Path(__file__).with_name("gpu.py")),
                "speed-worker",
                "--device",
                device,
                "--folder",
                tmp,
            ]
            command += ["--cells", json.dumps(cells), *(["--tiny"] if tiny else [])]
            ended = False
            allowed = max(1.0, min(patience, deadline - time.monotonic()))
            for answer in stream(command, environment(device), patience=allowed):
                if answer is not None and "rates" in answer:
                    results.body.setdefault("matrix_product_rates", answer["rates"])
                    results.write()
                    print(f"matrix products: {answer['rates']}", flush=True)
                elif answer is None or "stderr" in answer:
                    why = f"no answer in {allowed:.0f} s" if answer is None else f"died: {last_line(answer['stderr'])}"
                    if not cells:
                        break
                    results.add({**cells.pop(0), "outcome": why})
                else:
                    cells.pop(0)
                    results.add(answer)
                if not cells or time.monotonic() > deadline:
                    ended = True
                    break
            if ended:
                break
        for cell in cells:
            results.add({**cell, "outcome": f"not run: {seconds:g} s were over"})
    rates = results.body.get("matrix_product_rates") or {}
    shown = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in rates.items())
    print(
        f"\nMatrix products measured in the same call: {shown}. Utilisation: model FLOP/s of the phase over that rate.\n"
    )
    print("warm-up s: the first steps, compilation included; compile s: its surplus over plain generation's.\n")
    rows = [{**cell, "compile s": compilation(cell, results.cells)} for cell in results.cells]
    print(table(sorted(rows, key=lambda c: (list(sizes).index(c["size"]), c["rollouts"])), COLUMNS))
    return any(c.get("outcome") == "measured" for c in results.cells)


def compilation(cell: dict[str, Any], cells: Sequence[dict[str, Any]]) -> float | None:
    """Seconds that the warm-up of a compiled cell takes longer than that of the plain one beside it."""
    if VARIANTS[cell["variant"]][1] != "compiled":
        return None
    keys = ("size", "rollouts")
    plain = [c for c in cells if c["variant"] == "plain, float32" and all(c[k] == cell[k] for k in keys)]
    both = [c.get("warm-up s") for c in (cell, *plain[:1])]
    return both[0] - both[1] if len(both) == 2 and None not in both else None


def worker(*, device: str, tiny: bool, folder: Path, cells: list[dict[str, Any]]) -> None:
    """Measure cells one after another; print each."""
    rates = {name: product_rate(device, name, 512 if tiny else 4096) for name in ("bfloat16", "float32", "tf32")}
    print(MARK + json.dumps({"rates": rates}), flush=True)
    for cell in cells:
        try:
            answer = {**cell, **one(cell, device=device, rates=rates, folder=folder / f"{time.monotonic_ns()}")}
        except Exception as error:
            answer = {**cell, "outcome": f"failed: {type(error).__name__}: {last_line(str(error).split(chr(10))[0])}"}
        print(MARK + json.dumps(answer), flush=True)
        clear(device)


def one(cell: dict[str, Any], *, device: str, rates: dict[str, float], folder: Path) -> dict[str, Any]:
    """A few GRPO steps of one cell, as the meter records them."""
    import torch
    import transformers

    from scaling.records import read_lines
    from sweeps.grpo import build_trainer
    from sweeps.meter import Limits, Meter
    from sweeps.models import load, shape_of
    from sweeps.tasks import build

    transformers.utils.logging.disable_progress_bar()
    rollouts, steps = cell["rollouts"], WARM + cell["steps"]
    dtype, engine = VARIANTS[cell["variant"]]
    dtype = "float32" if device == "cpu" else dtype
    task_name = "chain_acquisition" if rollouts > 64 else "chain"
    config = compose(
        [*scratch(*cell["shape"]), f"task={task_name}", f"grpo.dtype={dtype}", f"grpo.generation={engine}", "grpo.group_size=16" if rollouts > 64 else "grpo.group_size=4",
         f"grpo.prompts_per_step={rollouts // (16 if rollouts > 64 else 4)}", "grpo.training_prompts=4096", f"budget.steps={steps}",
         "grpo.learning_rate=1e-5", "grpo.updates_per_rollout=1", "tracking=disabled"]
    )  # fmt: skip
    task = build(config.task)
    model, tokenizer = load(config.model, task)
    shape = shape_of(config.model, task)
    trainer: Any = build_trainer(
        config,
        model=model,
        tokenizer=tokenizer,
        task=task,
        rows=task.training_rows(n=4096, seed=0),
        output_dir=folder / "out",
    )
    trainer.args.save_strategy = "no"
    trainer.remove_callback(transformers.PrinterCallback)
    if engine == "continuous_batching" and device == "cpu":
        # by default the cache takes half of the host's memory
        trainer.continuous_batching_config.num_blocks, trainer.continuous_batching_config.max_batch_tokens = 64, 512
    (folder / "run").mkdir(parents=True)
    meter = Meter(directory=folder / "run", segment=0, devices=1, limits=Limits(steps=steps))
    meter.bind(trainer, shape)
    trainer.add_callback(meter)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    trainer.train()
    whole = time.perf_counter() - began
    meter.close()
    every = [row for row, _ in read_lines(folder / "run" / "steps.jsonl")[0] if row.get("metrics")]
    lines = every[WARM:]
    total = {k: sum(line["cost"].get(k, 0.0) for line in lines) for k in {k for line in lines for k in line["cost"]}}
    n, rate = len(lines), rates[dtype]
    out: dict[str, Any] = {
        "outcome": "measured", "parameters": shape.params, "dtype": dtype, "whole_seconds": whole,
        "tokens/s": total["completion_tokens"] / total["generation_gpu_seconds"],
        "completion_length": total["completion_tokens"] / n / rollouts,
        "weights_after": str(next(trainer.model.parameters()).dtype).removeprefix("torch."),
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }  # fmt: skip
    for phase in ("generation", "scoring", "training", "idle"):
        spent = total.get(f"{phase}_gpu_seconds", 0.0)
        out[phase] = spent / n
        if spent and phase != "idle":
            out[f"{phase} util"] = total.get(f"{phase}_flops", 0.0) / spent / rate
    out["s/step"] = sum(out[p] for p in ("generation", "scoring", "training", "idle"))
    out["each_step"] = [step_seconds(line) for line in lines]
    out["warm-up s"] = sum(map(step_seconds, every[:WARM]))
    return out


def step_seconds(line: dict[str, Any]) -> float:
    """Seconds of all phases of a step."""
    return sum(v for k, v in line["cost"].items() if k.endswith("_gpu_seconds"))


def product_rate(device: str, dtype: str, n: int) -> float:
    """Rate of one square matrix product on random numbers, the best of five rounds [FLOP/s]."""
    import torch

    from sweeps.devices import set_products

    set_products(dtype)
    stored = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=stored) for _ in range(2))
    times, repeat = [], 10 if device == "cuda" else 1
    for _ in range(6):  # the first warms up
        wait(device)
        start = time.perf_counter()
        for _ in range(repeat):
            torch.mm(a, b)
        wait(device)
        times.append(time.perf_counter() - start)
    return 2 * n**3 * repeat / min(times[1:])


def wait(device: str) -> None:
    """Until the device's queue is empty."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def clear(device: str) -> None:
    """Give cached memory back, and forget compiled code: a process compiles a function for a few models only."""
    import torch

    gc.collect()
    torch.compiler.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
