"""Model and hardware FLOPs: hand-derived goldens of four public models, and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.conventions import CONVENTIONS, convention_error, convention_flops, error_table
from scaling.errors import ScalingError, UnknownName
from scaling.flops import (
    ModelShape,
    generation_flops,
    generation_hardware_flops,
    pretraining_flops,
    scoring_flops,
    scoring_hardware_flops,
    training_flops,
    training_hardware_flops,
)
from scaling.reference import public_shape, public_shapes

# By hand, per token: matrices of every layer, then the head, then one query-key pair in one layer.
GOLDENS = {
    # 24 x (q, o 896x896; k, v 896x128; 3 x 896x4864) x 2; head 896x151936 x 2; 14 heads x 64 x 4
    "Qwen2.5-0.5B": (494_032_768, 715_653_120, 272_269_312, 3_584),
    # 32 x (q, o 4096x4096; k, v 4096x1024; 3 x 4096x14336) x 2; head 4096x128256 x 2; 32 heads x 128 x 4
    "Llama-3.1-8B": (8_030_261_248, 13_958_643_712, 1_050_673_152, 16_384),
    # 26 x (q 2304x2048, o 2048x2304; k, v 2304x1024; 3 x 2304x9216) x 2; head 2304x256000 x 2; 8 heads x 256 x 4
    "Gemma-2-2B": (2_614_341_888, 4_048_551_936, 1_179_648_000, 8_192),
    # 61 x (7168x1536, 1536x24576, 7168x576, 512x32768, 16384x7168); 3 x (3 x 7168x18432);
    # 58 x (router 7168x256; 9 x 3 x 7168x2048), x 2; head 7168x129280 x 2; 128 heads x (192 + 128) x 2
    "DeepSeek-V3-Base": (671_026_404_352, 71_395_835_904, 1_853_358_080, 81_920),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_of_public_models(name):
    shape = public_shape(name)
    params, body, head, pair = GOLDENS[name]
    assert shape.params == params
    assert shape.body_flops_per_token == body
    assert shape.head_flops_per_token == head
    assert shape.attention_flops_per_pair == pair


def test_golden_phases_of_llama_8b():
    """Prompt 3, completion 2: pairs 1+2+3 in the prefill, 4 in the step; scoring and training see five tokens."""
    shape = public_shape("Llama-3.1-8B")
    body, head, pair = 13_958_643_712, 1_050_673_152, 32 * 16_384
    assert generation_flops(shape, 3, 2) == 4 * body + 2 * head + (6 + 4) * pair
    assert scoring_flops(shape, 3, 2) == 5 * body + 2 * head + 15 * pair
    assert training_flops(shape, 3, 2) == 3 * (5 * body + 2 * head + 15 * pair)
    assert pretraining_flops(shape, 5) == 3 * (5 * body + 5 * head + 15 * pair)
    # frozen: two passes of matrices, three of attention; q, k, v of the first block need no gradient of their input
    first = 2 * 4096 * (4096 + 2 * 1024)
    assert training_flops(shape, 3, 2, lora=True) == 2 * (5 * body + 2 * head) + 3 * 15 * pair - 5 * first


def test_golden_of_a_sliding_window():
    """Gemma 2: 13 layers see 4,096 tokens, 13 see all."""
    shape = public_shape("Gemma-2-2B")
    n = 5000
    pairs = 13 * (n * (n + 1) // 2) + 13 * (4096 * 4097 // 2 + (n - 4096) * 4096)
    assert scoring_flops(shape, n, 0) == n * 4_048_551_936 + pairs * 8_192


def test_every_public_shape_is_read_and_its_active_parameters_are_plausible():
    assert len(public_shapes()) >= 40
    for name in public_shapes():
        shape = public_shape(name)
        assert 0 < shape.non_embedding_params < shape.params
        assert shape.active_params <= shape.params
    assert public_shape("DeepSeek-V3-Base").active_params == pytest.approx(37e9, rel=0.02)  # stated: 37B
    assert public_shape("Qwen3-30B-A3B").active_params == pytest.approx(3.3e9, rel=0.02)  # stated: 3.3B
    assert public_shape("Qwen3-235B-A22B").active_params == pytest.approx(22e9, rel=0.02)  # stated: 22B
    assert public_shape("Qwen2.5-7B").non_embedding_params == pytest.approx(6.53e9, rel=0.002)  # model card


shapes = st.builds(
    lambda heads, groups, width, layers, ff, vocab, tied, gated, window, moe: ModelShape(
        hidden_size=8 * heads,
        num_layers=layers,
        num_heads=heads * groups,
        num_kv_heads=heads,
        head_dim=width,
        intermediate_size=ff,
        vocab_size=vocab,
        tied=tied,
        gated=gated,
        windows=(window,) * layers if window else (),
        **(
            {"num_experts": 4, "experts_per_token": 2, "moe_intermediate_size": ff, "num_moe_layers": layers // 2}
            if moe
            else {}
        ),
    ),
    heads=st.integers(1, 4),
    groups=st.integers(1, 3),
    width=st.sampled_from([4, 8, 16]),
    layers=st.integers(1, 4),
    ff=st.integers(4, 64),
    vocab=st.integers(2, 100),
    tied=st.booleans(),
    gated=st.booleans(),
    window=st.sampled_from([None, 1, 5, 40]),
    moe=st.booleans(),
)
lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), min_size=1, max_size=8)


def changed(shape, **fields):
    return ModelShape(**{**vars(shape), **fields})


def all_model_flops(shape, prompts, completions):
    return np.array(
        [
            generation_flops(shape, prompts, completions),
            scoring_flops(shape, prompts, completions),
            training_flops(shape, prompts, completions),
            training_flops(shape, prompts, completions, lora=True),
            pretraining_flops(shape, np.add(prompts, completions)),
        ]
    )


@settings(max_examples=60, deadline=None)
@given(shapes, lengths, st.data())
def test_cost_adds_and_does_not_depend_on_the_cut(shape, rows, data):
    prompts, completions = map(list, zip(*rows, strict=True))
    whole = all_model_flops(shape, prompts, completions)
    cut = data.draw(st.integers(0, len(rows)))
    parts = all_model_flops(shape, prompts[:cut], completions[:cut])
    parts = parts + all_model_flops(shape, prompts[cut:], completions[cut:])
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    one_by_one = sum(all_model_flops(shape, p, c) for p, c in rows)
    np.testing.assert_allclose(one_by_one, whole, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(shapes, lengths)
def test_tied_and_untied_cost_the_same(shape, rows):
    prompts, completions = map(list, zip(*rows, strict=True))
    other = changed(shape, tied=not shape.tied)
    assert (all_model_flops(shape, prompts, completions) == all_model_flops(other, prompts, completions)).all()
    assert abs(shape.params - other.params) == shape.hidden_size * shape.vocab_size


@settings(max_examples=60, deadline=None)
@given(shapes, lengths)
def test_doubling_the_layers_doubles_the_body(shape, rows):
    prompts, completions = map(list, zip(*rows, strict=True))
    double = changed(
        shape, num_layers=2 * shape.num_layers, windows=2 * shape.windows, num_moe_layers=2 * shape.num_moe_layers
    )
    head = np.sum(completions) * shape.head_flops_per_token
    body = scoring_flops(shape, prompts, completions) - head
    assert scoring_flops(double, prompts, completions) - head == pytest.approx(2 * body, rel=1e-12)
    assert double.non_embedding_params == 2 * shape.non_embedding_params


@settings(max_examples=60, deadline=None)
@given(shapes, lengths, st.integers(0, 9))
def test_padding_changes_hardware_flops_only_and_they_are_never_fewer(shape, rows, padding):
    prompts, completions = map(list, zip(*rows, strict=True))
    width = {"batch": len(rows), "prompt_width": max(prompts), "completion_width": max(completions)}
    wider = {**width, "prompt_width": width["prompt_width"] + padding}
    model = all_model_flops(shape, prompts, completions)
    if max(completions):
        assert generation_hardware_flops(shape, **width) >= model[0] * (1 - 1e-12)
    assert scoring_hardware_flops(shape, **width) >= model[1] * (1 - 1e-12)
    assert training_hardware_flops(shape, **width) >= model[2] * (1 - 1e-12)
    assert training_hardware_flops(shape, **width, lora=True) >= model[3] * (1 - 1e-12)
    checkpointed = training_hardware_flops(shape, **width, gradient_checkpointing=True)
    assert checkpointed >= training_hardware_flops(shape, **width)
    if padding:
        assert scoring_hardware_flops(shape, **wider) > scoring_hardware_flops(shape, **width)
    assert (all_model_flops(shape, prompts, completions) == model).all()


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 30), st.integers(1, 30))
def test_generation_is_one_causal_pass_that_stops_before_the_last_token(shape, prompt, completion):
    """Brute force, token by token."""
    attended = 0
    for position in range(1, prompt + completion):
        for window, layers in shape.window_counts.items():
            attended += layers * (position if window is None else min(position, window))
    want = (prompt + completion - 1) * shape.body_flops_per_token
    want += completion * shape.head_flops_per_token + attended * shape.attention_flops_per_pair
    assert generation_flops(shape, prompt, completion) == pytest.approx(want, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 30), st.integers(0, 30))
def test_lora_costs_two_to_three_forward_passes(shape, prompt, completion):
    forward = scoring_flops(shape, prompt, completion)
    assert 0 < training_flops(shape, prompt, completion, lora=True) <= 3 * forward
    assert training_flops(shape, prompt, completion) == 3 * forward
    if not shape.num_moe_layers:
        with_adapters = training_flops(shape, prompt, completion, lora=True, lora_rank=4)
        assert with_adapters > training_flops(shape, prompt, completion, lora=True)


def test_a_shared_prefix_is_paid_once():
    shape = public_shape("Qwen2.5-0.5B")
    prefill = generation_flops(shape, 100, 0)
    each, shared = generation_flops(shape, [100] * 8, 10), generation_flops(shape, [100] * 8, 10, prefix_shared=8)
    assert each - shared == pytest.approx(7 * prefill)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: generation_flops(s, [-1], [2]), "prompt_lengths must be finite and >= 0"),
        (lambda s: scoring_flops(s, [1, 2], [1, 2, 3]), "equal lengths"),
        (lambda s: training_flops(s, [float("nan")], [1]), "prompt_lengths must be finite"),
        (lambda s: generation_flops(s, 1, 1, prefix_shared=0), "prefix_shared"),
        (lambda s: pretraining_flops(s, 4, scored_positions=5), "must not exceed"),
        (
            lambda s: scoring_hardware_flops(s, batch=1, prompt_width=2, completion_width=1, scored_positions=9),
            "exceeds",
        ),
        (lambda s: generation_hardware_flops(s, batch=1, prompt_width=2.5, completion_width=1), "whole number"),
        (lambda s: training_flops(s, "ten", 1), "numbers of tokens"),
    ],
)
def test_bad_lengths_say_what_is_wrong(call, says):
    with pytest.raises(ScalingError, match=says) as caught:
        call(public_shape("Qwen2.5-0.5B"))
    assert "\n" not in str(caught.value)


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 30,
}


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({**LLAMA, "model_type": "mamba"}, UnknownName, "mamba.*supply the sizes"),
        ({"architectures": ["X"]}, ScalingError, "model_type"),
        ({k: v for k, v in LLAMA.items() if k != "vocab_size"}, ScalingError, "lacks vocab_size"),
        ({**LLAMA, "hidden_size": "64"}, ScalingError, "hidden_size must be a whole number"),
        ({**LLAMA, "num_key_value_heads": 3}, ScalingError, "multiple of num_kv_heads"),
        ({**LLAMA, "layer_types": ["full_attention", "linear_attention"]}, ScalingError, "linear_attention"),
        ({**LLAMA, "layer_types": ["full_attention"]}, ScalingError, "layer_types must name all 2"),
        ([1, 2], ScalingError, "mapping"),
    ],
)
def test_a_foreign_config_is_an_error_that_says_what_to_do(config, error, says):
    with pytest.raises(error, match=says) as caught:
        ModelShape.from_config(config)
    assert "\n" not in str(caught.value)


def test_nested_text_config_is_followed():
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    }
    shape = ModelShape.from_config({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    assert shape.params == pytest.approx(3.88e9, rel=0.002)
    assert shape.window_counts == {1024: 29, None: 5}
    assert shape.tied


def test_conventions_and_how_far_they_are_off():
    assert convention_flops("6ND", 37e9, 14.8e12) == pytest.approx(3.286e24, rel=1e-3)
    assert CONVENTIONS["8NT"].factor == 8 and CONVENTIONS["10NT"].factor == 10
    with pytest.raises(UnknownName, match="6ND"):
        convention_flops("7ND", 1, 1)
    names = ("Qwen2.5-0.5B", "Qwen2.5-7B", "Llama-3.1-405B")
    table = error_table({name: public_shape(name) for name in names}, lengths=(1024, 65536))
    errors = {(model, name): values for model, name, values in table}
    assert len(table) == 9
    for (model, _), (short, long) in errors.items():
        assert long < short, model  # attention grows with length, conventions do not
        assert -0.1 < short < 0.1
    assert errors["Qwen2.5-0.5B", "8NT"][1] < errors["Llama-3.1-405B", "8NT"][1] < 0
    shape = public_shape("Llama-3.1-8B")
    by_hand = 8 * shape.active_params * 300 / (generation_flops(shape, 100, 200) + training_flops(shape, 100, 200)) - 1
    assert convention_error("8NT", shape, prompt_length=100, completion_length=200) == pytest.approx(by_hand)
