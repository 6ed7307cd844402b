"""`StudyRun`: one RL run together with the pretraining of its base, the input of everything that relates the two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling.curve import Curve
from scaling.errors import ScalingError
from scaling.records import is_run, read_run

if TYPE_CHECKING:
    from scaling.runs import RunTable

__all__ = ["StudyRun", "caveats", "check_runs", "condition_number", "recorded_labels", "study_runs", "with_labels"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyRun:
    """An RL run and its base.

    Attributes:
        params: size of the model [parameters].
        tokens: tokens it was pretrained on [token].
        pretraining_flops: what that cost [FLOP].
        curve: held-out score under plain sampling against RL FLOPs (axis ``total_flops``).
        loss: held-out pretraining loss of the base [nats per token], or None.
        base_sampled: score of the base under plain sampling, or None.
        base_best: score of the base under its best decoding (greedy, forced trace, majority), or None.
        base: which base; runs on one base share it (default: the run stands alone).
        caveats: what must be said beside every number the run touches.
        comparable: false for a distilled, pruned or otherwise made base, whose pretraining cost is not what made it:
            such runs are left out of fits against pretraining unless ``force=True`` is given there.

    Raises:
        ScalingError: a size, a token count or a cost is missing or not positive, or the curve is not in FLOPs.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> from scaling.pretraining import study_runs
        >>> run = study_runs(bundled_runs())[0]
        >>> run.pretraining_flops > 0, run.curve.metric
        (True, 'pass@1')
    """

    params: float
    tokens: float
    pretraining_flops: float
    curve: Curve
    loss: float | None = None
    base_sampled: float | None = None
    base_best: float | None = None
    base: str = ""
    caveats: tuple[str, ...] = field(default=())
    comparable: bool = True

    def __post_init__(self) -> None:
        name = self.curve.run_id or "a run"
        for what, unit in (("params", "parameters"), ("tokens", "tokens"), ("pretraining_flops", "FLOP")):
            value = getattr(self, what)
            if value is None or not (isinstance(value, (int, float, np.number)) and 0 < value < math.inf):
                raise ScalingError(
                    f"{name}: {what} must be known and > 0 {unit}, got {value!r}; record it with the pretraining stage"
                )
        if self.curve.axis != "total_flops":
            raise ScalingError(f"{name}: RL is related to pretraining in FLOPs, got a curve in {self.curve.axis!r}")
        if self.loss is not None and not (np.isfinite(self.loss) and self.loss > 0):
            raise ScalingError(f"{name}: the pretraining loss must be finite and > 0, got {self.loss!r}")
        if np.sum(np.isfinite(self.curve.performance) & (self.curve.compute > 0)) < 3:
            raise ScalingError(f"{name}: at least 3 finite evaluations after the start of RL are needed")


def study_runs(table: RunTable, *, benchmark: str | None = None) -> list[StudyRun]:
    """The runs of a table as `StudyRun`, with their bases' scores at step 0.

    ``base_best`` is the best score of any decoding recorded at step 0. Where the table has no pretraining loss, the
    run's record is asked: ``validation_loss`` (text like the pretraining's), else ``held_out_loss``.

    Raises:
        ScalingError: a run lacks its pretraining's cost, tokens or size.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> run = study_runs(bundled_runs())[0]
        >>> run.base_best >= run.base_sampled  # the best of several decodings, plain sampling among them
        True
    """
    curves = table.curves(benchmark=benchmark, axis="total_flops", by="run_id")
    start = table.evals[table.evals["step"] == 0]
    if benchmark is not None:
        start = start[start["benchmark"] == benchmark]
    out = []
    for row in table.runs.to_dict("records"):
        if row["run_id"] not in curves:
            continue
        curve, recorded = curves[row["run_id"]][0], recorded_labels(row)
        loss = recorded.get("loss") if _missing(row["pretraining_loss"]) else row["pretraining_loss"]
        mine = start[start["run_id"] == row["run_id"]]
        sampled = mine.loc[mine["decoding"] == "sampled", "pass@1"]
        out.append(
            StudyRun(
                params=row["params"],
                tokens=row["pretraining_tokens"],
                pretraining_flops=row["pretraining_flops"],
                curve=curve,
                loss=_number(loss),
                base_sampled=float(sampled.iloc[0]) if len(sampled) else None,
                base_best=float(mine["pass@1"].max()) if len(mine) else None,
                base=str(row["base_hash"] or row["run_id"]),
                caveats=tuple(caveats({**recorded, **curve.labels})),
                comparable={**recorded, **curve.labels}.get("pretraining_comparable") is not False,
            )
        )
    return out


def recorded_labels(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the run's own record says of its base and its hyperparameters, as labels; empty for imported runs without one."""
    path = Path(str(row.get("path") or ""))
    if not row.get("path") or not is_run(path):
        return {}
    record = read_run(path)
    stage = record.pretraining() or {}
    model = record.config.get("model") if isinstance(record.config, Mapping) else None
    settings = model.get("hyperparameters") if isinstance(model, Mapping) else None
    tuned = settings.get("tuned") if isinstance(settings, Mapping) else None
    loss = next((stage[key] for key in ("loss", "validation_loss", "held_out_loss") if stage.get(key)), None)
    return {"pretraining_comparable": stage.get("comparable"), "hyperparameters_tuned": tuned, "loss": loss}


