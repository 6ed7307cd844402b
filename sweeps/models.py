"""Models: a ladder trained from scratch here, or any causal language model of the Hugging Face hub or a local folder."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from scaling.errors import ConfigError
from sweeps.schema import Strict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from scaling.shapes import ModelShape

__all__ = [
    "HubModel",
    "Hyperparameters",
    "LoraSettings",
    "ModelConfig",
    "Pretraining",
    "RevisionRule",
    "ScratchModel",
    "load",
    "load_tokenizer",
    "shape_of",
]

Count = Annotated[int, Field(ge=1)]


class Hyperparameters(Strict):
    """Settings that belong to a size. YAML of ``grpo`` and ``pretrain`` refers to them; overriding there wins."""

    learning_rate: float = Field(gt=0, description="of reinforcement learning")
    pretraining_learning_rate: float | None = Field(None, gt=0, description="peak rate of pretraining (scratch models)")
    dtype: Literal["auto", "float32", "tf32", "bfloat16"] = Field(
        "auto", description="of reinforcement learning; small models are faster in float32 or tf32 on a GPU, too"
    )
    tuned: bool = Field(False, description="whether these were tuned for this size; fits across sizes say so where not")


class ScratchModel(Strict):
    """A Llama-shaped model with random weights, pretrained here, so that its pretraining compute is known exactly."""

    kind: Literal["scratch"]
    name: str
    hidden_size: Count
    num_layers: Count
    num_heads: Count
    num_kv_heads: int = Field(0, ge=0, description="key and value heads; 0 means as many as num_heads")
    intermediate_size: Count
    tied: bool = Field(False, description="whether the head shares the embedding matrix")
    hyperparameters: Hyperparameters

    @model_validator(mode="after")
    def _check(self) -> ScratchModel:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"model.hidden_size must be num_heads={self.num_heads} times an even head width, got {self.hidden_size}"
            )
        if self.num_kv_heads and self.num_heads % self.num_kv_heads:
            raise ValueError(f"model.num_kv_heads must divide num_heads={self.num_heads}, got {self.num_kv_heads}")
        return self

    def identity(self) -> dict[str, Any]:
        """All that determines the architecture; names and hyperparameters are no part of it."""
        return self.model_dump(exclude={"name", "hyperparameters"})

    def hub_config(self, *, vocab_size: int, positions: int) -> dict[str, Any]:
        """The ``config.json`` of this model for a vocabulary and a context length [token]."""
        return {
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads or self.num_heads,
            "max_position_embeddings": positions,
            "tie_word_embeddings": self.tied,
            "initializer_range": 0.5 / self.hidden_size**0.5,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        }


class Pretraining(Strict):
    """What a public base model's pretraining took, each figure from ``source``; unknown figures stay out."""

    tokens: float | None = Field(None, gt=0, description="tokens trained on, all stages before RL [token]")
    flops: float | None = Field(
        None, gt=0, description="published pretraining compute [FLOP]; else 6 x parameters x tokens, marked derived"
    )
    gpu_hours: float | None = Field(None, gt=0, description="published accelerator time [GPU h]")
    accelerator: str | None = Field(None, description="what the hours are hours of, as scaling.hardware knows it")
    source: str = Field("", description="where the figures are published")


class RevisionRule(Strict):
    """How the name of an intermediate checkpoint tells the pretraining tokens it has seen."""

    pattern: str = Field(description="regular expression matching the whole revision; its first group is a number")
    tokens_per_unit: float = Field(gt=0, description="tokens for each unit of that number [token]")

    @model_validator(mode="after")
    def _check(self) -> RevisionRule:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(
                f"model.revision_rule.pattern must be a regular expression, got {self.pattern!r}: {error}"
            ) from error
        if groups != 1:
            raise ValueError(f"model.revision_rule.pattern must have one group, got {groups} in {self.pattern!r}")
        return self

    def tokens(self, revision: str) -> float | None:
        r"""Tokens seen by ``revision``, or None where the rule does not match.

        Example:
            >>> RevisionRule(pattern=r"step(\d+)", tokens_per_unit=2097152.0).tokens("step1000")
            2097152000.0
        """
        match = re.fullmatch(self.pattern, revision)
        return float(match.group(1)) * self.tokens_per_unit if match else None


class LoraSettings(Strict):
    """Low-rank adapters through peft (extra `lora`); the base's weights stay frozen."""

    rank: Count = 16
    alpha: Count = 32
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str = Field("all-linear", description="all-linear, or names of modules joined by commas")


