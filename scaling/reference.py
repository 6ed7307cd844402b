"""The reference ledger: published pretraining and RL compute of public models, each cell with its source and trust.

Data: ``scaling/data/pretraining.csv``, ``rl.csv`` and ``configs.json``. Trust of a cell: ``verified`` (read in the
primary document), ``computed`` (follows from the public ``config.json``), ``verified-secondary`` (read in a third-party
text), ``derived`` (our arithmetic on stated numbers, e.g. devices x wall time), ``unverified``. Anything but the first
two is marked wherever it is printed.

FLOPs here are by convention: pretraining ``6 N_active D``, RL as its row says; attention is not counted, so they
compare with papers. `scaling.flops` counts exactly.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from scaling.errors import ScalingError, UnknownName
from scaling.ratio import FlopRatio, GpuHourRatio
from scaling.shapes import ModelShape

__all__ = [
    "PretrainedModel",
    "RLRun",
    "flop_ratio",
    "gpu_hour_ratio",
    "pretrained_model",
    "pretrained_models",
    "public_shape",
    "rl_run",
    "rl_runs",
]


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """Published facts of one pretraining; None where nothing was published.

    Attributes:
        name: model.
        family: model family.
        params: all parameters [1].
        active_params: parameters that a token uses [1].
        tokens: pretraining tokens [token].
        gpu_hours: reported pretraining time [GPU h].
        chip: accelerator of ``gpu_hours``.
        gpu_hours_scope: what the hours cover.
        made_by: ``pretraining``, or how else the model came about (distilled, pruned, fine-tuned).
        trust: cell -> trust.
        source: citation.
        note: what to watch.

    Example:
        >>> model = pretrained_model("SmolLM2-1.7B")
        >>> model.params, model.tokens
        (1711376384.0, 11000000000000.0)
    """

    name: str
    family: str
    params: float | None
    active_params: float | None
    tokens: float | None
    gpu_hours: float | None
    chip: str
    gpu_hours_scope: str
    made_by: str
    trust: Mapping[str, str]
    source: str
    note: str

    @property
    def flops(self) -> float:
        """Pretraining FLOPs by the convention ``6 N_active D`` [FLOP].

        Raises:
            ScalingError: tokens or parameters were not published.
        """
        if self.tokens is None or self.active_params is None:
            raise ScalingError(f"pretraining FLOPs of {self.name} are not known: its tokens were not published")
        return 6 * self.active_params * self.tokens

    @property
    def comparable(self) -> bool:
        """Whether ``6ND`` measures what the model cost: false for distilled, pruned and fine-tuned models."""
        return self.made_by == "pretraining"


@dataclass(frozen=True, kw_only=True)
class RLRun:
    """Published facts of one RL run (or of an SFT stage, a total, a statement or an estimate, see ``kind``).

    Attributes:
        name: run.
        kind: ``rl``, ``sft``, ``data``, ``total``, ``statement`` or ``estimate``.
        base: the base model's name in the ledger, or "" where it is not in it.
        base_note: what the base is, where that matters.
        algorithm: as the source calls it.
        chip: accelerator.
        gpu_hours: reported or derived time [GPU h].
        tokens: prompt and completion tokens of all rollouts [token].
        flops: FLOPs by ``flops_convention`` [FLOP].
        flops_range: least and most that the assumptions allow [FLOP].
        flops_convention: e.g. ``10NT``: generation 2N, reference 2N, training 6N per token.
        usd: stated cost [USD].
        score: benchmark before and after, as stated.
        trust: cell -> trust.
        source: citation.
        date: of publication, where known.
        facts: the whole row of the data file, as text.
        note: what to watch.

    Example:
        >>> rl_run("DAPO (paper)").base
        'Qwen2.5-32B'
    """

    name: str
    kind: str
    base: str
    base_note: str
    algorithm: str
    chip: str
    gpu_hours: float | None
    tokens: float | None
    flops: float | None
    flops_range: tuple[float, float] | None
    flops_convention: str
    usd: float | None
    score: tuple[str, str]
    trust: Mapping[str, str]
    source: str
    note: str
    date: str = ""
    facts: Mapping[str, str] = field(default_factory=dict, repr=False)


def gpu_hour_ratio(run: str, base: str | None = None) -> GpuHourRatio:
    """GPU-hours of an RL run over those of its base's pretraining.

    Args:
        run: name in the ledger.
        base: another row to divide by, e.g. ``DeepSeek-V3-Base (full training)``; default the run's own base.

    Raises:
        UnknownName: no such run or base.
        ScalingError: one of the two hours is not known, the chips differ, or only FLOPs are known; the message says
            which.

    Example:
        >>> gpu_hour_ratio("DeepSeek-R1-Zero")
        3.805 % of the pretraining GPU-hours (101,376 / 2,664,000 H800 h)
    """
    row = rl_run(run)
    pre = _base(row, base)
    if row.gpu_hours is None:
        known = "only its FLOPs are known" if row.flops is not None else "its FLOPs are not known either"
        raise ScalingError(f"no GPU-hour ratio of {row.name}: its GPU-hours were not published; {known}")
    if pre.gpu_hours is None:
        raise ScalingError(
            f"no GPU-hour ratio of {row.name}: the pretraining GPU-hours of {pre.name} were not published"
            + ("; only the FLOP ratio is known" if row.flops is not None and pre.tokens is not None else "")
        )
    if row.chip != pre.chip:
        chip = row.chip or "an unnamed chip"
        raise ScalingError(
            f"no GPU-hour ratio of {row.name}: its hours are of {chip}, those of {pre.name} of {pre.chip}; "
            "hours of different chips do not divide"
        )
    return GpuHourRatio(row.gpu_hours, pre.gpu_hours, chip=row.chip)


def flop_ratio(run: str, base: str | None = None) -> FlopRatio:
    """FLOPs of an RL run over ``6ND`` of its base's pretraining; see `gpu_hour_ratio`.

    Example:
        >>> flop_ratio("DeepSeek-R1-Zero")
        0.39 % of the pretraining FLOPs (0.20 to 0.53 %; 10NT / 6ND)
        >>> flop_ratio("DeepSeek-R1 whole pipeline")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        scaling.errors.ScalingError: no FLOP ratio of DeepSeek-R1 whole pipeline: ...
    """
    row = rl_run(run)
    pre = _base(row, base)
    if row.flops is None:
        try:
            percent = gpu_hour_ratio(run, base).percent
            hours = f"only its GPU-hour ratio is known ({percent:.3f} %), which is another quantity"
        except ScalingError:
            hours = "its GPU-hour ratio is not known either"
        raise ScalingError(f"no FLOP ratio of {row.name}: its tokens were not published; {hours}")
    low, high = row.flops_range or (row.flops, row.flops)
    basis = f"{row.flops_convention or 'estimate'} / 6ND"
    return FlopRatio(row.flops, pre.flops, rl_low=low, rl_high=high, basis=basis)


def pretrained_models() -> tuple[PretrainedModel, ...]:
    """All pretrainings of the ledger.

    Example:
        >>> [model.name for model in pretrained_models() if "SmolLM2" in model.name]
        ['SmolLM2-135M', 'SmolLM2-360M', 'SmolLM2-1.7B']
    """
    return _models()


def rl_runs() -> tuple[RLRun, ...]:
    """All RL rows of the ledger.

    Example:
        >>> [run.name for run in rl_runs() if run.base == "Qwen2.5-32B"]
        ['DAPO (paper)', 'DAPO, reproduced in verl', 'Open-Reasoner-Zero-32B', 'SimpleRL-Zoo 32B']
    """
    return _runs()


def pretrained_model(name: str) -> PretrainedModel:
    """One pretraining by name; raises `UnknownName` with near names.

    Example:
        >>> pretrained_model("DeepSeek-V3-Base").gpu_hours
        2664000.0
    """
    return _find(name, {m.name: m for m in _models()}, "model")


def rl_run(name: str) -> RLRun:
    """One RL row by name; raises `UnknownName` with near names.

    Example:
        >>> run = rl_run("DeepSeek-R1-Zero")
        >>> run.gpu_hours, run.chip, run.trust["gpu_hours"]
        (101376.0, 'H800', 'derived')
    """
    return _find(name, {r.name: r for r in _runs()}, "RL run")


def public_shape(name: str) -> ModelShape:
    """`ModelShape` of a public model from its retyped ``config.json``.

    Raises:
        UnknownName: not among the public configurations shipped here; read its ``config.json`` with
            `ModelShape.from_config`.

    Example:
        >>> public_shape("Llama-3.1-8B").params
        8030261248
    """
    return ModelShape.from_config(_find(name, _configs(), "model with a known shape"))


def public_shapes() -> tuple[str, ...]:
    """Names that `public_shape` knows."""
    return tuple(_configs())


def _base(row: RLRun, base: str | None) -> PretrainedModel:
    if base is not None:
        return pretrained_model(base)
    if not row.base:
        raise ScalingError(f"no ratio of {row.name}: its base ({row.base_note or 'not named'}) is not in the ledger")
    return pretrained_model(row.base)


def _find(name: str, known: Mapping[str, Any], what: str) -> Any:
    if name in known:
        return known[name]
    import difflib

    near = difflib.get_close_matches(name, known, n=4, cutoff=0.4)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise UnknownName(f"{what} must be a name of the ledger ({len(known)} are known), got {name!r}{hint}")


def _rows(name: str) -> list[dict[str, str]]:
    text = (files("scaling.data") / name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def _number(text: str) -> float | None:
    return float(text) if text else None


@functools.cache
def _configs() -> dict[str, dict[str, Any]]:
    return json.loads((files("scaling.data") / "configs.json").read_text(encoding="utf-8"))


@functools.cache
def _models() -> tuple[PretrainedModel, ...]:
    out = []
    for row in _rows("pretraining.csv"):
        hours_trust = row["gpu_hours_trust"]
        if row["gpu_hours_basis"] == "derived" and hours_trust == "verified":
            hours_trust = "derived"
        trust = {"params": row["params_trust"], "tokens": row["tokens_trust"], "gpu_hours": hours_trust}
        out.append(
            PretrainedModel(
                name=row["model"],
                family=row["family"],
                params=_number(row["params"]),
                active_params=_number(row["active_params"]),
                tokens=_number(row["tokens"]),
                gpu_hours=_number(row["gpu_hours"]),
                chip=row["chip"],
                gpu_hours_scope=row["gpu_hours_scope"],
                made_by=row["made_by"],
                trust={cell: value for cell, value in trust.items() if value},
                source=row["source"],
                note=row["note"],
            )
        )
    return tuple(out)


@functools.cache
def _runs() -> tuple[RLRun, ...]:
    out = []
    for row in _rows("rl.csv"):
        trust = {"row": row["trust"], "gpu_hours": row["gpu_hours_trust"], "flops": row["flops_trust"]}
        if row["gpu_hours_basis"] == "derived" and trust["gpu_hours"] == "verified":
            trust["gpu_hours"] = "derived"
        trust |= {cell: "unverified" for cell in row["unverified_cells"].split(";") if cell}
        low, high = _number(row["flops_low"]), _number(row["flops_high"])
        out.append(
            RLRun(
                name=row["run"],
                kind=row["kind"],
                base=row["base"],
                base_note=row["base_note"],
                algorithm=row["algorithm"],
                chip=row["chip"],
                gpu_hours=_number(row["gpu_hours"]),
                tokens=_number(row["tokens"]),
                flops=_number(row["flops"]),
                flops_range=(low, high) if low is not None and high is not None else None,
                flops_convention=row["flops_convention"],
                usd=_number(row["usd"]),
                score=(row["score_before"], row["score_after"]),
                trust={cell: value for cell, value in trust.items() if value},
                source=row["source"],
                note=row["note"],
                date=row["date"],
                facts=dict(row),
            )
        )
    return tuple(out)