def with_labels(curve: Curve, labels: Mapping[str, Any]) -> Curve:
    """The curve with further labels; its own win."""
    fields = {name: getattr(curve, name) for name in curve.__dataclass_fields__}
    return Curve(**{**fields, "labels": {**labels, **curve.labels}})


def check_runs(runs: Iterable[StudyRun], *, least: int, what: str, force: bool) -> tuple[list[StudyRun], list[str]]:
    """The runs that can be related to their pretraining, and notes on them and on those left out.

    Raises:
        ScalingError: too few runs, or all on one base.
    """
    every = list(runs)
    if not all(isinstance(run, StudyRun) for run in every):
        raise ScalingError("runs must be StudyRun (scaling.pretraining.study_runs makes them from a RunTable)")
    found = [run for run in every if run.comparable or force]
    notes = []
    left_out = len(every) - len(found)
    why = f"{left_out} runs left out, their bases are distilled, pruned or otherwise made (force=True keeps them)"
    if left_out:
        notes.append(why)
    if len(found) < least:
        raise ScalingError(f"{what} needs at least {least} runs, got {len(found)}" + (f"; {why}" if left_out else ""))
    if len({(run.params, run.tokens) for run in found}) < 3:
        points = len({(run.params, run.tokens) for run in found})
        raise ScalingError(
            f"{what} needs bases of at least 3 sizes or budgets, got {points}: RL curves of one base say nothing about "
            "pretraining"
        )
    return found, [*notes, *named_caveats(found)]


def groups(runs: Sequence[StudyRun]) -> NDArray[np.int64]:
    """A number for each run's base, shape ``(n_runs,)``; nameless bases stand alone."""
    names = [run.base or f"\0{i}" for i, run in enumerate(runs)]
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names])


def condition_number(params: Iterable[float], tokens: Iterable[float]) -> float:
    """Condition number of (ln N, ln D), centred and scaled; infinite when one of them does not vary.

    Above 10 (Belsley, Kuh & Welsch 1980, section 3.2: from 10 weak, from 30 strong dependency) their separate effects
    are not estimated.

    Example:
        >>> condition_number([1e8, 1e9, 1e10], [18e12, 18e12, 18e12])
        inf
    """
    columns = np.stack([np.log(np.fromiter(values, float)) for values in (params, tokens)], axis=1)
    columns = columns - columns.mean(axis=0)
    norms = np.linalg.norm(columns, axis=0)
    if np.any(norms < 1e-9):
        return math.inf
    values = np.linalg.svd(columns / norms, compute_uv=False)
    return float(values[0] / values[1]) if values[1] > 1e-12 else math.inf


def caveats(labels: Mapping[str, Any]) -> list[str]:
    """What must be said beside every number of a run with these labels."""
    found = []
    if labels.get("pretraining_comparable") is False:
        found.append("its base is distilled or pruned, so its pretraining cost is not what made it")
    if labels.get("hyperparameters_tuned") is False:
        found.append("its hyperparameters were not tuned for its size")
    if labels.get("caveat"):
        found.append(str(labels["caveat"]))
    return found


def named_caveats(runs: Iterable[StudyRun]) -> tuple[str, ...]:
    """Caveats of all runs, each once, with the sizes it belongs to."""
    sizes: dict[str, set[float]] = {}
    for run in runs:
        for text in run.caveats:
            sizes.setdefault(text, set()).add(run.params)
    return tuple(f"{', '.join(f'{n:.3g}' for n in sorted(found))} parameters: {text}" for text, found in sizes.items())


def _missing(value: Any) -> bool:
    return value is None or not math.isfinite(value)


def _number(value: Any) -> float | None:
    return None if _missing(value) else float(value)