class HubModel(Strict):
    """A causal language model of the hub, by name and revision, or a local folder of the same form."""

    kind: Literal["hub"]
    name: str
    name_or_path: str = Field(description="name on the hub, or a local folder with config.json, weights and tokenizer")
    revision: str | None = Field(
        None, description="branch, tag or commit; an intermediate checkpoint where the family publishes them"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: as stored on an accelerator, float32 on CPU"
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    parameters: float | None = Field(None, gt=0, description="published parameters, for display [1]")
    pretraining: Pretraining = Field(default_factory=lambda: Pretraining.model_validate({}))
    revision_rule: RevisionRule | None = Field(
        None, description="pretraining tokens of intermediate checkpoints, by their names"
    )
    pretraining_comparable: bool = Field(
        True, description="false for distilled or pruned bases: kept out of fits against pretraining"
    )
    pad_token: str | None = Field(None, description="token to pad with, where the tokenizer has none of its own")
    chat_template: str | None = Field(None, description="path of a Jinja chat template, where the tokenizer has none")
    lora: LoraSettings | None = None
    hyperparameters: Hyperparameters

    def identity(self) -> dict[str, Any]:
        """All that determines the weights that training starts from, and which of them it changes.

        A local folder is known by what is in it, wherever it lies: its config and samples of its weights.
        """
        fields = {"kind", "name_or_path", "revision", "dtype", "lora", "pad_token", "chat_template"}
        out = self.model_dump(include=fields)
        folder = Path(self.name_or_path).expanduser()
        return out | {"name_or_path": _fingerprint(folder)} if folder.is_dir() else out

    @property
    def pretraining_tokens(self) -> float | None:
        """Tokens seen by the chosen revision, or by the final model [token]; None if not known."""
        if self.revision is None or self.revision == "main":
            return self.pretraining.tokens
        return self.revision_rule.tokens(self.revision) if self.revision_rule else None

    def stage(self, shape: ModelShape | None = None) -> dict[str, Any]:
        """The pretraining stage for ``run.json``: cost and source; figures that are not known are None.

        Published FLOPs and hours belong to the final model; for an intermediate revision they are scaled by its tokens
        and marked derived. Without published FLOPs, ``6 N D`` (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
        """
        tokens, final = self.pretraining_tokens, self.pretraining.tokens
        share = 1.0 if tokens == final else (tokens / final if tokens and final else None)
        flops = self.pretraining.flops * share if self.pretraining.flops and share else None
        how = "published" if flops and share == 1.0 else "derived: published FLOPs x tokens seen / all tokens"
        parameters = float(shape.params) if shape is not None else self.parameters
        if flops is None and tokens and parameters:
            flops, how = 6.0 * parameters * tokens, "derived: 6 x parameters x tokens"
        hours = self.pretraining.gpu_hours * share if self.pretraining.gpu_hours and share else None
        return {
            "stage": "pretrain",
            "model": self.name_or_path,
            "revision": self.revision,
            "tokens": tokens,
            "flops": flops,
            "flops_source": how if flops else "not known",
            "gpu_hours": hours,
            "gpu_hours_source": "not known"
            if hours is None
            else ("published" if share == 1.0 else "derived: published hours x tokens seen / all tokens"),
            "accelerator": self.pretraining.accelerator,
            "source": self.pretraining.source,
            "comparable": self.pretraining_comparable,
        }


ModelConfig = Annotated[ScratchModel | HubModel, Field(discriminator="kind")]


def shape_of(config: ScratchModel | HubModel, task: Any = None) -> ModelShape:
    """The `ModelShape` of a model; a scratch model needs the task, whose vocabulary it has.

    Raises:
        ConfigError: the model's ``config.json`` cannot be read.
    """
    from scaling.shapes import ModelShape

    if isinstance(config, ScratchModel):
        return ModelShape.from_config(config.hub_config(**task_sizes(config, task)))
    from transformers import AutoConfig

    try:
        return ModelShape.from_config(AutoConfig.from_pretrained(_place(config), revision=config.revision).to_dict())
    except OSError as error:
        raise ConfigError(_not_found(config, error)) from error


def load(
    config: ScratchModel | HubModel, task: Any = None, *, path: str | Path | None = None, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer, on CPU.

    Args:
        config: which model.
        task: needed by a scratch model without ``path``: its tokenizer decides the vocabulary.
        path: a folder written by `sweeps.pretrain.pretrain` or by ``save_pretrained``; wins over the hub name.
        seed: of random weights: a scratch model without ``path``, or adapters; the global random state is left as it was.

    Raises:
        ConfigError: the folder or hub model is missing, or its tokenizer cannot do what training needs.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    if isinstance(config, ScratchModel) and path is None:
        sizes = config.hub_config(**task_sizes(config, task))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**sizes))
        return model, task.tokenizer()
    tokenizer = load_tokenizer(config, path=path)
    where = str(path) if path is not None else _place(config)
    kwargs: dict[str, Any] = {"dtype": torch.float32}
    if isinstance(config, HubModel):
        kwargs = {
            "dtype": _dtype(config),
            "attn_implementation": config.attn_implementation,
            "revision": config.revision,
        }
    try:
        model = AutoModelForCausalLM.from_pretrained(where, **kwargs)
    except (OSError, ValueError) as error:
        raise ConfigError(_not_found(config, error, where)) from error
    except SafetensorError as error:
        raise ConfigError(
            f"the weights of {where} are damaged ({error}): replace them; a base that was pretrained here is trained anew once "
            "its folder is removed"
        ) from error
    if isinstance(config, HubModel) and config.lora is not None:
        model = _with_adapters(model, config.lora, seed)
    return model, tokenizer


