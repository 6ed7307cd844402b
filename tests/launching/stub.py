"""A run that loads no torch: it writes records like a real one, sleeps between steps, and fails on request.

``name`` says what is to go wrong: ``raise:STEP``, ``kill:STEP``, ``exit:STEP``, ``slow:SECONDS``, joined by commas.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from typing import Any

from scaling import records
from sweeps import stop

STEP_SECONDS = float(os.environ.get("STUB_STEP_SECONDS", "0.02"))


def train(config: Any) -> None:
    import fcntl

    faults = dict(part.partition(":")[::2] for part in config.name.split(",") if part)
    seconds = float(faults.get("slow", STEP_SECONDS))
    run_dir = config.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / records.LOCK).open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        checkpoint = run_dir / "checkpoint.json"
        first = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
        record = records.read_run(run_dir) if records.is_run(run_dir) else records.RunRecord(run_id=config.run_id)
        segment = {
            "start": time.time(), "host": os.uname().nodename, "resumed_from": first, "job": os.environ.get("SLURM_JOB_ID"),
            "restarts": os.environ.get("SLURM_RESTART_COUNT"), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "threads": os.environ.get("OMP_NUM_THREADS"), "torch": "torch" in __import__("sys").modules, "file": __file__,
        }  # fmt: skip
        record = replace(
            record, config=config.model_dump(mode="json"), segments=(*record.segments, segment), status="running",
            sweep=config.sweep, name=config.name, accelerator="cpu", shared=config.cluster.shared, recipe_hash=config.recipe_hash,
        )  # fmt: skip
        records.write_run(run_dir, record)
        total = config.budget.steps
        status, step = "budget", first
        with records.Appender(run_dir / records.STEPS) as steps, records.Appender(run_dir / records.EVALS) as evals:
            for step in range(first + 1, total + 1):
                began = time.monotonic()
                time.sleep(seconds)
                at = str(step)
                if faults.get("raise") == at:
                    records.write_run(run_dir, replace(record, status="failed"))
                    raise ValueError(f"boom at step {step} of seed {config.seed}")
                if faults.get("kill") == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if faults.get("exit") == at:
                    os._exit(3)
                cost = {"training_flops": 1e9, "training_gpu_seconds": time.monotonic() - began}
                steps.write({"segment": len(record.segments) - 1, "step": step, "cost": cost, "metrics": {"reward": step / total}})
                _write(run_dir / "progress.json", {"stage": "rl", "step": step, "total": total})
                asked = stop.requested()
                if step % 5 == 0 or asked or step == total:
                    _write(checkpoint, {"step": step})
                if asked and step < total:
                    status = "interrupted"
                    break
            evals.write({"segment": 0, "step": step, "benchmark": "held_out", "k": 1, "successes": [1, 0], "cost": {"training_flops": step * 1e9}})
        records.write_run(run_dir, replace(record, status=status))


def _write(path: Any, body: Any) -> None:
    tmp = path.with_suffix(".tmp")
    tmp.write_text(json.dumps(body))
    os.replace(tmp, path)
