"""What each Hugging Face architecture looks like: how its ``config.json`` becomes a `ModelShape`.

One row an architecture. Defaults and layer rules are those of transformers 5.23 (``configuration_*.py`` and
``modeling_*.py``), against whose models the parameter and FLOP counts are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaling.errors import ScalingError, UnknownName
from scaling.shapes import ModelShape

__all__ = ["ARCHITECTURES", "read_config"]

Config = Mapping[str, Any]
Windows = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    """Traits that a config does not spell out.

    Attributes:
        defaults: values of keys that a ``config.json`` may omit.
        tied: default of ``tie_word_embeddings``.
        gated: three feed-forward matrices rather than two.
        parallel: attention and feed-forward read the same input.
        post_norm: a norm follows the feed-forward layer inside the block.
        norms: hidden-size norms per block.
        norm_vectors: vectors a norm has: 1 scale, 2 scale and bias, 0 neither.
        qk_norm: norms on queries and keys: "" none, "head" one head wide, "all" all heads wide.
        qkv_bias: whether q, k, v carry biases (a bool or the key that says so); likewise the other biases.
        grouped: whether key and value heads may be fewer than query heads.
        windows: layers' attention windows from the config; None: all full.
        moe: fields of a mixture from the config; None: dense.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = False
    gated: bool = True
    parallel: bool = False
    post_norm: bool = False
    norms: int = 2
    norm_vectors: int = 1
    qk_norm: str = ""
    qkv_bias: bool | str = "attention_bias"
    o_bias: bool | str = "attention_bias"
    mlp_bias: bool | str = False
    head_bias: bool = False
    grouped: bool = True
    windows: Callable[[Config, int], Windows] | None = None
    moe: Callable[[Config, int], dict[str, Any]] | None = None


def _every(period: int) -> Callable[[Config, int], Windows]:
    """Sliding windows in all layers but every ``period``-th."""

    def windows(config: Config, layers: int) -> Windows:
        step = int(config.get("sliding_window_pattern", period) or period)
        size = config.get("sliding_window")
        return tuple(size if (i + 1) % step else None for i in range(layers))

    return windows


def _uniform(config: Config, layers: int) -> Windows:
    return (config.get("sliding_window"),) * layers


def _qwen_windows(config: Config, layers: int) -> Windows:
    size = config.get("sliding_window") if config.get("use_sliding_window") else None
    return tuple(size if i >= config.get("max_window_layers", 28) else None for i in range(layers))


def _qwen_moe_windows(config: Config, layers: int) -> Windows:
    return (config.get("sliding_window") if config.get("use_sliding_window") else None,) * layers


