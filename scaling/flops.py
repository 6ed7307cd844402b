"""FLOPs of what a run does, phase by phase, in two ledgers.

**Model FLOPs**: what the mathematics needs: real tokens, causal attention, the head where something is scored. The same
whatever backend generated or trained; the axis ``total_flops`` and every budget. Functions of arrays of lengths, shape
``(n_rollouts,)``.

**Hardware FLOPs**: what eager PyTorch executes: the padded rectangle, the full attention square, recomputation. Held
against ``torch.utils.flop_counter.FlopCounterMode``. Functions of the rectangle. Never smaller than the model FLOPs of
the same work.

Per token and layer, with ``W`` the matrix parameters that a token uses and attention over ``n`` keys (Kaplan et al.
2020, arXiv:2001.08361, section 2.1, extended to grouped, windowed and latent attention)::

    forward = 2 W + 2 heads (head_dim + v_head_dim) n          head: 2 hidden_size vocab_size where a position is scored
    training = 3 forward                                       one for the loss, two for the gradients

Embeddings, norms, activations and the optimiser are not counted. Every function returns a float in FLOP.

Example:
    >>> from scaling.flops import ModelShape, generation_flops, training_flops
    >>> shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30, tied=True)
    >>> round(generation_flops(shape, [12, 12], [9, 5]) / 1e6, 2)
    9.67
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import ScalingError
from scaling.shapes import ModelShape

__all__ = [
    "ModelShape",
    "generation_flops",
    "generation_hardware_flops",
    "pretraining_flops",
    "scoring_flops",
    "scoring_hardware_flops",
    "training_flops",
    "training_hardware_flops",
]


def generation_flops(
    shape: ModelShape, prompt_lengths: ArrayLike, completion_lengths: ArrayLike, *, prefix_shared: float = 1
) -> float:
    """Model FLOPs of generating completions with a key-value cache: prefill, then one step a token.

    The prefill of ``P`` tokens yields the first token, ``T - 1`` steps yield the rest (the last token is never fed)::

        P body + pairs(1..P) + head   +   (T - 1) (body + head) + pairs(P+1..P+T-1)

    Args:
        shape: the model.
        prompt_lengths: prompt tokens of each rollout [token], shape ``(n_rollouts,)`` or a scalar.
        completion_lengths: sampled tokens of each rollout [token], shape ``(n_rollouts,)`` or a scalar.
        prefix_shared: how many rollouts share one prefill of their prompt (1: each rollout pays its own).

    Returns:
        FLOP, summed over rollouts.

    Example:
        >>> shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30, tied=True)
        >>> own, shared = (generation_flops(shape, [12] * 8, [9] * 8, prefix_shared=n) for n in (1, 8))
        >>> shared < own
        True
    """
    prompts, completions = _lengths(prompt_lengths, completion_lengths)
    if not prefix_shared >= 1:
        raise ScalingError(f"prefix_shared must be >= 1 (rollouts per prefill), got {prefix_shared}")
    body, head = shape.body_flops_per_token, shape.head_flops_per_token
    fed = prompts + np.maximum(completions - 1, 0)
    prefill = prompts * body + _pair_flops(shape, prompts) + head * (prompts > 0)
    decode = (fed - prompts) * (body + head) + _pair_flops(shape, fed) - _pair_flops(shape, prompts)
    return float(np.sum(prefill / prefix_shared + decode))


def scoring_flops(shape: ModelShape, prompt_lengths: ArrayLike, completion_lengths: ArrayLike) -> float:
    """Model FLOPs of one forward over prompt and completion, the head on the completion's positions.

    This is a pass for old or reference log-probabilities. Arguments as in `generation_flops`; FLOP, summed over
    rollouts.

    Example:
        >>> shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30, tied=True)
        >>> scoring_flops(shape, [12, 12], [9, 5])
        10211840.0
    """
    prompts, completions = _lengths(prompt_lengths, completion_lengths)
    return _forward(shape, prompts + completions, completions)


def training_flops(
    shape: ModelShape,
    prompt_lengths: ArrayLike,
    completion_lengths: ArrayLike,
    *,
    lora: bool = False,
    lora_rank: int = 0,
) -> float:
    """Model FLOPs of one forward and backward over prompt and completion: three times `scoring_flops`.

    A matrix product ``y = x W`` costs as much again for the gradient of ``x`` and again for that of ``W``. With LoRA
    (Hu et al. 2021, arXiv:2106.09685) frozen matrices have no gradient of ``W``: body and head cost 2 passes, attention
    scores, whose operands are both activations, still 3, and the first block's input, behind a frozen embedding, needs
    no gradient.

    Args:
        shape: the model.
        prompt_lengths: as in `generation_flops`.
        completion_lengths: as in `generation_flops`.
        lora: whether only low-rank adapters are trained.
        lora_rank: rank of adapters on every body matrix, whose own FLOPs are then added (0: left out, they are small).

    Returns:
        FLOP, summed over rollouts.

    Example:
        >>> shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30, tied=True)
        >>> training_flops(shape, [12, 12], [9, 5]) / scoring_flops(shape, [12, 12], [9, 5])
        3.0
    """
    prompts, completions = _lengths(prompt_lengths, completion_lengths)
    if not lora:
        return 3 * _forward(shape, prompts + completions, completions)
    tokens, head = prompts + completions, completions * shape.head_flops_per_token
    linear = tokens * (2 * shape.body_flops_per_token - _first_inputs_flops(shape))
    adapters = tokens * (3 * _adapter_flops_per_token(shape, lora_rank) - _first_adapters_flops(shape, lora_rank))
    return float(np.sum(linear + adapters + 3 * _pair_flops(shape, tokens) + 2 * head))


def pretraining_flops(
    shape: ModelShape, sequence_lengths: ArrayLike, *, scored_positions: ArrayLike | None = None
) -> float:
    """Model FLOPs of pretraining on sequences: forward and backward, the head on every scored position.

    Args:
        shape: the model.
        sequence_lengths: tokens of each sequence [token], shape ``(n_sequences,)`` or a scalar; a document is a
            sequence where attention does not cross documents.
        scored_positions: positions with a loss, per sequence [token]; default all of them.

    Returns:
        FLOP, summed over sequences.

    Example:
        >>> shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30, tied=True)
        >>> tokens = 128 * 1000
        >>> round(pretraining_flops(shape, [128] * 1000) / (6 * shape.params * tokens), 3)  # over 6 N D
        1.124
    """
    lengths = _one(sequence_lengths, "sequence_lengths")
    scored = lengths if scored_positions is None else _one(scored_positions, "scored_positions")
    lengths, scored = np.broadcast_arrays(lengths, scored)
    if np.any(scored > lengths):
        raise ScalingError("scored_positions must not exceed sequence_lengths")
    return 3 * _forward(shape, lengths, scored)


# -- hardware FLOPs ----------------------------------------------------------------------------------------------------


def generation_hardware_flops(
    shape: ModelShape, *, batch: int, prompt_width: int, completion_width: int, static_cache: int | None = None
) -> float:
    """FLOPs that ``transformers.generate`` executes with eager attention.

    Every row runs to the longest prompt and the longest completion; the prefill attends over the full square; a step
    attends over the whole cache (over the window in windowed layers). Latent attention caches latents and expands all
    of them anew at each step, as transformers does. A static cache has its full width from the start: prefill and steps
    attend over all of it, filled or not.

    Args:
        shape: the model.
        batch: rollouts of one call to ``generate``.
        prompt_width: width of the padded prompts [token].
        completion_width: sampled tokens of the longest completion [token].
        static_cache: width of a static cache [token]; None is a dynamic one.

    Returns:
        FLOP.

    Raises:
        ScalingError: the static cache is too narrow for the rollouts.

    Example:
        >>> shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30, tied=True)
        >>> executed = generation_hardware_flops(shape, batch=2, prompt_width=12, completion_width=9)
        >>> executed > generation_flops(shape, [12, 12], [9, 5])
        True
    """
    p, t = _width(prompt_width, "prompt_width"), _width(completion_width, "completion_width")
    b = _width(batch, "batch")
    if b == 0 or p == 0 or t == 0:
        return 0.0
    body, head = shape.body_flops_per_token, shape.head_flops_per_token
    if static_cache is None:
        first, keys = p, p + np.arange(1, t, dtype=float)
    else:
        first = _width(static_cache, "static_cache")
        keys = np.full(t - 1, float(first))
        if first < p + t - 1:
            raise ScalingError(f"static_cache must hold {p} + {t} - 1 tokens, got {first}")
    windows = shape.window_counts.items()
    attended = sum(n * np.sum(keys if w is None else np.minimum(keys, w)) for w, n in windows)
    # a window shorter than the prompt is not applied in the prefill, whose keys are then the prompt's own
    prefill = p * sum(n * float(first if w is None else max(p, min(first, w))) for w, n in windows)
    again = 2 * shape.latent_expansion_params * shape.num_layers * (np.sum(keys - 1) + first - p)
    per_row = (p + t - 1) * body + t * head + shape.attention_flops_per_pair * (prefill + attended) + again
    return float(b * per_row)


def scoring_hardware_flops(
    shape: ModelShape, *, batch: int, prompt_width: int, completion_width: int, scored_positions: int | None = None
) -> float:
    """FLOPs of one forward over the padded rectangle with eager (full-square) attention.

    Args:
        shape: the model.
        batch: rows.
        prompt_width: padded width of the prompts [token].
        completion_width: padded width of the completions [token].
        scored_positions: positions a row to which the head is applied; default ``completion_width``. TRL 1.16 on CPU
            scores ``prompt_width + completion_width - 1``.

    Returns:
        FLOP.

    Example:
        >>> shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30, tied=True)
        >>> scoring_hardware_flops(shape, batch=2, prompt_width=12, completion_width=9) > scoring_flops(shape, [12, 12], [9, 5])
        True
    """
    linear, attention, head = _rectangle(shape, batch, prompt_width, completion_width, scored_positions)
    return linear + attention + head


def training_hardware_flops(
    shape: ModelShape,
    *,
    batch: int,
    prompt_width: int,
    completion_width: int,
    scored_positions: int | None = None,
    gradient_checkpointing: bool = False,
    fused_head: bool = False,
    lora: bool = False,
    lora_rank: int = 0,
) -> float:
    """FLOPs of one forward and backward over the padded rectangle with eager attention.

    Args:
        shape: the model.
        batch: rows.
        prompt_width: padded width of the prompts [token].
        completion_width: padded width of the completions [token].
        scored_positions: as in `scoring_hardware_flops`.
        gradient_checkpointing: every block is computed once more in the backward pass. torch stops that recomputation
            at the last tensor the gradients need, so a block that ends in its down projection does not repeat it.
        fused_head: the head keeps no logits and computes them again in the backward pass (TRL 1.16's chunked
            log-probabilities): 4 passes of the head instead of 3.
        lora: only adapters are trained, see `training_flops`.
        lora_rank: rank of adapters on every body matrix.

    Returns:
        FLOP.

    Example:
        >>> shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=30, tied=True)
        >>> rectangle = {"batch": 2, "prompt_width": 12, "completion_width": 9}
        >>> plain, fused = (training_hardware_flops(shape, **rectangle, fused_head=on) for on in (False, True))
        >>> fused - plain == 2 * 9 * shape.head_flops_per_token
        True
    """
    linear, attention, head = _rectangle(shape, batch, prompt_width, completion_width, scored_positions)
    tokens = float(batch) * (prompt_width + completion_width)
    adapters = tokens * _adapter_flops_per_token(shape, lora_rank) if lora else 0.0
    again = linear + attention + adapters - tokens * _skipped_flops_per_token(shape) if gradient_checkpointing else 0.0
    head_again = head if fused_head else 0.0
    if not lora:
        return 3 * (linear + attention + head) + again + head_again
    # with checkpointing, the first block's input is made to carry gradients
    unneeded = _first_inputs_flops(shape) + _first_adapters_flops(shape, lora_rank)
    first = 0.0 if gradient_checkpointing else tokens * unneeded
    return 2 * (linear + head) - first + 3 * (attention + adapters) + again + head_again


# -- parts -----------------------------------------------------------------------------------------------


def _forward(shape: ModelShape, tokens: NDArray[np.float64], scored: NDArray[np.float64]) -> float:
    linear = tokens * shape.body_flops_per_token + scored * shape.head_flops_per_token
    return float(np.sum(linear + _pair_flops(shape, tokens)))


def _pair_flops(shape: ModelShape, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Attention FLOPs of a causal pass over ``tokens``, all layers; a token attends to itself and what precedes it."""
    total = np.zeros_like(tokens)
    for window, layers in shape.window_counts.items():
        seen = tokens if window is None else np.minimum(tokens, window)
        total += layers * (seen * (seen + 1) / 2 + (tokens - seen) * seen)
    return total * shape.attention_flops_per_pair


