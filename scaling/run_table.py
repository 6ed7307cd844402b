"""`RunTable`: three tidy tables of any number of runs, and the one way it is put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from scaling import records
from scaling.columnar import Columns, join
from scaling.cost import COST_FIELDS
from scaling.curve import Curve
from scaling.errors import RecordError
from scaling.run_rows import Assembled
from scaling.words import counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunTable", "build_table"]

NO_STEPS = ["run_id", "step", "segment", "gpu_seconds", *COST_FIELDS]
NO_EVALS = ["run_id", "step", "benchmark", "decoding", "pass@1"]


@dataclass(frozen=True, eq=False)
class RunTable:
    """Runs, their steps and their evaluations as three tidy pandas tables.

    Attributes:
        runs: one row a run: ``run_id``, ``name``, ``model``, ``params``, ``recipe_hash``, ``base_hash``,
            ``accelerator``, ``devices``, ``shared``, ``pretraining_flops`` [FLOP], ``pretraining_gpu_hours`` [GPU h],
            ``gpu_hours`` [GPU h] (laws are fitted against it), ``gpu_hours_paid`` [GPU h] (the bill),
            ``redone_gpu_hours`` [GPU h], ``total_flops`` [FLOP], ``tokens`` [token], ``rollouts``, ``steps``,
            ``segments``, ``confidence``, ``path``.
        steps: one row an optimiser step (the newest where it was redone): ``run_id``, ``step``, ``segment``, the
            increments of cost by their names in `ComputeCost` plus ``gpu_seconds`` (without evaluation), the metrics
            (``reward``, ``completion_length``, ...), and the cumulative axes ``cumulative_<axis>``.
        evals: one row an evaluation: ``run_id``, ``step``, ``benchmark``, ``decoding``, ``temperature``, ``k``,
            ``n_items``, ``successes`` (per item), ``pass@1``, ``stderr``, ``completion_length``, ``truncation_rate``,
            and the cumulative axes by their names.
        skipped: lines that were not read, and why.

    Example:
        >>> from scaling.bundled import bundled_runs
        >>> table = bundled_runs("acquisition")
        >>> one = table.select(table.runs["run_id"].head(1))
        >>> len(one.runs), one.steps["step"].is_monotonic_increasing
        (1, True)
        >>> [[curve]] = one.curves(axis="total_flops").values()
        >>> curve.axis, curve.metric
        ('total_flops', 'pass@1')
    """

    runs: pd.DataFrame
    steps: pd.DataFrame
    evals: pd.DataFrame
    skipped: tuple[records.Skipped, ...] = field(default=())

    def __repr__(self) -> str:
        parts = [(len(self.runs), "run"), (len(self.steps), "step"), (len(self.evals), "evaluation")]
        lost = f", {counted(len(self.skipped), 'line')} skipped (see .skipped)" if self.skipped else ""
        return f"RunTable({', '.join(counted(n, noun) for n, noun in parts)}{lost})"

    def select(self, run_ids: Iterable[str]) -> RunTable:
        """The table of the named runs only."""
        keep = set(run_ids)
        return RunTable(
            runs=self.runs[self.runs["run_id"].isin(keep)].reset_index(drop=True),
            steps=self.steps[self.steps["run_id"].isin(keep)].reset_index(drop=True),
            evals=self.evals[self.evals["run_id"].isin(keep)].reset_index(drop=True),
            skipped=self.skipped,
        )

    def curves(
        self,
        *,
        benchmark: str | None = None,
        metric: str = "pass@1",
        axis: str = "gpu_hours",
        by: str | Sequence[str] | None = None,
        decoding: str | None = None,
        k: int | None = None,
        temperature: float | None = None,
        force: bool = False,
    ) -> dict[str, list[Curve]]:
        """Curves of a held-out benchmark, grouped.

        Args:
            benchmark: which benchmark; may be left out when there is one only.
            metric: ``pass@1``, ``pass@k`` (unbiased, k up to the samples taken), ``completion_length``,
                ``truncation_rate``, or a metric of the steps table such as ``reward``.
            axis: one of `scaling.curve.AXES`; a run that lacks it raises, it is never replaced by another.
            by: column(s) of ``runs`` whose values name the groups; each run alone by default.
            decoding: ``sampled`` or ``greedy``; default: sampled where it was recorded, else the one that was.
            k: samples a problem; where a run was evaluated with several, the default is the setting it was evaluated with
                most often (evaluation after the fact adds others), never a mixture.
            temperature: as ``k``.
            force: pool runs in a group although their evaluations differ in k, temperature, decoding or reward range.

        Returns:
            group name -> curves, one a run (seeds of one law, when ``by`` is the recipe and size).

        Raises:
            UnknownName: no such benchmark, metric, axis or column.
            ScalingError: the axis is not known for a run, its hours were metered on a shared device, or the runs of a
                group were evaluated or rewarded differently.

        Example:
            >>> from scaling.bundled import bundled_runs
            >>> groups = bundled_runs("acquisition").curves(axis="total_flops", by="params")
            >>> len(groups)  # five sizes
            5
        """
        from scaling.run_curves import curves_of

        return curves_of(
            self, benchmark=benchmark, metric=metric, axis=axis, by=by, decoding=decoding, k=k, temperature=temperature,
            force=force,
        )  # fmt: skip


def build_table(parts: Iterable[Assembled], *, strict: bool = False) -> RunTable:
    """Join runs as `assemble` returns them: the one way a `RunTable` comes to be, from disk or from a foreign log.

    Raises:
        RecordError: two runs share an id, or (strict) a line is bad.
    """
    import pandas as pd

    runs, rows, columns, evals, skipped, seen = [], [], [], [], [], {}
    for row, step_rows, eval_rows, bad in parts:
        if row["run_id"] in seen:
            raise RecordError(
                f"run id {row['run_id']} is in {seen[row['run_id']]} and in {row['path']}: load one of them"
            )
        seen[row["run_id"]] = row["path"]
        if strict and bad:
            raise RecordError(f"{row['path']}: {bad[0]}")
        runs.append(row)
        if isinstance(step_rows, list) and step_rows and columns:  # runs stay in their order
            columns.append((row["run_id"], _columns_of(step_rows)))
        elif isinstance(step_rows, list):
            rows.extend(step_rows)
        else:
            if rows:
                columns += [(i, _columns_of(list(part))) for i, part in groupby(rows, key=lambda r: r["run_id"])]
                rows = []
            columns.append((row["run_id"], step_rows))
        evals.extend(eval_rows)
        skipped.extend(bad)
    return RunTable(
        runs=pd.DataFrame(runs),
        steps=pd.DataFrame(join(columns), copy=False)
        if columns
        else pd.DataFrame(rows, columns=None if rows else NO_STEPS),
        evals=pd.DataFrame(evals, columns=None if evals else NO_EVALS),
        skipped=tuple(skipped),
    )


def _columns_of(rows: list[dict[str, Any]]) -> Columns:
    """Rows as columns, as pandas would make them; ``run_id`` is left out."""
    import pandas as pd

    frame = pd.DataFrame(rows).drop(columns="run_id")
    return {name: frame[name].to_numpy() if frame[name].dtype.kind in "iuf" else frame[name].tolist() for name in frame}
