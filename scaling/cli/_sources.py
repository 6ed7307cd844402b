"""Reading what a user points at (a table file or run directories) into named curves, with every doubt said in one line."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from scaling.collapse import Collapse, find_collapse, find_collapses
from scaling.curve import Curve
from scaling.errors import ForeignLogError, ScalingError, UnknownName
from scaling.factors import FACTORS, MEASUREMENT

if TYPE_CHECKING:
    import pandas as pd

    from scaling.runs import RunTable

TABLES = (".csv", ".tsv", ".txt", ".parquet", ".jsonl", ".json", ".gz")
_ACCURACY_WORDS = ("acc", "pass", "solve", "success", "percent", "exact_match")
_SHARE_STARTS = ("pass@", "avg@", "maj@", "acc", "success", "solve")
_ROWS_SHOWN = 40  # columns named in an error
_ABSENT = "(missing)"  # the value of a cell that is empty, where it tells curves apart
_DRESSED = re.compile(r"[-+]?\d[\d.,]*\s?(%|[A-Za-z]+)?")  # a number as people write it: 1,234 or 45.2%


@dataclass(frozen=True)
class Source:
    """Curves read from a file or from run directories.

    Attributes:
        groups: name -> curves of that group (seeds of one law).
        notes: what was done to the data or looks wrong, one line each.
        where: the path, for messages.
        collapses: what the steps of run folders show of collapse (reward, truncation, entropy), by run.
    """

    groups: dict[str, list[Curve]]
    notes: list[str] = field(default_factory=list)
    where: str = ""
    collapses: dict[str, Collapse] = field(default_factory=dict)

    def curves(self) -> list[Curve]:
        """All curves of all groups."""
        return [curve for members in self.groups.values() for curve in members]


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to read, shared by ``fit``, ``forecast`` and ``compare``."""
    options = [
        click.option(
            "--compute",
            metavar="COL",
            help="Column of cumulative compute (any unit). For run folders: the axis (gpu_hours, total_flops, ...).",
        ),
        click.option(
            "--score", metavar="COL", help="Column of the score. For run folders: the metric, by default pass@1."
        ),
        click.option("--by", metavar="COL[,COL]", help="Column(s) that tell curves apart (model, recipe, ...)."),
        click.option(
            "--seed-column",
            metavar="COL",
            help="Column that tells the seeds of one curve apart; they are fitted together.",
        ),
        click.option("--stderr", metavar="COL", help="Column of the score's standard error, if there is one."),
        click.option("--percent", is_flag=True, help="The score is in percent: divide it by 100."),
        click.option("--reward", is_flag=True, help="The score is no share of 1: fit it without the bounds 0 and 1."),
        click.option("--benchmark", metavar="NAME", help="Run folders: the held-out benchmark, if there are several."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_source(
    path: Path,
    *,
    compute: str | None = None,
    score: str | None = None,
    by: str | None = None,
    seed_column: str | None = None,
    stderr: str | None = None,
    percent: bool = False,
    reward: bool = False,
    benchmark: str | None = None,
) -> Source:
    """Read a table file or run directories into curves.

    Raises:
        ScalingError: the path does not exist, a column is missing (the message lists those there are), a value is no
            number.
    """
    if not path.exists():
        raise ScalingError(f"no such file or folder: {path}")
    if path.is_dir():
        columns = {"seed-column": seed_column, "stderr": stderr, "percent": percent or None}
        useless = [f"--{name}" for name, value in columns.items() if value]
        if useless:
            raise ScalingError(f"{', '.join(useless)}: only for table files; run folders record it")
        return _read_runs(path, axis=compute, metric=score, by=by, benchmark=benchmark)
    if benchmark is not None:
        raise ScalingError("--benchmark is only for run folders; pick the rows of a table file beforehand")
    frame = read_frame(path)
    names = [str(c) for c in frame.columns]
    for option, column in (("--compute", compute), ("--score", score)):
        if column is None:
            raise ScalingError(f"say which column is meant with {option} COL; {path} has: {_listed(names)}")
    groups = list(dict.fromkeys(_split(by)))
    wanted = [str(compute), str(score), *groups, *filter(None, [seed_column, stderr])]
    missing = [c for c in wanted if c not in names]
    if missing:
        raise UnknownName(
            f"no column {', '.join(repr(c) for c in missing)} in {path}; it has: {_listed(names)}{_separated(names, path)}"
        )
    if seed_column in groups:
        raise ScalingError(
            f"--seed-column {seed_column} is in --by, too: seeds are of one curve, --by tells curves apart"
        )
    for column in (compute, score, stderr):
        if column and column in (*groups, seed_column):
            raise ScalingError(f"--by and --seed-column name what tells curves apart, not the numbers of {column!r}")
    return _curves(frame, path, str(compute), str(score), groups, seed_column, stderr, percent=percent, reward=reward)


def read_frame(path: Path) -> pd.DataFrame:
    """A CSV, TSV, Parquet or JSON-lines file as a pandas table."""
    import pandas as pd

    endings = [s.lower() for s in path.suffixes[-2:]]
    kind = "".join(s for s in endings if s in TABLES).removesuffix(".gz") or ".csv"
    try:
        if kind == ".parquet":
            frame = pd.read_parquet(path)
            if any(frame.index.names):
                frame = frame.reset_index()
        elif kind in (".jsonl", ".json"):
            frame = _json(path, lines=kind == ".jsonl")
        else:
            packed = "gzip" if endings[-1:] == [".gz"] else "infer"
            frame = pd.read_csv(path, sep="\t" if kind == ".tsv" else ",", low_memory=False, compression=packed)
    except pd.errors.EmptyDataError:
        raise ForeignLogError(f"{path} is empty") from None
    except UnicodeDecodeError as error:
        raise ForeignLogError(
            f"{path} must be text in UTF-8, got another encoding ({error}): save it as UTF-8"
        ) from error
    except (ValueError, OSError, EOFError, zlib.error, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ForeignLogError(f"cannot read {path} as {kind.lstrip('.')}: {reason}") from error
    frame.columns = [str(c).strip() for c in frame.columns]
    if frame.empty:
        raise ForeignLogError(f"{path} holds no rows")
    return frame


def _json(path: Path, *, lines: bool) -> pd.DataFrame:
    """JSON as Python reads it: whole numbers of any size (FLOPs), and no column made a date for its name (wall_time)."""
    import pandas as pd

    opened = (
        gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix.lower() == ".gz" else path.open(encoding="utf-8-sig")
    )
    with opened as file:
        return pd.DataFrame([json.loads(line) for line in file if line.strip()] if lines else json.load(file))


def _separated(names: list[str], path: Path) -> str:
    """What to do, where the columns were not told apart."""
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (" ", "spaces")):
        if len(names) == 1 and separator in names[0] and not names[0].startswith("#"):
            known = " or name the file .tsv" if separator == "\t" and path.suffix.lower() != ".tsv" else ""
            return f"; its columns look separated by {word}: save it with commas (and decimal points){known}"
    return ""


def _curves(
    frame: pd.DataFrame,
    path: Path,
    compute: str,
    score: str,
    by: list[str],
    seed_column: str | None,
    stderr: str | None,
    *,
    percent: bool,
    reward: bool,
) -> Source:
    notes: list[str] = []
    x, y = _numbers(frame, compute, path), _numbers(frame, score, path)
    keep = ~(np.isnan(x) | np.isnan(y))
    if not keep.all():
        notes.append(f"{int((~keep).sum())} of {len(frame)} rows have no {compute} or no {score} and were left out")
    if not keep.any():
        raise ForeignLogError(f"no row of {path} has both {compute} and {score}")
    metric, scale = _metric(score, y[keep], percent=percent, reward=reward, notes=notes)
    error = _numbers(frame, stderr, path) if stderr else None
    keys = [*by, *([seed_column] if seed_column else [])]
    facts = [
        c for c in frame.columns if c in (*FACTORS, *MEASUREMENT, "epoch") and c not in (compute, score, stderr, *keys)
    ]
    table = frame.loc[keep, [*keys, *facts]]
    for key in keys:
        absent = table[key].isna()
        if absent.any():
            notes.append(f"{int(absent.sum())} rows have no {key}: taken as one of their own, {_ABSENT!r}")
        table[key] = table[key].astype(str).where(~absent, _ABSENT)
    table = table.assign(_x=x[keep], _y=y[keep] * scale, _e=np.nan if error is None else error[keep] * scale)
    table = table.assign(_row=np.flatnonzero(keep) + 2)  # line of the file, its header being line 1
    groups: dict[str, list[Curve]] = {}
    parts = table.groupby(keys, sort=False) if keys else [((), table)]
    for key, part in parts:
        values = key if isinstance(key, tuple) else (key,)
        name = " ".join(values[: len(by)]) or path.stem
        run_id = " ".join(values) or path.stem
        drop = part.duplicated(["_x", "_y"])
        if drop.any():
            notes.append(f"{run_id}: {int(drop.sum())} repeated rows (same {compute} and {score}) were left out")
            part = part[~drop]
        at = part["_x"].to_numpy()
        with np.errstate(invalid="ignore"):  # of infinities, which the curve refuses
            back = np.flatnonzero(np.diff(at) < 0)
        again = at.size - np.unique(at).size
        if back.size:
            notes.append(
                f"{run_id}: {compute} decreases at line {int(part['_row'].iloc[back[0] + 1])} ({back.size} times in all) and was "
                "sorted; it must be cumulative, and of one run (else name the run's column with --by)"
            )
        elif again:
            notes.append(
                f"{run_id}: {again} rows have the same {compute} as another and another {score}; if they are of several runs, "
                "name the run's column with --by or --seed-column"
            )
        try:
            curve = Curve(
                compute=part["_x"].to_numpy(),
                performance=part["_y"].to_numpy(),
                axis=compute,
                metric=metric,
                run_id=run_id,
                stderr=part["_e"].to_numpy() if error is not None else None,
                labels=_labels(part, keys, values, seed_column, facts),
            )
        except ScalingError as problem:
            raise ForeignLogError(f"{path}: {problem}") from problem
        groups.setdefault(name, []).append(curve)
    return Source(groups, notes, str(path))


def _labels(
    part: pd.DataFrame, keys: list[str], values: tuple, seed_column: str | None, facts: list[str]
) -> dict[str, Any]:
    """What the table says of a curve's settings, so that curves measured or trained differently are not pooled unseen."""
    labels = {("seed" if key == seed_column else key): value for key, value in zip(keys, values)}
    for fact in facts:
        if fact == "epoch":
            labels[fact] = part[fact].to_numpy(dtype=float)
        else:
            labels[fact] = " / ".join(map(str, part[fact].dropna().unique()[:4]))
    return labels


def _metric(score: str, y: np.ndarray, *, percent: bool, reward: bool, notes: list[str]) -> tuple[str, float]:
    """The curve's metric and the factor to apply, from the column's name, its values and what the user said."""
    scale = 0.01 if percent else 1.0
    seen = y[np.isfinite(y)]  # a fit counts and leaves out the others
    low, high = (float(seen.min()) * scale, float(seen.max()) * scale) if seen.size else (0.0, 0.0)
    if percent and 0 < high <= 0.01:
        notes.append(f"{score} is at most {high / scale:g} before --percent divides it: is it a share already?")
    inside = 0 <= low and high <= 1
    name = score.lower()
    if reward:
        return (f"reward ({score})" if name.split("/")[-1].startswith(_SHARE_STARTS) else score), scale
    if not inside and (percent or any(word in name for word in _ACCURACY_WORDS)):
        raise ScalingError(
            f"column {score!r} looks like an accuracy but goes from {low:g} to {high:g}, outside 0 to 1: add --percent to "
            "divide it by 100, or --reward to fit it as a score without bounds"
        )
    if name.split("/")[-1].startswith(_SHARE_STARTS) or not inside or "reward" in name:
        if not inside:
            notes.append(f"{score} goes from {low:g} to {high:g}: taken as a reward, without the bounds 0 and 1")
        return score, scale
    if not any(word in name for word in _ACCURACY_WORDS):
        notes.append(f"{score} lies within 0 to 1: taken as an accuracy (--reward fits it without bounds)")
    return f"accuracy ({score})", scale


def _numbers(frame: pd.DataFrame, column: str, path: Path) -> np.ndarray:
    import pandas as pd

    raw = frame[column]
    if raw.ndim > 1:
        raise ForeignLogError(f"{path} has several columns named {column!r}")
    if raw.dtype.kind in "mM":
        raise ForeignLogError(f"{path}: {column} must be a number, got {raw.dtype}: give e.g. hours since the start")
    try:
        out = pd.to_numeric(raw, errors="coerce")
    except OverflowError as error:
        raise ForeignLogError(f"{path}: {column} must be a number below 1e308: {error}") from error
    bad = np.flatnonzero(
        out.isna().to_numpy() & raw.notna().to_numpy() & (raw.astype(str).str.strip() != "").to_numpy()
    )
    if bad.size:
        raise ForeignLogError(
            f"{path}, line {bad[0] + 2}: {column} must be a number, got {str(raw.iloc[bad[0]])[:60]!r} ({bad.size} such rows)"
            + (": without % sign, unit or comma" if _DRESSED.fullmatch(str(raw.iloc[bad[0]]).strip()) else "")
        )
    return out.to_numpy(dtype=float)


def _read_runs(path: Path, *, axis: str | None, metric: str | None, by: str | None, benchmark: str | None) -> Source:
    from scaling.runs import load_runs

    table = load_runs(path)
    notes = (
        [f"{len(table.skipped)} unreadable lines of records skipped (rl-scaling check {path})"] if table.skipped else []
    )
    if axis is None:
        shared = bool(len(table.runs)) and bool(table.runs["shared"].any())
        axis = "total_flops" if shared else "gpu_hours"
        if shared:
            notes.append("runs shared their device, so their hours are not fitted: axis total_flops")
    groups = table.curves(benchmark=benchmark, metric=metric or "pass@1", axis=axis, by=_split(by) or None)
    if not groups:
        raise ScalingError(f"no evaluations with {metric or 'pass@1'} recorded yet in {path}")
    for members in groups.values():
        for curve in members:
            _add_epochs(curve, table)
    found = find_collapses(table, axis=axis) if "reward" in table.steps.columns else {}
    return Source(groups, notes, str(path), found)


def _add_epochs(curve: Curve, table: RunTable) -> None:
    """Label ``epoch`` at each evaluation, from the steps of its run, where they record it."""
    column = "step" if curve.axis == "step" else f"cumulative_{curve.axis}"
    if "epoch" not in table.steps.columns or column not in table.steps.columns:
        return
    part = table.steps.loc[table.steps["run_id"] == curve.run_id, [column, "epoch"]].dropna().sort_values(column)
    if len(part):
        curve.labels["epoch"] = np.interp(curve.compute, part[column].to_numpy(float), part["epoch"].to_numpy(float))


def _split(by: str | None) -> list[str]:
    return [part.strip() for part in (by or "").split(",") if part.strip()]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_ROWS_SHOWN])
    return shown + (f", ... ({len(names)} in all)" if len(names) > _ROWS_SHOWN else "")


def echo_notes(notes: list[str], *, limit: int = 8) -> None:
    """Print notes to standard error, the first ``limit`` of them."""
    for note in notes[:limit]:
        click.echo(f"note: {note}", err=True)
    if len(notes) > limit:
        click.echo(f"note: and {len(notes) - limit} more", err=True)


def echo_collapses(data: Source) -> dict[str, str]:
    """Print which runs collapsed (by the rule of `scaling.collapse`); run id -> verdict in words."""
    found = {}
    for curve in data.curves():
        for collapse in (find_collapse(curve), data.collapses.get(curve.run_id)):
            if collapse and curve.run_id not in found:
                found[curve.run_id] = str(collapse)
                click.echo(f"warning: {collapse}; its law describes no collapse, see scaling.collapse", err=True)
    return found
