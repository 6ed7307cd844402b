"""Packing a ladder study: the records of its runs and the lines of its arms, from one folder of work or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from scaling import RunTable

TABLES = ("runs", "steps", "evals")


def collect(keys: set[str], works: list[Path], out: Path) -> None:
    """Records of all finished runs and lines of all arms of the jobs ``keys``, as small files in ``out``.

    Of several works, a job is taken whole from the one that has most of its arms, the earlier where they are level: its base trained
    again is another base. A work may be a folder that this wrote before: new runs are added to its own.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows, unfinished, parts = [], [], []
    finished: dict[str, str] = {}
    recipes: dict[str, str] = {}
    for work, lines in zip(works, _by_work(works, keys), strict=True):
        rows += lines
        table = _table(work)
        if table is None:
            continue
        # a run far beyond says something at whatever step it was stopped
        far = table.runs.loc[(table.runs["sweep"] == "beyond") & table.runs["name"].isin(keys), "run_id"]
        mine = dict.fromkeys(far, "correct")
        for row in lines:
            if isinstance(row.get("run_id"), str):  # of a CSV, what is missing is NaN
                mine[row["run_id"]] = "random" if row["arm"] == "random_reward" else "correct"
        mine = {run: reward for run, reward in mine.items() if run not in finished}
        finished |= mine
        part = table.select(mine)
        recipes |= {  # a collected run has no path
            row["run_id"]: _recipe(Path(row["path"])) if row["path"] else row["recipe_hash"]
            for row in part.runs.to_dict("records")
        }
        runs = table.runs
        part_way = runs["name"].isin(keys) & ~runs["run_id"].isin(finished) & (runs["path"] != "")
        unfinished += [f"{r['name']} (step {r['steps']:.0f})" for r in runs[part_way].to_dict("records")]
        parts.append(part)
    table = RunTable(**{name: pd.concat([getattr(t, name) for t in parts], ignore_index=True) for name in TABLES})
    runs = table.runs.assign(
        reward=table.runs["run_id"].map(finished), recipe_hash=table.runs["run_id"].map(recipes), path=""
    )
    runs = runs.sort_values(["sweep", "params", "pretraining_tokens", "seed", "reward"])
    steps = table.steps.drop(columns=[c for c in table.steps if table.steps[c].isna().all()])
    metrics = steps.columns[list(steps.columns).index("loss") :]
    tables = {"runs": runs, "steps": steps.astype(dict.fromkeys(metrics, "float32")), "evals": table.evals}
    for name, frame in tables.items():
        frame.to_parquet(out / f"{name}.parquet", compression="zstd", compression_level=19, index=False)
    arms = pd.DataFrame(rows)
    arms.sort_values(["piece", "key", "arm"]).to_csv(out / "arms.csv", index=False, float_format="%.6g")
    print(
        f"{len(table.runs)} runs, {len(arms)} arms -> {out}: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.1f} MB"
    )
    print(
        f"left out, as they did not end: {len(unfinished)} runs" + "".join(f"\n  {run}" for run in sorted(unfinished))
    )


def _by_work(works: list[Path], keys: set[str]) -> list[list[dict[str, Any]]]:
    """Lines of each WORK that count."""
    found: list[dict[str, dict[str, dict[str, Any]]]] = []
    for work in works:
        packed = work / "arms.csv"
        lines = pd.read_csv(packed).to_dict("records") if packed.is_file() else arm_lines(work / "arms.jsonl")
        jobs: dict[str, dict[str, dict[str, Any]]] = {}
        for row in lines:
            if row["key"] in keys:
                jobs.setdefault(row["key"], {})[row["arm"]] = row
        found.append(jobs)
    chosen = {key: max(range(len(works)), key=lambda i: len(found[i].get(key, {}))) for key in keys}
    return [
        [row for key, job in jobs.items() if chosen[key] == i for row in job.values()] for i, jobs in enumerate(found)
    ]


def _table(work: Path) -> RunTable | None:
    """The runs of a work, or of a study collected before."""
    from scaling.runs import load_runs

    if (work / "runs.parquet").is_file():
        return RunTable(**{name: pd.read_parquet(work / f"{name}.parquet") for name in TABLES})
    return load_runs(work / "runs") if (work / "runs").is_dir() else None


def _recipe(path: Path) -> str:
    """The recipe's hash as the present code forms it: runs of one study may be older and younger than a change of it."""
    from scaling.records import read_run
    from sweeps.config import resolve

    return resolve(read_run(path).config).recipe_hash


def arm_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of WORK/arms.jsonl."""
    return [json.loads(text) for text in path.read_text().splitlines() if text.strip()] if path.is_file() else []
