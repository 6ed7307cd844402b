"""Models: every YAML, one small local folder per architecture, tokenizers that lack what training needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from scaling.errors import ConfigError
from sweeps.models import HubModel, Hyperparameters, ModelConfig, ScratchModel, load, load_tokenizer, shape_of
from sweeps.tasks import ChainConfig, ChainTask

CONF = Path(__file__).resolve().parents[2] / "conf"
SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES: dict[str, dict[str, Any]] = {  # the family whose configs have this architecture
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "smollm3": {"num_key_value_heads": 2, "no_rope_layers": [1, 0]},
    "olmo2": {},
    "gpt_neox": {"tie_word_embeddings": False},
}


def hub(path: Path | str, **more: Any) -> HubModel:
    return HubModel(
        kind="hub", name="local", name_or_path=str(path), hyperparameters=Hyperparameters(learning_rate=1e-6), **more
    )


def save_small(folder: Path, architecture: str, **sizes: Any) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture, **SMALL, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=2, **sizes
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    ChainTask(ChainConfig(held_out=4)).tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_model_yaml(path: Path):
    config = TypeAdapter(ModelConfig).validate_python(yaml.safe_load(path.read_text()))
    assert config.name == path.stem
    if isinstance(config, ScratchModel):
        assert shape_of(config, ChainTask(ChainConfig(held_out=4))).params > 0
        return
    stage = config.stage()
    assert (
        stage["tokens"] and stage["source"] and stage["flops"] == pytest.approx(6 * config.parameters * stage["tokens"])
    )
    assert stage["comparable"] is not (config.name.startswith("llama3.2"))
    if stage["gpu_hours"]:
        from scaling.hardware import accelerator

        assert accelerator(stage["accelerator"])


@pytest.mark.parametrize(
    ("name", "revision", "tokens"),
    [  # published: Pythia 2,097,152 tokens a step; SmolLM3 94.4B every 40,000 steps; OLMo names its tokens
        ("pythia_1b", "step1000", 2_097_152_000),
        ("pythia_1b", "step143000", 299_892_736_000),
        ("smollm3_3b_checkpoints", "stage1-step-40000", 94.37e9),
        ("olmo2_7b", "stage1-step928646-tokens3896B", 3896e9),
        ("olmo2_7b", "stage2-ingredient1-step11931-tokens50B", None),
        ("qwen2.5_7b", "v0.9", None),
    ],
)
def test_revisions_along_pretraining_know_their_tokens(name: str, revision: str, tokens: float | None):
    body = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    stage = TypeAdapter(ModelConfig).validate_python({**body, "revision": revision}).stage()
    assert stage["tokens"] == (pytest.approx(tokens, rel=1e-3) if tokens else None)
    assert stage["flops"] == (pytest.approx(6 * body["parameters"] * tokens, rel=1e-3) if tokens else None)
    if not tokens:
        assert stage["flops_source"] == "not known" and stage["gpu_hours"] is None


def test_hours_of_an_intermediate_checkpoint_are_its_share_and_marked_so():
    body = yaml.safe_load((CONF / "model" / "smollm3_3b_checkpoints.yaml").read_text())
    stage = HubModel(**{**body, "revision": "stage1-step-2400000"}).stage()
    assert stage["gpu_hours"] == pytest.approx(221184 * 2_400_000 * 2_359_296 / 11.2e12)
    assert "derived" in stage["gpu_hours_source"]


@pytest.mark.train
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_local_folder_of_each_architecture_loads_counts_and_generates(architecture: str, tmp_path: Path):
    import torch

    config = hub(save_small(tmp_path / architecture, architecture, **ARCHITECTURES[architecture]))
    model, tokenizer = load(config)
    assert shape_of(config).params == model.num_parameters()
    assert model.dtype == torch.float32 and tokenizer.padding_side == "left"
    ids = tokenizer(["1 + 2 ?", "1 ?"], return_tensors="pt", padding=True)
    out = model.generate(**ids, max_new_tokens=2, do_sample=False)
    assert out.shape == (2, 6)


def test_a_local_folder_is_known_by_its_content(tmp_path: Path):
    import shutil

    import torch

    first = hub(save_small(tmp_path / "a", "llama"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert hub(tmp_path / "b").identity() == first.identity()
    model, _ = load(first)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1.0
    model.save_pretrained(tmp_path / "b")
    assert hub(tmp_path / "b").identity() != first.identity()


def test_scratch_model_shape_and_random_state(tmp_path: Path):
    import torch

    task = ChainTask(ChainConfig(held_out=4))
    config = ScratchModel(
        kind="scratch", name="x", hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48,
        hyperparameters=Hyperparameters(learning_rate=1e-3),
    )  # fmt: skip
    state = torch.get_rng_state()
    first, _ = load(config, task, seed=1)
    assert torch.equal(torch.get_rng_state(), state), "loading must not move the global random state"
    again, _ = load(config, task, seed=1)
    other, _ = load(config, task, seed=2)
    assert shape_of(config, task).params == first.num_parameters()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_tokenizer_without_pad_token_is_refused_and_the_cure_works(tmp_path: Path):
    folder = save_small(tmp_path / "m", "llama")
    tokenizer = load_tokenizer(hub(folder))
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="no pad token; set model.pad_token, for instance to its end token '<eos>'"):
        load_tokenizer(hub(folder))
    assert load_tokenizer(hub(folder, pad_token="<eos>")).pad_token == "<eos>"
    with pytest.raises(ConfigError, match="must be a token"):
        load_tokenizer(hub(folder, pad_token="<none>"))
    with pytest.raises(ConfigError, match="chat_template"):
        load_tokenizer(hub(folder, pad_token="<eos>", chat_template=str(tmp_path / "none.jinja")))


def test_missing_models_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such folder"):
        load(hub(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="config.json"):
        load(hub(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="config.json"):
        shape_of(hub(tmp_path / "empty"))
    scratch = ScratchModel(
        kind="scratch",
        name="s",
        hidden_size=16,
        num_layers=1,
        num_heads=4,
        intermediate_size=16,
        hyperparameters=Hyperparameters(learning_rate=1.0),
    )
    with pytest.raises(ConfigError, match="needs a task with texts"):
        load(scratch, object())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 18}, "hidden_size"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"width": 3}, "width"),
        ({"num_layers": "2"}, "num_layers"),
    ],
)
def test_bad_sizes_are_refused(change: dict, words: str):
    body = {
        "kind": "scratch",
        "name": "x",
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 64,
        "hyperparameters": {"learning_rate": 1e-3},
    }
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(ModelConfig).validate_python({**body, **change})


def _missing(cls: Any, body: dict[str, Any], where: str = "") -> list[str]:
    """Settings of a schema class that a YAML leaves out, nested ones too."""
    import typing

    from pydantic import BaseModel

    out = [where + name for name in cls.model_fields if name not in body]
    for name, field in cls.model_fields.items():
        nested = [
            t
            for t in (field.annotation, *typing.get_args(field.annotation))
            if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        if nested and isinstance(body.get(name), dict) and set(body[name]) & set(nested[0].model_fields):
            out += _missing(nested[0], body[name], f"{where}{name}.")
    return out


@pytest.mark.parametrize(
    "path",
    sorted(p for g in ("model", "task", "pretrain", "sft") for p in (CONF / g).glob("*.yaml")),
    ids=lambda p: p.stem,
)
def test_every_yaml_lists_all_of_its_settings(path: Path):
    """Hydra refuses an override of a key that the YAML does not have: each setting must stand there."""
    from sweeps import tasks
    from sweeps.pretrain import PretrainConfig
    from sweeps.sft import SftConfig

    body = yaml.safe_load(path.read_text())
    families = {c.model_fields["name"].default: c for c in (*tasks._FAMILIES, tasks.MixConfig)}
    if path.parent.name == "task":
        cls: Any = families[body["name"]]
        for nested in body.get("tasks", {}).values():
            assert _missing(families[nested["name"]], nested) == []
    else:
        kinds = {"scratch": ScratchModel, "hub": HubModel}
        cls = {"pretrain": PretrainConfig, "sft": SftConfig}.get(path.parent.name) or kinds[body["kind"]]
    assert _missing(cls, body) == []
