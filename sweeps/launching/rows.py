"""From the rows of a multirun to runs: validate all rows first, then merge those that differ only in the budget."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling import records
from scaling.errors import ConfigError
from sweeps.config import BudgetConfig, RunConfig, resolve
from sweeps.launching.status import DONE

__all__ = ["PlannedRun", "Row", "covers", "is_done", "merge", "resolve_rows"]

HIDDEN = ("cluster", "launch.", "runs_dir=", "bases_dir=", "sweep=", "tracking")  # overrides that tell no runs apart


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a multirun.

    Attributes:
        number: position in the grid, from 0.
        overrides: as given on the command line, Hydra's own left out.
        config: the resolved configuration.
    """

    number: int
    overrides: tuple[str, ...]
    config: RunConfig


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run: the rows that share its ``run_id``, trained to the largest of their budgets.

    Attributes:
        rows: numbers of the rows it serves.
        overrides: of the row with the largest budget.
        label: what tells this run from the others of the grid, for people.
        config: the largest row's configuration, the smaller budgets as ``milestones``.
    """

    rows: tuple[int, ...]
    overrides: tuple[str, ...]
    label: str
    config: RunConfig

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self.config.run_id

    @property
    def run_dir(self) -> Path:
        """Where its records and its progress lie."""
        return self.config.run_dir

    @property
    def done(self) -> bool:
        """Whether it has reached the budget that is asked for."""
        return is_done(self.config)

    def body(self, config: RunConfig) -> dict[str, Any]:
        """What the worker reads, with ``config`` as the launcher completed it."""
        return json.loads(config.model_dump_json())


def resolve_rows(composed: Sequence[tuple[Sequence[str], Mapping[str, Any]]], *, first: int = 0) -> list[Row]:
    """Validate every row.

    Args:
        composed: overrides and composed configuration of each row.
        first: number of the first row.

    Raises:
        ConfigError: the errors of all rows, one line each; a line that all rows share is said once.
    """
    rows: list[Row] = []
    errors: dict[str, list[str]] = {}
    for number, (overrides, body) in enumerate(composed, start=first):
        try:
            rows.append(Row(number=number, overrides=tuple(overrides), config=resolve(body)))
        except ConfigError as error:
            for line in str(error).splitlines():
                errors.setdefault(line, []).append(f"row {number} ({' '.join(overrides) or 'no overrides'})")
    if errors:
        everywhere = len(composed)
        lines = [
            f"{line}  [{'every row' if len(where) == everywhere and everywhere > 1 else where[0]}"
            f"{f' and {len(where) - 1} more' if 1 < len(where) < everywhere else ''}]"
            for line, where in errors.items()
        ]
        raise ConfigError("\n".join([f"nothing was started, {len(lines)} setting(s) to correct:", *lines]))
    return rows


def merge(rows: Sequence[Row]) -> list[PlannedRun]:
    """Merge rows that are the same run.

    Raises:
        ConfigError: rows of one run differ in more than the budget, or their budgets have no largest.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.config.run_id, []).append(row)
    labels = _labels(list(groups.values()))
    runs = []
    for (run_id, group), label in zip(groups.items(), labels):
        largest = _largest(run_id, group)
        _same_but_budget(run_id, group, largest)
        budgets = [row.config.budget for row in group] + [m for row in group for m in row.config.milestones]
        smaller = _distinct(b for b in budgets if b != largest.config.budget)
        runs.append(
            PlannedRun(
                rows=tuple(row.number for row in group),
                overrides=largest.overrides,
                label=label,
                config=largest.config.model_copy(update={"milestones": smaller}),
            )
        )
    return runs


def covers(budget: BudgetConfig, other: BudgetConfig) -> bool:
    """Whether a run trained to ``budget`` has passed every point that ``other`` allows."""
    mine, theirs = budget.limits(), other.limits()
    return all(name in theirs and limit >= theirs[name] for name, limit in mine.items())


def is_done(config: RunConfig) -> bool:
    """Whether a run has reached the budget that is asked for: by its status, else by its ledger."""
    from scaling.runs import load_runs

    if not records.is_run(config.run_dir):
        return False
    record = records.read_run(config.run_dir)
    body = record.config.get("budget")
    recorded = BudgetConfig.model_validate(dict(body)) if isinstance(body, Mapping) else None
    if record.status in DONE and recorded is not None and covers(recorded, config.budget):
        return True
    used = load_runs(config.run_dir).runs.iloc[0].to_dict()
    return any(_used(used, name) >= limit for name, limit in config.budget.limits().items())


def _used(row: Mapping[str, Any], name: str) -> float:
    if name == "pretraining_flops_ratio":
        return row["total_flops"] / row["pretraining_flops"] if row["pretraining_flops"] > 0 else 0.0
    if name == "pretraining_gpu_hours_ratio":
        return row["gpu_hours"] / row["pretraining_gpu_hours"] if row["pretraining_gpu_hours"] > 0 else 0.0
    return float(row[{"flops": "total_flops"}.get(name, name)])


def _largest(run_id: str, group: list[Row]) -> Row:
    for row in group:
        if all(covers(row.config.budget, other.config.budget) for other in group):
            return row
    shown = " | ".join(" ".join(f"{k}={v:g}" for k, v in row.config.budget.limits().items()) for row in group)
    raise ConfigError(
        f"budget: rows {', '.join(str(r.number) for r in group)} are one run ({run_id}) and one of their budgets must be the "
        f"largest in every limit, got {shown}: set the same limits in each row"
    )


def _same_but_budget(run_id: str, group: list[Row], largest: Row) -> None:
    expected = _flat(largest.config.model_dump(mode="json", exclude={"budget", "milestones"}))
    for row in group:
        for key, value in _flat(row.config.model_dump(mode="json", exclude={"budget", "milestones"})).items():
            if expected.get(key) != value:
                raise ConfigError(
                    f"{key}: rows {row.number} and {largest.number} are one run ({run_id}), since this setting does not affect "
                    f"the weights, and must agree on it, got {value!r} and {expected.get(key)!r}"
                )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v for key, child in value.items() for k, v in _flat(child, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: value}


def _distinct(budgets: Any) -> list[BudgetConfig]:
    out: list[BudgetConfig] = []
    for budget in budgets:
        if budget not in out:
            out.append(budget)
    return sorted(out, key=lambda b: tuple(sorted(b.limits().items())))


def _labels(groups: list[list[Row]]) -> list[str]:
    """The overrides that vary over the grid, budgets left out; a name wins; made unique by the run id."""
    overrides = [[o for o in group[0].overrides if not o.lstrip("+").startswith("budget")] for group in groups]
    common = set(overrides[0]).intersection(
        *overrides
    )  # of a single run that is all of them: it needs no telling apart
    out = []
    for group, own in zip(groups, overrides):
        config = group[0].config
        label = " ".join(o for o in own if o not in common and not o.startswith(HIDDEN))
        out.append(label or config.name or f"{config.model.name} seed={config.seed}")
    return [
        f"{label} [{group[0].config.run_id[:6]}]" if out.count(label) > 1 else label
        for label, group in zip(out, groups)
    ]