def _with_adapters(model: Any, lora: LoraSettings, seed: int) -> Any:
    import torch

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError("model.lora needs peft: pip install 'rl-scaling[lora]'") from error
    modules: Any = lora.target_modules if lora.target_modules == "all-linear" else lora.target_modules.split(",")
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, settings)
        except ValueError as error:
            raise ConfigError(
                f"model.lora.target_modules={lora.target_modules}: {' '.join(str(error).split())[:200]}"
            ) from error


def load_tokenizer(config: ScratchModel | HubModel, *, path: str | Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub model or of a folder, padded on the left, with a pad token for certain.

    Raises:
        ConfigError: it is missing, or it has no pad token and ``model.pad_token`` names none.
    """
    from transformers import AutoTokenizer

    where = str(path) if path is not None else _place(config)
    hub = config if isinstance(config, HubModel) else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=hub.revision if hub else None, padding_side="left")
    except (OSError, ValueError) as error:
        raise ConfigError(_not_found(config, error, where)) from error
    if hub and hub.pad_token is not None:
        if hub.pad_token not in tokenizer.get_vocab():
            raise ConfigError(f"model.pad_token must be a token of {where}, got {hub.pad_token!r}")
        tokenizer.pad_token = hub.pad_token
    if tokenizer.pad_token is None:
        eos = f", for instance to its end token {tokenizer.eos_token!r}" if tokenizer.eos_token else ""
        raise ConfigError(f"the tokenizer of {where} has no pad token; set model.pad_token{eos}")
    if hub and hub.chat_template is not None:
        try:
            tokenizer.chat_template = Path(hub.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"model.chat_template must be a readable file, got {hub.chat_template}: {error.strerror}"
            ) from error
    return tokenizer


def task_sizes(config: ScratchModel, task: Any) -> dict[str, int]:
    """Vocabulary and context length that a scratch model needs for ``task`` [token]."""
    if not hasattr(task, "tokenizer"):
        got = getattr(task, "name", None)
        raise ConfigError(
            f"model {config.name} is trained from scratch and needs a task with texts and a tokenizer (chain), got task {got}"
        )
    return {"vocab_size": len(task.tokens), "positions": task.prompt_width + task.max_completion_length}


def _fingerprint(folder: Path) -> str:
    """Hash of config.json and of name, size, first and last megabyte of every weights file."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(2**20))
                file.seek(max(0, size - 2**20))
                digest.update(file.read(2**20))
    return f"local:{digest.hexdigest()[:16]}"


def _place(config: ScratchModel | HubModel) -> str:
    if isinstance(config, ScratchModel):
        raise ConfigError(f"model {config.name} is trained from scratch: pretrain it first")
    local = Path(config.name_or_path).expanduser()
    looks_local = config.name_or_path.startswith((".", "/", "~")) or config.name_or_path.count("/") > 1
    if local.is_dir() and not (local / "config.json").is_file():
        raise ConfigError(f"model.name_or_path must be a model folder with config.json, {config.name_or_path} has none")
    if looks_local and not local.is_dir():
        raise ConfigError(
            f"model.name_or_path must be an existing folder or a hub name, got {config.name_or_path}: no such folder"
        )
    return str(local) if local.is_dir() else config.name_or_path


def _dtype(config: HubModel) -> Any:
    import torch

    if config.dtype == "auto":
        return "auto" if torch.cuda.is_available() else torch.float32
    return getattr(torch, config.dtype)


def _not_found(config: ScratchModel | HubModel, error: Exception, where: str | None = None) -> str:
    place = where or getattr(config, "name_or_path", config.name)
    reason = " ".join(str(error).split())[:200]
    revision = f" at revision {config.revision}" if isinstance(config, HubModel) and config.revision else ""
    return f"cannot load model {place}{revision}: {reason} (model.name_or_path takes a hub name or a local folder)"
