"""What checkpoints take is wall time of the run, on its axis, whoever trained and wherever the trainer's clock stands."""

from __future__ import annotations

import pandas as pd
import pytest

from scaling.importers import load, load_mapping

KEYS = {
    "nemo-rl": ("timing/train/total_step_time", "timing/train/generation", "timing/train/policy_training", "timing/train/checkpointing"),
    "skyrl": ("timing/step", "timing/generate", "timing/train_critic_and_policy", "timing/save_checkpoints"),
    "verl": ("timing_s/step", "timing_s/gen", "timing_s/update_actor", "timing_s/save_checkpoint"),
}  # fmt: skip
REWARDS = {"nemo-rl": "train/reward", "skyrl": "reward/avg_raw_reward", "verl": "critic/rewards/mean"}


@pytest.mark.parametrize(
    ("trainer", "inside"), [("nemo-rl", True), ("skyrl", True), ("skyrl", False), ("verl", True), ("verl", False)]
)
def test_checkpoints_are_in_the_gpu_hours_of_every_trainer(tmp_path, trainer, inside):
    step, generation, training, checkpoint = KEYS[trainer]
    rows = []
    for i in range(1, 21):
        saving = 30.0 if i % 5 == 0 else 0.0
        rows.append({load_mapping(trainer).step[-1]: i, REWARDS[trainer]: 0.5, generation: 20.0, training: 15.0,
                     step: 36.0 + saving * inside, checkpoint: saving or None})  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "run.csv", index=False)
    table = load(tmp_path / "run.csv", "table", trainer, gpus=8)
    assert table.steps["gpu_seconds"].sum() == pytest.approx(8 * (20 * 36 + 4 * 30))
    assert table.runs["gpu_hours_paid"].item() == pytest.approx(table.runs["gpu_hours"].item())
    assert table.steps["idle_gpu_seconds"].max() == pytest.approx(8 * 31)


def test_no_shipped_mapping_puts_checkpoints_in_overhead():
    from scaling.importers.mapping_file import shipped

    for name in shipped():
        keys = [key for choice in load_mapping(name).phases.get("overhead", ()) for key in choice.keys]
        assert not [key for key in keys if "checkpoint" in key or "save" in key]
