"""`scaling.Recorder`: any loop writes schema v1; the example of at most 15 lines; no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import scaling
from scaling.errors import RecordError, ScalingError
from scaling.flops import ModelShape

# Kept at 15 lines or fewer: it is shown in docs/recipes.md.
EXAMPLE = """\
import scaling

rec = scaling.Recorder("runs/mine", gpus=8, accelerator="H100-SXM", pretraining={"gpu_hours": 2.664e6, "accelerator": "H100-SXM"})
rec.eval(benchmark="held_out", successes=[0, 1, 0, 0], k=4)
for i in range(20):
    # ... one optimiser step of your own trainer ...
    rec.step(seconds=30.0, prompt_tokens=50_000, completion_tokens=900_000, rollouts=512, metrics={"reward": 0.1 + i / 50})
    if i % 5 == 4:
        rec.eval(benchmark="held_out", successes=[1, 2, i % 4, 3], k=4, completion_length=1758.0)
rec.close()

table = scaling.load_runs("runs/mine")
print(table.evals[["step", "pass@1", "gpu_hours"]])
"""


def test_example_of_at_most_fifteen_lines_runs_and_is_valid(tmp_path: Path):
    assert len(EXAMPLE.strip().splitlines()) <= 15
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE + "import sys\nassert 'torch' not in sys.modules"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    checked = subprocess.run(
        [sys.executable, "-m", "scaling", "check", "runs/mine"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    table = scaling.load_runs(tmp_path / "runs/mine")
    assert table.evals["gpu_hours"].iloc[-1] == pytest.approx(20 * 30 * 8 / 3600)
    assert table.evals["pass@1"].iloc[0] == 1 / 16 and len(table.steps) == 20
    assert table.evals["pretraining_gpu_hours_ratio"].iloc[-1] == pytest.approx(20 * 30 * 8 / 3600 / 2.664e6)


def test_resume_continues_costs_and_steps(tmp_path: Path):
    with scaling.Recorder(tmp_path / "r", gpus=2) as rec:
        rec.step(seconds=10.0, phases={"generation": 6.0, "training": 3.0}, rollouts=4)
        with pytest.raises(RecordError, match="in use"):
            scaling.Recorder(tmp_path / "r")
    with (tmp_path / "r" / "steps.jsonl").open("a") as out:
        out.write('{"segment": 0, "st')  # torn by a kill
    with scaling.Recorder(tmp_path / "r", gpus=2) as rec:
        assert rec.segment == 1 and rec.last_step == 1 and rec.cost.gpu_seconds == 20.0
        rec.step(seconds=10.0)
        rec.eval(benchmark="b", successes=[1], k=1)
    table = scaling.load_runs(tmp_path / "r")
    assert table.steps["step"].tolist() == [1, 2]
    assert table.steps["generation_gpu_seconds"].sum() == 12.0 and table.steps["idle_gpu_seconds"].tolist() == [
        2.0,
        20.0,
    ]
    assert table.evals["gpu_hours"].tolist() == [pytest.approx(40 / 3600)]


def test_flops_from_the_shape_and_given(tmp_path: Path):
    shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30, tied=False)
    with scaling.Recorder(tmp_path / "r", shape=shape) as rec:
        rec.step(seconds=1.0, prompt_tokens=80, completion_tokens=120, rollouts=8)
        derived = rec.cost
        rec.step(seconds=1.0, flops=1e9, rollouts=8)
    from scaling.flops import generation_flops, training_flops

    assert derived.generation_flops == pytest.approx(generation_flops(shape, [10] * 8, [15] * 8))
    assert derived.training_flops == pytest.approx(training_flops(shape, [10] * 8, [15] * 8))
    assert rec.cost.total_flops - derived.total_flops == pytest.approx(1e9)
    assert rec.record.confidence == "derived"


def test_nonsense_is_refused_and_nothing_is_written(tmp_path: Path):
    rec = scaling.Recorder(tmp_path / "r")
    for arguments, words in (
        ({"seconds": -1.0}, ">= 0|at most seconds"),
        ({"seconds": 1.0, "phases": {"generation": 2.0}}, "at most seconds"),
        ({"seconds": 1.0, "phases": {"sampling": 0.1}}, "sampling"),
        ({"seconds": 1.0, "step": 0}, "step must be"),
    ):
        with pytest.raises(ScalingError, match=words):
            rec.step(**arguments)
    with pytest.raises(ScalingError, match="counts in 0..k=1"):
        rec.eval(benchmark="b", successes=[2], k=1)
    rec.close()
    assert not list((tmp_path / "r").glob("*.jsonl"))
    with pytest.raises(ScalingError, match="gpus"):
        scaling.Recorder(tmp_path / "q", gpus=0)


def test_flops_that_were_not_counted_are_unknown_not_zero(tmp_path):
    with_flops, without = tmp_path / "with", tmp_path / "without"
    for folder, flops in ((with_flops, 1e15), (without, None)):
        recorder = scaling.Recorder(folder, gpus=8, accelerator="H100-SXM")
        recorder.step(seconds=30.0, completion_tokens=900_000, flops=flops)
        recorder.close()
    runs = scaling.load_runs(tmp_path).runs.set_index("run_id")
    assert runs.loc["with", "total_flops"] == 1e15
    assert runs.loc["without", "total_flops"] != runs.loc["without", "total_flops"]  # NaN
    again = scaling.Recorder(without, gpus=8, accelerator="H100-SXM")  # counting may begin later
    again.step(seconds=30.0, completion_tokens=900_000, flops=2e15)
    again.close()
    assert scaling.load_runs(without).runs["total_flops"].item() == 2e15


def test_numbers_of_numpy_are_numbers_and_what_is_not_whole_is_no_count(tmp_path):
    import numpy as np

    with scaling.Recorder(tmp_path / "run") as rec:
        rec.step(seconds=np.float32(2.0), prompt_tokens=np.int64(5), completion_tokens=np.float32(7), step=np.int64(3))
        rec.eval(benchmark="b", successes=np.array([1, 0, 2]), k=np.int64(2))
        with pytest.raises(ScalingError, match=r"a count of successes must be a whole number, got 0\.7"):
            rec.eval(benchmark="b", successes=[0.7, 0.2])  # mean rewards
        with pytest.raises(ScalingError, match="a count of successes must be a whole number, got nan"):
            rec.eval(benchmark="b", successes=[float("nan")])
        with pytest.raises(ScalingError, match=r"step must be a whole number, got 2\.5"):
            rec.step(seconds=1.0, step=2.5)
        rec.close("interrupted")
    table = scaling.load_runs(tmp_path / "run")
    assert not table.skipped and table.steps["step"].tolist() == [3] and table.steps["prompt_tokens"].tolist() == [5]
    assert table.evals["step"].tolist() == [3]
    assert scaling.records.read_run(tmp_path / "run").status == "interrupted"  # leaving the block closes nothing twice
