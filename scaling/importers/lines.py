"""The lines of an imported run, block by block: as columns, from which both the table and the files are made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling.cost import COST_FIELDS
from scaling.importers.jsontext import arrow, joined, lines_of, members, strings
from scaling.importers.rows import Block

if TYPE_CHECKING:
    from scaling.importers.accounting import Accounts
    from scaling.importers.imported import RawRun

__all__ = ["EvalColumns", "Score", "StepColumns", "eval_dicts", "eval_text", "line_blocks"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One evaluation key of a run, parsed."""

    key: str
    benchmark: str
    value: str
    scale: float
    k: int | None
    rank: int


@dataclass(frozen=True)
class StepColumns:
    """Step lines as columns, shape ``(n_lines,)`` each: a cost of 0 and a metric of NaN are left out of their line."""

    segment: NDArray[np.int64]
    step: NDArray[np.int64]
    cost: dict[str, Array]
    metrics: dict[str, Array]

    def __len__(self) -> int:
        return len(self.step)

    def dicts(self) -> list[dict[str, Any]]:
        """The lines, as reading them from ``steps.jsonl`` gives them."""
        costs, metrics = _dicts(self.cost, len(self), zero=True), _dicts(self.metrics, len(self), zero=False)
        places = zip(self.segment.tolist(), self.step.tolist())
        return [
            {"segment": at, "step": step, "cost": cost, "metrics": values}
            for (at, step), cost, values in zip(places, costs, metrics)
        ]

    def text(self) -> bytes:
        """The lines as JSON in UTF-8, made by column: several times as fast as a line at a time."""
        if not len(self):
            return b""
        parts = ['{"segment":', *strings(self.segment), ',"step":', *strings(self.step), ',"cost":{']
        parts += [*members(self.cost, len(self), zero=True), '},"metrics":{']
        return joined([lines_of([*parts, *members(self.metrics, len(self), zero=False), "}}\n"], len(self))])


@dataclass(frozen=True)
class EvalColumns:
    """Evaluation lines of one benchmark as columns, shape ``(n_lines,)`` each.

    Attributes:
        row: the line's row in its block, by which the lines of several benchmarks are put in order.
        cost: cumulative, by `ComputeCost` field; a cost of 0 is left out of its line.
        metrics: values beside the score; NaN is left out.
        constant: members that all lines have: the sampling settings, and k where it is known.
    """

    benchmark: str
    row: NDArray[np.int64]
    segment: NDArray[np.int64]
    step: NDArray[np.int64]
    cost: dict[str, Array]
    score: Array
    metrics: dict[str, Array]
    constant: dict[str, Any]

    def dicts(self) -> list[dict[str, Any]]:
        """The lines, as reading them from ``evals.jsonl`` gives them."""
        costs = _dicts(self.cost, len(self.row), zero=True)
        metrics = _dicts(self.metrics, len(self.row), zero=False)
        values = zip(self.segment.tolist(), self.step.tolist(), costs, self.score.tolist(), metrics)
        return [
            {"segment": at, "step": step, "cost": cost, "benchmark": self.benchmark, "score": score, "metrics": more}
            | self.constant
            for at, step, cost, score, more in values
        ]

    def text(self) -> Any:
        """The lines as JSON, an Arrow array of strings."""
        more = json.dumps(self.constant, allow_nan=False)[1:]
        benchmark = json.dumps(self.benchmark)
        parts = ['{"segment":', *strings(self.segment), ',"step":', *strings(self.step), ',"cost":{']
        parts += [
            *members(self.cost, len(self.row), zero=True),
            f'}},"benchmark":{benchmark},"score":',
            *strings(self.score),
        ]
        parts += [',"metrics":{', *members(self.metrics, len(self.row), zero=False), "}," + more + "\n"]
        return lines_of(parts, len(self.row))


def eval_dicts(parts: list[EvalColumns]) -> list[dict[str, Any]]:
    """The evaluation lines of a block in the order of the log."""
    lines = [line for part in parts for line in part.dicts()]
    return [lines[i] for i in _order(parts).tolist()] if parts else []


def eval_text(parts: list[EvalColumns]) -> bytes:
    """The same as JSON in UTF-8."""
    import pyarrow as pa

    if not parts:
        return b""
    return joined([pa.concat_arrays([part.text() for part in parts]).take(arrow(_order(parts)))])


def _order(parts: list[EvalColumns]) -> NDArray[np.int64]:
    return np.argsort(np.concatenate([part.row for part in parts]), kind="stable")


