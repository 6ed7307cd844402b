"""One run in this process: ``python -m sweeps.worker CONFIG.json``, as every engine starts it.

The file is a resolved configuration; with a key ``evaluate`` it asks for an evaluation after the fact (`sweeps.evaluate`). Threads are set before torch is imported, SIGTERM and SIGUSR2 ask for a checkpoint
and a stop, the last lines of a failure's log are its traceback, and the exit code says what became of the run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["INTERRUPTED", "main"]

INTERRUPTED = 75
"""Exit code of a run that was asked to stop, saved and can be continued (EX_TEMPFAIL of sysexits.h)."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
TRAIN = "RL_SCALING_TRAIN"
"""``module:function`` that replaces `sweeps.train.train`; the launcher's own tests run a stub without torch."""
EVALUATE, STAGES = "RL_SCALING_EVALUATE", "RL_SCALING_STAGES"
"""The same for `sweeps.evaluate.evaluate_job` and `sweeps.train.train_stages`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one configuration file; returns 0, `INTERRUPTED`, or raises with the reason."""
    parser = argparse.ArgumentParser(
        prog="python -m sweeps.worker", description="Run one resolved configuration in this process."
    )
    parser.add_argument("config", type=Path, help="JSON file of a resolved configuration, as the launcher writes it")
    parser.add_argument("--stages", action="store_true", help="only the stages before reinforcement learning")
    options = parser.parse_args(argv)
    body = json.loads(options.config.read_text(encoding="utf-8"))
    _set_environment(body.get("cluster", {}))

    from sweeps import stop
    from sweeps.config import RunConfig

    stop.install()
    order = body.pop("evaluate", None)
    config = RunConfig.model_validate_json(json.dumps(body))
    if order is not None:
        return 0 if _function(EVALUATE, "sweeps.evaluate:evaluate_job")(config, order) else INTERRUPTED
    if options.stages:
        _function(STAGES, "sweeps.train:train_stages")(config)
        return 0
    _function(TRAIN, "sweeps.train:train")(config)
    return INTERRUPTED if _status(config.run_dir) == "interrupted" else 0


def _set_environment(cluster: dict[str, Any]) -> None:
    threads = str(cluster.get("threads", 1))
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if cluster.get("offline"):
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")


def _function(variable: str, ours: str) -> Callable[..., Any]:
    module, _, name = os.environ.get(variable, ours).partition(":")
    return getattr(importlib.import_module(module), name)


def _status(run_dir: Path) -> str:
    from scaling.records import read_run

    return read_run(run_dir).status


if __name__ == "__main__":
    sys.exit(main())
