"""A user's own script: the meter attached to a plain TRL trainer writes the records of this project."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.train


def plain_trainer(config, output, evaluated=None, **settings):
    """As a user builds it: TRL alone, with a model and a task of ours for brevity."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from sweeps.models import load
    from sweeps.tasks import build

    task = build(config.task)
    model, tokenizer = load(config.model, task)
    arguments = GRPOConfig(
        output_dir=str(output), per_device_train_batch_size=8, num_generations=4, max_completion_length=8,
        logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="steps", save_steps=2, **settings,
    )  # fmt: skip
    rows = Dataset.from_list(task.training_rows(n=32, seed=0))
    return GRPOTrainer(model=model, reward_funcs=task.reward_functions(), args=arguments, train_dataset=rows,
                       eval_dataset=evaluated and {n: rows for n in evaluated}, processing_class=tokenizer)  # fmt: skip


def test_records_of_a_users_own_trainer_and_of_its_continuation(small, tmp_path):
    from scaling import load_runs
    from scaling.records import read_run
    from sweeps.meter import attach

    config, run = small(), tmp_path / "mine"
    attach(
        plain_trainer(config, tmp_path / "out", max_steps=2), run_dir=run, accelerator="cpu",
        pretraining={"flops": 1e12, "source": "a test"},
    ).counter.trainer.train()  # fmt: skip
    record = read_run(run)
    assert record.status == "finished" and record.segments[0]["resumed_from"] is None
    assert load_runs(run).steps["step"].tolist() == [1, 2]
    assert (tmp_path / "out" / "checkpoint-2" / "ledger.json").is_file()

    again = plain_trainer(config, tmp_path / "out", max_steps=4)
    meter = attach(again, run_dir=run, accelerator="cpu")
    again.train(resume_from_checkpoint=True)
    record, table = read_run(run), load_runs(run)
    assert [s["cause"] for s in record.segments] == ["finished", "finished"]
    assert record.segments[1]["resumed_from"] == 2
    assert meter.cost.rollouts == 4 * 8  # steps of both segments, each once
    assert meter.cost.total_flops == pytest.approx(table.steps["cumulative_total_flops"].max())
    assert (tmp_path / "out" / "checkpoint-2").is_dir()  # the script's own rules say which checkpoints stay


def test_the_trainers_own_evaluation_is_counted_once_and_apart(small, tmp_path):
    from scaling.records import read_lines
    from sweeps.meter import attach

    trainer = plain_trainer(
        small(), tmp_path / "out", evaluated=("a", "b"), max_steps=4, eval_strategy="steps", eval_steps=2,
        per_device_eval_batch_size=8,
    )  # fmt: skip
    meter = attach(trainer, run_dir=tmp_path / "mine", accelerator="cpu")
    began = meter._start
    trainer.train()
    wall = time.perf_counter() - began
    costs = [row["cost"] for row, _ in read_lines(tmp_path / "mine" / "steps.jsonl")[0]]
    total = {name: sum(cost.get(name, 0.0) for cost in costs) for name in {n for cost in costs for n in cost}}
    seconds = sum(v for n, v in total.items() if n.endswith("_gpu_seconds"))
    assert seconds == pytest.approx(wall, rel=0.1)
    assert sum(cost.get("evaluation_flops", 0) > 0 for cost in costs) == 2  # the one after the last step, too
    assert total["evaluation_gpu_seconds"] > total["generation_gpu_seconds"]
    assert total["idle_gpu_seconds"] < 0.5 * total["evaluation_gpu_seconds"]


def test_an_evaluation_after_the_end_is_paid_for_and_the_pause_before_it_is_not(small, tmp_path, capsys):
    from scaling.records import read_lines, read_run
    from sweeps.meter import attach
    from sweeps.run_dir import RunDirectory

    trainer = plain_trainer(small(), tmp_path / "out", evaluated=("a",), max_steps=3, per_device_eval_batch_size=8)
    meter = attach(trainer, run_dir=tmp_path / "mine", accelerator="cpu")
    trainer.train()
    steps = tmp_path / "mine" / "steps.jsonl"
    before = len(read_lines(steps)[0])
    time.sleep(1.0)
    trainer.evaluate()
    (late,) = [row["cost"] for row, _ in read_lines(steps)[0][before:]]
    assert late["evaluation_flops"] > 0 and late["evaluation_gpu_seconds"] > 0
    assert late["overhead_gpu_seconds"] < 0.1
    RunDirectory(tmp_path / "mine").release()  # nobody holds it meanwhile
    time.sleep(1.0)
    (tmp_path / "out" / "checkpoint-2" / "ledger.json").write_text('{"step": 2, "co')
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert [s["cause"] for s in read_run(tmp_path / "mine").segments] == ["finished", "finished"]
    again = [row["cost"] for row, _ in read_lines(steps)[0][before + 1 :]]
    assert sum(cost.get("overhead_gpu_seconds", 0.0) for cost in again) < 0.9
    assert "ledger.json is damaged" in capsys.readouterr().err and meter.cost.rollouts == 8


@pytest.mark.parametrize(("error", "cause"), [(RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_training_that_breaks_off_is_said_and_can_be_attached_to_again(small, tmp_path, error, cause):
    from scaling import load_runs
    from scaling.records import read_run
    from sweeps.meter import attach

    def trainer():
        return plain_trainer(small(), tmp_path / "out", max_steps=2)

    first = trainer()
    step, calls = first.training_step, []

    def breaks(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return step(*args, **kwargs)

    first.training_step = breaks
    attach(first, run_dir=tmp_path / "mine", accelerator="cpu")
    with pytest.raises(error):
        first.train()
    assert read_run(tmp_path / "mine").status == cause
    again = trainer()
    attach(again, run_dir=tmp_path / "mine", accelerator="cpu")  # as in a notebook: the process is the same
    again.train()
    assert [s["cause"] for s in read_run(tmp_path / "mine").segments] == [cause, "finished"]
    table = load_runs(tmp_path / "mine")
    assert table.steps["step"].tolist() == [1, 2] and table.runs.iloc[0]["redone_gpu_hours"] > 0


SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_attach import plain_trainer
from sweeps.config import RunConfig
from sweeps.meter import attach

folder = Path(sys.argv[2])
config = RunConfig.model_validate_json((folder / "config.json").read_text())
trainer = plain_trainer(config, folder / "out", evaluated=("a",), max_steps=2, eval_strategy="steps", eval_steps=2)
attach(trainer, run_dir=folder / "mine", accelerator="cpu")
trainer.train()
"""


def test_several_ranks_are_one_run(small, tmp_path):
    from scaling import load_runs
    from scaling.records import read_run

    (tmp_path / "config.json").write_text(small().model_dump_json())
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "script.py"),
         str(Path(__file__).parent), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record, table = read_run(tmp_path / "mine"), load_runs(tmp_path / "mine")
    assert record.devices == 2 and record.status == "finished" and len(record.segments) == 1
    assert table.steps["step"].tolist() == [1, 2] and (table.steps["rollouts"] == 16).all()  # of both ranks
    assert table.runs.iloc[0]["gpu_hours_paid"] > table.runs.iloc[0]["gpu_hours"]