def line_blocks(
    raw: RawRun, accounts: Accounts, scores: list[Score], metric_names: list[str], semantics: Mapping[str, Any]
) -> Iterator[tuple[StepColumns, list[EvalColumns]]]:
    """Step lines and evaluation lines in the order of the log. Evaluations carry the cost kept up to their step."""
    accounts.reset()
    restarts = raw.rows.resumed_from
    history: list[
        tuple[NDArray[np.int64], Array]
    ] = []  # what each step had cost, needed where the run restarts from it
    total, segment = np.zeros(len(COST_FIELDS)), 0
    stalls = [(at << 40) + step for at, step in accounts.stalled_steps]
    for block in raw.rows.blocks():
        cost = {name: values for name, values in accounts.costs(block).items() if values.any()}
        metrics = {n: v for n in metric_names if (v := accounts.value(block, n)) is not None}
        metrics |= {f"eval/{s.benchmark}": block.get(s.key) * s.scale for s in scores if s.value == "score"}
        if stalls:
            metrics["stalled"] = np.where(np.isin((block.segment << 40) + block.step, stalls), 1.0, np.nan)
        metrics = {name: v for name, v in metrics.items() if np.isfinite(v).any()}
        spent = np.zeros((len(block.step), len(COST_FIELDS)))
        for name, values in cost.items():
            spent[:, COST_FIELDS.index(name)] = values
        reached = np.empty_like(spent)
        edges = [0, *(np.flatnonzero(np.diff(block.segment)) + 1).tolist(), len(block.step)]
        for i, j in zip(edges, edges[1:]):
            if block.segment[i] != segment:
                segment = int(block.segment[i])
                total = _back_to(restarts[segment], history)
            reached[i:j] = total + np.cumsum(spent[i:j], axis=0)
            total = reached[j - 1]
            if len(restarts) > 1:
                history.append((block.step[i:j], reached[i:j]))
        held = spent.any(axis=1) | np.sum([np.isfinite(v) for v in metrics.values()], axis=0).astype(bool)
        keep = np.flatnonzero(held)
        yield (
            StepColumns(
                block.segment[keep], block.step[keep], {n: v[keep] for n, v in cost.items()},
                {n: v[keep] for n, v in metrics.items()},
            ),
            _evals(block, scores, reached, semantics),
        )  # fmt: skip


def _back_to(step: int | None, history: list[tuple[NDArray[np.int64], Array]]) -> Array:
    """The cost that a restart from ``step`` builds on; later steps leave the history, they are redone."""
    while history and step is not None and history[-1][0][-1] > step:
        steps, reached = history.pop()
        if count := int(np.searchsorted(steps, step, side="right")):  # steps of a segment never go back
            history.append((steps[:count], reached[:count]))
    return history[-1][1][-1] if history else np.zeros(len(COST_FIELDS))


def _evals(block: Block, scores: list[Score], reached: Array, semantics: Mapping[str, Any]) -> list[EvalColumns]:
    sampling: dict[str, Any] = {"decoding": semantics.get("decoding", "unknown")}
    if semantics.get("temperature") is not None:
        sampling["temperature"] = semantics["temperature"]
    out = []
    for main in (s for s in scores if s.value == "score"):
        values = block.get(main.key) * main.scale
        there = np.flatnonzero(np.isfinite(values))
        if not len(there):
            continue
        k = main.k or semantics.get("k")
        beside = [s for s in scores if s.benchmark == main.benchmark and s.value != "score" and s.key in block.columns]
        out.append(
            EvalColumns(
                main.benchmark, there, block.segment[there], block.step[there],
                {name: reached[there, i] for i, name in enumerate(COST_FIELDS) if reached[there, i].any()}, values[there],
                {s.value: block.get(s.key)[there] * s.scale for s in beside},
                {"sampling": sampling, **({"k": int(k)} if k else {})},
            )
        )  # fmt: skip
    return out


def _dicts(columns: Mapping[str, Array], count: int, *, zero: bool) -> list[dict[str, float]]:
    """One dictionary a row, without the entries that are absent."""
    out: list[dict[str, float]] = [{} for _ in range(count)]
    for name, values in columns.items():
        there = values != 0 if zero else np.isfinite(values)
        if there.all():
            for row, value in zip(out, values.tolist()):
                row[name] = value
        else:
            for i in np.flatnonzero(there).tolist():
                out[i][name] = float(values[i])
    return out
