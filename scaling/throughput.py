"""From FLOPs to GPU-hours: rates of generation, scoring and training, measured where runs exist, else a stated
utilisation.

A rate is model FLOP/s of one device while it works on that phase. RL is far slower than pretraining, because generation
hardly uses the arithmetic of a device: published runs use 2 to 10 % of the peak end to end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaling.cost import ComputeCost
from scaling.errors import ScalingError
from scaling.hardware import accelerator

if TYPE_CHECKING:
    from scaling.runs import RunTable

__all__ = ["HourCheck", "PHASES", "STATED", "Throughput", "check_hours", "measured_throughput", "stated_throughput"]

PHASES = ("generation", "scoring", "training")

#: phase -> (low, central, high) share of the dense BF16 peak
STATED: Mapping[str, tuple[float, float, float]] = {
    "generation": (0.008, 0.02, 0.05),
    "scoring": (0.10, 0.20, 0.35),
    "training": (0.14, 0.20, 0.27),
}
STATED_SOURCE = (
    "stated utilisation of the BF16 peak: training 14 to 27 % (actor MFU in published verl logs); generation 0.8 to 5 %, set so "
    "that the whole runs at 3 to 10 %, as published runs do (DeepSeek-R1-Zero 2 to 5 %, JustRL 4.7 %, GRPO in verl on MI300X "
    "9.4 %)"
)


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Rates of one device, as a function of model size.

    Attributes:
        rates: phase -> (low, central, high) at `params_ref` [model FLOP/s per device].
        idle: share of the time in which a device works on no phase [1].
        params_ref: size that `rates` are for [parameters].
        exponent: rates grow as (parameters / params_ref)^exponent within the measured sizes.
        params_range: measured sizes [parameters]; rates are held constant beyond.
        accelerator: device.
        source: where the rates are from.
        measured: whether runs were measured.

    Example:
        >>> rates = {"training": (1e14, 2e14, 4e14)}
        >>> speed = Throughput(
        ...     rates=rates, idle=0.0, params_ref=1e9, exponent=0.0, params_range=(1e9, 1e9), accelerator="H100-SXM",
        ...     source="stated", measured=False,
        ... )
        >>> speed.gpu_hours(ComputeCost(training_flops=7.2e17), 1e9)[1]  # the central of the three
        1.0
    """

    rates: Mapping[str, tuple[float, float, float]]
    idle: float
    params_ref: float
    exponent: float
    params_range: tuple[float, float]
    accelerator: str
    source: str
    measured: bool

    def gpu_hours(self, cost: ComputeCost, params: float) -> tuple[float, float, float]:
        """(low, central, high) GPU-hours of the FLOPs of a cost [GPU h].

        Raises:
            ScalingError: a phase has FLOPs but no rate (the measured runs did no scoring, say).
        """
        size = min(max(params, self.params_range[0]), self.params_range[1])
        factor = (size / self.params_ref) ** self.exponent
        seconds = np.zeros(3)
        for phase in PHASES:
            flops = getattr(cost, f"{phase}_flops")
            if not flops:
                continue
            if phase not in self.rates:
                raise ScalingError(f"no rate is known for {phase}: the measured runs did none ({self.source})")
            seconds += flops / np.array(self.rates[phase])[::-1] / factor
        hours = seconds / (1 - self.idle) / 3600
        return float(hours[0]), float(hours[1]), float(hours[2])


@dataclass(frozen=True)
class HourCheck:
    """Predicted against measured GPU-hours of runs, each predicted from the other runs' rates.

    Attributes:
        errors: run -> predicted / measured - 1.
        skipped: reason -> runs that could not be checked.

    Example:
        >>> check = HourCheck(errors={"a": 0.1, "b": -0.2, "c": 0.05}, skipped={})
        >>> round(check.median_error, 3)
        0.1
    """

    errors: Mapping[str, float]
    skipped: Mapping[str, int]

    @property
    def median_error(self) -> float:
        """Median of |predicted / measured - 1|, NaN if nothing could be checked."""
        return float(np.median(np.abs(list(self.errors.values())))) if self.errors else math.nan

    def __str__(self) -> str:
        skipped = ", ".join(f"{count} not checked ({reason})" for reason, count in self.skipped.items())
        if not self.errors:
            return f"GPU-hours could not be checked against measured runs: {skipped or 'there are none'}"
        worst = max(self.errors, key=lambda name: abs(self.errors[name]))
        text = (
            f"GPU-hours against {len(self.errors)} measured runs, each predicted from the others: median error "
            f"{self.median_error:.0%}, largest {self.errors[worst]:+.0%} ({worst})"
        )
        return f"{text}; {skipped}" if skipped else text


def stated_throughput(name: str, *, precision: str = "bf16") -> Throughput:
    """Rates from a device's dense peak and the stated utilisation of published runs.

    Raises:
        UnknownName: no such accelerator, or no peak at this precision.

    Example:
        >>> rates = stated_throughput("H100").rates
        >>> f"{rates['training'][1]:.3g}"
        '1.98e+14'
    """
    device = accelerator(name)
    peak = device.peak(precision)
    return Throughput(
        rates={phase: (low * peak, mid * peak, high * peak) for phase, (low, mid, high) in STATED.items()},
        idle=0.0,
        params_ref=1.0,
        exponent=0.0,
        params_range=(0.0, math.inf),
        accelerator=device.name,
        source=STATED_SOURCE,
        measured=False,
    )


