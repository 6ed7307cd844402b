"""A small run that every training test starts from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")

SMALL = [
    "model=scratch_16", "pretrain.steps=40", "pretrain.batch=64", "task.held_out=64", "grpo.prompts_per_step=8",
    "grpo.group_size=4", "grpo.training_prompts=512", "budget.steps=6", "checkpoint.every=2", "eval.best_decoding_k=4",
    "tracking=disabled", "eval.early=[0,2]",
]  # fmt: skip
if dtype := os.environ.get("SCALING_TEST_DTYPE"):  # float32 or bfloat16, to try both on an accelerator
    SMALL.append(f"grpo.dtype={dtype}")


def composed(overrides: list[str]) -> dict[str, Any]:
    """The composed configuration as Hydra would hand it over."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import hydra_plugins.rl_scaling_launcher  # noqa: F401  (registers the launcher that conf/cluster names)
    from sweeps.config import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("config", overrides=overrides), resolve=True)  # type: ignore[return-value]


@pytest.fixture
def small(tmp_path: Path, bases: Path):
    """A function from overrides to a resolved small run in a fresh folder; bases are shared by all tests."""
    from sweeps.config import resolve

    def make(*overrides: str):
        return resolve(composed([*SMALL, f"runs_dir={tmp_path}/runs", f"bases_dir={bases}", *overrides]))

    return make


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pretrained scratch models of this test session lie."""
    return tmp_path_factory.mktemp("bases")