def _smollm3_windows(config: Config, layers: int) -> Windows:
    size = config.get("sliding_window") if config.get("use_sliding_window") else None
    interval = config.get("no_rope_layer_interval", 4)
    rope = config.get("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(layers)]
    return tuple(size if not rope[i] else None for i in range(layers))


def _qwen_moe(config: Config, layers: int) -> dict[str, Any]:
    dense = set(config.get("mlp_only_layers") or [])
    step = config.get("decoder_sparse_step", 1)
    sparse = sum(1 for i in range(layers) if i not in dense and (i + 1) % step == 0)
    return {
        "num_experts": _size(config, "num_experts", "num_local_experts"),
        "experts_per_token": _size(config, "num_experts_per_tok"),
        "moe_intermediate_size": _size(config, "moe_intermediate_size"),
        "shared_intermediate_size": int(config.get("shared_expert_intermediate_size") or 0),
        "shared_gate": bool(config.get("shared_expert_intermediate_size")),
        "num_moe_layers": sparse,
    }


def _all_moe(config: Config, layers: int) -> dict[str, Any]:
    return {
        "num_experts": _size(config, "num_local_experts", "num_experts"),
        "experts_per_token": _size(config, "num_experts_per_tok"),
        "moe_intermediate_size": _size(config, "intermediate_size"),
        "num_moe_layers": layers,
    }


def _deepseek_moe(config: Config, layers: int) -> dict[str, Any]:
    width = _size(config, "moe_intermediate_size")
    first, frequency = int(config.get("first_k_dense_replace") or 0), int(config.get("moe_layer_freq") or 1)
    return {
        "num_experts": _size(config, "n_routed_experts", "num_local_experts"),
        "experts_per_token": _size(config, "num_experts_per_tok"),
        "moe_intermediate_size": width,
        "shared_intermediate_size": width * int(config.get("n_shared_experts") or 0),
        "num_moe_layers": sum(1 for i in range(layers) if i >= first and i % frequency == 0),
    }


_QWEN_MOE = {"use_sliding_window": False, "sliding_window": 4096, "decoder_sparse_step": 1}
_MLA = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
_OLMO = {"post_norm": True, "qk_norm": "all"}

ARCHITECTURES: dict[str, _Architecture] = {
    "llama": _Architecture(mlp_bias="mlp_bias"),
    "mistral": _Architecture(
        defaults={"num_key_value_heads": 8, "sliding_window": 4096}, qkv_bias=False, o_bias=False, windows=_uniform
    ),
    "mixtral": _Architecture(
        defaults={"num_key_value_heads": 8}, qkv_bias=False, o_bias=False, windows=_uniform, moe=_all_moe
    ),
    "qwen2": _Architecture(
        defaults={"sliding_window": 4096, "max_window_layers": 28}, qkv_bias=True, o_bias=False, windows=_qwen_windows
    ),
    "qwen3": _Architecture(
        defaults={"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28},
        qk_norm="head",
        windows=_qwen_windows,
    ),
    "qwen2_moe": _Architecture(
        defaults={**_QWEN_MOE, "qkv_bias": True, "max_window_layers": 28},
        qkv_bias="qkv_bias",
        o_bias=False,
        windows=_qwen_windows,
        moe=_qwen_moe,
    ),
    "qwen3_moe": _Architecture(
        defaults={**_QWEN_MOE, "num_key_value_heads": 4}, qk_norm="head", windows=_qwen_moe_windows, moe=_qwen_moe
    ),
    "gemma": _Architecture(defaults={"num_key_value_heads": 16, "head_dim": 256}, tied=True),
    "gemma2": _Architecture(
        defaults={"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096, "vocab_size": 256000},
        tied=True,
        norms=4,
        post_norm=True,
        windows=_every(2),
    ),
    "gemma3_text": _Architecture(
        defaults={
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 4096,
            "vocab_size": 262208,
        },
        tied=True,
        norms=4,
        post_norm=True,
        qk_norm="head",
        windows=_every(6),
    ),
    "olmo": _Architecture(norm_vectors=0),
    "olmo2": _Architecture(**_OLMO),
    "olmo3": _Architecture(**_OLMO, defaults={"sliding_window": 4096}, windows=_every(4)),
    "olmoe": _Architecture(qk_norm="all", moe=_all_moe),
    "phi": _Architecture(
        gated=False, parallel=True, norms=1, norm_vectors=2, qkv_bias=True, o_bias=True, mlp_bias=True, head_bias=True
    ),
    "phi3": _Architecture(qkv_bias=False, o_bias=False, windows=_uniform),
    "smollm3": _Architecture(
        defaults={"num_key_value_heads": 4}, tied=True, mlp_bias="mlp_bias", windows=_smollm3_windows
    ),
    "deepseek_v2": _Architecture(defaults=_MLA, moe=_deepseek_moe),
    "deepseek_v3": _Architecture(defaults={**_MLA, "first_k_dense_replace": 3}, moe=_deepseek_moe),
    "gpt_neox": _Architecture(
        defaults={"attention_bias": True, "use_parallel_residual": True},
        gated=False,
        norm_vectors=2,
        mlp_bias=True,
        grouped=False,
    ),
}

_NEEDED = "hidden_size, num_layers, num_heads, num_kv_heads, head_dim, intermediate_size, vocab_size, tied"


def read_config(config: Config) -> ModelShape:
    """`ModelShape` of a parsed ``config.json``; see `ModelShape.from_config`.

    Raises:
        UnknownName: an architecture whose FLOPs are not known here.

    Example:
        >>> config = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
        ...           "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128_256, "tie_word_embeddings": True}
        >>> f"{read_config(config).params:,}"
        '1,235,814,400'
    """
    if not isinstance(config, Mapping):
        raise ScalingError(f"config must be the parsed config.json (a mapping), got {type(config).__name__}")
    if isinstance(config.get("text_config"), Mapping):
        outer = config
        config = {"model_type": f"{outer.get('model_type')}_text", **outer["text_config"]}
        if "tie_word_embeddings" in outer:
            config.setdefault("tie_word_embeddings", outer["tie_word_embeddings"])
    name = config.get("model_type")
    if name is None:
        raise ScalingError("config.json must name its model_type, got none: is this a Hugging Face model config?")
    known = ARCHITECTURES.get(str(name))
    if known is None:
        raise UnknownName(
            f"model_type {name!r} is not an architecture whose FLOPs are known here ({', '.join(ARCHITECTURES)}); "
            f"supply the sizes yourself: scaling.ModelShape({_NEEDED}, ...)"
        )
    return _shape(str(name), known, {**known.defaults, **config})


def _shape(name: str, known: _Architecture, config: Config) -> ModelShape:
    hidden, layers = _size(config, "hidden_size"), _size(config, "num_hidden_layers")
    heads = _size(config, "num_attention_heads")
    kv_heads = heads
    if known.grouped and config.get("num_key_value_heads") is not None:
        kv_heads = _size(config, "num_key_value_heads")
    latent = config.get("kv_lora_rank")
    if latent is not None:
        head_dim = _size(config, "qk_nope_head_dim") + _size(config, "qk_rope_head_dim")
        kv_heads = heads
    else:
        head_dim = _size(config, "head_dim") if config.get("head_dim") is not None else hidden // heads
    mixture = known.moe(config, layers) if known.moe else {}
    if mixture and not mixture["num_moe_layers"]:
        mixture = {}
    all_moe = mixture.get("num_moe_layers") == layers
    shape = ModelShape(
        architecture=name,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=int(config.get("intermediate_size") or 0) if all_moe else _size(config, "intermediate_size"),
        vocab_size=_size(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", known.tied)),
        gated=known.gated,
        parallel_residual=bool(config.get("use_parallel_residual", known.parallel)),
        post_norm=known.post_norm,
        windows=_windows(known, config, layers),
        q_lora_rank=config.get("q_lora_rank") if latent is not None else None,
        kv_lora_rank=latent,
        qk_rope_head_dim=int(config.get("qk_rope_head_dim") or 0) if latent is not None else 0,
        v_head_dim=int(config.get("v_head_dim") or head_dim) if latent is not None else head_dim,
        vector_params=_vectors(known, config, hidden, layers, heads, kv_heads, head_dim, mixture),
        **mixture,
    )
    return shape


def _windows(known: _Architecture, config: Config, layers: int) -> Windows:
    types = config.get("layer_types")
    if types is None:
        windows = known.windows(config, layers) if known.windows else ()
    else:
        foreign = set(types) - {"full_attention", "sliding_attention"}
        if foreign:
            raise ScalingError(
                f"layer_types may hold full_attention and sliding_attention, got {', '.join(sorted(foreign))}: "
                "the FLOPs of such layers are not known here"
            )
        if len(types) != layers:
            raise ScalingError(f"layer_types must name all {layers} layers of num_hidden_layers, got {len(types)}")
        size = config.get("sliding_window")
        windows = tuple(size if kind == "sliding_attention" else None for kind in types)
    return windows if any(window is not None for window in windows) else ()


def _vectors(
    known: _Architecture,
    config: Config,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    mixture: dict[str, Any],
) -> int:
    """Parameters of norms and biases, which cost no counted FLOPs."""

    def has(bias: bool | str) -> bool:
        return bool(config.get(bias)) if isinstance(bias, str) else bias

    norms = (layers * known.norms + 1) * hidden * known.norm_vectors
    if known.qk_norm == "head":
        norms += layers * 2 * head_dim
    elif known.qk_norm == "all":
        norms += layers * (heads + kv_heads) * head_dim
    biases = 0
    rank = config.get("kv_lora_rank")
    if rank is not None:
        query = config.get("q_lora_rank")
        norms += layers * (rank + (query or 0))
        if has("attention_bias"):
            biases += layers * (rank + config["qk_rope_head_dim"] + (query or 0))
    elif has(known.qkv_bias):
        biases += layers * (heads + 2 * kv_heads) * head_dim
    if has(known.o_bias):
        biases += layers * hidden
    if has(known.mlp_bias):
        wide = (2 if known.gated else 1) * int(config.get("intermediate_size") or 0)
        biases += (layers - mixture.get("num_moe_layers", 0)) * (wide + hidden)
    if known.head_bias:
        biases += int(config["vocab_size"])
    return norms + biases


def _size(config: Config, *keys: str) -> int:
    """The first of ``keys`` that the config has, as a whole number >= 1."""
    for key in keys:
        value = config.get(key)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ScalingError(f"{key} must be a whole number >= 1, got {value!r} in the config.json")
            return value
    raise ScalingError(f"config.json of model_type {config.get('model_type')!r} lacks {' or '.join(keys)}")
