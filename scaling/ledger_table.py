"""The ledger as a table: published runs, published pretrainings, and the user's own runs beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaling import reference
from scaling.errors import ScalingError
from scaling.ratio import FlopRatio, GpuHourRatio
from scaling.reference import PretrainedModel, RLRun

if TYPE_CHECKING:
    from scaling.runs import RunTable

__all__ = ["COLUMNS", "MARKS", "LedgerLine", "models", "published", "yours"]

#: trust -> the mark behind a printed number; verified and computed cells carry none
MARKS = {"derived": "~", "verified-secondary": "'", "unverified": "?", "estimate": "?"}
COLUMNS = ("run", "base", "RL GPU-h", "base GPU-h", "GPU-hour ratio", "RL FLOPs", "base FLOPs", "FLOP ratio")


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """One row: numbers for machines, `cells` for people.

    Attributes:
        name: run.
        base: base model.
        rl_gpu_hours: GPU-hours of RL [GPU h], or None.
        base_gpu_hours: GPU-hours of pretraining [GPU h], or None.
        chip: accelerator of the RL hours.
        rl_flops: FLOPs of RL [FLOP], or None.
        base_flops: FLOPs of pretraining [FLOP], or None.
        hours: their ratio, or why there is none.
        flops: their ratio, or why there is none.
        trust: cell -> trust.
        kind: as in `RLRun`; an ``estimate`` is shown, never compared with.
        comparable: false where the base is distilled, pruned or fine-tuned, so that 6ND is not what it cost.
        notes: what must be said beside the numbers.
        source: citation.

    Example:
        >>> line = published("Open-Reasoner-Zero-32B")[0]
        >>> line.base, line.kind
        ('Qwen2.5-32B', 'rl')
    """

    name: str
    base: str
    rl_gpu_hours: float | None
    base_gpu_hours: float | None
    chip: str
    rl_flops: float | None
    base_flops: float | None
    hours: GpuHourRatio | str
    flops: FlopRatio | str
    trust: Mapping[str, str]
    notes: tuple[str, ...]
    source: str
    comparable: bool = True
    kind: str = "rl"

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `COLUMNS`; a dash where a number is not known."""
        mark = {cell: MARKS.get(trust, "") for cell, trust in self.trust.items()}
        star = "" if self.comparable else "*"
        hours = _hours(self.rl_gpu_hours, mark.get("gpu_hours", ""), self.chip)
        ratio = "-"
        if isinstance(self.hours, GpuHourRatio):
            ratio = f"{self.hours.percent:.3f} %{self._mark('gpu_hours')}{star}"
        share = "-"
        if isinstance(self.flops, FlopRatio):
            share = f"{100 * self.flops.value:.2g} %"
            if self.flops.low < self.flops.high:
                share = f"{100 * self.flops.low:.1g} to {100 * self.flops.high:.1g} %"
            share += self._mark("flops") + star
        return (
            self.name,
            self.base or "-",
            hours,
            _hours(self.base_gpu_hours, mark.get("base_gpu_hours", ""), ""),
            ratio,
            _flops(self.rl_flops, mark.get("flops", "")),
            _flops(self.base_flops, mark.get("base_flops", "")),
            share,
        )

    def _mark(self, cell: str) -> str:
        """Mark of a ratio: that of the less trusted of its two sides."""
        return MARKS.get(_worst(self.trust.get(cell, ""), self.trust.get(f"base_{cell}", "")), "")

    def record(self) -> dict[str, Any]:
        """The row as plain values with units in the keys."""
        hours, flops = self.hours, self.flops
        return {
            "run": self.name,
            "base": self.base,
            "chip": self.chip,
            "rl_gpu_hours": self.rl_gpu_hours,
            "base_gpu_hours": self.base_gpu_hours,
            "gpu_hour_ratio": hours.value if isinstance(hours, GpuHourRatio) else None,
            "no_gpu_hour_ratio_because": None if isinstance(hours, GpuHourRatio) else hours,
            "rl_flops": self.rl_flops,
            "base_flops": self.base_flops,
            "flop_ratio": flops.value if isinstance(flops, FlopRatio) else None,
            "flop_ratio_low": flops.low if isinstance(flops, FlopRatio) else None,
            "flop_ratio_high": flops.high if isinstance(flops, FlopRatio) else None,
            "no_flop_ratio_because": None if isinstance(flops, FlopRatio) else flops,
            "comparable": self.comparable,
            "trust": dict(self.trust),
            "notes": list(self.notes),
            "source": self.source,
        }


def published(text: str = "") -> list[LedgerLine]:
    """Published RL rows whose name, base, algorithm or chip contains ``text`` (case does not matter).

    Example:
        >>> {line.base for line in published("Qwen2.5-32B")}
        {'Qwen2.5-32B'}
    """
    rows = [
        row for row in reference.rl_runs() if _has(text, row.name, row.base, row.base_note, row.algorithm, row.chip)
    ]
    return [_published(row) for row in rows]


def models(text: str = "") -> list[PretrainedModel]:
    """Published pretrainings whose name, family or chip contains ``text``.

    Example:
        >>> [model.name for model in models("SmolLM2")]
        ['SmolLM2-135M', 'SmolLM2-360M', 'SmolLM2-1.7B']
    """
    return [m for m in reference.pretrained_models() if _has(text, m.name, m.family, m.chip)]


