"""A `RawRun` and a mapping -> an `ImportedRun`: our names, our ledger, one line a step and one an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from scaling import records
from scaling.errors import ForeignLogError, ScalingError
from scaling.importers.accounting import Accounts
from scaling.importers.imported import Explanation, ImportedRun, RawRun
from scaling.importers.lines import Score, line_blocks
from scaling.importers.mapping import EvalRule, TrainerMapping
from scaling.importers.names import METRICS, QUANTITIES
from scaling.importers.values import digest, lookup, number, one_line, printable, redact
from scaling.words import counted

__all__ = ["convert"]

# of the configuration's entries, those that do not make another recipe
_NOT_RECIPE = {"model", "seed", "project", "experiment", "eval_samples", "eval_temperature", "eval_do_sample", "run"}


def convert(
    raw: RawRun, *, gpus: float | None = None, shape: Any = None, model: str = "", lora: bool = False
) -> ImportedRun:
    """Translate a run.

    Args:
        raw: the run as its log has it, with its trainer's mapping.
        gpus: devices allocated, when the log does not say; overrides the log.
        shape: `ModelShape`, for FLOPs; default: from the model's configuration where the log shows it.
        model: name of the model; default: from the run's configuration.
        lora: only adapters were trained.

    Raises:
        ForeignLogError: no row of the log has a key that the mapping knows, or the number of GPUs is needed.
    """
    mapping = raw.mapping
    if not raw.rows.count:
        raise ForeignLogError(
            f"{', '.join(raw.files) or raw.name}: no step found in the form that {mapping.trainer} logs"
        )
    for _ in raw.rows.blocks():  # closes the key counts
        break
    have = raw.rows.key_counts
    scores = _scores(have, mapping)
    if shape is None and raw.model_config:
        shape = _shape(raw)
    accounts = Accounts(raw, mapping, gpus, lora, shape)
    if not scores and not accounts.metric_keys:
        raise ForeignLogError(
            f"{raw.name}: none of its {len(have) + len(raw.unused)} keys is known to the mapping of {mapping.trainer}: "
            f"pass --mapping; first keys: {', '.join(list(have | raw.unused)[:6])}"
        )
    semantics = _semantics(raw, mapping, accounts)
    record = _record(raw, mapping, accounts, semantics, model)
    explanation = _explain(raw, mapping, accounts, scores)
    names = [n for n in (*accounts.metric_keys, *mapping.derive) if _is_metric(n)]
    return ImportedRun(
        record=record,
        blocks=lambda: line_blocks(raw, accounts, scores, names, semantics),
        explanation=explanation,
        rows=raw.rows.count,
        skipped=_skipped(raw),
    )


def _scores(have: Mapping[str, int], mapping: TrainerMapping) -> list[Score]:
    best: dict[tuple[str, str], Score] = {}
    for key, count in have.items():
        found = mapping.evaluation(key) if count else None
        if found is None:
            continue
        rank, rule, parts = found
        score = _score(key, rank, rule, parts)
        place = (score.benchmark, score.value)
        held = best.get(place)
        # of several keys for one score: the earlier rule, then the larger k
        if held is None or (score.rank, -(score.k or 0)) < (held.rank, -(held.k or 0)):
            best[place] = score
    return list(best.values())


def _score(key: str, rank: int, rule: EvalRule, parts: Mapping[str, str]) -> Score:
    k = int(parts["k"]) if "k" in parts else rule.k
    value = rule.value.replace("{k}", str(k)) if k else rule.value
    benchmark = printable(parts.get("benchmark") or parts.get("task") or rule.benchmark)
    return Score(key, benchmark, value, rule.scale, k, rank)


def _shape(raw: RawRun) -> Any:
    from scaling.shapes import ModelShape

    try:
        return ModelShape.from_config(raw.model_config or {})
    except (ScalingError, KeyError, TypeError, ValueError) as error:
        raw.skipped.append(records.Skipped(raw.name, 0, f"model configuration not understood: {error}"))
        return None


def _semantics(raw: RawRun, mapping: TrainerMapping, accounts: Accounts) -> dict[str, Any]:
    out = dict(mapping.semantics)
    for name in ("evaluation", "checkpoint"):
        if out.get(f"{name}_in_step_time") == "by phases":
            out[f"{name}_in_step_time"] = bool(accounts.inside[name])
    low = high = None
    for block in raw.rows.blocks():
        for name in ("reward_min", "reward", "reward_max"):
            column = accounts.value(block, name)
            if column is not None and np.isfinite(column).any():
                low = float(np.nanmin(column)) if low is None else min(low, float(np.nanmin(column)))
                high = float(np.nanmax(column)) if high is None else max(high, float(np.nanmax(column)))
    if low is not None and high is not None and "reward_range" not in out:
        # by sign and size only: two runs of one reward need not both meet its extremes
        out["reward_range"] = f"{'0' if low >= -1e-9 else 'below 0'} to {'1' if high <= 1 + 1e-9 else 'above 1'}"
    config = {name: lookup(raw.config, path) for name, path in mapping.config.items()}
    sample, temperature = config.get("eval_do_sample"), number(config.get("eval_temperature"))
    if "decoding" not in out:
        greedy = sample in (False, "False", "false") or temperature == 0
        out["decoding"] = "greedy" if greedy else "sampled" if (sample or temperature) else "unknown"
    if "temperature" not in out and temperature is not None:
        out["temperature"] = temperature
    return out


def _record(
    raw: RawRun, mapping: TrainerMapping, accounts: Accounts, semantics: dict[str, Any], model: str
) -> records.RunRecord:
    config = {name: v for name, path in mapping.config.items() if (v := lookup(raw.config, path)) is not None}
    config = redact(config)
    name = model or str(config.get("model") or (raw.model_config or {}).get("_name_or_path") or "")
    recipe = {k: v for k, v in config.items() if k not in _NOT_RECIPE}
    unknown = list(accounts.unknown)
    if accounts.cost_keys:
        unknown += [] if any(name.endswith("_flops") for name in accounts.cost_keys) else ["total_flops"]
    elif accounts.shape is None or "rollouts" in unknown or "tokens" in unknown:
        unknown.append("total_flops")
    shape = {} if accounts.shape is None else {"params": accounts.shape.params, "shape": asdict(accounts.shape)}
    confidence = accounts.rules.get("gpu_seconds", accounts.rules.get("tokens", ("derived", "")))[0]
    if accounts.time_rule == "throughput" and accounts.gpus is None:
        accounts.gpus = accounts.gpus_by_throughput()
    rules = {name: {"confidence": c, "rule": rule} for name, (c, rule) in accounts.rules.items()}
    if accounts.shape is not None and "total_flops" not in unknown:
        rules["total_flops"] = {"confidence": "derived", "rule": "rollouts at their mean lengths x the model's shape"}
    return records.RunRecord(
        run_id=digest(mapping.trainer, raw.name, config, raw.rows.first),
        recipe_hash=digest(mapping.trainer, recipe) if recipe else "",
        base_hash=digest(name) if name else "",
        name=one_line(raw.name),
        config=redact(raw.config) | {k: v for k, v in config.items() if k == "seed"},
        model={"name": _short(name), **shape},
        accelerator=raw.accelerator or "unknown",
        devices=int(accounts.gpus) if accounts.gpus and accounts.gpus >= 1 else 1,
        segments=tuple({"segment": i, "resumed_from": r} for i, r in enumerate(raw.rows.resumed_from)),
        confidence=confidence,
        provenance={
            "trainer": mapping.trainer, "importer": raw.source, "files": list(raw.files), "evidence": mapping.evidence,
            "semantics": semantics, "accounting": rules, "unknown_axes": unknown, "notes": accounts.notes,
            "stalled": [{"segment": s, "step": t, "seconds": w} for s, t, w in accounts.stalled],
        },
        status=raw.status,
    )  # fmt: skip


def _short(model: str) -> str:
    """The public name inside a path of the Hugging Face cache, else the last two parts of a path."""
    for part in model.replace("\\", "/").split("/"):
        if part.startswith("models--"):
            return part[8:].replace("--", "/")
    parts = [p for p in model.split("/") if p]
    return "/".join(parts[-2:]) if len(parts) <= 2 else parts[-1]


def _is_metric(name: str) -> bool:
    return name in METRICS or name not in QUANTITIES


def _skipped(raw: RawRun) -> list[records.Skipped]:
    out = list(raw.skipped)
    if raw.rows.repeated:
        out.append(records.Skipped(raw.name, 0, f"{raw.rows.repeated} line(s) that only repeat the line before"))
    if raw.rows.impossible:
        out.append(records.Skipped(raw.name, 0, f"{raw.rows.impossible} row(s) with an impossible step"))
    for key, n in sorted(raw.rows.not_finite.items()):
        out.append(records.Skipped(raw.name, 0, printable(f"{n} value(s) of {key} that are not finite")))
    return out


def _explain(raw: RawRun, mapping: TrainerMapping, accounts: Accounts, scores: list[Score]) -> Explanation:
    out = Explanation(run=raw.name, trainer=mapping.trainer, evidence=mapping.evidence, notes=list(accounts.notes))
    have = raw.rows.key_counts
    taken: dict[str, str] = {}

    def match(ours: str, key: str, scale: float = 1.0) -> None:
        taken[key] = ours
        times = "" if scale == 1 else f", x {scale:g}"
        out.matched.append((ours, key, f"({counted(have.get(key, 0), 'row')}{times})"))

    for name, (choice, key) in (accounts.metric_keys | accounts.keys | accounts.cost_keys).items():
        match(name, key, choice.scale)
    for name, picked in accounts.phase_keys.items():
        for choice, key in picked:
            match(f"{name}_seconds", key, choice.scale)
    for score in scores:
        match(f"eval/{score.benchmark}" + ("" if score.value == "score" else f" {score.value}"), score.key, score.scale)
    for name, (confidence, rule) in accounts.rules.items():
        out.derived.append((name, f"{rule} ({confidence})"))
    for name, text in mapping.derive.items():
        if accounts.known(name):
            out.derived.append((name, text))
    for name, inside in accounts.inside.items():
        if name in accounts.phase_keys:
            if name == "checkpoint":
                out.derived.append(
                    ("idle_gpu_seconds", f"checkpoints {'are in' if inside else 'added to'} the step time")
                )
            else:
                how = "taken out of" if inside else "added to"
                out.derived.append((f"{name}_gpu_seconds", f"{how} the step time"))
    alternatives = {}
    choices = [*mapping.metrics.items(), *mapping.quantities.items()]
    choices += [(f"{p}_seconds", c) for p, cs in mapping.phases.items() for c in cs]
    for name, choice in choices:
        for key in choice.keys:
            alternatives.setdefault(key, name)
    for key in have:
        if key in taken or key in mapping.step or key == mapping.run:
            continue
        if not have[key]:
            reason = "never a finite number"
        elif key in alternatives:
            reason = f"another key is preferred for {alternatives[key]}"
        elif mapping.evaluation(key):
            reason = "another key is preferred for this score"
        else:
            reason = "the mapping has no use for it"
        out.unmatched.append((key, reason))
    out.unmatched += [(key, "the mapping has no use for it") for key in raw.unused]
    if raw.rows.resumed_from[1:]:
        out.notes.append(f"{len(raw.rows.resumed_from)} segments: resumed from {raw.rows.resumed_from[1:]}")
    return out