def _rectangle(
    shape: ModelShape, batch: int, prompt_width: int, completion_width: int, scored_positions: int | None
) -> tuple[float, float, float]:
    """Body matrices, attention and head of one forward over the padded rectangle."""
    b = _width(batch, "batch")
    width = _width(prompt_width, "prompt_width") + _width(completion_width, "completion_width")
    scored = completion_width if scored_positions is None else _width(scored_positions, "scored_positions")
    if scored > width:
        raise ScalingError(f"scored_positions {scored} exceeds the row's width {width}")
    rows = float(b)
    attention = rows * shape.num_layers * shape.attention_flops_per_pair * float(width) ** 2
    return rows * width * shape.body_flops_per_token, attention, rows * scored * shape.head_flops_per_token


def _first_inputs_flops(shape: ModelShape) -> float:
    """Forward FLOPs per token of the matrices that read the embedding itself (first block)."""
    h, heads = shape.hidden_size, shape.num_heads
    if shape.kv_lora_rank is None:
        reads = h * (heads + shape.num_kv_heads) * shape.head_dim + h * shape.num_kv_heads * shape.v_head_dim
    else:
        query = heads * shape.head_dim if shape.q_lora_rank is None else shape.q_lora_rank
        reads = h * (query + shape.kv_lora_rank + shape.qk_rope_head_dim)
    if shape.parallel_residual:
        reads += h * shape.intermediate_size * (2 if shape.gated else 1)
    return 2.0 * reads