def yours(table: RunTable, text: str = "") -> list[LedgerLine]:
    """The user's own runs as rows of the ledger.

    Pretraining FLOPs are those recorded with the run, else ``6ND`` of the ledger's model of the same name, which the
    notes then say. Hours of a shared device make no ratio.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> lines = yours(bundled_runs())
        >>> all(line.rl_flops is not None and line.rl_flops > 0 for line in lines)
        True
    """
    lines = [_yours(row) for row in table.runs.to_dict("records")]
    return [line for line in lines if _has(text, line.name, line.base, line.chip)]


def neighbours(line: LedgerLine, others: Sequence[LedgerLine]) -> str:
    """Where a row stands among others by its FLOP ratio, else its GPU-hour ratio; "" if neither is known."""
    for kind, unit in (("flops", "FLOPs"), ("hours", "GPU-hours")):
        mine = getattr(line, kind)
        if isinstance(mine, str):
            continue
        real = [other for other in others if other.kind != "estimate" and not isinstance(getattr(other, kind), str)]
        known = sorted((getattr(other, kind).value, other.name) for other in real)
        below = [name for value, name in known if value <= mine.value]
        above = [name for value, name in known if value > mine.value]
        parts = [f"more than {below[-1]}"] if below else []
        parts += [f"less than {above[0]}"] if above else []
        return f"{line.name}: {mine.percent:.3g} % of the pretraining {unit}, {', '.join(parts)}" if parts else ""
    return ""


def _published(row: RLRun) -> LedgerLine:
    base = reference.pretrained_model(row.base) if row.base else None
    notes = [f"base: {row.base_note}"] if row.base_note else []
    if base is not None and not base.comparable:
        notes.append(f"base {base.name} is {base.made_by}: {base.note or '6ND is not what it cost'}")
    if row.note:
        notes.append(row.note)
    trust = {key: row.trust[key] for key in ("gpu_hours", "flops") if key in row.trust}
    if base is not None:
        trust |= {f"base_{key}": value for key, value in base.trust.items()}
        trust["base_flops"] = _worst(base.trust.get("params", ""), base.trust.get("tokens", ""))
    return LedgerLine(
        name=row.name,
        base=row.base,
        rl_gpu_hours=row.gpu_hours,
        base_gpu_hours=base.gpu_hours if base else None,
        chip=row.chip,
        rl_flops=row.flops,
        base_flops=base.flops if base and base.tokens else None,
        hours=_try(reference.gpu_hour_ratio, row.name),
        flops=_try(reference.flop_ratio, row.name),
        trust=trust,
        notes=tuple(notes),
        source=row.source,
        comparable=base is None or (base.comparable and not row.base_note),
        kind=row.kind,
    )


def _yours(row: Mapping[str, Any]) -> LedgerLine:
    notes, trust = [], {}
    flops, hours = _known(row["pretraining_flops"]), _known(row["pretraining_gpu_hours"])
    name = str(row["model"]).rsplit("/", 1)[-1]
    published_base = next((m for m in reference.pretrained_models() if m.name.casefold() == name.casefold()), None)
    if flops is None and published_base is not None and published_base.tokens:
        flops = published_base.flops
        trust["base_flops"] = _worst(published_base.trust.get("params", ""), published_base.trust.get("tokens", ""))
        notes.append(f"pretraining FLOPs are 6ND of the ledger's {published_base.name}, the run recorded none")
        if not published_base.comparable:
            notes.append(f"base {published_base.name} is {published_base.made_by}: {published_base.note}")
    if row.get("confidence") not in (None, "measured"):
        trust["gpu_hours"] = trust["flops"] = "derived" if row["confidence"] == "derived" else "unverified"
    shared = bool(row.get("shared"))
    if shared:
        notes.append("its device was shared with other runs: its hours are no measurement")
    return LedgerLine(
        name=str(row["name"] or row["run_id"]),
        base=str(row["model"]),
        rl_gpu_hours=_known(row["gpu_hours"]),
        base_gpu_hours=hours,
        chip=str(row["accelerator"]),
        rl_flops=_known(row["total_flops"]),
        base_flops=flops,
        hours=_own_hours(row, hours, shared),
        flops=_own_flops(row, flops),
        trust=trust,
        notes=tuple(notes),
        source=str(row["path"]),
        comparable=published_base is None or published_base.comparable,
    )


def _own_hours(row: Mapping[str, Any], pre: float | None, shared: bool) -> GpuHourRatio | str:
    if shared:
        return "its device was shared"
    if pre is None:
        return "its pretraining GPU-hours are not known: record them with the run's pretraining stage"
    return _try(GpuHourRatio, row["gpu_hours"], pre, str(row["accelerator"]))


def _own_flops(row: Mapping[str, Any], pre: float | None) -> FlopRatio | str:
    if pre is None:
        return "its pretraining FLOPs are not known: record them with the run's pretraining stage"
    return _try(FlopRatio, row["total_flops"], pre)


def _try(make: Any, *args: Any) -> Any:
    try:
        return make(*args)
    except ScalingError as error:
        return str(error)


def _known(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _worst(*trusts: str) -> str:
    order = ("estimate", "unverified", "verified-secondary", "derived")
    return next((level for level in order if level in trusts), "")


def _has(text: str, *fields: str) -> bool:
    return text.casefold() in " ".join(fields).casefold()


def _hours(value: float | None, mark: str, chip: str) -> str:
    if value is None:
        return "-"
    number = f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
    return f"{number}{mark} {chip}".rstrip()


def _flops(value: float | None, mark: str) -> str:
    return "-" if value is None else f"{value:.2e}{mark}".replace("e+", "e")
