"""Out of memory: one line with the estimate and what to lower; the run goes on with the changed setting."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import scaling
from scaling.errors import UnknownName
from scaling.records import read_run

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore::FutureWarning")]

# a device on which a micro-batch of more than 16 rollouts fits until the third step, as torch would say it
PROGRAM = """
import sys, torch
from trl import GRPOTrainer
original = GRPOTrainer._compute_loss
def _compute_loss(self, model, inputs):
    if len(inputs["prompt_ids"]) > 16 and self.state.global_step >= 3:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB")
    return original(self, model, inputs)
GRPOTrainer._compute_loss = _compute_loss
from sweeps.train import main
main()
"""


def command(folder, bases, *overrides):
    from tests_train_shared import SMALL

    arguments = [*SMALL, f"runs_dir={folder}", f"bases_dir={bases}", *overrides]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_out_of_memory_is_one_line_and_the_run_goes_on(small, tmp_path, bases):
    import torch
    from safetensors.torch import load_file

    from sweeps.train import train

    failed = command(tmp_path / "runs", bases)
    assert failed.returncode == 1
    (line,) = [text for text in failed.stderr.splitlines() if "out of memory" in text]
    assert failed.stderr.strip().endswith(line) and "Traceback" not in failed.stderr
    for word in ("in training", "2.50 GiB more", "estimated", "activations", "grpo.micro_batch=16 (now 32)"):
        assert word in line, word
    config = small("grpo.micro_batch=16")
    assert config.run_dir == small().run_dir and read_run(config.run_dir).status == "failed"
    resumed = command(tmp_path / "runs", bases, "grpo.micro_batch=16")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert [s["cause"] for s in read_run(config.run_dir).segments] == ["failed", "finished"]
    steps = scaling.load_runs(config.run_dir).steps
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6] and (steps["rollouts"] == 32).all()
    whole = small(f"runs_dir={tmp_path}/whole")
    train(whole)
    a, b = (load_file(c.run_dir / "checkpoints" / "checkpoint-6" / "model.safetensors") for c in (config, whole))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)  # the same gradient, summed in other pieces
    body = json.loads((config.run_dir / "run.json").read_text())
    assert body["config"]["grpo"]["micro_batch"] == 16


@pytest.mark.parametrize(
    ("overrides", "place", "words"),
    [
        (["grpo.micro_batch=1"], "training", "set grpo.gradient_checkpointing=true and run"),
        (["grpo.micro_batch=1", "grpo.gradient_checkpointing=true"], "training", "shard the model"),
        ([], "generation", "grpo.prompts_per_step (now 8)"),
        ([], "evaluation", "eval.batch (now 512)"),
    ],
)
def test_what_to_lower_depends_on_what_was_being_done(small, overrides, place, words):
    from sweeps.memory import out_of_memory, ran_out
    from sweeps.tasks import build

    def training():
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    def _generate_single_turn():
        training()

    inside = {"training": training, "generation": _generate_single_turn}
    inside["evaluation"] = eval(compile("lambda f: f()", "sweeps/evaluation.py", "eval"))
    config = small(*overrides)
    try:
        inside[place](*([training] if place == "evaluation" else []))
    except RuntimeError as error:
        assert ran_out(error)
        message = str(out_of_memory(error, config, build(config.task)))
    assert f"in {place}" in message and words in message and len(message.splitlines()) == 1
    assert not ran_out(RuntimeError("shape mismatch")) and not ran_out(ValueError("out of memory"))


def test_a_known_card_has_its_name_and_an_unknown_one_must_be_named(monkeypatch):
    import torch

    from sweeps.devices import accelerator_name

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    assert accelerator_name() == "H100-SXM"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Unheard Of")
    with pytest.raises(UnknownName, match=r"NVIDIA Unheard Of.*cluster\.accelerator.*H100-SXM"):
        accelerator_name()
    assert accelerator_name("mine") == "mine"
