"""Writes the stores beside this file with the real MLflow: see README.md."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from pathlib import Path

TABLES = ("runs", "metrics", "params")
ROWS = {
    step: {
        "critic/rewards/mean": 0.2 + step / 10, "response_length/mean": 100.0, "prompt_length/mean": 20.0, "actor/grad_norm": float("nan"),
        "perf/total_num_tokens": 7680, "perf/time_per_step": 40.0, "perf/throughput": 24.0, "timing_s/step": 40.0, "timing_s/gen": 20.0,
        "timing_s/update_actor": 15.0, **({"val-core/openai/gsm8k/acc/mean@2": 0.4 + step / 100} if step % 2 == 0 else {}),
    }
    for step in range(1, 5)
}  # fmt: skip
PARAMS = {"trainer/n_gpus_per_node": 4, "trainer/nnodes": 2, "actor_rollout_ref/model/path": "Qwen/Qwen2.5-0.5B"}


def log(uri: str) -> None:
    """One run in a store, as verl's logger makes it."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("gsm8k", artifact_location="mlflow-artifacts:/gsm8k")  # no path of this machine
    mlflow.set_experiment("gsm8k")
    with mlflow.start_run(run_name="a run"):
        mlflow.log_params(PARAMS)
        for step, row in ROWS.items():
            mlflow.log_metrics({key.replace("@", "_at_"): value for key, value in row.items()}, step=step)


def dump(database: Path) -> str:
    """The tables that hold runs, as SQL: the whole database is a megabyte of empty tables."""
    with sqlite3.connect(database) as db:
        lines = list(db.iterdump())
    wanted = [
        f"{verb} {quote}{t}{quote}" for t in TABLES for verb in ("CREATE TABLE", "INSERT INTO") for quote in ("", '"')
    ]
    return "\n".join(line for line in lines if any(line.startswith(w) for w in wanted)) + "\n"


if __name__ == "__main__":
    os.environ |= {"MLFLOW_ALLOW_FILE_STORE": "true", "LOGNAME": "somebody"}  # here alone: tests import the rows above
    here = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve()
    log((here / "mlruns").as_uri())
    for tags in (here / "mlruns").rglob("tags"):
        shutil.rmtree(tags)  # the path of this script, the user
    shutil.rmtree(here / "mlruns" / "0", ignore_errors=True)
    log(f"sqlite:///{here / 'mlflow.db'}")
    (here / "mlflow.sql").write_text(dump(here / "mlflow.db"))
    (here / "mlflow.db").unlink()
