"""`ModelShape`: the sizes of a causal language model that decide its parameters and FLOPs, read from ``config.json``.

Read without torch or transformers. Defaults that a ``config.json`` may omit are those of transformers 5.23's
configuration classes; an architecture that is not listed in `scaling.architectures` raises `UnknownName` and says what
to supply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling.errors import ScalingError

__all__ = ["ModelShape"]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder-only transformer. All sizes are counts [1]; parameters are counts, FLOPs per token are FLOP.

    A multiply-accumulate is 2 FLOPs. Embedding look-ups, norms, activations, softmax and rotary positions are not
    counted (as in Kaplan et al. 2020, arXiv:2001.08361, Table 1, and in torch's ``FlopCounterMode``).

    Attributes:
        hidden_size: width of the residual stream.
        num_layers: transformer blocks.
        num_heads: query heads.
        num_kv_heads: key and value heads (grouped-query attention), default ``num_heads``.
        head_dim: width of a query and key head, default ``hidden_size / num_heads``.
        intermediate_size: width of the dense feed-forward layer.
        vocab_size: tokens, as the head's matrix has rows.
        tied: whether the head shares the embedding matrix (changes parameters, never FLOPs).
        architecture: ``model_type`` of the config, for display.
        gated: feed-forward with three matrices (gate, up, down) rather than two.
        parallel_residual: attention and feed-forward both read the block's input (GPT-NeoX, Phi).
        post_norm: a norm follows the feed-forward layer inside the block (Gemma 2/3, OLMo 2/3).
        windows: attention window of each layer in tokens, own token included; None is full causal; empty: all full.
        num_experts: routed experts of a mixture-of-experts layer (0: dense model).
        experts_per_token: routed experts that a token uses.
        moe_intermediate_size: width of one routed expert.
        shared_intermediate_size: summed width of the experts that every token uses.
        shared_gate: the shared expert has a scalar gate (Qwen2-MoE).
        num_moe_layers: layers whose feed-forward is a mixture; the rest are dense.
        q_lora_rank: rank of the query compression of multi-head latent attention (None: queries not compressed).
        kv_lora_rank: rank of the key-value compression; None: ordinary attention.
        qk_rope_head_dim: the part of ``head_dim`` that carries rotary positions (latent attention only).
        v_head_dim: width of a value head, default ``head_dim``.
        vector_params: norms, biases and learned positions: parameters without counted FLOPs.

    Example:
        >>> shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30,
        ...     tied=False)
        >>> shape.params == 2 * 30 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 256)
        True
        >>> shape.body_flops_per_token, shape.head_flops_per_token
        (262144, 3840)
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    num_kv_heads: int = 0
    head_dim: int = 0
    architecture: str = "custom"
    gated: bool = True
    parallel_residual: bool = False
    post_norm: bool = False
    windows: tuple[int | None, ...] = ()
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    shared_intermediate_size: int = 0
    shared_gate: bool = False
    num_moe_layers: int = 0
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    vector_params: int = 0

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("hidden_size", "num_layers", "num_heads", "vocab_size"):
            if not _is_count(getattr(self, name), least=1):
                raise ScalingError(f"{name} must be a whole number >= 1, got {getattr(self, name)!r}")
        if not self.num_kv_heads:
            put(self, "num_kv_heads", self.num_heads)
        if not self.head_dim:
            if self.hidden_size % self.num_heads:
                raise ScalingError(
                    f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}: supply head_dim"
                )
            put(self, "head_dim", self.hidden_size // self.num_heads)
        if not self.v_head_dim:
            put(self, "v_head_dim", self.head_dim)
        for name, value in vars(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < 0:
                raise ScalingError(f"{name} must be >= 0, got {value}")
        if self.num_heads % self.num_kv_heads:
            raise ScalingError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        if self.windows and len(self.windows) != self.num_layers:
            raise ScalingError(f"windows must name all {self.num_layers} layers, got {len(self.windows)}")
        if any(window is not None and not _is_count(window, least=1) for window in self.windows):
            raise ScalingError(f"an attention window must be a whole number >= 1 or None, got {set(self.windows)}")
        if self.num_moe_layers > self.num_layers:
            raise ScalingError(f"num_moe_layers {self.num_moe_layers} exceeds num_layers {self.num_layers}")
        if self.num_moe_layers and not 1 <= self.experts_per_token <= self.num_experts:
            raise ScalingError(
                f"experts_per_token must be in 1..num_experts={self.num_experts}, got {self.experts_per_token}"
            )
        if self.num_moe_layers < self.num_layers and not _is_count(self.intermediate_size, least=1):
            raise ScalingError(f"intermediate_size must be a whole number >= 1, got {self.intermediate_size!r}")

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> ModelShape:
        """Read the parsed ``config.json`` of a Hugging Face model.

        Args:
            config: the parsed JSON, e.g. ``json.loads(path.read_text())``; a nested ``text_config`` is followed.

        Raises:
            UnknownName: the architecture (``model_type``) is not one whose FLOPs are known here.
            ScalingError: a size is missing or impossible; the message names the key.

        Example:
            >>> shape = ModelShape.from_config({"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24,
            ...     "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
            ...     "vocab_size": 151936, "tie_word_embeddings": True})
            >>> shape.params
            494032768
        """
        from scaling.architectures import read_config

        return read_config(config)

    # -- parameters ------------------------------------------------------------------------------------------------

    @property
    def attention_params(self) -> int:
        """Matrix parameters of one layer's attention [1]."""
        h, heads, value = self.hidden_size, self.num_heads, self.v_head_dim
        output = heads * value * h
        if self.kv_lora_rank is None:
            return h * (heads + self.num_kv_heads) * self.head_dim + h * self.num_kv_heads * value + output
        if self.q_lora_rank is None:
            query = h * heads * self.head_dim
        else:
            query = self.q_lora_rank * (h + heads * self.head_dim)
        return query + h * (self.kv_lora_rank + self.qk_rope_head_dim) + self.latent_expansion_params + output

    @property
    def latent_expansion_params(self) -> int:
        """Matrix that expands one cached latent into keys and values, one layer [1]; 0 without latent attention."""
        if self.kv_lora_rank is None:
            return 0
        return self.kv_lora_rank * self.num_heads * (self.head_dim - self.qk_rope_head_dim + self.v_head_dim)

    @property
    def _matrices(self) -> int:
        return 3 if self.gated else 2

    @property
    def _dense_ffn(self) -> int:
        return self._matrices * self.hidden_size * self.intermediate_size

    def _moe_ffn(self, experts: int) -> int:
        """One mixture layer with ``experts`` routed experts: router, experts, shared experts and their gate."""
        h = self.hidden_size
        routed = self._matrices * h * self.moe_intermediate_size * experts
        shared = self._matrices * h * self.shared_intermediate_size
        return h * self.num_experts + routed + shared + (h if self.shared_gate else 0)

    def _body(self, experts: int) -> int:
        dense_layers = self.num_layers - self.num_moe_layers
        ffn = dense_layers * self._dense_ffn + self.num_moe_layers * self._moe_ffn(experts)
        return self.num_layers * self.attention_params + ffn

    @property
    def head_params(self) -> int:
        """Parameters of the output matrix [1]; the embedding has as many, and is the same matrix if tied."""
        return self.hidden_size * self.vocab_size

    @property
    def params(self) -> int:
        """All parameters, embeddings included, a tied matrix once [1]."""
        return self.non_embedding_params + self.head_params * (1 if self.tied else 2)

    @property
    def active_params(self) -> int:
        """As `params`, with only the experts that a token uses [1]."""
        return self.params - self._body(self.num_experts) + self._body(self.experts_per_token)

    @property
    def non_embedding_params(self) -> int:
        """All parameters but the embedding and the output matrix [1]."""
        return self._body(self.num_experts) + self.vector_params

    # -- FLOPs per token ---------------------------------------------------------------------------------------------

    @property
    def body_flops_per_token(self) -> int:
        """Forward FLOPs of all matrices but the head, per token, without attention scores [FLOP]."""
        return 2 * self._body(self.experts_per_token)

    @property
    def head_flops_per_token(self) -> int:
        """Forward FLOPs of the output matrix per position it is applied to [FLOP]; the same tied or untied."""
        return 2 * self.head_params

    @property
    def attention_flops_per_pair(self) -> int:
        """FLOPs of scores and weighted values per query-key pair, one layer [FLOP]: ``2 heads (qk + v)``."""
        return 2 * self.num_heads * (self.head_dim + self.v_head_dim)

    @property
    def window_counts(self) -> dict[int | None, int]:
        """Attention window -> number of layers that have it."""
        counts: dict[int | None, int] = {}
        for window in self.windows or (None,) * self.num_layers:
            counts[window] = counts.get(window, 0) + 1
        return counts


def _is_count(value: Any, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
