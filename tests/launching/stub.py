"""A run that loads no torch: it writes records like a real one, sleeps between steps, and fails on request.

``name`` says what is to go wrong, parts joined by ``_``: ``raise:STEP``, ``kill:STEP``, ``exit:STEP``, ``seconds:S`` a
step, ``saving:S`` a checkpoint, ``hold:STEP`` waits there for a file ``go`` in the sweep's folder; ``raise:5@3+7`` is for seeds
3 and 7 alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any

from scaling import records
from sweeps import stop


def train(config: Any) -> None:
    import fcntl

    faults = _faults(config.name, config.seed)
    seconds, saving = float(faults.get("seconds", 0.02)), float(faults.get("saving", 0))
    run_dir = config.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("RANK", "0")):
        return _other_rank(run_dir, config.budget.steps)
    with (run_dir / records.LOCK).open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        checkpoint = run_dir / "checkpoint.json"
        first = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
        record = records.read_run(run_dir) if records.is_run(run_dir) else records.RunRecord(run_id=config.run_id)
        segment = {
            "start": time.time(), "host": os.environ.get("SLURMD_NODENAME", "here"), "resumed_from": first if record.segments else None,
            "job": os.environ.get("SLURM_JOB_ID"), "restarts": os.environ.get("SLURM_RESTART_COUNT"), "world": os.environ.get("WORLD_SIZE"),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": os.environ.get("OMP_NUM_THREADS"), "torch": "torch" in sys.modules,
            "code": sys.modules["sweeps.stop"].__file__, "git_commit": os.environ.get("RL_SCALING_COMMIT"), "server": os.environ.get("RL_SCALING_VLLM_URL"),
        }  # fmt: skip
        record = replace(
            record, config=config.model_dump(mode="json"), segments=(*record.segments, segment), status="running",
            sweep=config.sweep, name=config.name, accelerator="cpu", shared=config.cluster.shared, recipe_hash=config.recipe_hash,
            devices=config.cluster.devices,
        )  # fmt: skip
        records.write_run(run_dir, record)
        total, status, step, number = config.budget.steps, "finished", first, len(record.segments) - 1
        with records.Appender(run_dir / records.STEPS) as steps, records.Appender(run_dir / records.EVALS) as evals:
            for step in range(first + 1, total + 1):
                began = time.monotonic()
                time.sleep(seconds)
                if faults.get("hold") == str(step):
                    _wait_for(run_dir.parent / "go")
                if faults.get("raise") == str(step):
                    records.write_run(run_dir, replace(record, status="failed"))
                    raise ValueError(f"boom at step {step} of seed {config.seed}")
                if faults.get("kill") == str(step):
                    os.kill(os.getpid(), signal.SIGKILL)
                if faults.get("exit") == str(step):
                    os._exit(3)
                cost = {
                    "training_flops": 1e9,
                    "training_gpu_seconds": (time.monotonic() - began) * config.cluster.devices,
                }
                steps.write({"segment": number, "step": step, "cost": cost, "metrics": {"reward": step / total}})
                _write(run_dir / "progress.json", {"stage": "rl", "step": step, "total": total})
                asked = stop.requested()
                if step % 5 == 0 or asked or step == total:
                    _write(checkpoint, {"step": step}, seconds=saving)
                if asked and step < total:
                    status = "interrupted"
                    break
            evals.write(
                {
                    "segment": number,
                    "step": step,
                    "benchmark": "held_out",
                    "k": 1,
                    "successes": [1, 0],
                    "cost": {"training_flops": step * 1e9},
                }
            )
        records.write_run(run_dir, replace(record, status=status))


def evaluate(config: Any, order: Any) -> bool:
    """An evaluation whose model is nobody: half of the problems are solved; ``name`` says what goes wrong, as above."""
    from sweeps.evaluate import evaluate_job

    return evaluate_job(config, order, open_model=_Nobody)


class _Nobody:
    def __init__(self, record: Any, path: Any) -> None:
        self.record = record

    def sample(self, task: Any, benchmark: Any, settings: Any, *, step: int) -> Any:
        from types import SimpleNamespace

        from scaling.cost import ComputeCost

        faults = _faults(self.record.name, self.record.config["seed"])
        time.sleep(float(faults.get("seconds", 0.02)))
        if faults.get("raise") == str(step):
            raise ValueError(f"boom at checkpoint {step}")
        assert "torch" not in sys.modules
        n = min(settings.problems or len(benchmark.prompts), len(benchmark.prompts))
        return SimpleNamespace(
            successes=[settings.k // 2] * n, mean_length=3.0, truncation_rate=0.0, accuracy=0.5,
            cost=ComputeCost(evaluation_flops=1e6, evaluation_gpu_seconds=1.0),
        )  # fmt: skip


def _other_rank(run_dir: Any, total: int) -> None:
    """Ranks other than the first write nothing; they leave when the run is over or a stop is asked for."""
    end = time.monotonic() + 60
    while time.monotonic() < end and not stop.requested():
        try:
            if json.loads((run_dir / "progress.json").read_text())["step"] >= total:
                return
        except (OSError, ValueError, KeyError):
            pass
        time.sleep(0.02)


def _wait_for(path: Any) -> None:
    end = time.monotonic() + 170
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)


def _faults(name: str, seed: int) -> dict[str, str]:
    out = {}
    for part in filter(None, name.split("_")):
        key, _, value = part.partition(":")
        value, _, seeds = value.partition("@")
        if not seeds or str(seed) in seeds.split("+"):
            out[key] = value
    return out


def _write(path: Any, body: Any, *, seconds: float = 0) -> None:
    """Atomically, and as slowly as asked: half of it is there for a while."""
    text, tmp = json.dumps(body), path.with_suffix(".tmp")
    with tmp.open("w") as f:
        f.write(text[: len(text) // 2])
        f.flush()
        time.sleep(seconds)
        f.write(text[len(text) // 2 :])
    os.replace(tmp, path)
