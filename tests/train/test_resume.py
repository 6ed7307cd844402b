"""kill -9 at any moment, then the same command: the final weights are those of an unbroken run."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import scaling
from scaling.records import read_run

pytestmark = pytest.mark.train


def run_once(config, tmp_path: Path, *, kill: str | None = None, timeout: float = 240) -> int:
    """Train in a process of its own; ``kill`` is Python that decides when the process kills itself with SIGKILL."""
    path = tmp_path / f"config-{time.monotonic_ns()}.json"
    path.write_text(config.model_dump_json())
    program = (
        "import sys\nfrom pathlib import Path\nfrom sweeps.config import RunConfig\nimport sweeps.meter, sweeps.train\n"
    )
    program += "import os, signal\ndie = lambda: os.kill(os.getpid(), signal.SIGKILL)\n" + (kill or "")
    program += "\nsweeps.train.train(RunConfig.model_validate_json(Path(sys.argv[1]).read_text()))\n"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=env, timeout=timeout, capture_output=True, text=True
    )
    if kill is None:
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
    return done.returncode


KILL_AT_STEP = """
original = sweeps.meter.Meter.on_step_begin
def on_step_begin(self, args, state, control, **kwargs):
    original(self, args, state, control, **kwargs)
    if state.global_step == {step}:
        die()
sweeps.meter.Meter.on_step_begin = on_step_begin
"""

STOP_AT_STEP = """
import sweeps.stop
original = sweeps.meter.Meter.on_step_end
def on_step_end(self, args, state, control, **kwargs):
    if state.global_step == {step}:
        sweeps.stop.request()
    original(self, args, state, control, **kwargs)
sweeps.meter.Meter.on_step_end = on_step_end
"""

KILL_IN_CHECKPOINT = """
from transformers import Trainer
save = Trainer._save_optimizer_and_scheduler
def torn(self, output_dir):
    if output_dir.endswith("checkpoint-{step}"):
        die()
    save(self, output_dir)