def measured_throughput(table: RunTable) -> Throughput:
    """Rates of measured runs: FLOPs over GPU-seconds of each phase, as a power of the size where three sizes or more
    were run.

    Raises:
        ScalingError: no run has metered hours on a device of its own, or several kinds of accelerator are mixed.

    Example:
        >>> import scaling, tempfile
        >>> from scaling.shapes import ModelShape
        >>> shape = ModelShape(hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096, vocab_size=32_000,
        ...                    tied=True)
        >>> run = scaling.Recorder(tempfile.mkdtemp() + "/run", gpus=8, accelerator="H100-SXM", shape=shape)
        >>> for _ in range(10):
        ...     run.step(seconds=30.0, phases={"generation": 20.0, "training": 9.0}, prompt_tokens=50_000,
        ...              completion_tokens=900_000, rollouts=1000)
        >>> run.close()
        >>> measured_throughput(scaling.load_runs(run.path)).source
        'measured on 1 runs on H100-SXM'
    """
    rows = [row for row in _measured(table) if row["usable"]]
    if not rows:
        raise ScalingError(f"no run has usable hours: {_why_not(table)}; use stated rates of a named accelerator")
    chips = sorted({str(row["accelerator"]) for row in rows})
    if len(chips) > 1:
        raise ScalingError(f"rates of different accelerators do not mix ({', '.join(chips)}): load the runs of one")
    params = np.array([row["params"] for row in rows], dtype=float)
    if not np.all(np.isfinite(params) & (params > 0)):
        raise ScalingError("every run must record its parameters > 0")
    overall = np.array([row["flops"] / row["working"] for row in rows])
    exponent = 0.0
    if len(np.unique(params)) >= 3:
        exponent = float(np.clip(np.polyfit(np.log(params), np.log(overall), 1)[0], 0.0, 1.0))
    reference = float(np.exp(np.mean(np.log(params))))
    rates = {}
    for phase in PHASES:
        values = [row[phase] * (reference / row["params"]) ** exponent for row in rows if row.get(phase)]
        if values:
            rates[phase] = (float(min(values)), float(np.exp(np.mean(np.log(values)))), float(max(values)))
    return Throughput(
        rates=rates,
        idle=float(np.mean([row["idle"] for row in rows])),
        params_ref=reference,
        exponent=exponent,
        params_range=(float(params.min()), float(params.max())),
        accelerator=chips[0],
        source=f"measured on {len(rows)} runs on {chips[0]}",
        measured=True,
    )


def check_hours(table: RunTable) -> HourCheck:
    """Predict each run's GPU-hours from the rates of the other runs and compare.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> found = check_hours(bundled_runs())
        >>> sum(found.skipped.values()) + len(found.errors) > 0
        True
    """
    errors: dict[str, float] = {}
    skipped: dict[str, int] = {}
    rows = _measured(table)
    for row in rows:
        if not row["usable"]:
            skipped[row["why"]] = skipped.get(row["why"], 0) + 1
    usable = [row for row in rows if row["usable"]]
    for row in usable:
        others = [other["run_id"] for other in usable if other is not row]
        try:
            rates = measured_throughput(table.select(others)) if others else None
            if rates is None:
                raise ScalingError("no other run to predict from")
            predicted = rates.gpu_hours(row["cost"], row["params"])[1]
        except ScalingError as error:
            skipped[str(error)] = skipped.get(str(error), 0) + 1
            continue
        errors[str(row["name"])] = predicted / (row["seconds"] / 3600) - 1
    return HourCheck(errors, skipped)


def _measured(table: RunTable) -> list[dict]:
    """A row a run: what it cost, its rates, its idle share, and whether its hours can be used."""
    columns = [f"{phase}_{what}" for phase in PHASES for what in ("flops", "gpu_seconds")]
    sums = table.steps.groupby("run_id")[[*columns, "idle_gpu_seconds"]].sum() if len(table.steps) else None
    out = []
    for run in table.runs.to_dict("records"):
        row = {"run_id": run["run_id"], "name": run["name"] or run["run_id"], "params": run["params"]}
        row |= {"accelerator": run["accelerator"], "usable": False, "why": ""}
        out.append(row)
        if bool(run["shared"]):
            row["why"] = "its device was shared with other runs"
            continue
        if sums is None or run["run_id"] not in sums.index:
            row["why"] = "it has no steps"
            continue
        total = sums.loc[run["run_id"]]
        working = float(sum(total[f"{phase}_gpu_seconds"] for phase in PHASES))
        flops = float(sum(total[f"{phase}_flops"] for phase in PHASES))
        if not (working > 0 and flops > 0):
            row["why"] = "its phases were not timed"
            continue
        seconds = working + float(total["idle_gpu_seconds"])
        row |= {"usable": True, "flops": flops, "working": working, "seconds": seconds, "idle": 1 - working / seconds}
        row["cost"] = ComputeCost(**{f"{phase}_flops": float(total[f"{phase}_flops"]) for phase in PHASES})
        for phase in PHASES:
            if total[f"{phase}_flops"] and total[f"{phase}_gpu_seconds"]:
                row[phase] = float(total[f"{phase}_flops"] / total[f"{phase}_gpu_seconds"])
    return out


def _why_not(table: RunTable) -> str:
    reasons = [row["why"] for row in _measured(table)]
    return (
        "; ".join(f"{reasons.count(reason)} runs: {reason}" for reason in dict.fromkeys(reasons)) or "there are no runs"
    )
