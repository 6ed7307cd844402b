"""Every YAML composes; whatever is wrong is refused in one line before anything starts; hashes hold what they say."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

Plugins.instance()
import hydra_plugins.rl_scaling_launcher  # noqa: E402, F401
from scaling.errors import ConfigError  # noqa: E402
from sweeps.config import RunConfig, conf_dir, resolve  # noqa: E402

OPTIONS = sorted(
    (path.parent.name, path.stem) for path in conf_dir().glob("*/*.yaml") if path.parent.name != "experiment"
)
EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
# an option that is incomplete on its own, and what completes it
COMPLETED = {("budget", "none"): ["budget.flops=1e12"], ("sft", "data"): ["sft.path=texts.jsonl"]}


def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)  # type: ignore[return-value]


def resolved(*overrides: str) -> RunConfig:
    return resolve(composed(*overrides))


def test_there_are_options_of_every_group():
    assert {group for group, _ in OPTIONS} >= {"model", "task", "grpo", "budget", "eval", "tracking", "cluster", "sft"}
    assert EXPERIMENTS


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda v: v)
def test_every_yaml_composes_and_resolves(group, option):
    config = resolved(f"{group}={option}", *COMPLETED.get((group, option), []))
    assert RunConfig.model_validate_json(config.model_dump_json()) == config  # the worker reads what the launcher wrote


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment):
    resolved(f"experiment={experiment}")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+model.nope=1", ["model.nope", "unknown key", "hidden_size"]),
        ("+grpo.group_sise=8", ["grpo.group_sise", "unknown key", "group_size"]),
        ("+nope=1", ["nope", "unknown key", "budget"]),
        ("+model.hyperparameters.rate=1", ["model.hyperparameters.rate", "learning_rate"]),
        ("grpo.group_size=many", ["grpo.group_size", "integer", "'many'"]),
        ("grpo.group_size=1", ["grpo.group_size", "2", "got 1"]),
        ("grpo.loss=ppo", ["grpo.loss", "'dapo'", "'ppo'"]),
        ("grpo.learning_rate=-1e-3", ["grpo.learning_rate", "greater than 0"]),
        ("budget.steps=0", ["budget.steps", "1", "got 0"]),
        ("budget.flops=0", ["budget.flops", "greater than 0"]),
        ("budget=none", ["budget", "at least one of steps"]),
        ("grpo.micro_batch=7", ["micro_batch", "256", "7"]),
        ("grpo.training_prompts=8", ["training_prompts", "32", "8"]),
        ("eval.max_share=1.5", ["eval.max_share", "less than 1"]),
        ("seed=-1", ["seed", "got -1"]),
        ("grpo.generation=fast", ["grpo.generation", "'compiled'", "'fast'"]),
        ("grpo.generation=compiled grpo.dtype=bfloat16", ["grpo: ", "got dtype=bfloat16", "set grpo.dtype=float32"]),
        ("grpo.generation=compiled grpo.vllm=colocate", ["grpo: ", "got vllm=colocate", "grpo.vllm=off"]),
        ("grpo.generation=continuous_batching grpo.vllm=colocate", ["grpo: ", "got vllm=colocate", "grpo.vllm=off"]),
        ("grpo.generation=compiled grpo.recipe.interrupt_after=4", ["interrupt_after", "set grpo.generation=plain"]),
        ("grpo.generation=compiled cluster.accelerate_config=f.yaml", ["accelerate_config=f.yaml", "generation=plain"]),
        ("model=qwen2.5_0.5b", ["model"]),
    ],
)
def test_wrong_settings_are_refused_in_one_line(override, words):
    if override == "model=qwen2.5_0.5b" and ("model", "qwen2.5_0.5b") not in OPTIONS:
        pytest.skip("no such option yet")
    if override == "model=qwen2.5_0.5b":
        resolved(override, "task=chain")
        return
    with pytest.raises(ConfigError) as caught:
        resolved(*override.split())
    (line,) = [text for text in str(caught.value).splitlines() if all(word in text for word in words)]
    assert len(str(caught.value).splitlines()) == 1, line


def test_all_errors_are_shown_at_once():
    with pytest.raises(ConfigError) as caught:
        resolved("+task.foo=1", "+pretrain.bar=2", "seed=-1")
    assert len(str(caught.value).splitlines()) == 3


def test_cispo_without_its_cap_is_refused():
    assert resolved("grpo=cispo").grpo.epsilon_high == 5.0
    with pytest.raises(ConfigError, match="absolute cap"):
        resolved("grpo=cispo", "grpo.epsilon_high=0.2")


def test_a_schedule_that_decays_needs_its_length():
    with pytest.raises(ConfigError, match=r"needs budget\.steps"):
        resolved("grpo.lr_schedule=cosine", "budget=none", "budget.flops=1e12")


SAME_RUN = [
    "budget.steps=7", "budget.flops=1e9", "tracking=disabled", "eval.every=3", "cluster.workers=1", "sweep=other",
    "name=x", "checkpoint.every=5", "runs_dir=elsewhere", "grpo.micro_batch=32", "grpo.gradient_checkpointing=true", "grpo.generation=plain",
]  # fmt: skip
OTHER_RUN = [
    "seed=1",
    "grpo.learning_rate=1e-4",
    "grpo=cispo",
    "model=scratch_16",
    "task.modulus=17",
    "grpo.generation=compiled",
    "grpo.dtype=tf32",
    "pretrain.seed=3",
]


@pytest.mark.parametrize("override", SAME_RUN)
def test_what_does_not_affect_the_weights_is_no_part_of_a_runs_identity(override):
    assert resolved(override).run_id == resolved().run_id


@pytest.mark.parametrize("override", OTHER_RUN)
def test_what_affects_the_weights_is_part_of_it(override):
    assert resolved(override).run_id != resolved().run_id


def test_recipe_and_base_hashes():
    base = resolved()
    assert resolved("seed=1").recipe_hash == base.recipe_hash
    assert resolved("model=scratch_16").recipe_hash == base.recipe_hash  # each size at its own rate
    assert (
        resolved("grpo.dtype=tf32").recipe_hash == resolved("grpo.dtype=float32").recipe_hash
    )  # the larger sizes of a ladder
    assert resolved("grpo.learning_rate=9e-5").recipe_hash != base.recipe_hash
    assert resolved("grpo=dr_grpo").recipe_hash != base.recipe_hash
    assert resolved("seed=1").base_hash == base.base_hash
    assert resolved("grpo=dr_grpo").base_hash == base.base_hash
    assert resolved("pretrain.seed=1").base_hash != base.base_hash
    ids = [resolved(f"seed={s}", f"pretrain.seed={p}").run_id for s, p in itertools.product((0, 1), (0, 1))]
    assert len(set(ids)) == 4


def test_a_budget_that_shapes_the_schedule_is_part_of_the_identity():
    a, b = (resolved("grpo.lr_schedule=cosine", f"budget.steps={n}").run_id for n in (10, 20))
    assert a != b


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("budget.steps=abc", "error: budget.steps: input should be a valid integer, got 'abc'"),
        ("grpo=nope", "error: grpo=nope: no such option; options are bnpo, cispo, dapo, "),
        ("task.modulus=${nope}", "error: task.modulus: Interpolation key 'nope' not found"),
        ("runs_dir=/proc/none", "error: cannot write /proc/none: "),
        ("runs_dir=closed", "error: cannot write "),
        ("seed=1,2", "error: Ambiguous value for argument 'seed=1,2': a grid needs -m in front"),
        ("cluster=slurm", "error: cluster=slurm needs -m "),
        ("cluster.devices=2", "error: cluster.devices=2 needs -m "),
    ],
)
def test_the_command_of_a_single_run_ends_in_one_line(override, line, tmp_path):
    (tmp_path / "closed" / ".hydra" / "train.log").mkdir(
        parents=True
    )  # Hydra's log cannot be opened, as on a read-only disk
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.train", override], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stderr.startswith(line) and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_limit_that_is_set_stands_alone_and_steps_are_the_default():
    assert resolved().budget.limits() == {"steps": 120}
    assert resolved("budget.gpu_hours=8").budget.limits() == {"gpu_hours": 8.0}
    assert resolved("budget.gpu_hours=8", "budget.steps=50").budget.limits() == {"gpu_hours": 8.0, "steps": 50}