Trainer._save_optimizer_and_scheduler = torn
"""


def weights(run_dir: Path, step: int) -> str:
    from safetensors.torch import load_file

    tensors = load_file(run_dir / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory, bases):
    """Final weights of the small run without a break, by the overrides that shape them."""
    from tests_train_shared import SMALL, composed

    from sweeps.config import resolve

    known: dict[tuple[str, ...], tuple[str, dict]] = {}

    def get(*overrides: str):
        if overrides not in known:
            folder = tmp_path_factory.mktemp("unbroken")
            config = resolve(composed([*SMALL, f"runs_dir={folder}", f"bases_dir={bases}", *overrides]))
            run_once(config, folder)
            table = scaling.load_runs(config.run_dir)
            known[overrides] = weights(config.run_dir, 6), table.runs.iloc[0].to_dict()
        return known[overrides]

    return get


@pytest.mark.parametrize(
    ("kill", "overrides"),
    [
        pytest.param(KILL_AT_STEP.format(step=1), (), id="before the first checkpoint"),
        pytest.param(KILL_AT_STEP.format(step=3), (), id="between checkpoints"),
        pytest.param(KILL_IN_CHECKPOINT.format(step=4), (), id="while a checkpoint is written"),
        pytest.param(KILL_AT_STEP.format(step=5), ("grpo.training_prompts=16",), id="in a later epoch"),
        pytest.param(
            KILL_AT_STEP.format(step=5), ("grpo.training_prompts=32",), id="after a checkpoint on an epoch's end"
        ),
        pytest.param(KILL_AT_STEP.format(step=3), ("grpo.updates_per_rollout=2",), id="two updates a rollout"),
    ],
)
def test_kill_and_resume_equals_an_unbroken_run(small, tmp_path, unbroken, kill, overrides):
    want, whole = unbroken(*overrides)
    config = small(*overrides)
    assert run_once(config, tmp_path, kill=kill) == -signal.SIGKILL
    run_once(config, tmp_path)
    assert weights(config.run_dir, 6) == want
    table = scaling.load_runs(config.run_dir)
    row = table.runs.iloc[0]
    assert table.steps["step"].tolist() == [1, 2, 3, 4, 5, 6]  # no step twice
    assert row["total_flops"] == pytest.approx(whole["total_flops"], rel=1e-12)  # redone work is not on the axis
    assert row["gpu_hours_paid"] > row["gpu_hours"]
    assert row["redone_gpu_hours"] > 0  # ... and is paid
    assert [s.get("cause") for s in read_run(config.run_dir).segments] == ["interrupted", "finished"]
    assert not table.evals.duplicated(["step", "benchmark", "decoding"]).any()


def test_a_larger_budget_extends_the_run_to_the_same_weights(small, tmp_path, unbroken):
    want, _ = unbroken()
    short, full = small("budget.steps=4"), small()
    assert short.run_dir == full.run_dir
    run_once(short, tmp_path)
    run_once(full, tmp_path)
    assert weights(full.run_dir, 6) == want
    before = (full.run_dir / "steps.jsonl").read_bytes()
    run_once(full, tmp_path)  # a third time: nothing is left to do
    assert (full.run_dir / "steps.jsonl").read_bytes() == before


def test_evaluation_cadence_does_not_change_the_weights(small, tmp_path, unbroken):
    want, _ = unbroken()
    config = small("eval.early=[0,1,2,3,4,5]", "eval.max_share=0.99", "eval.every=1")
    run_once(config, tmp_path)
    assert weights(config.run_dir, 6) == want


def test_a_smaller_budget_on_the_way_is_evaluated_and_its_checkpoint_kept(small, tmp_path, unbroken):
    from sweeps.config import BudgetConfig

    want, _ = unbroken()
    config = small().model_copy(update={"milestones": [BudgetConfig(steps=2)]})
    config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"every": 1, "keep": 1})})
    run_once(config, tmp_path)
    kept = sorted(p.name for p in (config.run_dir / "checkpoints").iterdir())
    assert kept == ["checkpoint-2", "checkpoint-6"]
    assert 2 in scaling.load_runs(config.run_dir).evals["step"].tolist()
    assert weights(config.run_dir, 6) == want


@pytest.mark.parametrize("limit", ["flops", "gpu_hours", "pretraining_flops_ratio", "pretraining_gpu_hours_ratio"])
def test_budgets_stop_at_most_one_step_over(small, tmp_path, unbroken, limit):
    _, whole = unbroken()
    target = {
        "flops": whole["total_flops"] * 0.4,
        "gpu_hours": whole["gpu_hours"] * 0.4,
        "pretraining_flops_ratio": whole["total_flops"] * 0.4 / whole["pretraining_flops"],
        "pretraining_gpu_hours_ratio": whole["gpu_hours"] * 0.4 / whole["pretraining_gpu_hours"],
    }[limit]
    config = small("budget=none", f"budget.{limit}={target!r}", "eval.every=100")
    run_once(config, tmp_path)
    steps = scaling.load_runs(config.run_dir).steps
    axis = limit.replace("flops", "total_flops") if limit == "flops" else limit
    spent = steps[f"cumulative_{axis}"].to_numpy()
    assert spent[-1] >= target
    assert len(spent) < 2 or spent[-2] < target


def test_stop_request_saves_and_can_be_continued(small, tmp_path, unbroken):
    want, _ = unbroken()
    config = small()
    run_once(config, tmp_path, kill=STOP_AT_STEP.format(step=3))
    assert read_run(config.run_dir).status == "interrupted"
    run_once(config, tmp_path)
    assert weights(config.run_dir, 6) == want
    table = scaling.load_runs(config.run_dir)
    assert table.runs.iloc[0]["redone_gpu_hours"] == 0


def test_a_stop_request_within_a_generation_round_waits_for_its_end_where_it_can_be_saved(small, tmp_path):
    config = small("grpo.updates_per_rollout=4", "budget.steps=12", "checkpoint.every=100", "eval.early=[0]")
    run_once(config, tmp_path, kill=STOP_AT_STEP.format(step=2))
    assert read_run(config.run_dir).segments[-1]["final_step"] == 4
    assert [p.name for p in (config.run_dir / "checkpoints").iterdir()] == ["checkpoint-4"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_command_of_a_single_run_saves_it(tmp_path, bases, number):
    from tests_train_shared import SMALL

    program = (
        "import signal, sweeps.train\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nsweeps.train.main()"
    )
    settings = [*SMALL, f"runs_dir={tmp_path}", f"bases_dir={bases}", "budget.steps=2000", "checkpoint.every=5000",
                "eval.every=5000"]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", program, *settings], env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        for _ in range(1200):
            lines = next(iter(tmp_path.glob("default/*/steps.jsonl")), None)
            if process.poll() is not None or (lines is not None and lines.read_text().count("\n") > 3):
                break
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "Traceback" not in errors, errors[-2000:]
    (run,) = tmp_path.glob("default/*/run.json")
    record = read_run(run.parent)
    assert record.status == "interrupted" and "the same command continues" in errors
    assert (run.parent / "checkpoints" / f"checkpoint-{record.segments[-1]['final_step']}" / "ledger.json").is_file()