def _adapter_flops_per_token(shape: ModelShape, rank: int) -> float:
    """Forward FLOPs per token of rank-``rank`` adapters on every dense body matrix: ``2 rank (in + out)`` each."""
    if not rank:
        return 0.0
    if shape.kv_lora_rank is not None or shape.num_moe_layers:
        raise ScalingError("lora_rank is known for dense models with ordinary attention only: leave it 0")
    h, q, kv = shape.hidden_size, shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    sides = (h + q) * 2 + (h + kv) * 2 + (h + shape.intermediate_size) * (3 if shape.gated else 2)
    return 2.0 * rank * sides * shape.num_layers


def _first_adapters_flops(shape: ModelShape, rank: int) -> float:
    """Gradient of the embedding through the first block's adapters, per token, which nothing needs."""
    readers = 3 + ((2 if shape.gated else 1) if shape.parallel_residual else 0)
    return 2.0 * rank * shape.hidden_size * readers


def _skipped_flops_per_token(shape: ModelShape) -> float:
    """Down projections at a block's end (dense, or an ungated shared expert), which checkpointing does not repeat."""
    if shape.post_norm:
        return 0.0
    widths = shape.intermediate_size * (shape.num_layers - shape.num_moe_layers)
    if not shape.shared_gate:
        widths += shape.shared_intermediate_size * shape.num_moe_layers
    return 2.0 * widths * shape.hidden_size


def _lengths(prompts: ArrayLike, completions: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, c = _one(prompts, "prompt_lengths"), _one(completions, "completion_lengths")
    try:
        p, c = np.broadcast_arrays(p, c)
    except ValueError as error:
        raise ScalingError(
            f"prompt_lengths and completion_lengths must have equal lengths, got {p.shape} and {c.shape}"
        ) from error
    return p, c


def _one(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        out = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ScalingError(f"{name} must be numbers of tokens, got {type(values).__name__}") from error
    if not np.all(np.isfinite(out)) or np.any(out < 0):
        raise ScalingError(f"{name} must be finite and >= 0 tokens, got {out.min() if out.size else out}")
    return out


def _width(value: int, name: str) -> int:
    if value != int(value) or value < 0:
        raise ScalingError(f"{name} must be a whole number >= 0, got {value!r}")
    return int(value)
