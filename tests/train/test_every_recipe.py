"""Three steps of every recipe and of every supervised stage, by the path a user takes."""

from __future__ import annotations

import numpy as np
import pytest

import scaling
from scaling.records import read_run
from sweeps.config import conf_dir

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore::FutureWarning")]

RECIPES = sorted(path.stem for path in (conf_dir() / "grpo").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_three_steps(small, recipe):
    from sweeps.train import train

    config = small(f"grpo={recipe}", "budget.steps=3", "eval.best_decoding_k=0")
    train(config)
    table = scaling.load_runs(config.run_dir)
    assert table.steps["step"].tolist() == [1, 2, 3]
    assert np.isfinite(table.steps["loss"]).all()
    assert (table.steps["training_flops"] > 0).all()


def test_a_supervised_stage_is_part_of_the_chain(small):
    from sweeps.train import train

    config = small("sft=continued", "sft.steps=3", "budget.steps=2", "eval.best_decoding_k=0")
    assert config.base_hash != small().base_hash and config.pretraining_hash == small().base_hash
    train(config)
    stages = read_run(config.run_dir).stages
    assert [stage["stage"] for stage in stages] == ["pretrain", "midtrain"]
    assert all(stage["flops"] > 0 for stage in stages)
    row = scaling.load_runs(config.run_dir).runs.iloc[0]
    assert row["pretraining_flops"] == stages[0]["flops"]  # the second stage has an account of its own
