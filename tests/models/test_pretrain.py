"""The pretraining stage: deterministic, cached, safe under kill -9, trained once by two processes, FLOPs exact."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.errors import ConfigError
from sweeps.models import Hyperparameters, ScratchModel, load, shape_of
from sweeps.pretrain import PretrainConfig, base_hash, pretrain, read_base
from sweeps.tasks import ChainConfig, ChainTask

pytestmark = pytest.mark.train
TASK = ChainConfig(operands_max=4, short_operands=4, held_out=64, direct_share=0.2)
MODEL = ScratchModel(
    kind="scratch", name="tiny", hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32,
    hyperparameters=Hyperparameters(learning_rate=1e-3),
)  # fmt: skip
SETTINGS = PretrainConfig(steps=30, batch=16, learning_rate=1e-2, warmup_steps=5)

CHILD = """
import sys, sweeps.pretrain as stage
sys.path.insert(0, {tests!r})
from test_pretrain import MODEL, SETTINGS, TASK
from sweeps.tasks import ChainTask
stage._SAVE_EVERY = 0.0
record = stage.pretrain(MODEL, ChainTask(TASK), SETTINGS.model_copy(update={{"steps": {steps}}}), {folder!r}, progress=False)
print(record.path)
"""


def child(folder: Path, *, steps: int = 30) -> subprocess.Popen:
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder), steps=steps)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def weights(folder: Path | str) -> str:
    return hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    return pretrain(MODEL, ChainTask(TASK), SETTINGS, tmp_path_factory.mktemp("bases"), progress=False)


def test_deterministic_cached_and_leaves_the_random_state_alone(whole, tmp_path: Path):
    import torch

    state = torch.get_rng_state()
    again = pretrain(MODEL, ChainTask(TASK), SETTINGS, tmp_path, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights(again.path) == weights(whole.path) and again.base_hash == whole.base_hash
    stamp = (Path(again.path) / "model.safetensors").stat().st_mtime_ns
    cached = pretrain(MODEL, ChainTask(TASK), SETTINGS, tmp_path, progress=False)
    assert cached == again and (Path(again.path) / "model.safetensors").stat().st_mtime_ns == stamp
    model, tokenizer = load(MODEL, ChainTask(TASK), path=cached.path)
    assert model.num_parameters() == cached.parameters == shape_of(MODEL, ChainTask(TASK)).params
    assert tokenizer.padding_side == "left" and tokenizer("1 + 2 ?")["input_ids"]


def test_kill_at_any_moment_then_the_same_weights(tmp_path: Path):
    """Killed after its first states; then finished: as one that was never killed, down to the last bit."""
    steps = 150
    reference = pretrain(
        MODEL, ChainTask(TASK), SETTINGS.model_copy(update={"steps": steps}), tmp_path / "whole", progress=False
    )
    folder = tmp_path / "killed"
    state = folder / f"{reference.base_hash}.partial" / "state.pt"
    process = child(folder, steps=steps)
    until = time.monotonic() + 120
    while process.poll() is None and not state.is_file() and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state.is_file() and read_base(folder / reference.base_hash) is None
    import torch

    assert 0 < torch.load(state, weights_only=True)["done"]["step"] < steps
    process = child(folder, steps=steps)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    finished = read_base(Path(out.strip()))
    assert finished is not None and weights(finished.path) == weights(reference.path)
    for name in ("tokens", "flops", "hardware_flops", "sequences", "held_out_loss", "validation_loss"):
        assert getattr(finished, name) == pytest.approx(getattr(reference, name), rel=1e-12), name
    assert not state.exists()


def test_two_processes_train_one_base_once(tmp_path: Path):
    processes = [child(tmp_path), child(tmp_path)]
    outs = [p.communicate(timeout=300) for p in processes]
    assert all(p.returncode == 0 for p in processes), outs
    assert outs[0][0] == outs[1][0]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [Path(outs[0][0].strip()).name]


def test_flops_are_exact(whole):
    """Model FLOPs by hand from the texts; hardware FLOPs against torch's counter on one real step with eager attention."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sweeps.pretrain import _cost, _loss

    task, shape = ChainTask(TASK), shape_of(MODEL, ChainTask(TASK))
    tokens, model_flops = 0, 0.0
    for _, labels in task.pretraining_stream(seed=0, batch=16, steps=30):
        for scored in (labels != -100).sum(axis=1).tolist():
            n = task.prompt_width + scored
            tokens += n
            pairs = n * (n + 1) / 2
            model_flops += 3 * (
                n * shape.body_flops_per_token
                + scored * shape.head_flops_per_token
                + pairs * shape.attention_flops_per_pair
            )
    assert (whole.tokens, whole.sequences) == (tokens, 480) and whole.flops == pytest.approx(model_flops, rel=1e-12)
    model, _ = load(MODEL, task, seed=0)
    model.set_attn_implementation("eager")
    input_ids, labels = next(task.pretraining_stream(seed=0, batch=16, steps=1))
    with FlopCounterMode(display=False) as counter:
        _loss(model, input_ids, labels, task.max_completion_length, "cpu").backward()
    assert torch.isfinite(model.lm_head.weight.grad).all()
    assert _cost(shape, input_ids, labels, task.prompt_width)[2] == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_losses_are_held_out_losses(whole):
    import torch

    from sweeps.pretrain import _loss

    task = ChainTask(TASK)
    model, _ = load(MODEL, task, path=whole.path)
    with torch.no_grad():
        assert float(_loss(model.eval(), *task.held_out_batch(), task.max_completion_length, "cpu")) == pytest.approx(
            whole.held_out_loss, rel=1e-4
        )
    fresh, _ = load(MODEL, task, seed=1)
    with torch.no_grad():
        assert whole.held_out_loss < float(
            _loss(fresh.eval(), *task.held_out_batch(), task.max_completion_length, "cpu")
        )


