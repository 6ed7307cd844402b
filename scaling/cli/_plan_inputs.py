"""What ``rl-scaling plan`` plans with: sizes, the step, rates, price and scores, from options and measured runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import ScalingError

if TYPE_CHECKING:
    from scaling.flops import ModelShape
    from scaling.pretraining import JointFit
    from scaling.runs import RunTable
    from scaling.throughput import Throughput
    from scaling.workload import Workload

_DEFAULT_STEP = {"prompts_per_step": 32, "group_size": 16, "prompt_length": 256.0, "completion_length": 4096.0}
_DEFAULT_SOURCE = "DeepSeek-R1-Zero's batch of 32 x 16 rollouts (arXiv:2501.12948); lengths assumed"


def measured(runs: Path | None) -> RunTable | None:
    """The runs of ``--runs``."""
    if runs is None:
        return None
    from scaling.runs import load_runs

    return load_runs(runs)


def sizes(
    models: tuple[str, ...], configs: tuple[Path, ...], table: RunTable | None
) -> tuple[dict[str, ModelShape], dict[str, float]]:
    """Shapes and pretraining FLOPs of the sizes to plan for."""
    from scaling import reference
    from scaling.shapes import ModelShape

    shapes: dict[str, ModelShape] = {}
    pretraining: dict[str, float] = {}
    for name in models:
        shapes[name] = reference.public_shape(name)
        known = next((m for m in reference.pretrained_models() if m.name == name), None)
        if known is not None and known.tokens:
            pretraining[name] = known.flops
    for path in configs:
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ScalingError(f"--config {path} cannot be read: {error.strerror}") from error
        except ValueError as error:  # no JSON, or no text
            raise ScalingError(f"--config {path} must be a config.json: {error}") from error
        shapes[path.parent.name or path.stem] = ModelShape.from_config(config)
    if not shapes and table is not None:
        from scaling.records import read_run

        for row in table.runs.sort_values("params").to_dict("records"):
            shape = read_run(Path(row["path"])).model.get("shape")
            if shape:
                fields = {**shape, "windows": tuple(shape.get("windows") or ())}
                shapes[row["model"]] = ModelShape(**fields)
                pretraining[row["model"]] = row["pretraining_flops"]
    if not shapes:
        raise ScalingError("a plan needs sizes: --model NAME, --config PATH, or --runs whose records hold their shapes")
    return shapes, {name: value for name, value in pretraining.items() if value == value}


def step(options: dict[str, Any], table: RunTable | None) -> tuple[Workload, str]:
    """The step: what was asked for, else what the runs did, else the defaults."""
    from scaling.workload import Workload

    known, source = dict(_DEFAULT_STEP), _DEFAULT_SOURCE
    if table is not None and len(table.steps) and table.steps["rollouts"].sum() > 0:
        rollouts = table.steps["rollouts"]
        per_step = float(rollouts[rollouts > 0].median())
        known = {
            "prompts_per_step": max(1, round(per_step)),
            "group_size": 1,
            "prompt_length": float(table.steps["prompt_tokens"].sum() / rollouts.sum()),
            "completion_length": float(table.steps["completion_tokens"].sum() / rollouts.sum()),
        }
        source = "means of the runs"
    given = {key: value for key, value in options.items() if key in known and value is not None}
    if given:
        source = f"{', '.join(given)} as given; the rest: {source}" if len(given) < len(known) else "as given"
    if "group_size" in given and "prompts_per_step" not in given and table is not None:
        known["prompts_per_step"] = max(1, round(known["prompts_per_step"] / given["group_size"]))
    return Workload(**{**known, **given}, reference_model=options["reference_model"], lora=options["lora"]), source


def rates(name: str | None, table: RunTable | None) -> tuple[Throughput, bool, str]:
    """Rates, whether they say anything about hours, and why not."""
    from scaling.throughput import measured_throughput, stated_throughput

    problem = "no accelerator named and no measured runs"
    if table is not None:
        try:
            measured = measured_throughput(table)
            if name is None or _same(name, measured.accelerator):
                return measured, True, ""
        except ScalingError as error:
            problem = str(error)
    if name is not None:
        return stated_throughput(name), True, ""
    return stated_throughput("H100"), False, f"not predicted: {problem}"


def _same(one: str, other: str) -> bool:
    from scaling.hardware import accelerator

    try:
        return accelerator(one).name == accelerator(other).name
    except ScalingError:
        return one.casefold() == other.casefold()


def money(price: float | None, throughput: Throughput) -> tuple[float | None, str]:
    """Price of a GPU-hour [USD] and its source; None where none is stated."""
    if price is not None:
        return price, f"{price:g} USD a GPU-hour, as given"
    from scaling.hardware import accelerator

    try:
        device = accelerator(throughput.accelerator)
    except ScalingError:
        return None, ""
    if device.usd_per_hour is None:
        return None, ""
    return device.usd_per_hour, f"{device.usd_per_hour:g} USD a GPU-hour ({device.usd_source})"


def scores(table: RunTable | None, benchmark: str | None) -> tuple[JointFit | None, str]:
    """The joint fit that predicts scores, and what is said of it; None where the runs do not support one."""
    if table is None:
        return None, "not predicted without measured runs (--runs) of at least 3 sizes"
    from scaling.pretraining import fit_joint
    from scaling.pretraining.bases import recorded_labels, with_labels

    labels = {row["run_id"]: recorded_labels(row) for row in table.runs.to_dict("records")}
    try:
        groups = {
            float(params): [with_labels(curve, labels[curve.run_id]) for curve in curves]
            for params, curves in table.curves(benchmark=benchmark, axis="total_flops", by="params").items()
        }
        study = fit_joint(groups)
    except ScalingError as error:
        return None, f"not predicted: {error}"
    return study, f"joint fit of {len(groups)} sizes, 90 % interval of the expected score (its verdict below)"
