"""`sweeps.train` itself on several ranks, under what a cluster does to them: an evaluation longer than their patience."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any

PATIENCE = 3.0  # seconds that an ordinary collective waits here; half an hour in production
EVALUATION = 5.0


def train(config: Any) -> None:
    import torch.distributed as distributed
    from torch.distributed import distributed_c10d

    from sweeps import evaluator, train

    sample, waited = evaluator.sample, []
    begin = evaluator.Evaluator.on_train_begin

    def impatient(self: Any, *args: Any, **kwargs: Any) -> None:
        distributed_c10d._set_pg_timeout(timedelta(seconds=PATIENCE), distributed.group.WORLD)
        begin(self, *args, **kwargs)

    def slow(*args: Any, **kwargs: Any) -> Any:
        if not waited and not resumed:
            waited.append(time.sleep(EVALUATION))
        return sample(*args, **kwargs)

    evaluator.sample, evaluator.Evaluator.on_train_begin = slow, impatient
    resumed, started = (config.run_dir / "checkpoints").exists(), time.monotonic()
    if resumed:  # as with FSDP: every rank samples, the first writes
        evaluator.is_sharded = lambda trainer: True
    train.train(config)
    rank = os.environ["RANK"]
    out = config.run_dir / f"rank{rank}.{os.environ['SLURM_JOB_ID']}.json"
    out.write_text(
        json.dumps({"rank": rank, "seconds": time.monotonic() - started, "node": os.environ["SLURMD_NODENAME"]})
    )