def test_the_hash_holds_what_determines_the_weights_and_nothing_else():
    same = base_hash(MODEL, TASK, SETTINGS)
    other_name = MODEL.model_copy(update={"name": "x", "hyperparameters": Hyperparameters(learning_rate=0.5)})
    assert base_hash(other_name, TASK, SETTINGS) == same
    assert base_hash(MODEL, TASK.model_copy(update={"reward": "random"}), SETTINGS) == same, (
        "a control starts from the same base"
    )
    changed = [
        base_hash(MODEL.model_copy(update={"hidden_size": 32}), TASK, SETTINGS),
        base_hash(MODEL, TASK.model_copy(update={"held_out_seed": 1}), SETTINGS),
        *(
            base_hash(MODEL, TASK, SETTINGS.model_copy(update=c))
            for c in ({"seed": 1}, {"learning_rate": 0.02}, {"steps": 31}, {"threads": 2})
        ),
    ]
    assert len({same, *changed}) == 7


def test_a_broken_record_is_named(whole, tmp_path: Path):
    (tmp_path / "base.json").write_text("{")
    with pytest.raises(ConfigError, match="base.json must be JSON"):
        read_base(tmp_path)
    (tmp_path / "base.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="base.json must be JSON"):
        read_base(tmp_path)
    stage = whole.stage()
    assert json.loads(json.dumps(stage)) == stage and stage["stage"] == "pretrain" and stage["flops"] == whole.flops


def test_a_task_without_texts_is_refused_by_name():
    from sweeps.tasks.countdown import CountdownConfig

    with pytest.raises(ConfigError, match="task=chain"):
        base_hash(MODEL, CountdownConfig(), SETTINGS)


def test_bases_that_cannot_be_used_end_in_one_line(whole, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot read .*file.*base.json: Not a directory"):
        pretrain(MODEL, ChainTask(TASK), SETTINGS, tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot create bases_dir /proc/none"):
        pretrain(MODEL, ChainTask(TASK), SETTINGS, "/proc/none")
    shutil.copytree(whole.path, tmp_path / "base")
    os.truncate(tmp_path / "base" / "model.safetensors", 500)
    with pytest.raises(ConfigError, match=r"the weights of .*base are damaged"):
        load(MODEL, ChainTask(TASK), path=tmp_path / "base")
