"""Which runs are seeds of one law, what the groups are called, and which scores of theirs are fitted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling import records
from scaling.errors import RecordError, UnknownName
from scaling.runs import RunTable

__all__ = ["Group", "group_runs", "main_benchmark", "main_decoding", "recipe_names"]

SAME_BUDGET = 0.02  # pretraining FLOPs this near, relative, are one budget
# keys of a configuration that never tell recipes apart
_NOT_RECIPE = (
    "seed",
    "model",
    "budget",
    "cluster",
    "tracking",
    "eval",
    "launch",
    "hydra",
    "pretrain",
    "output",
    "name",
    "sweep",
)


@dataclass(frozen=True)
class Group:
    """Runs of one law: the same model, pretraining and recipe, differing in seeds."""

    name: str
    model: str
    params: float
    recipe: str
    recipe_hash: str
    pretraining_flops: float
    run_ids: tuple[str, ...]
    shared: bool


def main_benchmark(table: RunTable, benchmark: str | None, notes: list[str] | None = None) -> str | None:
    """The benchmark asked for, else the one that most runs (then most evaluations) have; None where there is none."""
    sampled: Any = table.evals
    if len(sampled) and (sampled["step"] > 0).any():
        sampled = sampled[sampled["step"] > 0]
    if benchmark is not None:
        known = sorted(sampled["benchmark"].unique()) if len(sampled) else []
        if benchmark not in known:
            raise UnknownName(f"benchmark must be one of {', '.join(known) or '(none recorded)'}, got {benchmark!r}")
        return benchmark
    if not len(sampled):
        if notes is not None:
            notes.append("no held-out evaluation is recorded: nothing can be fitted")
        return None
    counts: Any = sampled.groupby("benchmark").agg(runs=("run_id", "nunique"), rows=("run_id", "size"))
    best = counts.sort_values(["runs", "rows"], ascending=False, kind="stable").index[0]
    if len(counts) > 1 and notes is not None:
        notes.append(f"of {len(counts)} benchmarks {best} is fitted; choose another with --benchmark")
    return str(best)


def main_decoding(table: RunTable, benchmark: str | None, notes: list[str]) -> str:
    """``sampled`` where trained models were sampled on the benchmark, else the decoding most used on them."""
    evals: Any = table.evals
    if benchmark is None:
        return "sampled"
    part = evals[(evals["benchmark"] == benchmark) & (evals["step"] > 0)]
    counts = part["decoding"].value_counts()
    if "sampled" in counts.index or not len(counts):
        return "sampled"
    notes.append(f"no trained model was sampled on {benchmark}: its scores are under {counts.index[0]} decoding")
    return str(counts.index[0])


def group_runs(table: RunTable) -> list[Group]:
    """Runs grouped by model, pretraining FLOPs and recipe, in order of parameters."""
    names = recipe_names(table)
    runs = table.runs
    keyed: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    of_model: dict[str, list[dict[str, Any]]] = {}
    for row in runs.to_dict("records"):
        of_model.setdefault(str(row["model"] or row["name"]), []).append(row)
    for model, rows in of_model.items():  # each model by itself: another's budgets may lie in between
        for row, flops in zip(rows, _budgets(row["pretraining_flops"] for row in rows)):
            keyed.setdefault((model, flops, str(row["recipe_hash"])), []).append(row)
    sizes = {key[0]: len({k[1] for k in keyed if k[0] == key[0]}) for key in keyed}
    recipes = {key[2] for key in keyed}
    out, used = [], set()
    for (model, flops, recipe), rows in keyed.items():
        name = model or "run"
        if sizes[model] > 1:
            name += f" · {flops:.2g} pretraining FLOPs".replace("e+", "e") if flops else " · pretraining unknown"
        if len(recipes) > 1:
            name += f" · {names[recipe]}"
        while name in used:  # two recipes may differ in nothing the configuration shows
            name += f" · {recipe[:6] or 'other'}"
        used.add(name)
        out.append(
            Group(
                name,
                model,
                float(rows[0]["params"]),
                names[recipe],
                recipe,
                math.nan if flops is None else flops,
                tuple(r["run_id"] for r in rows),
                any(r["shared"] for r in rows),
            )
        )
    return sorted(
        out, key=lambda g: (g.params if math.isfinite(g.params) else math.inf, g.model, g.pretraining_flops, g.recipe)
    )


def _budgets(flops: Iterable[float]) -> list[float | None]:
    """Each pretraining's FLOPs as the smallest of its like: seeds of one budget differ a little in their tokens."""
    values = [float(v) for v in flops]
    nearest: dict[float, float] = {}
    first = 0.0
    for value in sorted(v for v in values if not math.isnan(v)):
        if value > (1 + SAME_BUDGET) * first:
            first = value
        nearest[value] = first
    return [nearest.get(v) for v in values]


def recipe_names(table: RunTable) -> dict[str, str]:
    """Recipe hash -> a short name made of the settings in which the recipes differ.

    Example:
        >>> recipe_names(table)  # doctest: +SKIP
        {'9c1f': 'grpo.loss_type=dapo', '77ab': 'grpo.loss_type=cispo'}
    """
    configs: dict[str, dict[str, str]] = {}
    for row in table.runs.drop_duplicates("recipe_hash").to_dict("records"):
        try:
            config = records.read_run(Path(row["path"])).config if row.get("path") else {}
        except (RecordError, OSError):  # imported or moved: the hash still names it
            config = {}
        configs[str(row["recipe_hash"])] = _flat(config)
    keys = sorted({key for config in configs.values() for key in config})
    differing = [key for key in keys if len({config.get(key) for config in configs.values()}) > 1]
    out = {}
    for recipe, config in configs.items():
        text = ", ".join(f"{key}={config.get(key, 'unset')}" for key in differing[:3])
        out[recipe] = text or (f"recipe {recipe[:8]}" if recipe else "recipe unknown")
    return out


def _flat(config: Any, prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for key, value in (config or {}).items() if isinstance(config, Mapping) else ():
        if not prefix and str(key) in _NOT_RECIPE:
            continue
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return out
